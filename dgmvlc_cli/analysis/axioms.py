"""Are the pairs sound interventions: do they obey, spare the rest, and return to the start?

Properties of counterfactual images after Monteiro et al. 2023 (arXiv:2303.01274), read off by
predictors that were trained on real scans only and have not seen the subject:

- effectiveness: the edited attribute reads as it was set;
- specificity: other attributes read as before;
- minimality: outside the lungs nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dgmvlc_cli.analysis import debias
from dgmvlc_cli.analysis.contrasts import MIN_SUBJECTS, Contrast, dose, is_number
from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.readings import Readings
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS, LUNG_REGIONS
from dgmvlc_cli.workspace import generator

COLUMNS = ("property", "what", "n", "value", "ci_low", "ci_high", "unit", "scale", "method")
UNIT = "of its own unit"
CONFIDENCE = 0.95
PENALTIES = np.logspace(0, 5, 26)
# What the predictors look at: level, spread and low tail of the lungs, and their size.  Higher
# moments and thin controls differ between generated and real scans for reasons of their own.
READ = ("mean_hu", "sd_hu", "perc15_hu", "volume_ml")
# Below this share of explained variance on real scans a predictor can tell nothing.
LEAST_R2 = 0.05
# Limits of the words only; the table holds the numbers.
OBEYED = (0.5, 1.5)  # of what the same predictor sees between the real groups
UNTOUCHED = 0.1  # SD between subjects
STILL = 0.05  # of the lungs' movement
SAME_HU = 5.0
LEAST_READ = 20  # subjects, to learn a reading from


def interval_row(
    kind: str,
    what: str,
    values: np.ndarray,
    unit: str,
    scale: float,
    method: str,
    common_se: float = 0.0,
) -> tuple:
    """A row of `COLUMNS`: mean over subjects with its t interval.

    values: (n,), NaN left out.  common_se: of what all subjects share, added in quadrature.
    """
    known = values[np.isfinite(values)]
    if known.size < 2:
        return (
            kind,
            what,
            known.size,
            np.nan,
            np.nan,
            np.nan,
            unit,
            scale,
            "fewer than 2 subjects",
        )
    se = np.hypot(stats.sem(known), common_se)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, known.size - 1) * se
    mean = float(known.mean())
    return kind, what, known.size, mean, mean - half, mean + half, unit, scale, method


# Predictors -------------------------------------------------------------------------------------


def ridge(features: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (p,) and intercept of z on features (n, p), standardised.

    The penalty minimises generalised cross-validation (Golub et al. 1979,
    doi:10.1080/00401706.1979.10489751).
    """
    u, s, vt = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    rest = z - z.mean()
    along = u.T @ rest
    best, chosen = np.inf, PENALTIES[-1]
    for penalty in PENALTIES:
        kept = s**2 / (s**2 + penalty)
        free = 1 - (1 + kept.sum()) / z.size
        if free > 0.05:
            loss = np.mean((rest - u @ (kept * along)) ** 2) / free**2
            best, chosen = min((best, chosen), (loss, penalty))
    w = vt.T @ (s / (s**2 + chosen) * along)
    return w, float(z.mean() - features.mean(axis=0) @ w)


class Readout:
    """One attribute, read off the measures by a ridge regression; cross-fitted over subjects.

    scans: subject x outcome of the real scans, complete.  z: (n,) the attribute as a number.
    a: (n,) another attribute to be blind for: the direction in which it moves the measures of real
    scans, z held fixed, is taken out of what the predictor sees.  An edit that moves a scan in this
    direction, however far, is then not taken for a change of z.
    """

    def __init__(
        self, scans: pd.DataFrame, z: pd.Series, a: pd.Series | None, rng: np.random.Generator
    ) -> None:
        self.subjects, self.z, self.a = z.index, z, a
        self.fold = debias.balanced_folds(z.to_numpy(), rng)
        self.models = [self._fit(scans, self.fold != k) for k in range(debias.FOLDS)]

    def _fit(self, scans: pd.DataFrame, use: np.ndarray) -> tuple[np.ndarray, float]:
        """Coefficients on the measures as they are, and the intercept."""
        f, z = scans.loc[self.subjects].to_numpy()[use], self.z.to_numpy()[use]
        spread = f.std(axis=0)
        spread = np.where(spread > 1e-9 * np.abs(f).max(axis=0), spread, np.inf)
        f = f / spread
        if self.a is not None:
            f = f - np.outer(f @ (u := self._own_direction(f, z, use)), u)
        w, intercept = ridge(f, z)
        if self.a is not None:
            w = w - (w @ u) * u
        return w / spread, intercept

    def _own_direction(self, f: np.ndarray, z: np.ndarray, use: np.ndarray) -> np.ndarray:
        """(p,) of length 1: where the other attribute moves the measures."""
        assert self.a is not None
        predictors = np.column_stack([self.a.to_numpy()[use], np.ones(z.size), z])
        slopes = np.linalg.lstsq(predictors, f, rcond=None)[0][0]
        return slopes / max(float(np.linalg.norm(slopes)), np.finfo(float).tiny)

    def __call__(self, images: pd.DataFrame) -> pd.Series:
        """The attribute as read, by models that have not seen the subject; NaN for strangers."""
        read = pd.Series(np.nan, index=self.subjects)
        known = self.subjects.isin(images.index)
        for k, (w, intercept) in enumerate(self.models):
            who = self.subjects[known & (self.fold == k)]
            read[who] = images.loc[who].to_numpy() @ w + intercept
        return read

    def r2(self, scans: pd.DataFrame) -> float:
        """Share of the variance that it explains in held-out real scans."""
        return float(
            1 - ((self.z - self(scans)) ** 2).sum() / ((self.z - self.z.mean()) ** 2).sum()
        )

    def blindness_se(self, scans: pd.DataFrame) -> float:
        """Standard error of what the other attribute still does to the reading, by its estimate."""
        if self.a is None:
            return 0.0
        predictors = np.column_stack([self.a, np.ones(self.z.size), self.z])
        read = self(scans).to_numpy()
        rest = read - predictors @ np.linalg.lstsq(predictors, read, rcond=None)[0]
        variance = (rest**2).sum() / (self.z.size - 3)
        return float(np.sqrt(variance * np.linalg.inv(predictors.T @ predictors)[0, 0]))


