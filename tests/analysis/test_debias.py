from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, stats
from simulated_cohort import EFFECT, GENERATORS, simulate, standardised

from dgmvlc_cli.analysis import debias

DRAWS = 300


def test_ridge_logistic_minimises_its_penalised_loss():
    rng = np.random.default_rng(1)
    design = np.column_stack([np.ones(80), rng.normal(size=(80, 3))])
    a = (rng.random(80) < 0.4).astype(float)

    def loss(beta: np.ndarray) -> float:
        odds = design @ beta
        return np.sum(np.log1p(np.exp(odds)) - a * odds) + np.sum(beta[1:] ** 2) / 2

    expected = optimize.minimize(loss, np.zeros(4), tol=1e-10).x
    assert debias.ridge_logistic(design, a) == pytest.approx(expected, abs=1e-4)


def test_propensity_is_clipped_where_groups_do_not_overlap():
    x = np.linspace(-3, 3, 60)[:, None]
    e = debias.propensity((x[:, 0] > 0).astype(float), x, x)
    assert e.min() == debias.CLIP and e.max() == 1 - debias.CLIP


def test_folds_are_balanced_and_every_subject_is_predicted_by_others():
    a = np.repeat([0.0, 1.0], [70, 30])
    split = debias.cross_splits(a, np.zeros((100, 1)), np.random.default_rng(0), splits=1)[0]
    counts = [(split.fold[a == level] == k).sum() for level in (0, 1) for k in range(debias.FOLDS)]
    assert counts == [7] * 10 + [3] * 10


def test_stacked_regression_equals_one_with_the_prediction_in_it():
    rng = np.random.default_rng(2)
    design, m = debias.with_intercept(rng.normal(size=(50, 3))), rng.normal(size=(50, 1))
    y = design.sum(axis=1, keepdims=True) + 0.8 * m + 0.5 * rng.normal(size=(50, 1))
    g, weight, *_ = debias.stacked(design, y, m)
    full = sm.OLS(y[:, 0], np.column_stack([design, m])).fit()
    assert g[0] == pytest.approx(full.params[-1])
    assert weight[0] == pytest.approx(1 - 1 / full.tvalues[-1] ** 2)


def test_a_prediction_that_points_the_wrong_way_gets_no_weight():
    rng = np.random.default_rng(3)
    design, m = np.ones((50, 1)), rng.normal(size=(50, 1))
    assert debias.stacked(design, -m, m)[1][0] == 0


def fit(cohort, m_0, m_1, seed=0) -> debias.Debiased:
    x = standardised(cohort.x)
    splits = debias.cross_splits(cohort.a, x, np.random.default_rng(seed))
    y, m_0, m_1 = (np.reshape(v, (v.shape[0], -1)) for v in (cohort.y, m_0, m_1))
    return debias.debias(y, cohort.a, x, m_0, m_1, splits)


def test_without_a_generator_it_is_close_to_covariate_regression():
    cohort = simulate(np.random.default_rng(4), 200)
    same = np.zeros(200)
    got = fit(cohort, same, same)
    ols = sm.OLS(cohort.y, np.column_stack([cohort.a, np.ones(200), cohort.x])).fit(cov_type="HC3")
    assert got.generator_weight[0] == 0
    assert got.overlap.effect[0] == pytest.approx(ols.params[0], abs=0.15 * ols.bse[0])
    assert got.overlap.se[0] == pytest.approx(ols.bse[0], rel=0.1)


def test_a_perfect_prediction_gives_the_exact_effect():
    cohort = simulate(np.random.default_rng(5))
    exact = simulate(np.random.default_rng(5))
    noiseless = exact.baseline + EFFECT * exact.a
    object.__setattr__(cohort, "y", noiseless)
    got = fit(cohort, exact.baseline, exact.baseline + EFFECT)
    for estimate in (got.overlap, got.average):
        assert estimate.effect[0] == pytest.approx(EFFECT, abs=1e-6)
        assert estimate.se[0] < 1e-6


