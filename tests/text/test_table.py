"""Reading tables: every delimiter and encoding, xlsx and parquet, and what cannot be read."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pytest

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.text import table as reading
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
