"""Comparability of the two groups of a contrast: balance of their covariates, and overlap.

volume: of the lungs, mL, index subject; with it the groups are those of the debiased effect of all
measures but volume (`contrasts.at_one_volume`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dgmvlc_cli.analysis.contrasts import Contrast, cohorts, unique_subjects, with_log_volume
from dgmvlc_cli.analysis.effects import splits_of
from dgmvlc_cli.analysis.levels import OVERLAP_COLUMNS, overlap_rows


def balance(
    design: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
    seed: int = 0,
    volume: pd.Series | None = None,
) -> pd.DataFrame:
    """Standardised mean differences: covariate, smd_raw, smd_weighted; a row per encoded column.

    Target minus reference mean, over the pooled standard deviation of the two groups, before and
    after overlap weighting; beyond 0.1 counts as unbalanced (Austin 2009, doi:10.1002/sim.3697).
    Empty for a numeric attribute, which has no groups, and where they are too small to compare.
    """
    groups = _groups(design, contrast, covariates, seed, volume)
    rows = []
    if groups is not None:
        a, x, e = groups
        rows = [(name, *_differences(a, values.to_numpy(), e)) for name, values in x.items()]
    return pd.DataFrame(rows, columns=["covariate", "smd_raw", "smd_weighted"])


def overlap(
    design: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
    seed: int = 0,
    volume: pd.Series | None = None,
) -> pd.DataFrame:
    """How much the two groups have in common: a row for each, as `levels.diagnose_overlap` has it.

    Empty where `balance` is.  propensity: the cross-fitted chance of standing in this group.
    """
    groups = _groups(design, contrast, covariates, seed, volume)
    if groups is None:
        return pd.DataFrame(columns=list(OVERLAP_COLUMNS))
    a, _, e = groups
    names = (str(contrast.reference), str(contrast.target))
    return overlap_rows(names, a.astype(int), np.column_stack([1 - e, e]))


def _groups(
    design: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
    seed: int,
    volume: pd.Series | None,
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray] | None:
    """a (n,), encoded covariates and cross-fitted propensity (n,) of the two groups."""
    if contrast.joint:
        return None
    everyone = pd.DataFrame({"all": 1.0}, index=design.index)
    table, adjusted = with_log_volume(unique_subjects(design), volume, covariates)
    (cohort,) = cohorts(everyone, table, contrast, adjusted)
    if contrast.numeric or cohort.problem:
        return None
    splits = splits_of(cohort, seed)
    e = np.median([split.propensity for split in splits], axis=0)
    return cohort.a.to_numpy(), cohort.x, e


def _differences(a: np.ndarray, x: np.ndarray, e: np.ndarray) -> tuple[float, float]:
    """Standardised mean difference of one covariate (n,), raw and overlap-weighted."""
    target = a == 1
    spread = np.sqrt((x[target].var() + x[~target].var()) / 2)
    weight = np.abs(a - e)
    raw = x[target].mean() - x[~target].mean()
    weighted = np.average(x[target], weights=weight[target]) - np.average(
        x[~target], weights=weight[~target]
    )
    return float(raw / spread), float(weighted / spread)
