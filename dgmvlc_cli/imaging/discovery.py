"""Which series lie under a folder, whose they are, which one is taken, and why not the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.dicom import (
    image_type,
    lossy_compression,
    modality_of,
    read_header,
    refusal,
    slices_of,
)
from dgmvlc_cli.imaging.identity import Identity, SubjectRule
from dgmvlc_cli.imaging.names import NIFTI_SUFFIXES, is_image_name, stem
from dgmvlc_cli.imaging.stacking import Slice, difference
from dgmvlc_cli.imaging.vocabulary import (
    DERIVED_TYPES,
    UNLIKE_INSPIRATION,
    kernel_name,
    known_types,
    known_words,
    sharpness,
)
from dgmvlc_cli.imaging.volume import data_files, image_header, read_image

MASK_WORDS = ("mask", "label", "seg", "lobes", "lung-", "lung_", "lungs-", "lungs_", "wholelung",
              "roi", "airway")  # fmt: skip
MASK_TYPES = (sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkUInt32, sitk.sitkUInt64)
MASK_MAX_VALUES = 64  # more distinct values than any label map of the thorax has in use
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PLANES = ("sagittal", "coronal", "axial")  # by the axis of LPS along which slices are stacked
COVERING = 0.8  # of the tallest series of a subject


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a series is like; nothing in it can name a patient.

    height_mm: extent along the body.  gap_mm: median distance between slices.
    kernel, words, image_type: only what `vocabulary` knows.  contrast: whether one was given.
    """

    modality: str = ""
    image_type: str = ""
    plane: str = ""
    slices: int = 0
    rows: int = 0
    columns: int = 0
    gap_mm: float = 0.0
    thickness_mm: float | None = None
    height_mm: float = 0.0
    kernel: str = ""
    contrast: bool | None = None
    lossy: str = ""
    words: str = ""

    @property
    def derived(self) -> bool:
        return bool(DERIVED_TYPES & set(self.image_type.split("/")))

    @property
    def breath(self) -> str:
        """The word that says expiratory or prone; empty if there is none."""
        return next((word for word in self.words.split() if word in UNLIKE_INSPIRATION), "")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One CT of one subject.

    path: the image file, or the folder of the first slice.  kind: nifti, nrrd, mha or dicom.
    files: all files that make up the scan.  size: bytes of them all.
    unreadable: damaged DICOM files in the same folder, which may be slices of it.
    key: what tells it from all others, a series UID or a path.  notes: sentences for the user.
    """

    subject: str
    path: Path
    kind: str
    files: tuple[Path, ...]
    key: str = ""
    size: int = 0
    unreadable: tuple[Path, ...] = ()
    traits: Traits = Traits()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A series or file that is not worked on, and why.  subject: empty where it has none."""

    path: Path
    reason: str
    subject: str = ""
    kind: str = ""
    files: tuple[Path, ...] = ()
    key: str = ""
    traits: Traits = Traits()


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What lies under a folder: the chosen scans in order of subject, and all the rest."""

    root: Path
    scans: list[Scan] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)

    @property
    def all(self) -> list[Scan | PassedOver]:
        return [*self.scans, *self.passed_over]


def survey(
    root: Path,
    exclude: Iterable[Path] = (),
    rule: SubjectRule | None = None,
    overrides: Mapping[str, str] | None = None,
    identity: Identity | None = None,
) -> Survey:
    """Look at every file under a folder, or at one file, and choose one scan per subject.

    The choice is stated at `preference`.  overrides: subject (or its pseudonym) -> the label of
    the series in series.tsv, or its path below root.  identity: gives those names.
    exclude: folders below root that are not looked into, such as one's own outputs.
    Raises DgmvlcError if there is no scan at all.
    """
    return choose(collect(root, exclude, rule), overrides or {}, identity or Identity())


def collect(root: Path, exclude: Iterable[Path] = (), rule: SubjectRule | None = None) -> Survey:
    """All scans that could be taken, any number per subject, and what cannot be, with reasons."""
    if not root.exists():
        raise DgmvlcError(f"{root}: no such file or folder", "Check the path of the scans.")
    rule = rule or SubjectRule()
    images, others = _files(root, [folder.resolve() for folder in exclude])
    passed: list[PassedOver] = []
    found = [*_image_scans(images, root, rule, passed), *_dicom_scans(others, root, rule, passed)]
    scans = [scan for scan in found if scan.subject]
    passed += [
        _passed(scan, f"no subject id by the rule `{rule.source}`")
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


def choose(found: Survey, overrides: Mapping[str, str], identity: Identity) -> Survey:
    """The survey with one scan per subject, all others passed over with the reason."""
    by_subject = defaultdict(list)
    for scan in found.scans:
        by_subject[scan.subject].append(scan)
    _require_known(overrides, by_subject, identity)
    chosen, passed = [], list(found.passed_over)
    for subject, scans in sorted(by_subject.items()):
        wanted = overrides.get(subject, overrides.get(identity.subject(subject)))
        if wanted is None:
            first, others = _prefer(scans)
        else:
            first = _named(wanted, scans, found.root, identity)
            others = [(one, "another was named in dgmvlc.toml") for one in scans if one != first]
        chosen.append(first)
        passed += [_passed(one, reason) for one, reason in others]
    return Survey(
        root=found.root, scans=chosen, passed_over=sorted(passed, key=lambda one: str(one.path))
    )


class Criterion(NamedTuple):
    """A rank by which series are compared (the lower, the better), and what it means in words."""

    rank: float
    words: str


def preference(scan: Scan, tallest_mm: float) -> tuple[Criterion, ...]:
    """What decides between the series of a subject, from the weightiest criterion on.

    Covers (nearly) as much of the body as any; original, not derived; axial; not expiratory or
    prone by its description; without lossy compression; without contrast medium; a smooth kernel;
    thin slices; many; many bytes.
    """
    one = scan.traits
    edge = sharpness(one.kernel)
    return (
        Criterion(one.height_mm < COVERING * tallest_mm, f"covers {one.height_mm:.0f} mm"),
        Criterion(one.derived, "derived" if one.derived else "original"),
        Criterion(one.plane not in ("", "axial"), one.plane or "of unknown plane"),
        Criterion(bool(one.breath), one.breath or "not expiratory"),
        Criterion(bool(one.lossy), "compressed with loss" if one.lossy else "without loss"),
        Criterion(bool(one.contrast), "with contrast" if one.contrast else "without contrast"),
        Criterion(
            {"smooth": 0, "": 1, "sharp": 2}[edge], f"{edge or 'unknown'} kernel {one.kernel}"
        ),
        Criterion(round(one.gap_mm, 2), f"gaps of {one.gap_mm:.2f} mm"),
        Criterion(-one.slices, f"{one.slices} slices"),
        Criterion(-scan.size, f"{scan.size} bytes"),
    )


def _prefer(scans: list[Scan]) -> tuple[Scan, list[tuple[Scan, str]]]:
    """The best scan, and the others with what decided against them."""
    tallest = max(scan.traits.height_mm for scan in scans)
    ranks = {scan.key: preference(scan, tallest) for scan in scans}
    first, *rest = sorted(
        scans, key=lambda scan: ([one.rank for one in ranks[scan.key]], str(scan.path))
    )
    return first, [(one, _against(ranks[one.key], ranks[first.key])) for one in rest]


def _against(these: tuple[Criterion, ...], those: tuple[Criterion, ...]) -> str:
    for this, that in zip(these, those, strict=True):
        if this.rank != that.rank:
            return f"{this.words.strip()}; the chosen series: {that.words.strip()}"
    return "equal to the chosen series by every rule; the first by path was taken"


def _named(wanted: str, scans: list[Scan], root: Path, identity: Identity) -> Scan:
    """The series of a subject that dgmvlc.toml names."""
    fitting = [scan for scan in scans if identity.series(scan.key) == wanted] or [
        scan for scan in scans if _below(scan.path, root).as_posix() == wanted
    ]
    if len(fitting) == 1:
        return fitting[0]
    labels = ", ".join(identity.series(scan.key) for scan in scans)
    raise UsageError(
        f"[scans.choose] names {wanted!r}, which fits {len(fitting)} series of its subject.",
        f"The subject has: {labels} (see series.tsv).",
    )


def _require_known(
    overrides: Mapping[str, str], subjects: Iterable[str], identity: Identity
) -> None:
    known = {name for one in subjects for name in (one, identity.subject(one))}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise UsageError(
            f"[scans.choose] names a subject {unknown[0]!r} that has no scan.",
            "Take the names from the column `subject` of series.tsv.",
        )


def series_rows(found: Survey, identity: Identity) -> list[dict[str, Any]]:
    """Rows of series.tsv: every series and file, chosen or not, and why.

    Paths are given relative to the scans, and not at all where names are pseudonyms.
    """
    rows = [_row(one, "yes", "", found.root, identity) for one in found.scans] + [
        _row(one, "no", one.reason, found.root, identity) for one in found.passed_over
    ]
    return sorted(rows, key=lambda row: (row["subject"] == "", row["subject"], row["series"]))


def _row(
    one: Scan | PassedOver, chosen: str, reason: str, root: Path, identity: Identity
) -> dict[str, Any]:
    path = "" if identity.pseudonymous else _below(one.path, root).as_posix()
    traits = {name: getattr(one.traits, name) for name in Traits.__dataclass_fields__}
    return {
        "subject": identity.subject(one.subject) if one.subject else "",
        "series": identity.series(one.key or str(one.path)),
        "chosen": chosen,
        "reason": reason,
        "kind": one.kind,
        "files": max(len(one.files), 1),
        **traits,
        "path": path,
    }


def series_paths(found: Survey, identity: Identity) -> dict[str, str]:
    """Label of each series -> its path, for the key file."""
    return {identity.series(one.key or str(one.path)): str(one.path) for one in found.all}


def _passed(scan: Scan, reason: str) -> PassedOver:
    return PassedOver(
        path=scan.path,
        reason=reason,
        subject=scan.subject,
        kind=scan.kind,
        files=scan.files,
        key=scan.key,
        traits=scan.traits,
    )


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path != root and path.is_relative_to(root) else Path(path.name)


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
            key=_below(path, root).as_posix(),
            size=path.stat().st_size,
            traits=_image_traits(path),
        )
        for path in kept
    ]


def _image_subject(path: Path, root: Path, rule: SubjectRule, shared: bool) -> str:
    """By the rule; where several folders hold files of one name, the folders are the subjects."""
    below = _below(path, root)
    if rule.source == "auto" and shared and len(below.parts) > 1:
        return "_".join(below.parts[:-1])
    return rule.subject(below)


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
        if not suspicious and not any(word in path.name.lower() for word in MASK_WORDS):
            return False
        values = sitk.GetArrayViewFromImage(read_image(path))
    except DgmvlcError:
        return False
    if values.min() < 0:
        return False
    distinct = np.unique(values)
    return len(distinct) <= MASK_MAX_VALUES and bool(np.all(distinct == np.round(distinct)))


# DICOM --------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """A DICOM file with its header and slices, or the reason why it is no part of a CT volume."""

    path: Path
    header: Dataset
    slices: list[Slice]
    refusal: str


def _dicom_scans(
    paths: Iterable[Path], root: Path, rule: SubjectRule, passed: list[PassedOver]
) -> list[Scan]:
    """CT series by patient, SeriesInstanceUID, size and orientation, over all folders."""
    series: dict[tuple[str, str], list[list[_Member]]] = defaultdict(list)
    refused: dict[tuple[str, str], list[_Member]] = defaultdict(list)
    instances: set[tuple[Any, ...]] = set()
    damaged: dict[Path, list[Path]] = defaultdict(list)
    for path in filter(_claims_dicom, paths):
        try:
            member = _read_member(path)
        except DgmvlcError as error:
            damaged[path.parent].append(path)
            passed.append(_left_out(path, error.message.removeprefix(f"{path}: ")))
            continue
        uid, instance = _uid(member.header, path), _instance(member)
        if member.refusal:
            refused[uid, member.refusal].append(member)
        elif instance in instances:
            passed.append(_left_out(path, "a copy of another slice of the series"))
        else:
            instances.add(instance)
            _add_to_its_like(series[_patient(member.header), uid], member)
    passed += [_refused(members, root, rule) for members in refused.values()]
    return [
        _series_scan(members, number, sum(map(len, groups)) - len(members), damaged, root, rule)
        for groups in series.values()
        for number, members in enumerate(groups)
    ]


def _instance(member: _Member) -> tuple[Any, ...]:
    """What copies share: the instance's UID, which careless anonymisers repeat, and the place."""
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


