from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from commands import dgmvlc
from enhanced import write_enhanced
from pydicom.dataset import Dataset

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.choosing import series_rows
from dgmvlc_cli.imaging.discovery import looks_like_mask, survey
from dgmvlc_cli.imaging.identity import Identity, SubjectRule
from dgmvlc_cli.imaging.scans import Traits
from dgmvlc_cli.imaging.vocabulary import known_words
from dgmvlc_cli.workspace import Workspace


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


@pytest.mark.parametrize("planted", [False, True])
def test_the_outputs_of_any_workspace_below_the_scans_are_no_scans(planted, tmp_path):
    image(tmp_path / "s1.nii.gz")
    other = Workspace(tmp_path / "deep" / "study")
    other.describe_dataset()
    image(other.ct_path("s1"))
    image(other.root / "scans" / "s2.nii.gz")
    assert len(survey(tmp_path).scans) == 3, "described, but not by the settings of a workspace"
    other.settings_path.write_text("seed = 0\n")
    if planted:
        other.plant_path.write_text("{}")
    assert [scan.subject for scan in survey(tmp_path).scans] == ["s1"] + ["s2"] * (not planted)
    assert [scan.subject for scan in survey(other.root / "scans").scans] == ["s2"]


def test_links_to_folders_elsewhere_are_followed_and_never_in_circles(ramp, tmp_path):
    scans, store = tmp_path / "scans", tmp_path / "store"
    replace(ramp, patient="P1").write(store / "P1")
    replace(ramp, patient="P2", uid="1.2.5").write(scans / "P2")
    (scans / "P1").symlink_to(store / "P1")
    (scans / "again").symlink_to(scans / "P2")
    (scans / "around").symlink_to(tmp_path)
    (store / "P1" / "back").symlink_to(store / "P1")
    (store / "P1" / "home").symlink_to(scans)
    found = survey(scans)
    assert [(scan.subject, len(scan.files)) for scan in found.scans] == [("P1", 8), ("P2", 8)]
    assert found.passed_over == []
    assert found.scans[0].path == scans / "P1"


def test_masks_beside_the_scans_are_passed_over_by_their_content(tmp_path):
    image(tmp_path / "scans" / "s1.nii.gz")
    image(tmp_path / "scans" / "mask_study.nii.gz")
    image(tmp_path / "labels" / "s1.nii.gz", dtype=np.uint8)
    found = survey(tmp_path)
    assert [scan.subject for scan in found.scans] == ["mask_study", "s1"]
    assert [(one.path.parent.name, one.reason) for one in found.passed_over] == [
        ("labels", "looks like a mask")
    ]


@pytest.mark.parametrize(
    "name", ["s1_lung", "s1_lungs", "s1-lung", "lungs", "s1_trachea", "s1mask"]
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_mask_named_after_its_structure_is_known_though_its_numbers_are_those_of_scans(
    name, dtype, tmp_path
):
    image(tmp_path / "s1.nii.gz")
    labels = np.random.default_rng(0).integers(0, 2, (4, 5, 6)).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / f"{name}.nii.gz"))
    found = survey(tmp_path)
    assert [scan.subject for scan in found.scans] == ["s1"]
    assert [one.reason for one in found.passed_over] == ["looks like a mask"]


def test_a_mask_so_large_that_freed_memory_leaves_the_process_is_known(tmp_path):
    labels = np.zeros((80, 512, 512), np.uint16)
    labels[20:60, 100:400, 100:400] = 1
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "s1_mask.nii.gz"), True)
    assert looks_like_mask(tmp_path / "s1_mask.nii.gz")


def test_the_largest_series_of_a_subject_is_chosen_and_the_others_listed(ramp, tmp_path):
    replace(ramp, uid="1.2.9", stored=ramp.stored[:3]).write(tmp_path / "few")
    replace(ramp, uid="1.2.8").write(tmp_path / "many")
    found = survey(tmp_path)
    assert [(scan.path.name, len(scan.files)) for scan in found.scans] == [("many", 8)]
    (other,) = found.passed_over
    assert other.path.name == "few"
    assert other.reason == "covers 6 mm; the chosen series: covers 16 mm"


