from __future__ import annotations

import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conftest import Series
from enhanced import write_enhanced
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
)
from scipy import ndimage

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.dicom import LOSSY_SYNTAXES, read_series
from dgmvlc_cli.imaging.discovery import survey
from dgmvlc_cli.imaging.files import read_volume
from dgmvlc_cli.imaging.lungs import check_labels, segment
from dgmvlc_cli.imaging.volume import AIR_HU, LUNGS, Grid, Volume, image_of, resample_image

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def test_slices_are_put_in_order_by_position_and_not_by_name(ramp, tmp_path):
    files = ramp.write(tmp_path)
    random.Random(1).shuffle(files)
    volume = read_series(files).volume
    np.testing.assert_array_equal(volume.hu, ramp.stored - 1024)
    assert volume.spacing_mm == pytest.approx((2.0, 1.5, 1.25))
    assert volume.origin_mm == pytest.approx((10.0, 20.0, 30.0))


def test_slices_written_from_head_to_foot_give_the_same_volume(ramp, tmp_path):
    down = replace(ramp, stored=ramp.stored[::-1], step=(0.0, 0.0, -1.0))
    volume = read_series(down.write(tmp_path)).volume
    np.testing.assert_array_equal(volume.hu, ramp.stored - 1024)
    assert volume.origin_mm == pytest.approx((10.0, 20.0, 30.0 - 7 * 2.0))


@pytest.mark.parametrize(
    "orientation", [SAGITTAL, (0.8, 0.6, 0, -0.6, 0.8, 0), (-1, 0, 0, 0, -1, 0)]
)
def test_any_orientation_keeps_each_voxel_at_its_place(orientation, ramp, tmp_path):
    turned = replace(ramp, orientation=orientation)
    volume = read_series(turned.write(tmp_path)).volume
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    # Slice 3, row 2, column 4 of the files.
    place = np.array([10.0, 20.0, 30.0]) + 3 * 2.0 * np.cross(row, column) + 2 * 1.5 * column
    place += 4 * 1.25 * row
    (index,) = np.argwhere(volume.hu == ramp.stored[3, 2, 4] - 1024)
    np.testing.assert_allclose(volume.to_lps_mm(index), place, atol=1e-4)


def test_each_slice_has_its_own_slope(ramp, tmp_path):
    slopes = [1.0, 0.5, 2.0, 1.0, 1.0, 1.0, 1.25, 1.0]
    volume = read_series(replace(ramp, slopes=slopes).write(tmp_path)).volume
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
    hu = read_series(files).volume.hu
    assert (hu[:, 0, 0] == AIR_HU).all()
    np.testing.assert_array_equal(hu[:, 1:], ramp.stored[:, 1:] - 1024)


def test_padding_declared_at_a_tissue_value_cuts_no_holes(ramp, tmp_path):
    ramp.stored[:, 2, 2] = 1064
    files = replace(ramp, tags={"PixelPaddingValue": 1064}).write(tmp_path)
    assert (read_series(files).volume.hu[:, 2, 2] == 40).all()


def test_one_missing_slice_is_interpolated_and_told_with_its_position(ramp, tmp_path):
    files = ramp.write(tmp_path)
    reading = read_series(files[:3] + files[4:], unreadable=[tmp_path / "broken.dcm"])
    np.testing.assert_allclose(reading.volume.hu, ramp.stored - 1024, atol=1e-3)
    assert "1 slice missing at z = 36.0 mm, between I002.dcm and I004.dcm" in reading.notes[0]
    assert "broken.dcm" in reading.notes[0]
    assert reading.facts["slices_lost"] == 1


def numbered(files: list[Path], first: int = 1, of: int | None = None, step: int = 1) -> list[Path]:
    """The same files, which count themselves."""
    for index, path in enumerate(files):
        slice_ = pydicom.dcmread(path)
        slice_.InstanceNumber = first + step * index
        if of is not None:
            slice_.ImagesInAcquisition = of
        slice_.save_as(path)
    return files


def test_a_missing_first_or_last_slice_is_told_by_the_headers_count(ramp, tmp_path):
    files = numbered(ramp.write(tmp_path), of=len(ramp.stored))
    assert not read_series(files).notes
    (first,) = read_series(files[1:]).notes
    assert "1 slice may be missing beyond I001.dcm (z = 32.0 mm)" in first
    (last,) = read_series(files[:-1]).notes
    assert f"its header counts {len(files)}" in last and files[-2].name in last
    numbered(files, first=len(files), step=-1)
    (first,) = read_series(files[:-1]).notes
    assert files[-2].name in first and "begin at 2" in first


