"""Random numbers of one training step, the same however many processes share the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


class Draws:
    """What is drawn for a step's batch; of a step that processes share, each keeps its rows.

    Every process draws for the whole step from one seed and takes its share, so that several
    processes see what one with the same number of subjects per step would have seen.

    rank, processes: whose rows, of how many equal shares.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device | str = "cpu",
        *,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.rank = rank
        self.processes = processes

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal numbers: (N, ...)."""
        return self.mine(self._draw(torch.randn, shape))

    def uniform(self, shape: Sequence[int]) -> torch.Tensor:
        """Numbers in [0, 1): (N, ...)."""
        return self.mine(self._draw(torch.rand, shape))

    def integers(self, high: int, shape: Sequence[int]) -> torch.Tensor:
        """Integers in [0, high): (N, ...)."""
        rows, *rest = shape
        whole = (rows * self.processes, *rest)
        of = self.generator
        return self.mine(torch.randint(high, whole, generator=of, device=of.device))

    def mine(self, whole: torch.Tensor) -> torch.Tensor:
        """This process's rows of what belongs to the whole step."""
        rows = len(whole) // self.processes
        return whole[self.rank * rows : (self.rank + 1) * rows]

    def _draw(self, kind: Callable[..., torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
        rows, *rest = shape
        of = self.generator
        return kind((rows * self.processes, *rest), generator=of, device=of.device)
