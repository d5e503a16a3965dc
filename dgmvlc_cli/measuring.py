"""Read the real scans and the arms of the pairs, subject by subject and once, on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli.analysis.axioms import MOVED_REGIONS, moved_hu
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.looks import Pair, PairSummary, summarise
from dgmvlc_cli.analysis.maps import Sampler
from dgmvlc_cli.analysis.measures import measure_regions, wasserstein_hu
from dgmvlc_cli.analysis.readings import MEASURE_COLUMNS, OBSERVED
from dgmvlc_cli.analysis.zones import regions
from dgmvlc_cli.errors import made_by
from dgmvlc_cli.generators.grid import place, place_lobes
from dgmvlc_cli.imaging.files import read_labels, read_lobes, read_volume
from dgmvlc_cli.imaging.volume import Volume
from dgmvlc_cli.workspace import Workspace

DISTANCE_COLUMNS = ("subject", "fold", "seed", "contrast", "region", "measure", "value", "unit")
DISTANCE_REGIONS = ("lungs", "upper", "middle", "lower")


@dataclass(frozen=True, kw_only=True)
class ArmVolume:
    """A generated volume: which arm and seed it is, and where it lies."""

    arm: str
    seed: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class MeasureTask:
    """One subject's real scan and generated arms, for one worker.

    contrasts: those that the subject informs, whose differences are mapped.  studied: the one
    whose first draw the report shows, where the subject informs it.  sentences: of its arms.
    keep_images: give that draw's images back.
    """

    workspace: Workspace
    subject: str
    fold: int | None
    arms: tuple[ArmVolume, ...]
    grid: tuple[int, int, int] | None
    spacing_mm: float
    contrasts: tuple[Contrast, ...] = ()
    studied: Contrast | None = None
    sentences: tuple[str, str] = ("", "")
    keep_images: bool = False


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one reading of a subject's images gives.

    rows: of measures.tsv.  distances: rows of distances.tsv.  real_map: the real scan in the
    template.  difference_maps: contrast's text -> target minus reference in the template, mean over
    draws.  cell_mm: size of a template cell in this subject.  summary, pair: of the studied
    contrast's first draw.  moved_hu: region -> mean absolute difference of its arms, mean over
    draws.
    """

    subject: str
    rows: list[dict[str, Any]]
    distances: list[dict[str, Any]] = field(default_factory=list)
    real_map: np.ndarray | None = None
    difference_maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    cell_mm: tuple[float, ...] = ()
    summary: PairSummary | None = None
    pair: Pair | None = None
    moved_hu: Mapping[str, float] = field(default_factory=dict)


def look_at(task: MeasureTask) -> Look:
    """Measure and map one subject.  The real scan is taken on the grid of the generated ones.

    grid None measures the preprocessed scan as it lies (a workspace without a model).
    """
    ws = task.workspace
    with made_by("dgmvlc preprocess"):
        scan, labels = (
            read_volume(ws.ct_path(task.subject)),
            read_labels(ws.mask_path(task.subject)),
        )
        lobes = read_lobes(ws.lobes_path(task.subject))
    if task.grid is not None:
        lobes = None if lobes is None else place_lobes(lobes, labels, task.grid)
        scan, labels = place(scan, labels, task.grid, task.spacing_mm)
    with made_by("dgmvlc counterfactual"):
        arms = {(one.arm, one.seed): read_volume(one.path) for one in task.arms}
    volumes: list[tuple[str, int | None, Volume]] = [(OBSERVED, None, scan)]
    volumes += [(arm, seed, volume) for (arm, seed), volume in arms.items()]
    # Muscle and fat are cut from the real scan, so that all arms are measured in the same voxels.
    masks = regions(labels, scan.spacing_mm, scan_hu=scan.hu, lobes=lobes)
    rows = [
        {"subject": task.subject, "fold": task.fold, "seed": seed, "arm": arm, **row}
        for arm, seed, volume in volumes
        for row in measure_regions(volume.hu, masks, scan.spacing_mm)
    ]
    if not task.contrasts:
        return Look(subject=task.subject, rows=rows)
    sampler = Sampler(labels, scan.spacing_mm)
    differences = {
        contrast.text: sampler(hu)
        for contrast in task.contrasts
        if (hu := _mean_difference(arms, contrast)) is not None
    }
    pair = None if task.studied is None else _first_pair(task, task.studied, arms, scan, labels)
    return Look(
        subject=task.subject,
        rows=rows,
        distances=list(_distances(task, arms, masks)),
        real_map=sampler(scan.hu),
        difference_maps=differences,
        cell_mm=sampler.cell_mm,
        summary=None if pair is None else summarise(pair),
        pair=pair if task.keep_images else None,
        moved_hu={} if task.studied is None else _moved(task.studied, arms, masks),
    )


