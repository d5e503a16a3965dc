from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.discovery import survey
from dgmvlc_cli.imaging.files import write_labels, write_volume
from dgmvlc_cli.imaging.hounsfield import peaks, why_not_hu
from dgmvlc_cli.imaging.masks import MaskFiles
from dgmvlc_cli.imaging.prepare import Handling, prepare
from dgmvlc_cli.imaging.volume import LUNGS, Tissue


@pytest.fixture
def scan(chest, tmp_path):
    write_volume(tmp_path / "s1.nii.gz", chest[0])
    return survey(tmp_path).scans[0]


def test_without_resampling_hu_and_place_stay_as_they_are(chest, scan):
    volume, _ = chest
    prepared = prepare(scan, Handling(margin_mm=8.0))
    corner = prepared.volume.to_lps_mm((0, 0, 0)) - volume.to_lps_mm((0, 0, 0))
    z, y, x = np.rint(corner[::-1] / 4.0).astype(int)
    d, h, w = prepared.volume.hu.shape
    same = volume.hu[z : z + d, y : y + h, x : x + w]
    assert np.abs(prepared.volume.hu - same).max() <= 0.5
    assert np.isin(prepared.labels, LUNGS).any(axis=(1, 2)).nonzero()[0][0] in (0, 2)


def test_resampling_keeps_lung_volume_and_mean(scan):
    prepared = prepare(scan, Handling(spacing_mm=3.0))
    lungs = np.isin(prepared.labels, LUNGS)
    assert prepared.volume.spacing_mm == (3.0, 3.0, 3.0)
    facts = prepared.facts
    assert lungs.sum() * 0.027 == pytest.approx(facts["lung_volume_ml"], rel=0.02)
    assert prepared.volume.hu[lungs].mean() == pytest.approx(facts["mean_lung_hu"], abs=5)
    assert facts["shape"] == list(prepared.volume.hu.shape)
    assert json.loads(json.dumps(facts)) == facts


def test_the_margin_around_the_lungs_is_kept_and_no_more(scan):
    prepared = prepare(scan, Handling(spacing_mm=4.0, margin_mm=10.0))
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.isin(prepared.labels, LUNGS).any(axis=others).nonzero()[0]
        assert filled[0] <= 3
        assert prepared.labels.shape[axis] - 1 - filled[-1] <= 3


def test_given_labels_are_used_as_they_are(chest, scan, tmp_path):
    volume, truth = chest
    write_labels(tmp_path / "truth.nii.gz", truth, volume)
    prepared = prepare(scan, Handling(), MaskFiles(files=(tmp_path / "truth.nii.gz",)))
    for tissue in LUNGS:
        assert (prepared.labels == tissue).sum() == (truth == tissue).sum()
    binary = np.isin(truth, LUNGS).astype(np.uint8)
    write_labels(tmp_path / "lungs.nii.gz", binary, volume)
    prepared = prepare(scan, Handling(), MaskFiles(files=(tmp_path / "lungs.nii.gz",)))
    assert np.isin(prepared.labels, LUNGS).sum() == binary.sum()
    sides = np.where(np.isin(truth, LUNGS), truth, 0)
    write_labels(tmp_path / "sides.nii.gz", sides, volume)
    prepared = prepare(scan, Handling(), MaskFiles(files=(tmp_path / "sides.nii.gz",)))
    assert (prepared.labels == Tissue.LEFT_LUNG).sum() == (truth == Tissue.LEFT_LUNG).sum()
    assert (prepared.labels == Tissue.BODY).any()
    write_labels(tmp_path / "other.nii.gz", truth * 10, volume)
    with pytest.raises(DgmvlcError, match="mask values"):
        prepare(scan, Handling(), MaskFiles(files=(tmp_path / "other.nii.gz",)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda hu: hu + 1024, "intercept"),
        (lambda hu: np.where(np.indices(hu.shape)[2] < 4, -1000, hu + 1024), "intercept"),
        (lambda hu: np.clip((hu + 1000) / 8, 0, 255), "scaled to 0..255"),
        (lambda hu: np.clip(hu / 1000, -1, 1), "scaled to"),
        (lambda hu: hu - 300, "peak of gas"),
        (lambda hu: hu - 1024, "no soft tissue"),
    ],
)
def test_what_is_not_in_hu_is_refused_with_a_guess(change, reason, chest, tmp_path):
    hu = change(chest[0].hu).astype(np.float32)
    assert reason in why_not_hu(hu, peaks(hu))
    write_volume(tmp_path / "s1.nrrd", replace(chest[0], hu=hu))
    scan = survey(tmp_path).scans[0]
    with pytest.raises(DgmvlcError, match="not in HU") as caught:
        prepare(scan, Handling(spacing_mm=4.0))
    assert "--allow-not-hu" in caught.value.hint


