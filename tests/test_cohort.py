import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.cohort import (
    Cohort,
    Question,
    as_of_now,
    asked_contrasts,
    assign_folds,
    choose_contrast,
    placebo_contrasts,
)
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.text.schema import Attribute, Schema

LEVELS = ("never smoker", "former smoker", "current smoker")


def schema() -> Schema:
    return Schema(
        id_column="subject",
        attributes={
            "age": Attribute(column="age", kind="number"),
            "smoking": Attribute(column="smoking", kind="category", levels=LEVELS),
        },
    )


def rows(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    smoking = rng.choice(LEVELS, n)
    return pd.DataFrame(
        {"age": rng.uniform(40, 80, n), "smoking": smoking}, index=[f"s{i}" for i in range(n)]
    )


@pytest.mark.parametrize("folds", [2, 3])
def test_folds_are_balanced_within_every_level(folds):
    table = rows()
    assigned = assign_folds(table, "smoking", folds, seed=0)
    assert list(assigned.index) == list(table.index)
    counts = pd.crosstab(table["smoking"], assigned)
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1


def test_folds_depend_on_the_seed_and_a_number_can_be_studied():
    table = rows()
    one, other = (assign_folds(table, "age", 2, seed) for seed in (0, 1))
    assert not one.equals(other)
    halves = table["age"].groupby(one).median()
    assert abs(halves[0] - halves[1]) < 6


def test_too_few_subjects_are_refused():
    with pytest.raises(DgmvlcError, match="too few"):
        assign_folds(rows(7), "smoking", 2, seed=0)


def test_unnamed_levels_are_the_first_and_the_last():
    assert choose_contrast(schema(), "smoking", None, None) == Contrast("smoking", *LEVELS[::2])
    named = choose_contrast(schema(), "smoking", "Former Smoker", None)
    assert named == Contrast("smoking", "former smoker", "current smoker")


def test_a_number_needs_two_values():
    with pytest.raises(UsageError, match="two values"):
        choose_contrast(schema(), "age", "50", None)
    assert choose_contrast(schema(), "age", "50", "70") == Contrast("age", 50.0, 70.0)


def test_a_placebo_takes_the_same_step_in_its_own_words():
    cohort = Cohort(
        schema=schema(),
        rows=rows(),
        sentences=pd.Series(dtype=str),
        scans=pd.DataFrame(index=rows().index),
        studied="smoking",
        words={"placebo_1": dict(zip(LEVELS, ("birch", "maple", "cedar"), strict=True))},
    )
    contrast = Contrast("smoking", "never smoker", "current smoker")
    assert placebo_contrasts(contrast, cohort) == [Contrast("placebo_1", "birch", "cedar")]
    assert placebo_contrasts(Contrast("age", 50.0, 70.0), cohort) == []


def test_a_value_that_is_given_twice_is_refused_by_name():
    cohort = Cohort(
        schema=schema(),
        rows=rows(),
        sentences=pd.Series(dtype=str),
        scans=pd.DataFrame(index=rows().index),
        studied="smoking",
        words={},
    )
    settings = Settings.model_validate({"scans": {"path": "scans"}})
    for attribute, values, twice in (
        ("smoking", ("never smoker", "current smoker", "Current Smoker"), "current smoker"),
        ("age", ("45", "55", "45.0"), "45"),
    ):
        question = Question(attribute=attribute, values=values)
        with pytest.raises(UsageError, match=f"'{twice}' is given twice"):
            asked_contrasts(settings, cohort, question)


def test_a_record_from_before_a_key_existed_counts_as_the_same():
    now = schema().model_dump(mode="json")
    older = {key: value for key, value in now.items() if key in ("id_column", "attributes")}
    assert as_of_now({"schema": older, "table_sha256": "x"}) == {"schema": now, "table_sha256": "x"}
    other = {"schema": {**older, "id_column": "id"}}
    assert as_of_now(other)["schema"] != now
    assert as_of_now({}) == {}
    assert as_of_now({"schema": {"unknown": 1}}) == {"schema": {"unknown": 1}}
