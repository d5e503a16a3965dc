"""Whose a scan is, and under what name the workspace knows them."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dgmvlc_cli import workspace
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.names import stem

SubjectSource = Literal["auto", "patient-id", "folder", "file-name", "pattern", "column"]
LABEL_DIGITS = 10  # of sixteen: among ten thousand subjects two collide with a chance of 1 : 20 000
SECRET_BYTES = 32
SMALLEST_SCRUBBED = 3  # characters: a shorter name would eat other words


@dataclass(frozen=True, kw_only=True)
class SubjectRule:
    """Where the id of a scan's subject comes from.

    source: `auto` is the DICOM PatientID, else the folder of a series or the name of a file;
    `folder` is the first folder below the scans.  pattern: a regular expression with a group
    (?P<subject>...), searched in the path below the scans.  rows: for `column`, what a row of the
    table says about its scan (path, file or folder name, series UID, PatientID) -> its id.
    fitted: what has been found under each of these, so that no two patients share a row.
    """

    source: SubjectSource = "auto"
    pattern: str = ""
    rows: Mapping[str, str] = field(default_factory=dict)
    fitted: dict[tuple[str, str], str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.source != "pattern":
            return
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise UsageError(
                f"subject_pattern {self.pattern!r} is no regular expression ({error}).",
                "Correct it in dgmvlc.toml.",
            ) from error
        if "subject" not in groups:
            raise UsageError(
                f"subject_pattern {self.pattern!r} has no group named subject.",
                r"Write for example '(?P<subject>S\d+)_ct'.",
            )

    def subject(self, below: Path, *, patient: str = "", uid: str = "", dicom: bool = False) -> str:
        """The id of a scan at a path below the scans (of its first file); empty if it has none."""
        folders = below.parts[:-1]
        name = stem(below.name)
        if self.source == "patient-id":
            return patient
        if self.source == "folder":
            return folders[0] if folders else ""
        if self.source == "file-name":
            return name
        if self.source == "pattern":
            found = re.search(self.pattern, below.as_posix())
            return found["subject"] or "" if found else ""
        if self.source == "column":
            return self._of_row(below, patient, uid)
        if dicom:
            return patient or (folders[-1] if folders else name)
        return name

    def _of_row(self, below: Path, patient: str, uid: str) -> str:
        """The id of the row that names a scan.  UsageError where its cell has named another's."""
        folder = below.parent
        named = [(uid, uid), (patient, patient)]
        named += [(one.as_posix(), one.as_posix()) for one in (below, folder)]
        named += [
            (below.name, below.as_posix()),
            (stem(below.name), f"{folder}/{stem(below.name)}"),
        ]
        for parent in below.parents:
            named += [(one, parent.as_posix()) for one in (parent.as_posix(), parent.name)]
        cell, place = next((one for one in named if one[0] in self.rows), ("", ""))
        for what, found in (("places", place), ("PatientIDs", patient)):
            other = self.fitted.setdefault((cell, what), found) if cell and found else found
            if other != found:
                raise UsageError(
                    f"The cell {cell!r} of subject_column fits scans of different {what}: "
                    f"{other!r} and {found!r}.",
                    "Write the path of the scan's folder below [scans] path, or its series UID.",
                )
        return self.rows.get(cell, "")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Names of subjects and series in the workspace: as they are, or pseudonyms by a secret.

    A pseudonym is a keyed hash, so that a scan added later changes no other name, and nobody
    without the secret can try out ids.
    """

    secret: bytes = b""

    @property
    def pseudonymous(self) -> bool:
        return bool(self.secret)

    def subject(self, subject_id: str) -> str:
        """The subject's name in the workspace."""
        return self._digest("subject", subject_id) if self.pseudonymous else subject_id

    def series(self, key: str) -> str:
        """A short name of a series, by its UID or path."""
        return self._digest("series", key)

    def _digest(self, what: str, text: str) -> str:
        code = hmac.new(self.secret, f"{what}:{text}".encode(), hashlib.sha256).hexdigest()
        # A letter first: digits with an `e` among them would be read as a number elsewhere.
        return what[0] + code[:LABEL_DIGITS]


