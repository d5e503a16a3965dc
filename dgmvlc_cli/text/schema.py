"""What each column of a clinical table means: the `[schema]` part of dgmvlc.toml."""

from __future__ import annotations

import difflib
import json
import math
import re
import string
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dgmvlc_cli.errors import UsageError

Kind = Literal["category", "number", "date", "flag", "id"]
Role = Literal["condition", "covariate", "outcome", "placebo", "ignore"]

IN_SENTENCE: frozenset[Role] = frozenset({"condition", "covariate", "placebo"})
WITH_LEVELS: frozenset[Kind] = frozenset({"category", "flag"})
FIRST_YEAR = 1800
LISTED = 40  # names in an error message
# Unit of a duration -> days.
DURATIONS = {"years": 365.25, "months": 30.4375, "weeks": 7.0, "days": 1.0}
GENERIC_TEMPLATE = "{label}: {value} {unit}."
OWN_NAMES = re.compile(r"subject|sentence|placebo_\d+")  # columns that the toolkit makes
TEMPLATE_FIELDS = frozenset({"label", "value", "unit"})


class _Frozen(BaseModel):
    # Codes stay texts, whether or not they were put in quotes: levels = [0, 1, 2].
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Follows(_Frozen):
    """A number or category that exists only for some levels of another attribute.

    attribute: the leading one.  absent_for: its levels for which this one is not applicable,
    e.g. pack-years follow smoking and are absent for never smokers.
    appears: level of the leading one -> what this one becomes where it newly appears with that
    level, e.g. {"current smoker" = 20}; else the cohort's median or commonest level.
    """

    attribute: str
    absent_for: tuple[str, ...]
    appears: dict[str, float | str] = Field(default_factory=dict)


class SeveralRows(_Frozen):
    """Which row of a subject counts, where its rows differ.

    keep: `first` or `last` of the file; `lowest` or `highest` of the column `by` (numbers or
    dates); `nearest`: the number nearest to 0, or the date nearest to the scan's.
    """

    keep: Literal["first", "last", "lowest", "highest", "nearest"]
    by: str = ""

    @model_validator(mode="after")
    def _complete(self) -> SeveralRows:
        if (self.keep in ("first", "last")) == bool(self.by):
            raise ValueError(
                f'keep = "{self.keep}" '
                + ("needs no `by`" if self.by else 'needs a column, e.g. by = "Weeks"')
            )
        return self

    @property
    def text(self) -> str:
        return f"{self.keep} {self.by}".strip()


