"""The debiased effect: cross-fitted augmented inverse-probability weighting, as arrays.

The generator *helps* and is never trusted.  Its prediction enters an outcome model that is fitted
to the real scans, and what the outcome model gets wrong is put right by the weighted residuals of
subjects that it has not seen (Robins et al. 1994, doi:10.1080/01621459.1994.10476818; cross-fitting
Chernozhukov et al. 2018, doi:10.1111/ectj.12097).

Letters: Y outcome, A attribute on the scale of the contrast (0 reference, 1 target), x covariates,
e(x) = E[A | x], m_a(x) the generator's out-of-fold prediction in arm a, mu_a(x) the outcome model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

FOLDS = 10
SPLITS = 5
# A unit-variance normal prior on the log odds per standard deviation of a covariate: it keeps the
# propensity of a small cohort away from 0 and 1 and is negligible in a large one.
PENALTY = 1.0
CLIP = 0.05

# (attribute, covariates, other covariates) -> propensity at the others, as `propensity`.
Propensity = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# A group of subjects as (n,) bool, and the degrees of freedom that estimation leaves it.
Spare = tuple[np.ndarray, float]


@dataclass(frozen=True)
class Fit:
    """One estimand for J outcomes, each (J,): estimate, standard error, degrees of freedom of t."""

    effect: np.ndarray
    se: np.ndarray
    dof: np.ndarray


@dataclass(frozen=True)
class Debiased:
    """Estimates for J outcomes.

    overlap: the overlap-weighted effect.  average: the effect averaged over all subjects (NaN for
    a numeric attribute, whose density it would need).  generator_weight: (J,), how much the outcome
    model trusts the generator, 0 (not) to 1 (fully).
    """

    overlap: Fit
    average: Fit
    generator_weight: np.ndarray


@dataclass(frozen=True)
class Split:
    """One division of the subjects.

    fold: (n,).  propensity: the cross-fitted e(x), (n,), or (n, L) of several levels.
    """

    fold: np.ndarray
    propensity: np.ndarray


def cross_splits(
    a: np.ndarray,
    covariates: np.ndarray,
    rng: np.random.Generator,
    splits: int = SPLITS,
    fit: Propensity | None = None,
) -> list[Split]:
    """Random divisions into folds, each with its cross-fitted propensity.

    a: (n,) attribute, or codes of levels.  covariates: (n, p), standardised.  fit: what estimates
    the propensity, `propensity` by default.  Everything here depends on the contrast alone, so one
    call serves all outcomes.
    """
    result = []
    for _ in range(splits):
        fold = balanced_folds(a, rng)
        parts = [
            (fit or propensity)(a[fold != k], covariates[fold != k], covariates[fold == k])
            for k in range(FOLDS)
        ]
        order = np.argsort(fold, kind="stable")
        result.append(Split(fold, np.concatenate(parts)[np.argsort(order)]))
    return result


def separation(a: np.ndarray, splits: list[Split]) -> float:
    """How well the cross-fitted propensity tells the groups apart: the area under its ROC curve.

    0.5 is not at all; at 1 the covariates decide who is where, whatever the form of it.  0.5 for
    a numeric attribute.
    """
    if not is_binary(a):
        return 0.5
    e = np.median([split.propensity for split in splits], axis=0)
    target, reference = e[a == 1], e[a == 0]
    larger = stats.mannwhitneyu(target, reference, method="asymptotic").statistic
    return float(larger / (target.size * reference.size))


def propensity(a: np.ndarray, covariates: np.ndarray, at: np.ndarray) -> np.ndarray:
    """E[A | x] fitted on (a, covariates) and evaluated at other covariates: (n at,).

    Binary A: ridge-penalised logistic regression, clipped to [CLIP, 1 - CLIP] (Crump et al. 2009,
    doi:10.1093/biomet/asn055).  Numeric A: ridge-penalised linear regression.
    """
    design, points = with_intercept(covariates), with_intercept(at)
    if not is_binary(a):
        return points @ np.linalg.solve(design.T @ design + _penalty(design), design.T @ a)
    return np.clip(_sigmoid(points @ ridge_logistic(design, a)), CLIP, 1 - CLIP)


def ridge_logistic(design: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Coefficients (p + 1,) of a logistic regression with a ridge on all but the intercept.

    Newton's method on the penalised log likelihood, which is strictly concave.
    """
    beta = np.zeros(design.shape[1])
    penalty = _penalty(design)
    for _ in range(50):
        p = _sigmoid(design @ beta)
        gradient = design.T @ (a - p) - penalty @ beta
        step = np.linalg.solve((design.T * (p * (1 - p))) @ design + penalty, gradient)
        beta += step
        if np.abs(step).max() < 1e-10:
            break
    return beta


