"""Images on disk: NIfTI, NRRD and MetaImage, read with what is wrong with them, written atomically.

ITK reads some damaged files without a word and dies of others: they are refused before.
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.names import SINGLE_FILE_SUFFIXES
from dgmvlc_cli.imaging.volume import (
    AXES_OF_LPS,
    Grid,
    Reading,
    Volume,
    grid_of,
    grid_of_image,
    image_of,
    image_of_grid,
    oriented,
    volume_on_grid,
)
from dgmvlc_cli.workspace import atomic_path

NIFTI_FLOATS = {"16": "f4", "64": "f8"}  # number types by their NIfTI datatype code
BLOCK_BYTES = 1 << 20
NIFTI_MAGIC_AT = 344  # bytes into the header
NIFTI_HEADER_BYTES = 348
NIFTI2_HEADER_BYTES = 540
MOST_SHEAR = 1e-3  # cosine between two axes: half a mm over a chest
SAME_AXIS = math.cos(math.radians(45))
DETACHED = (".mhd", ".nhdr")  # headers that name the file of their voxels
METAIMAGE_KEYS = ("NDims", "DimSize", "ElementType", "ElementDataFile")
METAIMAGE_HEADER_BYTES = 1 << 16
MOST_LABELS = 65535
MOST_COMPRESSION = 1100  # deflate cannot do better than 1032 : 1


def read_scan_file(path: Path) -> Reading:
    """Read a CT from NIfTI, NRRD or MetaImage, oriented to LPS, with the grid of the file.

    Oblique direction cosines are kept; axes are only permuted and flipped.  Raises DgmvlcError for
    a file that is missing, truncated, not 3-D, not scalar, or that has non-finite voxels.
    """
    image = read_image(path)
    return Reading(
        volume=volume_from_image(image, source=path),
        grid=grid_of_image(image),
        notes=tuple(_geometry_doubts(path, image)),
    )


def _geometry_doubts(path: Path, image: sitk.Image) -> list[str]:
    """What a NIfTI header leaves open about orientation and size."""
    if not image.HasMetaDataKey("qform_code"):
        return []
    if image.GetMetaData("qform_code") == image.GetMetaData("sform_code") == "0":
        return ["no orientation in its header (qform and sform are 0): left may be right"]
    identity = np.allclose(np.abs(image.GetDirection()), AXES_OF_LPS)
    if identity and image.GetSpacing() == (1.0,) * 3 and not any(image.GetOrigin()):
        return ["identity affine in its header: orientation and voxel size may have been lost"]
    forms = _nifti_forms(path)
    if len(forms) < 2:
        return []
    apart_mm = _apart_mm(forms["sform"], forms["qform"], image.GetSize())
    if apart_mm > min(image.GetSpacing()) / 2:
        read = min(forms, key=lambda name: _apart_mm(forms[name], _affine(image), image.GetSize()))
        return [f"its sform and qform lie up to {apart_mm:.1f} mm apart; the {read} was read"]
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
    _require_right_angles(path, reader)
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
    reader.SetGlobalWarningDisplay(False)  # its warnings name whole paths; doubts are told here
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return reader


def _require_right_angles(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse sheared axes: distances and volumes would be wrong, and NIfTI would lose the shear."""
    size = reader.GetDimension()
    axes = np.reshape(reader.GetDirection(), (size, size))[:3, :3]
    if np.abs(axes.T @ axes - np.eye(3)).max() > MOST_SHEAR:
        raise _sheared(path, f"direction {' '.join(f'{one:g}' for one in axes.ravel())}")


def _sheared(path: Path, found: str) -> DgmvlcError:
    return DgmvlcError(
        f"{path}: its axes are sheared ({found}); "
        "axes of unit length at right angles were expected",
        "Resample it to such axes first, for example in 3D Slicer (Resample Scalar/Vector/DWI "
        "Volume), or give the DICOM series, whose tilt is corrected here.",
    )


def _unreadable(path: Path, error: RuntimeError) -> DgmvlcError:
    if "orthonormal" in str(error):
        return _sheared(path, "in its sform, and it has no qform")
    if path.suffix.lower() in DETACHED:  # the reason would name another file, and maybe a patient
        return DgmvlcError(
            f"{path}: cannot be read as an image; damaged, or the file of voxels that it names is "
            "missing, cut short or of another size",
            "Copy header and voxels again, side by side and under their names.",
        )
    if _is_nifti2(path):
        return DgmvlcError(
            f"{path}: a NIfTI-2 file, which ITK does not read; NIfTI-1 was expected",
            "Convert it, with nibabel: nib.save(nib.Nifti1Image.from_image(nib.load(IN)), OUT).",
        )
    reason = str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ")
    return DgmvlcError(
        f"{path}: cannot be read as an image; damaged, cut short or of another format ({reason})",
        "Copy or export the file again; NIfTI, NRRD and MHA/MHD are read.",
    )


