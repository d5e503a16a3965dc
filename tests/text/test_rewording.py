"""A row in other words says the same."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from dgmvlc_cli.text.projection import PRACTICE_SENTENCES, practise
from dgmvlc_cli.text.rewording import CLAUSE_DROPOUT, rephrased, rewordings
from dgmvlc_cli.text.schema import Attribute, Schema

VALUES = {"age": "63", "sex": "female", "smoking": "former smoker", "quit_year": "2009"}
ROW = {"age": 63.0, "sex": "female", "smoking": "former smoker", "quit_year": 2009.0}


def schema(**changes: str) -> Schema:
    return Schema(
        id_column="subject",
        attributes={
            "age": Attribute(column="Age", kind="number", label="age", unit="years", decimals=0),
            "sex": Attribute(column="Sex", kind="category", label="sex", levels=("female", "male")),
            "smoking": Attribute(
                column="Smoking",
                kind="category",
                label="smoking status",
                levels=("never smoker", "former smoker"),
            ),
            "quit_year": Attribute(
                column="Quit",
                kind="number",
                decimals=0,
                template="Quit smoking in {value}.",
                paraphrases=("No cigarette since {value}.",),
            ),
        },
        **changes,
    )


def many(n: int = 200, **changes: str) -> list[str]:
    stream = np.random.default_rng(0)
    return [rephrased(ROW, schema(**changes), stream) for _ in range(n)]


def test_other_words_say_every_value_once():
    for text in many():
        said = text.lower().replace("woman", "female")
        assert {name: said.count(value) for name, value in VALUES.items()} == dict.fromkeys(
            VALUES, 1
        ), text


def test_order_and_phrases_vary_and_paraphrases_are_used():
    texts = many()
    assert len(set(texts)) > 50
    assert {text.split(".")[0] for text in texts} == {
        "Chest CT of a 63-year-old woman",
        "Chest CT of a patient",
    }
    own, other = (sum(phrase in text for text in texts) for phrase in ("Quit", "No cigarette"))
    assert min(own, other) > 60 and own + other == len(texts)


def test_the_papers_words_change_their_order_alone():
    clauses = [
        sorted(re.findall(r"\w+", text.removeprefix("Lung CT scan: ")))
        for text in many(wording="paper")
    ]
    assert all(one == clauses[0] for one in clauses)
    assert len(set(many(wording="paper"))) > 10


def test_clauses_are_left_out_as_often_as_said_and_absent_ones_never_said():
    rows = pd.DataFrame([ROW | {"quit_year": None}] * 300, index=[f"s{i}" for i in range(300)])
    made = [text for of_one in rewordings(rows, schema(), 4, 0) for text in of_one]
    assert not any("2009" in text or "Quit" in text for text in made)
    left_out = np.mean(["former smoker" not in text.lower() for text in made])
    assert left_out == pytest.approx(CLAUSE_DROPOUT, abs=0.03)


def test_a_subjects_wordings_depend_on_seed_and_name_alone():
    rows = pd.DataFrame([ROW] * 3, index=["a", "b", "c"])
    made = dict(zip(rows.index, rewordings(rows, schema(), 5, 1), strict=True))
    turned = rows.loc[["c", "a"]]
    assert dict(zip(turned.index, rewordings(turned, schema(), 5, 1), strict=True)) == {
        name: made[name] for name in ("c", "a")
    }
    assert made["a"] != made["b"]
    assert made["a"] != rewordings(rows, schema(), 5, 2)[0]


def test_a_paraphrase_without_the_value_is_refused():
    with pytest.raises(ValidationError, match=r"must contain \{value\}"):
        Attribute(column="Age", kind="number", paraphrases=("Old.",))


class Recorder:
    """An encoder that keeps what it was given."""

    name, dim, sha256 = "recorder", 2, "0"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, sentences):
        self.texts += sentences
        return np.zeros((len(sentences), 2), np.float32)


def test_practice_in_other_words_comes_on_top_of_the_plain_one(tmp_path):
    rows = pd.DataFrame(
        {
            "age": np.arange(40.0, 80.0),
            "sex": ["female", "male"] * 20,
            "smoking": ["never smoker"] * 20 + ["former smoker"] * 20,
            "quit_year": [None] * 20 + list(np.arange(1990.0, 2010.0)),
        }
    )
    plain, both = Recorder(), Recorder()
    alone = practise(rows, schema(), plain, 0, tmp_path / "plain.npz")
    with_others = practise(rows, schema(), both, 0, tmp_path / "both.npz", reworded=True)
    assert (with_others.codes[:PRACTICE_SENTENCES] == alone.codes).all()
    assert with_others.codes.shape == (2 * PRACTICE_SENTENCES, alone.codes.shape[1])
    assert set(plain.texts) < set(both.texts)
    assert len(set(both.texts) - set(plain.texts)) > PRACTICE_SENTENCES / 2
