"""Which series lie under a folder, and whose they are."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.choosing import choose
from dgmvlc_cli.imaging.dicom import (
    claims_dicom,
    group_value,
    image_type,
    lossy_compression,
    modality_of,
    read_header,
    refusal,
    slices_of,
)
from dgmvlc_cli.imaging.files import data_files, image_header, read_image
from dgmvlc_cli.imaging.identity import Identity, SubjectRule
from dgmvlc_cli.imaging.names import NIFTI_SUFFIXES, is_image_name, stem
from dgmvlc_cli.imaging.scans import PassedOver, Scan, Survey, Traits, below, passed_over
from dgmvlc_cli.imaging.stacking import Slice, difference
from dgmvlc_cli.imaging.vocabulary import (
    PRONE_POSITIONS,
    kernel_name,
    known_types,
    known_words,
    maker_name,
    names_agent,
)
from dgmvlc_cli.workspace import made_folders

MASK_PARTS = ("mask", "label", "seg", "lobe", "wholelung", "roi", "airway")  # anywhere in a name
MASK_WORDS = frozenset({"lung", "lungs", "trachea", "body"})
MASK_TYPES = (sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkUInt32, sitk.sitkUInt64)
MASK_MAX_VALUES = 64  # more distinct values than any label map of the thorax has in use
PLAUSIBLE_KILOVOLTS = (40.0, 200.0)
PLANES = ("sagittal", "coronal", "axial")  # by the axis of LPS along which slices are stacked


def survey(
    root: Path,
    rule: SubjectRule | None = None,
    overrides: Mapping[str, str] | None = None,
    identity: Identity | None = None,
) -> Survey:
    """Look at every file under a folder, or at one file, and choose one scan per subject.

    The choice is stated at `preference`.  overrides: subject (or its pseudonym) -> the label of
    the series in series.tsv, or its path below root.  identity: gives those names.
    Raises DgmvlcError if there is no scan at all.
    """
    return choose(collect(root, rule), overrides or {}, identity or Identity())


def collect(root: Path, rule: SubjectRule | None = None) -> Survey:
    """All scans that could be taken, any number per subject, and what cannot be, with reasons."""
    if not root.exists():
        raise DgmvlcError(f"{root}: no such file or folder", "Check the path of the scans.")
    rule = rule or SubjectRule()
    images, others = _files(root)
    passed: list[PassedOver] = []
    found = [*_image_scans(images, root, rule, passed), *_dicom_scans(others, root, rule, passed)]
    scans = [scan for scan in found if scan.subject]
    passed += [
        passed_over(scan, f"no subject id by the rule `{rule.source}`")
        for scan in found
        if not scan.subject
    ]
    if not scans:
        seen = "; ".join(f"{one.path.name}: {one.reason}" for one in passed[:3])
        raise DgmvlcError(
            f"{root}: no CT scan found"
            + (f" ({seen})" if seen else ", no image and no DICOM file"),
            "Give the folder that holds NIfTI, NRRD, MHA/MHD files or DICOM series.",
        )
    return Survey(root=root, scans=scans, passed_over=passed)


def _files(root: Path) -> tuple[list[Path], list[Path]]:
    """Image files by name, and all others, each in order of path; hidden ones are left out.

    So are the outputs of every workspace on the way.
    """
    if root.is_file():
        return ([root], []) if is_image_name(root.name) else ([], [root])
    found = sorted(_walk(root))
    images = [path for path in found if is_image_name(path.name)]
    return images, [path for path in found if not is_image_name(path.name)]


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder, through links to folders elsewhere, each folder once.

    A link to what lies below root, or around it, is not followed: that is visited as it is, or
    would lead in circles.
    """
    inside, seen, made = root.resolve(), set(), list[Path]()
    for place, folders, names in os.walk(root, followlinks=True):
        folder = Path(place)
        real = folder.resolve()
        made += [one.resolve() for one in made_folders(folder)]
        astray = real != inside / folder.relative_to(root) and (
            real.is_relative_to(inside) or inside.is_relative_to(real)
        )
        if astray or real in seen or any(real.is_relative_to(one) for one in made):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = (folder / name for name in names if not name.startswith("."))
        yield from (path for path in files if path.is_file())


# Image files --------------------------------------------------------------------------------


def _image_scans(
    images: Iterable[Path], root: Path, rule: SubjectRule, passed: list[PassedOver]
) -> list[Scan]:
    kept = []
    for path in images:
        if looks_like_mask(path):
            passed.append(PassedOver(path=path, reason="looks like a mask", kind=_kind(path.name)))
        else:
            kept.append(path)
    folders = defaultdict(set)
    for path in kept:
        folders[stem(path.name)].add(path.parent)
    return [
        Scan(
            subject=_image_subject(path, root, rule, shared=len(folders[stem(path.name)]) > 1),
            path=path,
            kind=_kind(path.name),
            files=(path, *data_files(path)),
            key=below(path, root).as_posix(),
            size=path.stat().st_size,
            traits=_image_traits(path),
        )
        for path in kept
    ]


