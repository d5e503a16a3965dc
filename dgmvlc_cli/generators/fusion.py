"""How a sentence acts on an image: the text-visual fusion units.

`AffineFusion` is the paper's affine unit (arXiv 2410.13823): text through a small MLP gives
a scale and a shift per channel, applied twice around convolutions, with a residual.  The
noise level enters the same way.  `RegionalShift` is a short path from the sentence to the
level of the lung by region: what a clinical attribute changes most, and what a deep path
learns last.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Affine(nn.Module):
    """Per-channel scale and shift of normalised features from a condition vector."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(8, channels // 4), channels, affine=False)
        self.project = nn.Linear(condition_dim, 2 * channels)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: (N, C, D, H, W); condition: (N, K) -> (N, C, D, H, W)."""
        scale, shift = self.project(condition)[:, :, None, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class AffineFusion(nn.Module):
    """Affine, convolution, affine, convolution, plus the input: one residual block."""

    def __init__(self, inputs: int, outputs: int, condition_dim: int) -> None:
        super().__init__()
        self.affine1 = Affine(inputs, condition_dim)
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.affine2 = Affine(outputs, condition_dim)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: (N, inputs, D, H, W); condition: (N, K) -> (N, outputs, D, H, W)."""
        h = self.conv1(functional.silu(self.affine1(x, condition)))
        h = self.conv2(functional.silu(self.affine2(h, condition)))
        return self.skip(x) + h


class RegionalShift(nn.Module):
    """A smooth change of the lung's low-pass band, linear in the sentence, gated by the time.

    The change is a sum over regional profiles: hat functions along the height, each alone and
    times depth and side.  It starts at zero and is as flexible as the text is, so the rest of
    the network has only to learn what is not smooth.
    """

    knots = 5

    def __init__(self, text_dim: int, time_dim: int) -> None:
        super().__init__()
        self.coefficients = nn.Linear(text_dim, 3 * self.knots)
        self.gate = nn.Linear(time_dim, 3 * self.knots)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, text: torch.Tensor, time: torch.Tensor, lung: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """text: (N, K); time: (N, T); lung: (N, D, H, W) fraction in [0, 1]; position:
        (N, 3, D, H, W) height, depth and side in [-1, 1] -> (N, D, H, W)."""
        weights = self.coefficients(text) * (1 + self.gate(time))  # (N, 3 knots)
        return torch.einsum("nk,nkdhw->ndhw", weights, self.profiles(position)) * lung

    def profiles(self, position: torch.Tensor) -> torch.Tensor:
        """(N, 3, D, H, W) -> (N, 3 knots, D, H, W)."""
        height, depth, side = position.unbind(dim=1)
        centres = torch.linspace(-1, 1, self.knots, device=position.device)
        distance = (height[:, None] - centres[None, :, None, None, None]).abs()
        hats = (1 - distance * (self.knots - 1) / 2).clamp_min(0)  # (N, knots, D, H, W)
        return torch.cat((hats, hats * depth[:, None], hats * side[:, None]), dim=1)
