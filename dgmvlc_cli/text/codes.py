"""Numbers that stand for something else: codes of levels, and codes for "missing"."""

from __future__ import annotations

import re

import pandas as pd

from dgmvlc_cli.text.cells import NUMBER_CODES
from dgmvlc_cli.text.columns import MAX_CODES, MAX_LEVELS, Column
from dgmvlc_cli.text.schema import fold

SITE_WORDS = (
    r"\b(site|centre|center|hospital|affiliation|institution|scanner|manufacturer|kernel|zentrum)\b"
)
CODE_WORDS = re.compile(
    rf"{SITE_WORDS}|\b(race|ethnic\w*|region|country|cohort|group|class|type|category|code|"
    r"stage|grade|status)\b"
)
UNIT_WORDS = re.compile(
    r"%|\b(years?|yrs?|months?|weeks?|days?|hours?|mm|cm|ml|kg|lbs?|hu|per|percent)\b"
)
APART = NUMBER_CODES | {9.0}


def codes_apart(column: Column) -> tuple[str, ...]:
    """Texts of -9, 9, 99 and the like that stand apart from the other codes of the column."""
    others = [n for n in column.parsed.values() if n is not None and n not in APART]
    top = max(others, default=0.0)
    return tuple(t for t, n in column.parsed.items() if n in APART and not 0 <= n <= top + 2)


def is_coded(column: Column) -> bool:
    """Whether the numbers of a column are codes of levels: few whole ones, without a unit.

    Where the header is one of codes (a site, a stage) up to MAX_LEVELS count; elsewhere up to
    MAX_CODES of one digit, each of which occurs twice or more, on average.
    """
    kept = column.present[~column.present.isin(codes_apart(column))]
    numbers: pd.Series = column.numbers[kept.index].dropna()
    if not column.is_numeric or UNIT_WORDS.search(column.words) or (numbers % 1 != 0).any():
        return False
    different = numbers.nunique()
    if CODE_WORDS.search(column.words):
        return 0 < different <= MAX_LEVELS
    few = 0 < different <= MAX_CODES and len(numbers) >= 2 * different
    return few and bool(numbers.between(0, 9).all())


def code_levels(column: Column) -> tuple[tuple[str, ...], dict[str, str]]:
    """Levels in order of the numbers, and the texts that differ from them: `1.0` is level 1."""
    apart = codes_apart(column)
    meant = {text: _level(text, column) for text in column.distinct if text not in apart}
    levels = sorted(set(meant.values()), key=lambda level: (len(level), level))
    return tuple(levels), {fold(t): level for t, level in meant.items() if fold(t) != level}


def _level(text: str, column: Column) -> str:
    number = column.parsed[text]
    return " ".join(text.split()) if number is None else f"{number:g}"