def test_arms_that_are_the_outcome_itself_are_not_used():
    cohort = simulate(np.random.default_rng(6))
    got = fit(cohort, cohort.y, cohort.y)
    assert got.generator_weight[0] == 0
    assert got.overlap.se[0] > 1


def test_level_and_scale_of_the_prediction_do_not_matter():
    rng = np.random.default_rng(7)
    cohort = simulate(rng)
    m_0, m_1 = GENERATORS["good"](cohort, rng)
    one, other = fit(cohort, m_0, m_1), fit(cohort, 3 * m_0 + 500, 3 * m_1 + 500)
    assert one.overlap.effect == pytest.approx(other.overlap.effect)
    assert one.overlap.se == pytest.approx(other.overlap.se)


def test_a_numeric_attribute_gets_the_slope_and_no_average_effect():
    rng = np.random.default_rng(8)
    x, hidden = rng.normal(size=(300, 2)), rng.normal(size=300)
    a = x[:, 0] + rng.normal(size=300)
    y = (2 * x[:, 0] + hidden - 3 * a + rng.normal(size=300))[:, None]
    splits = debias.cross_splits(a, x, np.random.default_rng(0))
    m_0 = (2 * x[:, 0] + hidden)[:, None]
    got = debias.debias(y, a, x, m_0, m_0 - 2, splits)
    assert got.overlap.effect[0] == pytest.approx(-3, abs=3 * got.overlap.se[0])
    assert got.overlap.se[0] < 0.1
    assert np.isnan(got.average.effect[0])


# DoubleML 0.11.4 on the same tables: linear learners, 10 folds, median of 25 repetitions, weights
# normalised; coefficient and standard error of draws 0 and 1 (see tests/benchmarks/estimators.py).
DOUBLEML_IRM = ((-20.02317, 1.65636), (-19.49226, 1.44384))
DOUBLEML_PLR = ((-2.955838, 0.0505625), (-3.012403, 0.0462639))


@pytest.mark.parametrize("draw", [0, 1])
def test_without_a_generator_it_is_the_double_machine_learning_of_the_reference(draw):
    cohort = simulate(np.random.default_rng([draw, 99]), 400)
    effect, se = DOUBLEML_IRM[draw]
    got = fit(cohort, np.zeros(400), np.zeros(400)).average
    assert got.effect[0] == pytest.approx(effect, abs=0.1 * se)
    assert got.se[0] == pytest.approx(se, rel=0.03)
    x = standardised(cohort.x)
    a = 0.7 * x[:, 0] + np.random.default_rng([draw, 100]).normal(size=400)
    y = 2 * x[:, 0] - 3 * a + np.random.default_rng([draw, 101]).normal(size=400)
    splits = debias.cross_splits(a, x, np.random.default_rng(0))
    nothing = np.zeros((400, 1))
    effect, se = DOUBLEML_PLR[draw]
    slope = debias.debias(y[:, None], a, x, nothing, nothing, splits).overlap
    assert slope.effect[0] == pytest.approx(effect, abs=0.1 * se)
    assert slope.se[0] == pytest.approx(se, rel=0.03)


def test_a_small_group_counts_as_a_small_group():
    rng = np.random.default_rng(9)
    a, y = np.repeat([0.0, 1.0], [80, 8]), rng.normal(size=(88, 1))
    influence = np.where(a == 1, 11.0, 0.1)[:, None] * y
    spare = debias.spare_subjects(a, 0)
    assert [left for _, left in spare] == [79, 7]
    assert debias.with_variance(np.zeros(1), influence, spare).dof[0] == pytest.approx(7, abs=0.1)


