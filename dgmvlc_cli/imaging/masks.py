"""Masks made elsewhere, in the words of their makers, as Tissue labels that fit their scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.lungs import label_lungs
from dgmvlc_cli.imaging.names import is_image_name, stem
from dgmvlc_cli.imaging.volume import LUNGS, Tissue, Volume, read_labels

ValuesOf = Mapping[str, tuple[int, ...]]
# Values of label maps in use; what is not named becomes body or outside, as the scan says.
READY_MAPPINGS: dict[str, dict[str, tuple[int, ...]]] = {
    "tissue": {"body": (1,), "right_lung": (2,), "left_lung": (3,), "airway": (4,)},
    "lungs": {"lung": (1,)},
    "aiib23": {"lung": (1,), "airway": (2,)},
    "lungmask": {"right_lung": (1,), "left_lung": (2,)},
    "lungmask-lobes": {"left_lung": (1, 2), "right_lung": (3, 4, 5)},
    "totalsegmentator": {
        "left_lung": (10, 11),
        "right_lung": (12, 13, 14),
        "airway": (16,),
    },
}
# ChestImagingPlatform keeps a region in the low byte and a type in the high byte of a value.
# Whole lung and thirds of both; right lung, its lobes and thirds; left; trachea, main bronchi.
CIP = "cip"
CIP_REGIONS = {
    "lung": (1, 20, 21, 22),
    "right_lung": (2, 4, 5, 6, 12, 13, 14),
    "left_lung": (3, 7, 8, 9, 10, 11),
    "airway": (58, 59, 60),
}
CIP_AIRWAY_TYPES = (2, *range(38, 49), *range(72, 77))  # airway, trachea, bronchi, generations
AUTO = "auto"
MAPPING_NAMES = (AUTO, CIP, *READY_MAPPINGS)
# One file per structure, as TotalSegmentator and others write them: name -> structure.
STRUCTURE_FILES = {
    "lung_upper_lobe_left": "left_lung",
    "lung_lower_lobe_left": "left_lung",
    "lung_upper_lobe_right": "right_lung",
    "lung_middle_lobe_right": "right_lung",
    "lung_lower_lobe_right": "right_lung",
    "lung_left": "left_lung",
    "lung_right": "right_lung",
    "left_lung": "left_lung",
    "right_lung": "right_lung",
    "lungs": "lung",
    "lung": "lung",
    "trachea": "airway",
    "airways": "airway",
    "airway": "airway",
    "body": "body",
}
BESIDE_THE_LUNGS_HU = -300.0  # a mask with this mean lies on tissue, not on lung


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """The mask files of one subject: one label map, or one file per structure."""

    files: tuple[Path, ...]
    structures: tuple[str, ...] = ()  # of each file; empty for a label map


def find_masks(subject: str, folder: Path, called: str = "") -> MaskFiles:
    """The masks of a subject in a folder.  called: the subject's name in messages, if not its id.

    `A.nii.gz`, else `A_*.nii.gz` or `A-*.nii.gz` (a label map, or files named after structures,
    such as `A_lung.nii.gz` and `A_airway.nii.gz`), else the files in a folder `A`.
    Raises DgmvlcError if there is none.
    """
    images = [path for path in sorted(folder.glob("*")) if is_image_name(path.name)]
    exact = [path for path in images if stem(path.name) == subject]
    if exact:
        return MaskFiles(files=tuple(exact[:1]))
    parts = [path for path in images if stem(path.name).startswith((f"{subject}_", f"{subject}-"))]
    inside = folder / subject
    if not parts and inside.is_dir():
        parts = [path for path in sorted(inside.glob("*")) if is_image_name(path.name)]
    if not parts:
        raise DgmvlcError(
            f"No mask for subject {called or subject} in {folder}.",
            "Add one named after the subject's id (ID.nii.gz), or remove `masks` from [scans] to "
            "use the built-in segmenter.",
        )
    named = {path: _structure(path, subject) for path in parts}
    known = {path: structure for path, structure in named.items() if structure}
    if not known:
        return MaskFiles(files=tuple(parts[:1]))
    return MaskFiles(files=tuple(known), structures=tuple(known.values()))


def _structure(path: Path, subject: str) -> str:
    name = stem(path.name).removeprefix(subject).lstrip("_-").lower()
    return STRUCTURE_FILES.get(name, "")


def given_labels(masks: MaskFiles, volume: Volume, mapping: str | ValuesOf = AUTO) -> np.ndarray:
    """Tissue labels, uint8 (z, y, x) on the grid of `volume`, from the mask files of its scan.

    mapping: what the values of a label map mean, a name of MAPPING_NAMES or structure -> values;
    other values are no lung.  Sides, body and airway are found where the mask does not tell them.
    Raises DgmvlcError for a mask without lungs, of another place, beside the lungs or, with AUTO,
    of values other than 0 to 4; UsageError for an unknown mapping.
    """
    if masks.structures:
        parts = _from_structures(masks, volume)
    else:
        values = read_labels(masks.files[0], like=volume)
        parts = _from_values(values, mapping, masks.files[0])
    labels = tissues(volume, parts)
    _require_lungs(labels, volume, masks.files[0])
    return labels


def tissues(volume: Volume, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tissue labels from masks of some structures; what is not given is found around the lungs."""
    nothing = np.zeros(volume.hu.shape, bool)
    airway = parts.get("airway", nothing)
    right = parts.get("right_lung", nothing) & ~airway
    left = parts.get("left_lung", nothing) & ~airway & ~right
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


