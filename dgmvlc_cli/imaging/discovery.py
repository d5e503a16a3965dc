"""Which scans lie under a folder, whose they are, and why a file was passed over."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.dicom import read_header, refusal
from dgmvlc_cli.imaging.volume import NIFTI_SUFFIXES, image_header, is_image_name, read_image, stem

MASK_WORDS = re.compile(r"mask|label|seg|lobes|lungs?[-_]|wholelung|roi|airway", re.IGNORECASE)
MASK_TYPES = (sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkUInt32, sitk.sitkUInt64)
MASK_MAX_VALUES = 64  # more distinct values than any label map of the thorax has in use
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One CT of one subject.

    path: the image file, or the folder of the first slice.  kind: nifti, nrrd, mha or dicom.
    files: all files that make up the scan.  size: bytes of them all.
    unreadable: damaged DICOM files in the same folder, which may be slices of it.
    """

    subject: str
    path: Path
    kind: str
    files: tuple[Path, ...]
    series_uid: str = ""
    size: int = 0
    unreadable: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A file or folder that is no scan to work on, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What lies under a folder: the chosen scans in order of subject, and all the rest."""

    scans: list[Scan] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)


def survey(root: Path, exclude: Iterable[Path] = ()) -> Survey:
    """Look at every file under a folder, or at one file, and choose one scan per subject.

    Subject: DICOM PatientID, else the folder's name; for other formats the file's name without
    suffix, or the folder's path where several folders hold files of one name.  Of a subject's
    scans the one with most files, then most bytes, then the first path is chosen.
    exclude: folders below root that are not looked into, such as one's own outputs.
    Raises DgmvlcError if there is no scan at all.
    """
    if not root.exists():
        raise DgmvlcError(f"{root}: no such file or folder", "Check the path of the scans.")
    images, others = _files(root, [folder.resolve() for folder in exclude])
    passed: list[PassedOver] = []
    scans = [*_image_scans(images, root, passed), *_dicom_scans(others, passed)]
    chosen = _one_per_subject(scans, passed)
    if not chosen:
        seen = "; ".join(f"{one.path.name}: {one.reason}" for one in passed[:3])
        raise DgmvlcError(
            f"{root}: no CT scan found"
            + (f" ({seen})" if seen else ", no image and no DICOM file"),
            "Give the folder that holds NIfTI, NRRD, MHA/MHD files or DICOM series.",
        )
    return Survey(scans=chosen, passed_over=sorted(passed, key=lambda one: str(one.path)))


def _files(root: Path, exclude: list[Path]) -> tuple[list[Path], list[Path]]:
    """Image files by name, and all others, each in order of path; hidden ones are left out."""
    if root.is_file():
        return ([root], []) if is_image_name(root.name) else ([], [root])
    found = sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not any(path.resolve().is_relative_to(folder) for folder in exclude)
    )
    images = [path for path in found if is_image_name(path.name)]
    return images, [path for path in found if not is_image_name(path.name)]


def _image_scans(images: Iterable[Path], root: Path, passed: list[PassedOver]) -> list[Scan]:
    kept = []
    for path in images:
        if looks_like_mask(path):
            passed.append(PassedOver(path=path, reason="looks like a mask"))
        else:
            kept.append(path)
    folders = defaultdict(set)
    for path in kept:
        folders[stem(path.name)].add(path.parent)
    return [
        Scan(
            subject=_subject_of(path, root, shared=len(folders[stem(path.name)]) > 1),
            path=path,
            kind=_kind(path.name),
            files=(path, *_data_files(path)),
            size=path.stat().st_size,
        )
        for path in kept
    ]


def _data_files(path: Path) -> tuple[Path, ...]:
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


def _subject_of(path: Path, root: Path, shared: bool) -> str:
    parts = path.parent.relative_to(root).parts if shared else ()
    return "_".join(parts) or stem(path.name)


def _kind(name: str) -> str:
    if name.lower().endswith(NIFTI_SUFFIXES):
        return "nifti"
    return "nrrd" if name.lower().endswith((".nrrd", ".nhdr")) else "mha"


def looks_like_mask(path: Path) -> bool:
    """Whether an image holds a few whole numbers from 0 up, as masks do and HU do not.

    Only files whose name or number type suggests it are read for this.  A file that cannot be
    read is no mask: preprocessing reports it as a scan that failed.
    """
    try:
        suspicious = image_header(path).GetPixelID() in MASK_TYPES
        if not suspicious and not MASK_WORDS.search(path.name):
            return False
        values = sitk.GetArrayViewFromImage(read_image(path))
    except DgmvlcError:
        return False
    if values.min() < 0:
        return False
    distinct = np.unique(values)
    return len(distinct) <= MASK_MAX_VALUES and bool(np.all(distinct == np.round(distinct)))


def _dicom_scans(paths: Iterable[Path], passed: list[PassedOver]) -> list[Scan]:
    """CT series by SeriesInstanceUID, over all folders."""
    series: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    instances: dict[str, Path] = {}
    damaged: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        if not _claims_dicom(path) or path.name.upper() == "DICOMDIR":
            continue
        try:
            header = read_header(path)
        except DgmvlcError as error:
            damaged[path.parent].append(path)
            passed.append(PassedOver(path=path, reason=error.message.removeprefix(f"{path}: ")))
            continue
        instance = str(header.get("SOPInstanceUID", path))
        reason = refusal(header)
        if instance in instances and not reason:
            reason = f"a copy of {instances[instance].name}"
        if reason:
            passed.append(PassedOver(path=path, reason=reason))
            continue
        instances[instance] = path
        series[str(header.get("SeriesInstanceUID", path.parent))].append((path, header))
    return [_series_scan(uid, members, damaged) for uid, members in series.items()]


def _series_scan(
    uid: str, members: list[tuple[Path, Dataset]], damaged: dict[Path, list[Path]]
) -> Scan:
    files = tuple(path for path, _ in members)
    folder = files[0].parent
    patient = str(members[0][1].get("PatientID", "") or "").strip()
    return Scan(
        subject=patient or folder.name,
        path=folder,
        kind="dicom",
        files=files,
        series_uid=uid,
        size=sum(path.stat().st_size for path in files),
        unreadable=tuple(
            bad for place in sorted({p.parent for p in files}) for bad in damaged[place]
        ),
    )


def _claims_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM does, or is named so."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _one_per_subject(scans: Iterable[Scan], passed: list[PassedOver]) -> list[Scan]:
    by_subject = defaultdict(list)
    for scan in scans:
        by_subject[scan.subject].append(scan)
    chosen = []
    for subject in sorted(by_subject):
        first, *rest = sorted(
            by_subject[subject], key=lambda scan: (-len(scan.files), -scan.size, str(scan.path))
        )
        chosen.append(first)
        passed.extend(
            PassedOver(
                path=scan.path, reason=f"subject {subject} has a larger scan in {first.path}"
            )
            for scan in rest
        )
    return chosen
