"""The network behind the flow: a 3-D U-Net over wavelet bands, mask, position and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

from dgmvlc_cli.generators.conditions import COORDINATES, lung_fraction
from dgmvlc_cli.generators.fusion import AffineFusion, CrossAttention, RegionalLevel

TIME_FEATURES = 32


class TextUNet(ModelMixin, ConfigMixin):
    """F(x, t, mask, text): what every family asks of a network.

    bands: wavelet bands of the image.  context: channels of mask bands and coordinates.
    text_dim: size of the projected sentence embedding.  widths: channels per resolution.
    fusion: how the sentence enters: `affine`, `cross-attention`, `both`, or `none` (it is
    ignored: the ablation).  bottleneck_only: it enters at the coarsest resolution alone, and no
    regional level is read, as in the paper.
    """

    @register_to_config
    def __init__(
        self,
        bands: int = 8,
        context: int = 35,
        text_dim: int = 32,
        widths: Sequence[int] = (32, 64, 96),
        condition_dim: int = 96,
        fusion: str = "affine",
        bottleneck_only: bool = False,
    ) -> None:
        super().__init__()
        affine, attention = fusion in ("affine", "both"), fusion in ("cross-attention", "both")
        self.time = _perceptron(TIME_FEATURES, condition_dim)
        self.text = _perceptron(text_dim, condition_dim) if affine else None
        self.level = None if bottleneck_only else RegionalLevel(condition_dim)
        outer = condition_dim * (2 if affine and not bottleneck_only else 1)
        inner = condition_dim * (2 if affine else 1)
        coarse = widths[-1]
        self.stem = nn.Conv3d(bands + context, widths[0], 3, padding=1)
        self.down = nn.ModuleList(AffineFusion(width, width, outer) for width in widths)
        self.shrink = nn.ModuleList(
            nn.Conv3d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths)
        )
        self.middle = AffineFusion(coarse, coarse, inner)
        self.attend = CrossAttention(coarse, text_dim) if attention else None
        self.grow = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(AffineFusion(2 * width, width, outer) for width in widths[:-1])
        everywhere = attention and not bottleneck_only
        self.attend_up = nn.ModuleList(
            CrossAttention(width, text_dim) for width in widths[:-1] if everywhere
        )
        self.head = nn.Conv3d(widths[0], bands, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """x: (N, bands, D, H, W); t: (N,) in (0, 1]; context: (N, context, D, H, W);
        text: (N, text_dim) -> F: (N, bands, D, H, W)."""
        time = self.time(time_features(t))
        inner = time if self.text is None else torch.cat((time, self.text(text)), dim=1)
        outer = time if self.config.bottleneck_only else inner
        position = context[:, -COORDINATES:]
        h = self.stem(torch.cat((x, context), dim=1))
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            h = block(h, outer)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        h = self.middle(h, inner)
        if self.attend is not None:
            h = self.attend(h, text, _at_size_of(position, h))
        for level in reversed(range(len(skips))):
            h = functional.interpolate(self.grow[level](h), size=skips[level].shape[2:])
            h = self.up[level](torch.cat((h, skips[level]), dim=1), outer)
            if self.attend_up:
                h = self.attend_up[level](h, text, _at_size_of(position, h))
        out = self.head(h).float()
        if self.level is None:
            return out
        with torch.autocast(x.device.type, enabled=False):  # a level is a small mean of many
            shift = self.regional_shift(x, time.float(), context)
        return torch.cat((out[:, :1] + shift[:, None], out[:, 1:]), dim=1)

    def regional_shift(
        self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor
    ) -> torch.Tensor:
        """The level's part of the low-pass band of F: (N, D, H, W).  time: (N, condition_dim)."""
        assert self.level is not None
        return self.level(x[:, 0], time, lung_fraction(context), context[:, -COORDINATES:])


def _at_size_of(position: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(position, size=h.shape[2:], mode="trilinear")


def _perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs), nn.SiLU()
    )


def time_features(t: torch.Tensor) -> torch.Tensor:
    """Fourier features of log(t / (1 - t)), so that times near 1 stay apart: (N,) -> (N, 32)."""
    level = torch.logit(t.clamp(1e-3, 1 - 1e-3)) / 7.0  # (N,) within [-1, 1]
    octaves = 2.0 ** torch.arange(TIME_FEATURES // 2, device=t.device).div(4.0)
    angles = level[:, None] * octaves[None, :] * (math.pi / 4)
    return torch.cat((angles.sin(), angles.cos()), dim=1)
