"""Edits of a row: coherent bundles, and refusals that help."""

from __future__ import annotations

import tomllib
from itertools import permutations

import pandas as pd
import pytest
from text_helpers import cohort_table, smoking_schema

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.pairs import arm_sentences
from dgmvlc_cli.text.cleaning import clean
from dgmvlc_cli.text.describe import is_absent, sentence
from dgmvlc_cli.text.edits import (
    ContradictionError,
    beyond,
    bracketed,
    bundle_values,
    changes,
    edit_notes,
    edit_row,
    level_name,
)
from dgmvlc_cli.text.placebos import add_placebos, make_placebos
from dgmvlc_cli.text.propose import propose_schema
from dgmvlc_cli.text.schema import Schema, schema_toml

LEVELS = ("never smoker", "former smoker", "current smoker")
TABLE = cohort_table(60)
SCHEMA, _ = propose_schema(TABLE)
ROWS = clean(TABLE, SCHEMA).rows


def first(level: str) -> dict:
    return ROWS[ROWS["smoking"] == level].iloc[0].to_dict()


@pytest.mark.parametrize(("old", "new"), list(permutations(LEVELS, 2)))
def test_every_direction_carries_its_bundle(old: str, new: str):
    row = first(old)
    edited = edit_row(row, {"smoking": new}, SCHEMA, ROWS)
    assert edited["smoking"] == new
    assert is_absent(edited["pack_years"]) == (new == "never smoker")
    assert is_absent(edited["quit_year"]) == (new != "former smoker")
    if "never smoker" not in (old, new):
        assert edited["pack_years"] == row["pack_years"]
    if old == "never smoker":
        assert edited["pack_years"] == ROWS[ROWS["smoking"] == new]["pack_years"].median()
    held = {"age", "sex", "bmi", "diagnosis"}
    assert not held & changes(row, edited).keys()


def test_nsclc_every_edit_gives_every_subject_a_coherent_sentence(nsclc: pd.DataFrame):
    schema, _ = propose_schema(nsclc)
    rows = clean(nsclc, schema).rows
    for row in rows.to_dict("records"):
        for level in LEVELS:
            said = sentence(edit_row(row, {"smoking": level}, schema, rows), schema)
            assert f"Smoking status: {level}." in said
            assert level != "never smoker" or "pack-year" not in said
            assert level == "former smoker" or "Quit smoking" not in said


def test_nsclc_all_six_directed_edits_are_coherent_for_all_subjects(nsclc: pd.DataFrame):
    schema, _ = propose_schema(nsclc)
    cleaned = clean(nsclc, schema)
    edits = 0
    for subject, row in cleaned.rows.iterrows():
        values = {str(name): value for name, value in row.items()}
        for level in set(LEVELS) - {values["smoking"]}:
            year = float(cleaned.scan_years[subject])
            edited = edit_row(values, {"smoking": level}, schema, cleaned.rows, scan_year=year)
            moved = changes(values, edited).keys()
            assert "smoking" in moved <= {"smoking", "pack_years", "quit_year"}
            edits += 1
    assert edits == 2 * 211


def test_an_edit_to_the_level_one_has_changes_nothing():
    for level in LEVELS:
        assert changes(first(level), edit_row(first(level), {"smoking": level}, SCHEMA, ROWS)) == {}


def test_what_is_unknown_of_a_smoker_stays_unknown():
    row = first("current smoker") | {"pack_years": float("nan")}
    edited = edit_row(row, {"smoking": "former smoker"}, SCHEMA, ROWS)
    assert is_absent(edited["pack_years"])
    assert (
        edited["quit_year"] == bundle_values(SCHEMA, "smoking", "former smoker", ROWS)["quit_year"]
    )


def declaring(appears: dict[str, float | str]) -> Schema:
    """The schema with declared pack-years for levels of smoking."""
    content = SCHEMA.model_dump()
    content["attributes"]["pack_years"]["follows"]["appears"] = appears
    return Schema.model_validate(content)


def test_a_declared_value_is_what_newly_appears_and_nothing_else():
    schema = declaring({"current smoker": 20})
    row = first("never smoker")
    to_current = edit_row(row, {"smoking": "current smoker"}, schema, ROWS)
    assert to_current["pack_years"] == 20
    note = edit_notes(row, to_current, {"smoking": "current smoker"}, schema, ROWS)[1]
    assert note.startswith("pack_years: appears as 20, declared")
    to_former = edit_row(row, {"smoking": "former smoker"}, schema, ROWS)
    assert to_former == edit_row(row, {"smoking": "former smoker"}, SCHEMA, ROWS)
    kept = edit_row(first("former smoker"), {"smoking": "current smoker"}, schema, ROWS)
    assert kept["pack_years"] == first("former smoker")["pack_years"]
    by_hand = {"smoking": "current smoker", "pack_years": "30"}
    assert edit_row(row, by_hand, schema, ROWS)["pack_years"] == 30


