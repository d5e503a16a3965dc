from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.discovery import survey


def image(path, seed=0, slices=4, dtype=np.int16):
    """A small image of noise around water, or of two labels if its type is unsigned."""
    rng = np.random.default_rng(seed)
    low, high = (0, 2) if np.issubdtype(dtype, np.unsignedinteger) else (-900, 90)
    values = rng.integers(low, high, (slices, 5, 6)).astype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


def test_every_format_at_any_depth_is_found_in_order_of_subject(ramp, tmp_path):
    image(tmp_path / "b" / "s2.nii.gz")
    image(tmp_path / "a" / "deep" / "s3.nrrd")
    image(tmp_path / "s1.mha")
    for path in replace(ramp, patient="s0").write(tmp_path / "a" / "dicom"):
        path.rename(path.with_suffix(""))
    (tmp_path / "notes.txt").write_text("not an image")
    image(tmp_path / ".trash" / "s9.nii.gz")
    found = survey(tmp_path)
    assert [(scan.subject, scan.kind) for scan in found.scans] == [
        ("s0", "dicom"),
        ("s1", "mha"),
        ("s2", "nifti"),
        ("s3", "nrrd"),
    ]
    assert len(found.scans[0].files) == 8
    assert found.passed_over == []


def test_a_single_file_and_a_single_folder_are_roots_too(ramp, tmp_path):
    path = image(tmp_path / "s1.nii.gz")
    ramp.write(tmp_path / "series")
    assert [scan.subject for scan in survey(path).scans] == ["s1"]
    assert [scan.subject for scan in survey(tmp_path / "series").scans] == ["P1"]


def test_one_file_name_in_many_folders_makes_the_folders_the_subjects(tmp_path):
    for subject in ("p2", "p1"):
        image(tmp_path / subject / "ct.nii.gz")
    assert [scan.subject for scan in survey(tmp_path).scans] == ["p1", "p2"]


def test_a_series_without_patient_id_takes_the_name_of_its_folder(ramp, tmp_path):
    replace(ramp, patient="").write(tmp_path / "case7")
    assert [scan.subject for scan in survey(tmp_path).scans] == ["case7"]


def test_masks_beside_the_scans_are_passed_over_by_their_content(tmp_path):
    image(tmp_path / "scans" / "s1.nii.gz")
    image(tmp_path / "scans" / "mask_study.nii.gz")
    image(tmp_path / "labels" / "s1.nii.gz", dtype=np.uint8)
    found = survey(tmp_path)
    assert [scan.subject for scan in found.scans] == ["mask_study", "s1"]
    assert [(one.path.parent.name, one.reason) for one in found.passed_over] == [
        ("labels", "looks like a mask")
    ]


def test_the_largest_series_of_a_subject_is_chosen_and_the_others_listed(ramp, tmp_path):
    replace(ramp, uid="1.2.9", stored=ramp.stored[:3]).write(tmp_path / "few")
    replace(ramp, uid="1.2.8").write(tmp_path / "many")
    found = survey(tmp_path)
    assert [(scan.series_uid, len(scan.files)) for scan in found.scans] == [("1.2.8", 8)]
    (other,) = found.passed_over
    assert other.path.name == "few"
    assert "larger scan" in other.reason


def test_two_series_in_one_folder_are_told_apart(ramp, tmp_path):
    for number, patient in enumerate(("A", "B")):
        for path in replace(ramp, uid=f"1.2.{number}", patient=patient).write(tmp_path / "new"):
            path.rename(tmp_path / f"{patient}{path.name}")
    assert [(scan.subject, len(scan.files)) for scan in survey(tmp_path).scans] == [
        ("A", 8),
        ("B", 8),
    ]


def test_what_is_no_ct_slice_is_listed_with_its_reason(ramp, tmp_path, rewrite):
    files = ramp.write(tmp_path)
    (tmp_path / "copy.dcm").write_bytes(files[0].read_bytes())
    rewrite(files[7], Modality="SR")
    rewrite(files[6], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "junk.dcm").write_bytes(b"junk")
    found = survey(tmp_path)
    assert len(found.scans[0].files) == 6
    assert [path.name for path in found.scans[0].unreadable] == ["junk.dcm"]
    reasons = {one.path.name: one.reason for one in found.passed_over}
    assert reasons["I007.dcm"] == "modality SR, not CT"
    assert "localizer" in reasons["I006.dcm"]
    assert "damaged" in reasons["junk.dcm"]
    assert reasons["copy.dcm"] == "a copy of I000.dcm"


def test_a_damaged_scan_is_still_a_scan_that_can_fail(tmp_path):
    path = image(tmp_path / "s1.nii.gz")
    path.write_bytes(path.read_bytes()[:50])
    assert [scan.subject for scan in survey(tmp_path).scans] == ["s1"]


def test_no_scan_is_an_error_with_what_was_seen(tmp_path):
    with pytest.raises(DgmvlcError, match="no such file or folder"):
        survey(tmp_path / "absent")
    with pytest.raises(DgmvlcError, match="no CT scan found, no image and no DICOM file"):
        survey(tmp_path)
    image(tmp_path / "m.nii.gz", dtype=np.uint8)
    with pytest.raises(DgmvlcError, match=r"m.nii.gz: looks like a mask"):
        survey(tmp_path)


def test_the_real_scan_is_told_from_its_masks(real_data):
    found = survey(real_data("ct64"))
    assert [scan.subject for scan in found.scans] == ["ct-64"]
    assert [one.path.name for one in found.passed_over] == ["lobes-64.nrrd", "wholelung-64.nrrd"]
