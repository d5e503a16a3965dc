"""What one cell of a clinical table says: nothing, a number, or a date."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime

from dgmvlc_cli.text.schema import fold

MISSING_TEXTS = frozenset(
    {"", "na", "n/a", "n.a.", "nan", "nat", "null", "nil", "?", "-", "--", ".", "missing",
     "unknown", "unk", "undetermined", "no data", "not available", "not applicable",
     "not assessed", "not collected", "not determined", "not done", "not evaluated", "not known",
     "not recorded", "not recorded in database", "not reported", "not stated"}
)  # fmt: skip
MISSING_NUMBERS = frozenset({99999.0, 999999.0, -99999.0, -9999.0, -999.0})
# Codes for "missing" in quantities that cannot be negative.
NEGATIVE_CODES = frozenset({-1.0, -7.0, -8.0, -9.0, -99.0})

MONTH_FIRST, DAY_FIRST = "%m/%d/%Y", "%d/%m/%Y"
# Format -> the shape of its texts, which spares trying them all.
DATE_FORMATS = {
    "%Y-%m-%d": r"\d{4}-\d{1,2}-\d{1,2}",
    "%Y%m%d": r"\d{8}",
    "%Y/%m/%d": r"\d{4}/\d{1,2}/\d{1,2}",
    MONTH_FIRST: r"\d{1,2}/\d{1,2}/\d{4}",
    DAY_FIRST: r"\d{1,2}/\d{1,2}/\d{4}",
    "%d.%m.%Y": r"\d{1,2}\.\d{1,2}\.\d{4}",
    "%d-%b-%Y": r"\d{1,2}-[A-Za-z]{3}-\d{4}",
    "%d %b %Y": r"\d{1,2} [A-Za-z]{3} \d{4}",
    "%d %B %Y": r"\d{1,2} [A-Za-z]{3,9} \d{4}",
    "%B %d, %Y": r"[A-Za-z]{3,9} \d{1,2}, \d{4}",
    "%b %d, %Y": r"[A-Za-z]{3} \d{1,2}, \d{4}",
}
YEARS = range(1850, 2151)
TIME_OF_DAY = re.compile(r"[ T]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?Z?$")


def is_missing_code(text: str) -> bool:
    """Whether a text means "missing" in any column: `Not Collected`, `N/A`, `99999`, nothing."""
    return fold(text) in MISSING_TEXTS or parse_number(text) in MISSING_NUMBERS


def parse_number(text: str, unit: str = "") -> float | None:
    """The finite number a text says, or None: `63`, `063Y`, `1,234.5`, `27,3`, `45 %`, `30 <unit>`.

    A comma before exactly three digits groups thousands, any other single one is decimal; in
    `1.234,5` the points group.
    """
    match = re.fullmatch(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?)\s*(\D*)", text.strip())
    if match is None or match[2].lower() not in {"", "%", "y", "yr", "yrs", "years", unit.lower()}:
        return None
    digits = match[1]
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"[-+]?\d{1,3}(\.\d{3})+,\d*", digits):
        digits = digits.replace(".", "")
    try:
        number = float(digits.replace(",", ".", 1))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def are_dates(texts: Iterable[str]) -> bool:
    """Whether there are texts and each that is not missing is a date, in whatever format."""
    present = [text for text in texts if not is_missing_code(text)]
    return bool(present) and all(_readings(text) for text in present)


def date_reader(texts: Iterable[str]) -> Callable[[str], date | str]:
    """Reads the dates of one column: a date, or the reason why a text is none.

    texts: the column.  `3/4/2020` is read month first or day first as the column's other dates
    decide (`25/12/2020` can only be day first); where they contradict each other it is ambiguous,
    and where none decides it is month first.
    """
    only = {next(iter(r)) for text in set(texts) if len(r := _readings(text)) == 1}
    contradictory = {MONTH_FIRST, DAY_FIRST} <= only
    order = DAY_FIRST if DAY_FIRST in only else MONTH_FIRST

    def read(text: str) -> date | str:
        readings = _readings(text)
        if not readings:
            return "not a date of a known format"
        if len(set(readings.values())) > 1 and contradictory:
            return "ambiguous date: the column has both month/day and day/month"
        return readings.get(order) or next(iter(readings.values()))

    return read


def dates_of(texts: Sequence[str]) -> list[date | None]:
    """The dates of one column, cell by cell; None where a text is none or is ambiguous."""
    read = date_reader(texts)
    found = {text: read(text) for text in set(texts)}
    return [day if isinstance(day := found[text], date) else None for text in texts]


def _readings(text: str) -> dict[str, date]:
    """Format -> date, for every known format that the text fits."""
    day = TIME_OF_DAY.sub("", text.strip())
    shaped = [f for f, shape in DATE_FORMATS.items() if re.fullmatch(shape, day)]
    readings = {f: _strptime(day, f) for f in shaped}
    return {f: found for f, found in readings.items() if found and found.year in YEARS}


def _strptime(text: str, date_format: str) -> date | None:
    try:
        return datetime.strptime(text, date_format).date()
    except ValueError:
        return None
