"""The contract that every generator family keeps, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from dgmvlc_cli.generators.conditions import Conditions
from dgmvlc_cli.generators.draws import Draws

Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training images as wavelet bands (N, B, d, h, w), their loss weight, their conditions.

    total_weight: what weighted sums are divided by: the sum of the weights, or where several
    processes share the step, its mean over them.
    """

    bands: torch.Tensor
    weight: torch.Tensor
    conditions: Conditions
    total_weight: torch.Tensor


class Family(ABC):
    """How a network learns images, and how it makes them.

    critic: a second network that learns beside the first and is not kept, or None.
    """

    critic: nn.Module | None = None

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, draws: Draws) -> torch.Tensor:
        """What training minimises, a scalar; all that is random comes from draws."""

    @abstractmethod
    def walk(
        self,
        network: nn.Module,
        noise: torch.Tensor,
        conditions: Conditions,
        steps: int,
        guidance_scale: float,
    ) -> Iterator[Step]:
        """The sampler's steps from noise to bands, each (N, B, d, h, w) -> the same.

        What a step draws follows from the noise that the image starts from, which the arms of a
        pair share: they owe their difference to the sentence.
        """

    @abstractmethod
    def path(
        self, bands: torch.Tensor, noise: torch.Tensor, conditions: Conditions, steps: int
    ) -> list[torch.Tensor]:
        """An image's own way: where it is before every step of `walk`, and after the last."""

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        noise: torch.Tensor,
        conditions: Conditions,
        *,
        steps: int,
        guidance_scale: float = 1.0,
        residuals: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Wavelet bands from noise, both (N, B, d, h, w).

        guidance_scale 1 samples the model as trained; any other value distorts effect sizes
        and is for pictures only.  residuals: what `invert` found, added after each step.
        """
        x = noise
        for index, step in enumerate(self.walk(network, noise, conditions, steps, guidance_scale)):
            x = step(x) if residuals is None else step(x) + residuals[index]
        return x

    @torch.no_grad()
    def invert(
        self,
        network: nn.Module,
        bands: torch.Tensor,
        noise: torch.Tensor,
        conditions: Conditions,
        *,
        steps: int,
    ) -> torch.Tensor:
        """Abduction: what each step of `sample` misses of these very bands.

        The way from the given noise to the image is known; the residual of a step is where it
        leads less what the model makes of it.  Sampling with the residuals under the same
        sentence returns the image exactly.  -> (steps, N, B, d, h, w).
        Source: Huberman-Spiegelglas et al. 2024, arXiv 2304.06140, for stochastic paths.
        """
        path = self.path(bands, noise, conditions, steps)
        walk = self.walk(network, noise, conditions, steps, 1.0)
        return torch.stack(
            [to - step(x) for step, x, to in zip(walk, path, path[1:], strict=False)]
        )


class Denoiser(Family):
    """A family whose network learns to tell the image from its noise.

    loss_power: 2 for the squared error, 1 for the absolute one.
    """

    loss_power: int = 2

    def loss(self, network: nn.Module, batch: Batch, draws: Draws) -> torch.Tensor:
        """Weighted mean error of the network's output."""
        t, x_t, target = self.noised(batch, draws)
        error = network(x_t, t, batch.conditions.context, batch.conditions.text) - target
        return (batch.weight * error.abs() ** self.loss_power).sum() / batch.total_weight

    @abstractmethod
    def noised(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Times (N,), the network's input, and its target, both (N, B, d, h, w)."""


def guided(
    predict: Callable[[Conditions], torch.Tensor], conditions: Conditions, guidance_scale: float
) -> torch.Tensor:
    """A prediction, moved away from the one without the sentence where the scale is not 1.

    Source: Ho and Salimans 2022, arXiv 2207.12598.
    """
    said = predict(conditions)
    if guidance_scale == 1.0:
        return said
    unsaid = predict(conditions.without_text())
    return unsaid + guidance_scale * (said - unsaid)
