"""What must hold for any spacing, direction, number type, slope and order of slices."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgmvlc_cli.imaging.dicom import read_series
from dgmvlc_cli.imaging.files import read_scan_file, read_volume, write_volume
from dgmvlc_cli.imaging.restoring import restore_image
from dgmvlc_cli.imaging.volume import grid_of_image, image_of

few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
spacings = st.tuples(*[st.floats(0.3, 12.0)] * 3)
angles = st.tuples(*[st.floats(-np.pi, np.pi)] * 3)
NUMBER_TYPES = (np.int16, np.uint16, np.int32, np.float32, np.float64, np.uint8)


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Direction cosines of a turn about x, y and z."""
    return np.reshape(sitk.Euler3DTransform((0, 0, 0), *degrees).GetMatrix(), (3, 3))


def image_at(
    values: np.ndarray, spacing: tuple[float, ...], direction: np.ndarray, origin: tuple[float, ...]
) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction.ravel().tolist())
    return image


@few
@given(
    spacings,
    angles,
    st.booleans(),
    st.permutations([0, 1, 2]),
    st.sampled_from(NUMBER_TYPES),
    st.sampled_from([".nii.gz", ".nrrd", ".mha"]),
)
def test_any_grid_and_number_type_is_read_at_its_place_and_restored(
    spacing, turn, mirrored, order, number, suffix
):
    direction = rotation(turn)[:, order] * ([-1, 1, 1] if mirrored else [1, 1, 1])
    values = (np.arange(5 * 4 * 3).reshape(5, 4, 3)).astype(number)
    image = image_at(values, spacing, direction, (-7.0, 11.0, 130.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        sitk.WriteImage(image, str(path))
        reading = read_scan_file(path)
    volume = reading.volume
    # Every voxel carries its own number, so that it can be looked for.
    for zyx in itertools.product((0, 4), (0, 3), (0, 2)):
        (index,) = np.argwhere(volume.hu == values[zyx])
        place = image.TransformIndexToPhysicalPoint(zyx[::-1])
        np.testing.assert_allclose(volume.to_lps_mm(index), place, atol=0.01)
    # Indices grow towards left, posterior and superior.
    axes = np.reshape(volume.direction, (3, 3))
    assert (np.diag(axes) > 0).all()
    back = restore_image(image_of(volume.hu, volume), reading.grid, "hu")
    np.testing.assert_allclose(back, values, atol=0.01)


@few
@given(
    st.lists(st.floats(0.3, 3.0), min_size=5, max_size=9),
    st.randoms(),
    st.floats(0.5, 8.0),
    angles,
    st.booleans(),
    st.integers(-2000, 0),
)
def test_a_series_of_any_order_orientation_and_slopes_is_the_volume_it_was_cut_from(
    ramp, slopes, random, gap_mm, turn, signed, intercept
):
    slopes = slopes[: len(ramp.stored)]
    matrix = rotation(turn)
    orientation = (*matrix[:, 0], *matrix[:, 1])
    tags = {"PixelRepresentation": int(signed), "RescaleIntercept": intercept}
    series = replace(
        ramp,
        stored=ramp.stored[: len(slopes)],
        slopes=[round(one, 6) for one in slopes],
        gap_mm=gap_mm,
        orientation=tuple(round(float(one), 9) for one in orientation),
        tags=tags,
    )
    with tempfile.TemporaryDirectory() as folder:
        files = series.write(Path(folder))
        random.shuffle(files)
        reading = read_series(files)
    assert reading.notes == ()
    expected = series.stored * np.array(series.slopes)[:, None, None] + intercept
    expected[expected < -1024] = -1000
    back = restore_image(image_of(reading.volume.hu, reading.volume), reading.grid, "hu")
    np.testing.assert_allclose(back, expected, rtol=1e-5, atol=0.02)
    assert np.isclose(reading.grid.spacing_mm[0], gap_mm, atol=1e-4)
    np.testing.assert_allclose(reading.grid.origin_mm, (10.0, 20.0, 30.0), atol=1e-4)


@few
@given(
    spacings,
    angles,
    st.floats(0.01, 5.0),
    st.floats(-1500, 500),
    st.sampled_from([np.int16, np.uint16, np.int32, np.uint8]),
)
def test_a_nifti_with_any_slope_and_affine_is_where_nibabel_has_it(
    spacing, turn, slope, intercept, number
):
    values = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(number)
    affine = np.eye(4)
    affine[:3, :3] = rotation(turn) * spacing
    affine[:3, 3] = (-20, 40, 60)
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_slope_inter(slope, intercept)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.nii.gz"
        nibabel.save(image, path)
        volume = read_volume(path)
        known = nibabel.load(path)
        expected = np.asarray(known.dataobj)
        for xyz in itertools.product((0, 3), (0, 4), (0, 5)):
            hu = expected[xyz] if expected[xyz] >= -1024 else -1000
            ras = known.affine @ [*xyz, 1.0]
            place = ras[:3] * [-1, -1, 1]
            axes = np.reshape(volume.direction, (3, 3))
            steps = np.linalg.solve(axes, place - np.array(volume.origin_mm))
            index = np.rint(steps / volume.spacing_mm[::-1]).astype(int)[::-1]
            np.testing.assert_allclose(volume.to_lps_mm(index), place, atol=0.01)
            assert np.isclose(volume.hu[tuple(index)], hu, rtol=1e-4, atol=0.01)


@few
@given(spacings, angles)
def test_a_volume_written_and_read_again_has_its_corners_where_they_were(spacing, turn):
    values = np.full((4, 5, 6), -800, np.int16)
    image = image_at(values, spacing, rotation(turn), (1.0, 2.0, 3.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.nii.gz"
        sitk.WriteImage(image, str(path))
        first = read_volume(path)
        write_volume(path, first)
        again = read_scan_file(path)
    grid = grid_of_image(image_of(first.hu, first))
    assert again.grid.shape == grid.shape
    for zyx in itertools.product(*((0, size - 1) for size in first.hu.shape)):
        np.testing.assert_allclose(again.volume.to_lps_mm(zyx), first.to_lps_mm(zyx), atol=0.01)