def test_two_series_in_one_folder_are_told_apart(ramp, tmp_path):
    for number, patient in enumerate(("A", "B")):
        for path in replace(ramp, uid=f"1.2.{number}", patient=patient).write(tmp_path / "new"):
            path.rename(tmp_path / f"{patient}{path.name}")
    assert [(scan.subject, len(scan.files)) for scan in survey(tmp_path).scans] == [
        ("A", 8),
        ("B", 8),
    ]


def test_slices_that_share_one_instance_uid_are_no_copies(ramp, tmp_path, rewrite):
    for path in ramp.write(tmp_path):
        rewrite(path, SOPInstanceUID="1.2.3.4.1")
    found = survey(tmp_path)
    assert len(found.scans[0].files) == 8 and found.passed_over == []


def test_slices_of_two_patients_or_series_are_no_copies_though_their_instance_uids_agree(
    ramp, tmp_path, rewrite
):
    for patient, uid in (("A", "1.2.1"), ("B", "1.2.2"), ("B", "1.2.3")):
        for number, path in enumerate(
            replace(ramp, patient=patient, uid=uid).write(tmp_path / uid)
        ):
            rewrite(path, SOPInstanceUID=f"1.9.{number}")
    found = survey(tmp_path)
    assert [(scan.subject, len(scan.files)) for scan in found.scans] == [("A", 8), ("B", 8)]
    assert [len(one.files) for one in found.passed_over] == [8]


@pytest.mark.parametrize(
    ("patient", "tag"), [("", ""), ("ANON", "StudyInstanceUID"), ("ANON", "FrameOfReferenceUID")]
)
def test_persons_of_one_id_and_series_uid_do_not_become_one_volume(
    patient, tag, ramp, tmp_path, rewrite
):
    for name in ("a", "b"):
        for number, path in enumerate(replace(ramp, patient=patient).write(tmp_path / name)):
            rewrite(path, SOPInstanceUID=f"1.9.{name == 'b':d}.{number}")
            if tag:
                rewrite(path, **{tag: f"1.7.{name == 'b':d}"})
    found = survey(tmp_path)
    seen = [(scan.path.name, len(scan.files)) for scan in found.all]
    assert sorted(seen) == [("a", 8), ("b", 8)]
    assert [scan.subject for scan in found.scans] == ([patient] if patient else ["a", "b"])
    assert len({one.key for one in found.all}) == 2


def test_slices_of_one_series_in_many_folders_stay_one_series(ramp, tmp_path):
    for path in ramp.write(tmp_path / "all"):
        (tmp_path / path.stem).mkdir()
        path.rename(tmp_path / path.stem / "slice")
    found = survey(tmp_path)
    assert [(scan.subject, len(scan.files)) for scan in found.scans] == [("P1", 8)]


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
    assert reasons["copy.dcm"] == "a copy of another slice of the series"
    assert {one.path.name: one.subject for one in found.passed_over}["copy.dcm"] == "P1"


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


def series_of(ramp, folder, uid, **changes):
    """Write a series with other tags or slices than the ramp's."""
    tags = changes.pop("tags", {})
    return replace(ramp, uid=uid, tags=tags, **changes).write(folder / uid)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "derived; the chosen series: original"),
        ({"SeriesDescription": "Thorax EXP"}, "exp; the chosen series: not expiratory"),
        ({"SeriesDescription": "Expi"}, "expi; the chosen series: not expiratory"),
        ({"PatientPosition": "HFP"}, "prone; the chosen series: not expiratory"),
        ({"ContrastBolusAgent": "Ultravist"}, "with contrast; the chosen series: no contrast told"),
        (
            {"ConvolutionKernel": "LUNG"},
            "sharp kernel LUNG; the chosen series: smooth kernel STANDARD",
        ),
        (
            {"LossyImageCompression": "01"},
            "compressed with loss; the chosen series: without loss",
        ),
    ],
)
def test_of_two_like_series_the_rule_decides_and_says_why(tags, said, ramp, tmp_path):
    series_of(ramp, tmp_path, "1.1", tags={"ConvolutionKernel": "STANDARD"} | tags)
    series_of(ramp, tmp_path, "1.2", tags={"ConvolutionKernel": "STANDARD"})
    found = survey(tmp_path)
    assert [scan.path.name for scan in found.scans] == ["1.2"]
    assert [one.reason for one in found.passed_over] == [said]