def _from_structures(masks: MaskFiles, volume: Volume) -> dict[str, np.ndarray]:
    parts: dict[str, np.ndarray] = {}
    for path, structure in zip(masks.files, masks.structures, strict=True):
        member = read_labels(path, like=volume) > 0
        parts[structure] = parts.get(structure, False) | member
    return parts


def _from_values(values: np.ndarray, mapping: str | ValuesOf, path: Path) -> dict[str, np.ndarray]:
    """Structures by the values of a label map."""
    if mapping == CIP:
        regions, types = values & 255, values >> 8
        parts = {name: np.isin(regions, found) for name, found in CIP_REGIONS.items()}
        return {**parts, "airway": parts["airway"] | np.isin(types, CIP_AIRWAY_TYPES)}
    table = _automatic(values, path) if mapping == AUTO else _mapping(mapping)
    parts = {name: np.isin(values, chosen) for name, chosen in table.items()}
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


def _automatic(values: np.ndarray, path: Path) -> ValuesOf:
    """Binary lungs, or Tissue values."""
    found = set(np.unique(values).tolist())
    if not found <= set(Tissue):
        raise DgmvlcError(
            f"{path}: mask values {_few(found)}; 0 and 1 (lung), or 0 outside, 1 body, "
            "2 right lung, 3 left lung, 4 airway were expected",
            f"Say what they mean with `mask_labels` under [scans]: {', '.join(MAPPING_NAMES)}, "
            "or a table such as { right_lung = [1], left_lung = [2] }.",
        )
    return READY_MAPPINGS["lungs" if found <= {0, 1} else "tissue"]


def _require_lungs(labels: np.ndarray, volume: Volume, path: Path) -> None:
    """Refuse a mask that has no lung, or that lies on other tissue."""
    lungs = np.isin(labels, LUNGS)
    if not lungs.any():
        raise DgmvlcError(
            f"{path}: the mask is empty, none of its values is lung",
            "Check that it is the lung mask, and `mask_labels` under [scans].",
        )
    mean_hu = float(volume.hu[lungs].mean(dtype=np.float64))
    if mean_hu > BESIDE_THE_LUNGS_HU:
        raise DgmvlcError(
            f"{path}: the mask does not fit its scan, mean {mean_hu:.0f} HU where it says lung",
            "Check that mask and scan belong together and are not mirrored.",
        )


def _few(values: Iterable[int]) -> str:
    listed = sorted(values)
    return ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")