class Attribute(_Frozen):
    """One column of the table and how it is read, cleaned, said and edited.

    role: `condition` is said in the sentence and can be edited; `covariate` too, and it is
    adjusted for in the regressions; `outcome` is kept but never said; `placebo` is made by the
    toolkit; `ignore` is not read.
    levels: legal values of a category or flag.  synonyms: lower-case raw text -> level.
    plausible: lowest and highest believable number, in `unit`; a range that begins in 1800 or
    later makes it a calendar year.  absolute: the sign is dropped, as of "days before the scan"
    that are written as negative numbers.  missing, not_applicable: raw texts that mean so, beyond
    the built-in list.  template: the clause, with {label}, {value}, {unit}; paraphrases: other
    templates that say the same, for `[train] rewordings`.  decimals: of the number in the sentence;
    None keeps three significant digits.
    A date in the sentence is said, and edited, as its time before the scan, in `unit` (years,
    months, weeks or days; default years).
    """

    column: str
    kind: Kind
    role: Role = "condition"
    label: str = ""
    levels: tuple[str, ...] = ()
    synonyms: dict[str, str] = Field(default_factory=dict)
    unit: str = ""
    decimals: int | None = Field(default=None, ge=0, le=6)
    plausible: tuple[float, float] | None = None
    absolute: bool = False
    missing: tuple[str, ...] = ()
    not_applicable: tuple[str, ...] = ()
    template: str | None = None
    paraphrases: tuple[str, ...] = ()
    follows: Follows | None = None

    @field_validator("template")
    @classmethod
    def _known_template(cls, template: str | None) -> str | None:
        return None if template is None else cls._known_fields(template)

    @field_validator("paraphrases")
    @classmethod
    def _known_paraphrases(cls, paraphrases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._known_fields(template) for template in paraphrases)

    @classmethod
    def _known_fields(cls, template: str) -> str:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
        used = {field for _, field, _, _ in parts if field is not None}
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise ValueError("a template takes plain {value}; set `decimals` to round it")
        if unknown := used - TEMPLATE_FIELDS:
            raise ValueError(f"unknown field {sorted(unknown)}; use {sorted(TEMPLATE_FIELDS)}")
        if "value" not in used:
            raise ValueError("a template must contain {value}")
        return template

    @model_validator(mode="after")
    def _consistent(self) -> Attribute:
        if self.in_sentence and self.kind in WITH_LEVELS and not self.levels:
            raise ValueError(
                f'a {self.kind} in the sentence needs levels, e.g. levels = ["a", "b"]'
            )
        if strangers := sorted(set(self.synonyms.values()) - set(self.levels)):
            raise ValueError(f"synonyms lead to {strangers}, which are not among the levels")
        if self.is_duration and self.unit and self.unit not in DURATIONS:
            raise ValueError(f'unit "{self.unit}" is none of a duration; use {list(DURATIONS)}')
        if self.plausible and not self.plausible[0] < self.plausible[1]:
            raise ValueError(f"plausible = {list(self.plausible)}: the lower bound must come first")
        for value in self.follows.appears.values() if self.follows else ():
            if not self._is_legal(value):
                raise ValueError(f"it appears as {value!r}, which is no value of it")
        return self

    def _is_legal(self, value: float | str) -> bool:
        """Whether a declared value is a plausible number, or one of the levels."""
        if not self.is_numeric:
            return str(value) in self.levels
        low, high = self.plausible or (-math.inf, math.inf)
        return not isinstance(value, str) and low <= value <= high

    @property
    def in_sentence(self) -> bool:
        """Whether the attribute is said in the sentence."""
        return self.role in IN_SENTENCE

    @property
    def is_duration(self) -> bool:
        """Whether it is a date that becomes a number: its time before the scan."""
        return self.kind == "date" and self.in_sentence

    @property
    def is_numeric(self) -> bool:
        """Whether its cleaned values are numbers."""
        return self.kind == "number" or self.is_duration

    @property
    def is_calendar_year(self) -> bool:
        """Whether it is a number such as 1998."""
        return self.kind == "number" and (self.plausible or (0.0, 0.0))[0] >= FIRST_YEAR

    @property
    def said_unit(self) -> str:
        """The unit as the sentence says it."""
        return f"{self.unit or 'years'} before the scan" if self.is_duration else self.unit

    def clause(self, wording: str) -> str:
        """Its clause without the value, by which a reader tells it from others; lower case.

        wording: as `Schema.wording`.
        """
        if wording == "paper" and self.template is None:
            return fold(self.column)
        template = self.template or GENERIC_TEMPLATE
        said = template.format(label=self.label or self.column, value="...", unit=self.said_unit)
        return fold(said)

    def level(self, text: str) -> str | None:
        """The level that a raw text stands for, whatever its case; None if there is none."""
        folded = fold(text)
        by_text = {fold(raw): level for raw, level in self.synonyms.items()}
        by_text |= {fold(level): level for level in self.levels}
        return by_text.get(folded)


