"""Series as they were found: what they are like, nothing of which can name a patient."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dgmvlc_cli.imaging.vocabulary import DERIVED_TYPES, UNLIKE_INSPIRATION


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a series is like; nothing in it can name a patient.

    height_mm: extent along the body.  gap_mm: median distance between slices.
    kernel, maker, words, image_type: only what `vocabulary` knows.  contrast: whether a medium was
    given; None where it is not told.  kvp: tube voltage, kV.
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
    kvp: float | None = None
    maker: str = ""
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
    key: what tells it from all others, a series UID or a path.  study: StudyInstanceUID of a
    series; empty where it has none.  notes: sentences for the user.
    """

    subject: str
    path: Path
    kind: str
    files: tuple[Path, ...]
    key: str = ""
    study: str = ""
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


def passed_over(scan: Scan, reason: str) -> PassedOver:
    return PassedOver(
        path=scan.path,
        reason=reason,
        subject=scan.subject,
        kind=scan.kind,
        files=scan.files,
        key=scan.key,
        traits=scan.traits,
    )


def below(path: Path, root: Path) -> Path:
    """The path as seen from the folder of the scans."""
    return path.relative_to(root) if path != root and path.is_relative_to(root) else Path(path.name)
