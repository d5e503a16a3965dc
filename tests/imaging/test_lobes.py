"""Lobes where a mask tells them: read, judged, resampled, kept beside the mask."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from commands import dgmvlc
from lobed import MAPPING, lobed, lobed_map

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging import segmenters
from dgmvlc_cli.imaging.discovery import survey
from dgmvlc_cli.imaging.files import read_labels, read_volume, write_labels, write_volume
from dgmvlc_cli.imaging.lobes import Lobe, check_lobes, resample_lobes
from dgmvlc_cli.imaging.masks import MaskFiles, Segmentation, find_masks, given_segmentation
from dgmvlc_cli.imaging.prepare import Handling, prepare
from dgmvlc_cli.imaging.volume import LUNGS, Tissue, image_of, resample_labels
from dgmvlc_cli.workspace import read_table

RIGHT, LEFT, AIRWAY = Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG, Tissue.AIRWAY
STRUCTURES = [lobe.structure for lobe in Lobe]
TOTALSEGMENTATOR = (12, 13, 14, 10, 11)  # in the order of Lobe
LUNGMASK = (3, 4, 5, 1, 2)


@pytest.fixture(scope="module")
def lobes(chest) -> np.ndarray:
    return lobed(chest[1])


def in_values(lobes: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Lobes in the values of some maker, in the order of Lobe."""
    return np.array([0, *values], np.uint16)[lobes]


@pytest.fixture
def read(chest, tmp_path):
    """read(values, mapping) reads a label map that lies on the chest."""
    volume, _ = chest

    def given(values: np.ndarray, mapping) -> Segmentation:
        sitk.WriteImage(image_of(values, volume), str(tmp_path / "m.nrrd"))
        return given_segmentation(MaskFiles(files=(tmp_path / "m.nrrd",)), volume, mapping)

    return given


@pytest.mark.parametrize(
    ("mapping", "values"),
    [
        ("totalsegmentator", TOTALSEGMENTATOR),
        ("lungmask-lobes", LUNGMASK),
        ("cip", (4, 5, 6, 7, 8)),
        ("cip", (4 + 768, 5, 6, 7 + 768, 8)),  # 768: vessel
        (dict(zip(STRUCTURES, ((21,), (22,), (23,), (7, 300), (25,)), strict=True)),
         (21, 22, 23, 300, 25)),
    ],
)  # fmt: skip
def test_lobes_of_every_maker_are_told_apart_and_make_up_the_lungs(
    mapping, values, read, chest, lobes
):
    found = read(in_values(lobes, values), mapping)
    np.testing.assert_array_equal(found.lobes, lobes)
    for side in LUNGS:
        np.testing.assert_array_equal(found.labels == side, chest[1] == side)
    assert not found.notes


def test_masks_without_lobes_have_none(read, chest):
    _, truth = chest
    assert read(truth, "auto").lobes is None
    thirds = np.where(truth == RIGHT, 13, 0) + np.where(truth == LEFT, 10, 0)
    assert read(thirds.astype(np.uint16), "cip").lobes is None


def test_the_airway_is_cut_out_of_the_lobes_and_the_rest_of_a_lung_is_no_lobe(read, chest, lobes):
    values = lobed_map(chest[1])
    values[values == 10 + Lobe.RIGHT_MIDDLE] = Tissue.RIGHT_LUNG
    found = read(values, MAPPING)
    middle = lobes == Lobe.RIGHT_MIDDLE
    np.testing.assert_array_equal(found.lobes, np.where(middle, 0, lobes))
    assert (found.labels[middle] == RIGHT).all()
    np.testing.assert_array_equal(found.labels == AIRWAY, chest[1] == AIRWAY)


def write_structures(folder: Path, chest, lobes: np.ndarray, **others: np.ndarray) -> MaskFiles:
    named = {lobe.structure: lobes == lobe for lobe in Lobe} | others
    for name, member in named.items():
        write_labels(folder / "s1" / f"{name}.nii.gz", member, chest[0])
    return find_masks("s1", folder)