def test_a_count_of_something_else_is_not_believed(ramp, tmp_path):
    files = ramp.write(tmp_path)
    for first, of in ((101, None), (1, 10 * len(files))):
        assert not read_series(numbered(files, first=first, of=of)).notes
    numbered(files[:4], first=2)
    numbered(files[4:], first=3)  # two runs
    assert not read_series(files).notes
    assert not read_series(numbered(files, first=10, step=10)).notes
    # A localizer took the first number, and all slices are there.
    assert not read_series(numbered(files, first=2, of=len(files))).notes


def test_more_missing_slices_than_allowed_are_a_failure_with_their_position(ramp, tmp_path):
    files = ramp.write(tmp_path)
    with pytest.raises(DgmvlcError, match=r"2 slices missing at z = 36.0 mm"):
        read_series(files[:3] + files[5:])
    with pytest.raises(DgmvlcError, match=r"1 slice missing at z = 36.0 mm"):
        read_series(files[:3] + files[4:], max_missing=0)
    hu = read_series(files[:3] + files[5:], max_missing=2).volume.hu
    np.testing.assert_allclose(hu, ramp.stored - 1024, atol=1e-3)


def test_a_copy_of_a_slice_is_left_out_and_another_slice_at_its_place_refused(
    ramp, tmp_path, rewrite
):
    files = ramp.write(tmp_path)
    again = tmp_path / "again.dcm"
    shutil.copy(files[3], again)
    rewrite(again, SOPInstanceUID="1.2.3.4.99")
    reading = read_series([*files, again])
    np.testing.assert_array_equal(reading.volume.hu, ramp.stored - 1024)
    assert "again.dcm" in reading.notes[0] and "copy" in reading.notes[0]
    rewrite(files[4], ImagePositionPatient=[10.0, 20.0, 36.0])
    with pytest.raises(DgmvlcError, match=r"at the same position as I003.dcm"):
        read_series(files)


def test_a_time_series_is_refused_as_one(ramp, tmp_path):
    files = ramp.write(tmp_path / "a")
    files += replace(ramp, stored=ramp.stored + 5).write(tmp_path / "b")
    with pytest.raises(DgmvlcError, match="4-D, 2 different slices at each of 8 positions"):
        read_series(files)


TILTED = (1.0, 0.0, 0.0, 0.0, np.cos(np.deg2rad(18.5)), -np.sin(np.deg2rad(18.5)))
PLACES_MM = np.array([0.0, 4.2, 8.4, 12.6, 13.8, 21.2, 28.6, 36.0, 43.4])


@pytest.mark.parametrize("orientation", [TILTED, (1.0, 0, 0, 0, 1.0, 0)])
def test_tilt_and_irregular_gaps_leave_every_voxel_at_its_true_place(
    orientation, field_series, field_of, tmp_path
):
    positions = np.array([10.0, 20.0, 30.0]) + PLACES_MM[:, None] * np.array([0.0, 0.0, 1.0])
    reading = read_series(field_series(positions, orientation).write(tmp_path))
    volume = reading.volume
    covered = volume.hu > -500  # what no slice reaches is air
    assert covered.mean() > 0.5
    inner = ndimage.binary_erosion(covered, iterations=4)
    assert inner.sum() > 700
    np.testing.assert_allclose(volume.hu[inner], field_of(volume)[inner], atol=0.15)
    assert reading.facts["gaps_mm"] == "7.40 mm x 4, 4.20 mm x 3, 1.20 mm x 1"
    assert any("irregular gaps" in note for note in reading.notes)
    tilted = orientation is TILTED
    assert any("gantry tilt of 18.5 degrees" in note for note in reading.notes) == tilted
    assert ("tilt_degrees" in reading.facts) == tilted


def test_tilt_alone_keeps_the_slices_and_their_gap(field_series, field_of, tmp_path):
    positions = np.array([10.0, 20.0, 30.0]) + np.arange(9)[:, None] * np.array([0.0, 0.0, 4.0])
    reading = read_series(field_series(positions, TILTED).write(tmp_path))
    gap_mm = 4.0 * np.cos(np.deg2rad(18.5))
    assert reading.volume.spacing_mm[0] == pytest.approx(gap_mm, abs=1e-3)
    assert reading.volume.hu.shape[0] == 9
    inner = ndimage.binary_erosion(reading.volume.hu > -500, iterations=4)
    np.testing.assert_allclose(reading.volume.hu[inner], field_of(reading.volume)[inner], atol=0.15)


