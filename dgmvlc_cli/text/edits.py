"""Edit an attribute of a row, and let what depends on it follow.

A contrast holds everything else in the row fixed.  What newly appears with a level (the
pack-years of a never smoker who is edited to smoke) is set to what the schema declares for that
level, else to the cohort's median there, hence the same for every subject edited so: the contrast
then means "this level with its typical history", and does not vary with what cannot be known of
the subject.  A number that the subject already has is kept, and one that is unknown stays unknown.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.text.cells import parse_number
from dgmvlc_cli.text.coherence import smoking_contradiction, year_contradiction
from dgmvlc_cli.text.describe import is_absent, number_text, value_text
from dgmvlc_cli.text.schema import Attribute, Schema, fold, unknown_name


class ContradictionError(UsageError):
    """An edit that the rest of the row forbids, such as pack-years of a never smoker."""


def edit_row(
    row: Mapping[str, Any],
    edits: Mapping[str, str | float | None],
    schema: Schema,
    rows: pd.DataFrame,
    *,
    scan_year: float = math.nan,
) -> dict[str, Any]:
    """The row with the edits made and their bundles carried along.

    row: attribute -> cleaned value.  edits: attribute -> level, number, or None to say
    nothing of it; an edit named here wins over a bundle.  rows: the cohort whose medians newly
    appearing values take where the schema declares none.
    scan_year: of the subject's scan; where given, no calendar year may contradict it.
    Raises UsageError for an unknown or unsaid attribute, an unknown level or an implausible
    number, ContradictionError if the edit contradicts the rest of the row.
    """
    legal = {
        name: None if value is None else edit_value(schema, name, value)
        for name, value in edits.items()
    }
    edited = {**row, **legal}
    for leader in legal:
        for name in schema.followers(leader).keys() - legal.keys():
            edited[name] = _carried(row, edited, name, schema, rows)
    _refuse_contradictions(edited, legal, schema)
    _refuse_years(edited, legal, schema, scan_year)
    return edited


def edit_value(schema: Schema, attribute: str, value: str | float) -> str | float:
    """The level or number that an edit sets, checked.  Raises UsageError."""
    declared = schema.attribute(attribute)
    if not declared.in_sentence:
        raise UsageError(
            f"{attribute} has role {declared.role} and is not said in the sentence, "
            "so editing it changes nothing",
            f"Edit one of: {', '.join(schema.names('condition', 'covariate', 'placebo'))}.",
        )
    if declared.is_numeric:
        return _number(attribute, declared, value)
    return level_name(schema, attribute, str(value))


def level_name(schema: Schema, attribute: str, text: str) -> str:
    """The level that a text means: itself in any case, a synonym, or the only one it begins.

    Raises UsageError, with the nearest and all legal levels.
    """
    declared = schema.attribute(attribute)
    if (level := declared.level(text)) is not None:
        return level
    begun = [level for level in declared.levels if fold(level).startswith(fold(text))]
    if len(begun) != 1:
        raise unknown_name(f"level of {attribute}:", text, declared.levels)
    return begun[0]


def bundle_values(schema: Schema, leader: str, level: str, rows: pd.DataFrame) -> dict[str, Any]:
    """What newly appears with a level, and its value.

    It is what the schema declares (`appears`), else the cohort's median or commonest level.

    An attribute that no subject of that level has is None.  The level `never smoker`, for
    which everything that follows smoking is absent, gives {}.
    """
    peers = rows[rows[leader] == level]
    return {
        name: follower.follows.appears.get(level, _typical(peers[name].dropna(), follower))
        for name, follower in schema.followers(leader).items()
        if follower.follows is not None and level not in follower.follows.absent_for
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Attribute -> (old, new) of everything that differs between two rows; absent is None."""
    pairs = {name: (_or_none(before.get(name)), _or_none(new)) for name, new in after.items()}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def beyond(name: str, value: Any, rows: pd.DataFrame) -> str | None:
    """A caution where a number lies outside what the cohort has; None where it does not."""
    known = rows[name].dropna()
    if isinstance(value, str) or is_absent(value) or known.empty:
        return None
    low, high = float(known.min()), float(known.max())
    if low <= float(value) <= high:
        return None
    return (
        f"{name} {number_text(float(value))} lies outside what the cohort has "
        f"({number_text(low)} to {number_text(high)}): no generator has heard of it"
    )


def bracketed(before: str, after: str) -> tuple[str, str]:
    """Both sentences with the words that only one of them has in [brackets]."""
    words = before.split(), after.split()
    marked: tuple[list[str], list[str]] = [], []
    matcher = difflib.SequenceMatcher(None, *words, autojunk=False)
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        for side, run in zip(marked, (words[0][a0:a1], words[1][b0:b1]), strict=True):
            text = " ".join(run)
            side += [text if tag == "equal" else f"[{text}]"] if text else []
    return " ".join(marked[0]), " ".join(marked[1])


def edit_notes(
    row: Mapping[str, Any],
    edited: Mapping[str, Any],
    edits: Mapping[str, Any],
    schema: Schema,
    rows: pd.DataFrame,
    *,
    scan_year: float = math.nan,
) -> list[str]:
    """What came of each attribute that the edit touched, in words; arguments as in `edit_row`.

    Warnings follow of numbers that nobody has, and where what newly appeared does not suit the
    subject.
    """
    touched = [*edits, *(n for leader in edits for n in schema.followers(leader) if n not in edits)]
    notes = [_note(name, row, edited, edits, schema, rows) for name in touched]
    far = [beyond(name, edited[name], rows) for name in edits]
    notes += [f"WARNING: {reason}" for reason in far if reason]
    if reason := _smoked_too_much(edited, scan_year):
        notes.append(
            f"WARNING: {reason}: what newly appears does not suit this subject; choose with --set"
        )
    return notes


