from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging import segmenters
from dgmvlc_cli.imaging.files import read_labels, read_volume, write_labels
from dgmvlc_cli.imaging.lungs import check_labels
from dgmvlc_cli.imaging.masks import (
    MaskFiles,
    find_masks,
    given_segmentation,
    longer_ids,
    require_masks,
)
from dgmvlc_cli.imaging.volume import LUNGS, Tissue, image_of

RIGHT, LEFT, AIRWAY = Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG, Tissue.AIRWAY


def values_of(truth: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """A label map in other values: Tissue -> value."""
    return sum((truth == tissue) * value for tissue, value in table.items()).astype(np.uint16)


@pytest.fixture
def given(chest, tmp_path):
    """given(values, mapping) reads a label map that lies on the chest."""
    volume, _ = chest

    def read(values: np.ndarray, mapping="auto") -> np.ndarray:
        sitk.WriteImage(image_of(values, volume), str(tmp_path / "m.nrrd"))
        return given_segmentation(MaskFiles(files=(tmp_path / "m.nrrd",)), volume, mapping).labels

    return read


@pytest.mark.parametrize(
    ("mapping", "table"),
    [
        ("tissue", {1: 1, RIGHT: 2, LEFT: 3, AIRWAY: 4}),
        ("aiib23", {RIGHT: 1, LEFT: 1, AIRWAY: 2}),
        ("cip", {1: 15, RIGHT: 12, LEFT: 9, AIRWAY: 512}),  # 15 is the mediastinum
        ("cip", {1: 29, RIGHT: 5 + 3 * 256, LEFT: 8 + 4 * 256, AIRWAY: 38 * 256 + 1}),
        ("cip", {RIGHT: 20, LEFT: 20, AIRWAY: 58}),
        ("totalsegmentator", {1: 80, RIGHT: 13, LEFT: 10, AIRWAY: 16}),
        ("lungmask", {RIGHT: 1, LEFT: 2}),
        ("lungmask-lobes", {RIGHT: 4, LEFT: 2}),
        ({"lung": (7, 300), "airway": (9,)}, {RIGHT: 7, LEFT: 300, AIRWAY: 9}),
    ],
)
def test_values_of_other_makers_become_tissues(mapping, table, given, chest, dice):
    _, truth = chest
    labels = given(values_of(truth, table), mapping)
    sided = len({table[RIGHT], table[LEFT]}) == 2 and mapping != {"lung": (7, 300), "airway": (9,)}
    for side in LUNGS:
        if sided:
            np.testing.assert_array_equal(labels == side, truth == side)
        assert dice(labels == side, truth == side) > 0.99
    if AIRWAY in table:
        np.testing.assert_array_equal(labels == AIRWAY, truth == AIRWAY)
    assert dice(labels > 0, truth > 0) > 0.97


def test_the_real_lobes_are_read_by_the_conventions_of_their_makers(real_data):
    volume = read_volume(real_data("ct64/ct-64.nrrd"))
    labels = given_segmentation(
        MaskFiles(files=(real_data("ct64/lobes-64.nrrd"),)), volume, "cip"
    ).labels
    whole = read_labels(real_data("ct64/wholelung-64.nrrd")) > 0
    lungs = np.isin(labels, LUNGS)
    assert (lungs & whole).sum() * 2 / (lungs.sum() + whole.sum()) > 0.97
    columns = [np.nonzero(labels == side)[2].mean() for side in LUNGS]
    assert columns[0] < columns[1]


def test_files_named_after_structures_are_put_together(chest, tmp_path):
    volume, truth = chest
    write_labels(tmp_path / "s1_lung.nii.gz", np.isin(truth, LUNGS), volume)
    write_labels(tmp_path / "s1_airway.nii.gz", truth == AIRWAY, volume)
    write_labels(tmp_path / "s1_heart.nii.gz", truth == 1, volume)
    labels = given_segmentation(find_masks("s1", tmp_path), volume).labels
    np.testing.assert_array_equal(np.isin(labels, LUNGS), np.isin(truth, LUNGS))
    np.testing.assert_array_equal(labels == AIRWAY, truth == AIRWAY)
    inside = tmp_path / "s2"
    halves = np.indices(truth.shape)[0] > truth.shape[0] // 2
    for name, part in {
        "lung_upper_lobe_right": (truth == RIGHT) & halves,
        "lung_lower_lobe_right": (truth == RIGHT) & ~halves,
        "lung_lower_lobe_left": truth == LEFT,
        "trachea": truth == AIRWAY,
        "spleen": truth == 1,
    }.items():
        write_labels(inside / f"{name}.nii.gz", part, volume)
    labels = given_segmentation(find_masks("s2", tmp_path), volume).labels
    for tissue in (RIGHT, LEFT, AIRWAY):
        np.testing.assert_array_equal(labels == tissue, truth == tissue)


def test_the_mask_of_one_subject_is_not_that_of_another(tmp_path):
    for name in ("s1", "s10", "s1_mask", "s11_lung"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    assert [path.name for path in find_masks("s1", tmp_path).files] == ["s1.nii.gz"]
    (tmp_path / "s1.nii.gz").unlink()
    assert [path.name for path in find_masks("s1", tmp_path).files] == ["s1_mask.nii.gz"]
    with pytest.raises(DgmvlcError, match="No mask for subject s2"):
        find_masks("s2", tmp_path)


def test_the_mask_of_a_longer_id_is_not_that_of_the_shorter(tmp_path):
    ids = sorted(["P1", "P1_2", "P10", "P2"])
    assert longer_ids("P1", ids) == ("P10", "P1_2") and longer_ids("P2", ids) == ()
    for name in ("P1_2.nii.gz", "P1_2_lung.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_masks("P1_2", tmp_path, others=ids).files] == ["P1_2.nii.gz"]
    with pytest.raises(DgmvlcError, match="No mask for subject P1 "):
        find_masks("P1", tmp_path, others=longer_ids("P1", ids))
    (tmp_path / "P1_mask.nii.gz").write_bytes(b"")
    found = find_masks("P1", tmp_path, others=longer_ids("P1", ids))
    assert [path.name for path in found.files] == ["P1_mask.nii.gz"]


@pytest.mark.parametrize("sides", ["LR", ("left", "right"), ("lung_l", "lung_r")])
def test_two_files_named_by_their_sides_are_both_read(sides, chest, tmp_path):
    volume, truth = chest
    for side, tissue in zip(sides, (LEFT, RIGHT), strict=True):
        write_labels(tmp_path / f"A_{side}.nii.gz", truth == tissue, volume)
    labels = given_segmentation(find_masks("A", tmp_path), volume).labels
    for tissue in LUNGS:
        np.testing.assert_array_equal(labels == tissue, truth == tissue)


def test_of_several_masks_of_unknown_names_none_is_guessed(tmp_path):
    for name in ("A_one", "A_two"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    with pytest.raises(DgmvlcError, match=r"A_one\.nii\.gz, A_two\.nii\.gz"):
        find_masks("A", tmp_path)
    require_masks(tmp_path, ["A"])


def test_a_folder_without_any_of_the_masks_is_refused_whole(tmp_path):
    with pytest.raises(DgmvlcError, match="no folder of masks"):
        require_masks(tmp_path / "none", ["s1"])
    with pytest.raises(DgmvlcError, match="no mask of any of 2 subjects"):
        require_masks(tmp_path, ["s1", "s2"])
    (tmp_path / "s2.nii.gz").write_bytes(b"")
    require_masks(tmp_path, ["s1", "s2"])


def test_a_mask_that_does_not_fit_is_refused_with_the_reason(given, chest):
    _, truth = chest
    with pytest.raises(DgmvlcError, match="empty"):
        given(np.zeros_like(truth))
    with pytest.raises(DgmvlcError, match="empty"):
        given(values_of(truth, {RIGHT: 1, LEFT: 2}), "totalsegmentator")
    with pytest.raises(DgmvlcError, match="does not fit its scan, mean"):
        given((truth == 1).astype(np.uint8))
    with pytest.raises(DgmvlcError, match="mask values 0, 20, 30") as caught:
        given(values_of(truth, {RIGHT: 20, LEFT: 30}))
    assert "mask_labels" in caught.value.hint
    with pytest.raises(UsageError, match="'aib23' is not known"):
        given(values_of(truth, {RIGHT: 1}), "aib23")


@pytest.mark.parametrize(
    "table", [{RIGHT: 1, LEFT: 2}, {LEFT: 1, RIGHT: 2, AIRWAY: 3}, {1: 1, RIGHT: 2}]
)
def test_lungs_numbered_in_another_way_are_not_guessed(table, given, chest):
    with pytest.raises(DgmvlcError, match="mask values 0, 1, 2") as caught:
        given(values_of(chest[1], table))
    assert "mask_labels" in caught.value.hint


@pytest.fixture
def told(chest, tmp_path):
    """told(lungs) says what is noted of a binary mask on the chest."""
    volume, _ = chest

    def read(lungs: np.ndarray) -> tuple[str, ...]:
        write_labels(tmp_path / "m.nii.gz", lungs, volume)
        return given_segmentation(MaskFiles(files=(tmp_path / "m.nii.gz",)), volume).notes

    return read


def test_a_mask_beside_the_lungs_is_told_or_refused(told, chest):
    lungs = np.isin(chest[1], LUNGS)
    assert told(lungs) == ()
    (note,) = told(lungs[:, :, ::-1])
    assert "10 % of its lung voxels are above -300 HU" in note or "11 %" in note
    half = lungs.copy()
    half[len(half) // 2 :] = False
    (note,) = told(half)
    assert "is the mask whole?" in note
    for moved in (lungs[::-1], np.roll(lungs, 10, axis=0)):
        with pytest.raises(DgmvlcError, match=r"does not fit its scan.*leaves out"):
            told(moved)


def test_lungs_full_of_disease_are_told_and_kept(chest, tmp_path):
    volume, truth = chest
    lungs = np.isin(truth, LUNGS)
    filled = lungs & (np.indices(truth.shape)[1] > np.nonzero(lungs)[1].mean())
    sick = replace(volume, hu=np.where(filled, np.float32(20), volume.hu))
    sick = replace(sick, hu=np.where(lungs & (sick.hu < 0), np.float32(-850), sick.hu))
    write_labels(tmp_path / "m.nii.gz", lungs, sick)
    (note,) = given_segmentation(MaskFiles(files=(tmp_path / "m.nii.gz",)), sick).notes
    assert "disease" in note


def test_lungs_of_the_wrong_sides_are_told(chest):
    volume, truth = chest
    swapped = truth.copy()
    swapped[truth == RIGHT], swapped[truth == LEFT] = LEFT, RIGHT
    assert check_labels(volume, swapped) == ["the right lung lies to the left of the left one"]


@pytest.fixture
def turned_chest(chest):
    """The chest on an oblique grid, as a segmenter may get it."""
    direction = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
    return replace(chest[0], direction=direction, origin_mm=(1.0, -2.0, 3.0)), chest[1]


def test_lungmask_is_given_the_scan_and_its_sides_are_kept(turned_chest, monkeypatch):
    volume, truth = turned_chest

    class FakeInferer:
        def __init__(self, modelname: str, tqdm_disable: bool) -> None:
            assert modelname == "R231" and tqdm_disable

        def apply(self, image: sitk.Image) -> np.ndarray:
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.hu)
            np.testing.assert_allclose(image.GetDirection(), volume.direction)
            return values_of(truth, {RIGHT: 1, LEFT: 2}).astype(np.uint8)

    fake = ModuleType("lungmask")
    fake.LMInferer = FakeInferer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lungmask", fake)
    segmenters._lungmask_inferer.cache_clear()
    labels = segmenters.segment_with("lungmask", volume).labels
    segmenters._lungmask_inferer.cache_clear()
    for side in LUNGS:
        np.testing.assert_array_equal(labels == side, truth == side)
    assert (labels == AIRWAY).any() and (labels == Tissue.BODY).any()


def test_totalsegmentator_is_given_a_nifti_at_the_right_place(turned_chest, monkeypatch):
    volume, truth = turned_chest

    def fake(image, output, *, ml, quiet, roi_subset):
        assert output is None and ml and quiet and "trachea" in roi_subset
        for zyx in ((0, 0, 0), (5, 7, 9)):
            ras = image.affine @ [*zyx[::-1], 1.0]
            np.testing.assert_allclose(ras[:3] * [-1, -1, 1], volume.to_lps_mm(zyx), atol=1e-4)
            assert image.dataobj[zyx[::-1]] == volume.hu[zyx]
        values = values_of(truth, {RIGHT: 14, LEFT: 11, AIRWAY: 16}).transpose(2, 1, 0)
        return nibabel.Nifti1Image(values.astype(np.uint8), image.affine)

    api = ModuleType("totalsegmentator.python_api")
    api.totalsegmentator = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "totalsegmentator", ModuleType("totalsegmentator"))
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", api)
    labels = segmenters.segment_with("totalsegmentator", volume).labels
    for tissue in (RIGHT, LEFT, AIRWAY):
        np.testing.assert_array_equal(labels == tissue, truth == tissue)


@pytest.mark.parametrize("name", ["lungmask", "totalsegmentator"])
def test_a_segmenter_that_is_not_installed_is_named_with_what_to_install(name, chest, monkeypatch):
    monkeypatch.setitem(sys.modules, "lungmask", None)
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)
    segmenters._lungmask_inferer.cache_clear()
    with pytest.raises(DgmvlcError, match=f"{name} is not installed") as caught:
        segmenters.segment_with(name, chest[0])
    assert f"dgmvlc[{name}]" in caught.value.hint


@pytest.mark.parametrize("name", ["lungmask-lobes", "totalsegmentator"])
def test_what_is_not_installed_is_known_before_any_scan(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "lungmask", None)
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)
    with pytest.raises(DgmvlcError, match=f"{name.partition('-')[0]} is not installed"):
        segmenters.require_segmenter(name)
    segmenters.require_segmenter("builtin")


@pytest.mark.parametrize("ending", [RuntimeError("no weights\nat that address"), SystemExit(1)])
def test_a_segmenter_that_fails_fails_for_its_scan_and_keeps_off_stdout(
    ending, chest, monkeypatch, capsys
):
    def failing(volume):
        print("No GPU found")
        raise ending

    monkeypatch.setitem(segmenters.SEGMENTERS, "lungmask", failing)
    with pytest.raises(DgmvlcError, match=r"lungmask failed: (at that address|1)") as caught:
        segmenters.segment_with("lungmask", chest[0])
    assert "weights" in caught.value.hint
    assert capsys.readouterr().out == ""
