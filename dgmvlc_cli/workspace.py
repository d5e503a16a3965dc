"""The workspace on disk: paths, tables, atomic writes, sidecars, keyed randomness.

An output and its sidecar are written atomically, the sidecar last.  A sidecar whose
fingerprint matches means the output is current; anything else means compute again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgmvlc_cli import __version__
from dgmvlc_cli.errors import DgmvlcError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SETTINGS_FILE = "dgmvlc.toml"
PLANT_FILE = "plant.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
DESCRIPTION_FILE = "dataset_description.json"
OUTPUT_FOLDERS = ("images", "models", "counterfactuals", "analysis", "restored")
PLANTED_FOLDERS = ("scans", "masks")  # that `plant` fills in a control
CONDITIONING_FILE = "conditioning.safetensors"
LISTED = 5  # files in a message
VERSIONED_PACKAGES = ("numpy", "scipy", "torch", "diffusers", "transformers", "SimpleITK")


# Randomness ---------------------------------------------------------------------------------


def generator(seed: int, *keys: str | int) -> np.random.Generator:
    """A random stream that depends on (seed, keys) alone, never on order or worker count."""
    import numpy as np

    digest = hashlib.sha256(json.dumps([seed, *keys]).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


# Names --------------------------------------------------------------------------------------


def slug(text: str | float) -> str:
    """A subject or level as part of a file name: `current-smoker`.

    What does not survive (`<5`, `-2`, other scripts) is told apart by a short hash.
    """
    plain_text = f"{text:g}" if isinstance(text, float) else str(text)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", plain_text).strip("-.")
    if re.fullmatch(r"[A-Za-z0-9]+(?:[ ._-][A-Za-z0-9]+)*", plain_text):
        return name
    digest = hashlib.sha256(plain_text.encode()).hexdigest()[:6]
    return f"{name}-{digest}" if name else digest


# Hashes and fingerprints --------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_files(paths: list[Path]) -> str:
    """One hash over the contents of several files, in name order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(sha256_file(path).encode())
    return total.hexdigest()


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """A short hash of everything that an output depends on; inputs must be JSON values."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names of the inputs whose values differ, for the message that says why."""
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def plain(value: Any) -> Any:
    """The value as JSON keeps it, so that a sidecar read back compares equal."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


# Atomic writes ------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling with the same suffixes that replaces `path` if the block succeeds.

    Raises DgmvlcError where the folder cannot be written or the disk is full; the old file
    stays as it was.
    """
    suffix = "".join(path.suffixes[-2:])
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o644)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_error(path: Path, error: OSError, action: str = "write") -> DgmvlcError:
    """What stopped a write (or another action), in words, with the next move."""
    hints = {
        errno.ENOSPC: "Free some space and run the same command again; finished work is kept.",
        errno.EDQUOT: "Free some of your quota and run the same command again.",
        errno.EROFS: "Choose a folder you may write to with --workspace.",
        errno.EACCES: "Choose a folder you may write to with --workspace.",
        errno.EPERM: "Choose a folder you may write to with --workspace.",
    }
    hint = hints.get(error.errno or 0, "Check the folder and run the same command again.")
    return DgmvlcError(f"Cannot {action} {path}: {error.strerror or error}.", hint)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The parsed file, or None where it is absent or unreadable (then it is not current)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A TSV without index; missing values are empty fields; floats keep nine digits."""
    text = table.to_csv(sep="\t", index=False, lineterminator="\n", float_format="%.9g")
    write_text(path, text)


def read_table(path: Path, columns: Collection[str] = (), **options: Any) -> pd.DataFrame:
    """A TSV as `write_table` writes it; DgmvlcError where it is damaged or lacks a column."""
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""], **options)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DgmvlcError(
            f"{path} is damaged: {error}", "Run the stage that writes it again, with --force."
        ) from error
    lacking = [name for name in columns if name not in table]
    if lacking:
        raise DgmvlcError(
            f"{path} has no column {lacking[0]!r}; its columns: {', '.join(map(str, table))}.",
            "Was it saved by another program? Run the stage that writes it again, with --force.",
        )
    return table


# Provenance ---------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of Python, this toolkit and the packages that numbers depend on."""
    found = {"dgmvlc": __version__, "python": platform.python_version()}
    for name in VERSIONED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def command_line() -> str:
    """How this process was called, for provenance; the same in worker processes.

    Without paths, which may name patients and hospitals: what lies there is told by its hash.
    """
    program, *arguments = sys.argv or [""]
    name = "dgmvlc" if Path(program).stem in ("dgmvlc", "__main__") else Path(program).name
    return shlex.join([name, *arguments[:1], *map(_without_path, arguments[1:])])