def _note(
    name: str,
    row: Mapping[str, Any],
    edited: Mapping[str, Any],
    edits: Mapping[str, Any],
    schema: Schema,
    rows: pd.DataFrame,
) -> str:
    attribute = schema.attributes[name]
    old, new = (_said(one.get(name), attribute) for one in (row, edited))
    if name in edits:
        return f"{name}: {old} -> {new}" if old != new else f"{name}: {new}, as it was"
    assert attribute.follows is not None
    leader = attribute.follows.attribute
    level = edited[leader]
    if level in attribute.follows.absent_for:
        if row.get(leader) in attribute.follows.absent_for:
            return f"{name}: not applicable, as before"
        return f"{name}: {old} -> not applicable, as {leader} is {level}"
    if row.get(leader) not in attribute.follows.absent_for:
        return f"{name}: {new}, kept"
    if level in attribute.follows.appears:
        return (
            f"{name}: appears as {new}, declared for {leader} {level} in dgmvlc.toml; "
            f"--set {name}=... for another"
        )
    peers = int(rows.loc[rows[leader] == level, name].notna().sum())
    if not peers:
        return f"{name}: unknown, as no {level} of the cohort has it; --set {name}=... to say it"
    kind = "median" if attribute.is_numeric else "commonest"
    return (
        f"{name}: appears as {new}, the cohort's {kind} where {leader} is {level} (n = {peers}); "
        f"--set {name}=... for another"
    )


def _said(value: Any, attribute: Attribute) -> str:
    return "unknown" if is_absent(value) else value_text(value, attribute)


def _carried(
    row: Mapping[str, Any],
    edited: Mapping[str, Any],
    name: str,
    schema: Schema,
    rows: pd.DataFrame,
) -> Any:
    """The follower's value after its leader was edited: vanished, appeared or kept."""
    follows = schema.attributes[name].follows
    assert follows is not None
    level = edited[follows.attribute]
    if level in follows.absent_for:
        return None
    if row.get(follows.attribute) in follows.absent_for:
        return bundle_values(schema, follows.attribute, level, rows)[name]
    return row.get(name)


def _refuse_contradictions(
    edited: Mapping[str, Any], edits: Mapping[str, str | float | None], schema: Schema
) -> None:
    for name, value in edits.items():
        follows = schema.attributes[name].follows
        level = edited.get(follows.attribute) if follows else None
        if follows and value is not None and level in follows.absent_for:
            raise ContradictionError(
                f"{name} cannot be set to {value_text(value, schema.attributes[name])}: "
                f"{follows.attribute} is {level}",
                f"Edit {follows.attribute} too, or leave this subject out.",
            )


def _refuse_years(
    edited: Mapping[str, Any], edits: Mapping[str, Any], schema: Schema, scan_year: float
) -> None:
    """Refuse an edit of a year, of the age or of pack-years that cannot be together."""
    age = _number_of(edited, "age")
    for name, attribute in schema.attributes.items():
        year = edited.get(name)
        asked = name in edits or "age" in edits
        if not attribute.is_calendar_year or not asked or is_absent(year):
            continue
        if reason := year_contradiction(name, float(str(year)), scan_year, age):
            raise ContradictionError(
                f"{name} would be {reason}",
                f"Edit {name} to a year that can be, or leave this subject out.",
            )
    asked_for = edits.keys() & {"age", "pack_years", "quit_year"}
    if asked_for and (reason := _smoked_too_much(edited, scan_year)):
        raise ContradictionError(f"{reason} cannot be", "Edit these too, or take another subject.")


def _smoked_too_much(row: Mapping[str, Any], scan_year: float) -> str | None:
    if math.isnan(scan_year):
        return None
    pack_years, age, quit_year = (
        _number_of(row, name) for name in ("pack_years", "age", "quit_year")
    )
    return smoking_contradiction(pack_years, age, scan_year, quit_year)


def _number_of(row: Mapping[str, Any], name: str) -> float:
    """NaN where it is absent, or told in bands such as `50-59`."""
    value = row.get(name)
    return math.nan if is_absent(value) or isinstance(value, str) else float(value)  # type: ignore[arg-type]


def _number(name: str, attribute: Attribute, value: str | float) -> float:
    number = parse_number(str(value), attribute.unit)
    if number is None:
        raise UsageError(
            f'{name} is a number, got "{value}"', f"Give it in {attribute.unit or '1'}."
        )
    bounds = attribute.plausible or ((0.0, math.inf) if attribute.is_duration else None)
    if bounds and not bounds[0] <= number <= bounds[1]:
        low, high = (number_text(b) if math.isfinite(b) else "any" for b in bounds)
        raise UsageError(f"{name} = {value} is not plausible", f"Give {low} to {high}.")
    return number


def _typical(values: pd.Series, attribute: Attribute) -> float | str | None:
    if values.empty:
        return None
    if attribute.is_numeric:
        return float(values.median())
    return str(values.value_counts().sort_index().idxmax())


def _or_none(value: Any) -> Any:
    return None if is_absent(value) else value