def _image_subject(path: Path, root: Path, rule: SubjectRule, shared: bool) -> str:
    """By the rule; where several folders hold files of one name, the folders are the subjects."""
    place = below(path, root)
    if rule.source == "auto" and shared and len(place.parts) > 1:
        return "_".join(place.parts[:-1])
    return rule.subject(place)


def _image_traits(path: Path) -> Traits:
    """What the header tells; nothing of a file that cannot be read, which will fail later."""
    try:
        header = image_header(path)
    except DgmvlcError:
        return Traits()
    if header.GetDimension() != 3:
        return Traits()
    axes = np.abs(np.reshape(header.GetDirection(), (3, 3)))
    columns, rows, slices = header.GetSize()
    lengths = np.array(header.GetSize()) * header.GetSpacing()
    return Traits(
        plane=PLANES[int(axes[:, 2].argmax())],
        slices=slices,
        rows=rows,
        columns=columns,
        gap_mm=float(header.GetSpacing()[2]),
        height_mm=float(axes[2] @ lengths),
    )


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
        if not suspicious and not _named_as_mask(stem(path.name).lower()):
            return False
        mask = read_image(path)
    except DgmvlcError:
        return False
    values = sitk.GetArrayViewFromImage(mask)  # of memory that is the image's
    if values.min() < 0:
        return False
    distinct = np.unique(values)
    return len(distinct) <= MASK_MAX_VALUES and bool(np.all(distinct == np.round(distinct)))


def _named_as_mask(name: str) -> bool:
    words = MASK_WORDS & set(re.findall(r"[a-z]+", name))
    return bool(words) or any(part in name for part in MASK_PARTS)


# DICOM --------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """A DICOM file with its header and slices, or the reason why it is no part of a CT volume."""

    path: Path
    header: Dataset
    slices: list[Slice]
    refusal: str


class _Key(NamedTuple):
    """What the slices of one series share.

    Careless anonymisers give many persons one PatientID and one series UID: then the study and
    the frame of reference tell them apart, and the folder where there is no PatientID at all.
    """

    patient: str
    series: str
    study: str
    frame: str
    folder: Path | None


def _dicom_scans(
    paths: Iterable[Path], root: Path, rule: SubjectRule, passed: list[PassedOver]
) -> list[Scan]:
    """CT series by `_Key`, size and orientation, over all folders."""
    series: dict[_Key, list[list[_Member]]] = defaultdict(list)
    refused: dict[tuple[_Key, str], list[_Member]] = defaultdict(list)
    instances: set[tuple[Any, ...]] = set()
    damaged: dict[Path, list[Path]] = defaultdict(list)
    for path in filter(claims_dicom, paths):
        try:
            member = _read_member(path)
        except DgmvlcError as error:
            damaged[path.parent].append(path)
            passed.append(_left_out(path, error.message.removeprefix(f"{path}: ")))
            continue
        key = _key(member)
        if member.refusal:
            refused[key, member.refusal].append(member)
        elif (instance := (key, *_instance(member))) in instances:
            subject = _subject(member, root, rule)
            passed.append(_left_out(path, "a copy of another slice of the series", subject))
        else:
            instances.add(instance)
            _add_to_its_like(series[key], member)
    passed += [_refused(members, root, rule) for members in refused.values()]
    numbers: dict[tuple[str, str], itertools.count[int]] = defaultdict(itertools.count)
    return [
        _series_scan(
            members,
            next(numbers[key.patient, key.series]),
            sum(map(len, groups)) - len(members),
            damaged,
            root,
            rule,
        )
        for key, groups in series.items()
        for members in groups
    ]


def _key(member: _Member) -> _Key:
    header, patient = member.header, _patient(member.header)
    return _Key(
        patient=patient,
        series=_uid(header, member.path),
        study=str(header.get("StudyInstanceUID") or ""),
        frame=str(header.get("FrameOfReferenceUID") or ""),
        folder=None if patient else member.path.parent,
    )


def _instance(member: _Member) -> tuple[Any, ...]:
    """What copies in a series share: the instance's UID, which anonymisers repeat, and place."""
    uid = str(member.header.get("SOPInstanceUID", member.path))
    places = [tuple(np.round(one.position_mm, 2).tolist()) for one in member.slices[:1]]
    return uid, *places


