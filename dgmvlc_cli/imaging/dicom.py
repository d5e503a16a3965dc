"""A CT series from DICOM files, on a grid that is checked before it is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import AIR_HU, Volume, volume_from_image

LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50": "JPEG baseline (8 bit)",
    "1.2.840.10008.1.2.4.51": "JPEG extended (12 bit)",
    "1.2.840.10008.1.2.4.53": "JPEG spectral selection",
    "1.2.840.10008.1.2.4.55": "JPEG full progression",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "PatientID",
    "Modality",
    "ImageType",
    "NumberOfFrames",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SliceThickness",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelRepresentation",
    "PixelPaddingValue",
    "RescaleSlope",
    "RescaleIntercept",
]
DIRECTION_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-3
DUPLICATE_GAP_MM = 1e-2
GAP_TOLERANCE = (
    0.05  # of the usual gap; headers are rounded, and tables do not run to the micrometre
)
MISSING_GAP = 1.5  # of the usual gap
TILT_TOLERANCE_DEGREES = 0.5
# Padding declared at a HU that tissue has would cut holes into the patient: such a header is wrong.
BELIEVABLE_PADDING_HU = (-900.0, 3071.0)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What the header of one slice says.

    rows_cols: pixels.  pixel_mm: spacing between rows, between columns.  position_mm: LPS (x, y, z)
    of the first pixel.  row, column: unit vectors along increasing column and row index.
    """

    path: Path
    rows_cols: tuple[int, int]
    pixel_mm: tuple[float, float]
    thickness_mm: float | None
    position_mm: np.ndarray
    row: np.ndarray
    column: np.ndarray
    padding_hu: float | None


def read_series(
    files: Sequence[Path], unreadable: Sequence[Path] = (), allow_lossy: bool = False
) -> Volume:
    """Read the slices of one CT series, in any order, as a Volume oriented to LPS.

    unreadable: damaged files that lay beside the slices; named where a slice is missing.
    Raises DgmvlcError for a file that cannot be read, for anything but single-frame CT, lossy
    compression, unequal sizes or orientations, duplicate or missing slices, irregular gaps and
    gantry tilt.
    """
    if not files:
        raise DgmvlcError("a DICOM series without files", "Give the folder that holds the slices.")
    slices = [_slice_of(path, read_header(path), allow_lossy) for path in files]
    _require_consistent(slices)
    normal = np.cross(slices[0].row, slices[0].column)
    slices.sort(key=lambda one: float(one.position_mm @ normal))
    _require_upright(slices, normal)
    gap_mm = _regular_gap(slices, normal, unreadable)
    return _stack(slices, normal, gap_mm)


