"""Estimates beside a truth that is known: of a simulator, or planted into real scans."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli.analysis.contrasts import Outcome, level_text
from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.outcomes import KEYS, levels, number, one_per_outcome
from dgmvlc_cli.analysis.verdicts import ALPHA


def compare_truth(
    effects: pd.DataFrame, truth: pd.DataFrame, subjects: Collection[str] | None = None
) -> pd.DataFrame:
    """Estimates beside the planted truth, where a simulator knows it.

    truth: columns subject, attribute, from, to, measure, region, change, unit.  subjects: over whom
    the true change is averaged; all in the table by default.
    Columns: measure, region, contrast, n, truth, unit, model_implied, ratio (model-implied over
    truth, NaN where that is 0), observed, observed_covers, debiased, ci_low, ci_high,
    debiased_covers, bias (debiased less truth), slope (debiased over truth, NaN where that is 0),
    found (the truth is not 0, and the debiased effect has its sign and p_adjusted < 0.05).  Where
    the truth is 0 there is nothing to find: an interval that does not cover it claims too much.
    Empty where the truth knows nothing of this contrast.
    """
    estimates = {kind: one_per_outcome(effects, kind) for kind in _KINDS}
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
    reference, target = levels(contrast)
    chosen = (
        (truth["attribute"] == contrast.partition(": ")[0])
        & (truth["from"].map(level_text) == reference)
        & (truth["to"].map(level_text) == target)
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
        bool(debiased["p_adjusted"] < ALPHA and debiased["effect"] * true > 0),
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
    line goes through 0.  NaN and 0 where nothing was planted.
    """
    known = table.dropna(subset=["truth", estimate])
    truth, found = known["truth"].to_numpy(float), known[estimate].to_numpy(float)
    if not truth.any():
        return np.nan, 0.0
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
    if not table["truth"].any():
        return [*lines, "nothing was there to find: plant at least 1 HU"]
    lines.append(
        f"recovery slope over {len(table)} controls (1 is all of it): {slope:.2f} debiased, "
        f"{model_slope:.2f} model-implied; offset {number(offset, 'HU')} and "
        f"{number(model_offset, 'HU')} HU, what the chosen half differs by without a plant"
    )
    found = table.loc[table["found"].astype(bool), "effect_hu"].abs()
    missed = table.loc[~table["found"].astype(bool) & (table["truth"] != 0), "effect_hu"].abs()
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
    slope = f"slope {row['slope']:.2f}, " if row["truth"] else ""
    return (
        f"planted {number(row['truth'], 'HU')} HU as measured, recovered "
        f"{number(row['debiased'], 'HU')} HU [{low}, {high}] debiased ({slope}"
        f"bias {number(row['bias'], 'HU')} HU) and {number(row['model_implied'], 'HU')} HU "
        f"model-implied: {_recovered(row)}"
    )


def _recovered(row: Mapping[str, Any]) -> str:
    if row["truth"]:
        return "found" if row["found"] else "not found"
    claims = row["ci_low"] > 0 or row["ci_high"] < 0
    return "false, nothing is there" if claims else "rightly nothing"