@pytest.fixture(scope="module")
def draws() -> dict[str, np.ndarray]:
    """Over DRAWS cohorts of 96 and three generators: covered, error and SE (draws, 3)."""
    record = {"covered": [], "average_covered": [], "error": [], "se": [], "ols_se": [], "raw": []}
    for r in range(DRAWS):
        rng = np.random.default_rng([r, 96])
        cohort = simulate(rng)
        arms = [make(cohort, rng) for make in GENERATORS.values()]
        x, (m_0, m_1) = (
            standardised(cohort.x),
            (np.column_stack(m) for m in zip(*arms, strict=True)),
        )
        splits = debias.cross_splits(cohort.a, x, rng)
        y = np.repeat(cohort.y[:, None], 3, axis=1)
        got = debias.debias(y, cohort.a, x, m_0, m_1, splits)
        regression = np.column_stack([cohort.a, np.ones(96), cohort.x])
        for name, part in (("covered", got.overlap), ("average_covered", got.average)):
            half = stats.t.ppf(0.975, part.dof) * part.se
            record[name].append(np.abs(part.effect - EFFECT) < half)
        record["error"].append(got.overlap.effect - EFFECT)
        record["se"].append(got.overlap.se)
        record["ols_se"].append(sm.OLS(cohort.y, regression).fit(cov_type="HC3").bse[0])
        target = cohort.a == 1
        record["raw"].append(cohort.y[target].mean() - cohort.y[~target].mean() - EFFECT)
    return {name: np.array(values) for name, values in record.items()}


@pytest.mark.parametrize("j", range(3), ids=list(GENERATORS))
def test_intervals_cover_at_the_stated_rate_whatever_the_generator(draws, j):
    assert 0.92 <= draws["covered"][:, j].mean() <= 0.98
    assert 0.92 <= draws["average_covered"][:, j].mean() <= 0.99
    assert draws["se"][:, j].mean() == pytest.approx(draws["error"][:, j].std(), rel=0.12)


@pytest.mark.parametrize("j", range(3), ids=list(GENERATORS))
def test_it_is_never_worse_than_covariate_regression(draws, j):
    assert (draws["se"][:, j] <= 1.1 * draws["ols_se"]).all()


def test_a_good_generator_buys_precision(draws):
    assert draws["se"][:, 0].mean() < 0.85 * draws["ols_se"].mean()


def test_confounding_biases_the_raw_difference_and_not_the_debiased(draws):
    assert abs(draws["raw"].mean()) > 5
    assert np.abs(draws["error"].mean(axis=0)).max() < 0.6


def test_a_level_does_not_leak_through_a_column_that_is_constant_but_for_one_subject():
    """Where that subject is held out its column is one with the intercept."""
    rng = np.random.default_rng(3)
    rare = np.zeros(60)
    rare[7] = 1.0
    a = np.tile([0.0, 1.0], 30)
    x = standardised(np.column_stack([rng.normal(size=60), rare]))
    y = -850 + 10 * rng.normal(size=(60, 1))
    splits = debias.cross_splits(a, x, rng)
    with_level = debias.debias(y, a, x, 0 * y, 0 * y, splits).overlap
    without = debias.debias(y + 850, a, x, 0 * y, 0 * y, splits).overlap
    assert with_level.effect == pytest.approx(without.effect, abs=1e-6)
    assert with_level.se == pytest.approx(without.se, abs=1e-6)


def test_a_number_that_few_subjects_have_gets_an_interval_that_holds():
    """Spread that rises with a skewed attribute: 0.73 without the share of each subject."""
    covered = []
    for draw in range(120):
        rng = np.random.default_rng(draw)
        a = np.exp(rng.normal(size=60))
        y = (rng.normal(size=60) * (0.5 + a))[:, None]
        x = rng.normal(size=(60, 1))
        fit = debias.debias(y, a, x, 0 * y, 0 * y, debias.cross_splits(a, x, rng, 1)).overlap
        half = stats.t.ppf(0.975, fit.dof[0]) * fit.se[0]
        covered.append(abs(fit.effect[0]) <= half)
    assert np.mean(covered) > 0.82