def test_lobes_beyond_the_lungs_given_beside_them_are_cut_and_told(chest, lobes, tmp_path):
    volume, truth = chest
    apex = np.argwhere(lobes == Lobe.LEFT_UPPER)[:, 0].max() - 6
    smaller = (truth == LEFT) & (np.indices(truth.shape)[0] < apex)
    masks = write_structures(tmp_path, chest, lobes, lung_right=truth == RIGHT, lung_left=smaller)
    found = given_segmentation(masks, volume)
    np.testing.assert_array_equal(found.labels == LEFT, smaller)
    assert not found.lobes[(truth == LEFT) & ~smaller].any()
    share = 100 * ((truth == LEFT) & ~smaller).sum() / (lobes > 0).sum()
    assert found.notes == (
        f"{share:.0f} % of the lobes' voxels lie outside of their lung and were left out",
    )


def test_lobes_of_the_other_side_do_not_fit_and_are_refused(chest, lobes, tmp_path):
    volume, truth = chest
    masks = write_structures(
        tmp_path, chest, lobes, lung_right=truth == LEFT, lung_left=truth == RIGHT
    )
    with pytest.raises(DgmvlcError, match="100 % of their voxels lie outside") as raised:
        given_segmentation(masks, volume)
    assert "swapped" in raised.value.hint


def test_a_resected_lobe_is_told_and_no_error(chest, lobes):
    _, truth = chest
    assert check_lobes(lobes, truth) == []
    left = np.where(lobes == Lobe.RIGHT_MIDDLE, Lobe.RIGHT_UPPER, lobes)
    assert check_lobes(left, truth) == ["no right middle lobe given"]
    lungless = np.where(truth == LEFT, Tissue.BODY, truth)
    assert check_lobes(np.where(truth == LEFT, 0, lobes), lungless) == []


def test_lobes_that_are_half_there_mirrored_or_upside_down_are_told(chest, lobes):
    _, truth = chest
    half = np.where(lobes >= Lobe.LEFT_UPPER, 0, lobes)
    cover = 100 * (half > 0).sum() / np.isin(truth, LUNGS).sum()
    assert check_lobes(half, truth)[2:] == [f"lobes cover {cover:.0f} % of the lungs"]
    assert check_lobes(lobes[..., ::-1], truth[..., ::-1]) == [
        "the right lobes lie to the left of the left ones"
    ]
    swapped = np.array([0, 1, 2, 3, Lobe.LEFT_LOWER, Lobe.LEFT_UPPER], np.uint8)[lobes]
    assert check_lobes(swapped, truth) == ["the left upper lobe lies below the left lower lobe"]


@pytest.mark.parametrize("spacing_mm", [3.0, 12.0])
def test_on_any_grid_the_lobes_part_their_lungs_and_keep_their_volumes(chest, lobes, spacing_mm):
    volume, truth = chest
    labels = resample_labels(truth, volume, spacing_mm)
    found = resample_lobes(lobes, truth, volume, spacing_mm, labels)
    np.testing.assert_array_equal(found > 0, np.isin(labels, LUNGS))
    for lobe in Lobe:
        assert (labels[found == lobe] == lobe.side).all()
        before_ml = (lobes == lobe).sum() * volume.voxel_ml
        after_ml = (found == lobe).sum() * spacing_mm**3 / 1000
        whole = [((a == lobe.side).sum()) for a in (truth, labels)]
        shrunk = whole[1] * spacing_mm**3 / 1000 / (whole[0] * volume.voxel_ml)
        assert after_ml == pytest.approx(before_ml * shrunk, rel=0.1)


def test_the_grid_of_the_scan_keeps_every_voxel_of_the_lobes(chest, lobes):
    volume, truth = chest
    labels = resample_labels(truth, volume, volume.spacing_mm[0])
    found = resample_lobes(lobes, truth, volume, volume.spacing_mm[0], labels)
    np.testing.assert_array_equal(found, lobes)


def test_half_a_lung_without_lobes_stays_without(chest, lobes):
    volume, truth = chest
    upper = np.where(lobes == Lobe.LEFT_UPPER, 0, lobes)
    labels = resample_labels(truth, volume, 8.0)
    found = resample_lobes(upper, truth, volume, 8.0, labels)
    whole = resample_lobes(lobes, truth, volume, 8.0, labels)
    differs = found != np.where(whole == Lobe.LEFT_UPPER, 0, whole)
    assert differs.sum() < 5e-3 * (whole > 0).sum()  # a voxel that two fill by half is either's


