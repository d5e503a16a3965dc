"""Mask-aware standardisation: HU to z per tissue class, exactly invertible given the mask.

A 15 HU change in the lung is 2 % of the range of a chest CT but half a standard deviation
of the lung class; in z a weak condition becomes visible to a generator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import Tissue

LUNG_CLASSES = (int(Tissue.RIGHT_LUNG), int(Tissue.LEFT_LUNG))
MINIMUM_SCALE_HU = 15.0
MAXIMUM_VALUES_PER_CLASS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Standardiser:
    """z = (HU - m_c) / s_c for the tissue class c of each voxel.

    location_hu, scale_hu: one number per Tissue class, HU.
    """

    location_hu: tuple[float, ...]
    scale_hu: tuple[float, ...]

    def to_z(self, hu: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """hu, labels: (..., D, H, W) -> z: the same shape, float32."""
        location, scale = self._lookup(labels)
        return ((hu - location) / scale).astype(np.float32)

    def to_hu(self, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The inverse of to_z: z, labels (..., D, H, W) -> HU, float32."""
        location, scale = self._lookup(labels)
        return (z * scale + location).astype(np.float32)

    def _lookup(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        location = np.asarray(self.location_hu, np.float32)[labels]
        return location, np.asarray(self.scale_hu, np.float32)[labels]


def fit_standardiser(scans: Iterable[tuple[np.ndarray, np.ndarray]]) -> Standardiser:
    """Robust location and scale per class over (hu, labels) pairs of the training scans.

    Both lungs share one location and scale, so that a left-right difference is never
    standardised away.  Raises DgmvlcError where no scan has lung.
    """
    values: dict[int, list[np.ndarray]] = {int(tissue): [] for tissue in Tissue}
    for hu, labels in scans:
        for tissue in values:
            values[tissue].append(hu[labels == tissue])
    pooled = {tissue: np.concatenate(parts or [np.empty(0)]) for tissue, parts in values.items()}
    lung = np.concatenate([pooled[tissue] for tissue in LUNG_CLASSES])
    if not lung.size:
        raise DgmvlcError(
            "No lung voxel in the training masks.", "Look at the QC pictures of `preprocess`."
        )
    pooled.update(dict.fromkeys(LUNG_CLASSES, lung))
    pairs = [_location_scale(pooled[int(tissue)]) for tissue in Tissue]
    return Standardiser(
        location_hu=tuple(location for location, _ in pairs),
        scale_hu=tuple(scale for _, scale in pairs),
    )


def _location_scale(values: np.ndarray) -> tuple[float, float]:
    """Median, and a scale between the robust one (1.4826 MAD) and the plain SD.

    The robust scale alone would send vessels and ribs to tens of SDs; the SD alone would
    let them hide the parenchyma.
    """
    if not values.size:
        return -1000.0, MINIMUM_SCALE_HU
    step = -(-values.size // MAXIMUM_VALUES_PER_CLASS)
    sample = values[::step].astype(np.float64)
    median = float(np.median(sample))
    robust = 1.4826 * float(np.median(np.abs(sample - median)))
    scale = (robust * float(sample.std())) ** 0.5
    return median, max(scale, MINIMUM_SCALE_HU)
