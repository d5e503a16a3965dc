"""From a scan as it comes to HU and labels on the grid that the generators work on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.acquisition import made_how
from dgmvlc_cli.imaging.dicom import read_series
from dgmvlc_cli.imaging.files import read_scan_file
from dgmvlc_cli.imaging.hounsfield import peaks, why_not_hu
from dgmvlc_cli.imaging.lobes import Lobe, check_lobes, resample_lobes
from dgmvlc_cli.imaging.lungs import check_labels
from dgmvlc_cli.imaging.masks import (
    AUTO,
    MaskFiles,
    Segmentation,
    given_segmentation,
)
from dgmvlc_cli.imaging.scans import Scan
from dgmvlc_cli.imaging.segmenters import segment_with
from dgmvlc_cli.imaging.volume import (
    LUNGS,
    Grid,
    Reading,
    Volume,
    crop,
    isotropic_grid,
    lung_box,
    resample_isotropic,
    resample_labels,
)

# Sinuses, bowel or the lung bases of an abdominal scan: no scan to study lungs in.
LEAST_LUNG_ML = 300.0
MOST_LUNG_ML = 20_000.0  # twice the largest lungs of man
# Of the longest edge of a scan: what is less holds no such lung, what is more no whole body.
PLAUSIBLE_EXTENT_MM = (50.0, 3000.0)
MOST_VOXELS = 1 << 30  # of the grid that is resampled to: 4 GiB, of which several are needed
OTHER_UNIT = (
    "Its spacing is probably in another unit than mm, or off by a factor of ten: correct the "
    "header, or leave the scan out."
)


@dataclass(frozen=True, kw_only=True)
class Handling:
    """What is done with scans that are not as they should be, and who finds the lungs.

    spacing_mm: edge of the cubic voxels; None keeps the scan's own grid.
    margin_mm: how far around the lungs anatomy is kept.
    segmenter: builtin or one of `segmenters.SEGMENTERS`, where no masks are given.
    mask_labels: what the values of given masks mean, see `masks`.
    max_missing_slices: so many lost in a row are interpolated.
    allow_lossy: read what was compressed with loss.  allow_not_hu: go on where values are not HU.
    """

    spacing_mm: float | None = None
    margin_mm: float = 10.0
    segmenter: str = "builtin"
    mask_labels: str | Mapping[str, tuple[int, ...]] = AUTO
    max_missing_slices: int = 1
    allow_lossy: bool = False
    allow_not_hu: bool = False


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A preprocessed scan.

    volume: HU, cropped to the lungs.  labels: Tissue, uint8 (z, y, x), on the same grid.
    lobes: Lobe, uint8 (z, y, x), there too; None where the mask tells none.
    grid: the voxels of the scan as it came, which results can be brought back to.
    facts: what was measured, JSON values.  warnings: sentences for the user.
    """

    volume: Volume
    labels: np.ndarray
    grid: Grid
    lobes: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def prepare(scan: Scan, handling: Handling, masks: MaskFiles | None = None) -> Prepared:
    """Read a scan, find its lungs, resample it and crop it to the lungs.

    masks: mask files to use instead of a segmenter.
    Lung volume and mean HU are measured on the scan's own grid.  Raises DgmvlcError if the scan
    cannot be read, is not in HU or shows no lung.
    """
    reading = read_scan(scan, handling)
    source = reading.volume
    _require_plausible_extent(source, scan)
    found_peaks = peaks(source.hu)
    doubts = _require_hu(source, found_peaks, scan, handling)
    if masks is None:
        found = segment_with(handling.segmenter, source)
    else:
        found = given_segmentation(masks, source, handling.mask_labels)
    labels = found.labels
    lung_ml = float(np.isin(labels, LUNGS).sum()) * source.voxel_ml
    if lung_ml < LEAST_LUNG_ML:
        raise DgmvlcError(
            f"{scan.path}: no lung found" + (f" but {lung_ml:.0f} mL of gas" if lung_ml else ""),
            "Look whether it is a chest CT with lungs in its field of view; or give a mask.",
        )
    if lung_ml > MOST_LUNG_ML:
        raise DgmvlcError(
            f"{scan.path}: lungs of {lung_ml / 1000:.0f} L in voxels of {_by(source.spacing_mm)} "
            f"mm, at most {MOST_LUNG_ML / 1000:.0f} L were expected",
            OTHER_UNIT if masks is None else f"{OTHER_UNIT} Or its mask holds more than lungs.",
        )
    facts = {"kind": scan.kind, "slices": source.hu.shape[0], **reading.facts}
    facts |= made_how(scan.traits)
    facts |= _measure(source, labels, found_peaks)
    doubts += [*check_labels(source, labels), *found.notes]
    if found.lobes is not None:
        facts |= _measure_lobes(found.lobes, source.voxel_ml)
        doubts += check_lobes(found.lobes, labels)
    volume, moved = _regrid(source, found, handling.spacing_mm, handling.margin_mm)
    facts |= {"spacing_mm": list(volume.spacing_mm), "shape": list(volume.hu.shape)}
    return Prepared(
        volume=volume,
        labels=moved.labels,
        lobes=moved.lobes,
        grid=reading.grid,
        facts=facts,
        warnings=[*scan.notes, *reading.notes, *doubts],
    )


