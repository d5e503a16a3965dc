"""Masks made elsewhere, in the words of their makers, as Tissue labels that fit their scan."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile
from pathlib import Path

import numpy as np

from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.files import read_labels
from dgmvlc_cli.imaging.lobes import LOBE_OF, of_side, within_lungs
from dgmvlc_cli.imaging.lungs import label_lungs
from dgmvlc_cli.imaging.names import is_image_name, stem
from dgmvlc_cli.imaging.volume import LUNGS, Tissue, Volume

ValuesOf = Mapping[str, tuple[int, ...]]
# Values of label maps in use; what is not named becomes body or outside, as the scan says.
READY_MAPPINGS: dict[str, dict[str, tuple[int, ...]]] = {
    "tissue": {"body": (1,), "right_lung": (2,), "left_lung": (3,), "airway": (4,)},
    "lungs": {"lung": (1,)},
    "aiib23": {"lung": (1,), "airway": (2,)},
    "lungmask": {"right_lung": (1,), "left_lung": (2,)},
    "lungmask-lobes": {
        "left_upper_lobe": (1,),
        "left_lower_lobe": (2,),
        "right_upper_lobe": (3,),
        "right_middle_lobe": (4,),
        "right_lower_lobe": (5,),
    },
    "totalsegmentator": {
        "left_upper_lobe": (10,),
        "left_lower_lobe": (11,),
        "right_upper_lobe": (12,),
        "right_middle_lobe": (13,),
        "right_lower_lobe": (14,),
        "airway": (16,),
    },
}
# ChestImagingPlatform keeps a region in the low byte and a type in the high byte of a value.
# Whole lung and thirds of both; right lung and its thirds (which are no lobes); left; the lobes,
# which it calls superior, middle and inferior; trachea, main bronchi.
CIP = "cip"
CIP_REGIONS = {
    "lung": (1, 20, 21, 22),
    "right_lung": (2, 12, 13, 14),
    "left_lung": (3, 9, 10, 11),
    "right_upper_lobe": (4,),
    "right_middle_lobe": (5,),
    "right_lower_lobe": (6,),
    "left_upper_lobe": (7,),
    "left_lower_lobe": (8,),
    "airway": (58, 59, 60),
}
CIP_AIRWAY_TYPES = (2, *range(38, 49), *range(72, 77))  # airway, trachea, bronchi, generations
AUTO = "auto"
MAPPING_NAMES = (AUTO, CIP, *READY_MAPPINGS)
# One file per structure, as TotalSegmentator and others write them: name -> structure.
STRUCTURE_FILES = {
    "lung_upper_lobe_left": "left_upper_lobe",
    "lung_lower_lobe_left": "left_lower_lobe",
    "lung_upper_lobe_right": "right_upper_lobe",
    "lung_middle_lobe_right": "right_middle_lobe",
    "lung_lower_lobe_right": "right_lower_lobe",
    **{name: name for name in LOBE_OF},
    **{f"{lung}{side}": "left_lung" for lung in ("", "lung_") for side in ("left", "l")},
    **{f"{lung}{side}": "right_lung" for lung in ("", "lung_") for side in ("right", "r")},
    "left_lung": "left_lung",
    "right_lung": "right_lung",
    "lungs": "lung",
    "lung": "lung",
    "trachea": "airway",
    "airways": "airway",
    "airway": "airway",
    "body": "body",
}
LOBES = "lobes"  # the part that is a map of Lobe values; all others are bool
SIDES = {Tissue.RIGHT_LUNG: "right_lung", Tissue.LEFT_LUNG: "left_lung"}
BESIDE_THE_LUNGS_HU = -300.0  # a mask with this mean lies on tissue, not on lung
LUNG_NOT_BODY_HU = -500.0  # a "body" with a mean below is a lung by another convention
# Shares of a given mask's lung voxels that are no air.  In phantoms a fitting mask has 0.01, one
# mirrored 0.11, one upside down 0.28; disease fills lungs too, but leaves no air beside the mask.
DENSE_HU, DENSE_TOLD, DENSE_REFUSED = -300.0, 0.08, 0.20
# Voxels of the body like lung that a given mask leaves out, by its own: 0.01 of a fitting one.
LUNG_LIKE_HU, MISSED_TOLD, MISSED_REFUSED = (-950.0, -600.0), 0.20, 0.10
# Shares of the lobes' voxels outside the lung that was given beside them.
STRAY_LOBES_TOLD, STRAY_LOBES_REFUSED = 0.01, 0.5


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """The mask files of one subject: one label map, or one file per structure."""

    files: tuple[Path, ...]
    structures: tuple[str, ...] = ()  # of each file; empty for a label map


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What a mask says of a scan, on its grid.

    labels: Tissue, uint8 (z, y, x).  lobes: Lobe, uint8 (z, y, x), each within the lung of its
    side; None where the mask tells no lobes.  notes: sentences for the user.
    """

    labels: np.ndarray
    lobes: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def require_masks(folder: Path, subjects: Sequence[str]) -> None:
    """Raise DgmvlcError where a folder holds no mask of any of the subjects.

    One whose mask alone is missing fails alone, later.
    """
    if not folder.is_dir():
        raise DgmvlcError(
            f"{folder} is no folder of masks.",
            "Name one with --masks DIR, or leave it out to use the built-in segmenter.",
        )
    if any(_mask_paths(subject, folder, subjects) for subject in subjects):
        return
    raise DgmvlcError(
        f"{folder} holds no mask of any of {counted(len(subjects), 'subject')}.",
        "Name each after its subject's id (ID.nii.gz), or leave --masks out to use the built-in "
        "segmenter.",
    )


