"""No identifier of a DICOM header reaches any byte of the workspace."""

from __future__ import annotations

import gzip
import json
import shutil
import stat
from pathlib import Path

import pydicom
import pytest
from commands import dgmvlc
from pydicom.datadict import DicomDictionary, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.files import read_image, write_labels
from dgmvlc_cli.imaging.identity import Identity, SubjectRule, scrub
from dgmvlc_cli.imaging.volume import Volume
from dgmvlc_cli.workspace import read_table

TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT"})
KEPT = frozenset({"Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet"})
GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028, 0x0032, 0x0038, 0x0040)
FITTING = {"AS": "077Y", "DA": "19470307", "TM": "061742", "DT": "19470307061742"}
PLANTED = "ZQX"


def plant(dataset: Dataset) -> None:
    """Fill every text element of the patient, study, series and image groups."""
    for number, tag in enumerate(_text_tags()):
        vr = dictionary_VR(tag)
        value = FITTING.get(vr, f"{PLANTED}{number:04d}")
        if vr == "PN":
            value = f"{PLANTED}{number:04d}^Jane"
        dataset.add_new(tag, vr, value)


def _text_tags() -> list[BaseTag]:
    return [
        BaseTag(tag)
        for tag, (vr, _, _, retired, name) in DicomDictionary.items()
        if tag >> 16 in GROUPS and vr in TEXT_VRS and name not in KEPT and not retired
    ]


@pytest.fixture(scope="module")
def clinic(chest_series, tmp_path_factory) -> Path:
    """Two patients' series, every text element planted, in folders named after them; a table."""
    tmp_path = tmp_path_factory.mktemp("clinic")
    for number, patient in enumerate(("ZQXDoe^Jane", "ZQXRoe^Richard")):
        folder = tmp_path / "scans" / f"ZQXfolder {patient}" / "st1"
        for path in chest_series(patient, uid=f"1.2.9.{number}").write(folder):
            dataset = pydicom.dcmread(path)
            plant(dataset)
            dataset.PatientID = patient
            dataset.save_as(path)
            path.rename(path.with_name(f"ZQX{path.name}"))
    damaged = next((tmp_path / "scans").rglob("ZQXI015.dcm"))
    damaged.write_bytes(damaged.read_bytes()[:-500])
    (tmp_path / "scans" / "ZQXnote.dcm").write_bytes(b"ZQX no DICOM")
    (tmp_path / "clinical.csv").write_text(
        "PatientID,Age,Smoking\nZQXDoe^Jane,61,never\nZQXRoe^Richard,55,current\n"
        "ZQXNoscan,70,never\n"
    )
    return tmp_path


def leaks(root: Path, words: list[str]) -> list[str]:
    """Files below root whose name or bytes, unpacked too, hold one of the words."""
    found = []
    for path in (one for one in root.rglob("*") if one.is_file()):
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content += gzip.decompress(content)
        content += str(path.relative_to(root)).encode()
        found += [f"{path}: {word}" for word in words if word.encode() in content]
    return found


def test_no_planted_identifier_is_in_any_byte_of_the_workspace(clinic):
    study = clinic / "study"
    w = ("-w", str(study))
    dgmvlc("init", str(clinic / "scans"), str(clinic / "clinical.csv"), *w)
    done = dgmvlc("preprocess", "--spacing", "8", "--workers", "1", *w)
    dgmvlc("describe", *w)
    words = [PLANTED, *FITTING.values()]
    assert leaks(study, words) == []
    assert not any(word in done.stdout + done.stderr for word in words)
    assert "pseudonyms" in done.stdout
    table = read_table(study / "subjects.tsv", dtype=str)
    assert len(table) == 2 and set(table["status"]) == {"ok"}
    assert table["warnings"].str.contains("slice").sum() == 1
    prompts = read_table(study / "text" / "prompts.tsv", dtype=str)
    assert set(prompts["subject"]) == set(table["subject"])


def test_ids_that_do_not_match_are_told_without_them(clinic):
    table = clinic / "lower.csv"
    table.write_text("PatientID,Age,Smoking\nzqxdoe^jane,61,never\nzqxroe^richard,55,current\n")
    w = ("-w", str(clinic / "lower"))
    dgmvlc("init", str(clinic / "scans"), str(table), *w)
    dgmvlc("preprocess", "--spacing", "8", "--workers", "1", *w)
    said = dgmvlc("describe", *w, expect=1).stderr
    assert "2 ids differ only in case" in said and "zqx" not in said.lower()
    table.write_text("PatientID,Age,Smoking\nA1,61,never\nA2,55,current\n")
    said = dgmvlc("describe", *w, expect=1).stderr
    assert "pseudonyms" in said and "lower.key.json" in said and "A1" not in said


