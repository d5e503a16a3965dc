from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.text.entailed import entailed
from dgmvlc_cli.text.schema import Schema

LEVELS = ("never smoker", "former smoker", "current smoker")
SMOKING = np.repeat(LEVELS, 10)


def schema(**attribute) -> Schema:
    kind = {"column": "x", "kind": "number", **attribute}
    smoking = {"column": "s", "kind": "category", "levels": LEVELS}
    return Schema.model_validate({"id_column": "id", "attributes": {"smoking": smoking, "x": kind}})


def cautions(values, **attribute) -> list[str]:
    rows = pd.DataFrame({"smoking": SMOKING, "x": values})
    return entailed(rows, schema(**attribute), "smoking")


@pytest.mark.parametrize("nothing", [np.nan, 0.0])
def test_what_a_level_never_has_is_told_unless_it_follows(nothing):
    cigarettes = np.r_[np.full(10, nothing), np.arange(5.0, 25.0)]
    (caution,) = cautions(cigarettes)
    assert "empty or 0 in (nearly) all who are never smoker" in caution and "follows = {" in caution
    follows = {"attribute": "smoking", "absent_for": ["never smoker"]}
    assert cautions(cigarettes, follows=follows) == []
    assert cautions(cigarettes, role="ignore") == []


def test_a_second_copy_of_the_studied_attribute_is_told():
    copy = np.repeat([1.0, 2.0, 3.0], 10)
    (caution,) = cautions(copy)
    assert "smoking is known from x in 100% of every level" in caution
    copy[0] = 2.0
    (caution,) = cautions(copy)
    assert "in 90% of every level" in caution


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(60, 10, 30).round(),  # every age once or twice
        np.tile(["f", "m"], 15),
        [f"person {k}" for k in range(30)],
        np.r_[np.full(4, np.nan), np.arange(26.0)],
    ],
)
def test_what_says_something_else_is_not_told(values):
    text = isinstance(values[0], str)
    levels = sorted(set(values)) if text else []
    assert cautions(values, **({"kind": "category", "levels": levels} if text else {})) == []
