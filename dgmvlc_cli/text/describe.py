"""Cleaned row to sentence: natural clauses in a fixed order, missing values left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dgmvlc_cli.text.cells import NUMBER_CODES
from dgmvlc_cli.text.cleaning import Cleaned
from dgmvlc_cli.text.schema import GENERIC_TEMPLATE, Attribute, Schema

FAR_RANGES = 10
FAR_CODES = 3  # times 95 % of the other numbers
NOUNS = {"female": "woman", "male": "man"}
# Said together in the opening clause, unless they have a template of their own.
OPENING = ("age", "sex")
PAPER_TEMPLATES = {"age": "Patient age: {value}.", "sex": "Gender: {value}."}


def sentence(row: Mapping[str, Any], schema: Schema) -> str:
    """The sentence of one subject: an opening clause, then a clause per attribute present.

    row: attribute name -> cleaned value; None, NaN or no entry at all means absent and is left
    out.  Clauses come in the schema's order, placebos last.  Equal rows give equal sentences.
    """
    said = present(row, schema)
    return assemble(row, said, schema, opening_attributes(said))


def assemble(
    row: Mapping[str, Any],
    said: Mapping[str, Attribute],
    schema: Schema,
    opened: Sequence[str] = (),
) -> str:
    """The sentence that says these attributes of a row in their order, `opened` ones first."""
    if schema.wording == "paper":
        return _paper_sentence(row, said)
    clauses = [clause(row[name], a) for name, a in said.items() if name not in opened]
    return " ".join([opening({name: row[name] for name in opened}, said), *clauses])


def opening_attributes(said: Mapping[str, Attribute]) -> tuple[str, ...]:
    """Which of the attributes the opening clause says: of ages only those in years."""
    return tuple(name for name in OPENING if name in said and _opens(name, said[name]))


def _opens(name: str, attribute: Attribute) -> bool:
    in_years = attribute.is_numeric and attribute.unit in ("", "years")
    return attribute.template is None and (name != "age" or in_years)


def present(row: Mapping[str, Any], schema: Schema) -> dict[str, Attribute]:
    """The attributes that a row says, in the sentence's order: placebos last."""
    said = {
        name: attribute
        for name, attribute in schema.attributes.items()
        if attribute.in_sentence and not is_absent(row.get(name))
    }
    return dict(sorted(said.items(), key=lambda item: item[1].role == "placebo"))


def _paper_sentence(row: Mapping[str, Any], said: Mapping[str, Attribute]) -> str:
    """The wording of Xing et al. 2024 (arXiv:2410.13823): `Lung CT scan: SMOKING HISTORY is ...`.

    A clause is a column's header and its value.  Two departures: pack-years, which the paper
    wrote as a bare number, have their header too, and no clause speaks of the outcome.
    """
    clauses = [_paper_clause(name, row[name], attribute) for name, attribute in said.items()]
    return f"Lung CT scan: {' '.join(clauses)}".rstrip(" ,.:") + "."


def _paper_clause(name: str, value: float | str, attribute: Attribute) -> str:
    if attribute.template is not None:
        return clause(value, attribute)
    text = value_text(value, attribute)
    if name in PAPER_TEMPLATES:
        return PAPER_TEMPLATES[name].format(value=text.capitalize())
    label = attribute.label if attribute.role == "placebo" else attribute.column
    unit = attribute.said_unit if attribute.is_duration else ""
    return f"{label} is {text} {unit}".strip() + ","


def is_absent(value: Any) -> bool:
    """Whether a cell of a cleaned row holds nothing: None, NaN or an empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def clause(value: float | str, attribute: Attribute) -> str:
    """One clause, by the attribute's template or as `Label: value unit.`"""
    text = value_text(value, attribute)
    unit = attribute.said_unit
    if text == "1":
        first, *rest = unit.split(" ", 1)
        unit = " ".join([first.removesuffix("s"), *rest])
    filled = (attribute.template or GENERIC_TEMPLATE).format(
        label=attribute.label or attribute.column, value=text, unit=unit
    )
    tidy = " ".join(filled.split()).replace(" .", ".")
    return tidy[:1].upper() + tidy[1:]


def value_text(value: float | str, attribute: Attribute) -> str:
    """A value as it is written in a sentence: numbers rounded, levels as they are."""
    if not attribute.is_numeric:
        return str(value)
    decimals = 1 if attribute.is_duration and attribute.decimals is None else attribute.decimals
    return number_text(float(value), decimals)