def _without_path(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if not (equals and option.startswith("--")):
        option, equals, value = "", "", argument
    with contextlib.suppress(OSError, ValueError):  # too long for a name
        if value and ("/" in value or os.sep in value or Path(value).exists()):
            return f"{option}{equals}PATH"
    return argument


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The JSON beside an output: what it was made from, how, and with what.

    inputs: every JSON value the output depends on; its hash decides what is current.
    outputs: the files that must be there, as large as they were, for the output to count as made.
    """

    path: Path
    inputs: Mapping[str, Any]
    outputs: tuple[Path, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.inputs)

    def previous(self) -> dict[str, Any] | None:
        return read_json(self.path)

    def is_current(self) -> bool:
        """True where the saved fingerprint matches and every output is there, whole."""
        saved = self.previous()
        if not saved or saved.get("fingerprint") != self.fingerprint:
            return False
        return not self._missing() and not self._resized(saved)

    def _missing(self) -> list[str]:
        return [output.name for output in self.outputs if not output.exists()]

    def _resized(self, saved: Mapping[str, Any]) -> list[str]:
        """Outputs of another size than they had: cut short, or written by something else."""
        sizes = saved.get("sizes", {})
        known = [one for one in self.outputs if one.is_file() and self._place(one) in sizes]
        return [one.name for one in known if one.stat().st_size != sizes[self._place(one)]]

    def _place(self, output: Path) -> str:
        return os.path.relpath(output, self.path.parent)

    def why_stale(self) -> str:
        """Why the output is computed again, in words for the user."""
        saved = self.previous()
        if not saved:
            return "not made yet"
        if missing := self._missing():
            return f"missing: {_listed(missing)}"
        if resized := self._resized(saved):
            return f"of another size than they were made: {_listed(resized)}"
        changed = changed_inputs(saved.get("inputs", {}), plain(self.inputs))
        return f"changed: {', '.join(changed)}" if changed else "asked for again"

    def invalidate(self) -> None:
        """Take the sidecar away before its outputs change, so that no kill leaves it wrong."""
        self.path.unlink(missing_ok=True)

    def write(self, *, seconds: float, **facts: Any) -> None:
        """Write the sidecar: call it last, when every output lies in place."""
        record = {
            "fingerprint": self.fingerprint,
            "inputs": plain(self.inputs),
            "command": command_line(),
            "versions": versions(),
            "platform": f"{platform.system()} {platform.machine()}",
            "seconds": round(seconds, 3),
            "sizes": {
                self._place(one): one.stat().st_size for one in self.outputs if one.is_file()
            },
            **plain(facts),
        }
        write_json(self.path, record)


def _listed(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} others" if more > 0 else "")


class Stopwatch:
    """Seconds since creation."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start


_held: set[Path] = set()


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder of outputs while this one writes there.

    The system frees the lock when the process ends, however it ends.  Raises DgmvlcError where
    another process has it; file systems without locks are written without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    if fcntl is None or place in _held:
        yield
        return
    handle = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DgmvlcError(
                f"Another dgmvlc command is writing to {folder}.",
                "Wait until it has ended, or stop it; then run this one again.",
            ) from None
        except OSError:  # a file system that knows no locks
            pass
        _held.add(place)
        yield
    finally:
        _held.discard(place)
        os.close(handle)


# Layout -------------------------------------------------------------------------------------


def made_folders(folder: Path) -> list[Path]:
    """The folders of outputs of a workspace; none where a folder is no workspace with outputs."""
    if not (folder / SETTINGS_FILE).is_file():
        return []
    planted = (folder / PLANT_FILE).is_file()
    described = read_json(folder / DESCRIPTION_FILE)
    makers = described.get("GeneratedBy") if isinstance(described, dict) else None
    names = [one.get("Name") for one in makers or () if isinstance(one, dict)]
    if not planted and "dgmvlc" not in names:
        return []
    return [folder / name for name in OUTPUT_FOLDERS + (PLANTED_FOLDERS if planted else ())]


@dataclass(frozen=True)
class Workspace:
    """Where everything lies below one folder."""

    root: Path

    @property
    def settings_path(self) -> Path:
        return self.root / SETTINGS_FILE

    @property
    def plant_path(self) -> Path:
        """What was planted, in a planted control; other workspaces have none."""
        return self.root / PLANT_FILE

    @property
    def subjects_path(self) -> Path:
        return self.root / "subjects.tsv"

    @property
    def series_path(self) -> Path:
        return self.root / "series.tsv"

    @property
    def text(self) -> Path:
        return self.root / "text"

    @property
    def prompts_path(self) -> Path:
        return self.text / "prompts.tsv"

    @property
    def attributes_path(self) -> Path:
        return self.text / "attributes.json"

    @property
    def placebos_path(self) -> Path:
        return self.text / "placebos.tsv"

    def subject_folder(self, subject: str) -> Path:
        return self.root / "images" / f"sub-{slug(subject)}"

    def ct_path(self, subject: str) -> Path:
        return self.subject_folder(subject) / f"sub-{slug(subject)}_ct.nii.gz"

    def mask_path(self, subject: str) -> Path:
        return self.subject_folder(subject) / f"sub-{slug(subject)}_mask.nii.gz"

    def lobes_path(self, subject: str) -> Path:
        """Lobe labels on the grid of the mask, for subjects whose mask tells them."""
        return self.subject_folder(subject) / f"sub-{slug(subject)}_lobes.nii.gz"

    def qc_path(self, subject: str) -> Path:
        return self.subject_folder(subject) / f"sub-{slug(subject)}_qc.png"

    def sidecar_path(self, subject: str) -> Path:
        return self.subject_folder(subject) / f"sub-{slug(subject)}.json"

    def model(self, name: str) -> Path:
        return self.root / "models" / name

    def fold(self, name: str, fold: int) -> Path:
        return self.model(name) / f"fold-{fold}"

    def validation_path(self, name: str, fold: int) -> Path:
        """What a fold's model does on its held-out subjects."""
        return self.fold(name, fold) / "validation.json"

    def weights(self, name: str, fold: int) -> tuple[Path, Path]:
        """The two files that decide what a fold's model generates."""
        folder = self.fold(name, fold)
        return folder / WEIGHTS_FILE, folder / CONDITIONING_FILE

    def contrast(self, model: str, contrast: str) -> Path:
        return self.root / "counterfactuals" / model / contrast

    def analysis(self, model: str, contrast: str) -> Path:
        return self.root / "analysis" / model / contrast

    def require(self, path: Path, what: str, command: str) -> Path:
        """`path`, or an error that names the stage to run first."""
        if not path.exists():
            raise DgmvlcError(
                f"No {what} in this workspace ({path} is missing).", f"Run `{command}` first."
            )
        return path

    def describe_dataset(self) -> None:
        """dataset_description.json with BIDS-Derivatives names (no claim of compliance)."""
        write_json(
            self.root / DESCRIPTION_FILE,
            {
                "Name": self.root.resolve().name,
                "BIDSVersion": "1.10.0",
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "dgmvlc", "Version": __version__}],
            },
        )
