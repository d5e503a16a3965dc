"""Reading tables: every delimiter and encoding, xlsx and parquet, and what cannot be read."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pytest

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.text import table as reading
from dgmvlc_cli.text.cleaning import check_column
from dgmvlc_cli.text.table import read_table


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
        ("subject\x00age\n", "no table that can be read"),
        ("\xd0\xcf\x11\xe0", "old Excel file"),
        ("<html><body><table><tr><td>subject</td></tr>", "web page"),
        ("\xef\xbb\xbf\n<!DOCTYPE html>", "web page"),
        ("<?xml version='1.0'?>", "web page"),
        ("{\\rtf1 subject}", "RTF"),
        ("%PDF-1.4", "a PDF"),
        ("Cohort 2020,,,\nsubject,age,sex,smoking\ns1,60,f,never\n", "names 1 of 4 columns"),
        ("Who,,,Smoking,\nsubject,age,sex,status,dose\ns1,60,f,never,\n", "second looks like"),
        ("Cohort 2020\nsubject,age\ns1,60\n", "remove what stands above the header"),
        ('subject,note\ns1,"' + "x" * 2_000_000, "never closed"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, content: str, message: str):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DgmvlcError) as caught:
        read_table(path)
    assert message in caught.value.message + caught.value.hint


def test_an_absent_file_names_the_nearest(tmp_path: Path):
    (tmp_path / "clinical.csv").touch()
    with pytest.raises(DgmvlcError) as caught:
        read_table(tmp_path / "clincal.csv")
    assert "clinical.csv" in caught.value.hint


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("shift-jis", "患者ID,性別,喫煙歴"),
        ("gbk", "Patient ID,性别,吸烟"),
        ("cp1251", "id,Курение,Пол"),
    ],
)
def test_letters_of_other_scripts_are_not_read_as_latin(tmp_path: Path, encoding: str, text: str):
    path = tmp_path / "t.csv"
    path.write_bytes(f"{text}\n".encode(encoding) + b"s1,60,2\n")
    with pytest.raises(DgmvlcError, match="line 1: neither UTF-8 nor") as caught:
        read_table(path)
    assert "CSV (UTF-8)" in caught.value.hint
    latin = "Größe,créée,Ñandú"
    path.write_bytes(f"{latin}\n1,2,3\n".encode("cp1252"))
    assert list(read_table(path)) == latin.split(",")


@pytest.mark.parametrize("line", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_a_first_line_that_names_the_delimiter_is_obeyed(tmp_path: Path, line: str):
    path = tmp_path / "t.csv"
    path.write_bytes(f"{line}subject;age, sex\ns1;60, f\n".encode())
    assert read_table(path).to_dict("list") == {"subject": ["s1"], "age, sex": ["60, f"]}


def test_a_header_with_few_unnamed_columns_is_one(tmp_path: Path):
    path = tmp_path / "t.csv"
    for content in (",sex\ns1,f\n", "subject,,\ns1,60,2\n"):
        path.write_text(content)
        assert len(read_table(path)) == 1


def test_lines_of_two_encodings_are_each_read_in_theirs(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes("subject,name\ns1,Sjögren\n".encode() + "s2,Löfgren\n".encode("cp1252"))
    assert read_table(path)["name"].tolist() == ["Sjögren", "Löfgren"]


TYPED = {
    "subject": ["001", "002", "003"],
    "age": [63, None, 70],
    "bmi": [27.5, 31.0, None],
    "scan": [datetime(2020, 3, 4), datetime(2021, 1, 2, 10, 30), None],
}
TEXTS = {
    "subject": ["001", "002", "003"],
    "age": ["63", "", "70"],
    "bmi": ["27.5", "31", ""],
    "scan": ["2020-03-04", "2021-01-02 10:30:00", ""],
}


def test_parquet_gives_the_texts_of_a_text_table(tmp_path: Path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    pd.DataFrame(TYPED).set_index("subject").to_parquet(path)
    assert read_table(path).to_dict("list") == TEXTS


def test_xlsx_gives_the_texts_of_a_text_table_from_the_sheet_asked_for(tmp_path: Path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "t.xlsx"
    with pd.ExcelWriter(path) as writer:
        pd.DataFrame().to_excel(writer, sheet_name="cover", index=False)
        pd.DataFrame(TYPED).to_excel(writer, sheet_name="patients", index=False)
        pd.DataFrame({"id": ["x"], "unused": [date(2020, 1, 1)]}).to_excel(
            writer, sheet_name="other", index=False
        )
    assert read_table(path).to_dict("list") == TEXTS
    assert read_table(path, "other").to_dict("list") == {"id": ["x"], "unused": ["2020-01-01"]}
    with pytest.raises(UsageError, match='Did you mean "patients"'):
        read_table(path, "patient")


def test_a_sheet_of_notes_is_no_table_and_other_sheets_are_named(tmp_path: Path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "t.xlsx"
    with pd.ExcelWriter(path) as writer:
        pd.DataFrame({"Codebook": ["Age: at CT"]}).to_excel(
            writer, sheet_name="readme", index=False
        )
        pd.DataFrame(TYPED).to_excel(writer, sheet_name="patients", index=False)
    table = read_table(path)
    assert table.to_dict("list") == TEXTS
    with pytest.raises(UsageError) as caught:
        check_column("Patient ID", table)
    assert "`sheet` under [table]: readme" in caught.value.hint


@pytest.mark.parametrize(("package", "magic"), [("openpyxl", b"PK\x03\x04"), ("pyarrow", b"PAR1")])
def test_a_damaged_file_is_said_and_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, magic: bytes
):
    path = tmp_path / "t.bin"
    path.write_bytes(magic + b"nonsense")
    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DgmvlcError, match=f"needs the package {package}") as caught:
        read_table(path)
    assert "dgmvlc[tables]" in caught.value.hint
    monkeypatch.undo()
    pytest.importorskip(package)
    with pytest.raises(DgmvlcError, match="cannot be read as a table"):
        read_table(path)
