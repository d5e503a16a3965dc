"""A CT series from DICOM files: what their headers say, and their pixels as HU."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.files import MOST_COMPRESSION
from dgmvlc_cli.imaging.stacking import MOST_LOST, Slice, in_order, stack
from dgmvlc_cli.imaging.vocabulary import MODALITIES
from dgmvlc_cli.imaging.volume import AIR_HU, Reading, volume_on_grid

LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50": "JPEG baseline (8 bit)",
    "1.2.840.10008.1.2.4.51": "JPEG extended (12 bit)",
    "1.2.840.10008.1.2.4.53": "JPEG spectral selection",
    "1.2.840.10008.1.2.4.55": "JPEG full progression",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
}
HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SeriesDescription",
    "PatientID",
    "Modality",
    "ImageType",
    "NumberOfFrames",
    "InstanceNumber",
    "ImagesInAcquisition",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SliceThickness",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "PatientPosition",
    "ConvolutionKernel",
    "KVP",
    "Manufacturer",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "LossyImageCompression",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
ENHANCED = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PREAMBLE_BYTES = 128
# How a file without preamble begins: file meta, or the length, character set, type, date, class or
# instance of the object, each with a type of value in two letters or a short length.
BARE_STARTS = tuple(
    group.to_bytes(2, "little") + element.to_bytes(2, "little")
    for group, elements in (
        (0x0002, (0x0000, 0x0001, 0x0002, 0x0003, 0x0010)),
        (0x0008, (0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0016, 0x0018)),
    )
    for element in elements
)
NOT_AXIAL_TYPES = ("LOCALIZER", "SCOUT", "TOPOGRAM")
MOST_LISTED = 5
MOST_SHEAR = 1e-2  # cosine between rows and columns: what is less is rounding
MOST_PIXELS = 1 << 26  # of one slice: 8192 x 8192
# Padding declared at a HU that tissue has would cut holes into the patient: such a header is wrong.
BELIEVABLE_PADDING_HU = (-900.0, 3071.0)


def read_series(
    files: Sequence[Path],
    unreadable: Sequence[Path] = (),
    *,
    allow_lossy: bool = False,
    max_missing: int = 1,
) -> Reading:
    """Read the slices of one CT series, in any order; classic files or enhanced multi-frame ones.

    unreadable: damaged files that lay beside the slices; named where a slice is missing.
    max_missing: how many slices in a row may be missing or damaged, and are then interpolated.
    Gantry tilt and irregular gaps are resampled from the true positions, and told.
    Raises DgmvlcError for a file that cannot be read, for anything but CT, lossy compression
    unless allowed, unequal sizes or orientations, two slices at one place, and missing slices.
    """
    if not files:
        raise DgmvlcError("a DICOM series without files", "Give the folder that holds the slices.")
    headers = {path: read_header(path) for path in files}
    lossy = {_require_ct(path, header, allow_lossy) for path, header in headers.items()} - {""}
    slices = in_order([one for path, h in headers.items() for one in slices_of(path, h)])
    _require_believable_size(slices)
    hu, damaged = _decode_all(slices)
    most = min(max(MOST_LOST * len(slices), max_missing), len(slices) - 1)
    if _longest_run(damaged) > max_missing or sum(damaged) > most:
        raise _undecodable(*(one for one, bad in zip(slices, damaged, strict=True) if bad))
    kept = [one for one, bad in zip(slices, damaged, strict=True) if not bad]
    lost = [one.name for one, bad in zip(slices, damaged, strict=True) if bad]
    lost += [path.name for path in unreadable]
    stacked = stack(kept, hu, max_missing=max_missing, unreadable=lost)
    notes = [f"compressed with loss ({name}): HU are not those of the scanner" for name in lossy]
    return Reading(
        volume=volume_on_grid(stacked.hu, stacked.grid),
        grid=stacked.grid,
        facts={**stacked.facts, "lossy": ", ".join(sorted(lossy))},
        notes=(*sorted(notes), *stacked.notes),
    )


def claims_dicom(path: Path) -> bool:
    """Whether a file is named or begins as DICOM does; the index of a medium is no slice."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        return _has_preamble(head := _head(path)) or _is_bare(head)
    except OSError:
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(PREAMBLE_BYTES + 4)


def _has_preamble(head: bytes) -> bool:
    return head[PREAMBLE_BYTES:] == b"DICM"


def _is_bare(head: bytes) -> bool:
    """Whether a file begins with the elements of a DICOM object at once, as of older archives."""
    length = head[4:8]
    typed = length[:2].isalpha() and length[:2].isupper()
    return head.startswith(BARE_STARTS) and (typed or length[1:] == bytes(3))


