"""The probe: estimates against known answers, and what it says of a cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import dgmvlc
from small_models import small_bert
from test_describe_stage import workspace
from text_helpers import cohort_table, smoking_schema

from dgmvlc_cli.text.probe import auc, estimate, out_of_fold, probe, r2

LEVELS = ["never smoker", "former smoker", "current smoker"]


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half():
    y, score = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    pairs = [(a, b) for a in score[y == 1] for b in score[y == 0]]
    assert auc(y, score) == np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    assert auc(np.stack([y, y]), np.stack([score, -score])).tolist() == [0.875, 0.125]


def test_r2_is_one_for_the_truth_and_zero_for_the_mean():
    y = normal(50)
    assert r2(y, y) == 1
    assert r2(y, np.full(50, y.mean())) == pytest.approx(0)


def test_the_interval_of_r2_covers_its_value_in_large_samples():
    y = normal(4000)
    drawn = np.random.default_rng(1).integers(4000, size=(300, 4000))
    found = estimate(r2, y, y + normal(4000, scale=0.5, seed=2), drawn)
    assert found.low < 0.75 < found.high
    assert found.high - found.low < 0.05


def test_out_of_fold_ridge_equals_least_squares_where_there_is_no_noise():
    x = normal(60, 5)
    y = x @ normal(5, 2, seed=1) + 3
    folds = np.arange(60) % 5
    assert np.allclose(out_of_fold(x, y, folds), y, atol=1e-4)


def test_more_features_than_subjects_read_signal_and_make_nothing_of_noise():
    x = normal(120, 300)
    signal = 3 * x[:, :1] + normal(120, 1, scale=0.1, seed=1)
    x[:, 0] *= 30
    y = np.hstack([signal, normal(120, 1, seed=2)])
    scores = out_of_fold(x, y, np.arange(120) % 5)
    assert r2(y[:, 0], scores[:, 0]) > 0.9
    assert r2(y[:, 1], scores[:, 1]) < 0.1


def rows(n: int) -> pd.DataFrame:
    smoking = np.array(LEVELS, dtype=object)[np.arange(n) % 3]
    pack_years = np.where(smoking == "never smoker", np.nan, 30 + normal(n, scale=9, seed=3))
    return pd.DataFrame({"smoking": smoking, "pack_years": pack_years})


def test_what_is_in_the_features_is_read_and_what_is_not_is_named():
    cohort = rows(150)
    levels = np.stack([cohort["smoking"] == level for level in LEVELS], axis=1)
    told = np.hstack([levels + normal(150, 3, scale=0.05), normal(150, 5, seed=1)])
    inputs = {"x": dict.fromkeys(cohort, told)}
    found = probe(cohort, smoking_schema(), inputs, seed=0)
    readings = found.of("x")
    assert readings["smoking"]["estimate"] > 0.99
    assert readings["smoking"]["n"] == 150
    assert readings["pack_years"]["n"] == 100
    assert set(found.unheard("x")) == {"pack_years"}
    assert found.table["level"].tolist() == [
        *smoking_schema().attributes["smoking"].levels,
        "all",
        "",
    ]
    again = probe(cohort, smoking_schema(), inputs, seed=0)
    pd.testing.assert_frame_equal(found.table, again.table)


def test_levels_that_few_have_are_not_judged():
    cohort = rows(30)
    cohort.loc[cohort["smoking"] == "current smoker", "smoking"] = None
    cohort.loc[0, "smoking"] = "current smoker"
    inputs = {"x": dict.fromkeys(cohort, normal(30, 4))}
    found = probe(cohort, smoking_schema(), inputs, seed=0)
    assert found.untold["smoking"] == ["never smoker 9", "current smoker 1"]


def test_the_command_tells_what_a_model_hears_and_warns_where_it_does_not(tmp_path: Path):
    cohort_table(60).to_csv(tmp_path / "clinical.csv", index=False)
    w = workspace(tmp_path, tmp_path / "clinical.csv")
    model = small_bert(tmp_path / "model")
    said = dgmvlc("describe", "--probe", "--encoder", str(model), *w).stdout
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith("  ")}
    assert lines["smoking"].split()[1:3] == ["60", "AUC"]
    assert lines["bmi"].split()[2] == "R2"
    assert "placebo_4" in lines
    # A model of random weights, its states averaged over a sentence, hardly says a number.
    assert "WARNING: bmi can hardly be read" in said
    table = pd.read_csv(next((tmp_path / "text").glob("probe_*.tsv")), sep="\t")
    assert set(table["read_from"]) == {"embedding", "projection", "clause"}
    assert (table["low"] <= table["estimate"] + 1e-9).all()
