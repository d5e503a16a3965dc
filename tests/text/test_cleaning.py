"""Cleaning: what is kept, what is unknown, what does not apply, and what contradicts."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError
from text_helpers import smoking_schema, table_of

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.text.cleaning import clean
from dgmvlc_cli.text.columns import Column, seen_in
from dgmvlc_cli.text.describe import sentence
from dgmvlc_cli.text.propose import propose_schema
from dgmvlc_cli.text.schema import Schema, SeveralRows


def test_repeated_and_empty_ids_and_missing_columns_are_named():
    row = {"smoking": "Current", "pack_years": "3"}
    with pytest.raises(DgmvlcError, match="1 ids more than once, in rows that differ: s1"):
        other = {"smoking": "Current", "pack_years": "4"}
        clean(table_of({"subject": "s1", **row}, {"subject": "s1", **other}), smoking_schema())
    with pytest.raises(DgmvlcError, match="in 1 row: "):
        clean(table_of({"subject": "", **row}), smoking_schema())
    with pytest.raises(UsageError, match=r'"subject"\. Did you mean "Subject ID"'):
        clean(table_of({"Subject ID": "s1", **row}), smoking_schema())


@pytest.mark.parametrize(
    ("smoking", "pack_years", "status", "reason"),
    [
        ("Current", "30", "present", None),
        ("Current", "99999", "unknown", "missing code"),
        ("Current", "-1", "unknown", "missing code"),
        ("Current", "Not Recorded In Database", "unknown", "missing code"),
        ("Current", "", "unknown", "empty"),
        ("Current", "N/A", "unknown", "unknown: called not applicable although smoking is current"),
        ("", "N/A", "unknown", "unknown: called not applicable although smoking is unknown"),
        ("Current", "4000", "excluded", "implausible: outside 0 to 300"),
        ("Current", "plenty", "excluded", "not a number"),
        ("Never", "N/A", "not applicable", "not applicable: smoking is never smoker"),
        ("Never", "", "not applicable", "not applicable: smoking is never smoker"),
        ("Never", "0", "not applicable", "not applicable: smoking is never smoker"),
        ("Never", "30", "excluded", "contradiction: smoking is never smoker"),
    ],
)
def test_absence_has_a_status_and_a_reason(
    smoking: str, pack_years: str, status: str, reason: str | None
):
    table = table_of({"subject": "s1", "smoking": smoking, "pack_years": pack_years})
    cleaned = clean(table, smoking_schema())
    found = cleaned.exclusions.query("attribute == 'pack_years'")
    assert cleaned.status.loc["s1", "pack_years"] == status
    assert math.isnan(cleaned.rows.loc["s1", "pack_years"]) == (status != "present")
    assert [r.startswith(reason or "") for r in found["reason"]] == [True] * (reason is not None)
    assert found["raw"].tolist() == [pack_years] * (reason is not None)


def test_an_unknown_level_is_left_out_and_the_nearest_named():
    table = table_of({"subject": "s1", "smoking": "curent smoker", "pack_years": "3"})
    cleaned = clean(table, smoking_schema())
    assert cleaned.rows.loc["s1", "smoking"] is None
    assert cleaned.exclusions["reason"].tolist() == ['unknown level, nearest "current smoker"']


def test_a_declared_level_is_no_missing_code_unless_it_is_declared_as_one():
    attribute = {"column": "x", "kind": "category", "levels": ["-", "+", "Unknown"]}
    rows = [{"id": t, "x": t} for t in ("-", "+", "unknown", "N/A", "?")]
    schema = {"id_column": "id", "attributes": {"x": attribute | {"synonyms": {"n/a": "-"}}}}
    read = clean(table_of(*rows), Schema.model_validate(schema)).rows["x"]
    assert read.tolist() == ["-", "+", "Unknown", "-", None]
    schema["attributes"] = {"x": attribute | {"missing": ["Unknown"]}}
    read = clean(table_of(*rows), Schema.model_validate(schema)).rows["x"]
    assert read.tolist() == ["-", "+", None, None, None]


def test_nsclc_unknown_is_kept_apart_from_not_applicable(nsclc: pd.DataFrame):
    schema, _ = propose_schema(nsclc)
    cleaned = clean(nsclc, schema)
    by_smoking = pd.crosstab(cleaned.rows["smoking"], cleaned.status["quit_year"])
    assert by_smoking.loc["never smoker"].to_dict()["not applicable"] == 48
    assert by_smoking.loc["current smoker"].to_dict()["not applicable"] == 33
    assert by_smoking.loc["former smoker", ["present", "unknown", "excluded"]].tolist() == [
        104,
        22,
        4,
    ]
    assert cleaned.rows["smoking"].value_counts().to_dict() == {
        "former smoker": 130,
        "never smoker": 48,
        "current smoker": 33,
    }


def test_numbers_are_read_at_cleaning_as_they_were_seen_by_init():
    table = table_of(
        {"id": "a", "FEV1 (l)": "2,345", "Leukocytes": "7.500"},
        {"id": "b", "FEV1 (l)": "2,345", "Leukocytes": "12.000"},
        {"id": "b", "FEV1 (l)": "2,4", "Leukocytes": "7.500,5"},  # decides, and is not kept
        *({"id": f"c{k}", "FEV1 (l)": "2,345", "Leukocytes": f"{k}.000"} for k in range(8, 12)),
    )
    schema, notes = propose_schema(table)
    schema = schema.model_copy(update={"several_rows": SeveralRows(keep="first")})
    rows = clean(table, schema).rows
    assert rows["fev1_l"].tolist() == [2.345] * 6
    assert rows["leukocytes"].tolist() == [7500, 12000, 8000, 9000, 10000, 11000]
    assert "7500 to 12000" in notes["Leukocytes"]


def test_a_number_that_nothing_decides_is_told_with_its_reading():
    cells = ("150,000", "151,001", "152,002")
    table = table_of(*({"id": f"s{i}", "Platelets": text} for i, text in enumerate(cells)))
    assert '"150,000" read as 150000' in propose_schema(table)[1]["Platelets"]


def test_a_unit_that_cells_write_is_the_columns():
    bmi = ("27.3 kg/m2", "31 kg/m2", "25", "30 kg/m2", "22 kg/m2")
    mass = ("80 kg", "75 kg", "90 kg", "165 lbs", "60")
    cells = enumerate(zip(bmi, mass, strict=True))
    table = table_of(*({"id": f"s{i}", "BMI": one, "Mass": other} for i, (one, other) in cells))
    schema, _ = propose_schema(table)
    cleaned = clean(table, schema)
    assert cleaned.rows["bmi"].tolist() == [27.3, 31, 25, 30, 22]
    assert schema.attributes["mass"].unit == "kg"
    few = Column("Weight (kg)", pd.Series(["80", "75", "1,234", "165 lbs", "80 kg"]))
    assert few.is_numeric and few.unit == "" and '"1,234" read as 1234' in seen_in(few)
    assert cleaned.exclusions[["raw", "reason"]].values.tolist() == [
        ["165 lbs", "in lbs, expected kg"]
    ]


def visits(**schema: Any) -> tuple[pd.DataFrame, Schema]:
    """Three visits of one subject and one of another, one of them written twice."""
    rows = [
        {"id": "s1", "week": "-4", "date": "2020-01-06", "fvc": "10"},
        {"id": "s1", "week": "1", "date": "2020-02-10", "fvc": "20"},
        {"id": "s1", "week": "1", "date": "2020-02-10", "fvc": "20"},
        {"id": "s1", "week": "30", "date": "2020-09-01", "fvc": "30"},
        {"id": "s2", "week": "", "date": "2020-05-01", "fvc": "40"},
    ]
    table = table_of(*({**row, "scan": "2020-02-03"} for row in rows))
    attributes = {"fvc": {"column": "fvc", "kind": "number"}}
    return table, Schema.model_validate({"id_column": "id", "attributes": attributes, **schema})


@pytest.mark.parametrize(
    ("rule", "fvc"),
    [
        ({"keep": "first"}, 10),
        ({"keep": "last"}, 30),
        ({"keep": "nearest", "by": "week"}, 20),
        ({"keep": "lowest", "by": "week"}, 10),
        ({"keep": "highest", "by": "date"}, 30),
        ({"keep": "nearest", "by": "date"}, 20),
    ],
)
def test_of_several_rows_the_rule_keeps_one_and_the_others_are_listed(rule: dict, fvc: float):
    cleaned = clean(*visits(several_rows=rule, scan_date="scan"))
    assert cleaned.rows["fvc"].to_dict() == {"s1": fvc, "s2": 40}
    assert len(cleaned.dropped) == 3
    same = cleaned.dropped.query("row == 3")
    assert same["reason"].tolist() == ["the same as an earlier row"]


def test_without_a_rule_rows_that_differ_are_refused_and_equal_ones_are_one():
    table, schema = visits()
    with pytest.raises(DgmvlcError, match="rows that differ: s1") as caught:
        clean(table, schema)
    assert "several_rows" in caught.value.hint
    cleaned = clean(table.iloc[1:3], schema)
    assert cleaned.rows["fvc"].to_dict() == {"s1": 20}


@pytest.mark.parametrize("rule", [{"keep": "nearest"}, {"keep": "first", "by": "week"}])
def test_a_rule_names_a_column_where_it_needs_one(rule: dict):
    with pytest.raises(ValidationError, match="by"):
        visits(several_rows=rule)


def test_ids_lose_what_a_program_added_to_all_of_them():
    row = {"smoking": "Never", "pack_years": ""}
    table = table_of({"subject": "1001.0", **row}, {"subject": "1002.0", **row})
    assert list(clean(table, smoking_schema()).rows.index) == ["1001", "1002"]
    files = table_of({"subject": "A_4.nii.gz", **row}, {"subject": "A_5.nii", **row})
    assert list(clean(files, smoking_schema()).rows.index) == ["A_4", "A_5"]
    beside = table_of(*({"subject": one, **row} for one in ("1.0", "10.0", "A7", "1A", "A7.0")))
    assert list(clean(beside, smoking_schema()).rows.index) == ["1", "10", "A7", "1A", "A7.0"]
    mixed = table_of({"subject": "1001.0", **row}, {"subject": "1.5", **row})
    assert list(clean(mixed, smoking_schema()).rows.index) == ["1001.0", "1.5"]


def dated(unit: str = "") -> Schema:
    attributes = {
        "age": {"column": "age", "kind": "number", "unit": "years"},
        "diagnosed": {"column": "diagnosed", "kind": "date", "label": "diagnosed", "unit": unit},
        "quit_year": {"column": "quit", "kind": "number", "plausible": [1900, 2100]},
    }
    return Schema.model_validate({"id_column": "id", "scan_date": "ct", "attributes": attributes})


def dated_row(**cells: str) -> pd.DataFrame:
    row = {"id": "s1", "age": "60", "ct": "2020-01-01", "diagnosed": "2016-12-31", "quit": ""}
    return table_of(row | cells)


def test_a_date_becomes_its_time_before_the_scan():
    rows = clean(dated_row(), dated()).rows
    assert rows.loc["s1", "diagnosed"] == pytest.approx(1096 / 365.25)
    said = sentence(rows.loc["s1"].to_dict(), dated())
    assert said.endswith("Diagnosed: 3.0 years before the scan.")
    in_days = clean(dated_row(diagnosed="2019-12-31"), dated("days")).rows
    assert in_days.loc["s1", "diagnosed"] == 1


def test_dates_are_day_first_where_another_column_of_the_table_is():
    cells = {"ct": "01/03/2019", "diagnosed": "02/06/2018"}
    table = dated_row(**cells).assign(born="15/01/1940")
    assert clean(table, dated("days")).rows.loc["s1", "diagnosed"] == 272
    schema, _ = propose_schema(
        table_of(
            {"id": "s1", "CT date": "01/03/2019", "Onset date": "02/06/2018", "Born": "15/01/1940"},
            {"id": "s2", "CT date": "01/04/2019", "Onset date": "02/12/2018", "Born": "16/01/1940"},
            {"id": "s3", "CT date": "01/02/2019", "Onset date": "12/01/2019", "Born": "17/01/1940"},
        )
    )
    assert schema.attributes["onset_date"].role == "condition"  # month first: one after the scan


@pytest.mark.parametrize(
    ("cells", "attribute", "status", "reason"),
    [
        ({"diagnosed": "2020-01-02"}, "diagnosed", "excluded", "after the scan"),
        ({"ct": "unknown"}, "diagnosed", "unknown", "date of the scan is unknown"),
        ({"diagnosed": "soon"}, "diagnosed", "excluded", "not a date"),
        ({"quit": "2021"}, "quit_year", "excluded", "in 2021, after the scan of 2020"),
        ({"quit": "1965"}, "quit_year", "excluded", "before the age of 10 of someone aged 60"),
        ({"quit": "1950", "age": ""}, "quit_year", "present", None),
        ({"quit": "2021", "ct": ""}, "quit_year", "present", None),
    ],
)
def test_what_cannot_be_at_the_time_of_the_scan_is_left_out(
    cells: dict, attribute: str, status: str, reason: str | None
):
    cleaned = clean(dated_row(**cells), dated())
    assert cleaned.status.loc["s1", attribute] == status
    found = cleaned.exclusions.query("attribute == @attribute")["reason"].tolist()
    assert [reason in text for text in found] == [True] * (reason is not None)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("age", "pack_years", "reason"),
    [
        ("20", "60", "contradiction: 60 pack-years in at most 10 years of smoking"),
        ("20", "50", None),
        ("", "200", None),
        ("8", "1", "contradiction: 1 pack-years in at most 0 years of smoking"),
    ],
)
def test_pack_years_beyond_a_life_are_contradictions(age: str, pack_years: str, reason: str | None):
    ages = {"age": {"column": "age", "kind": "number"}}
    content = smoking_schema().model_dump()
    schema = Schema.model_validate(content | {"attributes": ages | content["attributes"]})
    row = {"subject": "s", "age": age, "smoking": "current", "pack_years": pack_years}
    found = clean(table_of(row), schema).exclusions.query("attribute == 'pack_years'")
    assert found["reason"].tolist() == ([reason] if reason else [])


def test_bands_are_levels_and_not_believed_as_numbers():
    def bands(column: str, *levels: str) -> dict[str, Any]:
        return {"column": column, "kind": "category", "levels": levels}

    attributes = {
        "age": bands("age", "50-59", ">79"),
        "pack_years": {"column": "packs", "kind": "number"},
        "quit_year": {"column": "quit", "kind": "number", "plausible": [1900, 2100]},
    }
    row = {"id": "s", "ct": "2020-01-01", "age": ">79", "packs": "200", "quit": "1930"}
    content = {"id_column": "id", "scan_date": "ct", "attributes": attributes}
    rows = clean(table_of(row), Schema.model_validate(content)).rows
    assert rows.loc["s"].tolist() == [">79", 200, 1930]
    attributes["age"] = {"column": "age", "kind": "number"}
    attributes["pack_years"] = bands("packs", "<10", "10-20")
    rows = clean(table_of(row | {"age": "50", "packs": "<10"}), Schema.model_validate(content)).rows
    assert rows.loc["s", ["age", "pack_years"]].tolist() == [50, "<10"]


def test_a_date_in_the_sentence_needs_the_date_of_the_scan():
    content = dated().model_dump() | {"scan_date": None}
    with pytest.raises(ValidationError, match="name the column of the scan's date"):
        Schema.model_validate(content)


def test_days_written_as_negative_numbers_lose_their_sign_where_the_schema_says_so():
    stop = {"column": "stop", "kind": "number", "unit": "days", "absolute": True, "missing": ["0"]}
    schema = Schema.model_validate({"id_column": "id", "attributes": {"stop": stop}})
    table = table_of(*({"id": t, "stop": t} for t in ("-3650", "-1", "200", "0", "99999")))
    assert clean(table, schema).rows["stop"].dropna().to_dict() == {
        "-3650": 3650,
        "-1": 1,
        "200": 200,
    }
