"""Whether an effect can be believed, by a stated rule and in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dgmvlc_cli.analysis.contrasts import VOLUME
from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.outcomes import (
    KEYS,
    by_outcome,
    levels,
    number,
    one_per_outcome,
    outcome_label,
    quantity,
)
from dgmvlc_cli.analysis.placebos import placebo_calibration, placebo_coverage
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS
from dgmvlc_cli.counting import counted

ALPHA = 0.05
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"


@dataclass(frozen=True)
class _Evidence:
    """What is known about one outcome."""

    debiased: pd.Series
    model: pd.Series
    observed: pd.Series | None
    largest_placebo: float
    placebos: int
    p_placebo: float

    @property
    def same_arms(self) -> bool:
        return self.model["effect"] == self.model["ci_low"] == self.model["ci_high"] == 0

    @property
    def agrees(self) -> bool:
        """The model has the sign of the real scans and goes beyond every placebo."""
        same_sign = np.sign(self.model["effect"]) == np.sign(self.debiased["effect"])
        return bool(same_sign) and abs(self.model["effect"]) > self.largest_placebo

    @property
    def opposite(self) -> pd.Series | None:
        """The scans' own difference, where it is clear and has another sign than the debiased."""
        whole, held = self.observed, self.debiased["effect"]
        if whole is not None and (whole["ci_high"] < 0 < held or held < 0 < whole["ci_low"]):
            return whole
        return None

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
    - undecided: everything else, with the reason: real scans and model disagree, the scans' whole
      difference has the opposite sign, an interval that excludes 0 before the adjustment only, no
      placebos or none that the generator answers, a measure that the shared mask holds fixed or the
      model is deaf to, or nothing that could be estimated.

    "Not supported" is no proof of absence: the interval in the sentence says what is excluded.
    """
    calibration = by_outcome(placebo_calibration(effects))
    models = one_per_outcome(effects, "model_implied")
    observed = one_per_outcome(effects, "observed")
    rows = []
    for outcome, debiased in one_per_outcome(effects, "debiased").items():
        if outcome[1] in CONTROL_REGIONS:
            continue
        against = calibration[outcome]
        evidence = _Evidence(
            debiased,
            models[outcome],
            observed.get(outcome),
            against["largest"],
            int(against["placebos"]),
            against["p"],
        )
        verdict, reason = _judge(evidence)
        rows.append((*outcome, verdict, f"{outcome_label(outcome)}: {verdict}. {reason}"))
    return pd.DataFrame(rows, columns=[*KEYS, "verdict", "sentence"])


def _judge(evidence: _Evidence) -> tuple[str, str]:
    """Verdict and the reason for it."""
    real, model = evidence.debiased, evidence.model
    for row in (real, model):
        if not np.isfinite([row["effect"], row["ci_low"], row["ci_high"]]).all():
            return UNDECIDED, f"It could not be estimated: {row['method']}."
    if evidence.same_arms:
        said = "Both arms are the same, since the model does not answer the sentence"
        if real["measure"] == VOLUME:
            said = "Both arms share the mask, so the model holds it fixed"
        return UNDECIDED, f"{said}. {_scans_show(real)}."
    if evidence.placebos == 0:
        return UNDECIDED, f"{_scans_show(real)}; {_model_says(evidence)}: nothing to judge it by."
    if np.isnan(evidence.p_placebo):
        said = "the generator answers no placebo at all, which leaves nothing to judge it by"
        return UNDECIDED, f"{_scans_show(real)}; {_model_says(evidence)}: {said}."
    found = real["p_adjusted"] < ALPHA
    beyond_placebos = evidence.p_placebo < ALPHA
    if found and evidence.opposite is not None:
        whole = quantity(evidence.opposite["effect"], real["unit"])
        said = "the difference by way of lung volume, or who is compared, has the opposite sign"
        return UNDECIDED, f"{_scans_show(real)}, but their whole difference is {whole}: {said}."
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
    said = f"no more than chance explains (p_placebo {evidence.p_placebo:.2g})"
    return (
        NOT_SUPPORTED,
        f"The real scans do not show it: {_span(real)}; {_model_says(evidence)}, {said}.",
    )


def _scans_show(debiased: pd.Series) -> str:
    reference, target = levels(debiased["contrast"])
    return f"In the real scans, {target} differs from {reference} by {_span(debiased)}"


def _span(debiased: pd.Series) -> str:
    low, high = (number(debiased[end], debiased["unit"]) for end in ("ci_low", "ci_high"))
    return f"{quantity(debiased['effect'], debiased['unit'])} [{low}, {high}] (debiased)"


def _model_says(evidence: _Evidence) -> str:
    unit = evidence.model["unit"]
    said = f"the model says {quantity(evidence.model['effect'], unit)}"
    if evidence.placebos == 0:
        return f"{said}, without a placebo"
    return f"{said}, its largest placebo {quantity(evidence.largest_placebo, unit)}"


def summary_sentence(verdicts: pd.DataFrame, effects: pd.DataFrame) -> str:
    """The result in three sentences: what is supported, the clearest of it, what placebos show."""
    studied = effects[effects["kind"] == "debiased"]
    contrast = studied["contrast"].iloc[0] if len(studied) else "the contrast"
    supported = verdicts[verdicts["verdict"] == SUPPORTED]
    if why := _unjudged(studied, effects):
        claim = f"{contrast}: none of {len(verdicts)} comparisons could be judged: {why}."
    elif supported.empty:
        claim = (
            f"{contrast}: no effect is claimed; none of {len(verdicts)} comparisons is supported."
        )
    else:
        claim = (
            f"{contrast}: {len(supported)} of {len(verdicts)} comparisons "
            f"{'is' if len(supported) == 1 else 'are'} supported. "
            f"The clearest: {_clearest(supported, studied)}"
        )
    return f"{claim} {_placebo_sentence(effects)}".strip()


def _unjudged(debiased: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Why no comparison at all could be judged; empty where some could."""
    if len(debiased) and debiased["effect"].isna().all():
        return str(debiased["method"].iloc[0])
    known = effects.loc[effects["kind"] == "placebo", "effect"].notna()
    return "" if known.any() else "there is no placebo"


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
    of = f"{counted(debiased.placebos, 'placebo')}, {debiased.total}"
    said = f"Of the placebos' debiased intervals {debiased.percent:.0f} % cover 0 (95 % should)"
    if paired.total:  # else the generator answers no placebo
        said += f"; of their paired intervals within the models {paired.percent:.0f} % do"
        of += f" and {paired.total}"
    return f"{said} ({of} intervals, not independent)."