def read_header(path: Path) -> Dataset:
    """The tags of HEADER_TAGS and the file meta of one DICOM file; DgmvlcError if it is damaged."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
        # Values are parsed when first asked for: ask now, so that damage shows here.
        for name in HEADER_TAGS:
            header.get(name)
    except Exception as error:  # a broken header makes the parser fail in any way
        raise DgmvlcError(
            f"{path}: damaged DICOM file ({error})", "Export the series again, or remove the file."
        ) from error
    if "SOPClassUID" not in header:
        raise DgmvlcError(
            f"{path}: the DICOM header is cut short", "Export the series again, or remove the file."
        )
    return header


def refusal(header: Dataset) -> str:
    """Why a DICOM object cannot be a slice of a CT volume; empty if it can."""
    modality = header.get("Modality", "?")
    kinds = [str(kind).upper() for kind in header.get("ImageType", None) or []]
    if modality != "CT":
        return f"modality {modality}, not CT"
    if "LOCALIZER" in kinds or "SCOUT" in kinds:
        return "a localizer (scout view), not an axial series"
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        return "an enhanced multi-frame file"
    if int(header.get("SamplesPerPixel", 1)) > 1:
        return "a colour picture (secondary capture), not a CT image"
    if "ImagePositionPatient" not in header or "ImageOrientationPatient" not in header:
        return "no position or orientation in its header"
    return ""


def lossy_compression(header: Dataset) -> str:
    """Name of the lossy transfer syntax of a file; empty if it is lossless."""
    return LOSSY_SYNTAXES.get(str(header.file_meta.get("TransferSyntaxUID", "")), "")


def _slice_of(path: Path, header: Dataset, allow_lossy: bool) -> Slice:
    reason = refusal(header)
    if reason:
        raise DgmvlcError(f"{path}: {reason}", "Convert it to NIfTI, or choose another series.")
    lossy = lossy_compression(header)
    if lossy and not allow_lossy:
        raise DgmvlcError(
            f"{path}: compressed with loss ({lossy}), its HU are not those of the scanner",
            "Export the series without lossy compression.",
        )
    try:
        return _parse(path, header)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise DgmvlcError(
            f"{path}: its header lacks a value or holds a broken one ({error})",
            "Export the series again.",
        ) from error


def _parse(path: Path, header: Dataset) -> Slice:
    orientation = np.array(header.ImageOrientationPatient, float)
    thickness = header.get("SliceThickness")
    return Slice(
        path=path,
        rows_cols=(int(header.Rows), int(header.Columns)),
        pixel_mm=(float(header.PixelSpacing[0]), float(header.PixelSpacing[1])),
        thickness_mm=float(thickness) if thickness else None,
        position_mm=np.array(header.ImagePositionPatient, float),
        row=orientation[:3] / np.linalg.norm(orientation[:3]),
        column=orientation[3:] / np.linalg.norm(orientation[3:]),
        padding_hu=_padding_hu(header),
    )


def _padding_hu(header: Dataset) -> float | None:
    """HU at which the voxels outside the reconstructed circle are stored, if declared."""
    stored = header.get("PixelPaddingValue")
    if stored is None:
        return None
    signed = int(header.get("PixelRepresentation", 0)) == 1
    # Writers mix up the two representations of the tag: 63536 is -2000 in 16 signed bits.
    bits = int(stored) & 0xFFFF
    value = bits - 0x10000 if signed and bits > 0x7FFF else bits
    hu = value * float(header.get("RescaleSlope", 1) or 1) + float(
        header.get("RescaleIntercept", 0) or 0
    )
    low, high = BELIEVABLE_PADDING_HU
    return None if low < hu < high else hu


def _require_consistent(slices: Sequence[Slice]) -> None:
    """Refuse a mixture of sizes, pixel spacings or orientations."""
    first = slices[0]
    for one in slices[1:]:
        if one.rows_cols != first.rows_cols:
            _mixture(first, one, "size", first.rows_cols, one.rows_cols)
        if not np.allclose(one.pixel_mm, first.pixel_mm, atol=SPACING_TOLERANCE_MM):
            _mixture(first, one, "pixel spacing", first.pixel_mm, one.pixel_mm)
        turn = np.abs(np.r_[one.row - first.row, one.column - first.column]).max()
        if turn > DIRECTION_TOLERANCE:
            _mixture(first, one, "orientation", first.row.tolist(), one.row.tolist())


def _mixture(first: Slice, other: Slice, what: str, expected: object, got: object) -> None:
    raise DgmvlcError(
        f"{other.path}: {what} {got} differs from {expected} in {first.path.name}",
        "Keep one series per folder; these slices belong to different ones.",
    )


def _require_upright(slices: Sequence[Slice], normal: np.ndarray) -> None:
    """Refuse slices that are stacked along another line than their normal."""
    run = slices[-1].position_mm - slices[0].position_mm
    length = float(np.linalg.norm(run))
    if length < DUPLICATE_GAP_MM:
        return
    tilt = float(np.degrees(np.arccos(np.clip(run @ normal / length, -1.0, 1.0))))
    if tilt > TILT_TOLERANCE_DEGREES:
        raise DgmvlcError(
            f"{slices[0].path.parent}: gantry tilt of {tilt:.1f} degrees; the slices are not "
            "stacked along their normal",
            "Correct the tilt first (for example `dcm2niix -i y`), and give the NIfTI file.",
        )


def _regular_gap(slices: Sequence[Slice], normal: np.ndarray, unreadable: Sequence[Path]) -> float:
    """Distance between slices in mm; DgmvlcError where it is not the same throughout."""
    if len(slices) == 1:
        return slices[0].thickness_mm or 1.0
    places = [float(one.position_mm @ normal) for one in slices]
    gaps = np.diff(places)
    usual = (
        float(np.median(gaps[gaps > DUPLICATE_GAP_MM])) if gaps.max() > DUPLICATE_GAP_MM else 0.0
    )
    for before, after, gap in zip(slices, slices[1:], gaps, strict=False):
        if gap < DUPLICATE_GAP_MM:
            raise DgmvlcError(
                f"{after.path}: at the same position as {before.path.name}",
                "Remove the copy, or the slice of another reconstruction.",
            )
        if gap > MISSING_GAP * usual:
            raise _missing(before, after, float(gap), usual, unreadable)
    if np.abs(gaps - usual).max() > GAP_TOLERANCE * usual:
        raise DgmvlcError(
            f"{slices[0].path.parent}: irregular gaps between slices, {gaps.min():.2f} to "
            f"{gaps.max():.2f} mm",
            "Keep one reconstruction per folder, or export the series with one gap.",
        )
    return (places[-1] - places[0]) / (len(slices) - 1)


def _missing(
    before: Slice, after: Slice, gap: float, usual: float, unreadable: Sequence[Path]
) -> DgmvlcError:
    lost = max(round(gap / usual) - 1, 1)
    first = before.position_mm + (after.position_mm - before.position_mm) * usual / gap
    damaged = ", ".join(path.name for path in unreadable)
    return DgmvlcError(
        f"{before.path.parent}: {lost} slice(s) missing at z = {first[2]:.1f} mm, between "
        f"{before.path.name} and {after.path.name} (gap {gap:.2f} mm, elsewhere {usual:.2f} mm)"
        + (f"; damaged beside them: {damaged}" if damaged else ""),
        "Export the series again, complete.",
    )


def _stack(slices: Sequence[Slice], normal: np.ndarray, gap_mm: float) -> Volume:
    rows, columns = slices[0].rows_cols
    hu = np.empty((len(slices), rows, columns), np.float32)
    for plane, one in zip(hu, slices, strict=True):
        plane[:] = _decode(one)
    image = sitk.GetImageFromArray(hu)
    down_mm, across_mm = slices[0].pixel_mm
    image.SetSpacing((across_mm, down_mm, gap_mm))
    image.SetOrigin(tuple(float(mm) for mm in slices[0].position_mm))
    image.SetDirection(np.stack([slices[0].row, slices[0].column, normal], axis=1).ravel().tolist())
    return volume_from_image(image, source=slices[0].path.parent)


def _decode(one: Slice) -> np.ndarray:
    """HU (rows, columns) of one slice, its own slope and intercept applied, padding as air."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(one.path))
    try:
        hu = sitk.GetArrayFromImage(reader.Execute()).reshape(one.rows_cols).astype(np.float32)
    except (RuntimeError, ValueError) as error:
        raise DgmvlcError(
            f"{one.path}: its pixels cannot be read, the file is damaged or cut short",
            "Export the series again; without this slice the volume has a hole.",
        ) from error
    if one.padding_hu is not None:
        hu[np.abs(hu - one.padding_hu) < 0.5] = AIR_HU
    return hu
