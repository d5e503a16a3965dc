"""Whether the two groups of a contrast can be compared."""

from __future__ import annotations

import numpy as np
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
