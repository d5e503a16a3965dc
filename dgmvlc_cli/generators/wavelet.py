"""The orthonormal 3-D Haar wavelet: a lossless, training-free reduction of the grid.

One level turns (N, C, D, H, W) into (N, 8 C, D/2, H/2, W/2); white noise stays white and
squared norms are kept, so that diffusion and flow losses mean the same in both spaces.
Source: Friedrich et al. 2024, "WDM: 3D Wavelet Diffusion Models", arXiv 2402.19043.
"""

from __future__ import annotations

import math

import torch

BANDS_PER_LEVEL = 8


def forward(x: torch.Tensor, levels: int = 1) -> torch.Tensor:
    """(N, C, D, H, W) -> (N, 8^levels C, D / 2^levels, ...); band 0 of each channel is low-pass.

    Raises ValueError where a side is not divisible by 2^levels.
    """
    for _ in range(levels):
        x = _split(x)
    return x


def inverse(bands: torch.Tensor, levels: int = 1) -> torch.Tensor:
    """The exact inverse of `forward`."""
    for _ in range(levels):
        bands = _merge(bands)
    return bands


def low_pass(channels: int, levels: int = 1) -> list[int]:
    """Indices of the channels of `forward`'s output that hold the coarsest averages."""
    return [channel * BANDS_PER_LEVEL**levels for channel in range(channels)]


def levels_of(bands: int) -> int:
    """The number of levels that gave so many bands per channel."""
    return round(math.log(bands, BANDS_PER_LEVEL))


def _split(x: torch.Tensor) -> torch.Tensor:
    n, c, d, h, w = x.shape
    if d % 2 or h % 2 or w % 2:
        raise ValueError(f"a Haar level needs even sides, got {(d, h, w)}")
    x = x.reshape(n, c, d // 2, 2, h // 2, 2, w // 2, 2)
    for axis in (3, 5, 7):
        x = _butterfly(x, axis)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)  # (N, C, 2, 2, 2, D/2, H/2, W/2)
    return x.reshape(n, c * BANDS_PER_LEVEL, d // 2, h // 2, w // 2)


def _merge(bands: torch.Tensor) -> torch.Tensor:
    n, c, d, h, w = bands.shape
    x = bands.reshape(n, c // BANDS_PER_LEVEL, 2, 2, 2, d, h, w)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)  # (N, C, D/2, 2, H/2, 2, W/2, 2)
    for axis in (3, 5, 7):
        x = _butterfly(x, axis)
    return x.reshape(n, c // BANDS_PER_LEVEL, 2 * d, 2 * h, 2 * w)


def _butterfly(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Sum and difference of neighbours over sqrt(2): orthonormal and its own inverse."""
    first, second = x.select(axis, 0), x.select(axis, 1)
    return torch.stack((first + second, first - second), dim=axis) * 2**-0.5