def test_the_peaks_of_a_chest_lie_where_hu_put_them(chest):
    gas, tissue = peaks(chest[0].hu)
    assert gas == pytest.approx(-1000, abs=15)
    assert -150 < tissue < 80
    assert why_not_hu(chest[0].hu, (gas, tissue)) == ""


def test_values_that_are_no_hu_go_on_where_allowed_and_are_told(chest, tmp_path):
    volume, truth = chest
    write_volume(tmp_path / "s1.nii.gz", replace(volume, hu=volume.hu + 1024))
    write_labels(tmp_path / "masks" / "s1.nii.gz", truth, volume)
    masks = MaskFiles(files=(tmp_path / "masks" / "s1.nii.gz",))
    scan = survey(tmp_path).scans[0]
    with pytest.raises(DgmvlcError, match="does not fit its scan"):
        prepare(scan, Handling(allow_not_hu=True), masks)
    write_volume(tmp_path / "s1.nii.gz", replace(volume, hu=volume.hu - 300))
    prepared = prepare(scan, Handling(allow_not_hu=True), masks)
    assert any(one.startswith("not in HU") for one in prepared.warnings)


def test_a_scan_without_lungs_fails_with_a_reason(chest, tmp_path):
    volume, truth = chest
    solid = replace(volume, hu=np.where(np.isin(truth, (0, 1)), volume.hu, np.float32(20)))
    write_volume(tmp_path / "s1.nii.gz", solid)
    with pytest.raises(DgmvlcError, match="no lung found"):
        prepare(survey(tmp_path).scans[0], Handling(spacing_mm=4.0))


@pytest.mark.parametrize("factor", [0.1, 0.001, 10.0, 1000.0])
def test_a_spacing_in_another_unit_is_refused_with_what_was_got(factor, chest, tmp_path):
    wrong_mm = (4.0 * factor,) * 3
    write_volume(tmp_path / "s1.nii.gz", replace(chest[0], spacing_mm=wrong_mm))
    with pytest.raises(DgmvlcError, match=f"voxels of {4 * factor:g} x .* were expected") as caught:
        prepare(survey(tmp_path).scans[0], Handling(spacing_mm=4.0))
    assert "another unit" in caught.value.hint


def test_lungs_larger_than_any_are_refused(chest, tmp_path):
    wrong_mm = (8.0, 8.0, 8.0)
    write_volume(tmp_path / "s1.nii.gz", replace(chest[0], spacing_mm=wrong_mm))
    with pytest.raises(DgmvlcError, match=r"lungs of \d+ L in voxels of 8 x 8 x 8 mm, at most 20"):
        prepare(survey(tmp_path).scans[0], Handling(spacing_mm=4.0))


def test_a_working_grid_beyond_memory_is_refused_before_it_is_made(scan):
    with pytest.raises(DgmvlcError, match=r"its lungs need .* voxels of 0.1 mm"):
        prepare(scan, Handling(spacing_mm=0.1))


def test_a_series_and_the_same_scan_as_nrrd_give_the_same(real_data):
    series, same = (
        prepare(survey(real_data(name)).scans[0], Handling())
        for name in ("ct64_dicom", "ct64/ct-64.nrrd")
    )
    np.testing.assert_array_equal(series.volume.hu, same.volume.hu)
    np.testing.assert_array_equal(series.labels, same.labels)
    assert series.facts["slices"] == 79
    assert series.facts["lung_volume_ml"] == pytest.approx(4550, rel=0.05)
    assert series.facts["mean_lung_hu"] == pytest.approx(-874, abs=5)
    assert series.warnings == []


@pytest.mark.parametrize("name", ["dicom_tilt_gap", "dicom_lung_bases"])
def test_a_head_or_a_belly_is_no_chest(name, real_data):
    scan = next(one for one in survey(real_data(name)).scans if one.kind == "dicom")
    with pytest.raises(DgmvlcError, match=r"no lung found but \d+ mL of gas"):
        prepare(scan, Handling())
