"""Look at a clinical table and propose what each column means."""

from __future__ import annotations

import re
from collections.abc import Collection

import pandas as pd

from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text.cells import date_order
from dgmvlc_cli.text.codes import code_levels, codes_apart, is_coded
from dgmvlc_cli.text.columns import (
    MAX_LEVELS,
    Column,
    column_levels,
    column_synonyms,
    seen_in,
    sentinels,
)
from dgmvlc_cli.text.known import BIRTH, FLAG, KNOWN, SENTENCE_ORDER, Known, is_flag, known_levels
from dgmvlc_cli.text.roles import find_scan_date, identifies, is_days, is_outcome, role_of
from dgmvlc_cli.text.schema import OWN_NAMES, Attribute, Role, Schema, fold
from dgmvlc_cli.text.tobacco import follow_smoking, without_repeats

# Attributes in a proposed sentence.  Pack-years of the NSCLC-Radiogenomics table are read from
# the projected embedding with an R2 of 0.91 where the sentence has 7 attributes, 0.57 to 0.67
# where it has 12 and 0.19 with 25 (`dgmvlc describe --probe`, MiniLM, four placebos).
MAX_SAID = 12

DAYS_TEMPLATE = "{label}: {value} {unit} before the scan."
REPEAT_WORDS = re.compile(r"\b(weeks?|days?|months?)\b")
ID_NAMES = (
    "subject", "subject id", "participant id", "participant", "patient id", "patient",
    "case id", "case", "scan id", "study id", "mapping id", "id", "pid",
)  # fmt: skip
UNITS = frozenset(
    {"lbs", "lb", "kg", "g", "cm", "mm", "m", "l", "ml", "%", "years", "months", "weeks", "days",
     "kg/m2", "mmhg", "mg/dl", "g/dl", "pack-years"}
)  # fmt: skip


def propose_schema(table: pd.DataFrame) -> tuple[Schema, dict[str, str]]:
    """A schema for the table and, per column, a comment on what was seen and why.

    Raises DgmvlcError if no column can be the id.
    """
    order = date_order(table[header].unique() for header in table.columns)
    columns = [Column(header, table[header], order) for header in table.columns]
    id_column = find_id(columns)
    scan = find_scan_date(columns)
    notes = {id_column.header: _id_note(id_column, columns)}
    attributes: dict[str, Attribute] = {}
    others = [column for column in columns if column is not id_column]
    known = recognise([column for column in others if not is_outcome(column)], scan)
    taken = {name for name, _ in known.values()}
    for column in others:
        free_of = {*taken, *attributes}
        name, attribute, note = _propose(column, known.get(column.header), free_of, scan)
        attributes[name] = attribute
        notes[column.header] = note
    by_header = {column.header: column for column in columns}
    once = without_repeats(_known_first(attributes), by_header, notes)
    linked = follow_smoking(once, by_header)
    ordered = _said_apart(linked, notes)
    ordered = _shortened(ordered, notes)
    schema = Schema(
        id_column=id_column.header,
        scan_date=scan.header if scan else None,
        attributes=ordered,
    )
    return schema, notes


def _id_note(column: Column, columns: list[Column]) -> str:
    """How many ids there are, and what to declare where some have several rows."""
    repeated = sum(n > 1 for n in column.texts.value_counts())
    seen = f"{len(column.texts)} rows, {column.texts.nunique()} different ids."
    if not repeated:
        return seen
    times = [c.header for c in columns if REPEAT_WORDS.search(c.words) and c.is_numeric]
    rule = f'{{keep = "nearest", by = "{times[0]}"}}' if times else '{keep = "first"}'
    return (
        f"{seen} {counted(repeated, 'subject')} with several rows: say which one counts, for "
        f"example\n"
        f"several_rows = {rule}"
    )


