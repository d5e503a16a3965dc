"""Augmented sentences: drawn by their key, and true to the row."""

from __future__ import annotations

import pytest
from text_helpers import cohort_table

from dgmvlc_cli.text.augment import NONE, Augmentation, augmented_sentence
from dgmvlc_cli.text.cleaning import clean
from dgmvlc_cli.text.describe import sentence
from dgmvlc_cli.text.placebos import add_placebos, make_placebos
from dgmvlc_cli.text.propose import propose_schema

TABLE = cohort_table(60)
PLAIN, _ = propose_schema(TABLE)
CLEAN = clean(TABLE, PLAIN).rows
PLACEBOS, RECORDS = make_placebos(CLEAN["smoking"], 2, seed=0)
SCHEMA = add_placebos(PLAIN, RECORDS, "smoking")
ROWS = CLEAN.join(PLACEBOS).to_dict("records")
SMOKERS = [row for row in ROWS if row["smoking"] == "former smoker" and row["pack_years"] > 0]


def draws(row: dict, augmentation: Augmentation, n: int = 200) -> list[str]:
    return [augmented_sentence(row, SCHEMA, augmentation, 0, "s1", step) for step in range(n)]


def test_without_augmentation_it_is_the_usual_sentence():
    for row in ROWS:
        assert augmented_sentence(row, SCHEMA, NONE, 0, "any") == sentence(row, SCHEMA)


def test_a_sentence_depends_on_seed_and_key_alone():
    every = Augmentation()
    first = augmented_sentence(SMOKERS[0], SCHEMA, every, 1, "s1", 7)
    augmented_sentence(SMOKERS[1], SCHEMA, every, 1, "s2", 7)
    assert augmented_sentence(SMOKERS[0], SCHEMA, every, 1, "s1", 7) == first
    assert len(set(draws(SMOKERS[0], every))) > 100


def test_shuffled_clauses_are_the_same_clauses_in_all_places():
    usual = sentence(SMOKERS[0], SCHEMA)
    shuffled = draws(SMOKERS[0], Augmentation(drop=0, paraphrase=0))
    clauses = sorted(usual.rstrip(".").split(". "))
    assert all(sorted(text.rstrip(".").split(". ")) == clauses for text in shuffled)
    assert all(text.startswith("Chest CT of ") for text in shuffled)
    places = {text.rstrip(".").split(". ").index(usual.split(". ")[2]) for text in shuffled}
    assert places == set(range(1, len(clauses)))


def test_dropped_clauses_take_what_follows_them_along_and_placebos_stay():
    texts = draws(SMOKERS[0], Augmentation(drop=0.4, shuffle=False, paraphrase=0))
    without = [text for text in texts if "Smoking status" not in text]
    assert 50 < len(without) < 110
    assert not any("pack-years" in text or "Quit smoking" in text for text in without)
    assert any("Smoking status" in text and "pack-years" not in text for text in texts)
    assert all(SMOKERS[0]["placebo_1"] in text for text in texts)


def test_paraphrases_say_the_same_values():
    texts = draws(SMOKERS[0], Augmentation(drop=0, shuffle=False, paraphrase=1))
    assert {text.split(" of ")[0] for text in texts} == {
        "Chest CT",
        "CT",
        "Lung CT scan",
    }
    for word in ("former smoker", f"{SMOKERS[0]['pack_years']:.0f} pack-years"):
        assert all(word in text for text in texts)
    assert any("Smoking status is former smoker." in text for text in texts)


@pytest.mark.parametrize("shares", [{"drop": 1.0}, {"drop": -0.1}, {"paraphrase": 1.1}])
def test_shares_outside_their_range_are_refused(shares: dict):
    with pytest.raises(ValueError, match="shares must lie"):
        Augmentation(**shares)
