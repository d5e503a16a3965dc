"""Predictions are freed of the levels of their folds, where these can be told."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.readings import MEASURE_COLUMNS, Readings

SMOKING = Contrast("smoking", "never smoker", "current smoker")
LOBE_OWNERS = {"s00": -700.0, "s20": -900.0, "s21": -850.0, "s22": -800.0}  # one in the first fold


def readings() -> Readings:
    """Forty subjects in two folds, of which the second lies 5 HU higher; few have a lobe."""
    rows = []
    for k in range(40):
        subject, fold = f"s{k:02d}", k // 20
        for arm in SMOKING.arms:
            values = {"lungs": -850.0 + k % 20 + 5 * fold}
            if subject in LOBE_OWNERS:
                values["right_upper_lobe"] = LOBE_OWNERS[subject]
            for region, value in values.items():
                rows.append((subject, fold, 0, arm, region, "mean_hu", value, "HU", ""))
    return Readings.of(pd.DataFrame(rows, columns=list(MEASURE_COLUMNS)))


def test_the_level_of_a_fold_is_taken_away_where_many_tell_it_alone():
    reference, _ = readings().predictions(SMOKING)
    lungs, lobe = (reference["mean_hu", region] for region in ("lungs", "right_upper_lobe"))
    np.testing.assert_allclose(lungs[:20], lungs[20:].to_numpy())
    assert lobe.dropna().to_dict() == LOBE_OWNERS