@pytest.mark.parametrize(
    ("agent", "given"),
    [
        (None, None),
        ("", False),
        (" ", False),
        ("NONE", False),
        ("No", False),
        ("N", False),
        ("0", False),
        ("w/o", False),
        ("without", False),
        ("No IV contrast", False),
        ("Omnipaque", True),
        ("NON-IONIC", True),
        ("0.5 mL Gadovist", True),
    ],
)
def test_contrast_is_given_not_given_or_not_told(agent, given, ramp, tmp_path):
    tags = {} if agent is None else {"ContrastBolusAgent": agent}
    series_of(ramp, tmp_path, "1.1", tags=tags)
    assert survey(tmp_path).scans[0].traits.contrast is given


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("EXPIR 1.0", "expir"),
        ("Expi", "expi"),
        ("Espirazione", "espirazione"),
        ("ESPIRACIÓN", "espiracion"),
        ("Thorax Bauchlage", "bauchlage"),
        ("Procubitus", "procubitus"),
        ("decubito PRONO", "prono"),
        ("Thorax no expiration", ""),
        ("Non contrast exp", "exp"),
        ("Thorax w/o EXP", "exp"),
        ("Thorax insp", ""),
    ],
)
def test_words_of_several_languages_say_expiratory_or_prone(description, said):
    assert Traits(words=known_words(description)).breath == said


def test_an_enhanced_file_tells_kernel_voltage_and_contrast_in_its_groups(tmp_path):
    frames = [np.full((5, 6), 1000, "<i2").tobytes()] * 4
    write_enhanced(tmp_path / "e.dcm", frames, (5, 6), [1.0] * 4)
    dataset = pydicom.dcmread(tmp_path / "e.dcm")
    kernel, xray, agent = Dataset(), Dataset(), Dataset()
    kernel.ConvolutionKernel, xray.KVP, agent.ContrastBolusAgentNumber = "B70f", 100, 1
    dataset.SharedFunctionalGroupsSequence[0].CTReconstructionSequence = [kernel]
    dataset.SharedFunctionalGroupsSequence[0].CTXRayDetailsSequence = [xray]
    dataset.ContrastBolusAgentSequence = [agent]
    dataset.save_as(tmp_path / "e.dcm")
    traits = survey(tmp_path).scans[0].traits
    assert (traits.kernel, traits.kvp, traits.contrast) == ("B70F", 100.0, True)


def test_a_scan_chosen_from_several_studies_says_so(ramp, tmp_path):
    for number in range(3):
        tags = {"StudyInstanceUID": f"1.7.{number // 2}"}
        series_of(ramp, tmp_path / "all", f"1.1.{number}", patient="ANON", tags=tags)
    (scan,) = survey(tmp_path).scans
    assert "series of 2 studies" in scan.notes[0] and "subject_from" in scan.notes[0]
    told = dgmvlc("init", str(tmp_path), "-w", str(tmp_path / "study")).stdout
    assert "WARNING: ANON: chosen from series of 2 studies" in told
    named = survey(tmp_path, overrides={"ANON": "all/1.1.2"}).scans[0]
    assert not named.notes, "who names a series knows of the others"
    (tmp_path / "all" / "1.1.2").rename(tmp_path / "1.1.2")
    assert not survey(tmp_path / "all").scans[0].notes


def test_thin_slices_are_preferred_unless_they_cover_less(ramp, tmp_path):
    series_of(ramp, tmp_path, "1.1", stored=ramp.stored[::2], gap_mm=4.0)
    series_of(ramp, tmp_path, "1.2")
    series_of(ramp, tmp_path, "1.3", gap_mm=0.5)
    found = survey(tmp_path)
    assert [scan.path.name for scan in found.scans] == ["1.2"]
    assert [one.reason for one in found.passed_over] == [
        "gaps of 4.00 mm; the chosen series: gaps of 2.00 mm",
        "covers 4 mm; the chosen series: covers 16 mm",
    ]