def _measure_lobes(lobes: np.ndarray, voxel_ml: float) -> dict[str, Any]:
    """How many lobes there are, and the volume of each; 0 of one that is not there."""
    volumes_ml = {lobe: float((lobes == lobe).sum()) * voxel_ml for lobe in Lobe}
    found = sum(volume_ml > 0 for volume_ml in volumes_ml.values())
    return {"lobes": found, **{f"{one.structure}_ml": ml for one, ml in volumes_ml.items()}}


def read_scan(scan: Scan, handling: Handling) -> Reading:
    """The voxels of a scan on its own grid, oriented to LPS."""
    if scan.kind != "dicom":
        return read_scan_file(scan.path)
    return read_series(
        scan.files,
        scan.unreadable,
        allow_lossy=handling.allow_lossy,
        max_missing=handling.max_missing_slices,
    )


def _require_plausible_extent(volume: Volume, scan: Scan) -> None:
    edges_mm = np.array(volume.hu.shape) * volume.spacing_mm
    low, high = PLAUSIBLE_EXTENT_MM
    if not low <= edges_mm.max() <= high:
        raise DgmvlcError(
            f"{scan.path}: {_by(edges_mm)} mm large by its header ({_by(volume.hu.shape)} voxels "
            f"of {_by(volume.spacing_mm)} mm), {low:g} to {high:g} mm were expected",
            OTHER_UNIT,
        )


def _by(numbers: Iterable[float]) -> str:
    return " x ".join(f"{one:g}" for one in numbers)


def _require_hu(
    volume: Volume, peaks_hu: tuple[float, float], scan: Scan, handling: Handling
) -> list[str]:
    """Refuse values that are not HU; where they are allowed, say so."""
    doubt = why_not_hu(volume.hu, peaks_hu)
    if doubt and not handling.allow_not_hu:
        raise DgmvlcError(
            f"{scan.path}: not in HU, {doubt}",
            "Export the scan again in HU (air -1000, water 0); or go on with --allow-not-hu.",
        )
    return [f"not in HU, {doubt}"] if doubt else []


def _measure(source: Volume, labels: np.ndarray, peaks_hu: tuple[float, float]) -> dict[str, Any]:
    lungs = np.isin(labels, LUNGS)
    gas_hu, tissue_hu = peaks_hu
    return {
        "source_shape": list(source.hu.shape),
        "source_spacing_mm": list(source.spacing_mm),
        "gas_peak_hu": gas_hu,
        "tissue_peak_hu": tissue_hu,
        "lung_volume_ml": float(lungs.sum()) * source.voxel_ml,
        "mean_lung_hu": float(source.hu[lungs].mean(dtype=np.float64)),
    }


def _regrid(
    source: Volume, found: Segmentation, spacing_mm: float | None, margin_mm: float
) -> tuple[Volume, Segmentation]:
    """Resample and crop.  The first, wider crop only saves time and memory."""
    if spacing_mm is None:
        return _cropped(source, found, margin_mm)
    reach_mm = margin_mm + 3 * max(spacing_mm, *source.spacing_mm)
    near, around = _cropped(source, found, reach_mm)
    _require_grid_in_memory(isotropic_grid(near, spacing_mm))
    labels, lobes = resample_labels(around.labels, near, spacing_mm), around.lobes
    if lobes is not None:
        lobes = resample_lobes(lobes, around.labels, near, spacing_mm, labels)
    moved = Segmentation(labels=labels, lobes=lobes)
    return _cropped(resample_isotropic(near, spacing_mm), moved, margin_mm)


def _require_grid_in_memory(grid: Grid) -> None:
    """Refuse a working grid that memory cannot hold, before it is taken."""
    if math.prod(grid.shape) > MOST_VOXELS:
        raise DgmvlcError(
            f"its lungs need {_by(grid.shape)} voxels of {grid.spacing_mm[0]:g} mm, at most "
            f"{MOST_VOXELS / 1e9:.1f} thousand million in all were expected",
            'Choose a larger spacing_mm, or "native"; and look whether its header is right.',
        )


def _cropped(volume: Volume, found: Segmentation, margin_mm: float) -> tuple[Volume, Segmentation]:
    """The part of scan and mask around both lungs."""
    box = lung_box(found.labels, volume.spacing_mm, margin_mm)
    lobes = None if found.lobes is None else np.ascontiguousarray(found.lobes[box])
    labels = np.ascontiguousarray(found.labels[box])
    return crop(volume, box), Segmentation(labels=labels, lobes=lobes)
