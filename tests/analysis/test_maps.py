"""Lung-relative coordinates: the same place in every lung, whatever its size and position."""

from __future__ import annotations

import numpy as np
import pytest

from dgmvlc_cli.analysis import maps
from dgmvlc_cli.analysis.maps import DEPTH, HEIGHT, TEMPLATE, WIDTH, Sampler
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import Tissue

SPACING = (5.0, 5.0, 5.0)


def chest(size: tuple[int, int, int] = (48, 36, 20), at: int = 3) -> np.ndarray:
    """Two box-shaped lungs of a size in voxels, `at` voxels from the corner, 6 apart."""
    depth, height, width = size
    labels = np.full((depth + 2 * at, height + 2 * at, 2 * width + 6 + 2 * at), Tissue.BODY)
    inside = (slice(at, at + depth), slice(at, at + height))
    labels[(*inside, slice(at, at + width))] = Tissue.RIGHT_LUNG
    labels[(*inside, slice(at + width + 6, at + 2 * width + 6))] = Tissue.LEFT_LUNG
    return labels.astype(np.uint8)


def along(labels: np.ndarray, axis: int) -> np.ndarray:
    """(z, y, x): fraction of the lungs' common extent along an axis."""
    lung = np.isin(labels, (2, 3)).any(axis=tuple(set(range(3)) - {axis}))
    start, stop = np.flatnonzero(lung)[[0, -1]]
    shape = [1, 1, 1]
    shape[axis] = -1
    fraction = (np.arange(labels.shape[axis]) + 0.5 - start) / (stop + 1 - start)
    return np.broadcast_to(fraction.reshape(shape), labels.shape)


def test_a_gradient_is_found_at_its_height_and_depth():
    labels = chest()
    got = Sampler(labels, SPACING)(-30 * along(labels, 0) + 10 * along(labels, 1))
    cells = np.s_[3:-3, 3:-3, 2 : WIDTH - 2]  # smoothing flattens the very ends
    z, y, _ = np.indices(TEMPLATE)
    expected = -30 * (z + 0.5) / HEIGHT + 10 * (y + 0.5) / DEPTH
    np.testing.assert_allclose(got[cells], expected[cells], atol=0.1)


def test_right_and_left_keep_to_their_columns_and_do_not_mix():
    labels = chest()
    got = Sampler(labels, SPACING)(np.where(labels == Tissue.LEFT_LUNG, 7.0, -5.0))
    np.testing.assert_allclose(got[..., :WIDTH], -5, atol=1e-4)
    np.testing.assert_allclose(got[..., WIDTH + 1 :], 7, atol=1e-4)
    assert np.isnan(got[..., WIDTH]).all()


def test_what_lies_outside_the_lung_never_leaks_in():
    labels = chest()
    got = Sampler(labels, SPACING)(np.where(np.isin(labels, (2, 3)), -850.0, 9000.0))
    np.testing.assert_allclose(got[np.isfinite(got)], -850, atol=0.01)


def test_size_position_and_spacing_of_the_lungs_do_not_matter():
    maps_of = []
    for size, at, mm in (((48, 36, 20), 3, 5.0), ((24, 18, 10), 6, 10.0), ((36, 24, 15), 2, 6.0)):
        labels = chest(size, at)
        change = np.where(along(labels, 0) > 2 / 3, -30.0, 0.0)
        maps_of.append(Sampler(labels, (mm, mm, mm))(change))
    upper, lower = np.s_[18:23, 2:-2, 2:8], np.s_[1:12, 2:-2, 2:8]
    for one in maps_of:
        np.testing.assert_allclose(one[upper].mean(), -30, atol=1.5)
        np.testing.assert_allclose(one[lower], 0, atol=0.5)


def test_an_absent_lung_is_missing_not_zero():
    labels = chest()
    labels[labels == Tissue.LEFT_LUNG] = Tissue.BODY
    got = Sampler(labels, SPACING)(np.full(labels.shape, -3.0))
    assert np.isnan(got[..., WIDTH:]).all()
    assert np.isfinite(got[..., :WIDTH]).all()
    assert np.isnan(Sampler(np.ones_like(labels), SPACING)(np.zeros(labels.shape))).all()


def test_a_map_of_another_shape_is_refused():
    with pytest.raises(DgmvlcError, match="does not fit"):
        Sampler(chest(), SPACING)(np.zeros((3, 3, 3)))


def test_the_cell_is_as_large_as_the_lung_makes_it():
    assert Sampler(chest(), SPACING).cell_mm == pytest.approx((10.0, 10.0, 10.0))


