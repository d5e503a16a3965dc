"""The same row said otherwise: clauses in another order, in other words, some left out.

A generator that saw every subject's sentence in one wording may hear the wording too.  Training
can therefore draw, at every step, one of several wordings of a subject's row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.text.describe import (
    GENERIC_TEMPLATE,
    assemble,
    opening_attributes,
    present,
)
from dgmvlc_cli.text.schema import Attribute, Schema

PHRASES = (
    GENERIC_TEMPLATE,
    "The {label} is {value} {unit}.",
    "{value} {unit} ({label}).",
    "{label} recorded as {value} {unit}.",
)
CLAUSE_DROPOUT = 0.1
SHARE_OPENED = 0.5  # how often age and sex stay in the opening clause


def rewordings(rows: pd.DataFrame, schema: Schema, count: int, seed: int) -> list[list[str]]:
    """`count` other wordings of every row; a subject's depend on the seed and its name alone.

    rows: cleaned rows by subject, placebos included.
    """
    wordings = []
    for subject, values in rows.iterrows():
        stream = workspace.generator(seed, "rewording", str(subject))
        row = {str(name): value for name, value in values.items()}
        wordings.append([reworded(row, schema, stream) for _ in range(count)])
    return wordings


def reworded(row: Mapping[str, Any], schema: Schema, stream: np.random.Generator) -> str:
    """A row in other words, some of its clauses left out."""
    kept = {name: row[name] for name in present(row, schema) if stream.random() >= CLAUSE_DROPOUT}
    return rephrased(kept, schema, stream)


def rephrased(row: Mapping[str, Any], schema: Schema, stream: np.random.Generator) -> str:
    """A row in other words and order.  The paper's wording keeps its words."""
    said = present(row, schema)
    names = list(said)
    shuffled = {names[i]: said[names[i]] for i in stream.permutation(len(names))}
    if schema.wording == "paper":
        return assemble(row, shuffled, schema)
    opened = opening_attributes(shuffled) if stream.random() < SHARE_OPENED else ()
    chosen = {name: _with_a_phrase(attribute, stream) for name, attribute in shuffled.items()}
    return assemble(row, chosen, schema, opened)


def phrases(attribute: Attribute) -> Sequence[str]:
    """Templates in which an attribute can be said: its own ones, or the general ones."""
    own = (attribute.template,) if attribute.template else PHRASES
    return (*own, *attribute.paraphrases)


def said_in(schema: Schema) -> dict[str, list[str]]:
    """The templates of every attribute that is said, on which all rewordings depend."""
    return {name: list(phrases(a)) for name, a in schema.attributes.items() if a.in_sentence}


def _with_a_phrase(attribute: Attribute, stream: np.random.Generator) -> Attribute:
    choice = phrases(attribute)
    template = choice[int(stream.integers(len(choice)))]
    return attribute.model_copy(update={"template": template})
