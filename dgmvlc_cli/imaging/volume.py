"""A scan with its geometry; orienting, resampling and cropping.

Axis order, orientation and the floor of the HU scale are settled here and nowhere else: what
leaves this module has its indices growing towards Superior, Posterior and patient Left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from dgmvlc_cli.errors import DgmvlcError

AIR_HU = -1000.0
SCANNER_FLOOR_HU = -1024.0
# Padding of -6000..-1024 HU whose 16 signed bits were read as unsigned: 63536 is -2000.
WRAPPED_PADDING_HU = (65536.0 - 6000.0, 65536.0 - 1024.0)
# A filter whose full width at half maximum is f has a standard deviation of f / 2.3548.
FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


class Tissue(IntEnum):
    """Classes of an anatomical mask."""

    OUTSIDE = 0
    BODY = 1
    RIGHT_LUNG = 2
    LEFT_LUNG = 3
    AIRWAY = 4


LUNGS = (Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG)
AXES_OF_LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Voxels and where they lie.

    hu: (D, H, W) = (z, y, x) float32, HU.  spacing_mm: (z, y, x), as the axes of hu.
    origin_mm: LPS (x, y, z) of the centre of voxel [0, 0, 0].
    direction: 3 x 3 row-major direction cosines in LPS, as SimpleITK gives them.
    """

    hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = AXES_OF_LPS

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return math.prod(self.spacing_mm) / 1000.0

    def to_lps_mm(self, index_zyx: Iterable[float]) -> np.ndarray:
        """LPS (x, y, z) in mm of a (fractional) array index (z, y, x)."""
        steps = np.asarray(tuple(index_zyx))[::-1] * np.asarray(self.spacing_mm)[::-1]
        return np.asarray(self.origin_mm) + np.reshape(self.direction, (3, 3)) @ steps


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A voxel grid.  shape, spacing_mm: array order (z, y, x).  origin_mm: LPS (x, y, z).

    direction: as in Volume; by default the axes are those of LPS.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...] = AXES_OF_LPS


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A scan as it was read.

    volume: HU, oriented to LPS.  grid: the voxels as the file holds them, in its own order of
    axes; of a series whose slices had to be resampled, the corrected grid.
    facts: what was measured on the way, JSON values.  notes: sentences for the user.
    """

    volume: Volume
    grid: Grid
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def resample_isotropic(volume: Volume, spacing_mm: float) -> Volume:
    """Resample HU to cubic voxels on an LPS-aligned grid, so that an oblique scan gets straight.

    A Gaussian removes what the new grid cannot carry; cubic B-splines interpolate, which unlike
    linear interpolation does not smooth the noise by an amount that varies from voxel to voxel.
    Where the scan does not reach there is air.  The range of HU stays that of the scan.
    """
    grid = isotropic_grid(volume, spacing_mm)
    if _is_on(volume, grid):
        return volume
    hu = resample_image(_coarsened(volume.hu, volume, spacing_mm), grid, sitk.sitkBSpline, AIR_HU)
    low, high = min(float(volume.hu.min()), AIR_HU), float(volume.hu.max())
    return Volume(
        hu=np.clip(hu, low, high),
        spacing_mm=grid.spacing_mm,
        origin_mm=grid.origin_mm,
    )


def resample_labels(labels: np.ndarray, volume: Volume, spacing_mm: float) -> np.ndarray:
    """Labels that belong to `volume`, on the grid that resample_isotropic gives it.

    Each class is resampled as the fraction of a voxel that it fills, and the class that fills
    most of a voxel wins: a thin structure thins out evenly instead of breaking into beads.
    """
    grid = isotropic_grid(volume, spacing_mm)
    if _is_on(volume, grid):
        return labels

    def fraction(tissue: int) -> np.ndarray:
        return resample_fraction(labels == tissue, volume, spacing_mm)

    return fullest(fraction, labels, grid.shape)


def resample_fraction(mask: np.ndarray, volume: Volume, spacing_mm: float) -> np.ndarray:
    """How much of each voxel a mask fills, float32 in [0, 1], on the grid of resample_isotropic.

    mask: (z, y, x) bool, on the grid of `volume`.
    """
    smooth = _coarsened(mask, volume, spacing_mm)
    return resample_image(smooth, isotropic_grid(volume, spacing_mm))


def fullest(
    fraction: Callable[[int], np.ndarray], labels: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """The class that fills most of each voxel of another grid; 0 where what is left fills more.

    fraction: class -> (z, y, x) of the given shape, the part of each voxel that it fills, in
    [0, 1].  labels: the classes on their own grid.  Returns their number type.
    """
    best = np.zeros(shape, labels.dtype)
    best_fraction, rest = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    for label in np.unique(labels[labels > 0]):
        filled = fraction(int(label))
        wins = filled > best_fraction
        best[wins], best_fraction[wins] = label, filled[wins]
        rest -= filled
    best[rest > best_fraction] = 0
    return best


def crop(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """The part of a volume inside an index box (z, y, x), with its origin moved along."""
    starts = [side.indices(size)[0] for side, size in zip(box, volume.hu.shape, strict=True)]
    x, y, z = (float(mm) for mm in volume.to_lps_mm(starts))
    return replace(volume, hu=np.ascontiguousarray(volume.hu[box]), origin_mm=(x, y, z))


def lung_box(
    labels: np.ndarray, spacing_mm: tuple[float, float, float], margin_mm: float
) -> tuple[slice, slice, slice]:
    """Index box (z, y, x) around both lungs, widened by at least margin_mm within the array.

    Raises DgmvlcError if there is no lung.
    """
    lungs = np.isin(labels, LUNGS)
    if not lungs.any():
        raise DgmvlcError(
            "no lung in the mask, so there is nothing to crop to",
            "Look at the scan: it may not be a chest CT, or not be in HU; or give a mask.",
        )
    sides = []
    for axis, (size, step) in enumerate(zip(labels.shape, spacing_mm, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(lungs.any(axis=others))
        margin = math.ceil(margin_mm / step - 1e-6)
        sides.append(slice(max(filled[0] - margin, 0), min(filled[-1] + margin + 1, size)))
    return sides[0], sides[1], sides[2]


def centre_of(member: np.ndarray) -> tuple[float, float, float] | None:
    """Mean index (z, y, x) of a mask; None without a voxel."""
    if not member.any():
        return None
    z, y, x = (
        float(np.average(np.arange(size), weights=member.sum(axis=others)))
        for size, others in zip(member.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
    )
    return z, y, x


def isotropic_grid(volume: Volume, spacing_mm: float) -> Grid:
    """The LPS-aligned cubic grid that covers every voxel of a volume, centred on it."""
    ends = [(-0.5, size - 0.5) for size in volume.hu.shape]
    corners = np.array(
        [volume.to_lps_mm(zyx) for zyx in np.stack(np.meshgrid(*ends), -1).reshape(-1, 3)]
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    # A hundredth of a voxel is rounding of the header, not anatomy that needs a voxel more.
    counts = np.maximum(np.ceil((high - low) / spacing_mm - 0.01), 1).astype(int)
    first = (low + high - (counts - 1) * spacing_mm) / 2
    x, y, z = (float(mm) for mm in first)
    return Grid(
        shape=(int(counts[2]), int(counts[1]), int(counts[0])),
        spacing_mm=(float(spacing_mm),) * 3,
        origin_mm=(x, y, z),
    )


def to_air(hu: np.ndarray) -> np.ndarray:
    """HU as float32 with padding set to air: what lies below the scanner's scale, or wrapped.

    Works in place on an array that is float32 already: whole scans are large.
    """
    hu = hu.astype(np.float32, copy=False)
    low, high = WRAPPED_PADDING_HU
    hu[(hu < SCANNER_FLOOR_HU) | ((hu > low) & (hu < high))] = AIR_HU
    return hu


def grid_of(volume: Volume) -> Grid:
    """Where the voxels of a volume lie."""
    shape = (volume.hu.shape[0], volume.hu.shape[1], volume.hu.shape[2])
    return Grid(
        shape=shape,
        spacing_mm=volume.spacing_mm,
        origin_mm=volume.origin_mm,
        direction=volume.direction,
    )


def grid_of_image(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    """Where the voxels of an image (or of one whose header was read) lie, in its order of axes."""
    width, height, depth = image.GetSize()
    x_mm, y_mm, z_mm = image.GetSpacing()
    return Grid(
        shape=(depth, height, width),
        spacing_mm=(z_mm, y_mm, x_mm),
        origin_mm=image.GetOrigin(),
        direction=image.GetDirection(),
    )


def image_of(array: np.ndarray, volume: Volume) -> sitk.Image:
    """A SimpleITK image of an array (z, y, x) that lies on the grid of `volume`."""
    return image_of_grid(array, grid_of(volume))


def image_of_grid(array: np.ndarray, grid: Grid) -> sitk.Image:
    """A SimpleITK image of an array (z, y, x) that lies on a grid."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tuple(float(step) for step in grid.spacing_mm[::-1]))
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image


