from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from dgmvlc_cli.analysis.mixed import FEW_FOLDS, fit_mixed


def differences(rng, sizes, sd_fold, sd_subject=3.0) -> tuple[np.ndarray, np.ndarray]:
    """Paired differences around -10 of subjects that were held out by folds."""
    fold = np.repeat(np.arange(len(sizes)), sizes)
    shift = sd_fold * rng.normal(size=len(sizes))
    return -10 + shift[fold] + sd_subject * rng.normal(size=len(fold)), fold


@pytest.mark.parametrize("sizes", [(20, 20, 20, 20), (12, 30, 19, 25, 8)])
def test_estimate_error_and_components_are_those_of_statsmodels(sizes):
    d, fold = differences(np.random.default_rng(3), sizes, 2.5)
    got = fit_mixed(d, fold)
    table = pd.DataFrame({"d": d, "fold": fold})
    want = smf.mixedlm("d ~ 1", table, groups="fold").fit(reml=True)
    assert got.effect == pytest.approx(want.params["Intercept"], rel=1e-4)
    assert got.se == pytest.approx(want.bse["Intercept"], rel=1e-3)
    assert got.sd_fold**2 == pytest.approx(want.cov_re.iloc[0, 0], rel=1e-2)
    assert got.sd_subject**2 == pytest.approx(want.scale, rel=1e-3)


def test_a_balanced_layout_is_judged_by_its_folds():
    d, fold = differences(np.random.default_rng(4), (25, 25, 25), 4.0)
    got = fit_mixed(d, fold)
    means = d.reshape(3, 25).mean(axis=1)
    assert got.effect == pytest.approx(means.mean())
    assert got.se == pytest.approx(stats.sem(means), rel=1e-4)
    assert got.dof == pytest.approx(2, rel=1e-3)


def test_folds_that_do_not_differ_leave_the_paired_t_interval():
    rng = np.random.default_rng(5)
    half = rng.normal(-10, 3, 30)
    got = fit_mixed(np.concatenate([half, half]), np.repeat([0, 1], 30))
    assert got.sd_fold == 0
    both = np.concatenate([half, half])
    want = stats.ttest_1samp(both, 0).confidence_interval()
    assert got.interval() == pytest.approx(tuple(want))


def test_one_fold_is_no_sample_of_trainings():
    d = np.random.default_rng(6).normal(size=20)
    assert fit_mixed(d, np.zeros(20)).dof == 19


def test_intervals_cover_although_the_trainings_differ():
    covered, paired = [], []
    for draw in range(400):
        d, fold = differences(np.random.default_rng([draw, 1]), (15,) * 6, 2.0)
        low, high = fit_mixed(d, fold).interval()
        covered.append(low < -10 < high)
        low, high = stats.ttest_1samp(d, 0).confidence_interval()
        paired.append(low < -10 < high)
    assert np.mean(covered) > 0.92
    assert np.mean(paired) < 0.75


def test_with_two_folds_the_interval_is_as_narrow_as_the_docstring_says():
    covered = []
    for draw in range(400):
        d, fold = differences(np.random.default_rng([draw, 2]), (24,) * FEW_FOLDS, 1.0)
        low, high = fit_mixed(d, fold).interval()
        covered.append(low < -10 < high)
    assert 0.84 < np.mean(covered) < 0.92