def find_masks(
    subject: str, folder: Path, called: str = "", others: Iterable[str] = ()
) -> MaskFiles:
    """The masks of a subject in a folder.

    `A.nii.gz`, else `A_*.nii.gz` or `A-*.nii.gz` (a label map, or files named after structures,
    such as `A_lung.nii.gz` and `A_airway.nii.gz`), else the files in a folder `A`.
    called: the subject's name in messages, if not its id.  others: ids of other subjects, whose
    masks are not its own: `A_2.nii.gz` where there is a subject `A_2`.
    Raises DgmvlcError if there is none, or several of which none is named after a structure.
    """
    paths = _mask_paths(subject, folder, others)
    if not paths:
        raise DgmvlcError(
            f"No mask for subject {called or subject} in {folder}.",
            "Add one named after the subject's id (ID.nii.gz), or remove `masks` from [scans] to "
            "use the built-in segmenter.",
        )
    if stem(paths[0].name) == subject:
        return MaskFiles(files=tuple(paths[:1]))
    named = {path: _structure(path, subject) for path in paths}
    known = {path: structure for path, structure in named.items() if structure}
    if not known and len(paths) > 1:
        raise DgmvlcError(
            f"{len(paths)} masks for subject {called or subject} and no word which to take: "
            f"{_few_names(paths)}.",
            "Keep one label map per subject, or name files after structures: "
            "ID_left.nii.gz, ID_right.nii.gz, ID_airway.nii.gz.",
        )
    if not known:
        return MaskFiles(files=tuple(paths))
    return MaskFiles(files=tuple(known), structures=tuple(known.values()))


def longer_ids(subject: str, ordered: Sequence[str]) -> tuple[str, ...]:
    """Those of some sorted ids that begin with a subject's, which its masks are told from."""
    after = ordered[bisect_right(ordered, subject) :]
    return tuple(takewhile(lambda one: one.startswith(subject), after))


def _mask_paths(subject: str, folder: Path, others: Iterable[str]) -> list[Path]:
    """The image files that are a subject's by their names: the one of its id alone, or all."""
    images = [path for path in sorted(folder.glob("*")) if is_image_name(path.name)]
    exact = [path for path in images if stem(path.name) == subject]
    if exact:
        return exact
    longer = [one for one in others if one != subject and _belongs(one, subject)]
    parts = [
        path
        for path in images
        if _belongs(stem(path.name), subject)
        and not any(_belongs(stem(path.name), one) for one in longer)
    ]
    inside = folder / subject
    if not parts and inside.is_dir():
        parts = [path for path in sorted(inside.glob("*")) if is_image_name(path.name)]
    return parts


def _belongs(name: str, subject: str) -> bool:
    return name == subject or name.startswith((f"{subject}_", f"{subject}-"))


def _structure(path: Path, subject: str) -> str:
    name = stem(path.name).removeprefix(subject).lstrip("_-").lower()
    return STRUCTURE_FILES.get(name, "")


