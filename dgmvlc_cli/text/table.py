"""Read a clinical table as text cells: csv or tsv, xlsx, parquet."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pandas as pd

from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text.cells import parse_number
from dgmvlc_cli.text.schema import nearest, unknown_name

DELIMITERS = (",", "\t", ";", "|")
# First bytes of a file, which tell more than its name.
ZIP, PARQUET = b"PK\x03\x04", b"PAR1"
NO_TABLES = {
    rb"\xd0\xcf\x11\xe0": "an old Excel file",
    rb"(\xef\xbb\xbf)?\s*<(!|\?|html|head|meta|body|table|div|style)": "a web page (HTML or XML)",
    rb"\s*\{\\rtf": "a document of a word processor (RTF)",
    rb"%PDF": "a PDF",
    rb"\x1f\x8b": "compressed (gzip)",
}
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[ \t]*(\r\n|\r|\n)', re.IGNORECASE)
# No word of a language of Windows' Latin has four letters beyond ASCII in a row.
OTHER_SCRIPT = re.compile(rb"[\xa1-\xff]{4}")
LISTED = 6  # cells in an error message
CELL_LIMIT = 1 << 20  # characters; a longer cell is a quote that was never closed


def read_table(path: str | Path, sheet: str | None = None) -> pd.DataFrame:
    """A table as text cells, stripped: csv or tsv (any delimiter of , ; tab |; UTF-8, UTF-16
    or Windows' Latin), xlsx or parquet.

    Column names are stripped too; an unnamed column is called `column <n>`.  A first line `sep=;`
    of a text is obeyed.  sheet: of an xlsx file; unset takes the first of several columns, else
    the first that is not empty, and `attrs` of the table names the others.  Dates come as
    YYYY-MM-DD, whole numbers without a decimal point, however they were stored.
    Raises DgmvlcError if the file is absent, empty, of no known kind, damaged, in an encoding that
    nothing tells, has rows of differing length or a header that is not the first row, or needs a
    package that is not installed; UsageError for an unknown sheet.
    """
    path = Path(path)
    data = _bytes(path)
    others: list[str] = []
    if data.startswith(ZIP):
        (header, *records), others = _read_excel(path, sheet)
    elif data.startswith(PARQUET):
        header, *records = _read_parquet(path)
    elif kind := next((k for start, k in NO_TABLES.items() if re.match(start, data, re.I)), None):
        raise DgmvlcError(f"{path} is {kind}", "Save it as .xlsx or CSV (UTF-8).")
    else:
        header, *records = _read_text(data, path)
    table = _frame(header, records, path)
    table.attrs["other_sheets"] = others
    return table


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*")]) if path.parent else None
        hint = f'Did you mean "{path.parent / near}"?' if near else "Check the path of the table."
        raise DgmvlcError(f"there is no table at {path}", hint)
    return path.read_bytes()


def _frame(header: list[str], records: list[list[str]], path: Path) -> pd.DataFrame:
    """Named columns of text; columns without a name and without a value are left out."""
    if not records:
        raise DgmvlcError(f"the table {path} has a header but no rows", "Add a row per subject.")
    _check_header(header, records[0], path)
    table = pd.DataFrame(records, columns=range(len(header)), dtype=object)
    empty = [i for i, name in enumerate(header) if not name and (table[i] == "").all()]
    table.columns = pd.Index([name or f"column {i}" for i, name in enumerate(header, start=1)])
    table = table.drop(columns=table.columns[empty])
    if len(twice := sorted(set(table.columns[table.columns.duplicated()]))):
        raise DgmvlcError(f"{path}: columns of the same name: {', '.join(twice)}", "Rename one.")
    return table


def _check_header(header: list[str], first: list[str], path: Path) -> None:
    """Raise DgmvlcError where the header stands in the second row, below a title or groups."""
    named = [name for name in header if name]
    below = [text for text, name in zip(first, header, strict=True) if text and not name]
    words = all(parse_number(text) is None for text in first)
    if 2 * len(named) < len(header) and 2 * len(below) > len(header) - len(named) and words:
        raise DgmvlcError(
            f"{path}: the first row names {len(named)} of {counted(len(header), 'column')} "
            f"({', '.join(named)}), and the second looks like the header "
            f"({', '.join(first[:LISTED])}{', ...' if len(first) > LISTED else ''})",
            "Remove what stands above the header: the first row names every column.",
        )


# Text ---------------------------------------------------------------------------------------


def _read_text(data: bytes, path: Path) -> list[list[str]]:
    """The header and the rows of a delimited text file."""
    text = _decode(data, path)
    if separator := SEPARATOR_LINE.match(text):
        text = text[separator.end() :]
    lines = [line for line in text.splitlines()[:50] if line.strip()]
    if not lines:
        raise DgmvlcError(f"the table {path} is empty", "Give a table with a header and rows.")
    delimiter = separator[1] if separator else _delimiter(lines)
    csv.field_size_limit(CELL_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[list[str]] = []
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append(_record(fields, rows[0] if rows else fields, path, reader.line_num))
    except csv.Error as error:
        raise DgmvlcError(
            f"{path}, line {reader.line_num}: {error}", "Look for a quote that is never closed."
        ) from error
    return rows


def _decode(data: bytes, path: Path) -> str:
    """UTF-16 by its byte-order mark, else UTF-8 line by line, and Windows' Latin where that fails.

    Tables pasted together from two sources hold lines in both.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if b"\x00" in data:
        raise DgmvlcError(
            f"{path} is no table that can be read", "Save it as CSV (UTF-8), xlsx or parquet."
        )
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return "\n".join(_decode_line(line, path, n) for n, line in enumerate(lines, start=1))


def _decode_line(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        if not OTHER_SCRIPT.search(line):
            return line.decode("cp1252")
    except UnicodeDecodeError:
        pass
    raise DgmvlcError(
        f"{path}, line {number}: neither UTF-8 nor Windows' Latin letters",
        "Save the table as CSV (UTF-8), or as .xlsx.",
    )


def _delimiter(lines: list[str]) -> str:
    """The delimiter that cuts the first lines into the most fields, equally many in each."""

    def score(delimiter: str) -> tuple[int, int]:
        short = [line[:CELL_LIMIT] for line in lines]
        widths = [len(fields) for fields in csv.reader(short, delimiter=delimiter)]
        same = sum(width == widths[0] for width in widths)
        return (same if widths[0] > 1 else 0, widths[0])

    return max(DELIMITERS, key=score)


def _record(fields: list[str], header: list[str], path: Path, line: int) -> list[str]:
    while len(fields) > len(header) and not fields[-1].strip():
        fields.pop()
    if len(fields) != len(header):
        raise DgmvlcError(
            f"{path}, line {line}: {counted(len(fields), 'field')}, but the header has "
            f"{len(header)}",
            "Quote texts that contain the delimiter, give every row all fields, and remove what "
            "stands above the header.",
        )
    return [field.strip() for field in fields]


# Excel and parquet --------------------------------------------------------------------------


def _read_excel(path: Path, sheet: str | None) -> tuple[list[list[str]], list[str]]:
    """The header and the rows of a sheet, as `read_table` chooses it, and the names of the others.

    A sheet of one column is a note on the table, not the table.
    """
    _require("openpyxl", path)
    try:
        sheets = pd.read_excel(
            path, sheet_name=None, header=None, dtype=object, na_filter=False, engine="openpyxl"
        )
    except Exception as error:  # a damaged file makes the library raise almost anything
        raise _damaged(path, error) from error
    if sheet is not None and sheet not in sheets:
        raise unknown_name(f"sheet of {path}:", sheet, map(str, sheets))
    filled = [name for name, one in sheets.items() if one.size]
    wide = [name for name in filled if sheets[name].shape[1] > 1]
    chosen = next(iter(wide or filled or sheets)) if sheet is None else sheet
    rows = [row for row in _texts(sheets[chosen].itertuples(index=False)) if any(row)]
    if not rows:
        raise DgmvlcError(f"the table {path} is empty", "Give a table with a header and rows.")
    return rows, [str(name) for name in sheets if name != chosen]


def _read_parquet(path: Path) -> list[list[str]]:
    _require("pyarrow", path)
    try:
        table = pd.read_parquet(path, engine="pyarrow", dtype_backend="numpy_nullable")
    except Exception as error:  # a damaged file makes the library raise almost anything
        raise _damaged(path, error) from error
    if table.index.name is not None:
        table = table.reset_index()
    header = [str(name).strip() for name in table.columns]
    columns = [[cell_text(value) for value in table[name]] for name in table.columns]
    return [header, *(list(row) for row in zip(*columns, strict=True))]


def _texts(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    return [[cell_text(value) for value in row] for row in rows]


def cell_text(value: Any) -> str:
    """A typed cell as it would stand in a text table: `63` for 63.0, YYYY-MM-DD for a date."""
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(float(value))
    return str(value).strip()


def _require(package: str, path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        raise DgmvlcError(
            f"reading {path} needs the package {package}, which is not installed",
            'Run `pip install "dgmvlc[tables]"`, or save the table as CSV (UTF-8).',
        )


def _damaged(path: Path, error: Exception) -> DgmvlcError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return DgmvlcError(
        f"{path} cannot be read as a table: {reason}", "Save it anew, or as CSV (UTF-8)."
    )
