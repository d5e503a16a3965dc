"""A column of the table, and what is quickly seen of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import pandas as pd

from dgmvlc_cli.text.cells import (
    MONTH_FIRST,
    NUMBER_CODES,
    are_dates,
    dates_of,
    is_missing_code,
    numbers_of,
    undecided_numbers,
    written_unit,
)
from dgmvlc_cli.text.schema import fold

MAX_LEVELS = 12
# Different numbers of a column whose header does not say that they are codes.
MAX_CODES = 6
# Share of a column's values that must fit before it counts as one we know.
FITS = 0.8


@dataclass(frozen=True)
class Column:
    """A column of the table and what is quickly seen of it.

    header: as in the table.  texts: all cells.  order: of dates that the column does not decide.
    """

    header: str
    texts: pd.Series
    order: str = MONTH_FIRST

    @cached_property
    def words(self) -> str:
        """The header in plain words: `SmokingStatus (now)` -> `smoking status now`."""
        split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.header)
        return " ".join(re.findall(r"[a-z0-9%]+", plain(split)))

    @cached_property
    def absent(self) -> pd.Series:
        """Whether each cell is a missing code; beside a `+`, a `-` is none."""
        texts = set(self.texts)
        signs = {"-"} if "+" in texts else set()
        return self.texts.map({text: is_missing_code(text) and text not in signs for text in texts})

    @cached_property
    def present(self) -> pd.Series:
        """Cells that are no missing code."""
        return self.texts[~self.absent]

    @cached_property
    def absent_texts(self) -> dict[str, int]:
        """How often each missing code occurs, most often first."""
        counts = self.texts[self.absent].value_counts()
        return {str(text): int(n) for text, n in counts.items()}

    @cached_property
    def distinct(self) -> dict[str, int]:
        """How often each present text occurs, most often first; ties in alphabetical order."""
        counts = self.present.value_counts().sort_index()
        falling = counts.sort_values(ascending=False, kind="stable")
        return {str(text): int(n) for text, n in falling.items()}

    @cached_property
    def parsed(self) -> dict[str, float | None]:
        """The number that each present text says, or None."""
        found = numbers_of(self.distinct, next(iter(self.units), ""))
        return {text: found.get(text) for text in self.distinct}

    @cached_property
    def numbers(self) -> pd.Series:
        """The present cells as numbers, NaN where they are none."""
        return pd.to_numeric(self.present.map(self.parsed)).astype(float)

    @cached_property
    def units(self) -> dict[str, int]:
        """How often each unit stands behind a number, most often first."""
        written = self.present.map({text: written_unit(text) for text in self.distinct})
        counts = written[written != ""].value_counts()
        return {str(unit): int(n) for unit, n in counts.items()}

    @property
    def unit(self) -> str:
        """The unit that half of the present cells or more write; else nothing."""
        unit, n = next(iter(self.units.items()), ("", 0))
        return unit if 2 * n >= len(self.present) else ""

    @cached_property
    def is_date(self) -> bool:
        """Whether most present cells are dates; a year alone is a number."""
        dates = [text for text in self.distinct if are_dates([text])]
        most = bool(dates) and self.share_of(dates) >= FITS
        return most and not re.search(r"\byears?\b", self.words)

    @cached_property
    def dates(self) -> list[date | None]:
        """All cells as dates, None where they are none."""
        return dates_of(list(self.texts), self.order)

    @property
    def missing_share(self) -> float:
        return 1 - len(self.present) / len(self.texts)

    @cached_property
    def is_numeric(self) -> bool:
        return len(self.present) > 0 and bool(self.numbers.notna().mean() >= FITS)

    def share_of(self, texts: Collection[str]) -> float:
        """Share of present cells that are one of the texts."""
        return sum(self.distinct[text] for text in texts) / max(len(self.present), 1)

    def share_between(self, low: float, high: float) -> float:
        """Share of present cells that are numbers within the bounds."""
        return float(self.numbers.between(low, high).mean()) if len(self.present) else 0.0


def plain(text: str) -> str:
    """Lower case without accents: `Überleben, Décès` -> `uberleben, deces`."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def seen_in(column: Column) -> str:
    """What is in the column, in a sentence."""
    n = column.numbers
    if column.is_numeric and len(column.distinct) > MAX_CODES:
        seen = f"{n.notna().sum()} numbers, {n.min():g} to {n.max():g}, median {n.median():g}"
    elif len(column.distinct) <= MAX_LEVELS:
        seen = ", ".join(f"{text} {times}" for text, times in column.distinct.items())
    else:
        seen = f"{len(column.present)} values, {len(column.distinct)} different"
    undecided = column.present.isin(undecided_numbers(column.distinct)) & n.notna()
    if column.is_numeric and undecided.any():
        seen += f', "{column.present[undecided].iloc[0]}" read as {n[undecided].iloc[0]:.15g}'
    absent = ", ".join(f"{t or 'empty'} {times}" for t, times in column.absent_texts.items())
    return "; ".join(filter(None, [seen, f"absent: {absent}" if absent else ""])) + "."


def sentinels(column: Column, plausible: tuple[float, float] | None) -> tuple[str, ...]:
    """Texts of number codes for "missing" (-1, 99, 999 and the like) that are no plausible values.

    plausible: lowest and highest value, in the column's unit.  Without it a code counts if it is
    negative among numbers that are not, or more than three times the largest of them.
    """
    others = column.numbers[~column.numbers.isin(NUMBER_CODES)]
    if others.empty:
        return ()
    low, high = plausible or (0.0 if others.min() >= 0 else -float("inf"), 3 * others.abs().max())
    return tuple(t for t, n in column.parsed.items() if n in NUMBER_CODES and not low <= n <= high)


def vocabulary_share(column: Column, vocabulary: Mapping[str, tuple[str, ...]]) -> float:
    """Share of present cells that the vocabulary knows."""
    return column.share_of([text for text in column.distinct if look_up(text, vocabulary)])


def look_up(text: str, vocabulary: Mapping[str, tuple[str, ...]]) -> str | None:
    words = " ".join(re.findall(r"\w+|^[+-]$", text.lower().strip().removesuffix(".0")))
    return next((level for level, texts in vocabulary.items() if words in texts), None)


def column_synonyms(column: Column, vocabulary: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Lower-case texts of the column that differ from the level they stand for."""
    meant = {fold(text): look_up(text, vocabulary) for text in column.distinct}
    return {text: level for text, level in sorted(meant.items()) if level and text != level}


def column_levels(column: Column) -> tuple[str, ...]:
    """Distinct texts in alphabetical order; of spellings that differ by case, the commonest."""
    commonest = {fold(text): text for text in reversed(column.distinct)}
    return tuple(sorted(" ".join(text.split()) for text in commonest.values()))
