from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.files import (
    read_volume,
)
from dgmvlc_cli.imaging.volume import (
    AIR_HU,
    Tissue,
    Volume,
    crop,
    isotropic_grid,
    lung_box,
    resample_isotropic,
    resample_labels,
)


def rotation(axis: int, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    matrix = np.eye(3)
    a, b = [other for other in range(3) if other != axis]
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


PERMUTATIONS = [np.eye(3)[list(order)] for order in itertools.permutations(range(3))]
FLIPS = [np.diag(signs) for signs in itertools.product((1.0, -1.0), repeat=3)]
OBLIQUE = rotation(0, 17) @ rotation(2, -23)


@pytest.mark.parametrize("axes", PERMUTATIONS)
@pytest.mark.parametrize("flip", FLIPS)
def test_any_order_and_sense_of_axes_is_read_in_lps(axes, flip, oblique_image, field_of, tmp_path):
    direction = axes @ flip
    sitk.WriteImage(oblique_image(direction), str(tmp_path / "a.nrrd"))
    volume = read_volume(tmp_path / "a.nrrd")
    assert np.allclose(volume.direction, np.eye(3).ravel())
    np.testing.assert_allclose(volume.hu, field_of(volume), atol=1e-3)


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.7])
def test_an_oblique_scan_gets_straight_and_stays_where_it_is(
    spacing_mm, oblique_image, field_of, tmp_path
):
    sitk.WriteImage(oblique_image(OBLIQUE, size=(30, 26, 24)), str(tmp_path / "a.nrrd"))
    source = read_volume(tmp_path / "a.nrrd")
    straight = resample_isotropic(source, spacing_mm)
    assert straight.spacing_mm == (spacing_mm,) * 3
    assert np.allclose(straight.direction, np.eye(3).ravel())
    z, y, x = (size // 2 for size in straight.hu.shape)
    middle = (slice(z - 2, z + 2), slice(y - 2, y + 2), slice(x - 2, x + 2))
    np.testing.assert_allclose(straight.hu[middle], field_of(straight)[middle], atol=0.02)


def test_the_isotropic_grid_covers_the_scan_and_no_voxel_more():
    volume = Volume(hu=np.zeros((10, 20, 30), np.float32), spacing_mm=(5.0, 0.7, 0.7))
    grid = isotropic_grid(volume, 2.0)
    assert grid.shape == (25, 7, 11)
    middle = np.array(grid.origin_mm) + np.array([20.0, 12.0, 48.0]) / 2
    np.testing.assert_allclose(middle, volume.to_lps_mm((4.5, 9.5, 14.5)))


def test_a_scan_already_on_the_wanted_grid_is_not_touched(chest):
    volume, labels = chest
    assert resample_isotropic(volume, 4.0) is volume
    assert resample_labels(labels, volume, 4.0) is labels


def test_what_the_new_grid_cannot_carry_is_averaged_and_not_aliased():
    stripes = np.where(np.indices((48, 48, 48)).sum(axis=0) % 2, 100.0, -100.0)
    volume = Volume(hu=stripes.astype(np.float32), spacing_mm=(1.0, 1.0, 1.0))
    assert np.abs(resample_isotropic(volume, 3.0).hu[2:-2, 2:-2, 2:-2]).max() < 1.0


def test_upsampled_noise_is_not_smoothed_away():
    rng = np.random.default_rng(1)
    volume = Volume(hu=rng.normal(0, 30, (24, 24, 24)).astype(np.float32), spacing_mm=(4.0,) * 3)
    shifted = resample_isotropic(volume, 3.9)
    # Linear interpolation would leave about a half.
    assert 0.65 < shifted.hu[3:-3, 3:-3, 3:-3].std() / 30 < 1.0


def test_outside_the_scan_there_is_air(oblique_image, tmp_path):
    sitk.WriteImage(oblique_image(OBLIQUE), str(tmp_path / "a.nrrd"))
    straight = resample_isotropic(read_volume(tmp_path / "a.nrrd"), 2.0)
    assert straight.hu[0, 0, 0] == AIR_HU


@pytest.mark.parametrize("spacing_mm", [1.3, 3.0, 5.0])
def test_a_ball_keeps_its_volume_when_its_label_is_resampled(spacing_mm):
    z, y, x = np.indices((60, 90, 90)) - np.array([29.5, 44.5, 44.5])[:, None, None, None]
    ball = (z * 1.5) ** 2 + y**2 + x**2 < 40**2
    volume = Volume(hu=np.zeros(ball.shape, np.float32), spacing_mm=(1.5, 1.0, 1.0))
    labels = np.where(ball, Tissue.LEFT_LUNG, Tissue.BODY).astype(np.uint8)
    again = resample_labels(labels, volume, spacing_mm)
    assert set(np.unique(again)) <= {Tissue.OUTSIDE, Tissue.BODY, Tissue.LEFT_LUNG}
    before, after = ball.sum() * 1.5, (again == Tissue.LEFT_LUNG).sum() * spacing_mm**3
    assert after == pytest.approx(before, rel=0.02)


def test_cropping_keeps_every_voxel_where_it_was():
    hu = np.arange(20 * 30 * 40, dtype=np.float32).reshape(20, 30, 40)
    volume = Volume(hu=hu, spacing_mm=(2.0, 1.0, 1.0), direction=tuple(OBLIQUE.ravel()))
    labels = np.zeros(hu.shape, np.uint8)
    labels[8:12, 10:20, 5:9], labels[8:12, 10:20, 30:39] = Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG
    cropped = crop(volume, lung_box(labels, volume.spacing_mm, margin_mm=3.0))
    assert cropped.hu.shape == (8, 16, 38)
    np.testing.assert_allclose(cropped.to_lps_mm((0, 0, 0)), volume.to_lps_mm((6, 7, 2)))
    assert cropped.hu[0, 0, 0] == hu[6, 7, 2]
    with pytest.raises(DgmvlcError, match="no lung"):
        lung_box(np.zeros_like(labels), volume.spacing_mm, margin_mm=3.0)
