"""One difference per subject, looked at in several ways: each result with n, interval and method.

Every function takes the differences of n subjects (seeds and folds averaged before, so that the
subject is the unit) and returns a `Result`.  What they say holds within the trained models, as the
model-implied effect does: the placebos tell what that is worth.

An interval is NaN, its estimate and p are not, where n is too small for it to hold the truth in
about 95 of 100 samples: without a model of the distribution below 6 subjects (no set of ranks is
wide enough), by the bootstrap below `LEAST_BOOTSTRAPPED`.  The t intervals need normal differences.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from dgmvlc_cli.analysis.contrasts import (
    LUNG_VOLUME,
    Contrast,
    Outcome,
    informing,
    with_log_volume,
)
from dgmvlc_cli.analysis.effects import benjamini_hochberg, observed, sign_flip_p
from dgmvlc_cli.analysis.permutation import FLIPS, sign_flips
from dgmvlc_cli.analysis.readings import Readings
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS
from dgmvlc_cli.workspace import generator

CONFIDENCE = 0.95
RESAMPLES = 2000
LEAST_BOOTSTRAPPED = 15
"""Subjects: of normal samples of 3, 5 and 10 a 95 % BCa interval holds the mean in 77, 85, 89 %."""
TOO_FEW = "no interval: too few subjects"
MARGIN_SD = 0.2
"""Half width of the equivalence range in SD between subjects: Cohen's small effect."""