def _add_to_its_like(groups: list[list[_Member]], member: _Member) -> None:
    """Put a file to the slices of its size and orientation, or into a new group."""
    for group in groups:
        if not difference(group[0].slices[0], member.slices[0]):
            group.append(member)
            return
    groups.append([member])


def _read_member(path: Path) -> _Member:
    header = read_header(path)
    reason = refusal(header)
    return _Member(path, header, [] if reason else slices_of(path, header), reason)


def _left_out(path: Path, reason: str, subject: str = "") -> PassedOver:
    return PassedOver(path=path, reason=reason, subject=subject, kind="dicom", files=(path,))


def _uid(header: Dataset, path: Path) -> str:
    return str(header.get("SeriesInstanceUID") or path.parent)


def _patient(header: Dataset) -> str:
    return str(header.get("PatientID", "") or "").strip()


def _subject(member: _Member, root: Path, rule: SubjectRule) -> str:
    patient, uid = _patient(member.header), _uid(member.header, member.path)
    return rule.subject(below(member.path, root), patient=patient, uid=uid, dicom=True)


def _refused(members: list[_Member], root: Path, rule: SubjectRule) -> PassedOver:
    path, header, _, reason = members[0]
    return PassedOver(
        path=path,
        reason=reason,
        subject=_subject(members[0], root, rule),
        kind="dicom",
        files=tuple(one.path for one in members),
        key="/".join(map(str, (*_key(members[0]), reason))),
        traits=Traits(
            modality=modality_of(header),
            image_type="/".join(known_types(image_type(header))),
            words=known_words(header.get("SeriesDescription")),
        ),
    )


def _series_scan(
    members: list[_Member],
    number: int,
    others: int,
    damaged: dict[Path, list[Path]],
    root: Path,
    rule: SubjectRule,
) -> Scan:
    """number: among those of one patient and series UID.  others: files of the series that are of
    another size or orientation.
    """
    first = members[0]
    files = tuple(one.path for one in members)
    uid, patient = _uid(first.header, first.path), _patient(first.header)
    return Scan(
        subject=_subject(first, root, rule),
        path=first.path.parent,
        kind="dicom",
        files=files,
        key=f"{patient}/{uid}/{number}",
        study=_key(first).study,
        size=sum(path.stat().st_size for path in files),
        unreadable=tuple(
            bad for place in sorted({p.parent for p in files}) for bad in damaged[place]
        ),
        traits=_series_traits(members),
        notes=(f"of another size or orientation, left out: {others} of the series' slices",)
        if others
        else (),
    )


def _series_traits(members: list[_Member]) -> Traits:
    header, slices = members[0].header, [one for member in members for one in member.slices]
    first = slices[0]
    places = np.unique(np.round([float(one.position_mm @ first.normal) for one in slices], 2))
    gap_mm = float(np.median(np.diff(places))) if len(places) > 1 else first.thickness_mm or 0.0
    rows, columns = first.rows_cols
    lengths = np.array(
        [columns * first.pixel_mm[1], rows * first.pixel_mm[0], len(places) * gap_mm]
    )
    upward = np.abs([first.row[2], first.column[2], first.normal[2]])
    return Traits(
        modality="CT",
        image_type="/".join(known_types(image_type(header))),
        plane=PLANES[int(np.abs(first.normal).argmax())],
        slices=len(slices),
        rows=rows,
        columns=columns,
        gap_mm=gap_mm,
        thickness_mm=first.thickness_mm,
        height_mm=float(upward @ lengths),
        kernel=kernel_name(group_value(header, "ConvolutionKernel")),
        contrast=_contrast(header),
        kvp=_kilovolts(header),
        maker=maker_name(header.get("Manufacturer")),
        lossy=", ".join(sorted({lossy_compression(one.header) for one in members} - {""})),
        words=_words(header),
    )


def _words(header: Dataset) -> str:
    """What the description says of the scan, and the coded position if it is prone."""
    prone = str(header.get("PatientPosition") or "").strip().upper() in PRONE_POSITIONS
    return known_words(f"{'prone ' if prone else ''}{header.get('SeriesDescription') or ''}")


def _contrast(header: Dataset) -> bool | None:
    """Whether a contrast medium was given; None where the header does not tell."""
    if header.get("ContrastBolusAgentSequence"):
        return True
    return None if "ContrastBolusAgent" not in header else names_agent(header.ContrastBolusAgent)


def _kilovolts(header: Dataset) -> float | None:
    """The tube voltage of a header; None where it tells none that a tube has."""
    try:
        value = float(group_value(header, "KVP") or 0)
    except (TypeError, ValueError):
        return None
    return value if PLAUSIBLE_KILOVOLTS[0] <= value <= PLAUSIBLE_KILOVOLTS[1] else None
