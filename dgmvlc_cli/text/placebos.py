"""Attributes of no meaning: shuffled copies of the studied one, in words that say nothing.

They ride along in every training sentence.  What a generator makes of them is the null that
the studied effect must beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dgmvlc_cli.text.schema import Attribute, Schema
from dgmvlc_cli.workspace import generator

# Label of the clause -> words for the levels.  None hints at health, age, order or quantity.
# Chosen so that swapping a word moves MiniLM's embedding about as far (0.06 to 0.12, root mean
# square) as editing the smoking status does (0.05 the words alone, 0.11 with pack-years): a
# placebo that the generator hardly hears would be too easy a null, a louder one crowds out what
# is studied.
THEMES: dict[str, tuple[str, ...]] = {
    "Archive shelf": ("birch", "maple", "larch", "alder", "rowan", "willow", "hazel", "cedar"),
    "Folder colour": ("blue", "green", "yellow", "purple", "orange", "brown", "grey", "white"),
    "Archive room": ("granite", "basalt", "slate", "marble", "quartz", "onyx", "jasper", "flint"),
    "Box pattern": ("striped", "dotted", "checked", "plain", "wavy", "dashed", "tiled", "woven"),
    "Archive shape": (
        "circle",
        "square",
        "hexagon",
        "triangle",
        "diamond",
        "oval",
        "kite",
        "arrow",
    ),
    "Archive index": ("alpha", "delta", "sigma", "omega", "kappa", "theta", "lambda", "gamma"),
    "Archive star": ("Vega", "Sirius", "Rigel", "Altair", "Antares", "Deneb", "Castor", "Pollux"),
    "Archive town": ("Oslo", "Lisbon", "Vienna", "Krakow", "Dublin", "Athens", "Turin", "Ghent"),
}


def make_placebos(
    column: pd.Series, k: int, seed: int
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """k shuffled copies of a cleaned column, and what their words stand for.

    column: the studied attribute by subject; missing values stay missing at their subjects.
    Returns columns placebo_1 .. placebo_k with neutral words (numbers stay numbers), and per
    placebo {"label": clause label, "words": {level: word}} ("words" is empty for numbers).
    Every subject's word depends on the seed and the set of subjects, not on the row order.
    """
    columns, records = {}, {}
    for j in range(1, k + 1):
        label, themed = _theme(j)
        shuffled = _shuffle(column, seed, j)
        words = {} if _is_numeric(column) else _words(column, themed, seed, j)
        columns[f"placebo_{j}"] = shuffled.map(words.get) if words else shuffled
        records[f"placebo_{j}"] = {"label": label, "words": words}
    return pd.DataFrame(columns, index=column.index), records


def add_placebos(schema: Schema, placebos: Mapping[str, Mapping[str, Any]], studied: str) -> Schema:
    """The schema with the placebos as attributes, so that they are said and edited like any.

    placebos: as `make_placebos` returns them.  studied: the attribute they shuffle.
    """
    original = schema.attribute(studied)
    added = {name: _attribute(name, record, original) for name, record in placebos.items()}
    return schema.model_copy(update={"attributes": {**schema.attributes, **added}})


def _attribute(name: str, record: Mapping[str, Any], original: Attribute) -> Attribute:
    return Attribute(
        column=name,
        kind="category" if record["words"] else "number",
        role="placebo",
        label=record["label"],
        levels=tuple(record["words"].values()),
        decimals=original.decimals,
        plausible=original.plausible,
    )


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype)


def _shuffle(column: pd.Series, seed: int, j: int) -> pd.Series:
    present = column.dropna().sort_index()
    order = generator(seed, "placebo", j).permutation(len(present))
    shuffled = pd.Series(present.to_numpy()[order], index=present.index, dtype=column.dtype)
    return shuffled.reindex(column.index)


def _words(column: pd.Series, themed: Sequence[str], seed: int, j: int) -> dict[str, str]:
    """A word per level, drawn without replacement; a number is added where words run out."""
    levels = sorted(column.dropna().unique())
    rounds = -(-len(levels) // len(themed))
    pool = [w if i == 0 else f"{w} {i + 1}" for i in range(rounds) for w in themed]
    order = generator(seed, "placebo words", j).permutation(len(pool))
    return {level: pool[i] for level, i in zip(levels, order, strict=False)}


def _theme(j: int) -> tuple[str, tuple[str, ...]]:
    label, words = list(THEMES.items())[(j - 1) % len(THEMES)]
    repeat = (j - 1) // len(THEMES)
    return (f"{label} {repeat + 1}" if repeat else label), words
