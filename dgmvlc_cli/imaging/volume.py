"""A scan with its geometry; reading, writing, resampling and cropping.

Axis order, orientation and the floor of the HU scale are settled here and nowhere else: what
leaves this module has its indices growing towards Superior, Posterior and patient Left.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.names import SINGLE_FILE_SUFFIXES
from dgmvlc_cli.workspace import atomic_path

AIR_HU = -1000.0
SCANNER_FLOOR_HU = -1024.0
# Padding of -6000..-1024 HU whose 16 signed bits were read as unsigned: 63536 is -2000.
WRAPPED_PADDING_HU = (65536.0 - 6000.0, 65536.0 - 1024.0)
NIFTI_FLOATS = {"16": "f4", "64": "f8"}  # number types by their NIfTI datatype code
BLOCK_BYTES = 1 << 20
NIFTI_MAGIC_AT = 344  # bytes into the header
METAIMAGE_KEYS = ("NDims", "DimSize", "ElementType", "ElementDataFile")
METAIMAGE_HEADER_BYTES = 1 << 16
MOST_LABELS = 65535
MOST_COMPRESSION = 1100  # deflate cannot do better than 1032 : 1
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


def read_scan_file(path: Path) -> Reading:
    """Read a CT from NIfTI, NRRD or MetaImage, oriented to LPS, with the grid of the file.

    Oblique direction cosines are kept; axes are only permuted and flipped.  Raises DgmvlcError for
    a file that is missing, truncated, not 3-D, not scalar, or that has non-finite voxels.
    """
    image = read_image(path)
    return Reading(
        volume=volume_from_image(image, source=path),
        grid=grid_of_image(image),
        notes=tuple(_geometry_doubts(image)),
    )


def _geometry_doubts(image: sitk.Image) -> list[str]:
    """What a NIfTI header leaves open about orientation and size."""
    if not image.HasMetaDataKey("qform_code"):
        return []
    if image.GetMetaData("qform_code") == image.GetMetaData("sform_code") == "0":
        return ["no orientation in its header (qform and sform are 0): left may be right"]
    identity = np.allclose(np.abs(image.GetDirection()), AXES_OF_LPS)
    if identity and image.GetSpacing() == (1.0,) * 3 and not any(image.GetOrigin()):
        return ["identity affine in its header: orientation and voxel size may have been lost"]
    return []


def read_volume(path: Path) -> Volume:
    """The volume that read_scan_file gives."""
    return read_scan_file(path).volume


def write_volume(path: Path, volume: Volume) -> None:
    """Write HU as int16 with the right geometry, atomically; same input, same bytes."""
    limits = np.iinfo(np.int16)
    hu = np.clip(np.rint(volume.hu), limits.min, limits.max).astype(np.int16)
    write_on_grid(path, hu, grid_of(volume))


def read_labels(path: Path, like: Volume | None = None) -> np.ndarray:
    """Read a label map as uint8 (z, y, x) in LPS orientation; uint16 if it needs that many values.

    With `like`, the labels are brought onto its grid by nearest neighbour.  Raises DgmvlcError
    where the values are no labels, or where the map does not cover the scan it is meant for.
    """
    image = read_image(path)
    if like is not None and not _same_grid(image, like):
        _require_overlap(image, like, path)
        image = sitk.Resample(
            image, image_of(like.hu, like), sitk.Transform(), sitk.sitkNearestNeighbor
        )
    values = sitk.GetArrayFromImage(oriented(image))
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= MOST_LABELS and np.array_equal(values, np.round(values))):
        raise DgmvlcError(
            f"{path}: not a label map, values run from {low:g} to {high:g}; "
            f"whole numbers in 0..{MOST_LABELS} were expected",
            "Give a mask, not a scan or a probability map.",
        )
    return values.astype(np.uint8 if high < 256 else np.uint16)


def read_lobes(path: Path) -> np.ndarray | None:
    """Lobe labels beside a mask of the workspace, as read_labels; None where there are none."""
    return read_labels(path) if path.exists() else None


def write_labels(path: Path, labels: np.ndarray, volume: Volume) -> None:
    """Write uint8 (z, y, x) labels that lie on the grid of `volume`, atomically."""
    write_on_grid(path, labels.astype(np.uint8), grid_of(volume))


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


def crop_to_lungs(
    volume: Volume, labels: np.ndarray, margin_mm: float
) -> tuple[Volume, np.ndarray]:
    """Crop a scan and its labels to the box around both lungs plus a margin.

    The margin ends where the scan ends.  Raises DgmvlcError if there is no lung.
    """
    box = lung_box(labels, volume.spacing_mm, margin_mm)
    return crop(volume, box), np.ascontiguousarray(labels[box])


def lung_box(
    labels: np.ndarray, spacing_mm: tuple[float, float, float], margin_mm: float
) -> tuple[slice, slice, slice]:
    """Index box (z, y, x) around both lungs, widened by at least margin_mm within the array."""
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


def grid_of_image(image: sitk.Image) -> Grid:
    """Where the voxels of an image lie, in its own order of axes."""
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


def volume_from_image(image: sitk.Image, source: Path) -> Volume:
    """A Volume from a SimpleITK image of HU in any orientation; `source` is named in errors."""
    values = sitk.GetArrayFromImage(image)
    broken = values.size - int(np.isfinite(values).sum())
    if broken:
        raise _not_finite(source, broken)
    return volume_on_grid(values, grid_of_image(image))


def oriented(image: sitk.Image) -> sitk.Image:
    """The image with its axes in the order and sense of LPS; itself where they are already."""
    return image if _is_lps(image.GetDirection()) else sitk.DICOMOrient(image, "LPS")


def _is_lps(direction: tuple[float, ...]) -> bool:
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction) == "LPS"


def read_image(path: Path) -> sitk.Image:
    """Read a complete scalar 3-D image; DgmvlcError names the file and what is wrong with it.

    A fourth axis of length 1 is dropped.
    """
    reader = image_header(path)
    size = reader.GetSize()
    if len(size) == 4 and size[3] == 1:
        reader.SetExtractSize([*size[:3], 0])
    elif len(size) != 3 or reader.GetNumberOfComponents() != 1:
        raise DgmvlcError(
            f"{path}: one 3-D volume was expected, got size {reader.GetSize()} with "
            f"{reader.GetNumberOfComponents()} value(s) per voxel",
            "Split a time series or a multi-channel file into single 3-D volumes.",
        )
    if reader.HasMetaDataKey("vox_offset"):
        _require_sound_nifti(path, reader)
    _require_believable_size(path, reader)
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error


def image_header(path: Path) -> sitk.ImageFileReader:
    """A reader that has read size, type and geometry of an image file, but no voxels yet."""
    if not path.is_file():
        raise DgmvlcError(f"{path}: no such file", "Check the path.")
    if path.suffix.lower() in (".mha", ".mhd"):
        _require_sound_metaimage(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return reader


def _unreadable(path: Path, error: RuntimeError) -> DgmvlcError:
    reason = str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ")
    return DgmvlcError(
        f"{path}: cannot be read as an image; damaged, cut short or of another format ({reason})",
        "Copy or export the file again; NIfTI, NRRD and MHA/MHD are read.",
    )


def _require_sound_metaimage(path: Path) -> None:
    """Refuse a MetaImage whose header is not `Key = value` lines up to ElementDataFile.

    ITK frees memory that it never had on some broken headers, and takes the process down.
    """
    with path.open("rb") as stream:
        lines = stream.read(METAIMAGE_HEADER_BYTES).split(b"\n")
    keys = []
    for line in lines:
        found = re.match(rb"([A-Z][A-Za-z0-9_]*) *= *[ -~\t]*\r?$", line)
        if not found:
            break
        keys.append(found[1].decode())
        if keys[-1] == "ElementDataFile":
            break
    missing = [key for key in METAIMAGE_KEYS if key not in keys]
    if missing:
        raise DgmvlcError(
            f"{path}: its header is damaged (no {', '.join(missing)})",
            "Copy or export the file again.",
        )


def _require_sound_nifti(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse a NIfTI that is cut short or holds non-finite numbers.

    ITK's reader puts zeros in place of both, which is water in HU, and says nothing.
    """
    offset = int(float(reader.GetMetaData("vox_offset")))
    expected = offset + math.prod(reader.GetSize()) * int(reader.GetMetaData("bitpix")) // 8
    try:
        found, broken = _scan_bytes(path, offset, NIFTI_FLOATS.get(reader.GetMetaData("datatype")))
    except (OSError, EOFError, zlib.error) as error:
        raise DgmvlcError(
            f"{path}: the compressed file is damaged or cut short ({error})",
            "Copy or export the file again.",
        ) from error
    if found < expected:
        raise DgmvlcError(
            f"{path}: cut short, {found} bytes where its header promises {expected}",
            "Copy or export the file again.",
        )
    if broken:
        raise _not_finite(path, broken)


