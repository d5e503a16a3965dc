from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.analysis.contrasts import (
    Contrast,
    at_one_volume,
    cohorts,
    dose,
    encode,
    unique_subjects,
)
from dgmvlc_cli.analysis.outcomes import levels
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


def test_only_covariates_that_entered_are_said_to_be_adjusted_for():
    few, many = ["f"] * 17 + ["m"] * 3, ["x", "y", "y", "x"] * 5
    design = table(smoking=[*SMOKING.levels] * 10, sex=few, site=many, untold=[None] * 20)
    scans = pd.DataFrame({"y": np.arange(20.0)}, index=design.index)
    (cohort,) = cohorts(scans, design, SMOKING, ["sex", "site", "untold"])
    assert (cohort.covariates, cohort.left_out) == (("site",), ("sex", "untold"))
    assert cohort.description.startswith("10 vs 10 subjects, adjusted for site, could not be")
    assert "adjusted for sex, untold: fewer than 5 subjects" in cohort.description
    (cohort,) = cohorts(scans, design, SMOKING, ["sex"])
    assert "unadjusted, could not be adjusted for sex" in cohort.description


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


def test_a_measure_that_is_missing_is_not_taken_for_missing_subjects():
    design = table(smoking=[*SMOKING.levels] * 20, age=np.arange(40.0))
    scans = pd.DataFrame({"y": np.arange(40.0)}, index=design.index)
    scans.loc[design["smoking"] == "never smoker", "y"] = np.nan
    scans.iloc[0] = 1.0
    (cohort,) = cohorts(scans, design, SMOKING, [])
    assert cohort.problem.startswith("1 of 20 subjects at 'never smoker' have this measure, at")
    scans.iloc[2:] = np.nan
    (cohort,) = cohorts(scans, design, Contrast("age", 10, 20), [])
    assert cohort.problem == "fewer than 3 different values of age are known where this measure is"


def test_an_arrow_in_a_level_does_not_part_the_contrast_there():
    contrast = Contrast("stage", "<5 -> 10", "II: -> x")
    assert levels(contrast.text) == contrast.levels == ("<5 → 10", "II: → x")
    assert contrast.arms == ("stage=<5 → 10", "stage=II: → x")


def test_a_subject_listed_twice_is_refused():
    twice = table(age=[1.0, 2.0]).set_axis(["s1", "s1"])
    with pytest.raises(DgmvlcError, match="'s1'"):
        unique_subjects(twice)


def problem_of(design: pd.DataFrame, contrast: Contrast, covariates: list[str]) -> str:
    scans = pd.DataFrame({"y": 1.0}, index=design.index)
    (cohort,) = cohorts(scans, design, contrast, covariates)
    return cohort.problem


@pytest.mark.parametrize(
    ("crossing", "said"),
    [(0, "the covariates determine smoking"), (1, "is one subject's"), (6, "")],
)
def test_groups_that_a_covariate_tells_apart_are_not_compared(crossing, said):
    """A site of smokers and one of others, but for a few."""
    smoking = [*SMOKING.levels] * 30
    site = ["a" if one == "never smoker" else "b" for one in smoking]
    site[:crossing] = ["a" if one == "b" else "b" for one in site[:crossing]]
    found = problem_of(table(smoking=smoking, site=site), SMOKING, ["site"])
    assert said in found and bool(found) == bool(said)


def test_a_number_that_hardly_anybody_has_tells_nothing():
    values = [0.0] * 50 + [20.0, 22.0, 24.0, 26.0]
    step = Contrast("pack_years", 0, 20)
    assert "all but 4 subjects have one value" in problem_of(table(pack_years=values), step, [])
    more = table(pack_years=[*values, 23.0])
    assert not problem_of(more, step, [])
    assert encode(table(pack_years=values), ["pack_years"]).empty
    assert list(encode(more, ["pack_years"])) == ["pack_years"]


def test_all_outcomes_but_volume_are_compared_at_one_volume():
    scans = pd.DataFrame(
        [[-850.0, 5000.0, 2500.0], [-800.0, 4000.0, 2000.0]],
        index=["s00", "s01"],
        columns=pd.MultiIndex.from_tuples(
            [("mean_hu", "lungs"), ("volume_ml", "lungs"), ("volume_ml", "upper")]
        ),
    )
    design = table(age=[60.0, 70.0, 80.0])
    volume = scans["volume_ml", "lungs"]
    volumes, density = at_one_volume(scans, volume, design, ["age"])
    assert list(volumes[0]) == [("volume_ml", "lungs"), ("volume_ml", "upper")]
    assert volumes[2] == ("age",)
    assert list(density[0]) == [("mean_hu", "lungs")]
    assert density[2] == ("age", "log lung volume")
    known = density[1]["log lung volume"]
    assert np.exp(known[["s00", "s01"]]).tolist() == pytest.approx([5000, 4000])
    assert np.isnan(known["s02"])
    for _, unchanged, adjusted in at_one_volume(scans, None, design, ["age"]):
        assert unchanged is design and adjusted == ("age",)
