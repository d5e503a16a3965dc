"""Whether the two groups of a contrast can be compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
from simulated_cohort import LEVELS, design_of, simulate

from dgmvlc_cli.analysis.balance import balance, overlap
from dgmvlc_cli.analysis.contrasts import Contrast

SMOKING = Contrast("smoking", *LEVELS)
COVARIATES = ["age", "sex", "bmi"]


def test_overlap_weights_balance_the_covariates():
    rng = np.random.default_rng(11)
    design = design_of(simulate(rng), rng)
    table = balance(design, SMOKING, COVARIATES)
    assert list(table.columns) == ["covariate", "smd_raw", "smd_weighted"]
    assert table["smd_raw"].abs().max() > 0.3
    assert table["smd_weighted"].abs().max() < 0.5 * table["smd_raw"].abs().max()
    shared = overlap(design, SMOKING, COVARIATES)
    assert list(shared["level"]) == list(LEVELS)
    assert shared["n"].sum() == 96
    assert (shared["propensity_low"] > 0).all() and (shared["propensity_high"] < 1).all()
    assert (shared["effective_n"] <= shared["n"]).all()
    assert set(shared["overlap"]) == {"good"}
    assert overlap(design, Contrast("age", 51, 69), ["sex"]).empty
    assert balance(design, Contrast("age", 51, 69), ["sex"]).empty


def test_lung_volume_is_balanced_as_the_debiased_effect_adjusts_for_it():
    rng = np.random.default_rng(11)
    cohort = simulate(rng)
    design = design_of(cohort, rng)
    volume = pd.Series(5000 * np.exp(0.1 * cohort.a + 0.1 * rng.normal(size=96)), design.index)
    row = balance(design, SMOKING, COVARIATES, volume=volume).set_index("covariate")
    raw, weighted = row.loc["log lung volume"]
    assert raw > 0.5 and abs(weighted) < 0.5 * raw
    narrower = overlap(design, SMOKING, COVARIATES, volume=volume)
    assert narrower["effective_n"].sum() < overlap(design, SMOKING, COVARIATES)["effective_n"].sum()
