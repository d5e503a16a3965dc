"""Maximum statistic, TFCE and permuted regression against closed forms and other libraries."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import ndimage, stats

from dgmvlc_cli.analysis import permutation
from dgmvlc_cli.workspace import generator

SHAPE = (9, 8, 10)


@pytest.fixture
def ball() -> np.ndarray:
    """(9, 8, 10) bool: an ellipsoid."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return sum(axis**2 for axis in axes) < 1.05


def smooth_maps(subjects: int, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(subjects, cells): smooth noise without any effect."""
    fields = rng.normal(size=(subjects, *mask.shape))
    return ndimage.gaussian_filter(fields, (0, 1, 1, 1))[:, mask]


def test_t_equals_scipy_also_where_subjects_lack_a_cell():
    x = np.random.default_rng(0).normal(0.3, 1, (14, 5)).astype(np.float32)
    x[3:5, 1] = np.nan
    t = permutation.one_sample_t(x, np.ones((1, 14), np.float32))[0]
    expected = stats.ttest_1samp(x, 0, nan_policy="omit").statistic
    np.testing.assert_allclose(t, expected, rtol=1e-4)


def test_cells_without_spread_have_no_t():
    x = np.zeros((8, 2), np.float32)
    assert permutation.one_sample_t(x, np.ones((1, 8), np.float32)).tolist() == [[0, 0]]


def test_small_samples_are_enumerated_exactly():
    x = np.random.default_rng(1).normal(0.8, 1, (7, 4))
    got = permutation.maximum_p(x, generator(0, "unused"))
    signs = np.array(list(product((1, -1), repeat=7)))
    t = np.array([stats.ttest_1samp(one[:, None] * x, 0).statistic for one in signs])
    largest = np.abs(t).max(axis=1)
    expected = [(largest >= abs(value) - 1e-6).mean() for value in t[0]]
    assert got.flips == 128
    np.testing.assert_allclose(got.p, expected)


def test_an_effect_in_a_few_cells_is_found_there_alone(ball):
    rng = np.random.default_rng(2)
    x = smooth_maps(20, ball, rng)
    planted = np.zeros(SHAPE)
    planted[2:5, 2:5, 2:5] = 0.6
    x += planted[ball]
    inside = planted[ball] > 0
    for got in (
        permutation.maximum_p(x, generator(1, "flips"), 1000),
        permutation.tfce_p(x, ball, generator(1, "flips"), 200),
    ):
        assert (got.p[inside] < 0.05).mean() > 0.5
        assert (got.p[~inside] < 0.05).mean() < 0.15  # smoothing carries it a little beyond


@pytest.mark.parametrize("kind", ["maximum", "tfce"])
def test_family_wise_error_on_simulated_nulls(ball, kind):
    """40 null cohorts: more than 6 with any cell below 0.05 has a chance below 1 in 100."""
    wrong = 0
    for cohort in range(40):
        x = smooth_maps(12, ball, generator(cohort, "null cohort"))
        rng = generator(cohort, "flips")
        if kind == "maximum":
            p = permutation.maximum_p(x, rng, 400).p
        else:
            p = permutation.tfce_p(x, ball, rng, 100).p
        wrong += p.min() < 0.05
    assert wrong <= 6


def test_tfce_of_a_plateau_is_its_closed_form():
    mask = np.ones((6, 6, 6), bool)
    t = np.zeros((6, 6, 6))
    t[1:3, 1:4, 1:5] = 2.0  # 24 cells
    t[5, 5, 5] = -1.0
    got = permutation.tfce(t.reshape(1, -1), mask).reshape(t.shape)
    steps = np.arange(1, 21) * 0.1
    assert got[1, 1, 1] == pytest.approx(np.sqrt(24) * np.sum(steps**2 * 0.1), rel=1e-5)
    assert got[5, 5, 5] == pytest.approx(-np.sum(steps[:10] ** 2 * 0.1), rel=1e-5)
    assert got[0, 0, 0] == 0


def test_maps_beside_each_other_do_not_join_into_one_cluster():
    mask = np.ones((3, 3, 3), bool)
    maps = np.zeros((2, 27))
    maps[:, 13] = 1
    assert permutation.cluster_extents(maps > 0, mask).max() == 1


def test_cells_that_touch_at_a_corner_are_two_clusters():
    mask = np.ones((3, 3, 3), bool)
    field = np.zeros((1, 3, 3, 3), bool)
    field[0, 0, 0, 0] = field[0, 1, 1, 0] = True
    assert permutation.cluster_extents(field.reshape(1, -1), mask).max() == 1


def test_slopes_and_t_of_the_real_scans_equal_statsmodels():
    rng = np.random.default_rng(3)
    a, x = rng.normal(size=40), rng.normal(size=(40, 2))
    y = rng.normal(size=(40, 3)) + x[:, :1] + 0.5 * a[:, None]
    slope, t, _ = permutation.regression_p(y, a, x, rng, 10)
    for cell in range(3):
        fit = sm.OLS(y[:, cell], sm.add_constant(np.column_stack([a, x]))).fit(cov_type="HC3")
        assert slope[cell] == pytest.approx(fit.params[1])
        assert t[cell] == pytest.approx(fit.tvalues[1])


def test_permuted_residuals_are_fitted_anew():
    """The null t's are those of a regression of the permuted residuals."""
    rng = np.random.default_rng(6)
    a, x, y = rng.integers(0, 2, 30), rng.normal(size=(30, 2)), rng.normal(size=(30, 1))
    _, t, control = permutation.regression_p(y, a, x, np.random.default_rng(7), 21)
    rest = sm.OLS(y[:, 0], sm.add_constant(x)).fit().resid
    orders = np.argsort(np.random.default_rng(7).random((20, 30)), axis=1)
    null = [
        sm.OLS(rest, sm.add_constant(np.column_stack([a, x]))[order]).fit(cov_type="HC3").tvalues[1]
        for order in orders
    ]
    assert control.p[0] == (1 + np.sum(np.abs(null) >= abs(t[0]))) / 21
    assert 1 / 21 < control.p[0] < 1


def test_groups_of_unequal_size_and_spread_make_no_false_map():
    """30 null cohorts, the smaller group twice as spread; a t of equal spread errs in most."""
    a = np.repeat((0.0, 1.0), (70, 15))
    wrong = 0
    for cohort in range(30):
        rng = generator(cohort, "unequal spread")
        y = rng.normal(size=(85, 100)) * (1 + a[:, None])
        wrong += (
            permutation.regression_p(y, a, rng.normal(size=(85, 2)), rng, 100)[2].p.min() < 0.05
        )
    assert wrong <= 7


def test_a_subject_that_a_covariate_fits_exactly_does_no_harm():
    rng = np.random.default_rng(8)
    a, y = rng.normal(size=20), rng.normal(size=(20, 4))
    alone = np.eye(20)[:, :1]
    slope, t, _ = permutation.regression_p(y, a, alone, rng, 5)
    without, t_without, _ = permutation.regression_p(y[1:], a[1:], np.empty((19, 0)), rng, 5)
    np.testing.assert_allclose(slope, without)
    np.testing.assert_allclose(t, t_without)


def test_p_is_never_below_one_in_the_number_of_flips(ball):
    """Means many times their spread, where two ways to the same t round apart."""
    rng = np.random.default_rng(9)
    for n, d_z in product((20, 40, 96), (3, 10, 30, 100)):
        maps = smooth_maps(n, ball, rng)
        x = (maps / maps.std() + d_z).astype(np.float32)
        assert permutation.maximum_p(x, rng, 200).p.min() == 1 / 200
        assert permutation.tfce_p(x, ball, rng, 20).p.min() == 1 / 20


def test_t_keeps_its_digits_where_the_mean_is_many_times_the_spread():
    x = np.random.default_rng(10).normal(1000, 1, (30, 6)).astype(np.float32)
    t = permutation.one_sample_t(x, np.ones((1, 30), np.float32))[0]
    np.testing.assert_allclose(t, stats.ttest_1samp(x.astype(np.float64), 0).statistic, rtol=1e-6)


def test_a_confounder_that_is_adjusted_for_makes_no_false_map(ball):
    """30 cohorts in which a covariate drives both; unadjusted nearly all of them would err."""
    adjusted = unadjusted = 0
    for cohort in range(30):
        rng = generator(cohort, "confounded")
        common = rng.normal(size=30)
        a = common + rng.normal(size=30)
        y = smooth_maps(30, ball, rng) + common[:, None]
        adjusted += permutation.regression_p(y, a, common[:, None], rng, 200)[2].p.min() < 0.05
        unadjusted += permutation.regression_p(y, a, np.empty((30, 0)), rng, 200)[2].p.min() < 0.05
    assert adjusted <= 5
    assert unadjusted >= 20


def test_tfce_equals_nilearn(ball):
    utils = pytest.importorskip("nilearn.mass_univariate._utils")
    x = smooth_maps(15, ball, np.random.default_rng(4)) + 0.15
    t = permutation.one_sample_t(x.astype(np.float32), np.ones((1, 15), np.float32))
    t *= 4.0 / np.abs(t).max()  # a whole number of steps, as theirs divides the range
    field = np.zeros((*SHAPE, 1))
    field[ball, 0] = t[0]
    structure = ndimage.generate_binary_structure(3, 1)
    # Theirs, like fslmaths, leaves the step out of the sum.
    theirs = 0.1 * utils.calculate_tfce(field, structure, dh=0.1)[..., 0][ball]
    ours = permutation.tfce(t, ball)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    assert ours.max() > 5


def test_maximum_p_equals_nilearn_within_monte_carlo_error(ball):
    nilearn = pytest.importorskip("nilearn.mass_univariate")
    x = smooth_maps(20, ball, np.random.default_rng(5)) + 0.1
    ours = permutation.maximum_p(x, generator(0, "flips"), 2000).p
    theirs = nilearn.permuted_ols(
        np.ones((20, 1)), x, model_intercept=False, n_perm=2000, two_sided_test=True,
        random_state=0, verbose=0, output_type="dict",
    )["logp_max_t"][0]  # fmt: skip
    p = 10.0**-theirs
    error = 4 * np.sqrt(p * (1 - p) / 2000) + 0.002
    assert (np.abs(ours - p) < 1.5 * error).all()
    assert p.min() < 0.3