def read_header(path: Path) -> Dataset:
    """The tags of HEADER_TAGS and the file meta of one DICOM file; DgmvlcError if it is damaged."""
    try:
        with _quiet_parser():
            header = _parsed(path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
            # Values are parsed when first asked for: ask now, so that damage shows here.
            for name in HEADER_TAGS:
                header.get(name)
    except Exception as error:  # a broken header makes the parser fail in any way
        raise _damaged(path, error) from error
    if "SOPClassUID" not in header:
        raise DgmvlcError(
            f"{path}: the DICOM header is cut short", "Export the series again, or remove the file."
        )
    return header


def _parsed(path: Path, **options: Any) -> FileDataset:
    """What the parser makes of a file, with a preamble or bare."""
    try:
        return pydicom.dcmread(path, **options)
    except InvalidDicomError:
        if not _is_bare(_head(path)):
            raise
        return pydicom.dcmread(path, force=True, **options)


@contextlib.contextmanager
def _quiet_parser() -> Iterator[None]:
    """No warnings of the parser: they quote the header, and with it the patient."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refusal(header: Dataset) -> str:
    """Why a DICOM object cannot be part of a CT volume; empty if it can."""
    modality = modality_of(header)
    if modality != "CT":
        return f"modality {modality or 'unknown'}, not CT"
    if set(NOT_AXIAL_TYPES) & set(image_type(header)):
        return "a localizer (scout view), not an axial series"
    if _count(header, "SamplesPerPixel", 1) > 1:
        return "a colour picture (secondary capture), not a CT image"
    if str(header.get("PhotometricInterpretation", "")).strip().upper() == "MONOCHROME1":
        return "inverted grey values (MONOCHROME1), not MONOCHROME2"
    if _count(header, "NumberOfFrames", 1) > 1 and not is_enhanced(header):
        return "a multi-frame file without positions (cine or secondary capture)"
    if is_enhanced(header):
        return "" if header.get("PerFrameFunctionalGroupsSequence") else "no positions of frames"
    if not header.get("ImagePositionPatient") or not header.get("ImageOrientationPatient"):
        return "no position or orientation in its header"
    return ""


def modality_of(header: Dataset) -> str:
    """Modality by its DICOM code; empty where it is none."""
    modality = str(header.get("Modality", "")).upper()
    return modality if modality in MODALITIES else ""


def is_enhanced(header: Dataset) -> bool:
    """Whether a file holds a whole volume as an enhanced CT does."""
    return header.get("SOPClassUID") in ENHANCED


def image_type(header: Dataset) -> list[str]:
    """Values of ImageType in capitals; none where it is absent or broken."""
    value = header.get("ImageType", None) or []
    return [str(one).upper() for one in ([value] if isinstance(value, str) else value)]


def lossy_compression(header: Dataset) -> str:
    """How a file was compressed with loss, now or before; empty if it never was."""
    syntax = LOSSY_SYNTAXES.get(str(header.file_meta.get("TransferSyntaxUID", "")), "")
    if not syntax and str(header.get("LossyImageCompression", "")) == "01":
        return "before it was stored as it is now"
    return syntax


def slices_of(path: Path, header: Dataset) -> list[Slice]:
    """The slice of a classic file, or the slices of an enhanced one.

    Raises DgmvlcError that names the tag which is missing or broken.
    """
    try:
        with _quiet_parser():
            return _slices_of(path, header)
    except DgmvlcError:
        raise
    except Exception as error:  # broken functional groups make the parser fail in any way
        raise _damaged(path, error) from error


def group_value(header: Dataset, name: str) -> Any:
    """The value of a tag, of an enhanced file from its functional groups too; None if absent.

    Of frames that differ, the first's.
    """
    if header.get(name) not in (None, "") or not is_enhanced(header):
        return header.get(name)
    try:
        with _quiet_parser():
            shared = list(header.get("SharedFunctionalGroupsSequence") or [])
            frames = list(header.get("PerFrameFunctionalGroupsSequence") or [])
            found = (item.get(name) for item in _members(*shared, *frames[:1]))
            return next((value for value in found if value not in (None, "")), None)
    except Exception:  # broken functional groups make the parser fail in any way
        return None


def _slices_of(path: Path, header: Dataset) -> list[Slice]:
    if not is_enhanced(header):
        return [_slice(path, None, header, _Tags([header], path))]
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    frames = header.PerFrameFunctionalGroupsSequence
    return [
        _slice(path, index, header, _Tags([*_members(frame), *_members(*shared), header], path))
        for index, frame in enumerate(frames)
    ]


def _members(*groups: Dataset) -> Iterator[Dataset]:
    """The items inside the sequences of functional groups."""
    for group in groups:
        for element in group:
            if element.VR == "SQ":
                yield from element.value


class _Tags:
    """Numbers of the first dataset that has a tag; an error names file and tag, not the value."""

    def __init__(self, datasets: list[Dataset], path: Path) -> None:
        self.datasets = datasets
        self.path = path

    def raw(self, name: str) -> Any:
        return next((d[name].value for d in self.datasets if d.get(name) not in (None, "")), None)

    def numbers(self, name: str, count: int) -> np.ndarray:
        try:
            values = np.array(self.raw(name), float).reshape(count)
        except (TypeError, ValueError):
            values = np.full(count, np.nan)
        if not np.isfinite(values).all():
            raise DgmvlcError(
                f"{self.path}: its header lacks a value or holds a broken one ({name})",
                "Export the series again.",
            )
        return values

    def number(self, name: str, default: float) -> float:
        return default if self.raw(name) is None else float(self.numbers(name, 1)[0])


def _slice(path: Path, frame: int | None, header: Dataset, tags: _Tags) -> Slice:
    orientation = tags.numbers("ImageOrientationPatient", 6)
    lengths = np.linalg.norm(orientation.reshape(2, 3), axis=1)
    pixel = tags.numbers("PixelSpacing", 2)
    if not (pixel > 0).all() or not (np.abs(lengths - 1) < 0.1).all():
        raise DgmvlcError(
            f"{path}: its header lacks a value or holds a broken one (PixelSpacing, "
            "ImageOrientationPatient)",
            "Export the series again.",
        )
    row, column = orientation[:3] / lengths[0], orientation[3:] / lengths[1]
    if abs(row @ column) > MOST_SHEAR:
        degrees = np.degrees(np.arccos(np.clip(row @ column, -1.0, 1.0)))
        raise DgmvlcError(
            f"{path}: its rows and columns are at {degrees:.1f} degrees "
            "(ImageOrientationPatient), 90 were expected",
            "Export the series again, without shear.",
        )
    slope, intercept = tags.number("RescaleSlope", 1.0), tags.number("RescaleIntercept", 0.0)
    return Slice(
        path=path,
        frame=frame,
        rows_cols=(_count(header, "Rows", 0), _count(header, "Columns", 0)),
        pixel_mm=(float(pixel[0]), float(pixel[1])),
        thickness_mm=tags.number("SliceThickness", 0.0) or None,
        position_mm=tags.numbers("ImagePositionPatient", 3),
        row=row,
        column=column,
        slope=slope or 1.0,
        intercept=intercept,
        padding_hu=_padding_hu(header, slope or 1.0, intercept),
        number=None if frame is not None else _count(header, "InstanceNumber", 0) or None,
        of=_count(header, "ImagesInAcquisition", 0) or None,
    )


def _count(header: Dataset, name: str, default: int) -> int:
    """A count of the header; the default where it is absent or no number."""
    try:
        return int(header.get(name) or default)
    except (TypeError, ValueError):
        return default


def _padding_hu(header: Dataset, slope: float, intercept: float) -> tuple[float, float] | None:
    """HU range in which the voxels outside the reconstructed circle are stored, if declared."""
    stored = [
        _as_stored(header, name)
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if header.get(name) is not None
    ]
    ends = [value * slope + intercept for value in stored if value is not None]
    if not ends:
        return None
    low, high = BELIEVABLE_PADDING_HU
    return None if min(ends) < high and max(ends) > low else (min(ends), max(ends))


def _as_stored(header: Dataset, name: str) -> int | None:
    """A pixel value of the header; writers mix up its signs: 63536 is -2000 in 16 signed bits."""
    try:
        bits = int(header.get(name)) & 0xFFFF
    except (TypeError, ValueError):
        return None
    signed = _count(header, "PixelRepresentation", 0) == 1
    return bits - 0x10000 if signed and bits > 0x7FFF else bits


def _require_ct(path: Path, header: Dataset, allow_lossy: bool) -> str:
    """How a file was compressed with loss; DgmvlcError if it is no CT slice, or lossy unasked."""
    if reason := refusal(header):
        raise DgmvlcError(f"{path}: {reason}", "Convert it to NIfTI, or choose another series.")
    lossy = lossy_compression(header)
    if lossy and not allow_lossy:
        raise DgmvlcError(
            f"{path}: compressed with loss ({lossy}), its HU are not those of the scanner",
            "Export the series without lossy compression; or accept it with --allow-lossy.",
        )
    return lossy


def _require_believable_size(slices: Sequence[Slice]) -> None:
    """Refuse sizes that a damaged header makes up, before memory is taken for them."""
    rows, columns = slices[0].rows_cols
    stored = sum(path.stat().st_size for path in {one.path for one in slices})
    if not 0 < rows * columns <= MOST_PIXELS or (
        rows * columns * len(slices) > MOST_COMPRESSION * stored
    ):
        raise DgmvlcError(
            f"{slices[0].path}: {len(slices)} slices of {rows} x {columns} pixels, which "
            f"{stored} bytes cannot hold",
            "Export the series again, its header is damaged.",
        )


def _decode_all(slices: Sequence[Slice]) -> tuple[np.ndarray, list[bool]]:
    """HU (n, rows, columns) of the slices that can be read, and of each whether it cannot."""
    hu = np.empty((len(slices), *slices[0].rows_cols), np.float32)
    frames: dict[Path, list[np.ndarray]] = {}
    damaged: list[bool] = []
    for one in slices:
        try:
            hu[len(damaged) - sum(damaged)] = _decode(one, frames)
            damaged.append(False)
        except DgmvlcError:
            damaged.append(True)
    return hu[: len(damaged) - sum(damaged)], damaged


def _longest_run(flags: Sequence[bool]) -> int:
    return max((len(list(group)) for flag, group in itertools.groupby(flags) if flag), default=0)


def _decode(one: Slice, frames: dict[Path, list[np.ndarray]]) -> np.ndarray:
    """HU (rows, columns) of one slice, its own slope and intercept applied, padding as air."""
    if one.frame is None:
        hu = _decode_file(one.path, one)
    else:
        if one.path not in frames:
            frames[one.path] = _decode_frames(one)
        if one.frame >= len(frames[one.path]):
            raise _undecodable(one)
        hu = frames[one.path][one.frame] * np.float32(one.slope) + np.float32(one.intercept)
    if one.padding_hu is not None:
        low, high = one.padding_hu
        hu[(hu > low - 0.5) & (hu < high + 0.5)] = AIR_HU
    return hu


def _decode_file(path: Path, one: Slice) -> np.ndarray:
    """The pixels of a single-frame file after its slope and intercept, float32."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        values = sitk.GetArrayFromImage(reader.Execute()).reshape(one.rows_cols)
    except (RuntimeError, ValueError) as error:
        raise _undecodable(one) from error
    return values.astype(np.float32)


def _decode_frames(one: Slice) -> list[np.ndarray]:
    """The stored values of all frames of an enhanced file, before slope and intercept."""
    try:
        with _quiet_parser():
            dataset = _parsed(one.path)
        if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            return list(dataset.pixel_array.reshape(-1, *one.rows_cols).astype(np.float32))
        frames = generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames))
        with tempfile.TemporaryDirectory() as folder:
            return [
                _decode_file(_as_single_frame(dataset, data, Path(folder)), one) for data in frames
            ]
    except DgmvlcError:
        raise
    except Exception as error:  # damaged pixels make the parser fail in any way
        raise _undecodable(one) from error


