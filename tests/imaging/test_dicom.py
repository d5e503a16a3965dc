from __future__ import annotations

import random
import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.dicom import LOSSY_SYNTAXES, read_series
from dgmvlc_cli.imaging.discovery import survey
from dgmvlc_cli.imaging.volume import AIR_HU, read_volume

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def test_slices_are_put_in_order_by_position_and_not_by_name(ramp, tmp_path):
    files = ramp.write(tmp_path)
    random.Random(1).shuffle(files)
    volume = read_series(files)
    np.testing.assert_array_equal(volume.hu, ramp.stored - 1024)
    assert volume.spacing_mm == pytest.approx((2.0, 1.5, 1.25))
    assert volume.origin_mm == pytest.approx((10.0, 20.0, 30.0))


def test_slices_written_from_head_to_foot_give_the_same_volume(ramp, tmp_path):
    down = replace(ramp, stored=ramp.stored[::-1], step=(0.0, 0.0, -1.0))
    volume = read_series(down.write(tmp_path))
    np.testing.assert_array_equal(volume.hu, ramp.stored - 1024)
    assert volume.origin_mm == pytest.approx((10.0, 20.0, 30.0 - 7 * 2.0))


@pytest.mark.parametrize(
    "orientation", [SAGITTAL, (0.8, 0.6, 0, -0.6, 0.8, 0), (-1, 0, 0, 0, -1, 0)]
)
def test_any_orientation_keeps_each_voxel_at_its_place(orientation, ramp, tmp_path):
    turned = replace(ramp, orientation=orientation)
    volume = read_series(turned.write(tmp_path))
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    # Slice 3, row 2, column 4 of the files.
    place = np.array([10.0, 20.0, 30.0]) + 3 * 2.0 * np.cross(row, column) + 2 * 1.5 * column
    place += 4 * 1.25 * row
    (index,) = np.argwhere(volume.hu == ramp.stored[3, 2, 4] - 1024)
    np.testing.assert_allclose(volume.to_lps_mm(index), place, atol=1e-4)


def test_each_slice_has_its_own_slope(ramp, tmp_path):
    slopes = [1.0, 0.5, 2.0, 1.0, 1.0, 1.0, 1.25, 1.0]
    volume = read_series(replace(ramp, slopes=slopes).write(tmp_path))
    expected = ramp.stored * np.array(slopes)[:, None, None] - 1024
    np.testing.assert_allclose(volume.hu, expected)


@pytest.mark.parametrize(
    ("stored", "declared", "signed"), [(-2000, -2000, 1), (-2000, 63536, 1), (30000, 30000, 0)]
)
def test_declared_padding_is_air(stored, declared, signed, ramp, tmp_path):
    ramp.stored[:, 0, 0] = stored
    files = replace(ramp, tags={"PixelRepresentation": signed}).write(tmp_path)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", "US" if declared > 0 else "SS", declared)
        dataset.save_as(path)
    hu = read_series(files).hu
    assert (hu[:, 0, 0] == AIR_HU).all()
    np.testing.assert_array_equal(hu[:, 1:], ramp.stored[:, 1:] - 1024)


def test_padding_declared_at_a_tissue_value_cuts_no_holes(ramp, tmp_path):
    ramp.stored[:, 2, 2] = 1064
    files = replace(ramp, tags={"PixelPaddingValue": 1064}).write(tmp_path)
    assert (read_series(files).hu[:, 2, 2] == 40).all()


def test_a_missing_slice_is_reported_with_its_position(ramp, tmp_path):
    files = ramp.write(tmp_path)
    with pytest.raises(DgmvlcError, match=r"1 slice\(s\) missing at z = 36.0 mm") as caught:
        read_series(files[:3] + files[4:], unreadable=[tmp_path / "broken.dcm"])
    assert "I002.dcm and I004.dcm" in caught.value.message
    assert "broken.dcm" in caught.value.message


def test_two_slices_at_one_position_are_named(ramp, tmp_path, rewrite):
    files = ramp.write(tmp_path)
    rewrite(files[4], ImagePositionPatient=[10.0, 20.0, 36.0])
    with pytest.raises(DgmvlcError, match=r"I004.dcm: at the same position as I003.dcm"):
        read_series(files)


