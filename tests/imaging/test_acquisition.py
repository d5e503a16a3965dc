"""How scans were made, as the table of the scans tells it."""

from __future__ import annotations

from typing import get_args

import pandas as pd
import pytest

from dgmvlc_cli.config import Acquisition
from dgmvlc_cli.imaging.acquisition import LEVELS, NUMBERS, acquisition
from dgmvlc_cli.imaging.vocabulary import maker_name


def test_the_settings_offer_what_is_recorded():
    assert get_args(Acquisition) == (*NUMBERS, *LEVELS)


def test_what_a_row_tells_is_read_and_what_it_does_not_tell_is_missing():
    subjects = pd.DataFrame(
        {
            "subject": ["a", "b", "c"],
            "source_spacing_mm": ["1.25x0.7x0.8", "5x0.6x0.6", None],
            "slice_thickness_mm": ["2.5", None, None],
            "kvp": ["120", "100", None],
            "kernel": ["LUNG", "Br40d".upper(), "other"],
            "contrast": ["True", "False", None],
            "scanner": ["GE", "Siemens", None],
        }
    )
    made = acquisition(subjects)
    assert list(made.columns) == [*NUMBERS, *LEVELS]
    assert made.loc["a"].tolist() == [1.25, 2.5, 0.8, 120.0, "sharp", "given", "GE"]
    assert made.loc["b", ["slice spacing", "reconstruction kernel"]].tolist() == [5.0, "smooth"]
    assert made.loc["c"].isna().all()


def test_a_table_of_an_earlier_version_or_of_failed_scans_tells_less():
    made = acquisition(pd.DataFrame({"subject": ["a"], "status": ["failed"]}))
    assert list(made.columns) == [*NUMBERS, *LEVELS]
    assert made.isna().all(axis=None)


@pytest.mark.parametrize(
    ("written", "maker"),
    [
        ("GE MEDICAL SYSTEMS", "GE"),
        ("General Electric", "GE"),
        ("Siemens Healthineers", "Siemens"),
        ("TOSHIBA", "Canon"),
        ("Dr Doe's workshop", "other"),
        (None, ""),
    ],
)
def test_only_known_makers_are_named(written, maker):
    assert maker_name(written) == maker
