"""Sentences said otherwise, as augmentation in training: clauses dropped, shuffled, paraphrased.

Pure functions of (row, schema, seed, keys), off unless called: the generator then learns that an
attribute means the same wherever it stands, however it is worded, and whatever else is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dgmvlc_cli import workspace
from dgmvlc_cli.text.describe import OPENING, clause, opening, present
from dgmvlc_cli.text.schema import Attribute, Schema

# Other wordings of one clause, for attributes without a template of their own.
PARAPHRASES = ("{label}: {value} {unit}.", "{label} is {value} {unit}.", "{label} {value} {unit}.")
OPENINGS = (
    "{opening}",
    "{opening}",  # the usual one, as often as the others together
    "CT of the chest of {who}.",
    "Lung CT scan of {who}.",
)
USUAL = "Chest CT of "


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a sentence may differ from the usual one.

    drop: share of clauses left out, in [0, 1); followers go with their leader, placebos stay.
    shuffle: whether the clauses change places.  paraphrase: share worded otherwise, in [0, 1].
    """

    drop: float = 0.1
    shuffle: bool = True
    paraphrase: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.drop < 1 and 0 <= self.paraphrase <= 1):
            raise ValueError(f"shares must lie in [0, 1), got {self.drop} and {self.paraphrase}")


NONE = Augmentation(drop=0.0, shuffle=False, paraphrase=0.0)


def augmented_sentence(
    row: Mapping[str, Any],
    schema: Schema,
    augmentation: Augmentation,
    seed: int,
    *keys: str | int,
) -> str:
    """A sentence of the row, drawn by (seed, keys) alone: the same for the same subject and step.

    Without any augmentation it is the usual sentence.  Only the natural wording is varied.
    """
    stream = workspace.generator(seed, "augment", *keys)
    said = _kept(present(row, schema), schema, augmentation.drop, stream)
    first = {n: row[n] for n in OPENING if n in said and said[n].template is None}
    begun = opening(first)
    clauses = []
    for name, attribute in said.items():
        if name not in first:
            draw = stream.random(2)
            clauses.append(_clause(row[name], attribute, draw, augmentation.paraphrase))
    if stream.random() < augmentation.paraphrase:
        wording = OPENINGS[stream.integers(len(OPENINGS))]
        begun = wording.format(opening=begun, who=begun.removeprefix(USUAL).rstrip("."))
    if augmentation.shuffle:
        clauses = [clauses[i] for i in stream.permutation(len(clauses))]
    return " ".join([begun, *clauses])


def _kept(
    said: dict[str, Attribute], schema: Schema, drop: float, stream: Any
) -> dict[str, Attribute]:
    """The attributes that stay; whatever follows a dropped one goes too."""
    draws = {name: stream.random() for name in said}
    gone = {n for n, a in said.items() if a.role != "placebo" and draws[n] < drop}
    gone |= {follower for name in gone for follower in schema.followers(name)}
    return {name: attribute for name, attribute in said.items() if name not in gone}


def _clause(value: float | str, attribute: Attribute, draw: Any, share: float) -> str:
    if attribute.template is not None or draw[0] >= share:
        return clause(value, attribute)
    wording = PARAPHRASES[int(draw[1] * len(PARAPHRASES))]
    return clause(value, attribute.model_copy(update={"template": wording}))
