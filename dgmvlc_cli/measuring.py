"""Measure the real scans and the arms of the pairs, subject by subject, on one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.measures import measure
from dgmvlc_cli.generators.grid import place
from dgmvlc_cli.imaging.volume import Volume, read_labels, read_volume
from dgmvlc_cli.workspace import Workspace

COLUMNS = ("subject", "fold", "seed", "arm", "region", "measure", "value", "unit", "reason")
OBSERVED = "observed"


@dataclass(frozen=True, kw_only=True)
class ArmVolume:
    """A generated volume: which arm and seed it is, and where it lies."""

    arm: str
    seed: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class MeasureTask:
    """One subject's real scan and generated arms, for one worker."""

    workspace: Workspace
    subject: str
    fold: int | None
    arms: tuple[ArmVolume, ...]
    grid: tuple[int, int, int] | None
    spacing_mm: float


def measure_task(task: MeasureTask) -> list[dict[str, Any]]:
    """Rows of measures.tsv.  The real scan is measured on the grid of the generated ones.

    grid None measures the preprocessed scan as it lies (a workspace without a model).
    """
    ws = task.workspace
    scan, labels = read_volume(ws.ct_path(task.subject)), read_labels(ws.mask_path(task.subject))
    if task.grid is not None:
        scan, labels = place(scan, labels, task.grid, task.spacing_mm)
    volumes: list[tuple[str, int | None, Volume]] = [(OBSERVED, None, scan)]
    volumes += [(one.arm, one.seed, read_volume(one.path)) for one in task.arms]
    return [
        {"subject": task.subject, "fold": task.fold, "seed": seed, "arm": arm, **row}
        for arm, seed, volume in volumes
        for row in measure(volume.hu, labels, volume.spacing_mm)
    ]


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