def debias(
    y: np.ndarray,
    a: np.ndarray,
    covariates: np.ndarray,
    m_0: np.ndarray,
    m_1: np.ndarray,
    splits: list[Split],
) -> Debiased:
    """Debiased effects of J outcomes.

    y, m_0, m_1: (n, J) real outcome and the generator's prediction in either arm, from models that
    did not see the subject, averaged over seeds.  a: (n,).  covariates: (n, p), standardised.
    splits: from `cross_splits` for the same subjects.

    The estimand is the overlap-weighted effect (weights e (1 - e): Li, Morgan and Zaslavsky 2018,
    doi:10.1080/01621459.2016.1260466), estimated by its Neyman-orthogonal score, whose solution is

        tau = sum[(A - e)^2 (mu_1 - mu_0) + (A - e) (Y - mu_A)] / sum (A - e)^2.

    It is e (1 - e) psi with psi the AIPW score of the average effect, plus the term (1 - 2 e)
    (A - e) (mu_1 - mu_0 - tau) for the weights being estimated, so that an error of the
    propensity counts in second order only.  Where the effect is the same in all subjects it is
    Robinson's (1988, doi:10.2307/1912705) regression of residual on residual, which is also what a
    numeric attribute gets.  The average effect is the mean of psi, its two residual terms divided
    by their mean weight (which is 1 in expectation and much steadier in a small cohort).

    m_a may depend on the subject's mask and covariates, never on the subject's own A: the row is
    edited before the sentence is written, together with what A entails.  It comes from the mask,
    which A may have changed: the covariates must hold what matters of it (`effects.debiased` adds
    lung volume), else the estimand would lie between the effect under one mask and the total
    one, the nearer to the former the better the generator reads masks.

    Each split gives an estimate and an influence-function variance, corrected for small groups
    (`with_variance`).  The median over the splits, with variances widened by the squared distance
    from it, keeps the result from hanging on one division (Chernozhukov et al. 2018, definition
    3.3).
    """
    spare = spare_subjects(a, covariates.shape[1])
    overlap, average, weights = [], [], []
    for split in splits:
        mu_0, delta, weight = _outcome_model(y, a, covariates, m_0, m_1, split.fold)
        residual = y - mu_0 - a[:, None] * delta
        error = (a - split.propensity)[:, None]
        overlap.append(_solve(error**2, error**2 * delta + error * residual, spare))
        average.append(_average(delta, residual, a, split.propensity, spare))
        weights.append(weight)
    return Debiased(
        median_over_splits(overlap), median_over_splits(average), np.mean(weights, axis=0)
    )


