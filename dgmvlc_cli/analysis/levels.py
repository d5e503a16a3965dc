"""Several levels of one attribute at once: multinomial propensity, one population for all pairs.

Two levels at a time compare other people each time (never and current smokers, never and former
ones).  Here every pair of levels is compared in one and the same population, the people who might
have been at any level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import optimize, special

from dgmvlc_cli.analysis import debias
from dgmvlc_cli.analysis.contrasts import (
    arm_name,
    by_known,
    encode,
    entangled,
    too_few,
    too_few_at,
)
from dgmvlc_cli.analysis.debias import Fit, Split, with_intercept

# Below this share of its subjects that count, a level is compared through a few look-alikes.
LEAST_EFFECTIVE_SHARE, MOST_RAISED = 0.5, 0.1


def multinomial_propensity(codes: np.ndarray, covariates: np.ndarray, at: np.ndarray) -> np.ndarray:
    """P(level | x) fitted on (codes, covariates), evaluated at other covariates: (n at, L).

    codes: (n,) integers 0 .. L - 1.  A softmax regression whose ridge puts a prior of variance 1 on
    the log odds of any two levels per standard deviation of a covariate: with two levels it is
    `debias.ridge_logistic`.  Shares below `debias.CLIP` are raised to it.
    """
    design, points = with_intercept(covariates), with_intercept(at)
    n, columns, levels = codes.size, design.shape[1], int(codes.max()) + 1
    chosen = np.eye(levels)[codes]
    # Independent coefficients of variance 1/2 make their differences of variance 1.
    penalty = np.r_[0.0, np.full(columns - 1, 2 * debias.PENALTY)][:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        beta = flat.reshape(columns, levels)
        score = design @ beta
        value = special.logsumexp(score, axis=1).sum() - score[np.arange(n), codes].sum()
        gradient = design.T @ (special.softmax(score, axis=1) - chosen) + penalty * beta
        return value + float(np.sum(penalty * beta**2) / 2), gradient.ravel()

    found = optimize.minimize(
        loss, np.zeros(columns * levels), jac=True, method="L-BFGS-B", tol=1e-10
    )
    share = special.softmax(points @ found.x.reshape(columns, levels), axis=1)
    clipped = np.maximum(share, debias.CLIP)
    return clipped / clipped.sum(axis=1, keepdims=True)


def level_splits(
    codes: np.ndarray, covariates: np.ndarray, rng: np.random.Generator, splits: int = debias.SPLITS
) -> list[Split]:
    """`debias.cross_splits` with the propensity of every level."""
    return debias.cross_splits(codes, covariates, rng, splits, multinomial_propensity)


def tilt(propensity: np.ndarray) -> np.ndarray:
    """(n,) generalised overlap weights 1 / sum_l 1 / e_l(x); with two levels e (1 - e).

    Source: Li and Li 2019, doi:10.1214/19-AOAS1282.
    """
    return 1.0 / np.sum(1.0 / propensity, axis=1)


def debias_levels(
    y: np.ndarray,
    codes: np.ndarray,
    covariates: np.ndarray,
    predictions: np.ndarray | None,
    splits: list[Split],
) -> dict[tuple[int, int], Fit]:
    """(reference, target) codes -> debiased effects of J outcomes in the common population.

    y: (n, J).  codes: (n,).  predictions: (L, n, J), the generator's out-of-fold value under every
    level, or None.  With h the tilt and mu the cross-fitted outcome model, the mean at level l is

        sum h mu_l / sum h  +  sum h 1{A = l} / e_l (Y - mu_l) / sum h 1{A = l} / e_l

    (augmented weighting of Li and Li 2019, residual weights normalised within the level), and an
    effect is a difference of two such means.  The outcome model is the one of `debias.debias` with
    a column for each level: the generator can help it and is never trusted.
    """
    levels = int(codes.max()) + 1
    spare = spare_by_level(codes, covariates.shape[1])
    fits: dict[tuple[int, int], list[Fit]] = {pair: [] for pair in combinations(range(levels), 2)}
    for split in splits:
        mu = _outcome_model(y, codes, covariates, predictions, split.fold)
        means, influences = zip(
            *(_mean_under(level, y, codes, mu, split.propensity) for level in range(levels)),
            strict=True,
        )
        for (j, k), found in fits.items():
            effect, influence = means[k] - means[j], influences[k] - influences[j]
            found.append(debias.with_variance(effect, influence, spare))
    return {pair: debias.median_over_splits(found) for pair, found in fits.items()}


def _mean_under(
    level: int, y: np.ndarray, codes: np.ndarray, mu: np.ndarray, e: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean outcome (J,) at a level in the common population, and its influences (n, J)."""
    h = tilt(e)
    h = (h / h.mean())[:, None]
    weight = h * ((codes == level) / e[:, level])[:, None]
    weight = weight / weight.mean()
    residual = y - mu[level]
    model, shift = np.mean(h * mu[level], axis=0), np.mean(weight * residual, axis=0)
    return model + shift, h * (mu[level] - model) + weight * (residual - shift)