def test_irregular_gaps_and_tilt_are_refused_with_their_size(ramp, tmp_path, rewrite):
    files = ramp.write(tmp_path / "gaps")
    rewrite(files[3], ImagePositionPatient=[10.0, 20.0, 36.4])
    with pytest.raises(DgmvlcError, match=r"irregular gaps between slices, 1.60 to 2.40 mm"):
        read_series(files)
    leaning = (0.0, np.sin(np.deg2rad(12)), np.cos(np.deg2rad(12)))
    tilted = replace(ramp, step=leaning).write(tmp_path / "tilt")
    with pytest.raises(DgmvlcError, match=r"gantry tilt of 12.0 degrees"):
        read_series(tilted)


def test_the_rounding_of_a_header_is_no_irregular_gap(ramp, tmp_path, rewrite):
    files = ramp.write(tmp_path)
    for index, path in enumerate(files):
        rewrite(path, ImagePositionPatient=[10.0, 20.0, 30.0 + index * 2.0 + 0.02 * (index % 2)])
    assert read_series(files).spacing_mm[0] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "MR"}, "modality MR, not CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"NumberOfFrames": 20}, "multi-frame"),
        ({"PixelSpacing": None}, "lacks a value"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.96, 0.28]}, "orientation"),
        ({"Rows": 3}, "size"),
    ],
)
def test_a_slice_that_does_not_belong_is_named_with_the_reason(
    tags, reason, ramp, tmp_path, rewrite
):
    files = ramp.write(tmp_path)
    rewrite(files[5], **tags)
    with pytest.raises(DgmvlcError, match=reason) as caught:
        read_series(files)
    assert "I005.dcm" in caught.value.message


@pytest.mark.parametrize("kept", [0, 90, 200, 500, -20])
def test_a_damaged_file_is_named(kept, ramp, tmp_path):
    files = ramp.write(tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:kept])
    with pytest.raises(DgmvlcError, match=r"I002.dcm"):
        read_series(files)


def test_the_real_series_has_the_voxels_of_the_same_scan_as_nrrd(real_data):
    (scan,) = survey(real_data("ct64_dicom")).scans
    series, same = read_series(scan.files), read_volume(real_data("ct64/ct-64.nrrd"))
    assert len(scan.files) == 79
    np.testing.assert_array_equal(series.hu, same.hu)
    np.testing.assert_allclose(series.origin_mm, same.origin_mm, atol=1e-2)
    np.testing.assert_allclose(series.spacing_mm, same.spacing_mm, atol=1e-4)


def test_the_real_series_with_a_slice_lost_or_cut_is_not_read(real_data, tmp_path):
    folder = shutil.copytree(real_data("ct64_dicom"), tmp_path / "scan", copy_function=shutil.copy)
    victim = folder / "IMG0040.dcm"
    content = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(content[:3000])
    (scan,) = survey(folder).scans
    with pytest.raises(DgmvlcError, match=r"IMG0040.dcm: its pixels cannot be read"):
        read_series(scan.files, scan.unreadable)
    victim.write_bytes(b"no DICOM at all")
    (scan,) = survey(folder).scans
    with pytest.raises(DgmvlcError, match=r"1 slice\(s\) missing.*damaged.*IMG0040.dcm"):
        read_series(scan.files, scan.unreadable)
    victim.write_bytes(content)
    shutil.copy(victim, folder / "copy.dcm")
    (scan,) = survey(folder).scans
    assert read_series(scan.files).hu.shape == (79, 64, 64)


def test_lossless_syntaxes_agree_and_lossy_ones_are_refused(real_data):
    reference, lossy = None, 0
    for path in sorted(real_data("dicom_syntaxes").iterdir()):
        if any(path.name.endswith(f"_{uid}.dcm") for uid in LOSSY_SYNTAXES):
            with pytest.raises(DgmvlcError, match="compressed with loss"):
                read_series([path])
            lossy += 1
            continue
        hu = read_series([path]).hu
        reference = hu if reference is None else reference
        np.testing.assert_array_equal(hu, reference)
        assert hu[0, 0, 0] == AIR_HU
    assert lossy == 6


def test_a_tilted_head_scan_is_never_read_as_if_upright(real_data):
    (scan,) = survey(real_data("dicom_tilt_gap")).scans
    with pytest.raises(DgmvlcError, match=r"18\.5 degrees"):
        read_series(scan.files)
