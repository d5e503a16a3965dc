"""A known change in the user's own scans: who carries it, the volumes, and the exact truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dgmvlc_cli import workspace
from dgmvlc_cli.analysis.measures import measure
from dgmvlc_cli.analysis.zones import LOBE_REGIONS, LUNG_REGIONS, regions
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.imaging.files import (
    read_labels,
    read_lobes,
    read_volume,
    write_labels,
    write_volume,
)
from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.masks import READY_MAPPINGS
from dgmvlc_cli.imaging.volume import Volume
from dgmvlc_cli.text.schema import Attribute, Schema
from dgmvlc_cli.workspace import Workspace

ATTRIBUTE = "planted"
# Words without a meaning, like the placebos': the generator has nothing but the scans to go by.
LABEL, WITHOUT, WITH = "Archive lamp", "ivory", "amber"
TRUTH_COLUMNS = ("subject", "attribute", "from", "to", "measure", "region", "change", "unit")
LARGEST_HU = 300.0
# The sibling's masks hold lobes as values above those of the tissues.
FIRST_LOBE = 10
MASK_LABELS: dict[Any, tuple[int, ...]] = {
    **READY_MAPPINGS["tissue"],
    **{lobe.structure: (FIRST_LOBE + lobe,) for lobe in Lobe},
}


@dataclass(frozen=True, kw_only=True)
class Plant:
    """What is planted: a change of effect_hu in every voxel of one lung region or lobe.

    Raises UsageError for a change of 0, beyond `LARGEST_HU`, or in a region that is no lung.
    """

    effect_hu: float
    region: str

    def __post_init__(self) -> None:
        if not 0 < abs(self.effect_hu) <= LARGEST_HU:
            raise UsageError(
                f"A plant of {self.effect_hu:g} HU; expected a change other than 0, of at most "
                f"{LARGEST_HU:g} HU.",
                "Lung disease moves the mean by 5 to 50 HU: try --effect-hu 10.",
            )
        if self.region not in (*LUNG_REGIONS, *LOBE_REGIONS):
            raise UsageError(
                f"Nothing is planted in {self.region!r}, which is no region of the lungs.",
                f"Choose one of: {', '.join(LUNG_REGIONS)}; or where all masks tell lobes: "
                f"{', '.join(LOBE_REGIONS)}.",
            )

    @property
    def text(self) -> str:
        """`+10 HU in upper`."""
        return f"{self.effect_hu:+g} HU in {self.region}"

    @property
    def name(self) -> str:
        """As part of a folder's name: `upper-plus-10-hu`."""
        sign = "plus" if self.effect_hu > 0 else "minus"
        return f"{self.region}-{sign}-{abs(self.effect_hu):g}-hu"


@dataclass(frozen=True, kw_only=True)
class PlantTask:
    """One scan for one worker: from the user's workspace into the sibling's scans and masks."""

    subject: str
    source: Workspace
    out: Path
    plant: Plant
    carrier: bool


def carriers(subjects: Sequence[str], seed: int) -> frozenset[str]:
    """A random half of the subjects, whatever their order; of an odd number the smaller half."""
    ordered = sorted(subjects)
    chosen = workspace.generator(seed, "plant").permutation(len(ordered))[: len(ordered) // 2]
    return frozenset(ordered[i] for i in chosen)


def changed(
    volume: Volume, labels: np.ndarray, plant: Plant, lobes: np.ndarray | None = None
) -> Volume:
    """The scan with the change in it, in whole HU as files keep it.

    labels: (z, y, x) Tissue.  lobes: (z, y, x) Lobe, needed to plant in one.
    """
    region = regions(labels, volume.spacing_mm, [plant.region], lobes=lobes)[plant.region]
    hu = np.rint(volume.hu)
    return replace(volume, hu=np.where(region, np.rint(hu + plant.effect_hu), hu))


def truth_rows(
    subject: str,
    before: Volume,
    after: Volume,
    labels: np.ndarray,
    lobes: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Rows of `TRUTH_COLUMNS`: what the change does to every measure of this subject's lungs.

    lobes: (z, y, x) Lobe, where the subject's mask tells them.
    """
    names = LUNG_REGIONS if lobes is None else (*LUNG_REGIONS, *LOBE_REGIONS)
    one, other = (
        measure(volume.hu, labels, volume.spacing_mm, region_names=names, lobes=lobes)
        for volume in (before, after)
    )
    return [
        {
            "subject": subject,
            "attribute": ATTRIBUTE,
            "from": source,
            "to": target,
            "measure": a["measure"],
            "region": a["region"],
            "change": sign * (b["value"] - a["value"]),
            "unit": a["unit"],
        }
        for source, target, sign in ((WITHOUT, WITH, 1.0), (WITH, WITHOUT, -1.0))
        for a, b in zip(one, other, strict=True)
    ]


def plant_task(task: PlantTask) -> list[dict[str, Any]]:
    """Write one scan and its mask; returns its rows of truth, carrier or not."""
    volume = read_volume(task.source.ct_path(task.subject))
    labels = read_labels(task.source.mask_path(task.subject))
    lobes = read_lobes(task.source.lobes_path(task.subject))
    after = changed(volume, labels, task.plant, lobes)
    name = f"{workspace.slug(task.subject)}.nii.gz"
    write_volume(task.out / "scans" / name, after if task.carrier else volume)
    mask = labels if lobes is None else np.where(lobes > 0, FIRST_LOBE + lobes, labels)
    write_labels(task.out / "masks" / name, mask, volume)
    # Regions are relative to the lungs, so the generator's larger grid would measure the same.
    return truth_rows(workspace.slug(task.subject), volume, after, labels, lobes)


def planted_schema(schema: Schema) -> Schema:
    """The schema with the planted attribute in it.  Raises UsageError where its name is taken."""
    if ATTRIBUTE in schema.attributes:
        raise UsageError(
            f"This cohort has an attribute {ATTRIBUTE!r} already.",
            "Plant in the original workspace, or rename the attribute under [schema].",
        )
    attribute = Attribute(
        column=ATTRIBUTE,
        kind="category",
        role="condition",
        label=LABEL,
        levels=(WITHOUT, WITH),
    )
    return schema.model_copy(update={"attributes": {**schema.attributes, ATTRIBUTE: attribute}})
