"""What a cohort can show, before anything is trained: from its own spread between subjects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import optimize, stats

from dgmvlc_cli.analysis.contrasts import Cohort, Contrast, cohorts, unique_subjects
from dgmvlc_cli.analysis.readings import Readings
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS

ALPHA, POWER = 0.05, 0.80
PLAN_COLUMNS = (
    "measure",
    "region",
    "contrast",
    "n",
    "sd",
    "sd_adjusted",
    "se",
    "detectable",
    "detectable_family",
    "unit",
    "method",
)


def detectable_ncp(dof: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """Effect over its standard error that a two-sided t test finds with this power.

    The root of P(|T| > t_crit | noncentrality) = power, about 2.8 at 5 % and 80 %.
    """
    critical = stats.t.ppf(1 - alpha / 2, dof)

    def lacking(ncp: float) -> float:
        # The other tail is below 1e-6 from noncentrality 2 on, where scipy loses it as NaN.
        other = np.nan_to_num(stats.nct.cdf(-critical, dof, ncp))
        return float(stats.nct.sf(critical, dof, ncp) + other - power)

    return float(optimize.brentq(lacking, 0.0, critical + 10.0))


def plan_table(
    measures: pd.DataFrame | Readings,
    design: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
) -> pd.DataFrame:
    """The smallest effect that each measure and region can show: `PLAN_COLUMNS`.

    From the real scans alone: the residual SD of the regression on attribute and covariates, and
    the standard error of the attribute's coefficient.  sd: between subjects, before adjustment.
    detectable: effect found with 80 % power by one test at 5 %; detectable_family: by a test at 5 %
    over the number of comparisons in the lungs, the strictest that Benjamini-Hochberg can be.
    A row that cannot be computed has NaN and the reason in method.
    """
    readings, design = Readings.of(measures), unique_subjects(design)
    family = sum(region not in CONTROL_REGIONS for _, region in readings.outcomes)
    found: dict = {}
    for cohort in cohorts(readings.scans(), design, contrast, covariates):
        found |= _plan(cohort, max(family, 1))
    rows = [
        (*outcome, contrast.text, *found[outcome][:-1], unit, found[outcome][-1])
        for outcome, unit in readings.units.items()
    ]
    return pd.DataFrame(rows, columns=list(PLAN_COLUMNS))


def _plan(cohort: Cohort, family: int) -> dict:
    """Outcome -> n, sd, sd_adjusted, se, detectable, detectable_family, method."""
    nan = float("nan")
    if cohort.problem:
        return dict.fromkeys(cohort.outcomes, (cohort.n, nan, nan, nan, nan, nan, cohort.problem))
    predictors = np.column_stack([cohort.a, np.ones(cohort.n), cohort.x])
    y = cohort.y.to_numpy()
    residual = y - predictors @ np.linalg.lstsq(predictors, y, rcond=None)[0]
    dof = cohort.n - predictors.shape[1]
    spread = np.sqrt((residual**2).sum(axis=0) / dof)
    se = spread * np.sqrt(np.linalg.inv(predictors.T @ predictors)[0, 0])
    one, strict = (detectable_ncp(dof, ALPHA / m) for m in (1, family))
    method = f"OLS, {cohort.description}; {family} comparisons"
    columns = zip(y.std(axis=0, ddof=1), spread, se, one * se, strict * se, strict=True)
    return {
        outcome: (cohort.n, *map(float, numbers), method)
        for outcome, numbers in zip(cohort.outcomes, columns, strict=True)
    }


def subjects_needed(row: pd.Series, effect: float) -> int:
    """Subjects, in the same proportions, that would show an effect; row: of `plan_table`."""
    return int(np.ceil(row["n"] * (row["detectable"] / effect) ** 2))