def _as_single_frame(dataset: Dataset, data: bytes, folder: Path) -> Path:
    """One frame as a classic file, for the decoder, which knows every compression."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    path = folder / "frame.dcm"
    single = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    single.SOPClassUID, single.SOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
    for name in (
        "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated",
        "BitsStored", "HighBit", "PixelRepresentation",
    ):  # fmt: skip
        setattr(single, name, dataset[name].value)
    single.PixelData = pydicom.encaps.encapsulate([data])
    single["PixelData"].VR = "OB"
    single.save_as(path, enforce_file_format=True)
    return path


def _damaged(path: Path, error: Exception) -> DgmvlcError:
    """Without the parser's own words: they may quote the header, and with it the patient."""
    return DgmvlcError(
        f"{path}: damaged DICOM file ({type(error).__name__})",
        "Export the series again, or remove the file.",
    )


def _undecodable(one: Slice, *others: Slice) -> DgmvlcError:
    also = ", ".join(other.name for other in others[:MOST_LISTED])
    also += ", ..." if len(others) > MOST_LISTED else ""
    verb = "is" if len(others) == 1 else "are"
    return DgmvlcError(
        f"{one.path}: its pixels cannot be read, the file is damaged or cut short"
        + (f"; so {verb} {also}" if others else ""),
        "Export the series again; without this slice the volume has a hole.",
    )