def _outcome_model(
    y: np.ndarray,
    codes: np.ndarray,
    covariates: np.ndarray,
    predictions: np.ndarray | None,
    fold: np.ndarray,
) -> np.ndarray:
    """Cross-fitted mu (L, n, J): that of `debias.debias` with more than two levels."""
    levels = int(codes.max()) + 1
    dummies = np.eye(levels)[:, 1:]
    m = np.zeros((levels, *y.shape)) if predictions is None else predictions
    m_a = m[codes, np.arange(codes.size)]
    told = np.ptp(m, axis=0).max(axis=0) > 1e-9 * np.maximum(np.abs(m_a).max(axis=0), 1e-300)
    mu = np.empty((levels, *y.shape))
    for k in range(debias.FOLDS):
        test, train = fold == k, fold != k
        base = with_intercept(covariates)
        design = np.column_stack([base[train], dummies[codes[train]]])
        g, weight, beta_y, beta_m = debias.stacked(design, y[train], m_a[train])
        slope = np.where(told, weight * g, 0.0)
        for level in range(levels):
            at = np.column_stack([base[test], np.tile(dummies[level], (test.sum(), 1))])
            mu[level, test] = at @ beta_y + slope * (m[level, test] - at @ beta_m)
    return mu


def spare_by_level(codes: np.ndarray, covariates: int) -> list[debias.Spare]:
    """Each level's subjects with the degrees of freedom that estimation leaves them."""
    groups = [codes == level for level in range(int(codes.max()) + 1)]
    return [(one, one.sum() - 1.0 - covariates * one.sum() / codes.size) for one in groups]


# Who can be compared ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Levels:
    """The subjects at any of several levels.  codes: index subject.  x: encoded covariates."""

    attribute: str
    names: tuple[str, ...]
    codes: pd.Series
    x: pd.DataFrame

    @cached_property
    def problem(self) -> str:
        """Why nothing can be estimated; empty when all is well."""
        coefficients = self.x.shape[1] + len(self.names)
        if few := too_few_at(self.codes, self.names) or too_few(len(self.codes), coefficients):
            return few
        x = self.x.to_numpy()
        found = (
            entangled((self.codes == code).to_numpy(float), x, arm_name(self.attribute, name))
            for code, name in enumerate(self.names)
        )
        return next(filter(None, found), "")


def levels_of(
    design: pd.DataFrame, attribute: str, names: Sequence[str], covariates: Iterable[str]
) -> Levels:
    """Subjects at one of the levels, sorted, with their covariates encoded."""
    codes = design[attribute].map({name: code for code, name in enumerate(names)})
    codes = codes.dropna().astype(int).sort_index()
    adjusted = [name for name in covariates if name != attribute]
    return Levels(attribute, tuple(names), codes, encode(design.loc[codes.index], adjusted))


def level_cohorts(
    scans: pd.DataFrame,
    design: pd.DataFrame,
    attribute: str,
    names: Sequence[str],
    covariates: Sequence[str],
) -> Iterator[tuple[Levels, pd.DataFrame]]:
    """`contrasts.cohorts` of several levels: the subjects, and the outcomes known in just these."""
    for y in by_known(scans.reindex(levels_of(design, attribute, names, ()).codes.index)):
        yield levels_of(design.loc[y.index], attribute, names, covariates), y


OVERLAP_COLUMNS = (
    "level",
    "n",
    "propensity_low",
    "propensity_high",
    "raised",
    "effective_n",
    "overlap",
)


def diagnose_overlap(levels: Levels, splits: list[Split]) -> pd.DataFrame:
    """How much the levels have in common: `overlap_rows` of the median propensity over splits."""
    e = np.median([split.propensity for split in splits], axis=0)
    return overlap_rows(levels.names, levels.codes.to_numpy(), e)


def overlap_rows(names: Sequence[str], codes: np.ndarray, e: np.ndarray) -> pd.DataFrame:
    """A row for each level: `OVERLAP_COLUMNS`.

    codes: (n,) which level.  e: (n, L) chance of each level.  propensity_low and _high: its range
    over *all* subjects.  raised: share of subjects whose chance was at or below `debias.CLIP`.
    effective_n: Kish's effective number of the level's own subjects under the weights h / e.
    overlap: "good", or "limited" where that is below `LEAST_EFFECTIVE_SHARE` of n or more than
    `MOST_RAISED` of the subjects were raised.
    """
    h = tilt(e)
    rows = []
    for code, name in enumerate(names):
        own = codes == code
        weight = h[own] / e[own, code]
        effective = float(weight.sum() ** 2 / (weight**2).sum())
        raised = float(np.mean(e[:, code] <= debias.CLIP * (1 + 1e-9)))
        good = effective >= LEAST_EFFECTIVE_SHARE * own.sum() and raised <= MOST_RAISED
        low, high = float(e[:, code].min()), float(e[:, code].max())
        kind = "good" if good else "limited"
        rows.append((name, int(own.sum()), low, high, raised, effective, kind))
    return pd.DataFrame(rows, columns=list(OVERLAP_COLUMNS))


def overlap_words(table: pd.DataFrame) -> list[str]:
    """A sentence on the levels whose overlap is limited; none where all is well."""
    limited = table[table["overlap"] == "limited"]
    said = [
        f"{row['level']} ({row['effective_n']:.0f} effective of {row['n']} subjects)"
        for row in limited.to_dict("records")
    ]
    if not said:
        return []
    return [
        f"Limited overlap: few subjects have comparable covariates at {' and '.join(said)}; the "
        "debiased effect speaks of those who have."
    ]