def number_text(number: float, decimals: int | None = None) -> str:
    """Rounded to `decimals`, or to three significant digits; never rounded to a false zero."""
    if decimals is not None and (number == 0 or round(number, decimals) != 0):
        return f"{number:.{decimals}f}"
    if number.is_integer() or abs(number) >= 100:
        return f"{number:.0f}"
    return f"{number:.{max(0, 2 - math.floor(math.log10(abs(number))))}f}".rstrip("0").rstrip(".")


def opening(row: Mapping[str, Any], said: Mapping[str, Attribute]) -> str:
    """The first clause, `Chest CT of a 63-year-old woman.`

    row: age and sex, if they are said.  said: their attributes.
    """
    sex = str(row["sex"]) if "sex" in row else ""
    noun = NOUNS.get(sex, f"{sex} patient".strip())
    if "age" not in row:
        return f"Chest CT of a {noun}."
    years = number_text(float(row["age"]), said["age"].decimals or 0)
    article = "an" if years.startswith("8") or years.split(".")[0] in {"11", "18"} else "a"
    return f"Chest CT of {article} {years}-year-old {noun}."


def prompts_table(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """prompts.tsv: subject, sentence, and one column per attribute of the schema.

    rows: cleaned rows by subject, with the placebo columns if the schema has placebos.
    """
    names = [name for name in schema.names() if name in rows.columns]
    records = zip(*(rows[name] for name in names), strict=True)
    sentences = [sentence(dict(zip(names, r, strict=True)), schema) for r in records]
    table = rows[names].rename_axis("subject").reset_index()
    table.insert(1, "sentence", sentences)
    return table


def rows_of_prompts(table: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """The cleaned rows in a prompts.tsv that was read with dtype=str; undoes `prompts_table`."""
    indexed = table.set_index("subject")
    columns = {}
    for name in schema.names():
        if name in indexed.columns:
            texts = indexed[name].astype(object)
            is_number = schema.attributes[name].is_numeric
            columns[name] = (
                pd.to_numeric(texts).astype(float)
                if is_number
                else texts.where(texts.notna() & (texts != ""), None)
            )
    return pd.DataFrame(columns, index=indexed.index)


def summarise(cleaned: Cleaned, schema: Schema) -> dict[str, dict[str, Any]]:
    """Per attribute: coverage, levels or range, and how much was left out and why.  JSON-ready."""
    names = [name for name in schema.attributes if name in cleaned.rows.columns]
    return {name: _summary(cleaned, name, schema.attributes[name]) for name in names}


def _far(values: pd.Series) -> list[float]:
    """Different numbers that lie FAR_RANGES times the width of the middle half away from it.

    Where the middle half is one number, the middle nine tenths are taken.  Codes for "missing"
    (-9, 88, 999) are measured by the other numbers, so that many of them do not hide each other,
    and are far where they are negative among numbers that are not, or FAR_CODES times as large.
    """
    is_code = values.isin(NUMBER_CODES)
    others = values[~is_code]
    below = 0.0 if (others >= 0).all() else -math.inf
    above = FAR_CODES * others.abs().quantile(0.95)
    far = is_code & ((values < below) | (values.abs() > above))
    for tail in (0.25, 0.05):
        low, high = others.quantile(tail), others.quantile(1 - tail)
        if (reach := FAR_RANGES * (high - low)) > 0:
            far |= (values < low - reach) | (values > high + reach)
            break
    return sorted(float(one) for one in values[far].unique()) if len(others) else []


def _summary(cleaned: Cleaned, name: str, attribute: Attribute) -> dict[str, Any]:
    values = cleaned.rows[name].dropna()
    status = cleaned.status[name].value_counts()
    reasons = cleaned.exclusions["reason"][cleaned.exclusions["attribute"] == name].value_counts()
    summary: dict[str, Any] = {
        "label": attribute.label or attribute.column,
        "kind": attribute.kind,
        "role": attribute.role,
        "n": len(cleaned.rows),
        **{
            key.replace(" ", "_"): int(status.get(key, 0))
            for key in ("present", "unknown", "not applicable", "excluded")
        },
        "left_out": {str(reason): int(n) for reason, n in reasons.items()},
    }
    if attribute.is_numeric and len(values):
        low, median, high = (float(values.quantile(q)) for q in (0, 0.5, 1))
        summary |= {"unit": attribute.said_unit, "min": low, "median": median, "max": high}
        if far := _far(values):
            summary["far"] = far
    elif attribute.levels:
        counts = values.value_counts()
        summary["levels"] = {level: int(counts.get(level, 0)) for level in attribute.levels}
    return summary
