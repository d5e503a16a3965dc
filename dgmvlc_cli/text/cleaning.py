"""Clean a clinical table: values, what is unknown, what does not apply, and what contradicts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text.cells import (
    NEGATIVE_CODES,
    date_order,
    date_reader,
    dates_of,
    is_missing_code,
    number_reader,
)
from dgmvlc_cli.text.coherence import smoking_contradiction, year_contradiction
from dgmvlc_cli.text.repeats import Dropped, one_row_each
from dgmvlc_cli.text.schema import (
    DURATIONS,
    Attribute,
    Follows,
    Schema,
    fold,
    nearest,
    unknown_name,
)

Status = Literal["present", "unknown", "not applicable", "excluded"]

LISTED = 10
FLOAT_ID, NUMBER_ID = re.compile(r"(\d+)\.0+"), re.compile(r"\d+(\.\d+)?")
FILE_ID = re.compile(r"(.+)\.(?:nii\.gz|nii|nrrd|mha|mhd|dcm)", re.IGNORECASE)


@dataclass(frozen=True)
class Cleaned:
    """A cleaned table.

    rows: one row per subject (the index, text), one column per attribute that is not ignored:
    float for numbers (NaN where absent; a date in the sentence is a number, its time before the
    scan), str or None otherwise (other dates as YYYY-MM-DD).
    status: the same shape; present, unknown, not applicable, or excluded (a value was there but
    is not believed).  exclusions: subject, attribute, raw, reason of everything not present.
    scan_years: calendar year of the scan by subject, NaN where it is not known.
    dropped: subject, row (of the table, from 1) and reason of every row that was left out.
    """

    rows: pd.DataFrame
    status: pd.DataFrame
    exclusions: pd.DataFrame
    scan_years: pd.Series
    dropped: pd.DataFrame

    def only(self, subjects: pd.Index) -> Cleaned:
        """The cleaned table of some subjects."""
        out = self.exclusions
        return Cleaned(
            rows=self.rows.loc[subjects],
            status=self.status.loc[subjects],
            exclusions=out[out["subject"].isin(subjects)],
            scan_years=self.scan_years.loc[subjects],
            dropped=self.dropped[self.dropped["subject"].isin(subjects)],
        )


class Cell(NamedTuple):
    """One cell as read: its value (None if absent), status, and the reason for absence."""

    value: float | str | None
    status: Status
    reason: str = ""


def clean(table: pd.DataFrame, schema: Schema) -> Cleaned:
    """Values the toolkit may use, and a list of everything it left out, with the reason.

    table: text cells, as `read_table` gives them.  Raises UsageError for a column the table
    lacks (with the nearest name) and DgmvlcError for absent ids, or repeated ones (listed)
    without a rule which row to keep.
    """
    used = {n: a for n, a in schema.attributes.items() if a.role != "ignore"}
    for column in _columns_needed(schema, used):
        check_column(column, table)
    # Read as the whole column decides, also by rows that are not kept, as `init` saw it.
    order = date_order(table[column].unique() for column in table.columns)
    readers = {name: _reader(list(table[a.column].unique()), a, order) for name, a in used.items()}
    table, dropped = _one_row_each(table, schema)
    raw = {name: table[a.column] for name, a in used.items()}
    scans = _scan_dates(table, schema, order)
    cells = {name: _read_column(raw[name], readers[name], a, scans) for name, a in used.items()}
    for name, attribute in used.items():
        if (rule := attribute.follows) is not None:
            cells[name] = _follow(cells[name], cells[rule.attribute], rule)
    years = pd.Series([day.year if day else math.nan for day in scans], table.index, dtype=float)
    for name in [name for name, attribute in used.items() if attribute.is_calendar_year]:
        cells[name] = _believe_years(name, _numeric(cells, used), years)
    if {"pack_years", "age"} <= (numbers := _numeric(cells, used)).keys():
        cells["pack_years"] = _believe_pack_years(numbers, years)
    values = {name: _typed(cells[name]["value"], a) for name, a in used.items()}
    return Cleaned(
        rows=pd.DataFrame(values, index=table.index),
        status=pd.DataFrame({n: c["status"] for n, c in cells.items()}, index=table.index),
        exclusions=_exclusions(raw, cells),
        scan_years=years,
        dropped=dropped,
    )


def check_column(column: str, table: pd.DataFrame) -> None:
    """The column that the schema names must be there.  Raises UsageError with the nearest."""
    if column not in table.columns:
        error = unknown_name("column of the table", column, table.columns)
        error.hint += " Set `id_column` or `column` under [schema] in dgmvlc.toml."
        if others := table.attrs.get("other_sheets"):
            error.hint += f" Or name its sheet, `sheet` under [table]: {', '.join(others)}."
        raise error


def _columns_needed(schema: Schema, used: dict[str, Attribute]) -> list[str]:
    columns = [schema.id_column, *(attribute.column for attribute in used.values())]
    if schema.scan_date:
        columns.append(schema.scan_date)
    if schema.several_rows and schema.several_rows.by:
        columns.append(schema.several_rows.by)
    return columns


# Subjects -----------------------------------------------------------------------------------


def _one_row_each(table: pd.DataFrame, schema: Schema) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table by subject, in its order, and the rows that were left out."""
    ids = table_ids(table, schema.id_column)
    kept: Dropped = one_row_each(table, ids, schema)
    chosen = table.iloc[kept.keep].set_axis(pd.Index(ids.iloc[kept.keep], name="subject"))
    return chosen, kept.dropped


