"""The estimators on simulated tables, without any generator training: by hand.

python tests/benchmarks/estimators.py --draws 1000

1. Coverage of 95 % intervals over many cohorts of 96, with a good, a useless and an overfitted
   generator as the outcome model's helper; plain regression beside.
2. The same for a numeric attribute (slope) and for three levels at once.
3. Agreement with DoubleML on the same tables, where it is installed (`pip install doubleml`).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
from simulated_cohort import EFFECT, GENERATORS, simulate, standardised
from test_levels import EFFECTS as LEVEL_EFFECTS
from test_levels import simulate as simulate_levels

from dgmvlc_cli.analysis import debias, levels

SLOPE = -3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tables", type=int, default=20, help="tables compared with DoubleML")
    chosen = parser.parse_args()
    pd.set_option("display.width", 200)
    rows = [row for draw in range(chosen.draws) for row in (*binary(draw), *numeric(draw))]
    rows += [row for draw in range(chosen.draws // 4) for row in several(draw)]
    table = pd.DataFrame(rows).groupby(["attribute", "generator", "estimator"], sort=False)
    summary = table.agg(
        draws=("covers", "size"),
        coverage=("covers", "mean"),
        mean_error=("error", "mean"),
        rms_error=("error", lambda e: np.sqrt(np.mean(e**2))),
        mean_se=("se", "mean"),
    )
    print(summary.round(3).to_string())
    if importlib.util.find_spec("doubleml") is None:
        print("DoubleML is not installed: not compared")
    else:
        print(against_doubleml(chosen.tables).round(3).to_string(index=False))


def row(attribute: str, generator: str, estimator: str, effect, se, dof, true) -> dict:
    half = stats.t.ppf(0.975, dof) * se
    return {
        "attribute": attribute,
        "generator": generator,
        "estimator": estimator,
        "covers": abs(effect - true) < half,
        "error": effect - true,
        "se": se,
    }


def ols(y: np.ndarray, a: np.ndarray, x: np.ndarray) -> tuple[float, float, float]:
    fit = sm.OLS(y, np.column_stack([a, np.ones(a.size), x])).fit(cov_type="HC3")
    return fit.params[0], fit.bse[0], fit.df_resid


def binary(draw: int) -> list[dict]:
    """Overlap-weighted and average effect of two levels in one cohort of 96."""
    rng = np.random.default_rng([draw, 96])
    cohort = simulate(rng)
    x = standardised(cohort.x)
    arms = {name: make(cohort, rng) for name, make in GENERATORS.items()}
    splits = debias.cross_splits(cohort.a, x, rng)
    m_0, m_1 = (np.column_stack(m) for m in zip(*arms.values(), strict=True))
    y = np.repeat(cohort.y[:, None], len(arms), axis=1)
    got = debias.debias(y, cohort.a, x, m_0, m_1, splits)
    rows = [row("two levels", "none", "regression", *ols(cohort.y, cohort.a, x), EFFECT)]
    for j, name in enumerate(arms):
        for estimator, fit in (("overlap", got.overlap), ("average", got.average)):
            numbers = fit.effect[j], fit.se[j], fit.dof[j]
            rows.append(row("two levels", name, estimator, *numbers, EFFECT))
    return rows


def numeric(draw: int) -> list[dict]:
    """The partially linear slope: helped by a prediction that knows what is hidden, and not."""
    rng = np.random.default_rng([draw, 97])
    x, hidden = rng.normal(size=(96, 3)), rng.normal(size=96)
    a = 0.7 * x[:, 0] + rng.normal(size=96)
    y = 2 * x[:, 0] + 1.5 * hidden + SLOPE * a + rng.normal(size=96)
    x = standardised(x)
    splits = debias.cross_splits(a, x, rng)
    m_0 = 2 * x[:, 0] + 1.5 * hidden + 0.5 * rng.normal(size=96)
    rows = [row("number", "none", "regression", *ols(y, a, x), SLOPE)]
    for name, prediction in (("good", m_0), ("none", np.zeros(96))):
        arms = prediction[:, None], prediction[:, None] + (0.7 * SLOPE if name == "good" else 0)
        fit = debias.debias(y[:, None], a, x, *arms, splits).overlap
        numbers = fit.effect[0], fit.se[0], fit.dof[0]
        rows.append(row("number", name, "partially linear", *numbers, SLOPE))
    return rows


def several(draw: int) -> list[dict]:
    """All pairs of three levels."""
    rng = np.random.default_rng([draw, 98])
    y, codes, x, predictions = simulate_levels(rng)
    splits = levels.level_splits(codes, x, rng)
    rows = []
    for name, helped in (("good", predictions), ("none", None)):
        for (j, k), fit in levels.debias_levels(y, codes, x, helped, splits).items():
            true = LEVEL_EFFECTS[k] - LEVEL_EFFECTS[j]
            numbers = fit.effect[0], fit.se[0], fit.dof[0]
            rows.append(row("three levels", name, "multinomial", *numbers, true))
    return rows


def against_doubleml(tables: int) -> pd.DataFrame:
    """Ours without a generator beside DoubleML with the same learners."""
    import doubleml as dml
    from sklearn.linear_model import LinearRegression, LogisticRegression

    rows = []
    for draw in range(tables):
        rng = np.random.default_rng([draw, 99])
        cohort = simulate(rng, 400)
        x, nothing = standardised(cohort.x), np.zeros((400, 1))
        data = dml.DoubleMLData.from_arrays(x, cohort.y, cohort.a)
        np.random.seed(draw)  # DoubleML draws its splits from the global generator
        theirs = dml.DoubleMLIRM(
            data, LinearRegression(), LogisticRegression(C=1.0), n_folds=10, n_rep=5,
            normalize_ipw=True,
        ).fit()  # fmt: skip
        splits = debias.cross_splits(cohort.a, x, rng)
        ours = debias.debias(cohort.y[:, None], cohort.a, x, nothing, nothing, splits).average
        rows.append(_beside("average effect (IRM)", ours, theirs))
        a = 0.7 * x[:, 0] + rng.normal(size=400)
        y = 2 * x[:, 0] + SLOPE * a + rng.normal(size=400)
        data = dml.DoubleMLData.from_arrays(x, y, a)
        theirs = dml.DoubleMLPLR(
            data, LinearRegression(), LinearRegression(), n_folds=10, n_rep=5
        ).fit()
        splits = debias.cross_splits(a, x, rng)
        ours = debias.debias(y[:, None], a, x, nothing, nothing, splits).overlap
        rows.append(_beside("slope (PLR)", ours, theirs))
    table = pd.DataFrame(rows).groupby("estimand", as_index=False)
    return table.agg(
        tables=("difference_in_se", "size"),
        mean_difference_in_se=("difference_in_se", "mean"),
        largest_difference_in_se=("difference_in_se", lambda d: d.abs().max()),
        se_ratio=("se_ratio", "mean"),
    )


def _beside(estimand: str, ours: debias.Fit, theirs) -> dict:
    return {
        "estimand": estimand,
        "difference_in_se": (ours.effect[0] - theirs.coef[0]) / theirs.se[0],
        "se_ratio": ours.se[0] / theirs.se[0],
    }


if __name__ == "__main__":
    main()