# The properties ---------------------------------------------------------------------------------


def readouts(
    measures: pd.DataFrame | Readings,
    design: pd.DataFrame,
    contrast: Contrast,
    attributes: Sequence[str],
    seed: int = 0,
) -> pd.DataFrame:
    """Effectiveness and specificity of the pairs of a contrast: `COLUMNS`.

    effectiveness: change of the edited attribute as read, as a share of the step; scale: the same
    share between the real groups, held out (1 is a perfect predictor).
    specificity: change of each of the other attributes as read, by a predictor that is blind for
    what the edited one does (see `Readout`); the interval holds the uncertainty of that blindness;
    scale: the attribute's SD between subjects.  NaN where real scans do not show it.
    """
    readings = Readings.of(measures)
    scans = readings.scans()
    seen = [
        outcome
        for outcome in readings.outcomes
        if outcome[0] in READ and outcome[1] in LUNG_REGIONS and scans[outcome].notna().all()
    ]
    scans = scans[seen]
    arms = [one[seen] for one in _arms(readings, contrast)]
    a = dose(design, contrast)
    a = a[a.index.isin(scans.index)]
    rows = []
    if len(a) >= 2 * MIN_SUBJECTS:
        rows.append(_effectiveness(scans, arms, a, contrast, seed))
    for name in attributes:
        z = _as_number(design[name]).dropna().sort_index()
        z = z[z.index.isin(scans.index if contrast.joint else a.index)]
        if z.nunique() > 1 and len(z) >= LEAST_READ:
            other = None if contrast.joint else a[z.index]
            rows.append(_specificity(scans, arms, z, other, name, seed))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _arms(readings: Readings, contrast: Contrast) -> list[pd.DataFrame]:
    return [
        one.groupby(level="subject").mean().dropna(how="all") for one in readings.pairs(contrast)
    ]


def _effectiveness(
    scans: pd.DataFrame, arms: list[pd.DataFrame], a: pd.Series, contrast: Contrast, seed: int
) -> tuple:
    read = Readout(scans, a, None, generator(seed, contrast.text, "readout"))
    centred = a - a.mean()
    share = float((read(scans) * centred).sum() / (a * centred).sum())
    change = read(arms[1]) - read(arms[0])
    method = f"ridge on the measures of real scans, held out: R2 {read.r2(scans):.2f}"
    unit = "share of the step"
    return interval_row("effectiveness", contrast.attribute, change.to_numpy(), unit, share, method)


def _specificity(
    scans: pd.DataFrame,
    arms: list[pd.DataFrame],
    z: pd.Series,
    a: pd.Series | None,
    name: str,
    seed: int,
) -> tuple:
    read = Readout(scans, z, a, generator(seed, name, "readout"))
    r2, change = read.r2(scans), read(arms[1]) - read(arms[0])
    method = f"ridge on the measures of real scans, held out: R2 {r2:.2f}"
    if not r2 >= LEAST_R2:
        nan, n = float("nan"), int(change.notna().sum())
        said = f"{method}: it cannot be read off real scans, so nothing is said"
        return "specificity", name, n, nan, nan, nan, UNIT, float(z.std()), said
    also = read.blindness_se(scans)
    return interval_row("specificity", name, change.to_numpy(), UNIT, float(z.std()), method, also)


def _as_number(column: pd.Series) -> pd.Series:
    """Numbers as they are; of levels, 1 for all but the most frequent."""
    known = column.dropna()
    if known.empty or all(map(is_number, known)):
        return column.astype(float)
    commonest = known.astype(str).value_counts().idxmax()
    return (known.astype(str) != commonest).astype(float).reindex(column.index)


MOVED_REGIONS = ("lungs", *CONTROL_REGIONS)