@pytest.mark.parametrize("orientation", [TILTED, (1.0, 0, 0, 0, 1.0, 0)])
@pytest.mark.parametrize("away_mm", [8.0, 400.0, 1e7])
def test_a_slice_far_to_the_side_of_the_others_is_refused_by_name(
    away_mm, orientation, ramp, tmp_path, rewrite
):
    up = replace(ramp, orientation=orientation, step=(0.0, 0.0, 1.0))
    files = up.write(tmp_path)
    rewrite(files[4], ImagePositionPatient=[10.0 + away_mm, 20.0, 38.0])
    with pytest.raises(DgmvlcError, match=r"I004\.dcm lies \d+ pixels to the side"):
        read_series(files)


def test_positions_that_run_away_sidewards_are_refused_before_memory_is_taken(ramp, tmp_path):
    with pytest.raises(DgmvlcError, match=r"from I000\.dcm to I007\.dcm, which no gantry tilt"):
        read_series(replace(ramp, step=(1e6, 0.0, 1.0)).write(tmp_path))


def test_a_slice_slightly_to_the_side_is_moved_and_told_and_is_no_tilt(
    field_series, field_of, tmp_path
):
    positions = np.array([10.0, 20.0, 30.0]) + np.arange(9)[:, None] * np.array([0.0, 0.0, 4.0])
    positions[4, 0] += 2.5
    reading = read_series(field_series(positions, (1.0, 0, 0, 0, 1.0, 0)).write(tmp_path))
    inner = ndimage.binary_erosion(reading.volume.hu > -500, iterations=3)
    np.testing.assert_allclose(reading.volume.hu[inner], field_of(reading.volume)[inner], atol=0.15)
    assert reading.notes == ("slices up to 2.0 pixels off the line of the others, moved",)


def test_gaps_that_drift_by_little_each_leave_every_slice_at_its_place(tmp_path):
    places = np.cumsum(np.r_[0.0, np.full(30, 1.0), np.full(30, 1.09)])
    stored = np.broadcast_to(np.rint(places * 10).astype(int)[:, None, None], (61, 5, 6))
    positions = np.c_[np.full(61, 10.0), np.full(61, 20.0), places]
    tags = {"RescaleIntercept": 0}
    series = Series(stored, positions=positions, tags=tags, slopes=[0.1] * 61)
    volume = read_series(series.write(tmp_path)).volume
    lie = volume.origin_mm[2] + volume.spacing_mm[0] * np.arange(len(volume.hu))
    np.testing.assert_allclose(volume.hu[:, 2, 3], lie, atol=0.1)


def test_the_rounding_of_orientations_far_from_the_origin_moves_no_slice(ramp, tmp_path, rewrite):
    files = replace(ramp, gap_mm=0.5).write(tmp_path)
    for index, path in enumerate(files):
        rewrite(
            path,
            ImagePositionPatient=[-250.0, -250.0, 0.5 * index],
            ImageOrientationPatient=[1, 0, 9e-4 * (index % 2), 0, 1, 0],
        )
    reading = read_series(files)
    np.testing.assert_array_equal(reading.volume.hu, ramp.stored - 1024)
    assert reading.volume.spacing_mm[0] == pytest.approx(0.5) and not reading.notes


def test_the_rounding_of_a_header_is_no_irregular_gap(ramp, tmp_path, rewrite):
    files = ramp.write(tmp_path)
    for index, path in enumerate(files):
        rewrite(path, ImagePositionPatient=[10.0, 20.0, 30.0 + index * 2.0 + 0.02 * (index % 2)])
    assert read_series(files).volume.spacing_mm[0] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "MR"}, "modality MR, not CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"NumberOfFrames": 20}, "multi-frame file without positions"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted grey values"),
        ({"PixelSpacing": None}, "lacks a value"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.342, 0.94, 0]}, "at 70.0 degrees"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "at 0.0 degrees"),
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


@pytest.mark.parametrize("kept", [0, 90, 200, 500])
def test_a_file_without_its_header_is_named(kept, ramp, tmp_path):
    files = ramp.write(tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:kept])
    with pytest.raises(DgmvlcError, match=r"I002.dcm"):
        read_series(files)


