"""What the smoking status entails: columns that exist for some of its levels only, or repeat it."""

from __future__ import annotations

import re

import pandas as pd

from dgmvlc_cli.text.columns import Column
from dgmvlc_cli.text.known import KNOWN, TOBACCO_WORDS
from dgmvlc_cli.text.schema import Attribute, Follows

# Shares of the rows of a level: without a value, to count as a level that has none, and with one,
# to count as a level that has some.
EMPTY, FILLED = 0.95, 0.5


def follow_smoking(
    attributes: dict[str, Attribute], columns: dict[str, Column]
) -> dict[str, Attribute]:
    """Let pack-years, quit year and the like follow the smoking status.

    columns: by header.  What is recognised is absent for the levels that it cannot have; another
    column with a header of tobacco for those whose rows hold nothing or zero.
    """
    if "smoking" not in attributes:
        return attributes
    smoking = attributes["smoking"]
    levels = columns[smoking.column].texts.map(smoking.level)
    linked = dict(attributes)
    for name, attribute in attributes.items():
        if name == "smoking" or attribute.role == "outcome":
            continue
        absent_for = KNOWN[name].absent_for if name in KNOWN else ()
        here = tuple(level for level in absent_for if level in smoking.levels)
        if not here and is_tobacco(columns[attribute.column]):
            here = _levels_without(columns[attribute.column], levels, smoking.levels)
        if here:
            follows = Follows(attribute="smoking", absent_for=here)
            linked[name] = attribute.model_copy(update={"follows": follows})
    return linked


def is_tobacco(column: Column) -> bool:
    """Whether the header speaks of tobacco."""
    return re.search(TOBACCO_WORDS, column.words) is not None


def _levels_without(column: Column, levels: pd.Series, names: tuple[str, ...]) -> tuple[str, ...]:
    """Levels whose rows hold nothing or zero, where those of another level hold values."""
    filled = ~column.absent & (column.numbers.reindex(column.texts.index) != 0)
    shares = filled.groupby(levels).mean()
    if shares.empty or shares.max() < FILLED:
        return ()
    return tuple(name for name in names if name in shares and shares[name] <= 1 - EMPTY)