def _shortened(attributes: dict[str, Attribute], notes: dict[str, str]) -> dict[str, Attribute]:
    """Ignore what would make the sentence too long; the boxes of one question stay together."""
    groups: dict[str, list[str]] = {}
    for name, attribute in attributes.items():
        if attribute.in_sentence:
            groups.setdefault(attribute.column.split("(choice=")[0], []).append(name)
    shortened, room = dict(attributes), MAX_SAID
    for names in groups.values():
        if len(names) <= room:
            room -= len(names)
            continue
        for name in names:
            attribute = attributes[name]
            shortened[name] = attribute.model_copy(update={"role": "ignore"})
            notes[attribute.column] += (
                f" Ignored: the sentence is full with {MAX_SAID - room} attributes, and the more "
                "it says the less is heard of each; ignore another to have this one."
            )
    return shortened


def find_id(columns: list[Column]) -> Column:
    """The column that names the subjects: by its header, else the first of unlike texts."""
    by_words = {column.words: column for column in columns}
    named = [by_words[name] for name in ID_NAMES if name in by_words]
    unique = [c for c in columns if len(set(c.texts)) == len(c.texts) and not c.is_numeric]
    candidates = [c for c in named if len(set(c.texts)) == len(c.texts)] or named or unique
    if not candidates:
        raise DgmvlcError(
            f"no column looks like a subject id: {', '.join(c.header for c in columns)}",
            'Name the id column "subject", or write `id_column` into dgmvlc.toml.',
        )
    return candidates[0]


def recognise(columns: list[Column], scan: Column | None) -> dict[str, tuple[str, Known]]:
    """Header -> name and what is known of it, for the best column of every known name.

    Of several the one of which more texts are known, then the one with the shortest header: `Age`
    before `Age at diagnosis`.
    """
    found: dict[str, tuple[str, Known]] = {}
    names: set[str] = set()
    for name, known in (*KNOWN.items(), ("age", BIRTH)):
        if name in names or (known.kind == "date" and scan is None):
            continue  # without the date of the scan a date says nothing
        fitting = [c for c in columns if c.header not in found and known.fits(c)]
        ranked = [(not known.knows(c), len(c.words.split()), i) for i, c in enumerate(fitting)]
        if ranked:
            found[fitting[min(ranked)[-1]].header] = name, known
            names.add(name)
    return found


def _propose(
    column: Column,
    recognised: tuple[str, Known] | None,
    taken: Collection[str],
    scan: Column | None,
) -> tuple[str, Attribute, str]:
    """Name, attribute and comment of one column."""
    seen = seen_in(column)
    if recognised:
        name, known = recognised
        attribute = _known_attribute(column, known)
        note = f"{seen} Recognised as {name}." + _unknown_note(column, attribute)
        return name, attribute, note + _code_note(column, attribute)
    if identifies(column):
        seen = f"{len(column.present)} values, {column.present.nunique()} different."
    role, reason = role_of(column, scan)
    attribute = _generic_attribute(column, role)
    note = " ".join(f"{seen} {reason}".split()) + _code_note(column, attribute)
    return _free_name(column.words, taken), attribute, note


def _unknown_note(column: Column, attribute: Attribute) -> str:
    """Texts of a column that are none of the levels."""
    if not attribute.levels:
        return ""
    strange = [
        f"{text} {n}"
        for text, n in column.distinct.items()
        if attribute.level(text) is None and text not in attribute.missing
    ]
    if not strange:
        return ""
    listed = ", ".join(strange[:MAX_LEVELS]) + (", ..." if len(strange) > MAX_LEVELS else "")
    return f" Left out until synonyms say which level they are: {listed}."


def _code_note(column: Column, attribute: Attribute) -> str:
    """What to do about levels that are numbers, and which numbers became none."""
    if not attribute.in_sentence or not attribute.levels:
        return ""
    note = ""
    if attribute.kind == "category" and is_coded(column):
        note = (
            " Codes, taken as levels: name them by levels and synonyms, or set kind = "
            '"number" without levels if they are a quantity.'
        )
    apart = ", ".join(attribute.missing)
    return note + (f" Taken as missing: {apart}." if apart else "")


def _known_attribute(column: Column, known: Known) -> Attribute:
    levels, synonyms = known_levels(column, known)
    return Attribute(
        column=column.header,
        kind=known.kind,
        role=known.role,
        label=known.label,
        levels=levels,
        synonyms=synonyms,
        unit=known.unit,
        decimals=known.decimals,
        plausible=known.plausible,
        template=known.template,
        absolute=known.absolute,
        missing=_missing(column, known),
        not_applicable=tuple(t for t in column.absent_texts if fold(t) in {"n/a", "na"}),
    )


