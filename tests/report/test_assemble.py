"""From the workspace's tables to the contents of the report."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.config import Settings
from dgmvlc_cli.report.assemble import (
    calibration_sentence,
    chosen_settings,
    obedience_sentence,
    scan_rows,
)
from dgmvlc_cli.workspace import Workspace, write_json, write_table


def fit_row(fold: int, between: float = 20.0) -> dict[str, Any]:
    """Generated lungs that vary 0.9 times as much within a lung and half as much between."""
    return {
        "fold": fold, "region": "lungs", "real_mean_hu": -850.0, "generated_mean_hu": -845.0,
        "real_sd_between": between, "generated_sd_between": between / 2,
        "real_sd_within": 30.0, "generated_sd_within": 27.0,
    }  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_a_fold_with_one_subject_does_not_count_for_the_spread_between_subjects() -> None:
    within = "they vary 0.90 times as much within a lung"
    both = f"{within} and 0.50 times as much between subjects as real ones."
    for fit in ([fit_row(0), fit_row(1)], [fit_row(0), fit_row(1, np.nan)]):
        (said,) = calibration_sentence(fit)
        assert both in said and "-845 HU (real scans -850 HU)" in said
    (said,) = calibration_sentence([fit_row(0, np.nan)])
    assert f"{within} as real ones." in said and "nan" not in said
    assert calibration_sentence([]) == []


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ([], None),
        ([(1.2, True), (0.99, True)], "reproduce 120 % and 99 % of what the real scans show."),
        ([(0.03, True), (0.12, True)], "3 % and 12 % .* they ignore their sentence"),
        ([(0.03, False), (0.12, False)], "no clear association"),
    ],
)
def test_the_report_says_whether_the_models_obey(tmp_path, folds, said):
    ws = Workspace(tmp_path)
    for fold, (obedience, detectable) in enumerate(folds):
        facts = {
            "subjects": 48, "mean_error_hu": 0.0, "sd_between": 1.0, "sd_within": 1.0,
            "model_hu": {}, "observed_hu": {}, "obedience": obedience, "detectable": detectable,
        }  # fmt: skip
        write_json(ws.validation_path("flow", fold), {"validation": facts})
    write_table(
        ws.model("flow") / "folds.tsv", pd.DataFrame({"subject": ["a", "b"], "fold": [0, 1]})
    )
    found = obedience_sentence(ws, "flow")
    assert (said is None and not found) or re.search(str(said), *found)


@pytest.mark.parametrize("table", [None, {"path": "/ZQX/table.csv"}])
def test_the_settings_of_the_report_name_no_path_and_nobody(table) -> None:
    scans = {"path": "/ZQX", "masks": "/ZQX/m", "key": "/ZQX.json", "choose": {"ZQXDoe": "s1"}}
    others = {"study": {"text_encoder": "/ZQX/e"}, "analyze": {"truth": "/ZQX/truth.tsv"}}
    told = chosen_settings(Settings.model_validate({"scans": scans, "table": table, **others}))
    assert "ZQX" not in str(told) and told["scans"]["margin_mm"] == 10


def test_scans_are_told_with_what_was_measured_and_flagged() -> None:
    subjects = pd.DataFrame(
        {
            "subject": ["a", "b", "failed"],
            "warnings": [np.nan, "lungs cut off by the top of the scan", np.nan],
            "source_spacing_mm": ["2.5x0.7x0.7", "1x1x1", np.nan],
            "lung_volume_ml": ["4800.5", "3000", np.nan],
            "mean_lung_hu": ["-850.25", "-790", np.nan],
        }
    )
    first, second = scan_rows(subjects, ["a", "b"])
    assert first == {
        "subject": "a", "flags": "", "slice_mm": 2.5, "lung_volume_ml": 4800.5,
        "mean_lung_hu": -850.25,
    }  # fmt: skip
    assert second["flags"] == "lungs cut off by the top of the scan"
