"""Numbers that only the images can give."""

from __future__ import annotations

import numpy as np
from scipy import stats

from dgmvlc_cli.report.contents import Pair
from dgmvlc_cli.report.summaries import (
    difference_limit,
    group_mean,
    lung_bins,
    lung_histograms,
    lung_map,
    mean_band,
    nice_limit,
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


def test_profile_recovers_a_change_that_follows_the_height() -> None:
    # Eight lung slices, from -8 HU at the top to -1 HU at the base, two in each of four bins.
    change = np.zeros((12, 1, 1))
    change[2:10, 0, 0] = -np.arange(1.0, 9.0)
    pair = slab(change)
    profile = lung_map([pair], (0,), 4)[0]
    np.testing.assert_allclose(profile, [-1.5, -3.5, -5.5, -7.5])


def test_map_keeps_the_axes_asked_for_and_is_missing_outside() -> None:
    change = np.zeros((1, 1, 14))
    change[..., :7] = -10
    pair = slab(change)
    front = lung_map([pair], (0, 2), 5)[0]
    assert front.shape == (5, 5)
    np.testing.assert_allclose(front[:, 0], -10)
    np.testing.assert_allclose(front[:, -1], 0)
    assert lung_bins([pair]) == 6


def test_group_mean_needs_half_of_the_subjects() -> None:
    rows = np.array([[1.0, 1.0], [3.0, np.nan], [5.0, np.nan]])
    np.testing.assert_array_equal(group_mean(rows), [3.0, np.nan])


def test_histogram_moves_with_the_lungs() -> None:
    table = lung_histograms([slab(-40.0, "a"), slab(-40.0, "b")])
    assert table["reference_mean"].sum() == 100
    assert table.loc[table["target_mean"].idxmax(), "hu"] == -890
    np.testing.assert_allclose(table["difference_mean"].sum(), 0)


def test_limit_of_the_scale_is_round_and_holds_the_change() -> None:
    assert nice_limit(0.0) == 5
    assert nice_limit(23.0) == 30
    assert nice_limit(999.0) == 200
    assert difference_limit([slab(-42.0)]) == 50
    assert difference_limit([]) == 50