def test_a_file_without_its_pixels_is_a_missing_slice(ramp, tmp_path):
    twice = replace(ramp, stored=np.repeat(ramp.stored, 2, axis=0))
    files = twice.write(tmp_path)
    files[5].write_bytes(files[5].read_bytes()[:-20])
    reading = read_series(files)
    assert reading.volume.hu.shape[0] == 16
    assert "1 slice missing at z = 40.0 mm" in reading.notes[0]
    assert "I005.dcm" in reading.notes[0]
    with pytest.raises(DgmvlcError, match=r"I005.dcm: its pixels cannot be read"):
        read_series(files, max_missing=0)


def test_files_without_pixels_at_an_end_do_not_shorten_the_scan_unseen(ramp, tmp_path):
    files = replace(ramp, stored=np.repeat(ramp.stored, 4, axis=0)).write(tmp_path)
    for path in files[-2:]:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DgmvlcError, match=r"I030.dcm: its pixels .*; so is I031.dcm"):
        read_series(files)
    reading = read_series(files, max_missing=2)
    assert reading.volume.hu.shape[0] == 30
    assert "I030.dcm, I031.dcm" in reading.notes[-1]


def test_an_only_slice_without_pixels_is_named(ramp, tmp_path):
    file = ramp.write(tmp_path)[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DgmvlcError, match=r"I000.dcm: its pixels cannot be read"):
        read_series([file])


@pytest.mark.parametrize("size", [(60000, 60000), (8000, 8000), (0, 6)])
def test_an_absurd_size_is_refused_before_memory_is_taken(size, ramp, tmp_path, rewrite):
    files = ramp.write(tmp_path)
    for path in files:
        rewrite(path, Rows=size[0], Columns=size[1])
    with pytest.raises(DgmvlcError, match=f"{size[0]} x {size[1]} pixels"):
        read_series(files)


def test_the_real_series_has_the_voxels_of_the_same_scan_as_nrrd(real_data):
    (scan,) = survey(real_data("ct64_dicom")).scans
    series, same = read_series(scan.files).volume, read_volume(real_data("ct64/ct-64.nrrd"))
    assert len(scan.files) == 79
    np.testing.assert_array_equal(series.hu, same.hu)
    np.testing.assert_allclose(series.origin_mm, same.origin_mm, atol=1e-2)
    np.testing.assert_allclose(series.spacing_mm, same.spacing_mm, atol=1e-4)


@pytest.fixture
def real_series(real_data, tmp_path):
    """A copy of the real series to do harm to, and its volume."""
    folder = tmp_path / "scan"
    shutil.copytree(real_data("ct64_dicom"), folder, copy_function=shutil.copyfile)
    return folder, read_series(sorted(folder.iterdir())).volume


@pytest.mark.parametrize("how", ["deleted", "cut short", "no DICOM at all"])
def test_the_real_series_with_a_slice_lost_is_interpolated_and_told(how, real_series):
    folder, whole = real_series
    victim = folder / "IMG0040.dcm"
    if how == "deleted":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:3000] if how == "cut short" else b"nothing")
    (scan,) = survey(folder).scans
    reading = read_series(scan.files, scan.unreadable)
    assert "1 slice missing at z = -204.7 mm" in reading.notes[0]
    assert "IMG0039.dcm and IMG0041.dcm" in reading.notes[0]
    assert ("damaged beside them: IMG0040.dcm" in reading.notes[0]) == (how != "deleted")
    assert reading.volume.hu.shape == whole.hu.shape
    others = np.arange(79) != 39
    np.testing.assert_allclose(reading.volume.hu[others], whole.hu[others], atol=0.01)
    np.testing.assert_allclose(
        reading.volume.hu[39], (whole.hu[38] + whole.hu[40]) / 2, rtol=1e-3, atol=1
    )


def test_the_real_series_without_an_end_is_told_where_its_headers_or_its_lungs_show_it(
    real_series, rewrite
):
    folder, whole = real_series
    files = sorted(folder.iterdir())
    (told,) = read_series(files[1:]).notes
    assert told == (
        "1 slice may be missing beyond IMG0002.dcm (z = -356.3 mm): the series' own numbers begin "
        "at 2"
    )
    assert not read_series(files[:-1]).notes  # its headers know of no 79
    rewrite(files[0], ImagesInAcquisition=79)
    (told,) = read_series(files[:-1]).notes
    assert told == (
        "1 slice may be missing beyond IMG0078.dcm (z = -53.2 mm): its header counts 79"
    )
    labels = segment(whole)
    assert check_labels(whole, labels) == []
    for cut, end in ((np.s_[20:], "bottom"), (np.s_[:-20], "top")):
        part = replace(whole, hu=whole.hu[cut])
        assert check_labels(part, labels[cut])[-1] == f"lungs cut off by the {end} of the scan"


