from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.discrete.discrete_model import MNLogit

from dgmvlc_cli.analysis import debias, levels

EFFECTS = np.array([0.0, -8.0, -20.0])


def simulate(rng, n=150):
    """Three levels that age confounds, something hidden in the mask, and their effects."""
    x = rng.normal(size=(n, 2))
    odds = np.exp(np.column_stack([-0.6 * x[:, 0], np.zeros(n), 0.6 * x[:, 0]]))
    share = odds / odds.sum(axis=1, keepdims=True)
    codes = (rng.random(n)[:, None] > share.cumsum(axis=1)).sum(axis=1)
    hidden = 10 * rng.normal(size=n)
    y = -850 + 10 * x[:, 0] + hidden + EFFECTS[codes] + 8 * rng.normal(size=n)
    predictions = (-850 + hidden + 0.7 * EFFECTS[:, None] + 3 * rng.normal(size=(3, n)))[..., None]
    return y[:, None], codes, (x - x.mean(axis=0)) / x.std(axis=0), predictions


def test_two_levels_are_the_binary_propensity():
    _, codes, x, _ = simulate(np.random.default_rng(0))
    two = codes < 2
    got = levels.multinomial_propensity(codes[two], x[two], x)
    want = debias.propensity(codes[two].astype(float), x[two], x)
    assert got[:, 1] == pytest.approx(want, abs=1e-4)


def test_many_subjects_outweigh_the_ridge():
    _, codes, x, _ = simulate(np.random.default_rng(1), 20_000)
    fit = MNLogit(codes, np.column_stack([np.ones(len(x)), x])).fit(disp=0)
    got = levels.multinomial_propensity(codes, x, x[:200])
    raw = fit.predict(np.column_stack([np.ones(200), x[:200]]))
    within = raw.min(axis=1) > debias.CLIP
    assert got[within] == pytest.approx(raw[within], abs=2e-3)


def test_the_tilt_of_two_levels_is_e_times_one_less_e():
    e = np.linspace(0.1, 0.9, 9)
    assert levels.tilt(np.column_stack([1 - e, e])) == pytest.approx(e * (1 - e))


def test_a_perfect_prediction_gives_the_exact_effects():
    y, codes, x, _ = simulate(np.random.default_rng(2))
    baseline = y[:, 0] - EFFECTS[codes]
    exact = (baseline + EFFECTS[:, None])[..., None]
    splits = levels.level_splits(codes, x, np.random.default_rng(0), splits=2)
    fits = levels.debias_levels(y, codes, x, exact, splits)
    assert {pair: fit.effect[0] for pair, fit in fits.items()} == pytest.approx(
        {(0, 1): -8, (0, 2): -20, (1, 2): -12}, abs=1e-6
    )


def test_effects_add_up_because_the_population_is_one():
    y, codes, x, predictions = simulate(np.random.default_rng(3))
    splits = levels.level_splits(codes, x, np.random.default_rng(0), splits=1)
    fits = levels.debias_levels(y, codes, x, predictions, splits)
    whole = fits[0, 1].effect + fits[1, 2].effect
    assert fits[0, 2].effect == pytest.approx(whole)


def test_intervals_cover_and_the_generator_narrows_them():
    covered, narrower, raw = [], [], []
    for draw in range(120):
        y, codes, x, predictions = simulate(np.random.default_rng([draw, 3]))
        splits = levels.level_splits(codes, x, np.random.default_rng(draw), splits=1)
        fits = levels.debias_levels(y, codes, x, predictions, splits)
        plain = levels.debias_levels(y, codes, x, None, splits)
        for (j, k), fit in fits.items():
            half = stats.t.ppf(0.975, fit.dof) * fit.se
            covered.append(abs(fit.effect[0] - EFFECTS[k] + EFFECTS[j]) < half[0])
            narrower.append(fit.se[0] / plain[j, k].se[0])
        raw.append(y[codes == 2].mean() - y[codes == 0].mean())
    assert 0.92 < np.mean(covered) < 0.98
    assert np.mean(narrower) < 0.85
    assert np.mean(raw) > EFFECTS[2] + 5


def test_overlap_is_called_limited_where_a_level_has_other_covariates():
    rng = np.random.default_rng(4)
    design = pd.DataFrame(
        {"smoking": np.repeat(["never", "former", "current"], 40), "age": rng.normal(60, 8, 120)},
        index=[f"s{i:03d}" for i in range(120)],
    )
    names = ("never", "former", "current")

    def found(table: pd.DataFrame) -> pd.Series:
        subjects = levels.levels_of(table, "smoking", names, ["age", "smoking"])
        assert subjects.problem == "" and list(subjects.x) == ["age"]
        splits = levels.level_splits(
            subjects.codes.to_numpy(), subjects.x.to_numpy(), np.random.default_rng(0), splits=2
        )
        table = levels.diagnose_overlap(subjects, splits).set_index("level")
        assert (table["effective_n"] <= table["n"] + 1e-9).all()
        said = " ".join(levels.overlap_words(table.reset_index()))
        assert [name for name in names if name in said] == [
            name for name in names if table.loc[name, "overlap"] == "limited"
        ]
        return table["overlap"]

    assert set(found(design)) == {"good"}
    apart = design.assign(age=design["age"] + 25 * (design["smoking"] == "current"))
    assert found(apart)["current"] == "limited"


def test_a_level_with_few_subjects_says_so():
    design = pd.DataFrame({"smoking": ["never"] * 20 + ["former"] * 20 + ["current"] * 2})
    assert (
        "2 subjects at 'current'"
        in levels.levels_of(design, "smoking", ("never", "former", "current"), []).problem
    )
