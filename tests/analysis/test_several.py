from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from dgmvlc_cli.analysis.levels import overlap_words
from dgmvlc_cli.analysis.several import DOSE_COLUMNS, dose_response, level_effects

AGES = (45.0, 55.0, 65.0, 75.0)
LEVELS = ("never", "former", "current")


def rows(arms: dict[str, np.ndarray], subjects: list[str], fold: np.ndarray) -> pd.DataFrame:
    """The table of measures of one outcome; each arm has two seeds that differ by 2 HU."""
    parts = []
    for arm, values in arms.items():
        for seed in (0,) if arm == "observed" else (0, 1):
            parts.append(
                pd.DataFrame(
                    {"subject": subjects, "fold": fold, "value": values + 2 * seed}
                ).assign(
                    arm=arm, seed=seed, measure="mean_hu", region="lungs", unit="HU", reason=""
                )
            )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def ages() -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Arms of four ages of 60 subjects; the real scans lose 0.8 HU a year, the arms 0.5."""
    rng = np.random.default_rng(0)
    subjects = [f"s{i:02d}" for i in range(60)]
    design = pd.DataFrame({"age": rng.uniform(40, 80, 60), "bmi": rng.normal(26, 4, 60)}, subjects)
    own = rng.normal(-0.5, 0.2, 60)
    base = -820 + 10 * rng.normal(size=60)
    arms = {f"age={a:g}": base + own * (a - 60) + rng.normal(0, 1, 60) for a in AGES}
    scans = base - 0.8 * (design["age"].to_numpy() - 60) + 5 * rng.normal(size=60)
    slopes = np.array([np.polyfit(AGES, one, 1)[0] for one in np.column_stack([*arms.values()])])
    return rows({"observed": scans, **arms}, subjects, np.arange(60) % 2), design, slopes


@pytest.fixture(scope="module")
def response(ages) -> pd.DataFrame:
    measures, design, _ = ages
    return dose_response(measures, design, "age", AGES, ["bmi"])


def test_each_arm_is_the_paired_change_from_the_first(ages, response):
    measures, *_ = ages
    assert tuple(response.columns) == DOSE_COLUMNS
    arms = response[response["kind"] == "arm"].set_index("value")
    assert list(arms.index) == list(AGES)
    assert arms.loc[45.0, ["effect", "ci_low", "ci_high"]].tolist() == [0, 0, 0]
    by_arm = measures.groupby(["arm", "subject"])["value"].mean()
    want = stats.ttest_rel(by_arm["age=75"], by_arm["age=45"])
    assert arms.loc[75.0, "n"] == 60
    assert arms.loc[75.0, "p"] == pytest.approx(want.pvalue)
    assert arms.loc[75.0, "ci_low"] == pytest.approx(want.confidence_interval().low)


def test_the_slope_is_the_mean_of_the_subjects_slopes(ages, response):
    *_, slopes = ages
    row = response.set_index("kind").loc["slope"]
    want = stats.ttest_1samp(slopes, 0).confidence_interval()
    assert row["effect"] == pytest.approx(slopes.mean())
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((want.low, want.high))
    assert row["unit"] == "HU per unit"


def test_the_slope_is_the_mixed_models(ages, response):
    measures, *_ = ages
    arms = measures[measures["arm"] != "observed"]
    table = arms.assign(age=arms["arm"].str[4:].astype(float) - 60)
    table = table.groupby(["subject", "age"], as_index=False)["value"].mean()
    fit = smf.mixedlm("value ~ age", table, groups="subject", re_formula="~age").fit()
    row = response.set_index("kind").loc["slope"]
    assert row["effect"] == pytest.approx(fit.params["age"], rel=1e-3)
    half = (row["ci_high"] - row["ci_low"]) / 2 / stats.t.ppf(0.975, 59)
    assert half == pytest.approx(fit.bse["age"], rel=0.02)


def test_real_scans_have_their_own_slope_beside(response):
    real = response.set_index("kind")
    for kind in ("slope_observed", "slope_debiased"):
        assert real.loc[kind, "ci_low"] < -0.8 < real.loc[kind, "ci_high"] < 0


def test_a_falling_range_of_values_keeps_intervals_in_order(ages):
    measures, design, _ = ages
    table = dose_response(measures, design, "age", AGES[::-1], ["bmi"])
    assert (table["ci_low"] <= table["ci_high"]).all()
    assert table.set_index("kind").loc["slope_observed", "effect"] < 0


@pytest.fixture(scope="module")
def levels() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(1)
    n = 120
    subjects = [f"s{i:03d}" for i in range(n)]
    codes = np.arange(n) % 3
    age = rng.normal(60, 8, n) + 4 * codes
    effect = np.array([0.0, -8.0, -20.0])
    base = -820 + 0.5 * age + 10 * rng.normal(size=n)
    design = pd.DataFrame({"smoking": np.array(LEVELS)[codes], "age": age}, subjects)
    arms = {f"smoking={name}": base + 0.7 * effect[k] for k, name in enumerate(LEVELS)}
    scans = base + effect[codes] + 5 * rng.normal(size=n)
    return rows({"observed": scans, **arms}, subjects, np.arange(n) % 2), design


def test_every_pair_of_levels_is_estimated_in_one_population(levels):
    effects, overlap = level_effects(*levels, "smoking", LEVELS, ["age"])
    table = effects.set_index(["kind", "contrast"])
    truth = {"never -> former": -8, "never -> current": -20, "former -> current": -12}
    for pair, true in truth.items():
        row = table.loc[("debiased_levels", f"smoking: {pair}")]
        assert row["ci_low"] < true < row["ci_high"]
        assert row["n"] == 120
        assert "helped by the generator" in row["method"]
        implied = table.loc[("model_implied", f"smoking: {pair}"), "effect"]
        assert implied == pytest.approx(0.7 * true)
    assert list(overlap["level"]) == list(LEVELS)


def test_without_arms_the_real_scans_are_still_compared(levels):
    measures, design = levels
    scans = measures[measures["arm"] == "observed"]
    effects, _ = level_effects(scans, design, "smoking", LEVELS, ["age"])
    rows = effects[effects["kind"] == "debiased_levels"]
    assert rows["effect"].notna().all()
    assert rows["method"].str.contains("without the generator").all()


def test_a_row_without_scan_and_a_missing_value_cost_what_they_must(levels):
    """A scan added after training, an arm that failed, a value that one scan lacks."""
    measures, design = levels
    other = measures[measures["arm"] == "observed"].assign(measure="median_hu")
    other.loc[other["subject"] == "s003", "value"] = np.nan
    arms = measures[measures["arm"] != "observed"].assign(measure="median_hu")
    table = pd.concat([measures, other, arms], ignore_index=True)
    table = table[~((table["subject"] == "s004") & (table["arm"] == "smoking=former"))]
    more = pd.concat([design, design.iloc[:1].set_axis(["new"])])
    effects, _ = level_effects(table, more, "smoking", LEVELS, ["age"])
    found = effects[effects["kind"] == "debiased_levels"].groupby("measure")
    assert found["effect"].count().to_dict() == {"mean_hu": 3, "median_hu": 3}
    assert found["n"].first().to_dict() == {"mean_hu": 119, "median_hu": 118}


def test_a_level_that_a_covariate_determines_is_not_compared(levels):
    measures, design = levels
    site = design.assign(site=np.where(design["smoking"] == "former", "a", "b"))
    effects, overlap = level_effects(measures, site, "smoking", LEVELS, ["site"])
    rows = effects[effects["kind"] == "debiased_levels"]
    assert rows["effect"].isna().all() and overlap.empty
    assert rows["method"].str.contains("determine smoking=former").all()


def test_too_few_at_a_level_are_missing_with_the_reason(levels):
    measures, design = levels
    few = design.assign(smoking=["never", "former"] * 59 + ["current"] * 2)
    effects, overlap = level_effects(measures, few, "smoking", LEVELS, ["age"])
    rows = effects[effects["kind"] == "debiased_levels"]
    assert rows["effect"].isna().all()
    assert rows["method"].str.contains("2 subjects at 'current'").all()
    assert overlap.empty and not overlap_words(overlap)