class Schema(_Frozen):
    """The table's id column and its attributes by the name the user says, in sentence order.

    scan_date: column with the date of the scan.  several_rows: which row of a subject counts.
    wording: of clauses without a template of their own; `paper` is that of Xing et al. 2024.
    """

    id_column: str
    scan_date: str | None = None
    several_rows: SeveralRows | None = None
    wording: Literal["natural", "paper"] = "natural"
    attributes: dict[str, Attribute] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _leaders_exist(self) -> Schema:
        for name, attribute in self.attributes.items():
            if attribute.follows is not None and attribute.role != "ignore":
                self._check_leader(name, attribute.follows)
        return self

    @model_validator(mode="after")
    def _dates_have_a_scan(self) -> Schema:
        dates = [name for name, attribute in self.attributes.items() if attribute.is_duration]
        if dates and self.scan_date is None:
            raise ValueError(
                f"{dates[0]} is a date in the sentence, said as years before the scan: name the "
                'column of the scan\'s date, e.g. scan_date = "CT Date", or set role = "ignore"'
            )
        return self

    @model_validator(mode="after")
    def _said_apart(self) -> Schema:
        by_clause: dict[str, str] = {}
        for name in (name for name, one in self.attributes.items() if one.in_sentence):
            clause = self.attributes[name].clause(self.wording)
            other = by_clause.setdefault(clause, name)
            # A template of the value alone leaves all that is said to the levels.
            if other != name and any(letter.isalnum() for letter in clause):
                raise ValueError(
                    f'{other} and {name} would be said alike ("{clause}"): '
                    "give one of them another label, or ignore it"
                )
        return self

    def _check_leader(self, name: str, follows: Follows) -> None:
        leader = self.attributes.get(follows.attribute)
        if leader is None or leader.role == "ignore" or not leader.levels:
            raise ValueError(
                f'{name} follows "{follows.attribute}", which is no attribute with levels'
            )
        if leader.follows is not None:
            raise ValueError(f'{name} follows "{follows.attribute}", which itself follows another')
        if strangers := sorted(set(follows.absent_for) - set(leader.levels)):
            raise ValueError(f"{name} is absent for {strangers}, no levels of {follows.attribute}")
        with_it = set(leader.levels) - set(follows.absent_for)
        if strangers := sorted(follows.appears.keys() - with_it):
            raise ValueError(
                f"{name} cannot appear with {strangers}: no levels of {follows.attribute}, or "
                "absent_for names them"
            )

    def attribute(self, name: str) -> Attribute:
        """The attribute of that name.  Raises UsageError with the nearest and all legal names."""
        if name in self.attributes:
            return self.attributes[name]
        raise unknown_name("attribute", name, self.names())

    def names(self, *roles: Role) -> list[str]:
        """Names of the attributes with one of the roles (default: all but `ignore`), in order."""
        wanted = roles or ("condition", "covariate", "outcome", "placebo")
        return [name for name, a in self.attributes.items() if a.role in wanted]

    def followers(self, leader: str) -> dict[str, Attribute]:
        """The attributes that appear and vanish with the leading one."""
        return {
            name: a
            for name, a in self.attributes.items()
            if a.role != "ignore" and a.follows is not None and a.follows.attribute == leader
        }


def fold(text: str) -> str:
    """Text as it is compared: lower case, single spaces."""
    return " ".join(text.split()).lower()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like the given one, or None if none is near."""
    by_text = {fold(k): k for k in known}
    close = difflib.get_close_matches(fold(name), by_text, n=1, cutoff=0.5)
    inside = [text for text in by_text if fold(name) and fold(name) in text]
    found = close or inside
    return by_text[found[0]] if found else None


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name nobody knows: what was got, the nearest, and the legal ones."""
    known = list(known)
    close = nearest(name, known)
    guess = f' Did you mean "{close}"?' if close else ""
    listed = ", ".join(known[:LISTED]) + (", ..." if len(known) > LISTED else "")
    return UsageError(f'unknown {what} "{name}".{guess}', f"Use one of: {listed}.")


def schema_toml(schema: Schema, notes: Mapping[str, str]) -> str:
    """The commented `[schema]` text of dgmvlc.toml; reads back as the same Schema.

    notes: column -> what was seen in it.  Ignored columns come last.
    """
    order = sorted(schema.attributes.items(), key=lambda item: item[1].role == "ignore")
    fields = {"id_column": schema.id_column}
    fields |= schema.model_dump(exclude_defaults=True, exclude={"attributes"})
    head = ["[schema]", *_comment(notes.get(schema.id_column, ""))]
    blocks = [
        "\n".join([*head, *(f"{key} = {toml_value(value)}" for key, value in fields.items())])
    ]
    blocks += [_attribute_toml(name, a, notes.get(a.column, "")) for name, a in order]
    return "\n\n".join(blocks) + "\n"


def _attribute_toml(name: str, attribute: Attribute, note: str) -> str:
    fields = {"column": attribute.column, "kind": attribute.kind, "role": attribute.role}
    fields |= attribute.model_dump(exclude_defaults=True)
    lines = [f"{key} = {toml_value(value)}" for key, value in fields.items()]
    return "\n".join([*_comment(note), f"[schema.attributes.{_key(name)}]", *lines])


def _comment(note: str) -> list[str]:
    return [f"# {line}" for line in (_printable(part) for part in note.splitlines()) if line]


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).strip()


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)


def toml_value(value: Any) -> str:
    """A TOML value.  JSON's string escapes are legal TOML, but for DEL, which TOML forbids bare."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