def table_ids(table: pd.DataFrame, column: str) -> pd.Series:
    """The id of every row.  Raises DgmvlcError where some are empty.

    Ids that some program took for numbers (`1.0` beside `A7`) get their whole numbers back, where
    all numbers among them are such; a column of file names (`AIIB23_4.nii.gz`) loses the endings
    that scans' ids do not have.
    """
    ids = table[column].astype(object)
    if (empty := ids == "").any():
        rows = ", ".join(str(i + 1) for i in empty.to_numpy().nonzero()[0][:LISTED])
        raise DgmvlcError(
            f'no id in column "{column}" in {counted(int(empty.sum()), "row")}: {rows}',
            "Fill in the ids or remove these rows.",
        )
    numbers = ids.map(lambda text: NUMBER_ID.fullmatch(text) is not None)
    for here, written in (numbers, FLOAT_ID), (ids != "", FILE_ID):
        matches = [written.fullmatch(text) for text in ids[here]]
        if matches and all(matches):
            ids = ids.copy()
            ids[here] = [match[1] for match in matches if match]
            break
    return ids


def _scan_dates(table: pd.DataFrame, schema: Schema, order: str) -> pd.Series:
    """The date of the scan by subject; None where it is not known."""
    if schema.scan_date is None:
        return pd.Series([None] * len(table), index=table.index, dtype=object)
    days = dates_of(list(table[schema.scan_date]), order)
    return pd.Series(days, index=table.index, dtype=object)


# Cells --------------------------------------------------------------------------------------


def _read_column(
    column: pd.Series, read: Callable[[str], Cell], attribute: Attribute, scans: pd.Series
) -> pd.DataFrame:
    """Value, status and reason of each cell; each distinct text is read once."""
    codes, texts = pd.factorize(column)
    cells = [read(text) for text in texts]
    frame = pd.DataFrame(
        {
            field: np.array([getattr(cell, field) for cell in cells], dtype=object)[codes]
            for field in Cell._fields
        },
        index=column.index,
    )
    return _since(frame, scans, attribute) if attribute.is_duration else frame


def _reader(texts: list[str], attribute: Attribute, order: str) -> Callable[[str], Cell]:
    missing = {fold(text) for text in attribute.missing}
    not_applicable = {fold(text) for text in attribute.not_applicable}
    as_date = date_reader(texts, order) if attribute.kind == "date" else None
    as_number = number_reader(texts, attribute.unit)
    codes = {as_number(text) for text in attribute.missing}

    def read(raw: str) -> Cell:
        text = fold(raw)
        if text in not_applicable:
            return Cell(None, "not applicable", "not applicable")
        declared = text not in missing and attribute.level(raw) is not None
        if text in missing or (is_missing_code(text) and not declared):
            return Cell(None, "unknown", "missing code" if text else "empty")
        if as_date is not None:
            return _read_date(as_date(raw))
        if attribute.kind == "number":
            return _read_number(as_number(raw), attribute, codes)
        return _read_level(raw, attribute)

    return read