def test_the_real_series_with_a_copy_or_exchanged_names_is_the_same(real_series):
    folder, whole = real_series
    shutil.copy(folder / "IMG0040.dcm", folder / "copy.dcm")
    (folder / "IMG0010.dcm").rename(folder / "x")
    (folder / "IMG0050.dcm").rename(folder / "IMG0010.dcm")
    (folder / "x").rename(folder / "IMG0050.dcm")
    found = survey(folder)
    reading = read_series(found.scans[0].files)
    np.testing.assert_array_equal(reading.volume.hu, whole.hu)
    assert reading.notes == ()
    assert [one.reason for one in found.passed_over] == ["a copy of another slice of the series"]


def test_lossless_syntaxes_agree_and_lossy_ones_are_refused_unless_allowed(real_data):
    reference, lossy = None, 0
    for path in sorted(real_data("dicom_syntaxes").iterdir()):
        names = [name for uid, name in LOSSY_SYNTAXES.items() if path.name.endswith(f"_{uid}.dcm")]
        if names:
            with pytest.raises(DgmvlcError, match=f"with loss \\({re.escape(names[0])}\\)"):
                read_series([path])
            reading = read_series([path], allow_lossy=True)
            assert reading.facts["lossy"] == names[0]
            assert names[0] in reading.notes[0]
            lossy += 1
            continue
        hu = read_series([path]).volume.hu
        reference = hu if reference is None else reference
        np.testing.assert_array_equal(hu, reference)
        assert hu[0, 0, 0] == AIR_HU
    assert lossy == 6


def test_a_file_that_was_once_compressed_with_loss_is_told_by_its_header(ramp, tmp_path):
    files = replace(ramp, tags={"LossyImageCompression": "01"}).write(tmp_path)
    with pytest.raises(DgmvlcError, match="compressed with loss"):
        read_series(files)


def test_the_tilted_head_scan_is_corrected_and_reported_with_its_tilt_and_gaps(real_data):
    (scan,) = survey(real_data("dicom_tilt_gap")).scans
    reading = read_series(scan.files)
    assert reading.facts["tilt_degrees"] == pytest.approx(18.5, abs=0.01)
    assert reading.facts["gaps_mm"] == "4.22 mm x 13, 7.38 mm x 13, 1.14 mm x 1"
    assert reading.volume.spacing_mm[0] == pytest.approx(4.0, abs=0.01)
    # The first slice lies where its header says, which is not where the stacked corner lies.
    first = pydicom.dcmread(scan.files[0])
    place = np.array(first.ImagePositionPatient, float)
    middle = place + 255 * 0.4882812 * np.array([1.0, 0.9483237, -0.3173047])
    start = reading.volume.to_lps_mm((0, 0, 0))
    axes = np.reshape(reading.volume.direction, (3, 3))
    index = np.linalg.solve(axes, middle - start) / np.array(reading.volume.spacing_mm)[::-1]
    x, y, z = np.rint(index).astype(int)
    assert z == 0
    stored = first.pixel_array * float(first.RescaleSlope) + float(first.RescaleIntercept)
    assert reading.volume.hu[0, y, x] == pytest.approx(stored[255, 255], abs=30)


@pytest.mark.parametrize("typed", [False, True], ids=["implicit", "explicit"])
@pytest.mark.parametrize("meta", [False, True], ids=["object", "meta and object"])
def test_slices_without_a_preamble_are_read_as_others(meta, typed, ramp, tmp_path):
    for path in ramp.write(tmp_path):
        dataset = pydicom.dcmread(path)
        bare = pydicom.Dataset(dataset)
        if meta:
            bare = pydicom.FileDataset(path, dataset, file_meta=dataset.file_meta)
            bare.file_meta.TransferSyntaxUID = (
                ExplicitVRLittleEndian if typed else (ImplicitVRLittleEndian)
            )
        path.unlink()
        bare.save_as(
            path.with_suffix(""),
            implicit_vr=not typed,
            little_endian=True,
            enforce_file_format=False,
        )
        assert b"DICM" not in path.with_suffix("").read_bytes()[:132]
    (tmp_path / "notes").write_bytes(b"\x08\x00 are no header")
    found = survey(tmp_path)
    (scan,) = found.scans
    assert found.passed_over == []
    np.testing.assert_array_equal(read_series(scan.files).volume.hu, ramp.stored - 1024)