def _is_nifti2(path: Path) -> bool:
    """Source: https://nifti.nimh.nih.gov/pub/dist/doc/nifti2.h"""
    try:
        with _unpacked(path) as stream:
            head = stream.read(8)
    except (OSError, EOFError, zlib.error):
        return False
    sizes = (NIFTI2_HEADER_BYTES.to_bytes(4, order) for order in ("little", "big"))
    return head[:4] in sizes and head[4:7] in (b"n+2", b"ni2")


def _unpacked(path: Path) -> BinaryIO | gzip.GzipFile:
    """A file opened to read its bytes, through gzip where its name says so."""
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


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


def _nifti_forms(path: Path) -> dict[str, np.ndarray]:
    """The placings that a NIfTI header gives, `sform` and `qform`: index to LPS in mm, (3, 4).

    ITK reads one of them, and does not tell which.
    Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    """
    with _unpacked(path) as stream:
        head = stream.read(NIFTI_HEADER_BYTES)
    order = _byte_order(head)
    qform_code, sform_code = np.frombuffer(head, f"{order}i2", 2, 252)
    pixdim, quatern, srow = (
        np.frombuffer(head, f"{order}f4", count, offset).astype(float)
        for offset, count in ((76, 4), (256, 6), (280, 12))
    )
    b, c, d = quatern[:3]
    turn = Rotation.from_quat([b, c, d, math.sqrt(max(0.0, 1 - b * b - c * c - d * d))])
    steps = pixdim[1:] * (1, 1, -1 if pixdim[0] < 0 else 1)
    qform = np.column_stack([turn.as_matrix() * steps, quatern[3:]])
    to_lps = np.diag([-1.0, -1.0, 1.0])
    forms = {"qform": (qform_code, qform), "sform": (sform_code, srow.reshape(3, 4))}
    return {
        name: to_lps @ form
        for name, (code, form) in forms.items()
        if code > 0 and np.linalg.norm(form[:, :3], axis=0).all() and np.isfinite(form).all()
    }


def _affine(image: sitk.Image) -> np.ndarray:
    """Index to LPS in mm, (3, 4)."""
    steps = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.column_stack([steps, image.GetOrigin()])


def _apart_mm(one: np.ndarray, other: np.ndarray, size: tuple[int, ...]) -> float:
    """How far apart two placings of an image put its corners, at most."""
    ends = np.array(list(itertools.product(*((0, length - 1) for length in size[:3]))))
    between = np.column_stack([ends, np.ones(len(ends))]) @ (one - other).T
    return float(np.linalg.norm(between, axis=1).max())


def _require_one_placing(path: Path) -> None:
    """Refuse a NIfTI whose two forms put left and right, or whole axes, elsewhere, or shear."""
    forms = _nifti_forms(path)
    if len(forms) < 2:
        return
    axes = {name: form[:, :3] / np.linalg.norm(form[:, :3], axis=0) for name, form in forms.items()}
    if np.abs(axes["sform"].T @ axes["sform"] - np.eye(3)).max() > MOST_SHEAR:
        raise DgmvlcError(
            f"{path}: its sform is sheared, as of a tilted gantry, and its qform is not",
            "Take the file that was corrected for the tilt (dcm2niix names it _Tilt), the DICOM "
            "series itself, or resample by the sform to axes at right angles.",
        )
    if np.diag(axes["sform"].T @ axes["qform"]).min() < SAME_AXIS:
        raise DgmvlcError(
            f"{path}: its sform and qform disagree about the axes; one may exchange left and right",
            "Look in a viewer which of them is true (most programs go by the sform), and write "
            "that into both; or convert the scan from its source again.",
        )


def _require_sound_nifti(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse a NIfTI that is cut short or holds non-finite numbers, or that lies in two ways.

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
    _require_one_placing(path)


def _require_believable_size(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse a header that promises more voxels than its files can hold, before memory is taken."""
    files = (path, *data_files(path))
    if path.suffix.lower() in DETACHED and len(files) == 1:
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
    if path.suffix.lower() not in DETACHED:
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
    with _unpacked(path) as stream:
        head = stream.read(offset)
        if head[NIFTI_MAGIC_AT:][:2] not in (b"n+", b"ni"):
            raise DgmvlcError(
                f"{path}: not NIfTI but Analyze 7.5, which does not tell left from right",
                "Convert it to NIfTI from its source again.",
            )
        order, size, broken = _byte_order(head), len(head), 0
        while block := stream.read(BLOCK_BYTES):
            size += len(block)
            if number is not None:
                whole = block[: len(block) // 8 * 8]
                broken += int((~np.isfinite(np.frombuffer(whole, order + number))).sum())
    return size, broken


def _byte_order(head: bytes) -> str:
    """Of a NIfTI header, whose first number is its size."""
    return "<" if head[:4] == NIFTI_HEADER_BYTES.to_bytes(4, "little") else ">"


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


def volume_from_image(image: sitk.Image, source: Path) -> Volume:
    """A Volume from a SimpleITK image of HU in any orientation; `source` is named in errors."""
    values = sitk.GetArrayFromImage(image)
    broken = values.size - int(np.isfinite(values).sum())
    if broken:
        raise _not_finite(source, broken)
    return volume_on_grid(values, grid_of_image(image))