def test_a_prepared_scan_has_its_lobes_on_its_grid_and_their_volumes(chest, lobes, tmp_path):
    volume, truth = chest
    write_volume(tmp_path / "scans" / "s1.nii.gz", volume)
    write_labels(tmp_path / "lobes.nii.gz", lobed_map(truth), volume)
    scan, masks = survey(tmp_path / "scans").scans[0], MaskFiles(files=(tmp_path / "lobes.nii.gz",))
    for spacing_mm in (None, 8.0):
        handling = Handling(spacing_mm=spacing_mm, mask_labels=MAPPING)
        prepared = prepare(scan, handling, masks)
        assert prepared.lobes.shape == prepared.labels.shape == prepared.volume.hu.shape
        np.testing.assert_array_equal(prepared.lobes > 0, np.isin(prepared.labels, LUNGS))
        facts = prepared.facts
        assert facts["lobes"] == 5 and json.loads(json.dumps(facts)) == facts
        for lobe in Lobe:
            volume_ml = (lobes == lobe).sum() * volume.voxel_ml
            assert facts[f"{lobe.structure}_ml"] == pytest.approx(volume_ml)


# Segmenters ---------------------------------------------------------------------------------------


def test_the_lobes_that_a_segmenter_finds_come_through(chest, lobes, monkeypatch):
    volume, _ = chest
    made: list[dict[str, object]] = []

    class FakeInferer:
        def __init__(self, **options: object) -> None:
            made.append(options)

        def apply(self, image: sitk.Image) -> np.ndarray:
            return in_values(lobes, LUNGMASK).astype(np.uint8)

    def fake(image, output, **options):
        values = in_values(lobes, TOTALSEGMENTATOR).transpose(2, 1, 0)
        return nibabel.Nifti1Image(values.astype(np.uint8), image.affine)

    lungmask, api = ModuleType("lungmask"), ModuleType("totalsegmentator.python_api")
    lungmask.LMInferer, api.totalsegmentator = FakeInferer, fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lungmask", lungmask)
    monkeypatch.setitem(sys.modules, "totalsegmentator", ModuleType("totalsegmentator"))
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", api)
    segmenters._lungmask_inferer.cache_clear()
    for name in ("lungmask-lobes", "totalsegmentator"):
        np.testing.assert_array_equal(segmenters.segment_with(name, volume).lobes, lobes)
    segmenters._lungmask_inferer.cache_clear()
    assert made == [{"modelname": "LTRCLobes", "fillmodel": "R231", "tqdm_disable": True}]


# The workspace ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(chest, tmp_path_factory) -> Path:
    """Two scans, the first with lobes in its mask, prepared at 8 mm."""
    (volume, truth), tmp_path = chest, tmp_path_factory.mktemp("study")
    for name, mask in (("a", lobed_map(truth)), ("b", truth)):
        write_volume(tmp_path / "scans" / f"{name}.nii.gz", volume)
        write_labels(tmp_path / "masks" / f"{name}.nii.gz", mask, volume)
    dgmvlc("init", str(tmp_path / "scans"), "-w", str(tmp_path))
    settings = tmp_path / "dgmvlc.toml"
    table = ", ".join(f"{name} = [{values[0]}]" for name, values in MAPPING.items())
    added = f'[scans]\nmasks = "masks"\nmask_labels = {{ {table} }}'
    settings.write_text(settings.read_text().replace("[scans]", added))
    assert "lobes of 1 of 2 scans; the others have no value in these regions" in run(tmp_path)
    return tmp_path


def run(study: Path) -> str:
    w = ("-w", str(study))
    return dgmvlc("preprocess", "--spacing", "8", "--workers", "1", *w).stdout


