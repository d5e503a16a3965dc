"""Sentences and their summary."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from text_helpers import cohort_table, smoking_schema

from dgmvlc_cli.text.cells import MISSING_TEXTS
from dgmvlc_cli.text.cleaning import clean
from dgmvlc_cli.text.describe import (
    _far,
    number_text,
    prompts_table,
    rows_of_prompts,
    sentence,
    summarise,
)
from dgmvlc_cli.text.placebos import add_placebos
from dgmvlc_cli.text.propose import propose_schema

SCHEMA, _ = propose_schema(cohort_table(60))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "Chest CT of a patient."),
        ({"age": 80.0}, "Chest CT of an 80-year-old patient."),
        ({"sex": "female"}, "Chest CT of a woman."),
        ({"age": 63.4, "sex": "male"}, "Chest CT of a 63-year-old man."),
        (
            {
                "age": 63.0,
                "sex": "female",
                "bmi": 27.34,
                "smoking": "former smoker",
                "pack_years": 32.0,
                "quit_year": 2009.0,
                "diagnosis": "COPD",
            },
            "Chest CT of a 63-year-old woman. Body mass index: 27.3 kg/m2. Smoking status: former "
            "smoker. Smoking history: 32 pack-years. Quit smoking in 2009. Diagnosis: COPD.",
        ),
        ({"pack_years": 1.0}, "Chest CT of a patient. Smoking history: 1 pack-year."),
        ({"pack_years": 0.4}, "Chest CT of a patient. Smoking history: 0.4 pack-years."),
    ],
)
def test_a_row_reads_as_english_and_leaves_out_what_is_missing(row: dict, said: str):
    absent = dict.fromkeys(SCHEMA.names()) | {"age": float("nan")}
    assert sentence(absent | row, SCHEMA) == sentence(row, SCHEMA) == said


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"decimals": 1}, "Chest CT of a 17.5-year-old patient."),
        ({"decimals": None, "unit": ""}, "Chest CT of an 18-year-old patient."),
        ({"unit": "months"}, "Chest CT of a patient. Age: 18 months."),
    ],
)
def test_only_an_age_in_years_is_said_in_years_with_its_decimals(update: dict, said: str):
    age = SCHEMA.attributes["age"].model_copy(update=update)
    schema = SCHEMA.model_copy(update={"attributes": {**SCHEMA.attributes, "age": age}})
    assert sentence({"age": 17.5}, schema) == said


def test_numbers_keep_three_significant_digits():
    written = [number_text(x) for x in (0.012345, 1.0, 27.345, 200.655, 12345.6, 0.0, -3.5)]
    assert written == ["0.0123", "1", "27.3", "201", "12346", "0", "-3.5"]


def test_nsclc_has_211_sentences_without_a_sentinel_or_an_outcome(nsclc: pd.DataFrame):
    schema, _ = propose_schema(nsclc)
    cleaned = clean(nsclc, schema)
    prompts = prompts_table(cleaned.rows, schema)
    assert len(prompts) == 211
    sentinel = re.compile(
        r"(?<![\w/])(" + "|".join(re.escape(t) for t in MISSING_TEXTS if len(t) > 2) + r")(?![\w/])"
    )
    for text in prompts["sentence"]:
        assert not sentinel.search(text.lower()), text
        assert not re.search(r"(?i)surviv|death|recurrence|alive", text)
        assert all(":" in c or c[0].isalpha() for c in text.split(". "))
    said = prompts["sentence"].str.contains("pack-year")
    assert not said[prompts["smoking"] == "never smoker"].any()
    assert said.sum() == 155


def test_prompts_survive_being_written_and_read():
    table = cohort_table(20)
    schema, _ = propose_schema(table)
    rows = clean(table, schema).rows
    text = prompts_table(rows, schema).to_csv(sep="\t", index=False)
    read = pd.read_csv(
        io.StringIO(text), sep="\t", dtype=str, keep_default_na=False, na_values=[""]
    )
    pd.testing.assert_frame_equal(rows_of_prompts(read, schema), rows, check_index_type=False)


def test_the_summary_counts_everything_once(nsclc: pd.DataFrame):
    schema, _ = propose_schema(nsclc)
    summary = summarise(clean(nsclc, schema), schema)
    for entry in summary.values():
        parts = [entry[k] for k in ("present", "unknown", "not_applicable", "excluded")]
        assert sum(parts) == entry["n"] == 211
        assert sum(entry["left_out"].values()) == 211 - entry["present"]
    assert summary["smoking"]["levels"]["never smoker"] == 48
    assert summary["pack_years"]["median"] == 37


@pytest.mark.parametrize(
    ("numbers", "far"),
    [
        ([70.0, 75, 80, 90, 777, 888, 888, 999], [777, 888, 999]),  # more than a quarter of all
        ([20.0, 25, 30, 35, 40, -9, -8], [-9, -8]),
        ([2.0, 2.1, 2.5, 3, 3.1, 88, 99], [88, 99]),
        ([70.0, 77, 88, 99, 110, 120], []),
        ([-2.3, -1, 0.4, 1.5, -1], []),  # z-scores
        ([150.0, 300, 450, 777], []),
        ([999.0, 999], []),
    ],
)
def test_codes_among_numbers_are_far_and_hide_each_other_not(numbers: list, far: list):
    assert _far(pd.Series(numbers)) == far


def test_a_template_of_ones_own_replaces_the_wording():
    attributes = dict(smoking_schema().attributes)
    update = {"template": "{label} is {value}."}
    attributes["smoking"] = attributes["smoking"].model_copy(update=update)
    schema = smoking_schema().model_copy(update={"attributes": attributes})
    assert sentence({"smoking": "never smoker"}, schema).endswith("Smoking status is never smoker.")


def test_the_papers_wording_is_that_of_the_paper():
    row = {"age": 76.0, "sex": "female", "smoking": "never smoker", "diagnosis": "IPF"}
    paper = SCHEMA.model_copy(update={"wording": "paper"})
    said = sentence(row, paper)
    assert said == (
        "Lung CT scan: Patient age: 76. Gender: Female. "
        "smoking_status is never smoker, diagnosis is IPF."
    )
    assert sentence({}, paper) == "Lung CT scan."
    placebo = {"placebo_1": {"label": "Box", "words": {"a": "oak"}}}
    with_placebo = add_placebos(paper, placebo, "sex")
    assert sentence({"placebo_1": "oak"}, with_placebo) == "Lung CT scan: Box is oak."