def _read_number(number: float | str, attribute: Attribute, codes: set[float | str]) -> Cell:
    if isinstance(number, str):
        return Cell(None, "excluded", number)
    low, high = attribute.plausible or (-math.inf, math.inf)
    negative_code = low >= 0 and number in NEGATIVE_CODES and not attribute.absolute
    if number in codes or negative_code:
        return Cell(None, "unknown", "missing code")
    number = abs(number) if attribute.absolute else number
    if not low <= number <= high:
        return Cell(None, "excluded", f"implausible: outside {low:g} to {high:g}")
    return Cell(number, "present")


def _read_date(found: date | str) -> Cell:
    if isinstance(found, str):
        return Cell(None, "excluded", found)
    return Cell(found.isoformat(), "present")


def _since(cells: pd.DataFrame, scans: pd.Series, attribute: Attribute) -> pd.DataFrame:
    """Dates as time before the scan; what comes after it, or cannot be placed, is left out."""
    rows = [
        _time_before(date.fromisoformat(value), scan, attribute) if status == "present" else None
        for value, status, scan in zip(cells["value"], cells["status"], scans, strict=True)
    ]
    return _replaced(cells, rows)


def _time_before(day: date, scan: date | None, attribute: Attribute) -> Cell:
    low, high = attribute.plausible or (0.0, math.inf)
    if scan is None:
        return Cell(None, "unknown", "the date of the scan is unknown")
    since = (scan - day).days / DURATIONS[attribute.unit or "years"]
    if since < 0:
        return Cell(None, "excluded", "after the scan")
    if not low <= since <= high:
        return Cell(None, "excluded", f"implausible: outside {low:g} to {high:g}")
    return Cell(since, "present")


def _replaced(cells: pd.DataFrame, new: list[Cell | None]) -> pd.DataFrame:
    """The cells with those that are not None put in their place."""
    old = cells.itertuples(index=False, name=None)
    rows = [row if cell is None else cell for row, cell in zip(old, new, strict=True)]
    return pd.DataFrame(rows, index=cells.index, columns=list(Cell._fields), dtype=object)


def _read_level(raw: str, attribute: Attribute) -> Cell:
    if not attribute.levels:
        return Cell(" ".join(raw.split()), "present")
    level = attribute.level(raw)
    if level is not None:
        return Cell(level, "present")
    close = nearest(raw, [*attribute.levels, *attribute.synonyms])
    guess = f', nearest "{close}"' if close else ""
    return Cell(None, "excluded", f"unknown level{guess}")


# What one column says about another ---------------------------------------------------------


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


def _numeric(cells: dict[str, pd.DataFrame], used: dict[str, Attribute]) -> dict[str, pd.DataFrame]:
    """The columns of numbers: an age in bands (`50-59`) says nothing of a year."""
    return {name: cells[name] for name, attribute in used.items() if attribute.is_numeric}


def _believe_years(
    name: str, cells: dict[str, pd.DataFrame], scan_years: pd.Series
) -> pd.DataFrame:
    """Leave out calendar years that lie after the scan or before the birth."""
    column = cells[name]
    ages = cells["age"]["value"] if "age" in cells else [None] * len(column)
    new: list[Cell | None] = []
    for value, scan, age in zip(column["value"], scan_years, ages, strict=True):
        reason = None if value is None else year_contradiction(name, value, scan, age)
        new.append(Cell(None, "excluded", f"contradiction: {reason}") if reason else None)
    return _replaced(column, new)


def _believe_pack_years(cells: dict[str, pd.DataFrame], scan_years: pd.Series) -> pd.DataFrame:
    """Leave out pack-years that nobody of that age can have smoked."""
    known = pd.DataFrame({n: cells[n]["value"] for n in ("pack_years", "age")})
    known["scan"] = scan_years
    known["quit"] = cells["quit_year"]["value"] if "quit_year" in cells else None
    reasons = [smoking_contradiction(*row) for row in known.astype(float).itertuples(index=False)]
    new = [Cell(None, "excluded", f"contradiction: {r}") if r else None for r in reasons]
    return _replaced(cells["pack_years"], new)


def _typed(values: pd.Series, attribute: Attribute) -> pd.Series:
    if attribute.is_numeric:
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
