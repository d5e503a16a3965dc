"""Read a clinical table and clean it: values, what is unknown, and what does not apply."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text.schema import Attribute, Follows, Schema, fold, nearest, unknown_name

Status = Literal["present", "unknown", "not applicable", "excluded"]

MISSING_TEXTS = frozenset(
    {"", "na", "n/a", "n.a.", "nan", "null", "nil", "?", "-", "--", ".", "missing", "unknown",
     "unk", "undetermined", "no data", "not available", "not applicable", "not assessed",
     "not collected", "not determined", "not done", "not evaluated", "not known", "not recorded",
     "not recorded in database", "not reported", "not stated"}
)  # fmt: skip
MISSING_NUMBERS = frozenset({99999.0, 999999.0, -99999.0, -9999.0, -999.0})
# Codes for "missing" in quantities that cannot be negative.
NEGATIVE_CODES = frozenset({-1.0, -7.0, -8.0, -9.0, -99.0})

DATE_FORMATS = ("%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%b-%Y")
DELIMITERS = (",", "\t", ";", "|")
LISTED = 10


@dataclass(frozen=True)
class Cleaned:
    """A cleaned table.

    rows: one row per subject (the index, text), one column per attribute that is not ignored:
    float for numbers (NaN where absent), str or None otherwise (dates as YYYY-MM-DD).
    status: the same shape; present, unknown, not applicable, or excluded (a value was there but
    is not believed).  exclusions: subject, attribute, raw, reason of everything not present.
    """

    rows: pd.DataFrame
    status: pd.DataFrame
    exclusions: pd.DataFrame


class Cell(NamedTuple):
    """One cell as read: its value (None if absent), status, and the reason for absence."""

    value: float | str | None
    status: Status
    reason: str = ""


def read_table(path: str | Path) -> pd.DataFrame:
    """A csv or tsv file as text cells, stripped; any delimiter of , ; tab | and any encoding.

    Column names are stripped too; an unnamed column is called `column <n>`.
    Raises DgmvlcError if the file is absent, empty, no text, or has rows of differing length.
    """
    path = Path(path)
    text = _decode(_bytes(path), path)
    lines = [line for line in text.splitlines()[:50] if line.strip()]
    if not lines:
        raise DgmvlcError(f"the table {path} is empty", "Give a table with a header and rows.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(lines))
    header = [name.strip() for name in _first_row(reader)]
    records = [
        _record(fields, header, f"{path}, line {reader.line_num}")
        for fields in reader
        if any(field.strip() for field in fields)
    ]
    if not records:
        raise DgmvlcError(f"the table {path} has a header but no rows", "Add a row per subject.")
    return pd.DataFrame(records, columns=_column_names(header, path), dtype=object)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*")]) if path.parent else None
        hint = f'Did you mean "{path.parent / near}"?' if near else "Check the path of the table."
        raise DgmvlcError(f"there is no table at {path}", hint)
    return path.read_bytes()


def _decode(data: bytes, path: Path) -> str:
    """UTF-16 by its byte-order mark, else UTF-8, else Windows' Latin alphabet."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    if b"\x00" in data or data.startswith(b"PK\x03\x04"):
        raise DgmvlcError(f"{path} is not a text table", "Save it as CSV (UTF-8) and give that.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _delimiter(lines: list[str]) -> str:
    """The delimiter that cuts the first lines into the most fields, equally many in each."""

    def score(delimiter: str) -> tuple[int, int]:
        widths = [len(fields) for fields in csv.reader(lines, delimiter=delimiter)]
        same = sum(width == widths[0] for width in widths)
        return (same if widths[0] > 1 else 0, widths[0])

    return max(DELIMITERS, key=score)


def _first_row(reader: csv.reader) -> list[str]:  # type: ignore[valid-type]
    return next(fields for fields in reader if any(field.strip() for field in fields))  # type: ignore[attr-defined]


def _record(fields: list[str], header: list[str], where: str) -> list[str]:
    while len(fields) > len(header) and not fields[-1].strip():
        fields.pop()
    if len(fields) != len(header):
        raise DgmvlcError(
            f"{where}: {len(fields)} fields, but the header has {len(header)}",
            "Quote texts that contain the delimiter, and give every row all fields.",
        )
    return [field.strip() for field in fields]


def _column_names(header: list[str], path: Path) -> list[str]:
    names = [name or f"column {i}" for i, name in enumerate(header, start=1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DgmvlcError(f"{path}: columns of the same name: {', '.join(twice)}", "Rename one.")
    return names


def clean(table: pd.DataFrame, schema: Schema) -> Cleaned:
    """Values the toolkit may use, and a list of everything it left out, with the reason.

    table: text cells, as `read_table` gives them.  Raises UsageError for a column the table
    lacks (with the nearest name) and DgmvlcError for absent or repeated ids (listed).
    """
    subjects = _subjects(table, schema)
    used = {n: a for n, a in schema.attributes.items() if a.role != "ignore"}
    for attribute in used.values():
        _check_column(attribute.column, table)
    raw = {name: table[a.column].set_axis(subjects) for name, a in used.items()}
    cells = {name: _read_column(raw[name], a) for name, a in used.items()}
    for name, attribute in used.items():
        if attribute.follows is not None:
            cells[name] = _follow(
                cells[name], cells[attribute.follows.attribute], attribute.follows
            )
    values = {name: _typed(cells[name]["value"], a) for name, a in used.items()}
    return Cleaned(
        rows=pd.DataFrame(values, index=subjects),
        status=pd.DataFrame({n: c["status"] for n, c in cells.items()}, index=subjects),
        exclusions=_exclusions(raw, cells),
    )


def _check_column(column: str, table: pd.DataFrame) -> None:
    """The column that the schema names must be there.  Raises UsageError with the nearest."""
    if column not in table.columns:
        error = unknown_name("column of the table", column, table.columns)
        error.hint += " Set `id_column` or `column` under [schema] in dgmvlc.toml."
        raise error


def _subjects(table: pd.DataFrame, schema: Schema) -> pd.Index:
    """The ids, in table order; each must be there once."""
    _check_column(schema.id_column, table)
    ids = table[schema.id_column].astype(object)
    if (empty := ids == "").any():
        rows = ", ".join(str(i + 1) for i in empty.to_numpy().nonzero()[0][:LISTED])
        raise DgmvlcError(
            f'{empty.sum()} rows have no id in column "{schema.id_column}" (rows {rows})',
            "Fill in the ids or remove these rows.",
        )
    if len(twice := ids[ids.duplicated()].unique()):
        more = f" and {len(twice) - LISTED} more" if len(twice) > LISTED else ""
        raise DgmvlcError(
            f'column "{schema.id_column}" has {len(twice)} ids more than once: '
            f"{', '.join(twice[:LISTED])}{more}",
            "Keep one row per subject, or name another id_column in dgmvlc.toml.",
        )
    return pd.Index(ids, name="subject", dtype=object)


def _read_column(column: pd.Series, attribute: Attribute) -> pd.DataFrame:
    """Value, status and reason of each cell; each distinct text is read once."""
    read = _reader(column, attribute)
    cells = {raw: read(raw) for raw in column.unique()}
    return pd.DataFrame([cells[raw] for raw in column], index=column.index, columns=Cell._fields,
                        dtype=object)  # fmt: skip


def _reader(column: pd.Series, attribute: Attribute) -> Callable[[str], Cell]:
    missing = {fold(text) for text in attribute.missing}
    not_applicable = {fold(text) for text in attribute.not_applicable}
    date_format = find_date_format(list(column.unique())) if attribute.kind == "date" else None

    def read(raw: str) -> Cell:
        text = fold(raw)
        if text in not_applicable:
            return Cell(None, "not applicable", "not applicable")
        if text in missing or is_missing_code(text):
            return Cell(None, "unknown", "missing code" if text else "empty")
        if attribute.kind == "number":
            return _read_number(raw, attribute)
        if attribute.kind == "date":
            return _read_date(raw, date_format)
        return _read_level(raw, attribute)

    return read


def _read_number(raw: str, attribute: Attribute) -> Cell:
    number = parse_number(raw, attribute.unit)
    if number is None:
        return Cell(None, "excluded", "not a number")
    low, high = attribute.plausible or (-math.inf, math.inf)
    codes = {n for t in attribute.missing if (n := parse_number(t)) is not None}
    if number in codes or (low >= 0 and number in NEGATIVE_CODES):
        return Cell(None, "unknown", "missing code")
    if not low <= number <= high:
        return Cell(None, "excluded", f"implausible: outside {low:g} to {high:g}")
    return Cell(number, "present")


def _read_date(raw: str, date_format: str | None) -> Cell:
    try:
        return Cell(datetime.strptime(raw, date_format or "").date().isoformat(), "present")
    except ValueError:
        return Cell(None, "excluded", "not a date of one known format")


def _read_level(raw: str, attribute: Attribute) -> Cell:
    if not attribute.levels:
        return Cell(" ".join(raw.split()), "present")
    level = attribute.level(raw)
    if level is not None:
        return Cell(level, "present")
    close = nearest(raw, [*attribute.levels, *attribute.synonyms])
    guess = f', nearest "{close}"' if close else ""
    return Cell(None, "excluded", f"unknown level{guess}")


def is_missing_code(text: str) -> bool:
    """Whether a text means "missing" in any column: `Not Collected`, `N/A`, `99999`, nothing."""
    return fold(text) in MISSING_TEXTS or parse_number(text) in MISSING_NUMBERS


def parse_number(text: str, unit: str = "") -> float | None:
    """The finite number a text says, or None: `63`, `063Y`, `1,234.5`, `27,3`, `45 %`, `30 <unit>`.

    A comma before exactly three digits groups thousands, any other single one is decimal.
    """
    match = re.fullmatch(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?)\s*(\D*)", text.strip())
    if match is None or match[2].lower() not in {"", "%", "y", "yr", "yrs", "years", unit.lower()}:
        return None
    digits = match[1]
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?", digits):
        digits = digits.replace(",", "")
    try:
        number = float(digits.replace(",", ".", 1))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def find_date_format(texts: list[str]) -> str | None:
    """The first known format that every text which is not missing fits, or None."""
    present = [text for text in texts if not is_missing_code(text)]
    fits = (f for f in DATE_FORMATS if all(_fits(text, f) for text in present))
    return next(fits, None) if present else None


def _fits(text: str, date_format: str) -> bool:
    try:
        datetime.strptime(text, date_format)
    except ValueError:
        return False
    return True


def _follow(cells: pd.DataFrame, leader: pd.DataFrame, follows: Follows) -> pd.DataFrame:
    """Decide by the leading attribute what is not applicable, unknown, or a contradiction."""
    cells = cells.copy()
    absent = leader["value"].isin(follows.absent_for)
    level = leader["value"].where(leader["value"].notna(), "unknown").astype(str)
    stated = (cells["status"] == "present") & (cells["value"] != 0)
    contradiction, none = absent & stated, absent & ~stated & (cells["status"] != "excluded")
    misused = ~absent & (cells["status"] == "not applicable")
    because = f"{follows.attribute} is " + level
    cells.loc[contradiction, "reason"] = "contradiction: " + because
    cells.loc[contradiction, "status"] = "excluded"
    cells.loc[none, "reason"] = "not applicable: " + because
    cells.loc[none, "status"] = "not applicable"
    cells.loc[misused, "reason"] = "unknown: called not applicable although " + because
    cells.loc[misused, "status"] = "unknown"
    cells.loc[contradiction | none, "value"] = None
    return cells


def _typed(values: pd.Series, attribute: Attribute) -> pd.Series:
    if attribute.kind == "number":
        return pd.to_numeric(values).astype(float)
    return values.astype(object).where(values.notna(), None)


def _exclusions(raw: dict[str, pd.Series], cells: dict[str, pd.DataFrame]) -> pd.DataFrame:
    parts = []
    for name, column in cells.items():
        absent = column["status"] != "present"
        parts.append(
            pd.DataFrame(
                {
                    "subject": column.index[absent],
                    "attribute": name,
                    "raw": raw[name][absent].to_numpy(),
                    "reason": column["reason"][absent].to_numpy(),
                }
            )
        )
    empty = pd.DataFrame(columns=["subject", "attribute", "raw", "reason"])
    return pd.concat(parts, ignore_index=True) if parts else empty
