"""The five lobes of the lungs, where a mask tells them: labels, judgement and resampling."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np

from dgmvlc_cli.imaging.volume import LUNGS, Tissue, Volume, centre_of, resample_fraction

LEAST_COVER = 0.9  # of the lungs' voxels: where lobes cover less, the mask was read half


class Lobe(IntEnum):
    """Classes of a map of lobes; 0 is no lobe.  A left lung has no middle lobe."""

    RIGHT_UPPER = 1
    RIGHT_MIDDLE = 2
    RIGHT_LOWER = 3
    LEFT_UPPER = 4
    LEFT_LOWER = 5

    @property
    def structure(self) -> str:
        """As regions, mappings and columns name it: `right_upper_lobe`."""
        return f"{self.name.lower()}_lobe"

    @property
    def label(self) -> str:
        return self.structure.replace("_", " ")

    @property
    def side(self) -> Tissue:
        """The lung that it is part of."""
        return Tissue.RIGHT_LUNG if self.name.startswith("RIGHT") else Tissue.LEFT_LUNG


LOBE_OF = {lobe.structure: lobe for lobe in Lobe}


def of_side(lobes: np.ndarray, side: Tissue) -> np.ndarray:
    """(z, y, x) bool: all lobes of one lung."""
    return np.isin(lobes, [lobe for lobe in Lobe if lobe.side == side])


def within_lungs(lobes: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """The lobes where the labels have the lung of their side; None where nothing is left.

    lobes: (z, y, x) Lobe.  labels: (z, y, x) Tissue.
    """
    kept = np.zeros_like(lobes)
    for side in LUNGS:
        here = (labels == side) & of_side(lobes, side)
        kept[here] = lobes[here]
    return kept if kept.any() else None


def check_lobes(lobes: np.ndarray, labels: np.ndarray) -> list[str]:
    """Sentences on what is missing or implausible about lobes that lie within their lungs.

    A lobe that is not there may have been resected: it is told, and no error.
    """
    doubts = [
        f"no {lobe.label} given"
        for lobe in Lobe
        if (labels == lobe.side).any() and not (lobes == lobe).any()
    ]
    cover = float((lobes > 0).sum()) / max(int(np.isin(labels, LUNGS).sum()), 1)
    if cover < LEAST_COVER:
        doubts.append(f"lobes cover {100 * cover:.0f} % of the lungs")
    return doubts + list(_misplaced(lobes))


def _misplaced(lobes: np.ndarray) -> Iterator[str]:
    """What a mirrored mask, or a mapping with swapped values, would look like."""
    right, left = (centre_of(of_side(lobes, side)) for side in LUNGS)
    if right is not None and left is not None and right[2] > left[2]:
        yield "the right lobes lie to the left of the left ones"
    for upper, lower in (
        (Lobe.RIGHT_UPPER, Lobe.RIGHT_LOWER),
        (Lobe.LEFT_UPPER, Lobe.LEFT_LOWER),
    ):
        above, below = centre_of(lobes == upper), centre_of(lobes == lower)
        if above is not None and below is not None and above[0] < below[0]:
            yield f"the {upper.label} lies below the {lower.label}"


def resample_lobes(
    lobes: np.ndarray,
    labels: np.ndarray,
    volume: Volume,
    spacing_mm: float,
    resampled: np.ndarray,
) -> np.ndarray:
    """Lobes of `labels` on the grid on which resample_labels made `resampled` of these.

    A lung voxel of the new grid belongs to the lobe of its own side that fills most of it, or to
    none where lung without a lobe fills more: lobes that make up a lung make it up there too.
    """
    best = np.zeros(resampled.shape, np.uint8)
    for side in LUNGS:
        lung, here = labels == side, resampled == side
        most = np.zeros(resampled.shape, np.float32)
        for value in (*(lobe for lobe in Lobe if lobe.side == side), 0):
            part = lung & (lobes == value)
            if not part.any():
                continue
            filled = resample_fraction(part, volume, spacing_mm)
            wins = here & (filled > most)
            best[wins], most[wins] = value, filled[wins]
    return best
