"""From readings to effects: model-implied, observed, debiased and placebo, side by side.

The subject is the unit everywhere: noise seeds are averaged first, then training folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

from dgmvlc_cli.analysis import debias
from dgmvlc_cli.analysis.contrasts import (
    LUNG_VOLUME,
    Cohort,
    Contrast,
    Outcome,
    at_one_volume,
    cohorts,
    informing,
    unique_subjects,
)
from dgmvlc_cli.analysis.mixed import fit_mixed
from dgmvlc_cli.analysis.permutation import sign_flips
from dgmvlc_cli.analysis.placebos import with_placebo_p
from dgmvlc_cli.analysis.readings import Readings
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS
from dgmvlc_cli.workspace import generator

__all__ = [
    "EFFECT_COLUMNS",
    "Contrast",
    "adjust",
    "debiased",
    "estimate_effects",
    "fold_effects",
    "mixed",
    "model_implied",
    "observed",
]

EFFECT_COLUMNS = (
    "measure",
    "region",
    "contrast",
    "kind",
    "n",
    "effect",
    "ci_low",
    "ci_high",
    "p",
    "p_adjusted",
    "p_placebo",
    "unit",
    "method",
)
FOLD_COLUMNS = ("measure", "region", "contrast", "fold", "n", "effect", "unit")
CONFIDENCE = 0.95
ESTIMANDS = {"overlap": "overlap-weighted effect", "average": "average effect"}
MOST_SEPARATED = 0.98  # area under the propensity's ROC curve: beyond it nobody is comparable
NO_GROUP = "a joint edit has no group of real scans to compare"
SAME_ARMS = "both arms are identical: the shared mask holds it fixed, or the model is deaf to it"


@dataclass(frozen=True)
class Estimate:
    """One effect with its interval, p and method, in the unit of its measure."""

    n: int
    effect: float
    ci_low: float
    ci_high: float
    p: float
    method: str
    standard_error: float = float("nan")

    @classmethod
    def around(cls, n: int, effect: float, half: float, p: float, method: str) -> Estimate:
        """An estimate whose interval reaches half to either side."""
        return cls(n, effect, effect - half, effect + half, p, method)

    @classmethod
    def missing(cls, n: int, reason: str) -> Estimate:
        nan = float("nan")
        return cls(n, nan, nan, nan, nan, reason)


# The model-implied effect -----------------------------------------------------------------------


def model_implied(
    measures: pd.DataFrame | Readings,
    contrast: Contrast,
    seed: int = 0,
    kind: str = "model_implied",
) -> pd.DataFrame:
    """Target arm minus reference arm within the trained models: rows of `EFFECT_COLUMNS`.

    One difference per subject (mean over seeds, then over folds).  Interval: paired t.  p:
    sign-flip permutation of the mean (`sign_flip_p`), keyed by seed.
    The method text adds Cohen's d_z (mean over SD of the differences) and each fold's effect.
    Neither interval nor p knows that the model has learned the accidents of its cohort: what they
    are worth shows in the placebos.
    """
    readings = Readings.of(measures)
    reference, target = readings.pairs(contrast)
    by_fold = target - reference
    differences = by_fold.groupby(level="subject").mean().to_numpy()
    folds = by_fold.groupby(level="fold").mean().to_numpy()
    p = sign_flip_p(differences, generator(seed, contrast.text, "sign flips"))
    results = {
        outcome: _paired(differences[:, j], p[j], folds[:, j], contrast)
        for j, outcome in enumerate(readings.outcomes)
    }
    return effect_rows(readings, contrast, kind, results)


def mixed(measures: pd.DataFrame | Readings, contrast: Contrast) -> pd.DataFrame:
    """The model-implied effect with the trainings as a sample too: rows of kind "mixed".

    A mixed model over subject, fold and seed (`mixed.fit_mixed`): where the folds' models disagree
    its interval is wider than the paired one, which speaks of these very models only; of two folds
    it is too narrow all the same.
    """
    readings = Readings.of(measures)
    reference, target = readings.pairs(contrast)
    differences, seeds = target - reference, readings.seed_spread(contrast)
    fold = differences.index.get_level_values("fold").to_numpy()
    nested = differences.index.get_level_values("subject").is_unique
    results = {
        outcome: _mixed(differences.iloc[:, j].to_numpy(), fold, float(seeds.iloc[j]))
        if nested
        else Estimate.missing(len(fold), "subjects were held out by more than one fold")
        for j, outcome in enumerate(readings.outcomes)
    }
    return effect_rows(readings, contrast, "mixed", results)


def _mixed(differences: np.ndarray, fold: np.ndarray, sd_seed: float) -> Estimate:
    """differences: (n,) one per subject, NaN left out.  fold: (n,)."""
    known = np.isfinite(differences)
    d = differences[known]
    if d.size < 2:
        return Estimate.missing(d.size, "fewer than 2 subjects have this measure in both arms")
    if not d.any():
        return Estimate(d.size, 0.0, 0.0, 0.0, 1.0, SAME_ARMS)
    fit = fit_mixed(d, fold[known])
    low, high = fit.interval(CONFIDENCE)
    seeds = f", {sd_seed:.3g} between seeds" if np.isfinite(sd_seed) else ""
    method = (
        f"mixed model over subject, fold and seed, REML; SD {fit.sd_fold:.3g} between folds, "
        f"{fit.sd_subject:.3g} between subjects{seeds}; {fit.dof:.3g} degrees of freedom"
    )
    p = 2 * stats.t.sf(abs(fit.effect) / fit.se, fit.dof) if fit.se > 0 else float("nan")
    return Estimate(d.size, fit.effect, low, high, p, method)


def fold_effects(measures: pd.DataFrame | Readings, contrast: Contrast) -> pd.DataFrame:
    """Model-implied effect of each training fold: measure region contrast fold n effect unit.

    How far the folds differ shows how much hangs on which scans were learned from.
    """
    readings = Readings.of(measures)
    reference, target = readings.pairs(contrast)
    by_fold = (target - reference).groupby(level="fold")
    effects, counts = by_fold.mean(), by_fold.count()
    rows = [
        (*outcome, contrast.text, fold, counts.iloc[k, j], effects.iloc[k, j], unit)
        for j, (outcome, unit) in enumerate(readings.units.items())
        for k, fold in enumerate(effects.index)
    ]
    return pd.DataFrame(rows, columns=list(FOLD_COLUMNS))


def sign_flip_p(differences: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two-sided sign-flip p of the mean of each column; differences: (n, J), NaN left out: (J,).

    Exact up to 2^n <= `permutation.FLIPS`, else by random flips, of which the observed signs are
    one (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).
    """
    filled = np.nan_to_num(differences)
    sums = np.abs(filled.sum(axis=0))
    # Ties that differ by rounding alone must count as ties.
    slack = 1e-9 * np.abs(filled).sum(axis=0)
    signs = sign_flips(differences.shape[0], rng).astype(np.float64)
    return np.mean(np.abs(signs @ filled) >= sums - slack, axis=0)