def test_a_declared_value_survives_dgmvlc_toml():
    schema = declaring({"current smoker": 20, "former smoker": 15.5})
    assert Schema.model_validate(tomllib.loads(schema_toml(schema, {}))["schema"]) == schema


@pytest.mark.parametrize(
    ("appears", "message"),
    [
        ({"never smoker": 5}, "cannot appear with"),
        ({"chain smoker": 5}, "cannot appear with"),
        ({"current smoker": 5000}, "no value of it"),
        ({"current smoker": "many"}, "no value of it"),
    ],
)
def test_a_declared_value_must_be_possible(appears: dict, message: str):
    with pytest.raises(ValueError, match=message):
        declaring(appears)


def test_a_value_set_by_hand_wins_over_the_bundle():
    edits = {"smoking": "Current", "pack_years": "20"}
    assert edit_row(first("never smoker"), edits, SCHEMA, ROWS)["pack_years"] == 20


def test_an_edit_that_contradicts_the_row_is_refused_with_the_reason():
    with pytest.raises(ContradictionError, match="smoking is never smoker"):
        edit_row(first("never smoker"), {"pack_years": 20}, SCHEMA, ROWS)


@pytest.mark.parametrize(
    ("edits", "message", "hint"),
    [
        ({"smokin": "never"}, 'Did you mean "smoking"', "age, sex"),
        ({"smoking": "curent smoker"}, 'Did you mean "current smoker"', "never smoker, former"),
        ({"age": "old"}, "age is a number", "years"),
        ({"age": 300}, "not plausible", "0 to 120"),
        ({"scan_date": "2020-01-01"}, "not said in the sentence", "smoking"),
    ],
)
def test_a_wrong_name_level_or_number_is_explained(edits: dict, message: str, hint: str):
    with pytest.raises(UsageError) as caught:
        edit_row(first("never smoker"), edits, SCHEMA, ROWS)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_level_names_are_found_in_any_case_and_by_their_beginning():
    assert level_name(SCHEMA, "smoking", " NEVER  Smoker") == "never smoker"
    assert level_name(SCHEMA, "smoking", "Current") == "current smoker"
    with pytest.raises(UsageError, match='unknown level of smoking: "n/a"'):
        level_name(SCHEMA, "smoking", "n/a")


def test_a_placebo_edit_changes_only_the_placebos_word():
    placebos, records = make_placebos(ROWS["smoking"], 2, seed=1)
    schema = add_placebos(SCHEMA, records, "smoking")
    rows = ROWS.join(placebos)
    row = rows.iloc[0].to_dict()
    words = records["placebo_1"]["words"]
    other = next(word for word in words.values() if word != row["placebo_1"])
    edited = edit_row(row, {"placebo_1": other.upper()}, schema, rows)
    assert changes(row, edited) == {"placebo_1": (row["placebo_1"], other)}
    assert sentence(edited, schema) == sentence(row, schema).replace(row["placebo_1"], other)


def test_a_year_that_cannot_be_is_refused_where_the_scan_has_a_date():
    row = first("former smoker") | {"age": 60.0, "quit_year": 2000.0}
    assert edit_row(row, {"quit_year": 2030}, SCHEMA, ROWS)["quit_year"] == 2030
    with pytest.raises(ContradictionError, match="in 2030, after the scan of 2020"):
        edit_row(row, {"quit_year": 2030}, SCHEMA, ROWS, scan_year=2020)
    with pytest.raises(ContradictionError, match="before the age of 10 of someone aged 25"):
        edit_row(row, {"age": 25}, SCHEMA, ROWS, scan_year=2020)
    assert edit_row(row, {"age": 50}, SCHEMA, ROWS, scan_year=2020)["age"] == 50


def test_ages_and_pack_years_in_bands_contradict_no_year():
    bands = {"column": "a", "kind": "category", "levels": ["50-59", "60-69"]}
    packs = {"column": "p", "kind": "category", "levels": ["<10", ">10"]}
    year = {"column": "q", "kind": "number", "plausible": [1900, 2100]}
    attributes = {"age": bands, "pack_years": packs, "quit_year": year}
    schema = Schema.model_validate({"id_column": "id", "attributes": attributes})
    row = {"age": "50-59", "pack_years": "<10", "quit_year": 2001.0}
    rows = pd.DataFrame([row])
    edited = edit_row(row, {"age": "60-69", "quit_year": 1999}, schema, rows, scan_year=2010)
    assert (edited["age"], edited["quit_year"]) == ("60-69", 1999)