STATISTIC_COLUMNS = (
    "measure",
    "region",
    "contrast",
    "kind",
    "statistic",
    "n",
    "estimate",
    "ci_low",
    "ci_high",
    "p",
    "p_adjusted",
    "unit",
    "method",
)
VOLUME_ADJUSTED = ("mean_hu", "median_hu", "perc15_hu")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One statistic of n subjects; NaN where it is not defined, with the reason in method."""

    statistic: str
    n: int
    estimate: float
    ci_low: float
    ci_high: float
    p: float
    unit: str
    method: str


def student(d: np.ndarray, unit: str) -> Result:
    """Mean difference with Student's t interval."""
    test = stats.ttest_1samp(d, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return _result("mean, t", d, d.mean(), low, high, test.pvalue, unit, "paired t")


def sign_flip(d: np.ndarray, unit: str, rng: np.random.Generator) -> Result:
    """Mean difference with sign-flip p and the interval that belongs to it.

    Interval: between order statistics of the means of subsets (all of them up to `FLIPS`, else
    random ones), which hold the centre of a symmetric distribution with equal chance between
    neighbours (Hartigan 1969, doi:10.1080/01621459.1969.10501057).
    """
    p = sign_flip_p(d[:, None], rng)[0]
    chosen = sign_flips(d.size, rng, FLIPS) > 0
    chosen = chosen[chosen.any(axis=1)]
    means = np.sort(chosen @ d / chosen.sum(axis=1))
    place = int(_tails()[0] * (means.size + 1)) - 1
    method = "sign-flip permutation; interval from subset means"
    return _between("mean, sign flips", d, d.mean(), means, place, p, unit, method)


def wilcoxon(d: np.ndarray, unit: str) -> Result:
    """Pseudomedian (Hodges and Lehmann 1963, doi:10.1214/aoms/1177704172) and signed-rank test.

    Interval: order statistics of the Walsh averages by the exact signed-rank distribution
    (Hollander, Wolfe and Chicken 2014, section 3.2).
    """
    rows, columns = np.triu_indices(d.size)
    walsh = np.sort((d[rows] + d[columns]) / 2)
    p = stats.wilcoxon(d).pvalue if d.any() else 1.0
    place = _signed_rank_place(d.size)
    method = "Wilcoxon signed rank, Hodges-Lehmann estimate"
    return _between("pseudomedian, Wilcoxon", d, np.median(walsh), walsh, place, p, unit, method)


@functools.cache
def _signed_rank_place(n: int) -> int:
    """The largest sum of signed ranks of n that both tails of 1 - CONFIDENCE leave out, else -1."""
    chance = np.zeros(n * (n + 1) // 2 + 1)
    chance[0] = 1.0
    for rank in range(1, n + 1):
        chance[rank:] = (chance[rank:] + chance[:-rank]) / 2
        chance[:rank] /= 2
    return int(np.searchsorted(np.cumsum(chance), _tails()[0], side="right")) - 1


def cohen_dz(d: np.ndarray) -> Result:
    """Mean over SD of the differences; interval by inverting the non-central t distribution.

    Cumming and Finch 2001, doi:10.1177/0013164401614002.  NaN where SciPy cannot invert it.
    """
    n = d.size
    d_z = d.mean() / d.std(ddof=1)
    t = d_z * np.sqrt(n)
    high, low = (_noncentrality(t, n - 1, tail) / np.sqrt(n) for tail in _tails())
    p = 2 * stats.t.sf(abs(t), n - 1)
    method = "mean over SD of the differences; interval by non-central t"
    return _result("Cohen's d_z", d, d_z, low, high, p, "1", method)


def _noncentrality(t: float, dof: int, probability: float) -> float:
    """The non-centrality at which the observed t is the given quantile; NaN where none is found."""

    def excess(nc: float) -> float:
        value = stats.nct.cdf(t, dof, nc)
        # SciPy gives NaN far from t, where the probability is 1 or 0.
        return (float(nc < t) if np.isnan(value) else value) - probability

    # With few subjects t is a small multiple of its non-centrality or a large one.
    for reach in (10 + 0.5 * abs(t)) * 2.0 ** np.arange(6):
        if excess(t - reach) > 0 > excess(t + reach):
            found = float(optimize.brentq(excess, t - reach, t + reach, xtol=1e-6))
            return found if abs(excess(found)) < 1e-3 else float("nan")
    return float("nan")


def bootstrap(d: np.ndarray, unit: str, rng: np.random.Generator) -> Result:
    """Mean difference with the BCa interval (Efron 1987, doi:10.1080/01621459.1987.10478410)."""
    method = f"BCa bootstrap of subjects, {RESAMPLES} resamples"
    if d.size < LEAST_BOOTSTRAPPED:
        low = high = np.nan
        method += f"; {TOO_FEW}"
    elif not np.ptp(d):
        low = high = d.mean()
    else:
        found = stats.bootstrap(
            (d,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, rng=rng,
            method="BCa", batch=200,
        )  # fmt: skip
        low, high = found.confidence_interval
    return _result("mean, bootstrap", d, d.mean(), low, high, np.nan, unit, method)


def equivalence(d: np.ndarray, unit: str, margin: float) -> Result:
    """Two one-sided t tests: p is small where the mean lies within +-margin for certain.

    Interval: 90 %, which lies within the margin exactly where p < 0.05 (Schuirmann 1987,
    doi:10.1007/BF01068419).
    """
    tests = (
        stats.ttest_1samp(d, -margin, alternative="greater").pvalue,
        stats.ttest_1samp(d, margin, alternative="less").pvalue,
    )
    low, high = stats.ttest_1samp(d, 0.0).confidence_interval(0.9)
    shown = "" if unit == "1" else f" {unit}"
    method = f"two one-sided t tests against ±{margin:.3g}{shown}; 90 % interval"
    return _result("equivalence", d, d.mean(), low, high, max(tests), unit, method)


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def _between(
    statistic: str,
    d: np.ndarray,
    estimate: float,
    ordered: np.ndarray,
    place: int,
    p: float,
    unit: str,
    method: str,
) -> Result:
    """The interval between the values at a place from either end; none where that is below 0."""
    if place < 0:
        return _result(statistic, d, estimate, np.nan, np.nan, p, unit, f"{method}; {TOO_FEW}")
    return _result(statistic, d, estimate, ordered[place], ordered[-1 - place], p, unit, method)


def _result(
    statistic: str,
    d: np.ndarray,
    estimate: float,
    low: float,
    high: float,
    p: float,
    unit: str,
    method: str,
) -> Result:
    return Result(
        statistic=statistic,
        n=d.size,
        estimate=float(estimate),
        ci_low=float(low),
        ci_high=float(high),
        p=float(p),
        unit=unit,
        method=method,
    )


# All of them ------------------------------------------------------------------------------------


def all_results(d: np.ndarray, unit: str, margin: float, rng: np.random.Generator) -> list[Result]:
    """Every statistic of the differences of at least three subjects that are not all the same."""
    results = [
        student(d, unit),
        sign_flip(d, unit, rng),
        wilcoxon(d, unit),
        cohen_dz(d),
        bootstrap(d, unit, rng),
    ]
    return [*results, equivalence(d, unit, margin)] if margin > 0 else results


def statistics_table(
    measures: pd.DataFrame | Readings,
    design: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    """statistics.tsv of the studied contrast: rows of `STATISTIC_COLUMNS`.

    Kind model_implied: `all_results` of every measure and lung region; the range of equivalence is
    `MARGIN_SD` of the real scans' SD between subjects.  Kind observed: the real scans' density
    adjusted for lung volume besides the covariates, since a deeper breath makes lungs less dense.
    p_adjusted: Benjamini-Hochberg over all measures and regions of one statistic.  Intervals that
    too few subjects bear are NaN, with the reason in method.
    """
    readings = Readings.of(measures).of_subjects(informing(design, contrast))
    reference, target = readings.pairs(contrast)
    differences = (target - reference).groupby(level="subject").mean()
    spread = readings.scans().std(ddof=1)
    rows = []
    for outcome, unit in readings.units.items():
        if outcome[1] in CONTROL_REGIONS:
            continue
        d = differences[outcome].dropna().to_numpy()
        # What the shared mask holds fixed has no statistics.
        if d.size < 3 or not np.ptp(d):
            continue
        rng = generator(seed, contrast.text, "statistics", *outcome)
        margin = MARGIN_SD * float(spread.get(outcome, np.nan))
        results = all_results(d, unit, margin, rng)
        rows += [_row(outcome, contrast, "model_implied", asdict(one)) for one in results]
    rows += _volume_adjusted(readings, design, contrast, covariates)
    table = pd.DataFrame(rows, columns=list(STATISTIC_COLUMNS))
    families = table["p"].groupby([table["kind"], table["statistic"]])
    return table.assign(p_adjusted=families.transform(benjamini_hochberg))


def _row(outcome: Outcome, contrast: Contrast, kind: str, values: dict) -> dict:
    keys = dict(zip(("measure", "region"), outcome, strict=True))
    return {**keys, "contrast": contrast.text, "kind": kind, "p_adjusted": np.nan, **values}


def _volume_adjusted(
    readings: Readings, design: pd.DataFrame, contrast: Contrast, covariates: Sequence[str]
) -> list[dict]:
    """Observed effects on density with the logarithm of lung volume among the covariates.

    Density falls in proportion to the volume that the same tissue is spread over, so a breath
    changes both, and a group that breathes less deeply looks denser.
    """
    volume = readings.scans().get(LUNG_VOLUME)
    if volume is None or contrast.attribute not in design:
        return []
    enlarged, adjusted = with_log_volume(design, volume, covariates)
    rows = observed(readings, enlarged, contrast, adjusted)
    chosen = rows["measure"].isin(VOLUME_ADJUSTED) & ~rows["region"].isin(CONTROL_REGIONS)
    return [
        _row(
            (row["measure"], row["region"]),
            contrast,
            "observed",
            {
                "statistic": "volume-adjusted",
                **{key: row[key] for key in ("n", "ci_low", "ci_high", "p", "unit", "method")},
                "estimate": row["effect"],
            },
        )
        for row in rows[chosen].to_dict("records")
    ]


def distance_rows(
    distances: pd.DataFrame, contrasts: Sequence[Contrast], seed: int
) -> pd.DataFrame:
    """Mean distance between the arms' distributions, of each contrast: rows of `STATISTIC_COLUMNS`.

    distances: as distances.tsv.  The first contrast is the studied one, the others are placebos.  A
    distance is never negative, so it has an interval but no test against 0: compare with placebos.
    """
    rows = []
    for place, contrast in enumerate(contrasts):
        part = distances[distances["contrast"] == contrast.text]
        for region, values in part.groupby("region", sort=False):
            d = values.groupby("subject")["value"].mean().to_numpy()
            if d.size < 3:
                continue
            kind = "placebo" if place else "model_implied"
            rng = generator(seed, contrast.text, "distance", str(region))
            found = asdict(bootstrap(d, "HU", rng)) | {"statistic": "distance between the arms' HU"}
            rows.append(_row(("wasserstein_hu", str(region)), contrast, kind, found))
    return pd.DataFrame(rows, columns=list(STATISTIC_COLUMNS))
