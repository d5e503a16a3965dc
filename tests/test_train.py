import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.config import parse_settings
from dgmvlc_cli.stages.train import Divergence, read_texts, training_set
from dgmvlc_cli.text.describe import sentence
from dgmvlc_cli.text.schema import Attribute, Schema


def noticed(losses) -> list[int]:
    watch = Divergence()
    return [step for step, loss in enumerate(losses) if watch.begins(loss)]


def test_a_loss_that_doubles_is_noticed_once():
    rising = [1.0] * 50 + [1.0 + 0.1 * step for step in range(100)]
    (step,) = noticed(rising)
    assert 60 < step < 130


def test_a_loss_that_falls_or_shakes_is_not():
    assert not noticed([1 / (1 + step) for step in range(200)])
    assert not noticed([1.0 + 0.5 * (step % 2) for step in range(200)])
    assert not noticed([1.0, math.nan, math.inf] * 50)


class Counter:
    """An encoder that tells sentences apart by their length."""

    name, dim, sha256 = "counter", 3, "0"

    def encode(self, sentences):
        return np.array([[len(one), 0, 1] for one in sentences], np.float32)


@pytest.mark.parametrize("count", [0, 2])
def test_every_subject_has_as_many_other_wordings_as_asked_for(count, tmp_path):
    schema = Schema(
        id_column="id",
        attributes={
            "age": Attribute(column="age", kind="number", label="age", unit="years"),
            "sex": Attribute(column="sex", kind="category", levels=("female", "male")),
        },
    )
    rows = pd.DataFrame(
        {"age": [50.0, 60.0, 71.0], "sex": ["male", "female", None]}, index=list("abc")
    )
    said = [sentence(row, schema) for row in rows.to_dict("records")]
    cohort = SimpleNamespace(rows=rows, schema=schema, sentences=said)
    settings = parse_settings(
        {"scans": {"path": "scans"}, "train": {"rewordings": count}}, source="the test"
    )
    texts = read_texts(cohort, settings, Counter(), tmp_path / "cache.npz")
    assert texts.embeddings[:, 0].tolist() == [len(one) for one in said]
    assert texts.rewordings.shape == (3, count, 3)
    assert len(texts.practice.codes) == (2000 if count else 1000)
    chosen = training_set(
        (np.zeros((3, 2, 2, 2)), np.zeros((3, 2, 2, 2))), texts, np.array([1, 0, 1], bool)
    )
    assert chosen.rewordings.shape == (2, count, 3)
