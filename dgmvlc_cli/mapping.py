"""From looks at subjects to group maps, with the phantom's true map where it is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.analysis.contrasts import Contrast, dose, encode
from dgmvlc_cli.analysis.maps import (
    TEMPLATE,
    GroupMap,
    Sampler,
    map_table,
    observed_map,
    paired_map,
    spatial_correlation,
)
from dgmvlc_cli.analysis.permutation import TFCE_FLIPS
from dgmvlc_cli.measuring import Look
from dgmvlc_cli.phantom.cohort import true_difference
from dgmvlc_cli.phantom.settings import PhantomSettings
from dgmvlc_cli.phantom.table import SMOKING, Subject, true_subjects

MODEL, OBSERVED, TRUTH = "model_implied", "observed", "truth"
TRUTH_SUBJECTS = 12
"""The planted pattern hardly differs between subjects, and rendering takes a second each."""


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Group maps of one contrast.

    group: model_implied, observed (the real scans) and each placebo by its text, as far as they
    could be computed.  heights: map -> (subjects, HEIGHT), mean over each subject's cells of one
    height.  truth: the phantom's true map, mean over truth_n subjects.  cell_mm: size of a cell
    (height, depth, across) in the average lung.
    """

    group: Mapping[str, GroupMap]
    heights: Mapping[str, np.ndarray]
    cell_mm: tuple[float, ...]
    truth: np.ndarray | None = None
    truth_n: int = 0

    @property
    def placebos(self) -> dict[str, GroupMap]:
        return {name: one for name, one in self.group.items() if name not in (MODEL, OBSERVED)}

    @property
    def largest_placebo(self) -> float:
        """Largest absolute mean difference of any placebo in any cell, HU; NaN without one."""
        sizes = [float(np.nanmax(np.abs(one.effect))) for one in self.placebos.values()]
        return max(sizes, default=float("nan"))


def group_maps(
    looks: Sequence[Look],
    rows: pd.DataFrame,
    contrasts: Sequence[Contrast],
    covariates: Sequence[str],
    seed: int,
    tfce_flips: int = TFCE_FLIPS,
) -> Maps:
    """Maps of the studied contrast (the first), of the real scans and of every placebo.

    rows: the clinical table, index subject.  The model's maps rest on one difference per subject
    and sign flips; the real scans' on regression adjusted for covariates.  TFCE, which is slow, is
    computed for the studied contrast alone.
    """
    group: dict[str, GroupMap] = {}
    heights: dict[str, np.ndarray] = {}
    for place, contrast in enumerate(contrasts):
        stack = _stack(look.difference_maps.get(contrast.text) for look in looks)
        rng = workspace.generator(seed, contrast.text, "map flips")
        found = paired_map(stack, rng, tfce_flips=0 if place else tfce_flips)
        if found is not None:
            name = contrast.text if place else MODEL
            group[name], heights[name] = found, height_profiles(stack, found.mask)
    seen = _observed(looks, rows, contrasts[0], covariates, seed)
    if seen is not None:
        group[OBSERVED] = seen
    sizes = np.array([look.cell_mm for look in looks if look.cell_mm])
    return Maps(
        group=group,
        heights=heights,
        cell_mm=tuple(map(float, sizes.mean(axis=0))) if len(sizes) else (1.0, 1.0, 1.0),
    )


def _observed(
    looks: Sequence[Look],
    rows: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
    seed: int,
) -> GroupMap | None:
    scans = {look.subject: look.real_map for look in looks if look.real_map is not None}
    a = dose(rows, contrast)
    a = a[a.index.isin(list(scans))]
    x = encode(rows.loc[a.index], [name for name in covariates if name != contrast.attribute])
    stack = _stack(scans[subject] for subject in a.index)
    rng = workspace.generator(seed, contrast.text, "map permutations")
    return observed_map(stack, a.to_numpy(), x.to_numpy(), rng)


def _stack(maps: Iterable[np.ndarray | None]) -> np.ndarray:
    known = [one for one in maps if one is not None]
    return np.stack(known) if known else np.empty((0, *TEMPLATE), np.float32)


def height_profiles(stack: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of each subject's cells at each height: (subjects, HEIGHT), NaN where there are none."""
    inside = np.where(mask & np.isfinite(stack), stack, 0).sum(axis=(2, 3), dtype=np.float64)
    count = (mask & np.isfinite(stack)).sum(axis=(2, 3))
    return np.divide(inside, count, out=np.full(inside.shape, np.nan), where=count > 0)


# The phantom's truth ----------------------------------------------------------------------------


def true_map(
    settings: PhantomSettings, contrast: Contrast, subjects: Sequence[str], workers: int = 1
) -> tuple[np.ndarray, int] | None:
    """Mean true difference in the template, and over how many subjects; None where not known.

    Up to `TRUTH_SUBJECTS` of the subjects are rendered under both levels.
    """
    levels = (str(contrast.reference), str(contrast.target))
    if contrast.attribute != "smoking" or not set(levels) <= set(SMOKING):
        return None
    known = [one for one in true_subjects(settings) if one.subject in set(subjects)]
    if not known:
        return None
    steps = np.linspace(0, len(known) - 1, min(TRUTH_SUBJECTS, len(known)))
    chosen = [known[place] for place in np.unique(steps.round().astype(int))]
    maps = {}
    for outcome in parallel.run(partial(_true_one, levels, settings), chosen, workers):
        if outcome.error is not None:
            raise outcome.error
        maps[outcome.item.subject] = outcome.result
    stack = _stack(maps[one.subject] for one in chosen)
    count = np.isfinite(stack).sum(axis=0)
    total = np.nansum(stack, axis=0)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=2 * count >= len(stack))
    return mean, len(chosen)


