"""Several finished analyses on one page."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Workspace, slug

if TYPE_CHECKING:
    from dgmvlc_cli.report.comparison import Compared


# Written last of an analysis, and taken away before its tables change.
FINISHED = "analysis.json"


def compare(ws: Workspace, settings: Settings, run: Run, names: list[str]) -> StageResult:
    """Put analyses side by side: their numbers, their maps, and a dose-response where there is one.

    names: folders of analyses, or their names below `analysis/` (with or without the model).
    """
    from dgmvlc_cli.report.comparison import (
        MOST,
        Comparison,
        comparison_table,
        write_comparison,
    )

    folders = list(dict.fromkeys(_find(ws, settings, name).resolve() for name in names))
    if not 2 <= len(folders) <= MOST:
        raise UsageError(
            f"{len(folders)} different analyses were named; from 2 to {MOST} can be compared.",
            f"Known here: {', '.join(_known(ws)) or 'none'}.",
        )
    named = "_and_".join(slug(f"{one.parent.name}_{one.name}") for one in folders)
    out = ws.root / "analysis" / "compare" / named
    if run.dry_run:
        return dry_run("compare", [f"{len(folders)} analyses -> {out}"])
    analyses = [_read(folder, out, folders) for folder in folders]
    comparison = Comparison(
        analyses=analyses,
        table=comparison_table(analyses),
        dose=_dose(folders, analyses),
        correlations=_correlations(folders, [one.label for one in analyses]),
    )
    page = write_comparison(out, comparison)
    return StageResult(
        stage="compare",
        summary=[f"{len(analyses)} analyses compared: {page}"],
        facts={"report": str(page), "table": str(out / "comparison.tsv")},
        next_command=f"open {page}",
    )


def _known(ws: Workspace) -> list[str]:
    """Names of the finished analyses of a workspace, `MODEL/CONTRAST`."""
    root = ws.root / "analysis"
    found = sorted(root.glob(f"*/*/{FINISHED}"))
    return [str(path.parent.relative_to(root)) for path in found]


def _find(ws: Workspace, settings: Settings, name: str) -> Path:
    root = ws.root / "analysis"
    for folder in (Path(name), root / name, root / settings.train.model / name):
        if (folder / FINISHED).is_file():
            return folder
    raise UsageError(
        f"No finished analysis is called {name!r}.",
        f"Known here: {', '.join(_known(ws)) or 'none, run `dgmvlc analyze` first'}.",
    )


def _read(folder: Path, out: Path, folders: list[Path]) -> Compared:
    """One analysis, labelled by its contrast, and by its folders where that is not enough."""
    from dgmvlc_cli.report.comparison import Compared

    effects = workspace.read_table(folder / "effects.tsv")
    contrast = _contrast_of(effects)
    alike = [one for one in folders if one.name == folder.name]
    label = contrast
    if len(alike) > 1:
        models = {one.parent.name for one in alike}
        part = folder.parent if len(models) == len(alike) else folder.parents[2]
        label = f"{contrast} ({part.name})"
    return Compared(
        label=label,
        model=folder.parent.name,
        contrast=contrast,
        effects=effects,
        verdicts=workspace.read_table(folder / "verdicts.tsv"),
        report=Path(os.path.relpath(folder / "report.html", out.resolve())).as_posix(),
    )


def _contrast_of(effects: pd.DataFrame) -> str:
    return str(effects.loc[effects["kind"] == "debiased", "contrast"].iloc[0])


def _dose(folders: list[Path], analyses: list[Compared]) -> pd.DataFrame:
    """Dose-response over the analyses of one workspace and model that start from one level.

    Rows of `several.DOSE_COLUMNS` for the primary measure; numbers have slopes too.
    """
    from dgmvlc_cli.analysis.outcomes import levels
    from dgmvlc_cli.report.comparison import arms_table

    attributes = {one.contrast.partition(": ")[0] for one in analyses}
    starts, targets = zip(*(levels(one.contrast) for one in analyses), strict=True)
    if not len(attributes) == len(set(starts)) == len({f.parent for f in folders}) == 1:
        return pd.DataFrame()
    attribute, reference = attributes.pop(), starts[0]
    found = dict(zip(targets, analyses, strict=True))
    values = _numbers([reference, *found])
    if not values:
        return arms_table(attribute, reference, found)
    numbered = dict(zip(values[1:], found.values(), strict=True))
    rising = sorted(numbered)
    arms = arms_table(attribute, values[0], {value: numbered[value] for value in rising})
    slopes = _slopes(folders, attribute, [values[0], *rising])
    return pd.concat([arms, slopes], ignore_index=True)


def _numbers(texts: list[str]) -> list[float]:
    """The levels as numbers; [] where not all of them are."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []


def _slopes(folders: list[Path], attribute: str, values: list[float]) -> pd.DataFrame:
    """Slopes of the primary measure over the subjects that have an arm of every value."""
    from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
    from dgmvlc_cli.analysis.several import arm_responses
    from dgmvlc_cli.report.words import HEADLINE_REGIONS

    tables = [workspace.read_table(one / "measures.tsv", dtype={"subject": str}) for one in folders]
    measures = pd.concat(tables).drop_duplicates(
        ["subject", "fold", "seed", "arm", "region", "measure"]
    )
    chosen = measures["measure"] == PRIMARY_MEASURE
    chosen &= measures["region"].isin(HEADLINE_REGIONS)
    rows = arm_responses(measures[chosen], attribute, values)
    return rows[rows["kind"] != "arm"]


def _correlations(folders: list[Path], labels: list[str]) -> pd.DataFrame:
    """Spatial correlation of every two model-implied maps."""
    from dgmvlc_cli.analysis.maps import spatial_correlation

    maps = {
        label: found
        for folder, label in zip(folders, labels, strict=True)
        if (found := _map(folder)) is not None
    }
    rows = []
    for one, other in combinations(maps, 2):
        r, cells = spatial_correlation(maps[one], maps[other])
        rows.append({"analysis": one, "other": other, "r": r, "cells": cells})
    return pd.DataFrame(rows)


def _map(folder: Path) -> np.ndarray | None:
    """The model-implied map, NaN outside its mask; None where it was not written."""
    import SimpleITK as sitk

    paths = [folder / "maps" / f"model_implied_{name}.nii.gz" for name in ("effect", "mask")]
    if not all(path.is_file() for path in paths):
        return None
    effect, mask = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in paths)
    return np.where(mask > 0, effect, np.nan)