def _paired(differences: np.ndarray, p: float, folds: np.ndarray, contrast: Contrast) -> Estimate:
    """The estimate from one difference per subject (n,), NaN left out."""
    d = differences[np.isfinite(differences)]
    if d.size < 2:
        arms = " and ".join(contrast.arms)
        return Estimate.missing(d.size, f"fewer than 2 subjects have this measure in {arms}")
    if not d.any():
        return Estimate(d.size, 0.0, 0.0, 0.0, 1.0, SAME_ARMS)
    mean, sd = d.mean(), d.std(ddof=1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, d.size - 1) * sd / np.sqrt(d.size)
    by_fold = ", ".join(f"{effect:.3g}" for effect in folds[np.isfinite(folds)])
    d_z = f"{mean / sd:.2f}" if sd > 0 else "undefined"
    method = f"paired t interval, sign-flip p, within the models; d_z {d_z}; by fold {by_fold}"
    return Estimate.around(d.size, mean, half, p, method)


# The observed association -----------------------------------------------------------------------


def observed(
    measures: pd.DataFrame | Readings,
    design: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
) -> pd.DataFrame:
    """Covariate-adjusted association in the real scans: rows of `EFFECT_COLUMNS`.

    Ordinary least squares of the measure on attribute and covariates, HC3 standard errors
    (MacKinnon and White 1985, doi:10.1016/0304-4076(85)90158-7), t quantiles.  Subjects: those at
    the two levels; for a numeric attribute all that have a value.  design: index subject.
    Missing covariates: `contrasts.encode`.
    """
    readings = Readings.of(measures)
    results: dict[Outcome, Estimate] = {}
    if contrast.joint:
        results = dict.fromkeys(readings.outcomes, Estimate.missing(0, NO_GROUP))
        return effect_rows(readings, contrast, "observed", results)
    for cohort in cohorts(readings.scans(), design, contrast, covariates):
        results |= _regressions(cohort)
    return effect_rows(readings, contrast, "observed", results)


def _regressions(cohort: Cohort) -> dict[Outcome, Estimate]:
    y = cohort.y.to_numpy()
    return {outcome: _regress(cohort, y[:, j]) for j, outcome in enumerate(cohort.outcomes)}