def test_lobes_lie_beside_the_mask_of_those_who_have_them(study, chest):
    table = read_table(study / "subjects.tsv", dtype={"subject": str}).set_index("subject")
    assert table.loc["a", "lobes"] == 5 and np.isnan(table.loc["b", "lobes"])
    files = {one: study / "images" / f"sub-{one}" / f"sub-{one}_lobes.nii.gz" for one in "ab"}
    assert files["a"].exists() and not files["b"].exists()
    lobes = read_labels(files["a"])
    mask = read_labels(study / "images/sub-a/sub-a_mask.nii.gz")
    np.testing.assert_array_equal(lobes > 0, np.isin(mask, LUNGS))
    # Measured: the lobes are regions of the one scan, and the other has no row of them.
    dgmvlc("analyze", "--workers", "1", "-w", str(study))
    measures = read_table(study / "analysis" / "measures.tsv", dtype={"subject": str})
    volumes = measures[measures["measure"] == "volume_ml"].pivot(
        index="region", columns="subject", values="value"
    )
    assert volumes.loc[STRUCTURES, "b"].isna().all()
    assert volumes.loc[STRUCTURES, "a"].sum() == pytest.approx(volumes.loc["lungs", "a"])
    others = volumes.index.difference(STRUCTURES)
    np.testing.assert_allclose(volumes.loc[others, "a"], volumes.loc[others, "b"])
    # Back on the voxels of the scan they are what the mask said.
    dgmvlc("restore", str(files["a"]), "-w", str(study))
    restored = read_labels(study / "restored/images/sub-a/sub-a_lobes_space-scan.nii.gz")
    truth = lobed(chest[1])
    same = (restored == truth) & (truth > 0)
    assert same.sum() > 0.85 * (truth > 0).sum()


def test_lobes_are_made_again_when_lost_and_go_when_the_mask_has_none(study, chest, tmp_path):
    study = shutil.copytree(study, tmp_path / "copy", symlinks=True)
    path = study / "images" / "sub-a" / "sub-a_lobes.nii.gz"
    made = path.read_bytes()
    path.unlink()
    run(study)
    assert path.read_bytes() == made
    write_labels(study / "masks" / "a.nii.gz", chest[1], chest[0])
    assert "lobes of" not in run(study)
    assert not path.exists()


# Real data ----------------------------------------------------------------------------------------


def test_the_thirds_of_the_real_scan_are_no_lobes(real_data):
    volume = read_volume(real_data("ct64/ct-64.nrrd"))
    thirds = MaskFiles(files=(real_data("ct64/lobes-64.nrrd"),))
    assert given_segmentation(thirds, volume, "cip").lobes is None


def test_parts_of_the_real_lungs_keep_volume_and_density_through_preparation(real_data, tmp_path):
    """The thirds of the real scan (cut at two heights) stand in for lobes: CIP values 9 to 14."""
    volume = read_volume(real_data("ct64/ct-64.nrrd"))
    values = read_labels(real_data("ct64/lobes-64.nrrd")) & 255
    stand_ins = {
        "right_upper_lobe": (12,),
        "right_middle_lobe": (13,),
        "right_lower_lobe": (14,),
        "left_upper_lobe": (9,),
        "left_lower_lobe": (10, 11),
    }
    write_labels(tmp_path / "m.nii.gz", values, volume)
    scan = survey(real_data("ct64/ct-64.nrrd")).scans[0]
    masks = MaskFiles(files=(tmp_path / "m.nii.gz",))
    prepared = prepare(scan, Handling(spacing_mm=3.0, mask_labels=stand_ins), masks)
    np.testing.assert_array_equal(prepared.lobes > 0, np.isin(prepared.labels, LUNGS))
    assert not [said for said in prepared.warnings if "lobe" in said]
    for name, chosen in stand_ins.items():
        member = np.isin(values, chosen)
        there = prepared.lobes == Lobe[name.removesuffix("_lobe").upper()]
        before_ml, after_ml = member.sum() * volume.voxel_ml, there.sum() * prepared.volume.voxel_ml
        assert prepared.facts[f"{name}_ml"] == pytest.approx(before_ml)
        assert after_ml == pytest.approx(before_ml, rel=0.02)
        mean, moved = volume.hu[member].mean(), prepared.volume.hu[there].mean()
        assert moved == pytest.approx(mean, abs=12) and -910 < mean < -830
