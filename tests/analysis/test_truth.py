"""Estimates beside a truth that is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from effect_rows import evidence, row
from scipy import stats
from simulated_cohort import LEVELS

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.truth import (
    compare_truth,
    recovery_line,
    recovery_sentence,
    recovery_table,
    recovery_words,
)


def test_truth_is_averaged_over_the_subjects_used():
    truth = pd.DataFrame(
        {
            "subject": ["a", "b", "c", "c"],
            "attribute": "smoking",
            "from": [*[LEVELS[0]] * 3, LEVELS[1]],
            "to": [*[LEVELS[1]] * 3, LEVELS[0]],
            "measure": "mean_hu",
            "region": "upper",
            "change": [-20.0, -24.0, -100.0, 100.0],
            "unit": "HU",
        }
    )
    observed = pd.DataFrame([row("observed", -50.0, 9.0)])
    effects = pd.concat([evidence((-22.1, 9.0), -19.4), observed])
    (got,) = compare_truth(effects, truth, ["a", "b"]).itertuples()
    assert (got.n, got.truth) == (2, -22.0)
    assert got.ratio == pytest.approx(19.4 / 22)
    assert got.debiased_covers and not got.observed_covers
    assert compare_truth(effects, truth).loc[0, "truth"] == -48
    assert compare_truth(effects, truth.assign(attribute="age")).empty


def test_truth_of_levels_with_arrows_is_found():
    arrows = ("<5 -> 10", "II: -> x")
    known = {"attribute": "stage", "from": arrows[0], "to": arrows[1], "unit": "HU"}
    truth = pd.DataFrame(
        [{"subject": "a", "measure": "mean_hu", "region": "upper", "change": -20.0, **known}]
    )
    effects = pd.concat(
        [evidence((-22.1, 9.0), -19.4), pd.DataFrame([row("observed", -50.0, 9.0)])]
    )
    effects["contrast"] = effects["contrast"].where(
        effects["kind"].str.startswith("placebo"), Contrast("stage", *arrows).text
    )
    assert compare_truth(effects, truth).loc[0, "truth"] == -20


@pytest.mark.parametrize(
    ("change", "debiased", "found", "said"),
    [
        (-20.0, -22.0, True, ": found"),
        (20.0, -22.0, False, ": not found"),
        (-20.0, -2.0, False, ": not found"),
        (0.0, -22.0, False, ": false, nothing is there"),
        (0.0, -2.0, False, ": rightly nothing"),
    ],
)
def test_only_what_is_there_can_be_found(change, debiased, found, said):
    truth = pd.DataFrame(
        {
            "subject": ["a"],
            "attribute": "smoking",
            "from": LEVELS[0],
            "to": LEVELS[1],
            "measure": "mean_hu",
            "region": "upper",
            "change": change,
            "unit": "HU",
        }
    )
    observed = pd.DataFrame([row("observed", debiased, 9.0)])
    (got,) = compare_truth(
        pd.concat([evidence((debiased, 9.0), debiased), observed]), truth
    ).to_dict("records")
    assert got["found"] == found
    assert recovery_sentence(got).endswith(said) and "nan" not in recovery_sentence(got)


def control(effect_hu: float, debiased: float, found: bool) -> tuple[dict, pd.DataFrame]:
    """A planted control and its comparison with the truth."""
    row = {
        "measure": "mean_hu", "region": "upper", "n": 96, "truth": effect_hu, "unit": "HU",
        "model_implied": debiased / 2, "observed": debiased, "debiased": debiased,
        "ci_low": debiased - 9, "ci_high": debiased + 9, "debiased_covers": True,
        "bias": debiased - effect_hu, "slope": debiased / effect_hu if effect_hu else np.nan,
        "found": found,
    }  # fmt: skip
    plant = {"effect_hu": effect_hu, "region": "upper", "model": "flow"}
    return plant, pd.DataFrame([row, row | {"region": "lower", "truth": 0.0}])


def test_a_series_of_plants_gives_the_slope_and_the_smallest_that_was_found():
    table = recovery_table([control(20, 18, True), control(5, 2, False), control(-10, -11, True)])
    assert table["effect_hu"].tolist() == [5, -10, 20]
    line = stats.linregress([5, -10, 20], [2, -11, 18])
    assert recovery_line(table) == pytest.approx((line.slope, line.intercept))
    assert recovery_line(table[:1]) == pytest.approx((0.4, 0))
    said = recovery_words(table)
    assert "planted 20 HU as measured, recovered 18 HU [9, 27]" in said[2]
    assert "smallest that was found: 10 HU" in said[-1]
    nothing = recovery_words(recovery_table([control(5, 2, False)]))
    assert nothing[-1] == "none was found: plant more than 5 HU"


def test_a_control_that_rounding_took_away_is_none_that_was_missed():
    plant, truth = control(0, 2, False)
    nothing = (plant | {"effect_hu": 0.4}, truth)
    said = recovery_words(recovery_table([nothing, control(20, 18, True)]))
    assert said[-1].endswith("above which none was missed: 20 HU")
    assert "rightly nothing" in said[0]
    assert "nothing was there to find" in recovery_words(recovery_table([nothing]))[-1]
