"""The studied effect beside what the models make of nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from effect_rows import evidence
from scipy import stats

from dgmvlc_cli.analysis.placebos import (
    calibration_words,
    placebo_calibration,
    placebo_coverage,
    with_placebo_p,
)


def test_the_effect_is_judged_by_placebos_and_real_scans_together():
    (got,) = placebo_calibration(evidence((-22.1, 9.0), -19.4)).itertuples()
    rms, se = np.sqrt((3.2**2 + 1.5**2) / 2), 9.0 / stats.norm.ppf(0.975)
    assert (got.placebos, got.largest) == (2, 3.2)
    assert got.rms == pytest.approx(rms)
    assert got.p == pytest.approx(2 * stats.t.sf(19.4 / rms, 2))  # the larger one
    quiet = evidence((-5.0, 9.0), -6.0, placebos=(0.1, -0.1, 0.1, -0.1))
    (got,) = placebo_calibration(quiet).itertuples()
    assert got.p == pytest.approx(2 * stats.norm.sf(6.0 / se))
    missing = evidence((np.nan, np.nan), -19.4, method="3 subjects")
    (got,) = placebo_calibration(missing).itertuples()
    assert got.p == pytest.approx(2 * stats.t.sf(19.4 / rms, 2))


def test_one_placebo_is_told_in_the_singular():
    assert calibration_words(1).startswith("by the size of 1 placebo (")
    assert calibration_words(2).startswith("by the root mean square of 2 placebos (")


def test_chance_by_way_of_lung_volume_counts_as_chance():
    """The debiased effect holds volume fixed and is narrower than what a model may have learned."""
    table = evidence((0.0, 5.0), 6.1, placebos=(0.9, -0.7, 0.3, -1.5))
    total = table[table["kind"] == "debiased"].assign(kind="observed", ci_low=-7.6, ci_high=7.6)
    alone = placebo_calibration(table[table["kind"] != "observed"])["p"].item()
    together = pd.concat([table[table["kind"] != "observed"], total])
    assert alone < 0.05 < placebo_calibration(together)["p"].item()


def test_the_calibrated_p_stands_beside_the_effect_with_its_method():
    table = with_placebo_p(evidence((-22.1, 9.0), -19.4).assign(method="paired"))
    own = table["kind"] == "model_implied"
    want = placebo_calibration(table)["p"].tolist()
    assert table.loc[own, "p_placebo"].tolist() == want
    assert table.loc[own, "method"].item().endswith("the larger p")
    assert table.loc[~own, "p_placebo"].isna().all()
    alone = with_placebo_p(evidence((-22.1, 9.0), -19.4, ()).assign(method="paired"))
    assert alone["p_placebo"].isna().all() and set(alone["method"]) == {"paired"}


@pytest.mark.parametrize("shrunken", [False, True], ids=["as observed", "shrunken"])
def test_a_model_of_nothing_but_chance_is_seldom_called_more(shrunken):
    rng, se = np.random.default_rng(0), 4.0
    draws = rng.normal(0, se, (200, 5))
    if shrunken:  # a generator that drops most chance associations and keeps a few whole
        draws[:, 1:] *= np.where(rng.random((200, 4)) < 0.2, 1.0, 0.1)
    half = stats.norm.ppf(0.975) * se
    p = np.array(
        [
            placebo_calibration(evidence((0.0, half), draw[0], tuple(draw[1:])))["p"].iloc[0]
            for draw in draws
        ]
    )
    assert (0.0 if shrunken else 0.005) < (p < 0.05).mean() < 0.07


def test_coverage_counts_intervals_with_width():
    effects = evidence((-22.1, 9.0), -19.4, placebos=(3.2, -7.0, 0.0))
    assert placebo_coverage(effects).covered == 2
    assert placebo_coverage(effects, "placebo").percent == pytest.approx(100 / 3)
