from __future__ import annotations

import itertools
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.files import (
    read_labels,
    read_scan_file,
    read_volume,
    write_labels,
    write_volume,
)
from dgmvlc_cli.imaging.volume import (
    AIR_HU,
    Volume,
)

OBLIQUE = Rotation.from_euler("ZX", (-23, 17), degrees=True).as_matrix()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr"])
def test_an_oblique_scan_keeps_its_direction_in_every_format(
    suffix, oblique_image, field_of, tmp_path
):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(oblique_image(OBLIQUE), str(path))
    volume = read_volume(path)
    np.testing.assert_allclose(np.reshape(volume.direction, (3, 3)), OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(volume.hu, field_of(volume), atol=2e-3)


def test_nibabel_finds_a_written_volume_at_the_same_place(tmp_path):
    hu = np.arange(-60, 60, dtype=np.float32).reshape(4, 5, 6)
    volume = Volume(
        hu=hu,
        spacing_mm=(3.0, 1.2, 0.8),
        origin_mm=(-11.0, 22.0, -33.0),
        direction=tuple(OBLIQUE.ravel()),
    )
    write_volume(tmp_path / "a.nii.gz", volume)
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.int16
    for zyx in itertools.product((0, 3), (0, 4), (0, 5)):
        ras = image.affine @ [*zyx[::-1], 1.0]
        np.testing.assert_allclose(ras[:3] * [-1, -1, 1], volume.to_lps_mm(zyx), atol=1e-4)
        assert image.dataobj[zyx[::-1]] == hu[zyx]


def test_a_volume_written_and_read_is_the_same_and_so_are_its_bytes(chest, tmp_path):
    volume, labels = chest
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    again = read_volume(tmp_path / "a.nii.gz")
    assert np.abs(again.hu - volume.hu).max() <= 0.5
    np.testing.assert_allclose(again.origin_mm, volume.origin_mm, atol=1e-3)
    write_labels(tmp_path / "labels.nii.gz", labels, volume)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.nii.gz"), labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.nii.gz",
        "b.nii.gz",
        "labels.nii.gz",
    ]


def test_padding_below_the_scale_becomes_air(tmp_path):
    values = np.full((3, 4, 5), -2000, np.int16)
    values[1], values[2] = -1024, 40
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.nrrd"))
    hu = read_volume(tmp_path / "a.nrrd").hu
    assert [float(plane[0, 0]) for plane in hu] == [AIR_HU, -1024.0, 40.0]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.6, 0.98])
def test_a_file_cut_short_is_named(suffix, kept, chest, tmp_path):
    path = tmp_path / f"cut{suffix}"
    write_volume(path, chest[0])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DgmvlcError, match="cut") as caught:
        read_volume(path)
    assert caught.value.hint


def test_what_is_no_single_volume_is_refused_with_its_reason(tmp_path):
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.Image([4, 4, 4, 3], sitk.sitkInt16), str(path))
    with pytest.raises(DgmvlcError, match="one 3-D volume was expected"):
        read_volume(path)
    holes = np.zeros((3, 3, 3), np.float32)
    holes[1, 1, 1] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(holes), str(path))
    with pytest.raises(DgmvlcError, match="1 voxels are not finite"):
        read_volume(path)
    with pytest.raises(DgmvlcError, match="no such file"):
        read_volume(tmp_path / "absent.nii.gz")


def test_a_nifti_of_scaled_integers_is_whole(tmp_path):
    image = nibabel.Nifti1Image(np.full((6, 7, 8), 24, np.int16), np.diag([-1, -1, 1, 1]))
    image.header.set_slope_inter(2, -1048)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert (read_volume(tmp_path / "a.nii.gz").hu == 2 * 24 - 1048).all()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_a_hole_in_a_float_nifti_is_not_taken_for_water(dtype, tmp_path):
    values = np.zeros((5, 5, 5), dtype)
    values[2, 2, 2] = np.inf
    header = nibabel.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(dtype)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4), header), tmp_path / "a.nii")
    with pytest.raises(DgmvlcError, match="1 voxels are not finite"):
        read_volume(tmp_path / "a.nii")


def test_a_mask_in_another_orientation_is_brought_onto_its_scan(chest, tmp_path):
    volume, labels = chest
    write_labels(tmp_path / "a.nii.gz", labels, volume)
    turned = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "a.nii.gz")), "RIA")
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    part = sitk.ReadImage(str(tmp_path / "a.nii.gz"))[2:, 3:, 4:]
    sitk.WriteImage(part, str(tmp_path / "part.nii.gz"))
    np.testing.assert_array_equal(read_labels(tmp_path / "turned.nii.gz", like=volume), labels)
    again = read_labels(tmp_path / "part.nii.gz", like=volume)
    np.testing.assert_array_equal(again[4:, 3:, 2:], labels[4:, 3:, 2:])


