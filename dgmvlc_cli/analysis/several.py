"""More than two levels of an attribute: all pairs of levels, or the response to a dose."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import cast

import numpy as np
import pandas as pd
from scipy import stats

from dgmvlc_cli.analysis import levels as several_levels
from dgmvlc_cli.analysis.balance import overlap as overlap_of_two
from dgmvlc_cli.analysis.contrasts import (
    LUNG_VOLUME,
    Contrast,
    Outcome,
    arm_name,
    at_one_volume,
    unique_subjects,
    with_log_volume,
)
from dgmvlc_cli.analysis.debias import Split
from dgmvlc_cli.analysis.effects import (
    CONFIDENCE,
    Estimate,
    adjust,
    debiased,
    effect_rows,
    model_implied,
    observed,
    student,
)
from dgmvlc_cli.analysis.mixed import fit_mixed
from dgmvlc_cli.analysis.readings import Readings
from dgmvlc_cli.workspace import generator

SEVERAL = ("dose.tsv", "levels.tsv", "overlap.tsv")
DOSE_COLUMNS = (
    "measure",
    "region",
    "attribute",
    "kind",
    "value",
    "n",
    "effect",
    "ci_low",
    "ci_high",
    "p",
    "unit",
    "method",
)


def tables_of_several(
    measures: pd.DataFrame,
    design: pd.DataFrame,
    series: Sequence[Contrast],
    covariates: Sequence[str],
    seed: int,
    helped: bool,
) -> dict[str, pd.DataFrame]:
    """What an analysis writes besides, file name (one of `SEVERAL`) -> table.

    series: contrasts of one attribute, each from the same first value.  A single one has the
    overlap of its groups, several levels have theirs and levels.tsv, a numeric attribute dose.tsv.
    """
    if len(series) < 2:
        volume = Readings.of(measures).scans().get(LUNG_VOLUME)
        table = overlap_of_two(design, series[0], covariates, seed, volume)
        return {} if table.empty else {"overlap.tsv": table}
    attribute = series[0].attribute
    values = [series[0].reference, *(one.target for one in series)]
    if series[0].numeric:
        doses = [float(one) for one in values]
        table = dose_response(measures, design, attribute, doses, covariates, seed, helped=helped)
        return {"dose.tsv": table}
    names = [str(one) for one in values]
    effects, overlap = level_effects(
        measures, design, attribute, names, covariates, seed, helped=helped
    )
    return {"levels.tsv": effects, "overlap.tsv": overlap}


# Levels -----------------------------------------------------------------------------------------


def level_effects(
    measures: pd.DataFrame | Readings,
    design: pd.DataFrame,
    attribute: str,
    names: Sequence[str],
    covariates: Sequence[str],
    seed: int = 0,
    *,
    helped: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All pairs of levels in one population, and who can be compared.

    Returns rows of `effects.EFFECT_COLUMNS` of the kinds model_implied and debiased_levels, and
    the table of `levels.diagnose_overlap` (empty where too few subjects stand at a level).  The
    generator's predictions enter where there are arms of every level, and helped (see
    `effects.debiased`).
    """
    readings, design = Readings.of(measures), unique_subjects(design)
    pairs = [Contrast(attribute, one, other) for one, other in combinations(names, 2)]
    parts = [model_implied(readings, pair, seed) for pair in pairs]
    results = _debias_levels(readings, design, attribute, names, covariates, seed, helped)
    parts += [
        effect_rows(readings, pair, "debiased_levels", found)
        for pair, found in zip(pairs, results, strict=True)
    ]
    effects = adjust(pd.concat(parts, ignore_index=True))
    table, adjusted = with_log_volume(design, readings.scans().get(LUNG_VOLUME), covariates)
    everyone = several_levels.levels_of(table, attribute, names, adjusted)
    if everyone.problem:
        return effects, pd.DataFrame(columns=list(several_levels.OVERLAP_COLUMNS))
    return effects, several_levels.diagnose_overlap(everyone, _splits(everyone, seed))


def _splits(levels: several_levels.Levels, seed: int) -> list[Split]:
    rng = generator(seed, levels.attribute, *levels.names, "cross-fitting")
    return several_levels.level_splits(levels.codes.to_numpy(), levels.x.to_numpy(), rng)


def _debias_levels(
    readings: Readings,
    design: pd.DataFrame,
    attribute: str,
    names: Sequence[str],
    covariates: Sequence[str],
    seed: int,
    helped: bool,
) -> list[dict[Outcome, Estimate]]:
    """Estimates of every outcome, for each pair of levels; volume as in `effects.debiased`."""
    scans = readings.scans()
    volume = scans.get(LUNG_VOLUME)
    arms = readings.predictions_of([arm_name(attribute, one) for one in names]) if helped else []
    for arm in arms:
        scans = scans.where(arm.reindex(scans.index).notna())
    results: list[dict[Outcome, Estimate]] = [{} for _ in combinations(names, 2)]
    for part, enlarged, adjusted in at_one_volume(scans, volume, design, covariates):
        for levels, y in several_levels.level_cohorts(part, enlarged, attribute, names, adjusted):
            for found, one in zip(results, _debias_cohort(levels, y, arms, seed), strict=True):
                found.update(one)
    return results