def moved_hu(
    one: np.ndarray, other: np.ndarray, masks: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Mean absolute difference of two images in the lungs and in each negative control, HU.

    one, other: (z, y, x) HU.  masks: from `zones.regions`, with those of `MOVED_REGIONS`.  A region
    that is absent is NaN.
    """
    difference = np.abs(np.asarray(one, np.float64) - other)
    return {
        name: float(difference[masks[name]].mean()) if masks[name].any() else np.nan
        for name in MOVED_REGIONS
    }


def minimality(moved: pd.DataFrame) -> pd.DataFrame:
    """How far each region moves between the arms: `COLUMNS`; scale: the lungs' movement.

    moved: subject x region, from `moved_hu`, averaged over seeds.
    """
    lungs = float(moved["lungs"].mean())
    rows = [
        interval_row(
            "minimality",
            str(name),
            column.to_numpy(),
            "HU",
            lungs,
            "mean absolute difference of arms",
        )
        for name, column in moved.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def against_truth(
    measures: pd.DataFrame | Readings, truth: pd.DataFrame, contrast: Contrast
) -> pd.DataFrame:
    """Each subject's pair beside the subject's own true counterfactual: `COLUMNS`.

    truth: columns subject, attribute, from, to, measure, region, change (of a simulator or plant).
    bias: model-implied less true change of the primary measure, by region; scale: the true change.
    pattern: correlation between the two over the lung regions of one subject.  Empty where the
    truth knows nothing of this contrast.
    """
    reference, target = _arms(Readings.of(measures), contrast)
    change = (target - reference).xs(PRIMARY_MEASURE, axis=1, level=0)
    known = truth[
        (truth["attribute"] == contrast.attribute)
        & (truth["from"].astype(str) == str(contrast.reference))
        & (truth["to"].astype(str) == str(contrast.target))
        & (truth["measure"] == PRIMARY_MEASURE)
    ]
    true = known.assign(subject=known["subject"].astype(str))
    true = true.pivot(index="subject", columns="region", values="change")
    subjects, places = (
        change.index.intersection(true.index),
        change.columns.intersection(true.columns),
    )
    rows = []
    if len(subjects) and len(places):
        change, true = change.loc[subjects, places], true.loc[subjects, places]
        said = "model-implied less true change of each subject"
        for region in places:
            error = (change[region] - true[region]).to_numpy()
            scale = float(true[region].mean())
            rows.append(interval_row("bias", region, error, "HU", scale, said))
        pattern = change.T.corrwith(true.T).to_numpy()
        said = "correlation over the lung regions of each subject"
        rows.append(interval_row("pattern", "all regions", pattern, "correlation", 1.0, said))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def returned(kind: str, what: str, values: pd.Series, method: str) -> pd.DataFrame:
    """One row of `COLUMNS` in HU from a value for each subject."""
    row = interval_row(kind, what, values.to_numpy(dtype=float), "HU", float("nan"), method)
    return pd.DataFrame([row], columns=list(COLUMNS))


# In words ---------------------------------------------------------------------------------------


def in_words(row: Mapping[Any, Any]) -> str:
    """What a row of `COLUMNS` says, by the limits above; nothing where its number says it all."""
    value, scale = float(row["value"]), float(row["scale"])
    if not np.isfinite(value):
        return str(row["method"])
    unclear = row["ci_low"] <= 0 <= row["ci_high"]
    match row["property"]:
        case "effectiveness":
            return _obeyed(value, scale, unclear)
        case "specificity":
            most = max(abs(row["ci_low"]), abs(row["ci_high"]))
            if most < UNTOUCHED * scale:
                return "left alone"
            moved = f"{value / scale:+.2f} of its SD between subjects" if scale else "any amount"
            return f"no change shown ({moved})" if unclear else f"moves along by {moved}"
        case "minimality" if row["what"] == "lungs":
            return "what the others are held against"
        case "minimality":
            share = value / scale if scale else 0.0
            still = "still" if share < STILL else "moves too"
            return f"{still}: {100 * share:.3g} % of the lungs' movement"
        case "composition" | "reversibility" if row["unit"] == "HU":
            return "comes back" if abs(value) < SAME_HU else f"misses by {SAME_HU:g} HU or more"
        case "reversibility":
            return "comes back" if value == 1 else f"{100 * (1 - value):.3g} % do not come back"
        case "bias" if unclear:
            return f"no bias shown (true change {scale:+.3g} HU)"
        case "bias":
            return f"off from the true change of {scale:+.3g} HU"
        case "pattern":
            return "1 would be the truth's own pattern"
    return ""


def _obeyed(value: float, scale: float, unclear: bool) -> str:
    if scale < LEAST_R2:
        return "real scans hardly show it, so little is said"
    if unclear:
        return "the edit does not show"
    low, high = OBEYED
    share = value / scale
    how = "less than" if share < low else "more than" if share > high else "about as"
    if share < 0:
        return "shows the wrong way round"
    return f"shows {how} between the real groups ({scale:.2f})"