def _outcome_model(
    y: np.ndarray,
    a: np.ndarray,
    covariates: np.ndarray,
    m_0: np.ndarray,
    m_1: np.ndarray,
    fold: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cross-fitted mu_0 and mu_1 - mu_0, each (n, J), and the generator's mean weight (J,).

    Two regressions are stacked: Y on (1, x, A), and Y on (1, x, A, m_A).  By Frisch, Waugh and
    Lovell the second equals the first plus g times the part of m_A that x and A do not explain, so
    a convex weight w on the second is a shrinkage of that one coefficient:

        mu_a(x) = first_a(x) + w g (m_a - E[m | x, a]).

    - Calibration: whatever level, scale or mean effect the generator gets wrong is absorbed by
      the coefficients of 1, x and A.  Collinearity of m_A with A is thereby no concern: only what
      the generator knows beyond them (from the mask, or about who responds more) can enter.
    - Weight: w = 1 - 1 / F, F the squared t statistic of g, minimises Mallows' criterion over
      convex combinations (Hansen 2007, doi:10.1111/j.1468-0262.2007.00785.x).  It is 0 when F < 1
      or g < 0 (a prediction that points the wrong way), which leaves plain covariate regression.
    - Arms that do not differ in any subject (lung volume under one mask) are the outcome itself
      and say nothing about an effect: w = 0.
    """
    m_a = m_0 + a[:, None] * (m_1 - m_0)
    told = np.abs(m_1 - m_0).max(axis=0) > 1e-9 * np.abs(m_a).max(axis=0)
    mu_0, delta = np.empty_like(y), np.empty_like(y)
    weights = []
    for k in range(FOLDS):
        test, train = fold == k, fold != k
        design = np.column_stack([with_intercept(covariates[train]), a[train]])
        g, weight, beta_y, beta_m = stacked(design, y[train], m_a[train])
        slope = np.where(told, weight * g, 0.0)
        points = with_intercept(covariates[test])
        base_y, base_m = points @ beta_y[:-1], points @ beta_m[:-1]
        mu_0[test] = base_y + slope * (m_0[test] - base_m)
        delta[test] = beta_y[-1] + slope * (m_1[test] - m_0[test] - beta_m[-1])
        weights.append(np.where(told, weight, 0.0))
    return mu_0, delta, np.mean(weights, axis=0)


def stacked(
    design: np.ndarray, y: np.ndarray, m: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """g and its Mallows weight w, each (J,); coefficients of y and of m on the design (q, J).

    The design's first column is the intercept.  Levels are taken off before, so that of columns
    that are dependent in these subjects none takes a part of it to subjects where they are not.
    """
    pseudo_inverse = np.linalg.pinv(design)
    level_y, level_m = y.mean(axis=0), m.mean(axis=0)
    beta_y, beta_m = pseudo_inverse @ (y - level_y), pseudo_inverse @ (m - level_m)
    beta_y[0] += level_y
    beta_m[0] += level_m
    rest_y, rest_m = y - design @ beta_y, m - design @ beta_m
    spread = np.sum(rest_m**2, axis=0)
    usable = spread > 1e-12 * np.sum(m**2, axis=0)
    g = np.sum(rest_m * rest_y, axis=0) / np.where(usable, spread, 1.0)
    dof = max(design.shape[0] - design.shape[1] - 1, 1)
    noise = np.sum((rest_y - g * rest_m) ** 2, axis=0) / dof
    gain = g**2 * spread
    trusted = usable & (g > 0) & (gain > noise)
    weight = np.where(trusted, 1.0 - noise / np.where(trusted, gain, 1.0), 0.0)
    return g, weight, beta_y, beta_m


def spare_subjects(a: np.ndarray, covariates: int) -> list[Spare]:
    """Each group with its degrees of freedom.

    A group of n_a among n spends one on its mean and its share n_a / n of the covariates; without
    groups (a numeric attribute) all subjects together spend one each on mean, slope and covariates.
    """
    n = a.size
    if not is_binary(a):
        return [(np.ones(n, dtype=bool), n - 2.0 - covariates)]
    return [(group, group.sum() - 1.0 - covariates * group.sum() / n) for group in (a == 0, a == 1)]


def _solve(weight: np.ndarray, score: np.ndarray, spare: list[Spare]) -> Fit:
    """Root of sum(score - weight tau) = 0, with its influence-function variance.

    Without groups (a numeric attribute) few subjects can hold most of the weight and pull tau their
    way, so that each influence is divided by one less the subject's share of the weight, as HC3
    does (MacKinnon and White 1985, doi:10.1016/0304-4076(85)90158-7).
    """
    tau = score.sum(axis=0) / weight.sum()
    influence = (score - weight * tau) / weight.mean()
    if len(spare) == 1:
        influence = influence / (1 - weight / weight.sum())
    return with_variance(tau, influence, spare)


def _average(
    delta: np.ndarray, residual: np.ndarray, a: np.ndarray, e: np.ndarray, spare: list[Spare]
) -> Fit:
    """Average effect; NaN where A is not binary."""
    if not is_binary(a):
        unknown = np.full(delta.shape[1], np.nan)
        return Fit(unknown, unknown, unknown)
    inverse = (a / e)[:, None], ((1 - a) / (1 - e))[:, None]
    weight_1, weight_0 = (w / w.mean() for w in inverse)
    # psi = mu_1 - mu_0 + A / e (Y - mu_1) - (1 - A) / (1 - e) (Y - mu_0)
    tau = np.mean(delta + (weight_1 - weight_0) * residual, axis=0)
    shift_1, shift_0 = np.mean(weight_1 * residual, axis=0), np.mean(weight_0 * residual, axis=0)
    influence = (delta - delta.mean(axis=0)) + (
        weight_1 * (residual - shift_1) - weight_0 * (residual - shift_0)
    )
    return with_variance(tau, influence, spare)


def with_variance(tau: np.ndarray, influence: np.ndarray, spare: list[Spare]) -> Fit:
    """The estimate tau (J,) with standard error and degrees of freedom from influences (n, J).

    Each group's part of the variance is scaled by its size over its spare subjects, and the parts'
    degrees of freedom are pooled as Welch (1947, doi:10.1093/biomet/34.1-2.28) does, so that a
    small group counts as one.
    """
    parts = [
        np.sum(influence[group] ** 2, axis=0) / influence.shape[0] ** 2 * (group.sum() / left)
        for group, left in spare
    ]
    variance = np.sum(parts, axis=0)
    squares = sum(part**2 / left for part, (_, left) in zip(parts, spare, strict=True))
    dof = variance**2 / np.maximum(squares, np.finfo(float).tiny)
    return Fit(tau, np.sqrt(variance), np.maximum(dof, 1.0))


def median_over_splits(fits: list[Fit]) -> Fit:
    """Median over splits."""
    taus = np.array([fit.effect for fit in fits])
    tau = np.median(taus, axis=0)
    variances = np.array([fit.se for fit in fits]) ** 2 + (taus - tau) ** 2
    dof = np.median([fit.dof for fit in fits], axis=0)
    return Fit(tau, np.sqrt(np.median(variances, axis=0)), dof)


def balanced_folds(a: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) fold of each subject; folds are alike in size and in their distribution of A."""
    order = np.lexsort((rng.random(a.size), a))
    blocks = [rng.permutation(FOLDS) for _ in range(-(-a.size // FOLDS))]
    fold = np.empty(a.size, dtype=int)
    fold[order] = np.concatenate(blocks)[: a.size]
    return fold


def is_binary(a: np.ndarray) -> bool:
    """True where the attribute takes the values 0 and 1 only."""
    return bool(np.isin(a, (0.0, 1.0)).all())


def with_intercept(covariates: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(covariates.shape[0]), covariates])


def _penalty(design: np.ndarray) -> np.ndarray:
    return np.diag([0.0] + [PENALTY] * (design.shape[1] - 1))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))
