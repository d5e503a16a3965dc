from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.analysis.contrasts import Contrast, cohorts, dose, encode, unique_subjects
from dgmvlc_cli.errors import DgmvlcError, UsageError

SMOKING = Contrast("smoking", "never smoker", "current smoker")


def table(**columns) -> pd.DataFrame:
    length = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"s{i:02d}" for i in range(length)])


def test_a_contrast_names_itself_and_its_arms():
    assert SMOKING.text == "smoking: never smoker -> current smoker"
    assert SMOKING.arms == ("smoking=never smoker", "smoking=current smoker")
    age = Contrast("age", 45.0, 75)
    assert age.text == "age: 45 -> 75"
    assert age.arms == ("age=45", "age=75")
    assert age.numeric and not SMOKING.numeric


def test_a_contrast_of_one_level_is_refused():
    with pytest.raises(UsageError, match="itself"):
        Contrast("sex", "male", "male")


def test_dose_keeps_the_two_levels_only():
    levels = ["current smoker", "former smoker", None, "never smoker"]
    assert dose(table(smoking=levels), SMOKING).to_dict() == {"s00": 1.0, "s03": 0.0}


def test_dose_of_a_number_is_in_steps_of_the_contrast():
    got = dose(table(age=[45.0, 75.0, np.nan, 90.0]), Contrast("age", 45, 75))
    assert got.to_dict() == {"s00": 0.0, "s01": 1.0, "s03": 1.5}


def test_an_unknown_attribute_lists_the_known_ones():
    with pytest.raises(UsageError, match="smoking") as raised:
        dose(table(age=[1.0]), SMOKING)
    assert "age" in raised.value.hint


def test_encoded_columns_are_standardised_and_complete():
    values = [1.0, 2.0, 3.0, np.nan] * 5
    encoded = encode(table(age=values, sex=["f", "m"] * 10), ["age", "sex"])
    assert list(encoded) == ["age", "age missing", "sex=m"]
    assert encoded.mean().abs().max() < 1e-12
    assert np.allclose(encoded.std(ddof=0), 1)
    missing = encoded["age missing"] > 0
    assert np.allclose(encoded.loc[missing, "age"], 0)


def test_a_missing_level_counts_as_the_most_frequent_one():
    encoded = encode(table(site=["a"] * 9 + ["b"] * 6 + [None] * 2), ["site"])
    assert list(encoded) == ["site=b"]
    assert encoded["site=b"].iloc[-1] == encoded["site=b"].iloc[0]


def test_rare_levels_are_pooled():
    encoded = encode(table(site=["a"] * 9 + ["b"] * 6 + ["c"] * 3 + ["d"] * 3), ["site"])
    assert list(encoded) == ["site=b", "site=(other)"]
    assert (encoded["site=(other)"] > 0).sum() == 6


def test_constant_and_dependent_columns_are_left_out():
    age = np.arange(10.0)
    encoded = encode(table(age=age, months=12 * age, one=np.ones(10)), ["age", "months", "one"])
    assert list(encoded) == ["age"]


def test_a_cohort_leaves_its_own_attribute_out_of_the_covariates():
    design = table(smoking=["never smoker", "current smoker"] * 10, age=np.arange(20.0))
    scans = pd.DataFrame({("mean_hu", "lungs"): np.arange(20.0)}, index=design.index)
    (cohort,) = cohorts(scans, design, SMOKING, ["age", "smoking"])
    assert list(cohort.x) == ["age"]
    assert cohort.problem == ""
    assert cohort.description == "10 vs 10 subjects, adjusted for age"


def test_outcomes_with_the_same_subjects_share_a_cohort():
    design = table(smoking=["never smoker", "current smoker"] * 10)
    scans = pd.DataFrame(np.ones((20, 3)), design.index)
    scans.columns = pd.MultiIndex.from_tuples([("a", "lungs"), ("b", "lungs"), ("c", "lungs")])
    scans.iloc[0, 1] = np.nan
    by_size = {cohort.n: cohort.outcomes for cohort in cohorts(scans, design, SMOKING, [])}
    assert by_size == {20: [("a", "lungs"), ("c", "lungs")], 19: [("b", "lungs")]}


def test_groups_that_are_too_small_say_so():
    design = table(smoking=["never smoker"] * 18 + ["current smoker"] * 2)
    scans = pd.DataFrame({("mean_hu", "lungs"): np.arange(20.0)}, index=design.index)
    (cohort,) = cohorts(scans, design, SMOKING, [])
    assert "2 subjects at 'current smoker'" in cohort.problem


def test_a_subject_listed_twice_is_refused():
    twice = table(age=[1.0, 2.0]).set_axis(["s1", "s1"])
    with pytest.raises(DgmvlcError, match="'s1'"):
        unique_subjects(twice)
