"""Rows of the effects table by outcome, and how outcomes and values are written."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dgmvlc_cli.analysis.contrasts import Outcome
from dgmvlc_cli.analysis.measures import MEASURES
from dgmvlc_cli.analysis.zones import REGIONS
from dgmvlc_cli.errors import DgmvlcError

KEYS = ["measure", "region"]


def one_per_outcome(effects: pd.DataFrame, kind: str) -> dict[Outcome, pd.Series]:
    """The rows of one kind by outcome; DgmvlcError where there is more than one contrast."""
    rows = effects[effects["kind"] == kind]
    contrasts = rows["contrast"].unique()
    if len(contrasts) > 1:
        raise DgmvlcError(
            f"expected the effects of one contrast, got {', '.join(contrasts)}",
            "Judge each contrast by itself.",
        )
    return by_outcome(rows)


def by_outcome(rows: pd.DataFrame) -> dict[Outcome, pd.Series]:
    return {(row["measure"], row["region"]): row for _, row in rows.iterrows()}


def outcome_label(outcome: Outcome) -> str:
    """`Mean HU, upper third`."""
    measure, region = outcome
    return f"{MEASURES[measure].label}, {REGIONS[region].label}"


def number(value: float, unit: str = "") -> str:
    """Three significant digits, without an exponent; HU to a tenth, which is below their noise."""
    if unit == "HU":
        return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")


def quantity(value: float, unit: str) -> str:
    return number(value) if unit == "1" else f"{number(value, unit)} {unit}"


def levels(contrast: str) -> tuple[str, str]:
    """Reference and target of `smoking: never smoker -> current smoker`."""
    reference, _, target = contrast.partition(": ")[2].partition(" -> ")
    return reference, target