def test_the_key_says_who_is_who_and_only_its_owner_may_read_it(clinic):
    w = ("-w", str(clinic / "again"))
    dgmvlc("init", str(clinic / "scans"), *w)
    dgmvlc("preprocess", "--spacing", "8", "--workers", "1", *w)
    key = clinic / "again.key.json"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    record = json.loads(key.read_text())
    assert set(record["subjects"].values()) == {"ZQXDoe^Jane", "ZQXRoe^Richard"}
    before = read_table(clinic / "again" / "subjects.tsv", dtype=str)["subject"]
    dgmvlc("preprocess", "--spacing", "8", "--workers", "1", *w)
    after = read_table(clinic / "again" / "subjects.tsv", dtype=str)["subject"]
    assert list(before) == list(after)
    assert set(record["subjects"]) == set(after)
    key.write_text("{}")
    said = dgmvlc("preprocess", *w, expect=1).stderr
    assert "key of this workspace's pseudonyms" in said


def test_names_are_kept_where_pseudonyms_are_turned_off(clinic):
    study = clinic / "open"
    dgmvlc("init", str(clinic / "scans"), "-w", str(study))
    settings = study / "dgmvlc.toml"
    settings.write_text(settings.read_text().replace("[scans]", "[scans]\npseudonyms = false"))
    dgmvlc("preprocess", "--spacing", "8", "--workers", "1", "-w", str(study))
    table = read_table(study / "subjects.tsv", dtype=str)
    assert set(table["subject"]) == {"ZQXDoe^Jane", "ZQXRoe^Richard"}
    assert not (clinic / "open.key.json").exists()
    # What the test above looks for is there to be found.
    assert leaks(study, [PLANTED])
    settings.write_text(settings.read_text().replace("pseudonyms = false", "pseudonyms = true"))
    said = dgmvlc("preprocess", "--spacing", "8", "--workers", "1", "-w", str(study)).stdout
    assert "2 folders" in said and "sub-ZQXDoe-Jane" in said and "delete" in said
    for folder in (study / "images").glob("sub-ZQX*"):
        shutil.rmtree(folder)
    said = dgmvlc("preprocess", "--spacing", "8", "--workers", "1", "-w", str(study)).stdout
    assert "delete" not in said and leaks(study, [PLANTED]) == []


@pytest.mark.parametrize("glue", [" ", "="])
def test_paths_among_the_options_reach_no_sidecar(glue, clinic, chest, tmp_path, monkeypatch):
    study = tmp_path / "study"
    dgmvlc("init", str(clinic / "scans"), "-w", str(study))
    folder = tmp_path / "ZQXmasks of Doe"
    scan = Volume(hu=chest[0].hu[::2], spacing_mm=(8.0, 4.0, 4.0), origin_mm=(10.0, 20.0, 30.0))
    for patient in ("ZQXDoe^Jane", "ZQXRoe^Richard"):
        write_labels(folder / f"{patient}.nii.gz", chest[1][::2], scan)
    monkeypatch.chdir(tmp_path)
    option = ["--masks", folder.name] if glue == " " else [f"--masks={folder.name}"]
    dgmvlc("preprocess", "--spacing", "8", "--workers", "1", *option, "-w", "study")
    commands = {json.loads(one.read_text())["command"] for one in study.rglob("sub-s*.json")}
    (command,) = commands
    assert command == f"dgmvlc preprocess --spacing 8 --workers 1 --masks{glue}PATH -w PATH"
    assert leaks(study, [PLANTED]) == []


def test_a_mask_that_is_missing_is_told_without_the_id(clinic, tmp_path):
    w = ("-w", str(clinic / "masked"))
    dgmvlc("init", str(clinic / "scans"), *w)
    folder = tmp_path / "ZQXmasks"
    folder.mkdir()
    (folder / "ZQXDoe^Jane.nii.gz").write_bytes(b"damaged")  # the other one has none
    said = dgmvlc("preprocess", "--masks", str(folder), "--workers", "1", *w, expect=1)
    assert "No mask for subject s" in said.stderr and PLANTED not in said.stderr
    assert leaks(clinic / "masked", [PLANTED]) == []


def test_pseudonyms_that_are_wanted_but_not_made_stop_describe(clinic):
    study = clinic / "early"
    dgmvlc("init", str(clinic / "scans"), str(clinic / "clinical.csv"), "-w", str(study))
    settings = study / "dgmvlc.toml"
    settings.write_text(settings.read_text().replace("[scans]", "[scans]\npseudonyms = true"))
    assert "dgmvlc preprocess" in dgmvlc("describe", "-w", str(study), expect=1).stderr
    assert not (study / "text").exists()