def test_pleura_profile_follows_the_distance_in_each_third():
    labels = chest()
    values = np.where(along(labels, 0) > 2 / 3, -20.0, 0.0) * np.ones(labels.shape)
    values[5:-5, 5:-5, 5:21] = 4.0  # deeper than 10 mm below every face of the right lung
    profile = maps.pleura_profile(values, labels, SPACING)
    assert profile.shape == (3, 4)
    assert profile[2, 0] == -20 and profile[0, 0] == 0
    assert profile[0, 1:].min() > 0
    empty = maps.pleura_profile(values, np.ones_like(labels), SPACING)
    assert np.isnan(empty).all()


def stack_of(rng: np.random.Generator, n: int, planted: float) -> np.ndarray:
    """(n, *TEMPLATE): noise in the lung columns, an effect in the upper third."""
    stack = rng.normal(0, 5, (n, *TEMPLATE)).astype(np.float32)
    stack[:, 2 * HEIGHT // 3 :] += planted
    stack[..., WIDTH] = np.nan
    return stack


def test_a_paired_map_finds_the_upper_third_and_says_how():
    rng = np.random.default_rng(0)
    found = maps.paired_map(stack_of(rng, 15, -12.0), rng, flips=500, tfce_flips=40)
    assert found is not None
    upper = found.p_max[2 * HEIGHT // 3 :][..., :WIDTH]
    assert (upper < 0.05).mean() > 0.8
    assert found.significant_percent == pytest.approx(100 / 3, abs=7)
    assert (found.flips, found.tfce_flips) == (500, 40)
    assert found.n == 15 and "500 flips" in found.method and "40 flips" in found.method
    assert np.isnan(found.effect[..., WIDTH]).all()


def test_cells_that_few_subjects_have_are_left_out():
    rng = np.random.default_rng(1)
    stack = stack_of(rng, 12, 0.0)
    stack[:2, 0] = np.nan
    found = maps.paired_map(stack, rng, flips=50, tfce_flips=0)
    assert found is not None and found.p_tfce is None
    assert not found.mask[0].any() and found.mask[1].any()
    assert maps.paired_map(stack[:1], rng) is None


def test_the_observed_map_needs_subjects_and_two_values():
    rng = np.random.default_rng(2)
    stack, x = stack_of(rng, 20, 0.0), rng.normal(size=(20, 2))
    stack[4, 0, 0, 0] = np.nan  # one of twenty lacks a cell
    a = np.repeat((0.0, 1.0), 10)
    found = maps.observed_map(stack, a, x, rng, 20)
    assert found is not None and found.mask[0, 0, 0] and np.isfinite(found.effect[0, 0, 0])
    assert maps.observed_map(stack, np.ones(20), x, rng, 20) is None
    assert maps.observed_map(stack[:6], a[:6], x[:6], rng, 20) is None


def test_an_attribute_that_the_covariates_tell_has_no_observed_map():
    rng = np.random.default_rng(3)
    stack, x = stack_of(rng, 20, 0.0), rng.normal(size=(20, 2))
    a = np.repeat((0.0, 1.0), 10)
    told = 3 * x[:, 0] - x[:, 1] + 2015
    assert maps.observed_map(stack, told, x, rng, 20) is None
    assert maps.observed_map(stack, told + 1e-4 * rng.normal(size=20), x, rng, 20) is None
    assert maps.observed_map(stack, told + 0.1 * rng.normal(size=20), x, rng, 20) is not None
    site = (a > 0)[:, None].astype(float)
    assert maps.observed_map(stack, a, site, rng, 20) is None
    site[0] = 1  # the one subject of its group at the other site has no spread to speak of
    assert maps.observed_map(stack, a, site, rng, 20) is None
    site[1:3] = 1
    assert maps.observed_map(stack, a, site, rng, 20) is not None


def test_spatial_correlation_is_pearsons_over_the_common_cells():
    one = np.array([1.0, 2.0, 3.0, np.nan])
    assert maps.spatial_correlation(one, np.array([2.0, 4.0, 6.0, 8.0])) == (pytest.approx(1), 3)
    r, cells = maps.spatial_correlation(one, np.ones(4))
    assert np.isnan(r) and cells == 3


def test_the_table_has_one_row_for_each_cell_with_its_place():
    truth = np.full(TEMPLATE, np.nan)
    truth[-1, 0, WIDTH + 1] = -30
    table = maps.map_table({"truth": truth})
    assert len(table) == 1
    row = table.iloc[0]
    assert row["side"] == "left" and row["height"] > 0.97 and row["effect"] == -30
    assert np.isnan(row["p_max"])
