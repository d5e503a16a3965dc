"""Statistics of paired differences against scipy, statsmodels, pingouin and closed forms."""

from __future__ import annotations

import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_cohort import LEVELS, design_of, measures_of, simulate
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from dgmvlc_cli.analysis import paired
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.workspace import generator

SMOKING = Contrast("smoking", *LEVELS)


@pytest.fixture
def d() -> np.ndarray:
    return np.random.default_rng(8).normal(-4, 9, 31)


def test_t_equals_statsmodels(d):
    got, theirs = paired.student(d, "HU"), DescrStatsW(d)
    assert got.p == pytest.approx(theirs.ttest_mean()[1])
    assert (got.ci_low, got.ci_high) == pytest.approx(theirs.tconfint_mean())
    assert (got.n, got.unit) == (31, "HU")


def test_equivalence_equals_statsmodels_and_its_interval_agrees_with_its_p(d):
    for margin in (2.0, 7.0, 12.0):
        got = paired.equivalence(d, "HU", margin)
        assert got.p == pytest.approx(DescrStatsW(d).ttost_mean(-margin, margin)[0])
        assert (got.p < 0.05) == (-margin < got.ci_low and got.ci_high < margin)


def test_wilcoxon_equals_scipy_and_the_median_of_the_walsh_averages(d):
    got = paired.wilcoxon(d, "HU")
    assert got.p == stats.wilcoxon(d).pvalue
    walsh = [(a + b) / 2 for i, a in enumerate(d) for b in d[i:]]
    assert got.estimate == pytest.approx(np.median(walsh))


def test_the_wilcoxon_interval_holds_what_its_test_does_not_reject(d):
    got = paired.wilcoxon(d, "HU")
    for limit, inward in ((got.ci_low, 1), (got.ci_high, -1)):
        assert stats.wilcoxon(d - (limit + inward * 0.1), method="approx").pvalue > 0.045
        assert stats.wilcoxon(d - (limit - inward * 0.1), method="approx").pvalue < 0.055


def test_dz_equals_pingouin_and_its_interval_covers(d):
    pingouin = pytest.importorskip("pingouin")
    got = paired.cohen_dz(d)
    theirs = pingouin.ttest(d, 0)
    column = "cohen_d" if "cohen_d" in theirs else "cohen-d"
    assert abs(got.estimate) == pytest.approx(theirs[column].item(), abs=0.005)
    wilcoxon = pingouin.wilcoxon(d)
    column = "p_val" if "p_val" in wilcoxon else "p-val"
    assert paired.wilcoxon(d, "HU").p == pytest.approx(wilcoxon[column].item())


def test_the_interval_of_dz_inverts_the_noncentral_t(d):
    got = paired.cohen_dz(d)
    t = got.estimate * np.sqrt(31)
    assert stats.nct.cdf(t, 30, got.ci_low * np.sqrt(31)) == pytest.approx(0.975, abs=1e-4)
    assert stats.nct.cdf(t, 30, got.ci_high * np.sqrt(31)) == pytest.approx(0.025, abs=1e-4)
    assert got.ci_low < got.estimate < got.ci_high


def test_a_small_sign_flip_interval_is_the_one_of_all_subsets():
    d = np.array([3.0, -1.0, 4.0, 1.5, 5.0, 9.0])
    got = paired.sign_flip(d, "HU", generator(0, "flips"))
    means = [d[list(s)].mean() for s in product((False, True), repeat=6) if any(s)]
    # 62 of the 64 places between them; one further in would leave 60, or 94 %.
    assert (got.ci_low, got.ci_high) == (pytest.approx(min(means)), pytest.approx(max(means)))
    signs = np.array(list(product((1, -1), repeat=6)))
    assert got.p == np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-9)


def test_sign_flip_and_t_intervals_agree_on_normal_data():
    d = np.random.default_rng(2).normal(2, 5, 80)
    flips, t = paired.sign_flip(d, "HU", generator(0, "flips")), paired.student(d, "HU")
    assert flips.ci_low == pytest.approx(t.ci_low, abs=0.15)
    assert flips.ci_high == pytest.approx(t.ci_high, abs=0.15)


def test_the_bootstrap_of_a_skewed_sample_leans_to_its_tail():
    d = np.random.default_rng(3).exponential(5, 40)
    got = paired.bootstrap(d, "HU", generator(0, "bootstrap"))
    assert got.ci_high - got.estimate > got.estimate - got.ci_low
    again = paired.bootstrap(d, "HU", generator(0, "bootstrap"))
    assert (got.ci_low, got.ci_high) == (again.ci_low, again.ci_high)


def test_bootstrap_intervals_cover_the_truth():
    covered = 0
    for k in range(60):
        d = generator(k, "sample").normal(1.0, 3, 25)
        found = paired.bootstrap(d, "HU", generator(k, "bootstrap"))
        covered += found.ci_low <= 1.0 <= found.ci_high
    assert covered >= 51  # 57 expected of 60


@pytest.mark.parametrize(("n", "d_z"), [(3, 15), (3, 300), (4, 30), (6, 100), (8, 300), (8, -300)])
def test_a_difference_far_beyond_its_spread_has_an_interval_of_dz(n, d_z):
    d = np.linspace(-1, 1, n)
    d = d / d.std(ddof=1) + d_z
    got = paired.cohen_dz(d)
    # t is then a normal variable's mean over a chi: its spread is that of the chi.
    chi = np.sqrt(stats.chi2.ppf((0.025, 0.975), n - 1) / (n - 1)) * d_z
    assert (got.ci_low, got.ci_high) == pytest.approx(tuple(sorted(chi)), rel=0.05)


