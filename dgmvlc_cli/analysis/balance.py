"""Comparability of the two groups of a contrast: covariates, overlap, and how scans were made.

volume: of the lungs, mL, index subject; with it the groups are those of the debiased effect of all
measures but volume (`contrasts.at_one_volume`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from dgmvlc_cli.analysis.contrasts import (
    Contrast,
    cohorts,
    dose,
    not_adjusted,
    unique_subjects,
    with_log_volume,
)
from dgmvlc_cli.analysis.effects import splits_of
from dgmvlc_cli.analysis.levels import OVERLAP_COLUMNS, overlap_rows
from dgmvlc_cli.analysis.verdicts import ALPHA
from dgmvlc_cli.imaging.acquisition import NUMBERS

ACQUISITION_COLUMNS = ("characteristic", "low_side", "low", "high_side", "high", "p", "p_family")


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


def scanned_alike(scans: pd.DataFrame, design: pd.DataFrame, contrast: Contrast) -> pd.DataFrame:
    """Whether the scans on both sides of a contrast were made alike: a row per characteristic.

    scans: as `imaging.acquisition.acquisition` has it.  low_side, high_side: the two levels of the
    attribute, or the halves of a number; low, high: what is found there, in words.  p: of a rank
    test against the attribute (Spearman for numbers, Kruskal-Wallis for levels, not told being one
    of them), nan where all scans are the same; p_family: after Holm, over all that differ at all.
    Characteristics that no scan tells are left out; a joint edit has no sides, hence no row.
    """
    a = dose(unique_subjects(design), contrast)
    # A dose falls with its number where the target is the smaller one.
    if contrast.numeric and contrast.target < contrast.reference:  # type: ignore[operator]
        a = -a
    made = unique_subjects(scans).reindex(a.index)
    upper = a > a.median() if contrast.numeric else a == 1
    sides = ("below its median", "above its median") if contrast.numeric else contrast.levels
    rows = [
        {
            "characteristic": str(name),
            "low_side": sides[0],
            "low": _found(values[~upper], NUMBERS.get(str(name), "")),
            "high_side": sides[1],
            "high": _found(values[upper], NUMBERS.get(str(name), "")),
            "p": _rank_test(values, a),
        }
        for name, values in made.items()
        if values.notna().any()
    ]
    table = pd.DataFrame(rows, columns=list(ACQUISITION_COLUMNS))
    tested = table["p"].notna()
    if tested.any():
        table.loc[tested, "p_family"] = multipletests(table.loc[tested, "p"], method="holm")[1]
    return table


def unlike_words(
    table: pd.DataFrame, adjusted: Collection[str], unusable: Collection[str] = ()
) -> list[str]:
    """What differs in how the scans were made, in sentences for the user; none where nothing does.

    table: as `scanned_alike` has it.  adjusted: the covariates that the analysis has adjusted for.
    unusable: characteristics that it cannot, see `contrasts.usable`.
    """
    rows = table[table["p_family"] < ALPHA]
    unlike = [
        f"{row.characteristic} ({row.low_side}: {row.low}; {row.high_side}: {row.high}; "
        f"p = {row.p_family:.2g})"
        for row in rows.itertuples()
    ]
    if not unlike:
        return []
    names = [str(name) for name in rows["characteristic"] if name not in adjusted]
    advice = [
        f"The observed and debiased effects {why}."
        for why in not_adjusted(name for name in names if name in unusable)
    ]
    if open_ones := ", ".join(f'"{name}"' for name in names if name not in unusable):
        advice.insert(0, f"Adjust for it: scan_covariates = [{open_ones}] under [analyze].")
    if not advice:
        advice = ["The observed and debiased effects are adjusted for it."]
    return [
        f"The scans that are compared were made unlike: {'; '.join(unlike)}. That alone can move "
        f"lung HU. {' '.join(advice)}"
    ]


def _found(values: pd.Series, unit: str) -> str:
    """What some scans have of one characteristic, in words; unit: of a number, else empty."""
    known = values.dropna()
    untold = f"not told {len(values) - len(known)}" if len(known) < len(values) else ""
    if known.empty:
        return untold
    if unit:
        low, middle, high = np.quantile(known, [0.0, 0.5, 1.0])
        spread = "" if low == high else f" ({low:.3g} to {high:.3g})"
        said = f"{middle:.3g} {unit}{spread}"
    else:
        said = ", ".join(
            f"{level} {count}" for level, count in known.value_counts().sort_index().items()
        )
    return ", ".join(part for part in (said, untold) if part)


def _rank_test(values: pd.Series, a: pd.Series) -> float:
    """p of an association of one characteristic with the attribute; nan where it does not vary."""
    if not pd.api.types.is_numeric_dtype(values):
        levels = [part for _, part in a.groupby(values.fillna("not told"))]
        alike = len(levels) < 2 or a.nunique() < 2
        return float("nan") if alike else float(stats.kruskal(*levels).pvalue)
    known = values.dropna()
    if known.nunique() < 2 or a[known.index].nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(known, a[known.index]).pvalue)