def given_segmentation(
    masks: MaskFiles, volume: Volume, mapping: str | ValuesOf = AUTO
) -> Segmentation:
    """Tissues, and lobes where they are told, on the grid of `volume`, from its mask files.

    mapping: what the values of a label map mean, a name of MAPPING_NAMES or structure -> values;
    other values are no lung.  Sides, body and airway are found where the mask does not tell them;
    lobes never are.  Raises DgmvlcError for a mask without lungs, of another place, beside the
    lungs, with lobes that lie elsewhere than its lungs or, with AUTO, of values that may mean
    something else; UsageError for an unknown mapping.
    """
    notes: list[str] = []
    if masks.structures:
        parts = _from_structures(masks, volume)
        notes += _cut_stray_lobes(parts, masks.files[0])
    else:
        values = read_labels(masks.files[0], like=volume)
        parts = _from_values(values, volume, mapping, masks.files[0])
    found = segmentation(volume, parts, notes)
    doubts = _check_place(found.labels, volume, masks.files[0])
    return replace(found, notes=(*found.notes, *doubts))


def segmentation(
    volume: Volume, parts: Mapping[str, np.ndarray], notes: Iterable[str] = ()
) -> Segmentation:
    """Tissues and lobes from `parts_of` some structures."""
    labels, lobes = tissues(volume, parts), parts.get(LOBES)
    kept = None if lobes is None else within_lungs(lobes, labels)
    return Segmentation(labels=labels, lobes=kept, notes=tuple(notes))


