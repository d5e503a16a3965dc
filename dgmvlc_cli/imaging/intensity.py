"""Mask-aware standardisation: HU to z per tissue class, exactly invertible given the mask.

A 15 HU change in the lung is 2 % of the range of a chest CT but half a standard deviation
of the lung class; in z a weak condition becomes visible to a generator.  A voxel at the edge of
its tissue holds some of the neighbour too, and the coarser the grid the more: its location is
therefore that of voxels with as many foreign neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import LUNGS, Tissue

EXPOSURES = 4  # 0, 1, 2, or more foreign face neighbours
MINIMUM_SCALE_HU = 15.0
MAXIMUM_VALUES_PER_CLASS = 2_000_000
LEAST_VALUES = 50  # fewer voxels of an exposure take the location of the tissue


@dataclass(frozen=True, kw_only=True)
class Standardiser:
    """z = (HU - m_ck) / s_c for tissue class c and exposure k of each voxel.

    location_hu: per Tissue class a row of EXPOSURES numbers, HU.  scale_hu: one number per
    Tissue class, HU.
    """

    location_hu: tuple[tuple[float, ...], ...]
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
        location = np.asarray(self.location_hu, np.float32)[labels, exposure(labels)]
        return location, np.asarray(self.scale_hu, np.float32)[labels]


def plain_standardiser() -> Standardiser:
    """HU over a thousand, whatever the tissue: how the paper scales (no mask is needed)."""
    tissues = len(Tissue)
    return Standardiser(location_hu=((0.0,) * EXPOSURES,) * tissues, scale_hu=(1000.0,) * tissues)


def exposure(labels: np.ndarray) -> np.ndarray:
    """Face neighbours of another tissue, at most EXPOSURES - 1: (..., D, H, W) -> the same, int.

    Both lungs are one tissue here; what lies beyond the volume counts as the voxel's own.
    """
    tissue = np.where(labels == Tissue.LEFT_LUNG, np.uint8(Tissue.RIGHT_LUNG), labels)
    foreign = np.zeros(labels.shape, np.intp)
    for axis in (-3, -2, -1):
        ahead = np.moveaxis(tissue, axis, -1)
        differs = ahead[..., 1:] != ahead[..., :-1]
        counts = np.moveaxis(foreign, axis, -1)
        counts[..., 1:] += differs
        counts[..., :-1] += differs
    return np.minimum(foreign, EXPOSURES - 1)


def fit_standardiser(scans: Iterable[tuple[np.ndarray, np.ndarray]]) -> Standardiser:
    """Location and scale per class over (hu, labels) pairs of the training scans.

    Both lungs share one location and scale, so that a left-right difference is never
    standardised away.  Raises DgmvlcError where no scan has lung.
    """
    values: dict[tuple[int, int], list[np.ndarray]] = {}
    for hu, labels in scans:
        exposed = exposure(labels)
        for tissue in Tissue:
            held = labels == tissue
            for k in range(EXPOSURES):
                values.setdefault((int(tissue), k), []).append(hu[held & (exposed == k)])
    pooled = {key: np.concatenate(parts) for key, parts in values.items()}
    right, left = LUNGS
    for k in range(EXPOSURES):
        both = np.concatenate([pooled.get((lung, k), np.empty(0)) for lung in LUNGS])
        pooled[right, k] = pooled[left, k] = both
    if not any(pooled[right, k].size for k in range(EXPOSURES)):
        raise DgmvlcError(
            "No lung voxel in the training masks.", "Look at the QC pictures of `preprocess`."
        )
    fitted = [
        _location_scale([pooled.get((int(tissue), k), np.empty(0)) for k in range(EXPOSURES)])
        for tissue in Tissue
    ]
    return Standardiser(
        location_hu=tuple(location for location, _ in fitted),
        scale_hu=tuple(scale for _, scale in fitted),
    )


def _location_scale(values: list[np.ndarray]) -> tuple[tuple[float, ...], float]:
    """Median by exposure, and one scale between the robust one (1.4826 MAD) and the plain SD.

    The robust scale alone would send vessels and ribs to tens of SDs; the SD alone would
    let them hide the parenchyma.
    """
    everything = np.concatenate(values)
    if not everything.size:
        return (-1000.0,) * EXPOSURES, MINIMUM_SCALE_HU
    overall = float(np.median(everything))
    medians = [float(np.median(one)) if one.size >= LEAST_VALUES else overall for one in values]
    centred = np.concatenate([one - median for one, median in zip(values, medians, strict=True)])
    sample = centred[:: -(-centred.size // MAXIMUM_VALUES_PER_CLASS)].astype(np.float64)
    robust = 1.4826 * float(np.median(np.abs(sample)))
    scale = (robust * float(sample.std())) ** 0.5
    return tuple(medians), max(scale, MINIMUM_SCALE_HU)
