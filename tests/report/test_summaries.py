"""Numbers that only the images can give."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from dgmvlc_cli.analysis.looks import SCALE_HU, Pair, summarise
from dgmvlc_cli.generators.model import HU_RANGE
from dgmvlc_cli.report.summaries import (
    difference_limit,
    lung_histograms,
    mean_band,
    nice_limit,
    shown_difference,
)


def slab(change: np.ndarray | float, subject: str = "a") -> Pair:
    """A block of lung, 8 x 6 x 10 voxels in a larger grid, that changes by `change` HU."""
    labels = np.ones((12, 10, 14), np.uint8)
    labels[2:10, 2:8, 2:12] = 2
    reference = np.full(labels.shape, -850.0, np.float32)
    return Pair(
        subject=subject,
        reference_hu=reference,
        target_hu=reference + np.where(labels == 2, change, 0).astype(np.float32),
        labels=labels,
        spacing_mm=(5.0, 5.0, 5.0),
        reference_sentence="before",
        target_sentence="after",
    )


def test_mean_band_agrees_with_scipy() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 3))
    mean, low, high = mean_band(rows)
    expected = stats.ttest_1samp(rows, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean, rows.mean(axis=0))
    np.testing.assert_allclose([low, high], [expected.low, expected.high])


def test_mean_band_is_missing_where_one_subject_is_left() -> None:
    mean, low, high = mean_band(np.array([[1.0, 2.0], [np.nan, 4.0]]))
    assert mean.tolist() == [1.0, 3.0]
    assert np.isnan([low[0], high[0]]).all()
    assert low[1] < 3 < high[1]


def test_histogram_moves_with_the_lungs() -> None:
    table = lung_histograms([summarise(slab(-40.0, name)) for name in "ab"])
    assert table["reference_mean"].sum() == 100
    assert table.loc[table["target_mean"].idxmax(), "hu"] == -890
    np.testing.assert_allclose(table["difference_mean"].sum(), 0)


def test_limit_of_the_scale_is_round_and_holds_the_change() -> None:
    assert nice_limit(0.0) == 5
    assert nice_limit(23.0) == 30
    assert nice_limit(999.0) == 200
    assert difference_limit([slab(-42.0)]) == 50
    assert difference_limit([]) == 50


def test_a_pair_without_a_lung_has_no_summary() -> None:
    pair = dataclasses.replace(slab(-3.0), labels=np.ones((12, 10, 14), np.uint8))
    assert summarise(pair) is None


def test_the_scale_ends_where_generators_cut_off() -> None:
    assert SCALE_HU == HU_RANGE


def test_what_both_arms_cut_off_counts_as_clipped() -> None:
    pair = slab(-100.0)
    pair.reference_hu[3, 3, 3:5] = -1024
    pair.target_hu[3, 3, 3] = -1024
    assert np.argwhere(pair.clipped).tolist() == [[3, 3, 3]]
    assert shown_difference(pair)[3, 3, 3] == pytest.approx(-100, abs=20)