def _missing(column: Column, known: Known) -> tuple[str, ...]:
    if known.kind == "number":
        return sentinels(column, None if known.absolute else known.plausible)
    return codes_apart(column) if known.coded and is_coded(column) else ()


def _generic_attribute(column: Column, role: Role) -> Attribute:
    label, unit = _label_and_unit(column.header)
    fields: dict[str, object] = {"column": column.header, "role": role, "label": label}
    if identifies(column):
        fields["kind"] = "id"
    elif column.is_date:
        fields |= {"kind": "date", "label": _without_date(label)}
    elif is_flag(column):
        fields |= {"kind": "flag", "levels": tuple(FLAG), "synonyms": column_synonyms(column, FLAG)}
        fields["missing"] = codes_apart(column)
    elif is_days(column):
        fields |= {"label": _without_date(label), "kind": "number", "unit": "days"}
        fields |= {"absolute": True, "template": DAYS_TEMPLATE}
    elif is_coded(column):
        levels, synonyms = code_levels(column)
        fields |= {"kind": "category", "levels": levels, "synonyms": synonyms}
        fields["missing"] = codes_apart(column)
    elif column.is_numeric:
        fields |= {
            "kind": "number",
            "unit": unit or column.unit,
            "missing": sentinels(column, None),
        }
    elif len(column.distinct) <= MAX_LEVELS:
        fields |= {"kind": "category", "levels": column_levels(column)}
    else:
        fields |= {"kind": "id" if column.present.is_unique else "category"}
    return Attribute.model_validate(fields)


def _without_date(label: str) -> str:
    words = re.sub(r"^date of |\bdate\b", "", label, flags=re.IGNORECASE)
    return " ".join(words.split())


def _label_and_unit(header: str) -> tuple[str, str]:
    """`Weight (lbs)` -> weight, lbs.  `Location (choice=RUL)` -> location RUL."""
    match = re.fullmatch(r"(.*?)\s*[(\[](.*)[)\]]\s*", header)
    if match and match[2].lower() in UNITS:
        return _in_prose(match[1]), match[2].lower()
    choice = re.fullmatch(r"(.*?)\s*\(choice=(.*)\)\s*", header)
    return _in_prose(f"{choice[1]} {choice[2]}" if choice else header), ""


def _in_prose(header: str) -> str:
    """A header as it reads inside a sentence: words, with abbreviations kept."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", header).split()
    shouted = header.isupper() and len(words) > 1
    return " ".join(w.lower() if shouted or w[1:].islower() else w for w in words)


def _free_name(words: str, taken: Collection[str]) -> str:
    stem = re.sub(r"[^a-z0-9]+", "_", words).strip("_") or "column"
    names = (stem if i == 1 else f"{stem}_{i}" for i in range(1, len(taken) + 4))
    return next(name for name in names if name not in taken and not OWN_NAMES.fullmatch(name))


def _known_first(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    """Sentence order: who, smoking, what is known of the disease, then the table's order."""
    known = {name: attributes[name] for name in SENTENCE_ORDER if name in attributes}
    return known | attributes


def _said_apart(attributes: dict[str, Attribute], notes: dict[str, str]) -> dict[str, Attribute]:
    """Number the labels of what would be said like another attribute, and note it."""
    apart: dict[str, Attribute] = {}
    taken: dict[str, str] = {}
    for name, attribute in attributes.items():
        count = 1
        numbered = attribute
        while attribute.in_sentence and numbered.clause("natural") in taken:
            count += 1
            numbered = _numbered(attribute, count)
        if count > 1:
            other = taken[attribute.clause("natural")]
            notes[attribute.column] += f" Said like {other}, so its label has a number."
        apart[name] = numbered
        if attribute.in_sentence:
            taken[numbered.clause("natural")] = name
    return apart


def _numbered(attribute: Attribute, count: int) -> Attribute:
    """The attribute with a number at its label, without a template that does not say the label."""
    label = attribute.label or attribute.column
    template = attribute.template if "{label}" in (attribute.template or "") else None
    return attribute.model_copy(update={"label": f"{label} {count}", "template": template})