def test_pack_years_that_nobody_can_have_smoked_are_refused_or_warned_of():
    young = first("never smoker") | {"age": 25.0}
    edits = {"smoking": "former smoker", "quit_year": 2007, "pack_years": 40}
    with pytest.raises(ContradictionError, match="40 pack-years in at most 2 years of smoking"):
        edit_row(young, edits, SCHEMA, ROWS, scan_year=2020)
    typical = {"smoking": "current smoker"}
    edited = edit_row(young | {"age": 12.0}, typical, SCHEMA, ROWS, scan_year=2020)
    notes = edit_notes(young, edited, typical, SCHEMA, ROWS, scan_year=2020)
    assert notes[-1].startswith("WARNING") and "in at most 2 years of smoking" in notes[-1]
    older = edit_row(young | {"age": 60.0}, typical, SCHEMA, ROWS, scan_year=2020)
    assert "WARNING" not in edit_notes(young, older, typical, SCHEMA, ROWS, scan_year=2020)[-1]


def test_a_number_that_nobody_has_is_warned_of():
    rows = pd.DataFrame({"age": [48.0, 70.0, None]})
    assert beyond("age", 48.0, rows) is None
    assert beyond("age", None, rows) is None
    assert beyond("age", 119.0, rows) == (
        "age 119 lies outside what the cohort has (48 to 70): no generator has heard of it"
    )


def test_the_difference_of_two_sentences_is_in_brackets():
    before = "A 60-year-old man. Smoking status: never smoker. Diagnosis: COPD."
    after = "A 60-year-old man. Smoking status: current smoker. History: 9. Diagnosis: COPD."
    assert bracketed(before, after) == (
        "A 60-year-old man. Smoking status: [never] smoker. Diagnosis: COPD.",
        "A 60-year-old man. Smoking status: [current] smoker. [History: 9.] Diagnosis: COPD.",
    )
    assert bracketed(before, before) == (before, before)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("never smoker", "current smoker", ["pack_years: appears as", "quit_year: not applicable"]),
        ("current smoker", "never smoker", ["pack_years: 30 -> not applicable", "quit_year: not"]),
        ("current smoker", "former smoker", ["pack_years: 30, kept", "quit_year: appears as"]),
    ],
)
def test_what_comes_of_each_attribute_is_said(old: str, new: str, said: list[str]):
    row = first(old) | ({"pack_years": 30.0} if old != "never smoker" else {})
    edits = {"smoking": new}
    notes = edit_notes(row, edit_row(row, edits, SCHEMA, ROWS), edits, SCHEMA, ROWS)
    assert notes[0] == f"smoking: {old} -> {new}"
    assert all(note.startswith(start) for note, start in zip(notes[1:], said, strict=True)), notes
    for note in notes:
        if "appears" in note:
            name = note.split(":")[0]
            n = int(ROWS.loc[ROWS["smoking"] == new, name].notna().sum())
            assert f"the cohort's median where smoking is {new} (n = {n})" in note


def test_a_value_set_by_hand_is_said_as_set():
    row, edits = first("never smoker"), {"smoking": "current smoker", "pack_years": "20"}
    notes = edit_notes(row, edit_row(row, edits, SCHEMA, ROWS), edits, SCHEMA, ROWS)
    assert "pack_years: unknown -> 20" in notes


def test_an_arm_is_the_same_whatever_the_subject_itself_was():
    """Nobody who smokes has a year of quitting, so that no arm of smoking keeps one either."""
    content = smoking_schema().model_dump(mode="json")
    content["attributes"]["quit_year"] = {
        "column": "quit_year",
        "kind": "number",
        "label": "year of quitting",
        "decimals": 0,
        "follows": {"attribute": "smoking", "absent_for": ["never smoker"]},
    }
    schema = Schema.model_validate(content)
    rows = pd.DataFrame(
        {
            "smoking": ["never smoker", "former smoker", "current smoker"],
            "pack_years": [None, 20.0, 30.0],
            "quit_year": [None, 2009.0, None],
        },
        index=["a", "b", "c"],
        dtype=object,
    )
    contrast = Contrast("smoking", "never smoker", "current smoker")
    never, former = (
        arm_sentences({str(k): v for k, v in rows.loc[one].items()}, contrast, schema, rows)[1]
        for one in "ab"
    )
    assert "30 pack-years" in former and "2009" not in former
    assert never == former
