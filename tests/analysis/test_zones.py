from __future__ import annotations

import numpy as np
import pytest

from dgmvlc_cli.analysis.zones import (
    CONTROL_REGIONS,
    LOBE_REGIONS,
    LUNG_REGIONS,
    REGIONS,
    regions,
)
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.volume import Tissue

SPACING = (5.0, 5.0, 5.0)


@pytest.fixture
def chest() -> np.ndarray:
    """Two lungs, 12 x 20 x 10 voxels each, with 2 voxels of body and 1 of air around them."""
    labels = np.full((18, 26, 30), Tissue.OUTSIDE, np.uint8)
    labels[1:-1, 1:-1, 1:-1] = Tissue.BODY
    labels[3:15, 3:23, 3:13] = Tissue.RIGHT_LUNG
    labels[3:15, 3:23, 17:27] = Tissue.LEFT_LUNG
    return labels


def test_lung_regions_cut_the_lungs_into_exact_parts(chest):
    found = regions(chest, SPACING)
    total = 2 * 12 * 20 * 10
    assert tuple(found) == LUNG_REGIONS + CONTROL_REGIONS
    assert set(found) == set(REGIONS) - set(LOBE_REGIONS)
    assert found["lungs"].sum() == total
    for parts, size in (
        (("upper", "middle", "lower"), total // 3),
        (("anterior", "posterior"), total // 2),
        (("right_lung", "left_lung"), total // 2),
    ):
        assert all(found[name].sum() == size for name in parts)
        assert (np.sum([found[name] for name in parts], axis=0) == found["lungs"]).all()


def test_upper_is_superior_anterior_is_in_front_and_right_is_the_low_index(chest):
    found = regions(chest, SPACING)
    centre = {name: np.argwhere(found[name]).mean(axis=0) for name in LUNG_REGIONS}
    assert centre["upper"][0] > centre["middle"][0] > centre["lower"][0]
    assert centre["anterior"][1] < centre["posterior"][1]
    assert centre["right_lung"][2] < centre["left_lung"][2]


def test_thirds_share_one_height_although_the_lungs_differ():
    labels = np.zeros((30, 4, 8), np.uint8)
    labels[0:30, :, 0:3] = Tissue.RIGHT_LUNG
    labels[20:30, :, 5:8] = Tissue.LEFT_LUNG
    left = labels == Tissue.LEFT_LUNG
    found = regions(labels, SPACING, ["upper", "lower"])
    assert (found["upper"] & left).sum() == left.sum()
    assert not (found["lower"] & left).any()


def test_rind_is_a_slab_of_fifteen_millimetres(chest):
    found = regions(chest, SPACING)
    # 3 voxels of 5 mm from every face: the core of a 12 x 20 x 10 lung is 6 x 14 x 4.
    assert found["core"].sum() == 2 * 6 * 14 * 4
    assert not (found["core"] & found["rind"]).any()
    assert (found["core"] | found["rind"]).sum() == found["lungs"].sum()


def test_airways_belong_to_no_lung_region_and_make_no_surface(chest):
    before = regions(chest, SPACING)
    chest[9, 13, 8] = Tissue.AIRWAY
    after = regions(chest, SPACING)
    assert after["airway"].sum() == 1
    for name in LUNG_REGIONS:
        assert not after[name][9, 13, 8]
    assert after["core"].sum() == before["core"].sum() - 1


def lobes_of(chest: np.ndarray) -> np.ndarray:
    """Both lungs cut at height 9, the right one's lower part in front and behind at depth 13."""
    z, y, _ = np.indices(chest.shape)
    right, left = chest == Tissue.RIGHT_LUNG, chest == Tissue.LEFT_LUNG
    lobes = np.zeros(chest.shape, np.uint8)
    lobes[right & (z >= 9)], lobes[left & (z >= 9)] = Lobe.RIGHT_UPPER, Lobe.LEFT_UPPER
    lobes[right & (z < 9) & (y < 13)] = Lobe.RIGHT_MIDDLE
    lobes[right & (z < 9) & (y >= 13)] = Lobe.RIGHT_LOWER
    lobes[left & (z < 9)] = Lobe.LEFT_LOWER
    return lobes


def test_lobes_that_are_given_are_regions_and_part_each_lung(chest):
    found = regions(chest, SPACING, lobes=lobes_of(chest))
    assert tuple(found) == tuple(REGIONS)
    sizes = [int(found[name].sum()) for name in LOBE_REGIONS]
    assert sizes == [6 * 20 * 10, 6 * 10 * 10, 6 * 10 * 10, 6 * 20 * 10, 6 * 20 * 10]
    for side in ("right", "left"):
        parts = [found[name] for name in LOBE_REGIONS if name.startswith(side)]
        np.testing.assert_array_equal(np.sum(parts, axis=0), found[f"{side}_lung"])
    bare = regions(chest, SPACING)
    assert all((found[name] == bare[name]).all() for name in bare)


def test_a_lobe_asked_for_by_name_is_empty_where_none_is_given_and_airway_is_no_lobe(chest):
    assert not regions(chest, SPACING, ["left_upper_lobe"])["left_upper_lobe"].any()
    lobes = lobes_of(chest)
    chest[12, 13, 8] = Tissue.AIRWAY
    found = regions(chest, SPACING, LOBE_REGIONS, lobes=lobes)
    assert found["right_upper_lobe"].sum() == 6 * 20 * 10 - 1
    with pytest.raises(DgmvlcError, match="its lobes"):
        regions(chest, SPACING, lobes=lobes[1:])


def test_absent_lungs_give_empty_regions():
    found = regions(np.full((4, 5, 6), Tissue.BODY, np.uint8), SPACING)
    assert found["body"].all()
    assert not any(found[name].any() for name in LUNG_REGIONS)


def test_an_unknown_region_names_the_nearest_one(chest):
    with pytest.raises(UsageError, match="uper") as raised:
        regions(chest, SPACING, ["uper"])
    assert "'upper'" in raised.value.hint


def test_a_flat_mask_is_refused():
    with pytest.raises(DgmvlcError, match="2 axes"):
        regions(np.zeros((4, 5), np.uint8), SPACING)