def _true_one(levels: tuple[str, str], settings: PhantomSettings, subject: Subject) -> np.ndarray:
    difference, labels, spacing_mm = true_difference(subject, levels, settings)
    return Sampler(labels, spacing_mm)(difference)


# Tables and files -------------------------------------------------------------------------------


def summary_table(maps: Maps, contrast: str) -> pd.DataFrame:
    """One row for each map: what it shows, how much of it stands out, and what it resembles.

    beyond_placebos_percent: cells whose absolute effect exceeds the largest of any placebo's cells.
    r_observed, r_truth: spatial correlation with the real scans' map and with the true one.
    """
    rows = []
    observed = maps.group.get(OBSERVED)
    for name, one in maps.group.items():
        against_scans = np.nan
        if observed is not None and name != OBSERVED:
            against_scans, _ = spatial_correlation(one.effect, observed.effect)
        against_truth = np.nan
        if maps.truth is not None:
            against_truth, _ = spatial_correlation(one.effect, maps.truth)
        sizes = np.abs(one.effect[one.mask])
        beyond = np.nan
        if name == MODEL and np.isfinite(maps.largest_placebo):
            beyond = 100.0 * float(np.mean(sizes > maps.largest_placebo))
        rows.append(
            {
                "map": name if name in (MODEL, OBSERVED) else "placebo",
                "contrast": contrast if name in (MODEL, OBSERVED) else name,
                "n": one.n,
                "cells": int(one.mask.sum()),
                "mean": float(np.nanmean(one.effect)),
                "lowest": float(np.nanmin(one.effect)),
                "highest": float(np.nanmax(one.effect)),
                "unit": "HU",
                "smallest_p_max": float(np.nanmin(one.p_max)),
                "significant_percent": one.significant_percent,
                "significant_tfce_percent": one.significant_tfce_percent,
                "beyond_placebos_percent": beyond,
                "r_observed": against_scans,
                "r_truth": against_truth,
                "method": one.method,
            }
        )
    return pd.DataFrame(rows)


def write_maps(folder: Path, maps: Maps) -> None:
    """NAME_{effect,t,pmax,ptfce,mask}.nii.gz of the model's and the real scans' map, and the truth.

    The grid is the template, its voxels as large as the cells of the average lung; it lies in no
    scanner's space.  Outside the mask an effect is 0 and a p is 1: readers disagree about NaN, and
    ITK's turns it into 0, which would be the clearest p of all.  A map of an
    earlier run that is no longer made goes away.
    """
    for name, values, outside in _files(maps):
        path = folder / f"{name}.nii.gz"
        if values is None:
            path.unlink(missing_ok=True)
        else:
            _write(path, values, outside, maps.cell_mm)


def _files(maps: Maps) -> Iterator[tuple[str, np.ndarray | None, float]]:
    """Name, values and value outside the mask of every file; values None where there is no map."""
    for name in (MODEL, OBSERVED):
        one = maps.group.get(name)
        yield f"{name}_mask", None if one is None else one.mask, 0.0
        yield f"{name}_effect", None if one is None else one.effect, 0.0
        yield f"{name}_t", None if one is None else one.t, 0.0
        yield f"{name}_pmax", None if one is None else one.p_max, 1.0
        yield f"{name}_ptfce", None if one is None else one.p_tfce, 1.0
    yield f"{TRUTH}_effect", maps.truth, 0.0


def _write(path: Path, values: np.ndarray, outside: float, cell_mm: tuple[float, ...]) -> None:
    image = sitk.GetImageFromArray(np.nan_to_num(values.astype(np.float32), nan=outside))
    image.SetSpacing(cell_mm[::-1])
    with workspace.atomic_path(path) as part:
        sitk.WriteImage(image, str(part), useCompression=True)


def cells_table(maps: Maps) -> pd.DataFrame:
    """Every cell of the drawn maps: see `maps.map_table`."""
    shown: dict[str, GroupMap | np.ndarray] = {
        name: maps.group[name] for name in (MODEL, OBSERVED) if name in maps.group
    }
    if maps.truth is not None:
        shown[TRUTH] = maps.truth
    return map_table(shown)
