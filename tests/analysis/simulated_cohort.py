"""Cohorts with a known effect, and generators that are good, useless or overfitted to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

EFFECT = -20.0
LEVELS = ("never smoker", "current smoker")
WORDS = {"never smoker": "birch", "current smoker": "maple"}


@dataclass(frozen=True)
class Simulated:
    """y, a: (n,) outcome, attribute.  x: (n, 3) age, sex, BMI.  hidden: (n,) seen in the mask."""

    y: np.ndarray
    a: np.ndarray
    x: np.ndarray
    hidden: np.ndarray
    baseline: np.ndarray


def simulate(rng: np.random.Generator, n: int = 96, effect: float = EFFECT) -> Simulated:
    """Density depends on age, sex, something hidden, and on smoking, which age and sex confound."""
    age, sex, bmi = rng.normal(size=n), rng.integers(0, 2, n) - 0.5, rng.normal(size=n)
    odds = np.exp(0.7 * age + 0.8 * sex)
    a = (rng.random(n) < odds / (1 + odds)).astype(float)
    hidden = 10 * rng.normal(size=n)
    baseline = -850 + 8 * age + 12 * sex + hidden
    y = baseline + effect * a + 10 * rng.normal(size=n)
    return Simulated(y, a, np.column_stack([age, sex, bmi]), hidden, baseline)


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / x.std(axis=0)


def good(cohort: Simulated, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sees the hidden part; a wrong level, and a shrunken effect."""
    m_0 = cohort.baseline - 3 + 4 * rng.normal(size=cohort.a.size)
    return m_0, m_0 + 0.7 * EFFECT + 2 * rng.normal(size=cohort.a.size)


def useless(cohort: Simulated, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noise, with an effect that is not there."""
    m_0 = -850 + 15 * rng.normal(size=cohort.a.size)
    return m_0, m_0 + 10 * rng.normal() + 5 * rng.normal(size=cohort.a.size)


def overfitted(cohort: Simulated, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two folds, each told by what an interacted regression learned in the other one."""
    n = cohort.a.size
    fold = rng.permutation(np.arange(n) % 2)
    m_0, m_1 = np.empty(n), np.empty(n)
    for k in (0, 1):
        train, test = fold != k, fold == k
        learned = np.linalg.lstsq(_interacted(cohort, cohort.a)[train], cohort.y[train])[0]
        m_0[test] = (_interacted(cohort, np.zeros(n)) @ learned)[test]
        m_1[test] = (_interacted(cohort, np.ones(n)) @ learned)[test]
    return m_0, m_1


def _interacted(cohort: Simulated, a: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(a.size), cohort.x, cohort.hidden, a, cohort.x * a[:, None]])


GENERATORS = {"good": good, "useless": useless, "overfitted": overfitted}


def design_of(cohort: Simulated, rng: np.random.Generator, placebos: int = 2) -> pd.DataFrame:
    """The clinical table: index subject; age, sex, bmi, smoking and placebo columns."""
    smoking = np.array(LEVELS, dtype=object)[cohort.a.astype(int)]
    table = pd.DataFrame(
        {
            "age": 60 + 9 * cohort.x[:, 0],
            "sex": np.where(cohort.x[:, 1] > 0, "male", "female"),
            "bmi": 26 + 4 * cohort.x[:, 2],
            "smoking": smoking,
        },
        index=pd.Index([f"ph-{i:04d}" for i in range(cohort.a.size)], name="subject"),
    )
    for k in range(1, placebos + 1):
        table[f"placebo_{k}"] = [WORDS[level] for level in rng.permutation(smoking)]
    return table


def measures_of(
    cohort: Simulated,
    design: pd.DataFrame,
    rng: np.random.Generator,
    *,
    generator: str = "good",
    outcomes: tuple[tuple[str, str], ...] = (("mean_hu", "upper"),),
    seeds: int = 2,
    placebo_effect: float = 1.0,
) -> pd.DataFrame:
    """The table of measures: real scans, and both arms of smoking and of every placebo."""
    arms = {("smoking", *LEVELS): GENERATORS[generator](cohort, rng)}
    for name in (column for column in design if column.startswith("placebo")):
        m_0 = GENERATORS[generator](cohort, rng)[0]
        made_of_nothing = placebo_effect * rng.normal() + rng.normal(size=cohort.a.size)
        arms[name, *WORDS.values()] = m_0, m_0 + made_of_nothing
    rows = [
        (subject, i % 2, "", "observed", y, reading)
        for i, (subject, y) in enumerate(zip(design.index, cohort.y, strict=True))
        for reading in outcomes
    ]
    for (attribute, *levels), predictions in arms.items():
        for level, m in zip(levels, predictions, strict=True):
            rows += [
                (subject, i % 2, seed, f"{attribute}={level}", m[i] + (-1) ** seed, reading)
                for i, subject in enumerate(design.index)
                for seed in range(seeds)
                for reading in outcomes
            ]
    table = pd.DataFrame(rows, columns=["subject", "fold", "seed", "arm", "value", "outcome"])
    measure, region = zip(*table.pop("outcome"), strict=True)
    return table.assign(measure=measure, region=region, unit="HU", reason="")