def test_a_pseudonym_depends_on_the_secret_and_the_id_alone():
    one, other = Identity(secret=b"a" * 32), Identity(secret=b"b" * 32)
    assert one.subject("P1") == one.subject("P1") != other.subject("P1")
    assert one.subject("P1") != one.subject("P2")
    assert "P1" not in one.subject("P1")
    assert Identity().subject("P1") == "P1"


def test_a_message_is_scrubbed_of_paths_names_and_ids(tmp_path):
    files = [tmp_path / "Doe" / f"Doe_{n}.dcm" for n in (1, 2)]
    said = f"{files[1]}: cut short; Doe_1.dcm too, of Doe, gap 1.25 mm in {tmp_path / 'Doe'}"
    assert scrub(said, "Doe", "p7", files) == (
        "file 2: cut short; file 1 too, of p7, gap 1.25 mm in the scan"
    )


def test_files_of_a_scan_are_counted_without_its_masks(tmp_path):
    files = [tmp_path / "scans" / f"Doe_{n}.dcm" for n in (1, 2)]
    masks = [tmp_path / "masks" / "Doe" / f"{side}.nii.gz" for side in ("left", "right")]
    said = f"{files[1]}: cut short; {masks[0]} and left.nii.gz do not fit, in {tmp_path / 'masks'}"
    assert scrub(said, "Doe", "p7", files, masks) == (
        "file 2: cut short; the mask and the mask do not fit, in the mask"
    )


@pytest.mark.parametrize(
    ("suffix", "header"),
    [
        (".nhdr", "NRRD0005\ntype: short\ndimension: 3\nsizes: 9 9 9\nencoding: raw\n"
         "endian: little\ndata file: "),
        (".mhd", "ObjectType = Image\nNDims = 3\nDimSize = 9 9 9\nElementSpacing = 1 1 1\n"
         "ElementType = MET_SHORT\nElementDataFile = "),
    ],
)  # fmt: skip
def test_voxels_that_are_missing_are_told_without_the_name_of_their_file(suffix, header, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_text(f"{header}ZQXDoe.raw\n")
    with pytest.raises(DgmvlcError, match="file of voxels that it names is missing") as caught:
        read_image(path)
    assert PLANTED not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("rule", "subject"),
    [
        (SubjectRule(), "P9"),
        (SubjectRule(source="patient-id"), "P9"),
        (SubjectRule(source="folder"), "siteA"),
        (SubjectRule(source="file-name"), "S12_ct"),
        (SubjectRule(source="pattern", pattern=r"/(?P<subject>S\d+)_"), "S12"),
        (SubjectRule(source="pattern", pattern=r"(?P<subject>X\d+)"), ""),
        (SubjectRule(source="column", rows={"siteA/S12_ct.dcm": "42"}), "42"),
        (SubjectRule(source="column", rows={"1.2.3": "43"}), "43"),
        (SubjectRule(source="column", rows={"siteA": "44"}), "44"),
    ],
)
def test_the_subject_comes_from_where_the_rule_says(rule, subject):
    below = Path("siteA") / "S12_ct.dcm"
    assert rule.subject(below, patient="P9", uid="1.2.3", dicom=True) == subject


@pytest.mark.parametrize("pattern", ["(", r"S\d+"])
def test_a_pattern_that_cannot_name_a_subject_is_a_usage_error(pattern):
    with pytest.raises(UsageError, match="subject_pattern"):
        SubjectRule(source="pattern", pattern=pattern)


def test_a_cell_that_fits_scans_of_two_patients_is_a_usage_error():
    def rule() -> SubjectRule:
        return SubjectRule(source="column", rows={"CT1": "42", "B/CT1": "43", "C": "44"})

    one = rule()
    for series in ("s1", "s2"):
        assert one.subject(Path("A/CT1") / series / "1.dcm", patient="P1", dicom=True) == "42"
    assert one.subject(Path("B/CT1/s1/1.dcm"), patient="P2", dicom=True) == "43"
    with pytest.raises(UsageError, match="'A/CT1' and 'D/CT1'"):
        one.subject(Path("D/CT1/1.dcm"), patient="P1", dicom=True)
    one = rule()
    one.subject(Path("C/1.dcm"), patient="P1", dicom=True)
    with pytest.raises(UsageError, match="'P1' and 'P2'"):
        one.subject(Path("C/2.dcm"), patient="P2", dicom=True)
