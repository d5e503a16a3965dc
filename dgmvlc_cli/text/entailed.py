"""What else a sentence says that goes with the studied attribute, and would contradict an edit."""

from __future__ import annotations

import pandas as pd

from dgmvlc_cli.text.schema import Schema

LEAST = 5  # subjects of a level, of which fewer show nothing
ELSEWHERE = 0.5  # present in so many of the others
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
        if level := _absent_level(rows[name], rows[studied]):
            cautions.append(
                f"{name} is empty or 0 in all who are {level}, and said of others: an edit of "
                f"{studied} would leave it as it is. Let it follow, `follows = {{attribute = "
                f'"{studied}", absent_for = ["{level}"]}}` under [schema.attributes.{name}], or '
                "ignore it"
            )
        elif (share := _told_by(rows[name], rows[studied])) >= TOLD:
            cautions.append(
                f"{studied} is known from {name} in {share:.0%} of every level or more: where "
                f"{studied} is edited, {name} still says what it was. If both are one fact, ignore "
                f'{name} (role = "ignore"); if not, groups that differ in both cannot be told apart'
            )
    return cautions


def _absent_level(values: pd.Series, leader: pd.Series) -> str | None:
    """A level of the leader in which nobody has a value, or all have 0, where most others have."""
    there = values.notna()
    if pd.api.types.is_numeric_dtype(values):
        there &= values != 0
    for level, members in there.groupby(leader):
        others = there[leader.notna() & (leader != level)]
        enough = min(len(members), len(others)) >= LEAST
        if enough and not members.any() and others.mean() >= ELSEWHERE:
            return str(level)
    return None


def _told_by(values: pd.Series, leader: pd.Series) -> float:
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