Arms = Mapping[tuple[str, int], Volume]
Masks = Mapping[str, np.ndarray]


def _distances(task: MeasureTask, arms: Arms, masks: Masks) -> Iterator[dict[str, Any]]:
    """How far the target arm's distribution of HU lies from the reference arm's, by region."""
    for contrast in task.contrasts:
        for seed in _common_seeds(arms, contrast):
            reference, target = (arms[arm, seed].hu for arm in contrast.arms)
            for region in DISTANCE_REGIONS:
                mask = masks[region]
                if mask.any():
                    yield {
                        "subject": task.subject,
                        "fold": task.fold,
                        "seed": seed,
                        "contrast": contrast.text,
                        "region": region,
                        "measure": "wasserstein_hu",
                        "value": wasserstein_hu(reference[mask], target[mask]),
                        "unit": "HU",
                    }


def _common_seeds(arms: Arms, contrast: Contrast) -> list[int]:
    reference, target = contrast.arms
    return [seed for arm, seed in arms if arm == reference and (target, seed) in arms]


def _mean_difference(arms: Arms, contrast: Contrast) -> np.ndarray | None:
    """Target minus reference arm, mean over the draws that have both; None without any."""
    reference, target = contrast.arms
    seeds = _common_seeds(arms, contrast)
    if not seeds:
        return None
    return np.mean([arms[target, one].hu - arms[reference, one].hu for one in seeds], axis=0)


def _moved(contrast: Contrast, arms: Arms, masks: Masks) -> dict[str, float]:
    """How far each region moves between the arms, mean over the draws that have both."""
    reference, target = contrast.arms
    moved = [
        moved_hu(arms[reference, one].hu, arms[target, one].hu, masks)
        for one in _common_seeds(arms, contrast)
    ]
    return {name: float(np.mean([one[name] for one in moved])) for name in MOVED_REGIONS if moved}


def _first_pair(
    task: MeasureTask, studied: Contrast, arms: Arms, scan: Volume, labels: np.ndarray
) -> Pair | None:
    reference, target = (arms.get((arm, 0)) for arm in studied.arms)
    if reference is None or target is None:
        return None
    return Pair(
        subject=task.subject,
        reference_hu=reference.hu,
        target_hu=target.hu,
        real_hu=scan.hu,
        labels=labels,
        spacing_mm=scan.spacing_mm,
        reference_sentence=task.sentences[0],
        target_sentence=task.sentences[1],
    )


def arms_of(pairs: Mapping[Contrast, pd.DataFrame], root: Path) -> dict[str, list[ArmVolume]]:
    """Subject -> its generated volumes, from the pairs.tsv of one or more contrasts."""
    arms: dict[str, dict[tuple[str, int], ArmVolume]] = {}
    for contrast, table in pairs.items():
        for row in table.to_dict("records"):
            for arm, side in zip(contrast.arms, ("reference", "target"), strict=True):
                volume = ArmVolume(arm=arm, seed=int(row["seed"]), path=root / row[f"{side}_path"])
                # A reference that several contrasts share is one arm.
                arms.setdefault(row["subject"], {}).setdefault((arm, volume.seed), volume)
    return {subject: list(volumes.values()) for subject, volumes in arms.items()}


def distances_table(looks: Sequence[Look]) -> pd.DataFrame:
    """distances.tsv: the rows of every look, by subject."""
    rows = [row for look in looks for row in look.distances]
    return pd.DataFrame(rows, columns=list(DISTANCE_COLUMNS))


def measures_table(looks: Sequence[Look]) -> pd.DataFrame:
    """measures.tsv: the rows of every look, by subject, arm and draw."""
    table = pd.DataFrame(
        [row for look in looks for row in look.rows], columns=list(MEASURE_COLUMNS)
    )
    return table.sort_values(["subject", "arm", "seed"], kind="stable", ignore_index=True)