def load_identity(key: Path, wanted: bool | None, *, from_dicom: bool) -> Identity:
    """Pseudonyms if they are wanted; where nothing is said, if the ids come from DICOM headers.

    key: the file that holds the secret and the names behind the pseudonyms; made by `save_key`.
    """
    if wanted is None:
        wanted = from_dicom or key.exists()
    if not wanted:
        return Identity()
    if not key.exists():
        return Identity(secret=secrets.token_bytes(SECRET_BYTES))
    return Identity(secret=bytes.fromhex(read_key(key)["secret"]))


def workspace_identity(key: Path, wanted: bool | None) -> Identity:
    """The identity that `preprocess` has settled; plain names where it has settled none.

    Raises DgmvlcError where pseudonyms are wanted but not made yet.
    """
    if wanted and not key.exists():
        raise DgmvlcError(
            f"The pseudonyms of this workspace are not made yet ({key} is missing).",
            "Run `dgmvlc preprocess` first.",
        )
    return load_identity(key, wanted, from_dicom=False)


def read_key(key: Path) -> dict[str, Any]:
    """The secret, and `subjects` and `series`: pseudonym -> id or path."""
    record = workspace.read_json(key)
    if not isinstance(record, dict) or not re.fullmatch(
        r"[0-9a-f]{64}", str(record.get("secret", ""))
    ):
        raise DgmvlcError(
            f"{key}: cannot be read as the key of this workspace's pseudonyms.",
            "Restore it from a copy; without it the scans get new names. To start anew, remove it.",
        )
    return record


def save_key(
    key: Path, identity: Identity, subjects: Iterable[str], series: Mapping[str, str]
) -> None:
    """Write who is behind the pseudonyms, readable by its owner alone (mode 600)."""
    known = read_key(key) if key.exists() else {"subjects": {}, "series": {}}
    record = {
        "secret": identity.secret.hex(),
        "subjects": known["subjects"] | {identity.subject(one): one for one in subjects},
        "series": known["series"] | dict(series),
    }
    with workspace.atomic_path(key) as part:
        part.chmod(0o600)
        part.write_text(json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def default_key(root: Path) -> Path:
    """Beside the workspace, not in it: so the workspace can be shared."""
    resolved = root.resolve()
    return resolved.parent / f"{resolved.name}.key.json"


def scrub(
    text: str, subject_id: str, name: str, files: Iterable[Path], masks: Iterable[Path] = ()
) -> str:
    """A message without paths, file names and the id of a subject: `file 12` is the 12th by name.

    name: what stands for the subject.  files: of the scan.  masks: each `the mask`, as is the
    folder that they lie in.
    """
    ordered, others = sorted(files), sorted(masks)
    places: dict[str, str] = {}
    numbered = [(path, f"file {number}") for number, path in enumerate(ordered, start=1)]
    for path, called in [*numbered, *((path, "the mask") for path in others)]:
        places.setdefault(str(path), called)
        places.setdefault(path.name, called)
    for paths, called in ((ordered, "the scan"), (others, "the mask")):
        for folder in {parent for path in paths for parent in path.parents}:
            places.setdefault(str(folder), called)
    # A number may be an id, but is more often a measure.
    if len(subject_id) >= SMALLEST_SCRUBBED and not subject_id.isdigit():
        places.setdefault(subject_id, name)
    known = sorted((one for one in places if len(one) >= SMALLEST_SCRUBBED), key=len, reverse=True)
    if not known:
        return text
    whole = rf"(?<![\w.])(?:{'|'.join(map(re.escape, known))})(?!\w)"
    return re.sub(whole, lambda found: places[found[0]], text)
