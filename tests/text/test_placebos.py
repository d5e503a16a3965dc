"""Placebos: permutations of the studied column, in words that mean nothing."""

from __future__ import annotations

import pandas as pd
import pytest
from text_helpers import cohort_table

from dgmvlc_cli.text.cleaning import clean
from dgmvlc_cli.text.describe import sentence
from dgmvlc_cli.text.placebos import THEMES, add_placebos, make_placebos
from dgmvlc_cli.text.propose import propose_schema

TABLE = cohort_table(60)
SCHEMA, _ = propose_schema(TABLE)
ROWS = clean(TABLE, SCHEMA).rows
SMOKING = ROWS["smoking"].where(ROWS.index != "ph-0002", None)


def _levels_of(placebo: pd.Series, record: dict) -> pd.Series:
    """What the words stand for."""
    return placebo.map({word: level for level, word in record["words"].items()})


def test_a_placebo_has_the_studied_columns_counts_and_missing_subjects():
    placebos, records = make_placebos(SMOKING, 4, seed=0)
    assert list(placebos) == list(records) == [f"placebo_{j}" for j in (1, 2, 3, 4)]
    for name, record in records.items():
        back = _levels_of(placebos[name], record)
        assert back.value_counts().to_dict() == SMOKING.value_counts().to_dict()
        assert (back.isna() == SMOKING.isna()).all()
        assert 0.1 < (back == SMOKING).mean() < 0.7


def test_placebos_depend_on_the_seed_and_not_on_the_order_of_rows():
    placebos, records = make_placebos(SMOKING, 4, seed=7)
    again, same = make_placebos(SMOKING.iloc[::-1], 4, seed=7)
    other, _ = make_placebos(SMOKING, 4, seed=8)
    pd.testing.assert_frame_equal(again.loc[placebos.index], placebos)
    assert same == records
    assert not other.equals(placebos)


def test_placebos_differ_from_each_other():
    placebos, records = make_placebos(SMOKING, 8, seed=0)
    orders = {tuple(_levels_of(placebos[name], r).fillna("")) for name, r in records.items()}
    words = [word for record in records.values() for word in record["words"].values()]
    assert len(orders) == 8
    assert len(set(words)) == len(words)


def test_a_numeric_placebo_permutes_the_numbers():
    placebos, records = make_placebos(ROWS["pack_years"], 1, seed=0)
    values = placebos["placebo_1"]
    assert sorted(values.dropna()) == sorted(ROWS["pack_years"].dropna())
    assert (values.isna() == ROWS["pack_years"].isna()).all()
    schema = add_placebos(SCHEMA, records, "pack_years")
    assert sentence({"placebo_1": 34.0}, schema) == "Chest CT of a patient. Archive shelf: 34."


def test_more_levels_than_words_stay_apart():
    column = pd.Series([f"level {i % 20}" for i in range(60)], dtype=object)
    words = make_placebos(column, 1, seed=0)[1]["placebo_1"]["words"]
    assert len(set(words.values())) == 20


@pytest.mark.parametrize("label", THEMES)
def test_words_of_a_theme_are_distinct_and_no_words_of_health(label: str):
    hints = {"smoke", "ash", "coal", "red", "pink", "old", "ill", "well", "dead", "low", "high"}
    words = {word.lower() for word in THEMES[label]}
    assert len(words) == 8
    assert not words & hints
