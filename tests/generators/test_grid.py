import numpy as np
import pytest

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.generators.grid import place, place_lobes
from dgmvlc_cli.imaging.volume import Volume


def scan(shape=(10, 12, 14)) -> tuple[Volume, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.ones(shape, np.uint8)
    labels[3:7, 4:8, 2:6] = 2
    labels[3:7, 4:8, 7:11] = 3
    hu = rng.normal(-800, 50, shape).astype(np.float32)
    return Volume(hu=hu, spacing_mm=(8.0, 8.0, 8.0), origin_mm=(10.0, -20.0, 30.0)), labels


@pytest.mark.parametrize("grid", [(8, 8, 12), (20, 16, 20)])
def test_every_lung_voxel_stays_where_it_was_in_space(grid):
    volume, labels = scan()
    placed, moved = place(volume, labels, grid, 8.0)
    assert placed.hu.shape == moved.shape == grid
    for tissue in (2, 3):
        before, after = np.argwhere(labels == tissue), np.argwhere(moved == tissue)
        assert len(before) == len(after)
        assert placed.to_lps_mm(after[0]) == pytest.approx(volume.to_lps_mm(before[0]))
        assert np.array_equal(placed.hu[moved == tissue], volume.hu[labels == tissue])


@pytest.mark.parametrize("grid", [(20, 20, 20), (16, 12, 14)])
def test_lobes_are_placed_as_the_mask_is(grid):
    volume, labels = scan()
    lobes = np.where(np.isin(labels, (2, 3)), 1 + np.indices(labels.shape)[0] % 5, 0)
    lobes = lobes.astype(np.uint8)
    _, moved = place(volume, labels, grid, 8.0)
    placed = place_lobes(lobes, labels, grid)
    np.testing.assert_array_equal(placed > 0, np.isin(moved, (2, 3)))
    np.testing.assert_array_equal(placed[placed > 0], lobes[lobes > 0])


def test_what_lies_beyond_the_scan_is_air():
    volume, labels = scan()
    placed, moved = place(volume, labels, (20, 20, 20), 8.0)
    assert placed.hu[0, 0, 0] == -1000 and moved[0, 0, 0] == 0


def test_lungs_that_do_not_fit_are_refused():
    volume, labels = scan()
    with pytest.raises(DgmvlcError, match="lungs span"):
        place(volume, labels, (8, 8, 8), 8.0)


def test_another_spacing_is_refused():
    volume, labels = scan()
    with pytest.raises(DgmvlcError, match="works at 4 mm"):
        place(volume, labels, (20, 20, 20), 4.0)