def test_a_coronal_reformat_gives_way_to_the_axial_series(ramp, tmp_path):
    series_of(ramp, tmp_path, "1.1", orientation=(1, 0, 0, 0, 0, -1), gap_mm=0.4)
    found = survey(tmp_path)
    assert found.scans[0].traits.plane == "coronal"
    series_of(ramp, tmp_path, "1.2", gap_mm=1.0)
    found = survey(tmp_path)
    assert [scan.traits.plane for scan in found.scans] == ["axial"]


def test_another_series_can_be_named_by_label_or_path(ramp, tmp_path):
    for uid in ("1.1", "1.2"):
        series_of(ramp, tmp_path, uid)
    rows = series_rows(survey(tmp_path), Identity())
    label = next(row["series"] for row in rows if row["chosen"] == "no")
    for name in (label, "1.2"):
        found = survey(tmp_path, overrides={"P1": name})
        assert [scan.path.name for scan in found.scans] == ["1.2"]
        assert found.passed_over[0].reason == "another was named in dgmvlc.toml"
    with pytest.raises(UsageError, match="fits 0 series"):
        survey(tmp_path, overrides={"P1": "none"})
    with pytest.raises(UsageError, match="'P2' that has no scan"):
        survey(tmp_path, overrides={"P2": label})


def test_slices_of_another_size_under_one_uid_are_told_apart(ramp, tmp_path):
    series_of(ramp, tmp_path, "1.1")
    scout = replace(ramp, uid="1.1", stored=ramp.stored[:1, :4, :4]).write(tmp_path / "scout")
    dataset = pydicom.dcmread(scout[0])
    dataset.SOPInstanceUID = "9.9"
    dataset.save_as(scout[0])
    found = survey(tmp_path)
    assert len(found.scans[0].files) == 8
    assert "another size or orientation, left out: 1" in found.scans[0].notes[0]
    assert len(found.passed_over) == 1


def test_every_series_is_a_row_with_what_it_is_like(ramp, tmp_path):
    tags = {
        "SeriesDescription": "Thorax insp 1.0 Jane Doe",
        "ConvolutionKernel": ["Br40d", "3"],
        "SliceThickness": 2.5,
        "KVP": "120",
        "Manufacturer": "SIEMENS Doe Healthineers",
    }
    series_of(ramp, tmp_path, "1.1", tags=tags)
    series_of(ramp, tmp_path, "1.2", tags={"Modality": "PT", "ConvolutionKernel": "DOE"})
    image(tmp_path / "labels" / "s1.nii.gz", dtype=np.uint8)
    rows = series_rows(survey(tmp_path), Identity())
    assert {(row["chosen"], row["reason"], row["files"]) for row in rows} == {
        ("yes", "", 8),
        ("no", "modality PT, not CT", 8),
        ("no", "looks like a mask", 1),
    }
    first = next(row for row in rows if row["chosen"] == "yes")
    assert first["words"] == "thorax insp"
    assert first["kernel"] == "BR40D"
    assert (first["slices"], first["gap_mm"], first["thickness_mm"]) == (8, 2.0, 2.5)
    assert (first["kvp"], first["maker"]) == (120.0, "Siemens")
    assert first["image_type"] == "ORIGINAL/PRIMARY/AXIAL"
    hidden = series_rows(survey(tmp_path), Identity(secret=b"x" * 32))
    assert {row["path"] for row in hidden} == {""}
    assert not any("P1" in str(row.values()) for row in hidden)


def test_a_rule_that_gives_no_subject_passes_the_scan_over(tmp_path):
    image(tmp_path / "S01_ct.nii.gz")
    image(tmp_path / "phantom.nii.gz")
    rule = SubjectRule(source="pattern", pattern=r"(?P<subject>S\d+)")
    found = survey(tmp_path, rule=rule)
    assert [scan.subject for scan in found.scans] == ["S01"]
    assert found.passed_over[0].reason == "no subject id by the rule `pattern`"
