"""Reading and cleaning: what is kept, what is unknown, what does not apply."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from text_helpers import smoking_schema, table_of

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.text.propose import propose_schema
from dgmvlc_cli.text.table import clean, parse_number, read_table


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_delimiter_and_encoding_are_detected(tmp_path: Path, delimiter: str, encoding: str):
    rows = [["subject", "diagnosis "], ["s1", "Sjögren"], ["s2", "none"]]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(delimiter.join(row) for row in rows), encoding=encoding)
    table = read_table(path)
    assert table.to_dict("list") == {"subject": ["s1", "s2"], "diagnosis": ["Sjögren", "none"]}


def test_quoted_line_breaks_and_delimiters_stay_in_their_cell(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text('subject,note\ns1,"a, b\nc"\n')
    assert read_table(path)["note"].tolist() == ["a, b\nc"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("subject,age\n", "no rows"),
        ("subject,age\ns1,60,7\n", "line 2: 3 fields, but the header has 2"),
        ("subject,age,age\ns1,60,7\n", "same name: age"),
        ("PK\x03\x04", "not a text table"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, content: str, message: str):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DgmvlcError, match=message):
        read_table(path)


def test_an_absent_file_names_the_nearest(tmp_path: Path):
    (tmp_path / "clinical.csv").touch()
    with pytest.raises(DgmvlcError) as caught:
        read_table(tmp_path / "clincal.csv")
    assert "clinical.csv" in caught.value.hint


def test_repeated_and_empty_ids_and_missing_columns_are_named():
    row = {"smoking": "Current", "pack_years": "3"}
    with pytest.raises(DgmvlcError, match="1 ids more than once: s1"):
        clean(table_of({"subject": "s1", **row}, {"subject": "s1", **row}), smoking_schema())
    with pytest.raises(DgmvlcError, match="1 rows have no id"):
        clean(table_of({"subject": "", **row}), smoking_schema())
    with pytest.raises(UsageError, match=r'"subject"\. Did you mean "Subject ID"'):
        clean(table_of({"Subject ID": "s1", **row}), smoking_schema())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("63", 63),
        ("063Y", 63),
        ("1,234.5", 1234.5),
        ("27,3", 27.3),
        ("45 %", 45),
        ("-1e2", -100),
        ("30 pack-years", 30),
        ("1.2.3", None),
        ("twelve", None),
        ("inf", None),
        ("12/3", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, number: float | None):
    assert parse_number(text, "pack-years") == number


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


def test_nsclc_unknown_is_kept_apart_from_not_applicable(nsclc: pd.DataFrame):
    schema, _ = propose_schema(nsclc)
    cleaned = clean(nsclc, schema)
    by_smoking = pd.crosstab(cleaned.rows["smoking"], cleaned.status["quit_year"])
    assert by_smoking.loc["never smoker"].to_dict()["not applicable"] == 48
    assert by_smoking.loc["current smoker"].to_dict()["not applicable"] == 33
    assert by_smoking.loc["former smoker", ["present", "unknown"]].tolist() == [108, 22]
    assert cleaned.rows["smoking"].value_counts().to_dict() == {
        "former smoker": 130,
        "never smoker": 48,
        "current smoker": 33,
    }