def _regress(cohort: Cohort, y: np.ndarray) -> Estimate:
    """The attribute's coefficient in the regression of y (n,) on attribute and covariates."""
    if cohort.problem:
        return Estimate.missing(y.size, cohort.problem)
    if np.ptp(y) <= 1e-9 * np.abs(y).max():
        return Estimate.missing(y.size, "no variation between subjects")
    predictors = np.column_stack([cohort.a, np.ones(y.size), cohort.x])
    fit = sm.OLS(y, predictors).fit(cov_type="HC3", use_t=True)
    low, high = fit.conf_int(1 - CONFIDENCE)[0]
    method = f"OLS, HC3, {cohort.description}"
    return Estimate(y.size, fit.params[0], low, high, fit.pvalues[0], method, fit.bse[0])


# The debiased effect ----------------------------------------------------------------------------


def debiased(
    measures: pd.DataFrame | Readings,
    design: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
    seed: int = 0,
    *,
    estimand: str = "overlap",
    kind: str = "debiased",
    helped: bool = True,
) -> pd.DataFrame:
    """Effect in the real scans, helped by the generator: rows of `EFFECT_COLUMNS`.

    Cross-fitted augmented inverse-probability weighting; the estimator and the reasons for it are
    in `debias.debias`.  Subjects: as in `observed`, and with pairs.  Lung volume is adjusted for
    too, since pairs hold it fixed (`contrasts.at_one_volume`), so that what the attribute does by
    way of it is in the observed effect and not in this one.  estimand: "overlap" (weights
    e (1 - e), the default) or "average" (all subjects alike).  The method text gives the other
    estimand, the generator's weight in the outcome model (0 to 1) and the ratio of the standard
    error to plain regression's in the same subjects.  helped False leaves the generator out: arms
    that were made from the subject's own scan hold its outcome, and would explain it perfectly.
    """
    if estimand not in ESTIMANDS:
        raise ValueError(f"estimand {estimand!r}, expected one of {', '.join(ESTIMANDS)}")
    readings = Readings.of(measures)
    if contrast.joint:
        absent = Estimate.missing(0, NO_GROUP)
        return effect_rows(readings, contrast, kind, dict.fromkeys(readings.outcomes, absent))
    m_0, m_1 = readings.predictions(contrast)
    if m_0.empty:
        absent = Estimate.missing(0, f"no pairs of {' and '.join(contrast.arms)}")
        return effect_rows(readings, contrast, kind, dict.fromkeys(readings.outcomes, absent))
    scans = readings.scans()
    usable = scans.where(m_0.reindex(scans.index).notna())
    if not helped:
        m_0, m_1 = 0.0 * m_0, 0.0 * m_1
    results: dict[Outcome, Estimate] = {}
    volume = scans.get(LUNG_VOLUME)
    for outcomes, enlarged, adjusted in at_one_volume(usable, volume, design, covariates):
        for cohort in cohorts(outcomes, enlarged, contrast, adjusted):
            results |= _debias(cohort, m_0, m_1, seed, estimand)
    return effect_rows(readings, contrast, kind, results)


def _debias(
    cohort: Cohort, m_0: pd.DataFrame, m_1: pd.DataFrame, seed: int, estimand: str
) -> dict[Outcome, Estimate]:
    """Debiased estimates of the outcomes of one cohort."""
    plain = _regressions(cohort)
    if cohort.problem:
        return plain
    splits = splits_of(cohort, seed)
    if debias.separation(cohort.a.to_numpy(), splits) > MOST_SEPARATED:
        reference, target = cohort.contrast.levels
        reason = f"the covariates tell {target} from {reference}: nobody is comparable"
        return dict.fromkeys(cohort.outcomes, Estimate.missing(cohort.n, reason))
    fit = debias.debias(
        cohort.y.to_numpy(),
        cohort.a.to_numpy(),
        cohort.x.to_numpy(),
        m_0.loc[cohort.y.index, cohort.outcomes].to_numpy(),
        m_1.loc[cohort.y.index, cohort.outcomes].to_numpy(),
        splits,
    )
    return {
        outcome: _debiased_estimate(cohort, fit, j, plain[outcome], estimand)
        for j, outcome in enumerate(cohort.outcomes)
    }


def splits_of(cohort: Cohort, seed: int) -> list[debias.Split]:
    """The cohort's divisions for cross-fitting, keyed by seed and contrast.

    A contrast and its reverse are divided alike, so that one question has one answer.
    """
    contrast = cohort.contrast
    ends = (contrast.reference, contrast.target)
    first, last = sorted(ends, reverse=not contrast.numeric)
    rng = generator(seed, Contrast(contrast.attribute, first, last).text, "cross-fitting")
    a, turned = cohort.a.to_numpy(), ends != (first, last)
    splits = debias.cross_splits(1 - a if turned else a, cohort.x.to_numpy(), rng)
    return [debias.Split(one.fold, 1 - one.propensity) for one in splits] if turned else splits


