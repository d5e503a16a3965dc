"""What the models make of attributes that mean nothing, and the studied effect beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from dgmvlc_cli.analysis.outcomes import KEYS, one_per_outcome
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS


def placebo_calibration(effects: pd.DataFrame) -> pd.DataFrame:
    """How the model-implied effect compares with what the same models make of nothing.

    effects: from `effects.estimate_effects`.  One row for each measure and region: measure, region,
    effect (model-implied), placebos (their number k), largest (absolute), rms, p.

    p: an attribute of no meaning moves the model by what it happens to be associated with in this
    cohort, or by less.  Two things tell how much that can be: the k placebos (the effect over
    their root mean square, to Student's t with k degrees of freedom) and the standard error of the
    contrast in the real scans (the effect over it, to the normal distribution), the larger one of
    the observed and the debiased effect: the model learns chance associations of all kinds, also
    those by way of lung volume, which the debiased effect holds fixed.  p is the larger of the two.
    Placebos alone are too small: each is one clause and the studied attribute often several that
    agree, and a generator that shrinks leaves most of them near 0 and a few large.
    NaN without placebos and where all of them are exactly 0 (a measure that the shared mask holds
    fixed).
    """
    placebos = effects[effects["kind"] == "placebo"].dropna(subset=["effect"])
    sizes = {key: part.abs().to_numpy() for key, part in placebos.groupby(KEYS)["effect"]}
    real = [one_per_outcome(effects, kind) for kind in ("observed", "debiased")]
    rows = []
    for outcome, row in one_per_outcome(effects, "model_implied").items():
        se = np.fmax.reduce([_standard_error(one.get(outcome)) for one in real])
        known = _calibrate(row["effect"], sizes.get(outcome, np.empty(0)), se)
        rows.append((*outcome, *known))
    columns = [*KEYS, "effect", "placebos", "largest", "rms", "p"]
    return pd.DataFrame(rows, columns=columns)


def _standard_error(row: pd.Series | None) -> float:
    """From a 95 % interval; NaN where there is none."""
    if row is None:
        return np.nan
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
    size = "size of 1 placebo" if placebos == 1 else f"root mean square of {placebos} placebos"
    return (
        f"by the {size} (Student's t) and by the standard error "
        "in the real scans (observed or debiased, the larger), whichever gives the larger p"
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
    """Of so many intervals, so many cover 0.  Those of one of the placebos are correlated."""

    covered: int
    total: int
    placebos: int

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
    return Coverage(int(covered.sum()), len(rows), rows["contrast"].nunique())