def _left_out(path: Path, reason: str) -> PassedOver:
    return PassedOver(path=path, reason=reason, kind="dicom", files=(path,))


def _uid(header: Dataset, path: Path) -> str:
    return str(header.get("SeriesInstanceUID") or path.parent)


def _patient(header: Dataset) -> str:
    return str(header.get("PatientID", "") or "").strip()


def _refused(members: list[_Member], root: Path, rule: SubjectRule) -> PassedOver:
    path, header, _, reason = members[0]
    uid = _uid(header, path)
    return PassedOver(
        path=path,
        reason=reason,
        subject=rule.subject(_below(path, root), patient=_patient(header), uid=uid, dicom=True),
        kind="dicom",
        files=tuple(one.path for one in members),
        key=f"{uid}/{reason}",
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
    """others: files under the same series UID of another size or orientation, grouped by number."""
    first = members[0]
    files = tuple(one.path for one in members)
    uid, patient = _uid(first.header, first.path), _patient(first.header)
    return Scan(
        subject=rule.subject(_below(first.path, root), patient=patient, uid=uid, dicom=True),
        path=first.path.parent,
        kind="dicom",
        files=files,
        key=f"{patient}/{uid}/{number}",
        size=sum(path.stat().st_size for path in files),
        unreadable=tuple(
            bad for place in sorted({p.parent for p in files}) for bad in damaged[place]
        ),
        traits=_series_traits(members),
        notes=(f"the series holds {others} slice(s) of another size or orientation, left out",)
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
        kernel=kernel_name(header.get("ConvolutionKernel")),
        contrast=bool(str(header.get("ContrastBolusAgent", "") or "").strip()),
        lossy=", ".join(sorted({lossy_compression(one.header) for one in members} - {""})),
        words=known_words(header.get("SeriesDescription")),
    )


def _claims_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM does, or is named so; the index of a medium is no slice."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False