def test_an_interval_of_dz_that_cannot_be_found_is_missing():
    got = paired.cohen_dz(np.array([1.0, 1.0, 1.0, 1.0 + 1e-12]))  # beyond SciPy's distribution
    assert got.estimate > 1e10
    assert np.isnan([got.ci_low, got.ci_high]).all()


def test_an_interval_that_too_few_subjects_bear_is_missing_and_says_so():
    d = np.random.default_rng(5).normal(3, 2, 20)
    rng = generator(0, "few")
    makes = {
        6: (lambda d: paired.sign_flip(d, "HU", rng), lambda d: paired.wilcoxon(d, "HU")),
        paired.LEAST_BOOTSTRAPPED: (lambda d: paired.bootstrap(d, "HU", rng),),
    }
    for least, methods in makes.items():
        for make in methods:
            few, enough = make(d[: least - 1]), make(d[:least])
            assert np.isnan([few.ci_low, few.ci_high]).all()
            assert np.isfinite(few.estimate)
            assert "too few subjects" in few.method and "too few" not in enough.method
            assert enough.ci_low < enough.estimate < enough.ci_high
    assert np.isfinite(paired.wilcoxon(d[:4], "HU").p)


@pytest.mark.parametrize("n", [6, 8, 12])
def test_exact_intervals_of_few_subjects_cover_the_truth(n):
    covered = []
    for k in range(600):
        d = generator(k, n, "sample").normal(1.0, 3, n)
        found = paired.sign_flip(d, "HU", generator(k, "flips")), paired.wilcoxon(d, "HU")
        covered.append([one.ci_low <= 1.0 <= one.ci_high for one in found])
    assert np.mean(covered, axis=0).min() > 0.93  # three standard errors below 0.95 and more


def test_the_place_of_the_signed_rank_interval_is_that_of_its_distribution():
    for n in (5, 6, 8, 13):
        sums = [sum(s) for s in product(*((0, rank) for rank in range(1, n + 1)))]
        place = paired._signed_rank_place(n)
        assert np.mean(np.array(sums) <= place) <= 0.025 < np.mean(np.array(sums) <= place + 1)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    cohort = simulate(rng, 60)
    design = design_of(cohort, rng, placebos=0)
    outcomes = (("mean_hu", "upper"), ("mean_hu", "lungs"), ("volume_ml", "lungs"))
    measures = measures_of(cohort, design, rng, outcomes=outcomes)
    fixed = measures["measure"] == "volume_ml"
    measures.loc[fixed, "value"] = 5000 + measures["subject"].str[-2:].astype(float) * 10
    measures.loc[fixed, "unit"] = "mL"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return paired.statistics_table(measures, design, SMOKING, ["age", "sex"], seed=0)


def test_every_result_says_n_unit_interval_and_method(table):
    assert list(table.columns) == list(paired.STATISTIC_COLUMNS)
    assert (table["n"] > 20).all()
    assert table["unit"].isin(["HU", "1"]).all()
    assert table[["estimate", "ci_low", "ci_high"]].notna().all().all()
    assert (table["ci_low"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["ci_high"]).all()
    assert (table["method"].str.len() > 5).all()
    assert set(table.loc[table["kind"] == "model_implied", "statistic"]) == {
        "mean, t", "mean, sign flips", "pseudomedian, Wilcoxon", "Cohen's d_z", "mean, bootstrap",
        "equivalence",
    }  # fmt: skip


def test_what_the_mask_holds_fixed_has_no_statistics(table):
    assert set(table["measure"]) == {"mean_hu"}


def test_adjusted_p_are_benjamini_hochberg_of_each_statistic(table):
    for (_, statistic), rows in table.groupby(["kind", "statistic"]):
        if statistic == "mean, bootstrap":
            assert rows["p_adjusted"].isna().all()
            continue
        expected = multipletests(rows["p"], method="fdr_bh")[1]
        np.testing.assert_allclose(rows["p_adjusted"], expected)


def test_density_is_adjusted_for_volume_in_the_real_scans(table):
    rows = table[table["statistic"] == "volume-adjusted"]
    assert len(rows) == 2 and (rows["kind"] == "observed").all()
    assert rows["method"].str.contains("log lung volume").all()


def test_distances_have_intervals_for_the_contrast_and_each_placebo():
    placebo = Contrast("placebo_1", "birch", "maple")
    rng = np.random.default_rng(6)
    rows = [
        (f"s{k:02d}", 0, seed, contrast.text, "upper", "wasserstein_hu", value + rng.normal(), "HU")
        for contrast, value in ((SMOKING, 20.0), (placebo, 5.0))
        for k in range(10)
        for seed in (0, 1)
    ]
    columns = ["subject", "fold", "seed", "contrast", "region", "measure", "value", "unit"]
    got = paired.distance_rows(pd.DataFrame(rows, columns=columns), [SMOKING, placebo], 0)
    assert got["kind"].tolist() == ["model_implied", "placebo"]
    assert got["n"].tolist() == [10, 10]
    assert got["estimate"].tolist() == [pytest.approx(20, abs=1), pytest.approx(5, abs=1)]
    assert got[["ci_low", "ci_high"]].isna().all(axis=None)  # ten are too few to resample
