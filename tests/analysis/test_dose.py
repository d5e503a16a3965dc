"""Dose-response over arms of the same subjects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.analysis.dose import DOSE_COLUMNS, dose_response


def readings(levels: dict, n: int = 20, attribute: str = "smoking", draws: int = 1) -> pd.DataFrame:
    """n subjects with a level of their own; each arm moves by the level's change and 2 HU noise."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(n):
        own = rng.normal(-850, 25)
        for level, change in levels.items():
            arm = f"{attribute}={level:g}" if isinstance(level, float) else f"{attribute}={level}"
            for seed in range(draws):
                value = own + change + rng.normal(0, 2)
                rows.append((f"s{k:02d}", 0, seed, arm, "upper", "mean_hu", value, "HU", ""))
    columns = ["subject", "fold", "seed", "arm", "region", "measure", "value", "unit", "reason"]
    return pd.DataFrame(rows, columns=columns)


LEVELS = {"never smoker": 0.0, "former smoker": -14.0, "current smoker": -28.0}


def test_with_every_level_known_it_is_the_mean_paired_difference():
    table = readings(LEVELS, draws=2)
    got = dose_response(table, "smoking", list(LEVELS), "mean_hu", "upper").set_index("level")
    wide = table.pivot_table(index="subject", columns="arm", values="value")
    for level in ("former smoker", "current smoker"):
        paired = (wide[f"smoking={level}"] - wide["smoking=never smoker"]).mean()
        assert got.loc[level, "change"] == pytest.approx(paired, abs=1e-3)
        assert got.loc[level, "ci_low"] < LEVELS[level] < got.loc[level, "ci_high"]
        assert got.loc[level, "n"] == 20 and got.loc[level, "unit"] == "HU"
    assert list(dose_response(table, "smoking", list(LEVELS), "mean_hu", "upper")) == list(
        DOSE_COLUMNS
    )


def test_subjects_that_lack_a_level_still_count_where_they_have_one():
    table = readings(LEVELS)
    lost = (table["subject"] > "s09") & (table["arm"] == "smoking=former smoker")
    got = dose_response(table[~lost], "smoking", list(LEVELS), "mean_hu", "upper")
    got = got.set_index("level")
    assert got["n"].tolist() == [20, 10, 20]
    assert got.loc["former smoker", "change"] == pytest.approx(-14, abs=2)


def test_a_number_gets_a_slope_per_unit():
    table = readings({50.0: 0.0, 60.0: -6.0, 70.0: -12.0}, attribute="age")
    got = dose_response(table, "age", [50.0, 60.0, 70.0], "mean_hu", "upper").set_index("level")
    assert got.loc["per unit", "change"] == pytest.approx(-0.6, abs=0.1)
    assert got.loc[70.0, "change"] == pytest.approx(-12, abs=2)


def test_levels_with_too_few_subjects_say_so():
    table = readings(LEVELS)
    table = table[(table["arm"] != "smoking=former smoker") | (table["subject"] < "s02")]
    got = dose_response(table, "smoking", list(LEVELS), "mean_hu", "upper").set_index("level")
    assert np.isnan(got.loc["former smoker", "change"])
    assert "fewer than 3" in got.loc["former smoker", "method"]
    assert np.isfinite(got.loc["current smoker", "change"])
    nothing = dose_response(table, "smoking", list(LEVELS), "mean_hu", "elsewhere")
    assert nothing["change"].tolist()[1:] != nothing["change"].tolist()[1:]