def volume_on_grid(hu: np.ndarray, grid: Grid) -> Volume:
    """A Volume of HU (z, y, x) on a grid of any orientation."""
    if not _is_lps(grid.direction):
        image = oriented(image_of_grid(hu, grid))
        hu, grid = sitk.GetArrayFromImage(image), grid_of_image(image)
    return Volume(
        hu=to_air(hu),
        spacing_mm=grid.spacing_mm,
        origin_mm=grid.origin_mm,
        direction=grid.direction,
    )


def oriented(image: sitk.Image) -> sitk.Image:
    """The image with its axes in the order and sense of LPS; itself where they are already."""
    return image if _is_lps(image.GetDirection()) else sitk.DICOMOrient(image, "LPS")


def _is_lps(direction: tuple[float, ...]) -> bool:
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction) == "LPS"


def _is_on(volume: Volume, grid: Grid) -> bool:
    return (
        volume.hu.shape == grid.shape
        and np.allclose(volume.spacing_mm, grid.spacing_mm, rtol=1e-5)
        and np.allclose(volume.direction, np.eye(3).ravel(), atol=1e-6)
    )


def _coarsened(array: np.ndarray, volume: Volume, to_mm: float) -> sitk.Image:
    """An array on the grid of `volume` as a float32 image, smoothed for voxels of to_mm.

    Each axis that will get coarser gets the resolution of the new grid.  Only the image is kept:
    of a fine scan every further array takes half a GB.
    Source of the width: Cardoso et al. 2015, doi:10.1007/978-3-319-24571-3_81.
    """
    sigmas = [
        math.sqrt(max(to_mm**2 - mm**2, 0.0)) / FWHM_PER_SIGMA / mm for mm in volume.spacing_mm
    ]
    smooth = ndimage.gaussian_filter(array, sigmas, output=np.float32, mode="nearest", truncate=3.0)
    return image_of(smooth, volume)


def resample_image(
    image: sitk.Image, grid: Grid, interpolator: int = sitk.sitkLinear, outside: float = 0.0
) -> np.ndarray:
    """Values of an image at the voxels of a grid, (z, y, x), of the image's number type."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid.shape[::-1])
    resampler.SetOutputSpacing(grid.spacing_mm[::-1])
    resampler.SetOutputOrigin(grid.origin_mm)
    resampler.SetOutputDirection(grid.direction)
    resampler.SetInterpolator(interpolator)
    resampler.SetDefaultPixelValue(outside)
    return sitk.GetArrayFromImage(resampler.Execute(image))
