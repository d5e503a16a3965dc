"""What the smoking status entails: columns that exist for some of its levels only, or repeat it."""

from __future__ import annotations

import re

import pandas as pd

from dgmvlc_cli.text.columns import Column
from dgmvlc_cli.text.entailed import TOLD, levels_without, told_by
from dgmvlc_cli.text.known import KNOWN, TOBACCO_WORDS
from dgmvlc_cli.text.schema import Attribute, Follows


def without_repeats(
    attributes: dict[str, Attribute], columns: dict[str, Column], notes: dict[str, str]
) -> dict[str, Attribute]:
    """Ignore what says the smoking status again: an edit would leave it as it was, in both arms.

    Of the columns of tobacco whatever tells the status or is told by it; of the others, codes and
    texts that nobody recognised, what does both.
    """
    if "smoking" not in attributes:
        return attributes
    kept = dict(attributes)
    for name, attribute in attributes.items():
        if name == "smoking" or not attribute.in_sentence or not attribute.levels:
            continue
        if is_tobacco(columns[attribute.column]):
            repeats = any
        elif attribute.role == "condition" and name not in KNOWN:
            repeats = all
        else:
            continue
        pairs = _values(attributes["smoking"], columns), _values(attribute, columns)
        if repeats(told_by(*order) >= TOLD for order in (pairs, pairs[::-1])):
            kept[name] = attribute.model_copy(update={"role": "ignore"})
            notes[attribute.column] += (
                " Ignored: it repeats smoking, and an edit would not reach it."
            )
    return kept


def _values(attribute: Attribute, columns: dict[str, Column]) -> pd.Series:
    column = columns[attribute.column]
    levels = column.texts.map(attribute.level)
    return levels.where(~column.absent & ~column.texts.isin(attribute.missing))


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
            column = columns[attribute.column]
            filled = ~column.absent & (column.numbers.reindex(column.texts.index) != 0)
            empty = levels_without(filled, levels)
            here = tuple(level for level in smoking.levels if level in empty)
        if here:
            follows = Follows(attribute="smoking", absent_for=here)
            linked[name] = attribute.model_copy(update={"follows": follows})
    return linked


def is_tobacco(column: Column) -> bool:
    """Whether the header speaks of tobacco."""
    return re.search(TOBACCO_WORDS, column.words) is not None
