"""Dose-response: what the same subjects' arms read at several levels of one attribute."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from dgmvlc_cli.analysis.contrasts import arm_name

DOSE_COLUMNS = (
    "measure",
    "region",
    "level",
    "n",
    "change",
    "ci_low",
    "ci_high",
    "p",
    "unit",
    "method",
)
CONFIDENCE = 0.95
LEAST_SUBJECTS = 3
Row = tuple[str | float, int, float, float, float, float, str]


def dose_response(
    measures: pd.DataFrame,
    attribute: str,
    levels: Sequence[str | float],
    measure: str,
    region: str,
) -> pd.DataFrame:
    """Change from the first level at every level, within the models: rows of `DOSE_COLUMNS`.

    measures: as measures.tsv.  levels: the reference first.  A linear mixed model, value on level
    with a random intercept for each subject, so that subjects need not have every level (Laird and
    Ware 1982, doi:10.2307/2529876); draws of one subject are averaged before.  With a number for
    an attribute a row `per unit` gives the slope, from the model that is linear in it.  NaN with
    the reason where the model cannot be fitted.
    """
    long = _long(measures, attribute, levels, measure, region)
    unit = str(long["unit"].iloc[0]) if len(long) else ""
    counts = {level: int((long["level"] == level).sum()) for level in levels}
    rows: list[Row] = [(levels[0], counts[levels[0]], 0.0, 0.0, 0.0, np.nan, "reference")]
    usable = [level for level in levels[1:] if counts[level] >= LEAST_SUBJECTS]
    missing = [level for level in levels[1:] if level not in usable]
    if usable and counts[levels[0]] >= LEAST_SUBJECTS:
        rows += _levels(long, levels[0], usable, counts)
        if all(isinstance(level, int | float) for level in levels) and len(usable) > 1:
            rows.append(_slope(long))
    reason = f"fewer than {LEAST_SUBJECTS} subjects"
    nan = float("nan")
    rows += [(level, counts[level], nan, nan, nan, nan, reason) for level in missing]
    table = pd.DataFrame(rows, columns=["level", "n", "change", "ci_low", "ci_high", "p", "method"])
    return table.assign(measure=measure, region=region, unit=unit)[list(DOSE_COLUMNS)]


def _long(
    measures: pd.DataFrame,
    attribute: str,
    levels: Sequence[str | float],
    measure: str,
    region: str,
) -> pd.DataFrame:
    """subject, level, value, unit; one row for each subject and level."""
    arms = {arm_name(attribute, level): level for level in levels}
    chosen = (measures["measure"] == measure) & (measures["region"] == region)
    table = measures[chosen & measures["arm"].isin(list(arms))].dropna(subset=["value"])
    grouped = table.groupby(["subject", "arm"], as_index=False).agg(
        value=("value", "mean"), unit=("unit", "first")
    )
    return grouped.assign(level=grouped["arm"].map(arms))


def _levels(
    long: pd.DataFrame, reference: str | float, levels: list[str | float], counts: dict
) -> list[Row]:
    codes = {level: f"level_{k}" for k, level in enumerate([reference, *levels])}
    design = long[long["level"].isin(list(codes))]
    design = design.assign(code=pd.Categorical(design["level"].map(codes), list(codes.values())))
    fit = _fit("value ~ code", design)
    return [
        (level, counts[level], *_term(fit, f"code[T.{codes[level]}]", len(design)))
        for level in levels
    ]


def _slope(long: pd.DataFrame) -> Row:
    design = long.assign(dose=long["level"].astype(float))
    n = design["subject"].nunique()
    return ("per unit", n, *_term(_fit("value ~ dose", design), "dose", len(design)))


def _fit(formula: str, design: pd.DataFrame) -> Any:
    """A fitted mixed model, or the reason why there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Values differ by little between levels and by much between subjects.
        centred = design.assign(value=design["value"] - design["value"].mean())
        try:
            return smf.mixedlm(formula, centred, groups=centred["subject"]).fit()
        except (np.linalg.LinAlgError, ValueError) as error:
            return f"the mixed model cannot be fitted ({error})"


def _term(fit: Any, name: str, rows: int) -> tuple[float, float, float, float, str]:
    """Coefficient, interval, p and method, by the normal approximation."""
    if isinstance(fit, str):
        return np.nan, np.nan, np.nan, np.nan, fit
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * float(fit.bse[name])
    change = float(fit.params[name])
    method = f"linear mixed model, random intercept by subject, {rows} readings"
    return change, change - half, change + half, float(fit.pvalues[name]), method
