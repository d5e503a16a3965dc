"""Small tables of effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats
from simulated_cohort import LEVELS

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.effects import adjust

SMOKING = Contrast("smoking", *LEVELS)


def row(kind: str, effect: float, half: float, contrast: str = SMOKING.text, **more) -> dict:
    return {
        "measure": "mean_hu",
        "region": "upper",
        "contrast": contrast,
        "kind": kind,
        "n": 96,
        "effect": effect,
        "ci_low": effect - half,
        "ci_high": effect + half,
        "p": 2 * stats.norm.sf(1.96 * abs(effect) / half) if half else 1.0,
        "p_adjusted": np.nan,
        "unit": "HU",
        "method": "",
        **more,
    }


def evidence(
    debiased: tuple[float, float],
    model: float,
    placebos: tuple[float, ...] = (3.2, -1.5),
    **more,
) -> pd.DataFrame:
    """Effects of one outcome.  debiased: effect and half width of its interval."""
    rows = [row("debiased", *debiased, **more), row("model_implied", model, 1.0 if model else 0.0)]
    for k, effect in enumerate(placebos):
        words = f"placebo_{k}: birch -> maple"
        rows += [row("placebo", effect, 1.0, words), row("placebo_debiased", effect, 5.0, words)]
    return adjust(pd.DataFrame(rows))
