"""The contract that every generator family keeps, and the registry of families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from dgmvlc_cli.generators.conditions import Conditions


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training images as wavelet bands (N, B, d, h, w), their loss weight, their conditions."""

    bands: torch.Tensor
    weight: torch.Tensor
    conditions: Conditions


class Family(Protocol):
    """How a network learns images, and how it makes them.

    critic: a second network that learns beside the first and is not kept, or None.
    """

    @property
    def critic(self) -> nn.Module | None: ...

    def loss(self, network: nn.Module, batch: Batch, rng: torch.Generator) -> torch.Tensor:
        """What training minimises, a scalar; all that is random is drawn from rng."""

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
        """Noise and conditions -> wavelet bands, both (N, B, d, h, w)."""

    def invert(
        self,
        network: nn.Module,
        bands: torch.Tensor,
        noise: torch.Tensor,
        conditions: Conditions,
        *,
        steps: int,
    ) -> torch.Tensor:
        """Residuals with which `sample` returns the bands exactly: (steps, N, B, d, h, w)."""


@runtime_checkable
class Denoiser(Family, Protocol):
    """A family whose network learns to tell the image from its noise."""

    def noised(
        self, batch: Batch, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Times (N,), the network's input, and its target, both (N, B, d, h, w)."""
