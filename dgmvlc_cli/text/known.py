"""Attributes that are recognised by their header and their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from dgmvlc_cli.text.codes import code_levels, codes_apart, is_coded
from dgmvlc_cli.text.columns import (
    FITS,
    MAX_LEVELS,
    Column,
    column_levels,
    column_synonyms,
    look_up,
    vocabulary_share,
)
from dgmvlc_cli.text.schema import Kind, Role

SMOKING = {
    "never smoker": ("never", "never smoked", "never smoker", "nonsmoker", "non smoker",
                     "lifelong nonsmoker", "lifelong non smoker", "nie", "nieraucher",
                     "nichtraucher"),
    "former smoker": ("former", "former smoker", "ex", "ex smoker", "exsmoker", "past",
                      "past smoker", "previous", "previous smoker", "quit", "formerly smoked",
                      "ehemals", "ehemalig", "exraucher", "ex raucher"),
    "current smoker": ("current", "current smoker", "currently smokes", "active",
                       "active smoker", "smoker", "smokes", "aktuell", "raucher"),
}  # fmt: skip
SEX = {
    "female": ("f", "female", "woman", "w", "weiblich"),
    "male": ("m", "male", "man", "männlich", "maennlich"),
}
FLAG = {
    "no": ("no", "n", "false", "0", "unchecked", "-", "nein", "non"),
    "yes": ("yes", "y", "true", "1", "checked", "+", "ja", "oui"),
}

# Words of other persons, of whom a column speaks then.
OTHERS = (
    r"\b(maternal|paternal|mothers?|fathers?|parents?|parental|famil\w*|siblings?|brothers?|"
    r"sisters?|spouses?|partners?|husband|wife|household|passive|second ?hand|donors?|"
    r"mutter|vater)\b"
)
# Share of texts that a vocabulary knows from which it is that column's, with typing errors.
HALF_FITS = 0.5
TOBACCO_WORDS = (
    r"smok|tobac|tabac|tabag|rauch|nicotin|nikotin|"
    r"\b(cig|quit|cessation|pack ?y|packung|fumeu|fumad|fumat|fumar\b|fumo\b)"
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """An attribute we recognise by its header and its values.

    header: pattern on the header's words.  vocabulary: level -> texts that mean it; empty for
    numbers, dates and levels taken from the table.  coded: codes of levels count too.  The rest is
    as in Attribute.
    """

    header: str
    label: str
    kind: Kind = "number"
    role: Role = "condition"
    unit: str = ""
    decimals: int | None = None
    plausible: tuple[float, float] | None = None
    template: str | None = None
    absolute: bool = False
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent_for: tuple[str, ...] = ()
    coded: bool = False

    def fits(self, column: Column) -> bool:
        if not re.search(self.header, column.words) or re.search(OTHERS, column.words):
            return False
        if self.kind == "date" or column.is_date:
            return self.kind == "date" and column.is_date
        if self.plausible:
            low, high = self.plausible
            return column.share_between(-high if self.absolute else low, high) >= FITS
        if self.vocabulary:
            coded = self.coded and is_coded(column) and not is_flag(column)
            return coded or self.knows(column) or self._knows_half(column)
        return not column.is_numeric and 1 < len(column.distinct) <= MAX_LEVELS

    def knows(self, column: Column) -> bool:
        """Whether the vocabulary, where there is one, knows most texts of the column."""
        return not self.vocabulary or vocabulary_share(column, self.vocabulary) >= FITS

    def _knows_half(self, column: Column) -> bool:
        """Whether the rest may be typing errors: no other text is commoner than a known level."""
        meant = {text: look_up(text, self.vocabulary) for text in column.distinct}
        levels = Counter[str]()
        for text, level in meant.items():
            if level:
                levels[level] += column.distinct[text]
        strange = max(
            (column.distinct[text] for text, level in meant.items() if not level), default=0
        )
        half = vocabulary_share(column, self.vocabulary) >= HALF_FITS
        return half and len(levels) > 1 and strange <= min(levels.values())


# Tried in this order, which is also that of the sentence but for pack-years and quit year: their
# headers mention smoking too.  absent_for names levels of the smoking status.
KNOWN: dict[str, Known] = {
    "age": Known(
        header=r"^(?!.*\b(smok\w*|quit\w*|start\w*|stop\w*|onset|death|menarche|menopaus\w*|"
        r"pregnan\w*|birth|gestational|bone|lung|brain|vascular|groups?|class\w*|cat|categor\w*|"
        r"codes?|bins?|bands?|range|index|adjusted|score|months?|weeks?|days?)\b).*\b(age|alter)\b",
        label="age",
        role="covariate",
        unit="years",
        decimals=0,
        plausible=(0.0, 120.0),
    ),
    "sex": Known(
        header=r"\b(sex|gender|geschlecht)\b",
        label="sex",
        kind="category",
        role="covariate",
        vocabulary=SEX,
    ),
    "bmi": Known(
        header=r"\b(bmi|body mass index)\b",
        label="body mass index",
        role="covariate",
        unit="kg/m2",
        decimals=1,
        plausible=(10.0, 80.0),
    ),
    "pack_years": Known(
        header=r"\b(pack ?years?|pk ?yrs?|pack ?yrs?|packungsjahre)\b",
        label="smoking history",
        unit="pack-years",
        decimals=0,
        plausible=(0.0, 300.0),
        absent_for=("never smoker",),
    ),
    "quit_year": Known(
        header=r"\b(quit|stop|stopped|cessation)\b.*\byear\b|\byear\b.*\b(quit|stopped|cessation)\b",
        label="quit smoking",
        decimals=0,
        plausible=(1900.0, 2100.0),
        template="Quit smoking in {value}.",
        absent_for=("never smoker", "current smoker"),
    ),
    "quit_date": Known(
        header=r"\b(quit|stop|stopped|cessation)\b.*\bdate\b|\bdate\b.*\b(quit|stopped|cessation)\b",
        label="quit smoking",
        kind="date",
        template="Quit smoking {value} {unit}.",
        absent_for=("never smoker", "current smoker"),
    ),
    "quit_days": Known(
        header=r"\bsmok\w*\b.*\b(quit|stop|stopped|cessation)\b.*\b(date|days)\b",
        label="quit smoking",
        unit="days",
        decimals=0,
        plausible=(0.0, 29200.0),
        absolute=True,
        template="Quit smoking {value} days before the scan.",
        absent_for=("never smoker", "current smoker"),
    ),
    "smoking": Known(
        header=r"^(?!.*\b(age|years?|per|packs?|number|index|duration|start\w*|stop\w*|quit\w*|"
        r"cessation)\b).*\b(smok\w*|tobacco|raucher\w*)\b",
        label="smoking status",
        kind="category",
        vocabulary=SMOKING,
        coded=True,
    ),
    "diagnosis": Known(header=r"\bdiagnosis\b", label="diagnosis", kind="category"),
    "histology": Known(header=r"\bhistolog(y|ic type)\b", label="histology", kind="category"),
}
BIRTH = Known(
    header=r"\b(birth ?date|date of birth|dob)\b",
    label="age",
    kind="date",
    role="covariate",
    decimals=0,
    plausible=(0.0, 120.0),
)
SENTENCE_ORDER = (
    "age", "sex", "bmi", "smoking", "pack_years", "quit_year", "quit_date", "quit_days",
    "diagnosis", "histology",
)  # fmt: skip


def is_flag(column: Column) -> bool:
    """Whether every cell says yes or no, but for codes that stand apart."""
    texts = column.distinct.keys() - set(codes_apart(column))
    return bool(texts) and all(look_up(text, FLAG) for text in texts)


def known_levels(column: Column, known: Known) -> tuple[tuple[str, ...], dict[str, str]]:
    """Levels and synonyms that occur: by the vocabulary and in its order, else as in the table."""
    if known.kind != "category":
        return (), {}
    if not known.vocabulary:
        return column_levels(column), {}
    if known.coded and is_coded(column):
        return code_levels(column)
    found = {look_up(text, known.vocabulary) for text in column.distinct}
    levels = tuple(level for level in known.vocabulary if level in found)
    return levels, column_synonyms(column, known.vocabulary)
