"""Can it be believed: placebo calibration, verdicts in plain words, and comparison with truth."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dgmvlc_cli.analysis.contrasts import Outcome
from dgmvlc_cli.analysis.measures import MEASURES, PRIMARY_MEASURE
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS, REGIONS
from dgmvlc_cli.errors import DgmvlcError

ALPHA = 0.05
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"

KEYS = ["measure", "region"]


# Placebos ---------------------------------------------------------------------------------------


def placebo_calibration(effects: pd.DataFrame) -> pd.DataFrame:
    """How the model-implied effect compares with what the same models make of nothing.

    effects: from `effects.estimate_effects`.  One row for each measure and region: measure, region,
    effect (model-implied), placebos (their number k), largest (absolute), rms, p.

    p: an attribute of no meaning moves the model by what it happens to be associated with in this
    cohort, or by less.  Two things tell how much that can be: the k placebos (the effect over
    their root mean square, to Student's t with k degrees of freedom) and the standard error of the
    contrast in the real scans (the effect over it, to the normal distribution).  p is the larger of
    the two.  Placebos alone are too small: each is one clause and the studied attribute often
    several that agree, and a generator that shrinks leaves most of them near 0 and a few large.
    NaN without placebos and where all of them are exactly 0 (a measure that the shared mask holds
    fixed).
    """
    placebos = effects[effects["kind"] == "placebo"].dropna(subset=["effect"])
    sizes = {key: part.abs().to_numpy() for key, part in placebos.groupby(KEYS)["effect"]}
    real = _one_per_outcome(effects, "debiased")
    rows = []
    for outcome, row in _one_per_outcome(effects, "model_implied").items():
        se = _standard_error(real[outcome]) if outcome in real else np.nan
        known = _calibrate(row["effect"], sizes.get(outcome, np.empty(0)), se)
        rows.append((*outcome, *known))
    columns = [*KEYS, "effect", "placebos", "largest", "rms", "p"]
    return pd.DataFrame(rows, columns=columns)


def _standard_error(row: pd.Series) -> float:
    """From a 95 % interval."""
    return float((row["ci_high"] - row["ci_low"]) / (2 * stats.norm.ppf(0.975)))


def with_placebo_p(effects: pd.DataFrame) -> pd.DataFrame:
    """The table with p_placebo of its model-implied rows, and how it was found in their method.

    effects: of one studied contrast, with its placebos.  p: see `placebo_calibration`.
    """
    known = placebo_calibration(effects).set_index(KEYS)
    own = effects["kind"] == "model_implied"
    found = known.loc[pd.MultiIndex.from_frame(effects.loc[own, KEYS])]
    effects = effects.copy()
    effects.loc[own, "p_placebo"] = found["p"].to_numpy()
    said = np.where(
        found["p"].notna(), [f"; p_placebo {calibration_words(k)}" for k in found["placebos"]], ""
    )
    effects.loc[own, "method"] += said
    return effects


def calibration_words(placebos: int) -> str:
    """How the model-implied effect is judged by so many placebos, in words."""
    return (
        f"by the root mean square of {placebos} placebos (Student's t) and by the standard error "
        "in the real scans, whichever gives the larger p"
    )


def _calibrate(
    effect: float, sizes: np.ndarray, se: float
) -> tuple[float, int, float, float, float]:
    """effect, placebos, largest, rms and p; sizes: (k,) absolute placebo effects; se: of the
    contrast in the real scans, NaN where it could not be estimated."""
    k = sizes.size
    if k == 0:
        return effect, 0, np.nan, np.nan, np.nan
    rms = float(np.sqrt(np.mean(sizes**2)))
    if np.isnan(effect) or rms == 0:
        p = np.nan
    else:
        beyond_chance = 2 * stats.norm.sf(abs(effect) / se) if se > 0 else 0.0
        p = max(2 * stats.t.sf(abs(effect) / rms, k), beyond_chance)
    return effect, k, float(sizes.max()), rms, float(p)


@dataclass(frozen=True)
class Coverage:
    """Of so many intervals, so many cover 0."""

    covered: int
    total: int

    @property
    def percent(self) -> float:
        return 100.0 * self.covered / self.total if self.total else float("nan")


def placebo_coverage(effects: pd.DataFrame, kind: str = "placebo_debiased") -> Coverage:
    """How many placebo intervals in lung regions cover 0; 95 of 100 should.

    kind: "placebo_debiased", or "placebo" for what a paired interval within the models would say.
    Intervals without width (measures that the shared mask holds fixed) do not count.
    """
    rows = effects[(effects["kind"] == kind) & ~effects["region"].isin(CONTROL_REGIONS)]
    rows = rows[rows["ci_high"] > rows["ci_low"]]
    covered = (rows["ci_low"] <= 0) & (rows["ci_high"] >= 0)
    return Coverage(int(covered.sum()), len(rows))


# Verdicts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Evidence:
    """What is known about one outcome."""

    debiased: pd.Series
    model: pd.Series
    largest_placebo: float
    placebos: int
    p_placebo: float

    @property
    def held_fixed(self) -> bool:
        return self.model["effect"] == self.model["ci_low"] == self.model["ci_high"] == 0

    @property
    def agrees(self) -> bool:
        """The model has the sign of the real scans and goes beyond every placebo."""
        same_sign = np.sign(self.model["effect"]) == np.sign(self.debiased["effect"])
        return bool(same_sign) and abs(self.model["effect"]) > self.largest_placebo

    @property
    def covers_zero(self) -> bool:
        return self.debiased["ci_low"] <= 0 <= self.debiased["ci_high"]


def verdicts(effects: pd.DataFrame) -> pd.DataFrame:
    """One verdict for each measure and lung region: measure, region, verdict, sentence.

    effects: from `effects.estimate_effects`, one studied contrast.  The rule:

    - supported: the debiased effect differs from 0 after Benjamini-Hochberg adjustment (p_adjusted
      < 0.05), and the model-implied effect has the same sign and exceeds every placebo.
    - not supported: the debiased interval includes 0, and the model-implied effect is no larger
      than placebos explain (placebo-calibrated p >= 0.05).
    - undecided: everything else, with the reason: real scans and model disagree, an interval that
      excludes 0 before the adjustment only, no placebos, a measure that the shared mask holds
      fixed, or nothing that could be estimated.

    "Not supported" is no proof of absence: the interval in the sentence says what is excluded.
    """
    calibration = _by_outcome(placebo_calibration(effects))
    models = _one_per_outcome(effects, "model_implied")
    rows = []
    for outcome, debiased in _one_per_outcome(effects, "debiased").items():
        if outcome[1] in CONTROL_REGIONS:
            continue
        against = calibration[outcome]
        evidence = _Evidence(
            debiased, models[outcome], against["largest"], int(against["placebos"]), against["p"]
        )
        verdict, reason = _judge(evidence)
        rows.append((*outcome, verdict, f"{outcome_label(outcome)}: {verdict}. {reason}"))
    return pd.DataFrame(rows, columns=[*KEYS, "verdict", "sentence"])


def _judge(evidence: _Evidence) -> tuple[str, str]:
    """Verdict and the reason for it."""
    real, model = evidence.debiased, evidence.model
    for row in (real, model):
        if np.isnan(row["effect"]):
            return UNDECIDED, f"It could not be estimated: {row['method']}."
    if evidence.held_fixed:
        said = f"Both arms share the mask, so the model holds it fixed. {_scans_show(real)}."
        return UNDECIDED, said
    if evidence.placebos == 0:
        return UNDECIDED, f"{_scans_show(real)}; {_model_says(evidence)}: nothing to judge it by."
    found = real["p_adjusted"] < ALPHA
    beyond_placebos = evidence.p_placebo < ALPHA
    if found and evidence.agrees:
        return SUPPORTED, f"{_scans_show(real)}; {_model_says(evidence)}."
    if found:
        return UNDECIDED, f"{_scans_show(real)}, but {_model_says(evidence)}."
    if not evidence.covers_zero:
        hint = "this may be chance, given the number of comparisons"
        return UNDECIDED, f"{_scans_show(real)}; {hint}; {_model_says(evidence)}."
    if beyond_placebos:
        return (
            UNDECIDED,
            f"The real scans do not settle it: {_span(real)}; {_model_says(evidence)}.",
        )
    return NOT_SUPPORTED, f"The real scans do not show it: {_span(real)}; {_model_says(evidence)}."


def _scans_show(debiased: pd.Series) -> str:
    reference, target = _levels(debiased["contrast"])
    return f"In the real scans, {target} differs from {reference} by {_span(debiased)}"


def _span(debiased: pd.Series) -> str:
    low, high = (number(debiased[end], debiased["unit"]) for end in ("ci_low", "ci_high"))
    return f"{_quantity(debiased['effect'], debiased['unit'])} [{low}, {high}] (debiased)"


def _model_says(evidence: _Evidence) -> str:
    unit = evidence.model["unit"]
    said = f"the model says {_quantity(evidence.model['effect'], unit)}"
    if evidence.placebos == 0:
        return f"{said}, without a placebo"
    return f"{said}, its largest placebo {_quantity(evidence.largest_placebo, unit)}"


def summary_sentence(verdicts: pd.DataFrame, effects: pd.DataFrame) -> str:
    """The result in three sentences: what is supported, the clearest of it, what placebos show."""
    studied = effects[effects["kind"] == "debiased"]
    contrast = studied["contrast"].iloc[0] if len(studied) else "the contrast"
    supported = verdicts[verdicts["verdict"] == SUPPORTED]
    if supported.empty:
        claim = (
            f"{contrast}: no effect is claimed; none of {len(verdicts)} comparisons is supported."
        )
    else:
        claim = (
            f"{contrast}: {len(supported)} of {len(verdicts)} comparisons are supported. "
            f"The clearest: {_clearest(supported, studied)}"
        )
    return f"{claim} {_placebo_sentence(effects)}".strip()


def _clearest(supported: pd.DataFrame, debiased: pd.DataFrame) -> str:
    """The sentence of the supported outcome with the smallest p, of mean HU where there is one."""
    primary = supported[supported["measure"] == PRIMARY_MEASURE]
    ranked = (
        (primary if len(primary) else supported)
        .merge(debiased[[*KEYS, "p"]], on=KEYS)
        .sort_values("p", kind="stable")
    )
    return str(ranked["sentence"].iloc[0]).replace(f": {SUPPORTED}.", ".", 1)


def _placebo_sentence(effects: pd.DataFrame) -> str:
    debiased, paired = (placebo_coverage(effects, k) for k in ("placebo_debiased", "placebo"))
    if not debiased.total:
        return ""
    return (
        f"Of the placebos' debiased intervals {debiased.percent:.0f} % cover 0 (95 % should); of "
        f"their paired intervals within the models {paired.percent:.0f} % do."
    )


# Truth ------------------------------------------------------------------------------------------


def compare_truth(
    effects: pd.DataFrame, truth: pd.DataFrame, subjects: Collection[str] | None = None
) -> pd.DataFrame:
    """Estimates beside the planted truth, where a simulator knows it.

    truth: columns subject, attribute, from, to, measure, region, change, unit.  subjects: over whom
    the true change is averaged; all in the table by default.
    Columns: measure, region, contrast, n, truth, unit, model_implied, ratio (model-implied over
    truth, NaN where that is 0), observed, observed_covers, debiased, ci_low, ci_high,
    debiased_covers, bias (debiased less truth), slope (debiased over truth), found (the debiased
    effect has the sign of the truth and p_adjusted < 0.05; False where the truth is 0 and nothing
    is claimed).  Empty where the truth knows nothing of this contrast.
    """
    estimates = {kind: _one_per_outcome(effects, kind) for kind in _KINDS}
    rows = []
    for outcome, debiased in estimates["debiased"].items():
        changes = _true_changes(truth, debiased["contrast"], outcome, subjects)
        if len(changes):
            known = {kind: rows_of[outcome] for kind, rows_of in estimates.items()}
            rows.append((*outcome, debiased["contrast"], *_beside(changes, known)))
    return pd.DataFrame(rows, columns=[*KEYS, "contrast", *_TRUTH_COLUMNS])


_KINDS = ("model_implied", "observed", "debiased")
_TRUTH_COLUMNS = (
    "n",
    "truth",
    "unit",
    "model_implied",
    "ratio",
    "observed",
    "observed_covers",
    "debiased",
    "ci_low",
    "ci_high",
    "debiased_covers",
    "bias",
    "slope",
    "found",
)


def _true_changes(
    truth: pd.DataFrame, contrast: str, outcome: Outcome, subjects: Collection[str] | None
) -> pd.Series:
    reference, target = _levels(contrast)
    chosen = (
        (truth["attribute"] == contrast.partition(": ")[0])
        & (truth["from"].astype(str) == reference)
        & (truth["to"].astype(str) == target)
        & (truth["measure"] == outcome[0])
        & (truth["region"] == outcome[1])
    )
    if subjects is not None:
        chosen &= truth["subject"].astype(str).isin(list(subjects))
    return truth.loc[chosen, "change"].dropna()


def _beside(changes: pd.Series, known: dict[str, pd.Series]) -> tuple:
    """The values of `_TRUTH_COLUMNS`."""
    true = float(changes.mean())
    model, seen, debiased = (known[kind] for kind in _KINDS)
    return (
        len(changes),
        true,
        debiased["unit"],
        model["effect"],
        model["effect"] / true if true else np.nan,
        seen["effect"],
        _covers(seen, true),
        debiased["effect"],
        debiased["ci_low"],
        debiased["ci_high"],
        _covers(debiased, true),
        debiased["effect"] - true,
        debiased["effect"] / true if true else np.nan,
        bool(debiased["p_adjusted"] < ALPHA and debiased["effect"] * true >= 0),
    )


def _covers(row: pd.Series, value: float) -> bool:
    return bool(row["ci_low"] <= value <= row["ci_high"])


# Planted controls -------------------------------------------------------------------------------

RECOVERY_COLUMNS = (
    "effect_hu",
    "region",
    "model",
    "n",
    "truth",
    "model_implied",
    "observed",
    "debiased",
    "ci_low",
    "ci_high",
    "bias",
    "slope",
    "covers",
    "found",
)


def recovery_table(controls: Iterable[tuple[Mapping[str, Any], pd.DataFrame]]) -> pd.DataFrame:
    """One row per planted control: what was planted, and what was recovered of it.

    controls: what was planted (effect_hu, region, model) and its `compare_truth` table.  The row
    is the primary measure in the planted region.  Sorted by size.
    """
    rows = []
    for planted, truth in controls:
        here = (truth["measure"] == PRIMARY_MEASURE) & (truth["region"] == planted["region"])
        for row in truth[here].to_dict("records"):
            row |= dict(planted) | {"covers": row["debiased_covers"]}
            rows.append([row[name] for name in RECOVERY_COLUMNS])
    table = pd.DataFrame(rows, columns=list(RECOVERY_COLUMNS))
    order = table["effect_hu"].abs().sort_values(kind="stable").index
    return table.loc[order].reset_index(drop=True)


def recovery_line(table: pd.DataFrame, estimate: str = "debiased") -> tuple[float, float]:
    """Slope and offset in HU of an estimate on the truth; 1 and 0 are perfect.

    Controls of one cohort are planted in the same half of it, so that whatever this half differs
    by without any plant is the offset of them all.  With a single size it cannot be told, and the
    line goes through 0.
    """
    known = table.dropna(subset=["truth", estimate])
    truth, found = known["truth"].to_numpy(float), known[estimate].to_numpy(float)
    if np.unique(truth).size < 2:
        return float(np.sum(truth * found) / np.sum(truth**2)), 0.0
    slope, offset = np.polyfit(truth, found, 1)
    return float(slope), float(offset)


def recovery_words(table: pd.DataFrame) -> list[str]:
    """What a series of planted controls says, in sentences."""
    rows: list[dict] = table.to_dict("records")
    lines = [f"{row['effect_hu']:+g} HU: {recovery_sentence(row)}" for row in rows]
    (slope, offset), (model_slope, model_offset) = (
        recovery_line(table, one) for one in ("debiased", "model_implied")
    )
    lines.append(
        f"recovery slope over {len(table)} controls (1 is all of it): {slope:.2f} debiased, "
        f"{model_slope:.2f} model-implied; offset {number(offset, 'HU')} and "
        f"{number(model_offset, 'HU')} HU, what the chosen half differs by without a plant"
    )
    found = table.loc[table["found"].astype(bool), "effect_hu"].abs()
    missed = table.loc[~table["found"].astype(bool), "effect_hu"].abs()
    if found.empty:
        lines.append(f"none was found: plant more than {missed.max():g} HU")
    else:
        beyond = found[found > missed.max()] if len(missed) else found
        reliable = f"{beyond.min():g} HU" if len(beyond) else "none so far"
        lines.append(
            f"smallest that was found: {found.min():g} HU; smallest above which none was missed: "
            f"{reliable}"
        )
    return lines


def recovery_sentence(row: Mapping[str, Any]) -> str:
    """One planted control in words.  row: of `recovery_table` or `compare_truth`."""
    low, high = (number(row[end], "HU") for end in ("ci_low", "ci_high"))
    return (
        f"planted {number(row['truth'], 'HU')} HU as measured, recovered "
        f"{number(row['debiased'], 'HU')} HU [{low}, {high}] debiased (slope {row['slope']:.2f}, "
        f"bias {number(row['bias'], 'HU')} HU) and {number(row['model_implied'], 'HU')} HU "
        f"model-implied: {'found' if row['found'] else 'not found'}"
    )


# Words ------------------------------------------------------------------------------------------


def outcome_label(outcome: Outcome) -> str:
    """`Mean HU, upper third`."""
    measure, region = outcome
    return f"{MEASURES[measure].label}, {REGIONS[region].label}"


def number(value: float, unit: str = "") -> str:
    """Three significant digits, without an exponent; HU to a tenth, which is below their noise."""
    if unit == "HU":
        return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")


def _quantity(value: float, unit: str) -> str:
    return number(value) if unit == "1" else f"{number(value, unit)} {unit}"


def _levels(contrast: str) -> tuple[str, str]:
    """Reference and target of `smoking: never smoker -> current smoker`."""
    reference, _, target = contrast.partition(": ")[2].partition(" -> ")
    return reference, target


def _one_per_outcome(effects: pd.DataFrame, kind: str) -> dict[Outcome, pd.Series]:
    """The rows of one kind by outcome; DgmvlcError where there is more than one contrast."""
    rows = effects[effects["kind"] == kind]
    contrasts = rows["contrast"].unique()
    if len(contrasts) > 1:
        raise DgmvlcError(
            f"expected the effects of one contrast, got {', '.join(contrasts)}",
            "Judge each contrast by itself.",
        )
    return _by_outcome(rows)


def _by_outcome(rows: pd.DataFrame) -> dict[Outcome, pd.Series]:
    return {(row["measure"], row["region"]): row for _, row in rows.iterrows()}