def test_a_mask_of_another_place_or_of_fractions_is_refused(chest, tmp_path):
    volume, labels = chest
    far = replace(volume, origin_mm=(5000.0, 0.0, 0.0))
    write_labels(tmp_path / "far.nii.gz", labels, far)
    with pytest.raises(DgmvlcError, match="elsewhere"):
        read_labels(tmp_path / "far.nii.gz", like=volume)
    write_volume(tmp_path / "hu.nii.gz", volume)
    with pytest.raises(DgmvlcError, match="not a label map"):
        read_labels(tmp_path / "hu.nii.gz")


def test_a_nifti_that_lost_its_geometry_is_told(tmp_path):
    values = np.full((6, 7, 8), -800, np.int16)
    for name, affine, said in (
        ("lost", np.eye(4), "identity affine"),
        ("none", None, "left may be right"),
        ("whole", np.diag([-1, -1, 2, 1]), None),
    ):
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
        notes = read_scan_file(tmp_path / f"{name}.nii.gz").notes
        assert (said in notes[0]) if said else notes == ()


@pytest.fixture
def two_forms(tmp_path):
    """two_forms(sform, qform) writes a NIfTI that holds both."""

    def write(sform: np.ndarray, qform: np.ndarray):
        image = nibabel.Nifti1Image(np.full((6, 7, 8), -800, np.int16), None)
        image.set_sform(sform, 1)
        image.set_qform(qform, 1)
        nibabel.save(image, tmp_path / "a.nii.gz")
        return tmp_path / "a.nii.gz"

    return write


def test_a_nifti_that_is_placed_in_two_ways_is_told_or_refused(two_forms, capfd):
    one = np.diag([-2.0, -2.0, 3.0, 1.0])
    one[:3, :3] = OBLIQUE @ one[:3, :3]
    one[:3, 3] = 10.0, -20.0, 30.0
    assert read_scan_file(two_forms(one, one)).notes == ()
    moved = one.copy()
    moved[0, 3] += 12
    (note,) = read_scan_file(two_forms(moved, one)).notes
    assert "12.0 mm apart" in note and ("sform was" in note or "qform was" in note)
    for flip in ([-1, 1, 1, 1], [-1, -1, 1, 1]):
        with pytest.raises(DgmvlcError, match="disagree about the axes"):
            read_scan_file(two_forms(one @ np.diag(flip), one))
    sheared = one.copy()
    sheared[:3, 2] += 0.3 * one[:3, 1]
    with pytest.raises(DgmvlcError, match="sform is sheared"):
        read_scan_file(two_forms(sheared, one))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("third", ["(0,1.3,4)", "(0,4,0)"], ids=["sheared", "parallel"])
def test_axes_that_are_not_at_right_angles_are_refused(third, tmp_path):
    path = tmp_path / "a.nrrd"
    header = (
        "NRRD0005\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nendian: little\n"
        "space: left-posterior-superior\nspace origin: (0,0,0)\n"
        f"space directions: (4,0,0) (0,4,0) {third}\n\n"
    )
    path.write_bytes(header.encode() + bytes(128))
    with pytest.raises(DgmvlcError, match="axes are sheared") as caught:
        read_volume(path)
    assert "3D Slicer" in caught.value.hint


def test_a_sheared_sform_alone_is_called_sheared(tmp_path):
    sheared = np.array([[-2.0, 0, 0, 0], [0, -2, 1, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.full((6, 7, 8), -800, np.int16), sheared)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(DgmvlcError, match="axes are sheared"):
        read_volume(tmp_path / "a.nii.gz")


def test_analyze_is_not_taken_for_nifti(tmp_path):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.full((6, 7, 8), -800, np.int16), np.eye(4)), path)
    assert (read_volume(path).hu == -800).all()
    content = bytearray(path.read_bytes())
    content[344:348] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(DgmvlcError, match="Analyze"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_2_is_called_so(name, tmp_path):
    path = tmp_path / name
    nibabel.save(nibabel.Nifti2Image(np.full((6, 7, 8), -800, np.int16), np.eye(4)), path)
    with pytest.raises(DgmvlcError, match="NIfTI-2"):
        read_volume(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"ElementSpacing", b"E\xecementSpacing"),  # takes ITK down
        (b"DimSize", b"DmSize"),
        (b"ElementDataFile", b"ElementDataFiles"),
        (b"NDims = 3", b"NDims = \x003"),
    ],
)
def test_a_metaimage_with_a_broken_header_never_reaches_the_reader(before, after, chest, tmp_path):
    path = tmp_path / "a.mha"
    write_volume(path, chest[0])
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    with pytest.raises(DgmvlcError, match="its header is damaged"):
        read_volume(path)