def test_a_legacy_converted_file_is_an_enhanced_one(tmp_path):
    stored = 1000 + np.arange(4 * 5 * 6).reshape(4, 5, 6)
    frames = [one.astype("<i2").tobytes() for one in stored]
    path = tmp_path / "legacy.dcm"
    write_enhanced(path, frames, (5, 6), [1.0] * 4)
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = LegacyConvertedEnhancedCTImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = LegacyConvertedEnhancedCTImageStorage
    dataset.save_as(path)
    (scan,) = survey(tmp_path).scans
    np.testing.assert_array_equal(read_series(scan.files).volume.hu, (stored - 1024)[[0, 2, 1, 3]])


@pytest.mark.parametrize("compressed", [False, True])
def test_an_enhanced_file_gives_the_volume_of_its_frames(compressed, tmp_path, real_data):
    """Frames out of order, each with its own slope; compressed ones hold a real JPEG-LS slice."""
    path = tmp_path / "enhanced.dcm"
    slopes = [1.0, 0.5, 1.0, 2.0]
    if compressed:
        (plain, packed) = (
            next(real_data("dicom_syntaxes").glob(f"*_{uid}.dcm"))
            for uid in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80")
        )
        source = pydicom.dcmread(packed)
        frames = [next(pydicom.encaps.generate_frames(source.PixelData, number_of_frames=1))] * 4
        stored = np.stack([pydicom.dcmread(plain).pixel_array] * 4)
    else:
        source = None
        stored = 1000 + np.arange(4 * 5 * 6).reshape(4, 5, 6)
        frames = [one.astype("<i2").tobytes() for one in stored]
    write_enhanced(path, frames, stored.shape[1:], slopes, source)
    (scan,) = survey(tmp_path).scans
    assert scan.traits.slices == 4
    reading = read_series(scan.files)
    expected = (stored * np.array(slopes)[:, None, None] - 1024)[[0, 2, 1, 3]]
    tissue = expected > -1000
    np.testing.assert_allclose(reading.volume.hu[tissue], expected[tissue])
    assert reading.volume.spacing_mm == pytest.approx((2.0, 1.5, 1.25))


@pytest.mark.parametrize("tilt_degrees", [0.0, 20.0])
def test_a_tilted_irregular_series_of_the_real_chest_has_its_lungs(
    tilt_degrees, real_data, tmp_path
):
    volume = read_volume(real_data("ct64/ct-64.nrrd"))
    whole = lung_facts(volume)
    angle = np.deg2rad(tilt_degrees)
    column = np.array([0.0, np.cos(angle), np.sin(angle)])
    heights = np.cumsum([0.0, *([3.2] * 60), *([4.4] * 60)]) - 60.0
    corner = np.array(volume.origin_mm)
    positions = corner + heights[:, None] * np.array([0.0, 0.0, 1.0])
    normal = np.cross([1.0, 0.0, 0.0], column)
    axes = np.stack([[1.0, 0.0, 0.0], column, normal], axis=1)
    planes = []
    for place in positions:
        plane = Grid(
            shape=(1, 70, 64),
            spacing_mm=(1.0, volume.spacing_mm[1], volume.spacing_mm[2]),
            origin_mm=tuple(place),
            direction=tuple(axes.ravel()),
        )
        image = image_of(volume.hu, volume)
        planes.append(resample_image(image, plane, sitk.sitkBSpline, -1000.0)[0])
    series = Series(
        np.rint(planes).astype(int) + 1024,
        orientation=(1.0, 0.0, 0.0, *column),
        positions=positions,
        tags={"PixelSpacing": list(volume.spacing_mm[1:])},
    )
    reading = read_series(series.write(tmp_path))
    assert reading.facts.get("tilt_degrees", 0.0) == pytest.approx(tilt_degrees, abs=0.01)
    lung_ml, mean_hu = lung_facts(reading.volume)
    assert lung_ml == pytest.approx(whole[0], rel=0.01)
    assert mean_hu == pytest.approx(whole[1], abs=4)


def lung_facts(volume: Volume) -> tuple[float, float]:
    """Volume in mL and mean HU of the lungs."""
    lungs = np.isin(segment(volume), LUNGS)
    return float(lungs.sum()) * volume.voxel_ml, float(volume.hu[lungs].mean())