def _require_believable_size(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse a header that promises more voxels than its files can hold, before memory is taken."""
    files = (path, *data_files(path))
    if path.suffix.lower() in (".mhd", ".nhdr") and len(files) == 1:
        return  # a list of files, one per slice, which the reader checks itself
    voxels, stored = math.prod(reader.GetSize()), sum(one.stat().st_size for one in files)
    if voxels > MOST_COMPRESSION * stored:
        raise DgmvlcError(
            f"{path}: its header promises {' x '.join(map(str, reader.GetSize()))} voxels, "
            f"which {stored} bytes cannot hold",
            "Copy or export the file again.",
        )


def data_files(path: Path) -> tuple[Path, ...]:
    """The voxel file that an .mhd or .nhdr header names."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return ()
    found = re.search(
        r"^(?:ElementDataFile\s*=|data ?file\s*:)\s*(.+?)\s*$",
        path.read_text(errors="replace"),
        re.IGNORECASE | re.MULTILINE,
    )
    data = path.parent / found[1] if found else path
    return (data,) if data != path and data.is_file() else ()


def _scan_bytes(path: Path, offset: int, number: str | None) -> tuple[int, int]:
    """Bytes of an uncompressed file, and how many of its numbers after `offset` are not finite."""
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if packed else path.open("rb") as stream:
        head = stream.read(offset)
        if head[NIFTI_MAGIC_AT:][:2] not in (b"n+", b"ni"):
            raise DgmvlcError(
                f"{path}: not NIfTI but Analyze 7.5, which does not tell left from right",
                "Convert it to NIfTI from its source again.",
            )
        # The first number of a header is its size, 348, in the file's byte order.
        order = "<" if head[:4] == (348).to_bytes(4, "little") else ">"
        size, broken = len(head), 0
        while block := stream.read(BLOCK_BYTES):
            size += len(block)
            if number is not None:
                whole = block[: len(block) // 8 * 8]
                broken += int((~np.isfinite(np.frombuffer(whole, order + number))).sum())
    return size, broken


def _not_finite(source: Path, broken: int) -> DgmvlcError:
    return DgmvlcError(
        f"{source}: {broken} voxels are not finite numbers",
        "Replace them by -1000 (air) if they are padding, or export the scan again.",
    )


def write_on_grid(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write an array (z, y, x) of any number type that lies on a grid, atomically."""
    if not path.name.endswith(SINGLE_FILE_SUFFIXES):
        raise DgmvlcError(
            f"{path}: unknown format to write an image in",
            f"Use one of {', '.join(SINGLE_FILE_SUFFIXES)}.",
        )
    with atomic_path(path) as part:
        try:
            sitk.WriteImage(image_of_grid(array, grid), str(part), useCompression=True)
        except RuntimeError as error:
            raise DgmvlcError(
                f"{path}: cannot be written ({str(error).strip().splitlines()[-1]})",
                "Check that the disk is not full, and run the same command again.",
            ) from error


def _same_grid(image: sitk.Image, volume: Volume) -> bool:
    """Whether an image of any orientation has the very voxels of a volume."""
    image = oriented(image)
    return image.GetSize()[::-1] == volume.hu.shape and all(
        np.allclose(got, expected, atol=1e-3)
        for got, expected in (
            (image.GetSpacing()[::-1], volume.spacing_mm),
            (image.GetOrigin(), volume.origin_mm),
            (image.GetDirection(), volume.direction),
        )
    )


def _require_overlap(image: sitk.Image, volume: Volume, path: Path) -> None:
    """Refuse a mask that does not reach the middle of its scan."""
    middle = volume.to_lps_mm((np.asarray(volume.hu.shape) - 1) / 2)
    index = image.TransformPhysicalPointToContinuousIndex(tuple(float(mm) for mm in middle))
    if not all(-0.5 <= at <= size - 0.5 for at, size in zip(index, image.GetSize(), strict=True)):
        raise DgmvlcError(
            f"{path}: the mask lies elsewhere than its scan (mask origin {image.GetOrigin()} mm, "
            f"scan origin {volume.origin_mm} mm)",
            "Check that mask and scan belong together and that both headers are right.",
        )


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