def _debias_cohort(
    levels: several_levels.Levels, y: pd.DataFrame, arms: list[pd.DataFrame], seed: int
) -> list[dict[Outcome, Estimate]]:
    """Estimates of outcomes (columns of y) that are known in just the subjects of `levels`."""
    pairs = list(combinations(range(len(levels.names)), 2))
    outcomes = cast(list[Outcome], y.columns.tolist())
    if levels.problem:
        problem = Estimate.missing(len(y), levels.problem)
        return [dict.fromkeys(outcomes, problem) for _ in pairs]
    flat = np.ptp(y.to_numpy(), axis=0) == 0
    m = np.stack([arm.loc[y.index, y.columns].to_numpy() for arm in arms]) if arms else None
    fits = several_levels.debias_levels(
        y.to_numpy(), levels.codes.to_numpy(), levels.x.to_numpy(), m, _splits(levels, seed)
    )
    said = "helped by the generator" if arms else "without the generator"
    method = f"cross-fitted AIPW, generalised overlap weights over {len(levels.names)} levels"
    absent = Estimate.missing(len(y), "no variation between subjects")
    return [
        {
            outcome: absent
            if flat[j]
            else Estimate.around(len(y), *student(fits[pair], j), f"{method}, {said}")
            for j, outcome in enumerate(outcomes)
        }
        for pair in pairs
    ]


# Doses ------------------------------------------------------------------------------------------


def dose_response(
    measures: pd.DataFrame | Readings,
    design: pd.DataFrame,
    attribute: str,
    values: Sequence[float],
    covariates: Sequence[str],
    seed: int = 0,
    *,
    helped: bool = True,
) -> pd.DataFrame:
    """The response of every measure and region to a numeric attribute: `DOSE_COLUMNS`.

    Kinds: those of `arm_responses`, and per unit of the attribute "slope_observed" and
    "slope_debiased" (real scans, as `effects.observed` and `effects.debiased`).
    """
    readings, design = Readings.of(measures), unique_subjects(design)
    step = float(values[-1] - values[0])
    whole = Contrast(attribute, float(values[0]), float(values[-1]))
    kinds = {
        "slope_observed": observed(readings, design, whole, covariates),
        "slope_debiased": debiased(readings, design, whole, covariates, seed, helped=helped),
    }
    real = {
        kind: {(row["measure"], row["region"]): row for row in table.to_dict("records")}
        for kind, table in kinds.items()
    }
    rows = []
    for outcome, unit in readings.units.items():
        for kind, found in real.items():
            row = found[outcome]
            effect, *ends = (row[name] / step for name in ("effect", "ci_low", "ci_high"))
            numbers = (row["n"], effect, *sorted(ends), row["p"])
            per = f"{unit} per unit"
            rows.append((*outcome, attribute, kind, np.nan, *numbers, per, row["method"]))
    scans = pd.DataFrame(rows, columns=list(DOSE_COLUMNS))
    return pd.concat([arm_responses(readings, attribute, values), scans], ignore_index=True)


def arm_responses(
    measures: pd.DataFrame | Readings, attribute: str, values: Sequence[float]
) -> pd.DataFrame:
    """The response within the models alone: `DOSE_COLUMNS`, of subjects that have all arms.

    Kinds: "arm", the mean paired change from the first value, one row for each (the first is 0);
    and per unit of the attribute "slope" (each subject's least-squares slope over its arms, mean
    over subjects, paired t interval; with the same values for everybody it is the fixed slope of a
    mixed model with a random slope for each subject) and "slope_mixed" (the same with folds as a
    sample of trainings).  Subjects are the unit: seeds are averaged first.
    """
    readings = Readings.of(measures)
    arms = readings.arms_by_fold([arm_name(attribute, value) for value in values])
    dose = np.asarray(values, dtype=float)
    rows = []
    for j, (outcome, unit) in enumerate(readings.units.items()):
        response = np.column_stack([arm.iloc[:, j] for arm in arms])
        known = np.isfinite(response).all(axis=1)
        fold = arms[0].index.get_level_values("fold").to_numpy()[known]
        for kind, value, said, units in _responses(response[known], fold, dose, unit):
            rows.append((*outcome, attribute, kind, value, *_numbers(said), units, said.method))
    return pd.DataFrame(rows, columns=list(DOSE_COLUMNS))


def _numbers(said: Estimate) -> tuple[int, float, float, float, float]:
    return said.n, said.effect, said.ci_low, said.ci_high, said.p


def _responses(
    response: np.ndarray, fold: np.ndarray, dose: np.ndarray, unit: str
) -> list[tuple[str, float, Estimate, str]]:
    """(kind, value, estimate, unit) of one outcome.  response: (n, values), finite."""
    if len(response) < 2:
        lacking = Estimate.missing(len(response), "fewer than 2 subjects have all arms")
        return [("slope", np.nan, lacking, f"{unit} per unit")]
    change = response - response[:, :1]
    found = [
        ("arm", float(value), _paired(change[:, k], "paired t interval"), unit)
        for k, value in enumerate(dose)
    ]
    centred = dose - dose.mean()
    slopes = response @ centred / (centred @ centred)
    per = f"{unit} per unit"
    found.append(("slope", np.nan, _paired(slopes, "per-subject slope, t interval"), per))
    if np.ptp(slopes) > 0:
        fit = fit_mixed(slopes, fold)
        p = float(2 * stats.t.sf(abs(fit.effect) / fit.se, fit.dof))
        method = f"mixed model of the slopes over subject and fold, REML, {fit.dof:.3g} d.f."
        said = Estimate(slopes.size, fit.effect, *fit.interval(CONFIDENCE), p, method)
        found.append(("slope_mixed", np.nan, said, per))
    return found


def _paired(d: np.ndarray, method: str) -> Estimate:
    if not d.any():
        return Estimate(d.size, 0.0, 0.0, 0.0, 1.0, method)
    error = float(stats.sem(d))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, d.size - 1)) * error
    p = float(2 * stats.t.sf(abs(d.mean()) / error, d.size - 1)) if error else float("nan")
    return Estimate.around(d.size, float(d.mean()), half, p, method)
