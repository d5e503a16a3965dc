"""One subject's pair of images, and the numbers that only the images can give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmvlc_cli.analysis.maps import pleura_profile
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import Tissue

HISTOGRAM_HU = np.arange(-1040, -399, 20)
SCALE_HU = (-1024.0, 3071.0)
"""Ends of the scale of a CT, where generated images are cut off."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One subject's two arms, on one grid, from the same mask and noise.

    reference_hu, target_hu, real_hu: (z, y, x) float32, HU.  labels: (z, y, x) uint8, Tissue.
    spacing_mm: (z, y, x).  Axes grow towards superior, posterior and the patient's left.
    """

    subject: str
    reference_hu: np.ndarray
    target_hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    reference_sentence: str
    target_sentence: str
    real_hu: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = {
            name: np.shape(array)
            for name in ("reference_hu", "target_hu", "labels", "real_hu")
            if (array := getattr(self, name)) is not None
        }
        if len(set(shapes.values())) > 1 or len(shapes["labels"]) != 3:
            raise DgmvlcError(
                f"The images of {self.subject} do not share one three-dimensional grid: {shapes}.",
                "Generate the pairs of this subject again.",
            )

    @property
    def lung(self) -> np.ndarray:
        """(z, y, x) bool: both lungs, without the airway."""
        return np.isin(self.labels, (Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG))

    @property
    def difference_hu(self) -> np.ndarray:
        """(z, y, x) float32: target minus reference, HU."""
        return np.asarray(self.target_hu, np.float32) - np.asarray(self.reference_hu, np.float32)

    @property
    def clipped(self) -> np.ndarray:
        """(z, y, x) bool: both arms lie at one end of the scale, so the difference is not known."""
        low, high = SCALE_HU
        return ((self.reference_hu <= low) & (self.target_hu <= low)) | (
            (self.reference_hu >= high) & (self.target_hu >= high)
        )


@dataclass(frozen=True, kw_only=True)
class PairSummary:
    """What the group figures need of one pair.

    reference_percent, target_percent: (bins,) of the lung voxels in each bin of `HISTOGRAM_HU`.
    pleura_hu: difference by third of the height and distance to the pleura, as
    `maps.pleura_profile` gives it.
    """

    subject: str
    reference_percent: np.ndarray
    target_percent: np.ndarray
    pleura_hu: np.ndarray


def summarise(pair: Pair) -> PairSummary | None:
    """The summary of a pair; None where its mask holds no lung."""
    lung = pair.lung
    if not lung.any():
        return None
    return PairSummary(
        subject=pair.subject,
        reference_percent=_histogram(pair.reference_hu[lung]),
        target_percent=_histogram(pair.target_hu[lung]),
        pleura_hu=pleura_profile(pair.difference_hu, pair.labels, pair.spacing_mm),
    )


def _histogram(values: np.ndarray) -> np.ndarray:
    return 100 * np.histogram(values, HISTOGRAM_HU)[0] / values.size
