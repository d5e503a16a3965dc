"""What an image is generated from: mask, position and sentence, as the networks take them.

The image itself is handled as Haar wavelet bands of the standardised scan.  How much a band
varies depends on what its block of voxels holds: fine bands are small inside the lung and large
at its edge.  Each coefficient therefore has a scale of its own, looked up from the mask, and the
networks see and predict quantities of unit variance everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch.nn import functional

from dgmvlc_cli.generators import wavelet
from dgmvlc_cli.imaging.volume import Tissue

MINIMUM_SCALE = 0.02
TISSUES_SEEN = (Tissue.BODY, Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG, Tissue.AIRWAY)
COORDINATES = 3


class Block(IntEnum):
    """What a wavelet block of voxels holds."""

    OUTSIDE = 0
    SKIN = 1  # body and outside
    BODY = 2
    LUNG = 3
    EDGE = 4  # lung and something else
    AIRWAY = 5  # any airway


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What an image is generated from.

    context: (N, C, d, h, w) mask bands and coordinates.  text: (N, K) projected embedding.
    sigma: (N, B, d, h, w) SD of each wavelet coefficient over the training subjects.
    """

    context: torch.Tensor
    text: torch.Tensor
    sigma: torch.Tensor

    def to(self, device: torch.device | str) -> Conditions:
        return Conditions(
            context=self.context.to(device),
            text=self.text.to(device),
            sigma=self.sigma.to(device),
        )

    def without_text(self) -> Conditions:
        """The same, with the mean sentence of the training subjects."""
        return Conditions(context=self.context, text=torch.zeros_like(self.text), sigma=self.sigma)


def context_channels(levels: int) -> int:
    """Channels of `mask_context`."""
    return len(TISSUES_SEEN) * wavelet.BANDS_PER_LEVEL**levels + COORDINATES


def mask_context(labels: torch.Tensor, levels: int) -> torch.Tensor:
    """Mask bands and coordinates: (N, D, H, W) int labels -> (N, 4 * 8^levels + 3, d, h, w).

    The Haar bands of the four one-hot classes keep the mask's full resolution; coordinates
    run from -1 to 1 across the lungs' box, so that a global sentence can act regionally.
    """
    classes = torch.stack([(labels == tissue).float() for tissue in TISSUES_SEEN], dim=1)
    bands = wavelet.forward(classes, levels)
    coordinates = torch.stack([lung_coordinates(one, levels) for one in labels])
    return torch.cat((bands, coordinates.to(bands)), dim=1)


def lung_fraction(context: torch.Tensor) -> torch.Tensor:
    """Share of lung in each coefficient's block: (N, C, d, h, w) context -> (N, d, h, w).

    The low-pass band of an indicator is its mean times sqrt(B).
    """
    bands = (context.shape[1] - COORDINATES) // len(TISSUES_SEEN)
    return (context[:, bands] + context[:, 2 * bands]) / bands**0.5


def lung_coordinates(labels: torch.Tensor, levels: int) -> torch.Tensor:
    """Height, depth and side relative to the lungs' box: (D, H, W) -> (3, d, h, w)."""
    lung = (labels == Tissue.RIGHT_LUNG) | (labels == Tissue.LEFT_LUNG)
    axes = []
    for axis, size in enumerate(labels.shape):
        others = [other for other in range(3) if other != axis]
        inside = lung.any(dim=others[1]).any(dim=others[0]).nonzero().flatten()
        low, high = (int(inside[0]), int(inside[-1])) if len(inside) else (0, size - 1)
        position = (torch.arange(size) - low) / max(high - low, 1) * 2 - 1
        axes.append(position.reshape(-1, 2**levels).mean(dim=1))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def blocks(labels: torch.Tensor, levels: int) -> torch.Tensor:
    """What each wavelet block holds: (N, D, H, W) labels -> (N, d, h, w) `Block` values."""

    def fraction(*tissues: int) -> torch.Tensor:
        held = torch.stack([labels == tissue for tissue in tissues]).any(dim=0)
        return functional.avg_pool3d(held[:, None].float(), 2**levels)[:, 0]

    lung, body = fraction(Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG), fraction(Tissue.BODY)
    kind = torch.full(lung.shape, int(Block.OUTSIDE))
    kind[body > 0] = Block.SKIN
    kind[body == 1] = Block.BODY
    kind[lung > 0] = Block.EDGE
    kind[lung == 1] = Block.LUNG
    kind[fraction(Tissue.AIRWAY) > 0] = Block.AIRWAY
    return kind


def fit_band_scale(bands: torch.Tensor, kinds: torch.Tensor) -> np.ndarray:
    """SD of each band in each kind of block: (n, B, d, h, w), (n, d, h, w) -> (6, B) float32."""
    scale = np.full((len(Block), bands.shape[1]), MINIMUM_SCALE, np.float32)
    by_coefficient = bands.movedim(1, -1)  # (n, d, h, w, B)
    for kind in Block:
        chosen = by_coefficient[kinds == kind]
        if len(chosen) > 1:
            scale[kind] = chosen.std(dim=0).clamp_min(MINIMUM_SCALE).numpy()
    return scale


def coefficient_scale(band_scale: np.ndarray, kinds: torch.Tensor) -> torch.Tensor:
    """(6, B) scales and (N, d, h, w) kinds -> (N, B, d, h, w) sigma."""
    return torch.from_numpy(band_scale)[kinds].movedim(-1, 1).contiguous()
