"""What one cell of a clinical table says: nothing, a number, or a date."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from functools import lru_cache

from dgmvlc_cli.text.schema import fold

MISSING_TEXTS = frozenset(
    {"", "na", "n/a", "n.a.", "nan", "nat", "null", "nil", "?", "-", "--", ".", "missing",
     "unknown", "unk", "undetermined", "no data", "not available", "not applicable",
     "not assessed", "not collected", "not determined", "not done", "not evaluated", "not known",
     "not recorded", "not recorded in database", "not reported", "not specified", "not stated",
     "not tested", "refused", "nd", "n.d.", "nk", "k.a.",
     "#n/a", "#na", "#div/0!", "#name?", "#null!", "#num!", "#ref!", "#value!"}
)  # fmt: skip
MISSING_NUMBERS = frozenset({99999.0, 999999.0, -99999.0, -9999.0, -999.0})
# Codes for "missing" in quantities that cannot be negative.
NEGATIVE_CODES = frozenset({-1.0, -7.0, -8.0, -9.0, -77.0, -88.0, -99.0, -777.0, -888.0})
# Codes that may as well be values.
NUMBER_CODES = NEGATIVE_CODES | {77.0, 88.0, 99.0, 777.0, 888.0, 999.0, 9999.0}

# A number with what stands behind it.
NUMBER = re.compile(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?)((?!\d).*)", re.DOTALL)
# Decimal mark -> the other mark, which then groups thousands, and the shape of such numbers.
DECIMAL_MARKS = {
    mark: (
        group,
        re.compile(
            rf"(?=.*\d)[-+]?(\d*|[1-9]\d{{0,2}}({re.escape(group)}\d{{3}})+)"
            rf"({re.escape(mark)}\d*)?([eE][-+]?\d+)?"
        ),
    )
    for mark, group in ((".", ","), (",", "."))
}
# Spelling -> unit, of units that a cell is known to be in when it is not the column's.
UNIT_OF = {
    spelling: unit
    for unit, spellings in {
        "years": ("y", "yr", "yrs", "year", "years"),
        "months": ("mo", "mos", "mth", "mths", "month", "months"),
        "weeks": ("wk", "wks", "week", "weeks"),
        "days": ("day", "days"),
        "%": ("%", "percent"),
        "lbs": ("lb", "lbs", "pounds"),
        "pack-years": ("pack-year", "pack-years", "pk-yrs", "py"),
        **{unit: (unit,) for unit in ("kg", "cm", "mm", "ml", "kg/m2")},
    }.items()
    for spelling in spellings
}

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
SLASHED = re.compile(DATE_FORMATS[DAY_FIRST])
YEARS = range(1850, 2151)
TIME_OF_DAY = re.compile(r"[ T]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?Z?$")


def is_missing_code(text: str) -> bool:
    """Whether a text means "missing" in any column: `[Not Available]`, `N/A`, `99999`, nothing."""
    plain = fold(text).strip("[]'<> ")
    # Every such number has three nines, which spares reading the others.
    return plain in MISSING_TEXTS or ("999" in plain and parse_number(plain) in MISSING_NUMBERS)


def parse_number(text: str, unit: str = "") -> float | None:
    """The finite number a text says by itself, or None: `63`, `1,234.5`, `27,3`, `30 <unit>`.

    A comma before exactly three digits groups thousands, any other single one is decimal; in
    `1.234,5` the points group.  Nothing groups after a leading zero: `0,345` is less than one.
    Without a unit `063Y` and `45 %` are numbers too.
    """
    readings, written = _parsed(text)
    if not readings or not _has_unit(written, unit):
        return None
    return readings.get(".", next(iter(readings.values())))


def number_reader(texts: Iterable[str], unit: str = "") -> Callable[[str], float | str]:
    """Reads the numbers of one column: a number, or the reason why a text is none.

    texts: the column.  `7.500` and `2,345` are read as the column's other numbers decide: where
    one has a decimal comma (`27,3`; `0,345`; `1.234,5`) the points group, and the other way round.
    Where they contradict each other it is ambiguous, and where none decides the point is decimal.
    """
    only = {next(iter(r)) for text in _stated(texts) if len(r := _parsed(text)[0]) == 1}
    contradictory = len(only) > 1
    decimal = "," if only == {","} else "."

    def read(text: str) -> float | str:
        readings, written = _parsed(text)
        if not readings or not (_has_unit(written, unit) or written_unit(text)):
            return "not a number"
        if not _has_unit(written, unit):
            return f"in {_unit(written)}, expected {unit or 'no unit'}"
        if contradictory and len(set(readings.values())) > 1:
            return "ambiguous number: the column has both decimal points and decimal commas"
        return readings.get(decimal, next(iter(readings.values())))

    return read


def numbers_of(texts: Iterable[str], unit: str = "") -> dict[str, float]:
    """Those of one column's texts that are numbers, and the numbers."""
    texts = set(texts)
    read = number_reader(texts, unit)
    return {text: n for text in texts if isinstance(n := read(text), float)}


