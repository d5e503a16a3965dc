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

from dgmvlc_cli.generators.fusion import AffineFusion, RegionalShift

TIME_FEATURES = 32


class TextUNet(ModelMixin, ConfigMixin):
    """F(c_in x_t, t, mask, text): what the preconditioned flow asks of a network.

    bands: wavelet bands of the image.  context: channels of mask bands and coordinates.
    text_dim: size of the projected sentence embedding.  widths: channels per resolution.
    fusion: `affine`, or `none` (the text is ignored: the ablation).
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
    ) -> None:
        super().__init__()
        self.time = _perceptron(TIME_FEATURES, condition_dim)
        self.text = _perceptron(text_dim, condition_dim) if fusion == "affine" else None
        self.shift = RegionalShift(text_dim, condition_dim) if fusion == "affine" else None
        condition = condition_dim * (1 if self.text is None else 2)
        self.stem = nn.Conv3d(bands + context, widths[0], 3, padding=1)
        self.down = nn.ModuleList(AffineFusion(width, width, condition) for width in widths)
        self.shrink = nn.ModuleList(
            nn.Conv3d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths)
        )
        self.middle = AffineFusion(widths[-1], widths[-1], condition)
        self.grow = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(AffineFusion(2 * width, width, condition) for width in widths[:-1])
        self.head = nn.Conv3d(widths[0], bands, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """x: (N, bands, D, H, W); t: (N,) in (0, 1]; context: (N, context, D, H, W);
        text: (N, text_dim) -> F: (N, bands, D, H, W)."""
        time = self.time(time_features(t))
        condition = time if self.text is None else torch.cat((time, self.text(text)), dim=1)
        h = self.stem(torch.cat((x, context), dim=1))
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            h = block(h, condition)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        h = self.middle(h, condition)
        for level in reversed(range(len(skips))):
            h = functional.interpolate(self.grow[level](h), size=skips[level].shape[2:])
            h = self.up[level](torch.cat((h, skips[level]), dim=1), condition)
        out = self.head(h)
        if self.shift is not None:
            shift = self.shift(text, time, lung_fraction(context), context[:, -3:])
            out = torch.cat((out[:, :1] + shift[:, None], out[:, 1:]), dim=1)
        return out


def lung_fraction(context: torch.Tensor) -> torch.Tensor:
    """Share of lung in each coefficient's block: (N, 4 B + 3, D, H, W) -> (N, D, H, W).

    The mask classes are body, right lung, left lung and airway, B bands each; the low-pass
    band of an indicator is its mean times sqrt(B).
    """
    bands = (context.shape[1] - 3) // 4
    return (context[:, bands] + context[:, 2 * bands]) / bands**0.5


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
