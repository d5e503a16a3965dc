"""How a sentence acts on image features: the text-visual fusion unit.

`AffineFusion` is the paper's affine unit (arXiv 2410.13823): text through a small MLP gives
a scale and a shift per channel, applied twice around convolutions, with a residual.  The
noise level enters the same way.
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
        nn.init.zeros_(self.conv2.weight)
        if self.conv2.bias is not None:
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: (N, inputs, D, H, W); condition: (N, K) -> (N, outputs, D, H, W)."""
        h = self.conv1(functional.silu(self.affine1(x, condition)))
        h = self.conv2(functional.silu(self.affine2(h, condition)))
        return self.skip(x) + h