def _debiased_estimate(
    cohort: Cohort, fit: debias.Debiased, j: int, plain: Estimate, estimand: str
) -> Estimate:
    """Outcome j of a fit.  plain: its regression, which also knows when nothing can be said."""
    if np.isnan(plain.effect):
        return plain
    fits = {"overlap": fit.overlap, "average": fit.average}
    (other,) = (name for name in fits if name != estimand)
    effect, half, p = student(fits[estimand], j)
    if np.isnan(effect):
        return Estimate.missing(cohort.n, "a numeric attribute has no average effect")
    ratio = fits[estimand].se[j] / plain.standard_error
    estimator = (
        "cross-fitted regression of residual on residual"
        if cohort.contrast.numeric
        else f"cross-fitted AIPW, {ESTIMANDS[estimand]}"
    )
    method = (
        f"{estimator}, {cohort.description}; "
        f"generator weight {fit.generator_weight[j]:.2f}; SE {ratio:.2f} of regression's"
    )
    beside, reach, _ = student(fits[other], j)
    if np.isfinite(beside):
        span = f"{beside - reach:.3g}, {beside + reach:.3g}"
        method += f"; {ESTIMANDS[other]} {beside:.3g} [{span}]"
    return Estimate.around(cohort.n, effect, half, p, method)


def student(fit: debias.Fit, j: int) -> tuple[float, float, float]:
    """Estimate, half width of its interval, and p of outcome j."""
    effect, se, dof = (float(part[j]) for part in (fit.effect, fit.se, fit.dof))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, dof) * se
    return effect, half, 2 * stats.t.sf(abs(effect) / se, dof)


# Side by side -----------------------------------------------------------------------------------


def estimate_effects(
    measures: pd.DataFrame,
    design: pd.DataFrame,
    contrast: Contrast,
    placebos: Sequence[Contrast],
    covariates: Sequence[str],
    seed: int,
    *,
    helped: bool = True,
) -> pd.DataFrame:
    """All kinds of effect for every measure and region: the table `effects.tsv`.

    measures: as `measures.tsv`.  design: index subject; cleaned attributes (number or text, missing
    as NaN or None) and placebo columns.  placebos: contrasts of attributes without meaning.
    covariates: columns of design to adjust for; the contrast's own attribute is left out.  What
    the attribute entails by itself (pack-years of a never smoker) must not be among them.
    helped: whether the generator's predictions enter the debiased effect (see `debiased`).

    Kinds: model_implied, mixed, observed and debiased of the contrast; placebo (model-implied) and
    placebo_debiased of each placebo.  A row that cannot be computed has NaN and the reason in
    method.  p_adjusted: see `adjust`.  p_placebo, of model_implied alone: see
    `placebos.placebo_calibration`.
    """
    design = unique_subjects(design)
    everyone = Readings.of(measures)
    readings = everyone.of_subjects(informing(design, contrast))
    parts = [
        model_implied(readings, contrast, seed),
        mixed(readings, contrast),
        observed(readings, design, contrast, covariates),
        debiased(readings, design, contrast, covariates, seed, helped=helped),
    ]
    for placebo in placebos:
        readings = everyone.of_subjects(informing(design, placebo))
        parts += [
            model_implied(readings, placebo, seed, "placebo"),
            debiased(
                readings, design, placebo, covariates, seed, kind="placebo_debiased", helped=helped
            ),
        ]
    return with_placebo_p(adjust(pd.concat(parts, ignore_index=True)))


def adjust(effects: pd.DataFrame) -> pd.DataFrame:
    """The same table with p_adjusted: Benjamini-Hochberg over each declared family.

    A family is all measures in all lung regions, for one kind and contrast; negative-control
    regions make a family of their own.  Rows without p stay without.
    """
    control = effects["region"].isin(CONTROL_REGIONS)
    families = effects["p"].groupby([effects["kind"], effects["contrast"], control])
    return effects.assign(p_adjusted=families.transform(benjamini_hochberg))


def benjamini_hochberg(p: pd.Series) -> pd.Series:
    known = p.dropna()
    adjusted = stats.false_discovery_control(known) if len(known) else known
    return pd.Series(adjusted, index=known.index, dtype=float).reindex(p.index)


def effect_rows(
    readings: Readings, contrast: Contrast, kind: str, results: dict[Outcome, Estimate]
) -> pd.DataFrame:
    """Rows of `EFFECT_COLUMNS`, one for each outcome, p_adjusted and p_placebo still open."""
    rows = [
        {
            "measure": outcome[0],
            "region": outcome[1],
            "contrast": contrast.text,
            "kind": kind,
            **vars(results[outcome]),
            "p_adjusted": float("nan"),
            "p_placebo": float("nan"),
            "unit": unit,
        }
        for outcome, unit in readings.units.items()
    ]
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))
