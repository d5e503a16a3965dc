"""From a sentence embedding to what the sentence says: a linear reading, learned on practice text.

The pooled embedding of a templated sentence varies mostly with which clauses are there; what
they say is linearly decodable, but in directions of little variance.  Principal components of
a hundred sentences miss these, and a generator conditioned on them then understates every
effect.  Text costs nothing, though: a thousand practice sentences, written from recombined
values of the table, show the directions in which each attribute is said.  No image is involved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.text.describe import is_absent, sentence
from dgmvlc_cli.text.encoders import Encoder, encode_cached
from dgmvlc_cli.text.rewording import rephrased
from dgmvlc_cli.text.schema import WITH_LEVELS, Schema

PRACTICE_SENTENCES = 1000
MISSING_SHARE = 0.1
RIDGE = 1e-3  # embeddings have unit length, so this only steadies the solution


@dataclass(frozen=True, kw_only=True)
class Projection:
    """w = (embedding - mean) @ matrix.

    mean: (E,) float32, of the training sentences.  matrix: (E, K) float32, one column per code
    of an attribute, at unit variance over the training sentences.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @property
    def dim(self) -> int:
        return int(self.matrix.shape[1])

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, E) embeddings -> (n, K), float32."""
        return ((embeddings - self.mean) @ self.matrix).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Practice:
    """Practice sentences, read: embeddings (m, E) float32 and what they say, codes (m, K)."""

    embeddings: np.ndarray
    codes: np.ndarray


def fit_projection(practice: Practice, training: np.ndarray) -> Projection:
    """Ridge regression of the codes on practice embeddings, scaled to the training sentences.

    training: (n, E) embeddings of the training subjects' sentences.  A code that does not vary
    over them is silenced: nothing could be learned about it.
    """
    x = practice.embeddings - practice.embeddings.mean(axis=0)
    y = practice.codes - practice.codes.mean(axis=0)
    gram = (x.T @ x).astype(np.float64) + RIDGE * np.eye(x.shape[1])
    reading = np.linalg.solve(gram, x.T @ y)  # (E, K)
    mean = training.mean(axis=0)
    spread = ((training - mean) @ reading).std(axis=0)
    scale = np.where(spread > 1e-3 * max(spread.max(), 1e-12), spread, np.inf)
    matrix = (reading / scale).astype(np.float32)
    return Projection(mean=mean.astype(np.float32), matrix=matrix)


def practise(
    rows: pd.DataFrame,
    schema: Schema,
    encoder: Encoder,
    seed: int,
    cache_path: Path,
    *,
    reworded: bool = False,
) -> Practice:
    """Practice sentences from recombined values of the rows, and what they say.

    cache_path: as in encode_cached.  reworded: as many again, in other words.
    """
    made = practice_rows(rows, schema, seed, PRACTICE_SENTENCES * (2 if reworded else 1))
    stream = workspace.generator(seed, "rewording")
    texts = [sentence(row, schema) for row in made[:PRACTICE_SENTENCES]]
    texts += [rephrased(row, schema, stream) for row in made[PRACTICE_SENTENCES:]]
    return Practice(
        embeddings=encode_cached(encoder, texts, cache_path),
        codes=encode_rows(made, schema, rows),
    )


def practice_rows(
    rows: pd.DataFrame, schema: Schema, seed: int, count: int = PRACTICE_SENTENCES
) -> list[dict[str, Any]]:
    """Rows whose values are drawn attribute by attribute from the cohort's, some left missing.

    What follows another attribute is left out where it does not apply, as in real rows.
    """
    stream = workspace.generator(seed, "practice")
    present = {name: rows[name].dropna().to_numpy() for name in said(schema)}
    made = []
    for _ in range(count):
        row = {
            name: None
            if not len(values) or stream.random() < MISSING_SHARE
            else values[stream.integers(len(values))]
            for name, values in present.items()
        }
        made.append({name: _if_applicable(name, row, schema) for name in row})
    return made


def encode_rows(
    rows: Sequence[Mapping[str, Any]], schema: Schema, cohort: pd.DataFrame
) -> np.ndarray:
    """What rows say as numbers, (n, K): a column per level; for a number, presence and z-score.

    cohort: rows whose mean and SD scale the numbers.
    """
    columns = [column for name in said(schema) for column in _codes(name, rows, schema, cohort)]
    return np.stack(columns, axis=1)


def said(schema: Schema) -> list[str]:
    """Attributes that are part of the sentence, placebos included."""
    return [name for name, attribute in schema.attributes.items() if attribute.in_sentence]


def _if_applicable(name: str, row: Mapping[str, Any], schema: Schema) -> Any:
    follows = schema.attributes[name].follows
    if follows is not None and row.get(follows.attribute) in follows.absent_for:
        return None
    return row[name]


def _codes(
    name: str, rows: Sequence[Mapping[str, Any]], schema: Schema, cohort: pd.DataFrame
) -> list[np.ndarray]:
    attribute = schema.attributes[name]
    values = [row.get(name) for row in rows]
    if attribute.kind in WITH_LEVELS:
        return [np.array([float(value == level) for value in values]) for level in attribute.levels]
    present = np.array([float(not is_absent(value)) for value in values])
    if not attribute.is_numeric:
        return [present]
    mean, deviation = cohort[name].mean(), cohort[name].std()
    if not deviation > 0:  # one value, or the same in all who have one
        deviation = 1.0
    z = [0.0 if is_absent(value) else (float(value) - mean) / deviation for value in values]  # type: ignore[arg-type]
    return [present, np.array(z)]
