"""What else a sentence says that goes with the studied attribute, and would contradict an edit."""

from __future__ import annotations

import pandas as pd

from dgmvlc_cli.text.schema import Schema

LEAST = 5  # subjects of a level, of which fewer show nothing
# Shares of a level's subjects: without a value, to count as a level that has none, and with one,
# to count as a level that has some.
EMPTY, FILLED = 0.95, 0.5
TOLD = 0.9  # of the subjects of every level, known from another attribute
MOST_VALUES = 12  # of which a number may still be a code


def entailed(rows: pd.DataFrame, schema: Schema, studied: str) -> list[str]:
    """Cautions: attributes that the sentence says and an edit of the studied one would contradict.

    rows: cleaned values by subject.  Cigarettes per day that no never smoker has, or a code that
    repeats the smoking status, stay in the sentence when the status is edited: both arms then say
    what the subject is, and the generator may hear that instead of the edit.  What is declared to
    follow the studied attribute vanishes with it, and is fine.
    """
    attribute = schema.attribute(studied)
    if not attribute.levels:
        return []
    known = set(schema.followers(studied)) | {studied}
    known |= {attribute.follows.attribute} if attribute.follows else set()
    cautions = []
    for name in schema.names("condition", "covariate"):
        if name in known:
            continue
        if empty := levels_without(_there(rows[name]), rows[studied]):
            levels = ", ".join(f'"{level}"' for level in empty)
            cautions.append(
                f"{name} is empty or 0 in (nearly) all who are {' or '.join(empty)}, and said of "
                f"others: an edit of {studied} would leave it as it is. Let it follow, `follows = "
                f'{{attribute = "{studied}", absent_for = [{levels}]}}` under '
                f"[schema.attributes.{name}], or ignore it"
            )
        elif (share := told_by(rows[name], rows[studied])) >= TOLD:
            cautions.append(
                f"{studied} is known from {name} in {share:.0%} of every level or more: where "
                f"{studied} is edited, {name} still says what it was. If both are one fact, ignore "
                f'{name} (role = "ignore"); if not, groups that differ in both cannot be told apart'
            )
    return cautions


def _there(values: pd.Series) -> pd.Series:
    """Whether there is a value, and not 0."""
    return values.notna() & (values != 0)


def levels_without(filled: pd.Series, leader: pd.Series) -> list[str]:
    """Levels of the leader whose subjects have no value, where those of another level have.

    filled: (n,) bool.  Levels of a few subjects are not asked.
    """
    levels = filled.groupby(leader).agg(["mean", "size"]).query("size >= @LEAST")["mean"]
    if levels.empty or levels.max() < FILLED:
        return []
    return [str(level) for level in levels.index[levels <= 1 - EMPTY]]


def told_by(values: pd.Series, leader: pd.Series) -> float:
    """Share of a level's subjects for whom most others with the same value are of that level.

    Of the level for which it is least.  Each subject is left out of its own prediction, so that a
    value of one subject tells nothing; levels of a few subjects are not asked.
    """
    both = pd.DataFrame({"value": values, "leader": leader}).dropna()
    counts = pd.crosstab(both["value"], both["leader"])
    common = [level for level in counts if counts[level].sum() >= LEAST]
    if len(common) < 2 or len(counts) > MOST_VALUES:
        return 0.0
    told = []
    for level in common:
        rest = counts.sub(counts.columns == level, axis="columns")
        hit = (rest[level] > 0) & (rest.idxmax(axis="columns") == level)
        told.append(counts[level][hit].sum() / counts[level].sum())
    return float(min(told))
