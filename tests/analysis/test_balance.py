"""Whether the two groups of a contrast can be compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated_cohort import LEVELS, design_of, simulate

from dgmvlc_cli.analysis.balance import balance, overlap, scanned_alike, unlike_words
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


def scans_of(smoking: pd.Series, smokers_mm: float, untold: int = 0) -> pd.DataFrame:
    """1.25 mm slices, other ones in current smokers; kernels at random, the first ones not told."""
    rng = np.random.default_rng(3)
    slices = np.where(smoking == LEVELS[1], smokers_mm, 1.25) + 0.1 * rng.random(len(smoking))
    kernels = pd.Series(rng.choice(["smooth", "sharp"], len(smoking)), smoking.index, dtype=object)
    kernels.iloc[:untold] = None
    return pd.DataFrame(
        {"slice spacing": slices, "tube voltage": 120.0, "reconstruction kernel": kernels,
         "scanner maker": None},
        index=smoking.index,
    )  # fmt: skip


def test_scans_that_were_made_unlike_are_told_with_the_setting_that_adjusts():
    rng = np.random.default_rng(11)
    design = design_of(simulate(rng), rng)
    table = scanned_alike(scans_of(design["smoking"], 5.0, untold=3), design, SMOKING)
    assert list(table["characteristic"]) == [
        "slice spacing", "tube voltage", "reconstruction kernel"
    ]  # fmt: skip
    row = table.set_index("characteristic").loc["slice spacing"]
    assert row["p_family"] < 1e-6 and "(5.01 to 5.1)" in row["high"] and "mm" in row["low"]
    assert (row["low_side"], row["high_side"]) == LEVELS
    others = table.set_index("characteristic")["p_family"]
    assert np.isnan(others["tube voltage"]) and others["reconstruction kernel"] > 0.05
    assert table["low"].str.cat(table["high"]).str.contains("not told 3|not told").sum() == 1
    (told,) = unlike_words(table, ["age"])
    assert 'scan_covariates = ["slice spacing"]' in told and "kernel" not in told
    (told,) = unlike_words(table, ["age", "slice spacing"])
    assert "are adjusted for it" in told


def test_what_cannot_be_adjusted_for_is_said_instead_of_advised():
    levels, kernels = [LEVELS[0]] * 30 + [LEVELS[1]] * 10, ["soft"] * 36 + ["sharp"] * 4
    design = pd.DataFrame({"smoking": levels}, index=[f"s{i}" for i in range(40)])
    scans = pd.DataFrame({"reconstruction kernel": kernels}, index=design.index)
    (told,) = unlike_words(scanned_alike(scans, design, SMOKING), [], ["reconstruction kernel"])
    assert "effects could not be adjusted for reconstruction kernel: fewer than 5" in told
    assert "scan_covariates" not in told and "are adjusted for it" not in told


def test_scans_that_were_made_alike_are_left_in_peace():
    rng = np.random.default_rng(12)
    design = design_of(simulate(rng), rng)
    table = scanned_alike(scans_of(design["smoking"], 1.25), design, SMOKING)
    assert unlike_words(table, []) == []
    assert scanned_alike(table.iloc[:0], design.iloc[:0], SMOKING).empty


@pytest.mark.parametrize("values", [(51, 69), (69, 51)])
def test_of_a_number_its_halves_are_described(values):
    rng = np.random.default_rng(13)
    design = design_of(simulate(rng), rng)
    scans = pd.DataFrame({"slice spacing": design["age"] / 20.0}, design.index)
    row = scanned_alike(scans, design, Contrast("age", *values)).iloc[0]
    assert row["low_side"] == "below its median" and row["p"] < 1e-10
    middle = design["age"].median() / 20.0
    assert float(row["low"].split()[0]) < middle < float(row["high"].split()[0])


def test_rank_tests_find_something_in_one_of_twenty_where_nothing_is():
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(1000 + seed)
        design = design_of(simulate(rng), rng)
        scans = scans_of(
            design["smoking"].sample(frac=1, random_state=seed).set_axis(design.index), 5.0
        )
        found += (scanned_alike(scans, design, SMOKING)["p_family"] < 0.05).any()
    assert 2 <= found <= 19  # 10 expected; SD 3.1