def parts_of(named: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Masks (z, y, x) by structure, several of one put together.

    The lobes become one map of Lobe values under the name LOBES: of a fine scan every mask is
    large.  Where two lobes claim a voxel, the first has it.
    """
    parts: dict[str, np.ndarray] = {}
    for structure, member in named:
        if structure in LOBE_OF:
            lobes = parts.setdefault(LOBES, np.zeros(member.shape, np.uint8))
            lobes[member & (lobes == 0)] = LOBE_OF[structure]
        else:
            parts[structure] = parts.get(structure, False) | member
    return parts


def tissues(volume: Volume, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tissue labels from masks of some structures; what is not given is found around the lungs."""
    nothing = np.zeros(volume.hu.shape, bool)
    airway = parts.get("airway", nothing)
    right = _lung_of(Tissue.RIGHT_LUNG, parts, nothing) & ~airway
    left = _lung_of(Tissue.LEFT_LUNG, parts, nothing) & ~airway & ~right
    unsided = parts.get("lung", nothing) & ~airway & ~right & ~left
    if not (unsided | right | left).any():
        return nothing.astype(np.uint8)
    if "body" in parts and not unsided.any():
        labels = parts["body"].astype(np.uint8) * np.uint8(Tissue.BODY)
    else:
        labels = label_lungs(volume, unsided | right | left)
    if airway.any():
        labels[labels == Tissue.AIRWAY] = Tissue.BODY
        labels[airway] = Tissue.AIRWAY
    labels[right] = Tissue.RIGHT_LUNG
    labels[left] = Tissue.LEFT_LUNG
    return labels


def _lung_of(side: Tissue, parts: Mapping[str, np.ndarray], nothing: np.ndarray) -> np.ndarray:
    """One lung as it was given: whole, by its lobes, or partly so."""
    lung = parts.get(SIDES[side], nothing)
    return lung | of_side(parts[LOBES], side) if LOBES in parts else lung


def _from_structures(masks: MaskFiles, volume: Volume) -> dict[str, np.ndarray]:
    named = zip(masks.structures, masks.files, strict=True)
    return parts_of((structure, read_labels(path, like=volume) > 0) for structure, path in named)


def _cut_stray_lobes(parts: dict[str, np.ndarray], path: Path) -> list[str]:
    """Take away what lies of lobes outside the lung of their side that was given beside them.

    Returns what to tell of it.  Raises DgmvlcError where that is most of the lobes.
    """
    if LOBES not in parts:
        return []
    lobes, stray = parts[LOBES], np.zeros(parts[LOBES].shape, bool)
    for side, name in SIDES.items():
        if name in parts or "lung" in parts:
            given = [parts[one] for one in (name, "lung", "airway") if one in parts]
            stray |= of_side(lobes, side) & ~reduce(np.logical_or, given)
    share = float(stray.sum()) / max(int((lobes > 0).sum()), 1)
    if share > STRAY_LOBES_REFUSED:
        raise DgmvlcError(
            f"{path}: the lobes do not fit their lungs, {100 * share:.0f} % of their voxels lie "
            "outside of the lung that they are part of",
            "Check that lobes and lungs are of one scan, and that left and right are not swapped.",
        )
    parts[LOBES] = np.where(stray, np.uint8(0), lobes)
    told = f"{100 * share:.0f} % of the lobes' voxels lie outside of their lung and were left out"
    return [told] if share > STRAY_LOBES_TOLD else []


def _from_values(
    values: np.ndarray, volume: Volume, mapping: str | ValuesOf, path: Path
) -> dict[str, np.ndarray]:
    """Structures by the values of a label map."""
    if mapping == CIP:
        regions, types = values & 255, values >> 8
        parts = parts_of((name, np.isin(regions, found)) for name, found in CIP_REGIONS.items())
        return {**parts, "airway": parts["airway"] | np.isin(types, CIP_AIRWAY_TYPES)}
    table = _automatic(values, volume, path) if mapping == AUTO else _mapping(mapping)
    parts = parts_of((name, np.isin(values, chosen)) for name, chosen in table.items())
    if not parts.get("body", np.zeros(1)).any():
        parts.pop("body", None)
    return parts


def _mapping(mapping: str | ValuesOf) -> ValuesOf:
    if not isinstance(mapping, str):
        return mapping
    if mapping not in READY_MAPPINGS:
        raise UsageError(
            f"mask_labels {mapping!r} is not known.", f"Known here: {', '.join(MAPPING_NAMES)}."
        )
    return READY_MAPPINGS[mapping]


def _automatic(values: np.ndarray, volume: Volume, path: Path) -> ValuesOf:
    """Binary lungs, or Tissue values: both lungs, and no body of air.

    Others number the right and left lung 1 and 2, and 3 what is in them.
    """
    found = set(np.unique(values).tolist())
    if found <= {0, 1}:
        return READY_MAPPINGS["lungs"]
    doubt = ""
    if {*LUNGS} <= found <= set(Tissue):
        body = volume.hu[values == Tissue.BODY]
        mean_hu = float(body.mean(dtype=np.float64)) if body.size else 0.0
        if mean_hu > LUNG_NOT_BODY_HU:
            return READY_MAPPINGS["tissue"]
        doubt = f", 1 with a mean of {mean_hu:.0f} HU"
    raise DgmvlcError(
        f"{path}: mask values {_few(found)}{doubt}; 0 and 1 (lung), or 0 outside, 1 body, "
        "2 right lung, 3 left lung (both), 4 airway were expected",
        f"Say what they mean with `mask_labels` under [scans]: {', '.join(MAPPING_NAMES)}, "
        "or a table such as { right_lung = [1], left_lung = [2] }.",
    )


def _check_place(labels: np.ndarray, volume: Volume, path: Path) -> list[str]:
    """What to tell of a mask that lies partly beside the lungs, or leaves out much of them.

    Raises DgmvlcError for one that has no lung or lies elsewhere.
    """
    lungs = np.isin(labels, LUNGS)
    if not lungs.any():
        raise DgmvlcError(
            f"{path}: the mask is empty, none of its values is lung",
            "Check that it is the lung mask, and `mask_labels` under [scans].",
        )
    hu = volume.hu[lungs]
    mean_hu, dense = float(hu.mean(dtype=np.float64)), float((hu > DENSE_HU).mean())
    low, high = LUNG_LIKE_HU
    body = volume.hu[labels == Tissue.BODY]
    missed = float(((body > low) & (body < high)).sum()) / hu.size
    told = f"{100 * dense:.0f} % of its lung voxels are above {DENSE_HU:.0f} HU"
    left_out = f"it leaves out lung-like voxels of {100 * missed:.0f} % of its own volume"
    misplaced = dense > DENSE_REFUSED and missed > MISSED_REFUSED
    if misplaced or mean_hu > BESIDE_THE_LUNGS_HU:
        raise DgmvlcError(
            f"{path}: the mask does not fit its scan, mean {mean_hu:.0f} HU where it says lung"
            + (f", {told}, and {left_out}" if misplaced else ""),
            "Check that mask and scan belong together and are not mirrored.",
        )
    doubts = [f"{told}: disease, or a mask that is mirrored or moved"] if dense > DENSE_TOLD else []
    return doubts + ([f"{left_out}: is the mask whole?"] if missed > MISSED_TOLD else [])


def _few_names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:4]) + (", ..." if len(paths) > 4 else "")


def _few(values: Iterable[int]) -> str:
    listed = sorted(values)
    return ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")
