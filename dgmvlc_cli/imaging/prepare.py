"""From a scan as it comes to HU and labels on the grid that the generators work on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.dicom import read_series
from dgmvlc_cli.imaging.discovery import Scan
from dgmvlc_cli.imaging.lungs import check_labels, label_lungs, segment
from dgmvlc_cli.imaging.volume import (
    LUNGS,
    Tissue,
    Volume,
    crop,
    crop_to_lungs,
    lung_box,
    read_labels,
    read_volume,
    resample_isotropic,
    resample_labels,
)

AIR_BELOW_HU = -500.0
SOFT_TISSUE_HU = (-200.0, 200.0)
DENSE_HU = 600.0
LEAST_SHARE = 0.005  # of the voxels of a chest CT that are air or lung, and that are soft tissue
MOST_DENSE_SHARE = 0.25  # bone, metal and contrast medium fill far less


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A preprocessed scan.

    volume: HU, cropped to the lungs.  labels: Tissue, uint8 (z, y, x), on the same grid.
    facts: what was measured, JSON values.  warnings: sentences for the user.
    """

    volume: Volume
    labels: np.ndarray
    facts: dict[str, Any]
    warnings: list[str]


def prepare(
    scan: Scan, *, spacing_mm: float | None, margin_mm: float = 10.0, labels: Path | None = None
) -> Prepared:
    """Read a scan, find its lungs, resample it and crop it to the lungs.

    spacing_mm: edge of the cubic voxels; None keeps the scan's own grid.
    margin_mm: how far around the lungs anatomy is kept.
    labels: a mask to use instead of the built-in segmenter: 0 and 1 (lung), or Tissue values.
    Lung volume and mean HU are measured on the scan's own grid.  Raises DgmvlcError if the scan
    cannot be read, is not in HU or shows no lung.
    """
    source = read_scan(scan)
    require_hu(source, scan.path)
    found = segment(source) if labels is None else given_labels(labels, source)
    if not np.isin(found, LUNGS).any():
        raise DgmvlcError(
            f"{scan.path}: no lung found",
            "Look whether it is a chest CT with lungs in its field of view; or give a mask.",
        )
    facts = {"kind": scan.kind, "slices": _slices(scan, source), **_measure(source, found)}
    volume, cropped = _regrid(source, found, spacing_mm, margin_mm)
    facts |= {"spacing_mm": list(volume.spacing_mm), "shape": list(volume.hu.shape)}
    warnings = [*_left_out(scan), *check_labels(source, found)]
    return Prepared(volume=volume, labels=cropped, facts=facts, warnings=warnings)


def read_scan(scan: Scan) -> Volume:
    """The voxels of a scan on its own grid, oriented to LPS."""
    if scan.kind == "dicom":
        return read_series(scan.files, scan.unreadable)
    return read_volume(scan.path)


def require_hu(volume: Volume, path: Path) -> None:
    """Refuse values that are not HU: a chest CT has both air and soft tissue where HU put them."""
    low, high = float(volume.hu.min()), float(volume.hu.max())
    air = float((volume.hu < AIR_BELOW_HU).mean())
    soft = float(((volume.hu > SOFT_TISSUE_HU[0]) & (volume.hu < SOFT_TISSUE_HU[1])).mean())
    dense = float((volume.hu > DENSE_HU).mean())
    if min(air, soft) >= LEAST_SHARE and dense <= MOST_DENSE_SHARE:
        return
    raise DgmvlcError(
        f"{path}: not in HU, values run from {low:g} to {high:g}; {_guess(low, high, dense)}",
        "Export the scan again in HU (air -1000, water 0).",
    )


def given_labels(path: Path, volume: Volume) -> np.ndarray:
    """Tissue labels from a mask file: complete ones as they are, lungs alone with body added."""
    labels = read_labels(path, like=volume)
    values = set(np.unique(labels).tolist())
    if not values <= set(Tissue):
        raise DgmvlcError(
            f"{path}: mask values {sorted(values)}; 0 and 1 (lung), or 0 outside, 1 body, "
            "2 right lung, 3 left lung, 4 airway were expected",
            "Map the mask's values to these.",
        )
    if values <= {0, 1}:
        return label_lungs(volume, labels == 1)
    if Tissue.BODY not in values:
        around = label_lungs(volume, np.isin(labels, LUNGS))
        return np.where(labels == 0, np.where(np.isin(around, LUNGS), 0, around), labels)
    return labels


def _guess(low: float, high: float, dense: float) -> str:
    """What such a range of values is most likely to be."""
    if low >= -1.01 and high <= 1.01:
        return "they were scaled to [-1, 1] or [0, 1]"
    if low >= 0 and high <= 255:
        return "they were scaled to 0..255"
    if low >= 0 or dense > MOST_DENSE_SHARE:
        return "the rescale intercept (usually -1024) was not applied"
    return "there is no air or no soft tissue where HU put them"


def _slices(scan: Scan, source: Volume) -> int:
    return len(scan.files) if scan.kind == "dicom" else source.hu.shape[0]


def _left_out(scan: Scan) -> list[str]:
    return [f"damaged file beside the slices left out: {path.name}" for path in scan.unreadable]


def _measure(source: Volume, labels: np.ndarray) -> dict[str, Any]:
    lungs = np.isin(labels, LUNGS)
    return {
        "source_shape": list(source.hu.shape),
        "source_spacing_mm": list(source.spacing_mm),
        "source_origin_mm": list(source.origin_mm),
        "source_direction": list(source.direction),
        "lung_volume_ml": float(lungs.sum()) * source.voxel_ml,
        "mean_lung_hu": float(source.hu[lungs].mean(dtype=np.float64)),
    }


def _regrid(
    source: Volume, labels: np.ndarray, spacing_mm: float | None, margin_mm: float
) -> tuple[Volume, np.ndarray]:
    """Resample and crop.  The first, wider crop only saves time and memory."""
    if spacing_mm is None:
        return crop_to_lungs(source, labels, margin_mm)
    reach_mm = margin_mm + 3 * max(spacing_mm, *source.spacing_mm)
    box = lung_box(labels, source.spacing_mm, reach_mm)
    near = crop(source, box)
    return crop_to_lungs(
        resample_isotropic(near, spacing_mm),
        resample_labels(labels[box], near, spacing_mm),
        margin_mm,
    )