def undecided_numbers(texts: Iterable[str]) -> list[str]:
    """Texts such as `2,345` whose mark may be decimal or group, where no other text decides."""
    readings = {text: _parsed(text)[0] for text in _stated(texts)}
    if any(len(found) == 1 for found in readings.values()):
        return []
    return sorted(text for text, found in readings.items() if len(set(found.values())) > 1)


def _stated(texts: Iterable[str]) -> set[str]:
    return {text for text in texts if not is_missing_code(text)}


@lru_cache(maxsize=1 << 14)  # a column is read several times over
def _parsed(text: str) -> tuple[dict[str, float], str]:
    """Decimal mark -> number, for each mark with which a text is one, and the unit behind it.

    `63` is a number with both marks, `twelve` with none.
    """
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        return {}, ""
    readings = {
        mark: float(match[1].replace(group, "").replace(mark, "."))
        for mark, (group, shape) in DECIMAL_MARKS.items()
        if shape.fullmatch(match[1])
    }
    return {mark: n for mark, n in readings.items() if math.isfinite(n)}, match[2].strip()


def written_unit(text: str) -> str:
    """The unit that stands behind a number, of those known everywhere; else nothing."""
    _, written = _parsed(text)
    return UNIT_OF.get(_unit(written), "") if written else ""


def _unit(text: str) -> str:
    """A unit as it is compared: `Pack years` is `pack-years`, `kg/m^2` is `kg/m2`."""
    plain = re.sub(r"[\s_-]+", "-", text.strip().lower()).replace("^", "").replace("²", "2")
    return UNIT_OF.get(plain, plain)


def _has_unit(written: str, unit: str) -> bool:
    """Whether what stands behind a number is its unit, or nothing."""
    return not written or _unit(written) in ({_unit(unit)} if unit else {"years", "%"})


def are_dates(texts: Iterable[str]) -> bool:
    """Whether there are texts and each that is not missing is a date, in whatever format."""
    present = [text for text in texts if not is_missing_code(text)]
    return bool(present) and all(_readings(text) for text in present)


def date_order(table: Iterable[Iterable[str]]) -> str:
    """The format that the dates of a table decide together; month first where none does, or both.

    table: the distinct texts of its columns.
    """
    only = {next(iter(r)) for texts in table if len(r := _decided(texts)) == 1}
    return DAY_FIRST if only == {DAY_FIRST} else MONTH_FIRST


def _decided(texts: Iterable[str]) -> set[str]:
    """Month first, day first or both, as dates that can only be so tell."""
    readings = (_readings(text) for text in set(texts) if SLASHED.match(text.strip()))
    return {next(iter(found)) for found in readings if len(found) == 1} & {MONTH_FIRST, DAY_FIRST}


def date_reader(texts: Iterable[str], order: str = MONTH_FIRST) -> Callable[[str], date | str]:
    """Reads the dates of one column: a date, or the reason why a text is none.

    texts: the column.  `3/4/2020` is read month first or day first as the column's other dates
    decide (`25/12/2020` can only be day first); where they contradict each other it is ambiguous,
    and where none decides it is read in the order of the table's other dates (`date_order`).
    """
    only = _decided(texts)
    contradictory = len(only) > 1
    order = next(iter(only)) if len(only) == 1 else order

    def read(text: str) -> date | str:
        readings = _readings(text)
        if not readings:
            return "not a date of a known format"
        if len(set(readings.values())) > 1 and contradictory:
            return "ambiguous date: the column has both month/day and day/month"
        return readings.get(order) or next(iter(readings.values()))

    return read


def dates_of(texts: Sequence[str], order: str = MONTH_FIRST) -> list[date | None]:
    """The dates of one column, cell by cell; None where a text is none or is ambiguous."""
    read = date_reader(texts, order)
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
