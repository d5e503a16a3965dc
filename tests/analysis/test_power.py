from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.power import TTestIndPower

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.power import detectable_ncp, plan_table, subjects_needed

SMOKING = Contrast("smoking", "never", "current")


def cohort(rng, n=80, effect=0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Real scans with an SD of 20 HU, of which age explains 12; smoking as often as not."""
    subjects = [f"s{i:03d}" for i in range(n)]
    design = pd.DataFrame(
        {"smoking": ["never", "current"] * (n // 2), "age": rng.normal(60, 8, n)}, subjects
    )
    smokes = (design["smoking"] == "current").to_numpy()
    value = -850 + 1.5 * (design["age"] - 60) + effect * smokes + 16 * rng.normal(size=n)
    table = pd.DataFrame({"subject": subjects, "value": value.to_numpy()}).assign(
        fold="", seed="", arm="observed", region="lungs", measure="mean_hu", unit="HU", reason=""
    )
    return table, design


@pytest.mark.parametrize("n", [10, 40, 200])
def test_two_groups_without_covariates_agree_with_statsmodels(n):
    want = TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8)
    assert detectable_ncp(2 * n - 2) * np.sqrt(2 / n) == pytest.approx(want, rel=1e-4)


def test_the_plan_is_that_of_the_regression_to_come():
    measures, design = cohort(np.random.default_rng(0))
    (row,) = plan_table(measures, design, SMOKING, ["age"]).to_dict("records")
    data = design.assign(y=measures.set_index("subject")["value"])
    fit = smf.ols("y ~ C(smoking, Treatment('never')) + age", data).fit()
    assert row["se"] == pytest.approx(fit.bse.iloc[1])
    assert row["sd_adjusted"] == pytest.approx(np.sqrt(fit.scale))
    assert row["sd"] == pytest.approx(data["y"].std())
    assert row["detectable"] == pytest.approx(detectable_ncp(fit.df_resid) * fit.bse.iloc[1])
    assert row["detectable_family"] == row["detectable"]  # one comparison


def test_the_detectable_effect_is_found_four_times_in_five():
    measures, design = cohort(np.random.default_rng(1), 400)
    effect = plan_table(measures, design, SMOKING, ["age"])["detectable"].item()
    effect *= np.sqrt(400 / 80)
    found = []
    for draw in range(400):
        measures, design = cohort(np.random.default_rng([draw, 2]), 80, effect)
        data = design.assign(y=measures.set_index("subject")["value"])
        found.append(smf.ols("y ~ smoking + age", data).fit().pvalues.iloc[1] < 0.05)
    assert 0.74 < np.mean(found) < 0.86


def test_half_the_effect_needs_four_times_the_subjects():
    row = pd.Series({"n": 100, "detectable": 10.0})
    assert subjects_needed(row, 5) == 400


def test_a_group_that_is_too_small_is_missing_with_the_reason():
    measures, design = cohort(np.random.default_rng(3))
    few = design.assign(smoking=["never"] * 77 + ["current"] * 3)
    row = plan_table(measures, few, SMOKING, ["age"]).iloc[0]
    assert np.isnan(row["detectable"])
    assert "3 subjects at 'current'" in row["method"]
