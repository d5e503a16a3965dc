from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from commands import dgmvlc

from dgmvlc_cli.imaging.volume import LUNGS, image_of

TURNED = np.array([[0, 0.8, 0.6], [0, -0.6, 0.8], [1, 0, 0]])  # oblique, axes exchanged
MIRRORED = np.diag([-1.0, 1.0, 1.0])


def in_other_axes(image: sitk.Image, direction: np.ndarray) -> sitk.Image:
    """The same patient, sampled along other axes: the file of another scanner or tool."""
    corners = [
        image.TransformIndexToPhysicalPoint(one)
        for one in itertools.product(*((0, size - 1) for size in image.GetSize()))
    ]
    along = np.array(corners) @ direction
    spacing = np.array([4.5, 4.0, 5.0])
    size = np.ceil(np.ptp(along, axis=0) / spacing).astype(int) + 1
    return sitk.Resample(
        image, size.tolist(), sitk.Transform(), sitk.sitkLinear,
        (direction @ along.min(axis=0)).tolist(), spacing.tolist(), direction.ravel().tolist(),
        -1000.0,
    )  # fmt: skip


@pytest.fixture(params=[TURNED, MIRRORED], ids=["turned", "mirrored"])
def study(request, chest, tmp_path) -> tuple[Path, sitk.Image]:
    """A workspace with one scan in other axes than LPS, and the scan as its file has it."""
    scan = sitk.Cast(in_other_axes(image_of(chest[0].hu, chest[0]), request.param), sitk.sitkInt16)
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(scan, str(tmp_path / "scans" / "s1.nrrd"))
    dgmvlc("init", str(tmp_path / "scans"), "-w", str(tmp_path))
    return tmp_path, sitk.ReadImage(str(tmp_path / "scans" / "s1.nrrd"))


def restored(root: Path, *arguments: str) -> tuple[sitk.Image, sitk.Image]:
    """Scan and mask of the workspace, back on the grid of the file."""
    folder = root / "images" / "sub-s1"
    files = [str(folder / f"sub-s1_{what}.nii.gz") for what in ("ct", "mask")]
    dgmvlc("restore", *files, "-w", str(root), *arguments)
    out = root / "restored" / "images" / "sub-s1"
    ct, mask = (
        sitk.ReadImage(str(out / f"sub-s1_{what}_space-scan.nii.gz")) for what in ("ct", "mask")
    )
    return ct, mask


def corners(image: sitk.Image) -> np.ndarray:
    ends = itertools.product(*((0, size - 1) for size in image.GetSize()))
    return np.array([image.TransformIndexToPhysicalPoint(one) for one in ends])


def test_a_restored_scan_has_the_corners_and_the_values_of_its_file(study):
    root, scan = study
    dgmvlc("preprocess", "-w", str(root), "--workers", "1")
    ct, mask = restored(root)
    assert ct.GetSize() == mask.GetSize() == scan.GetSize()
    np.testing.assert_allclose(corners(ct), corners(scan), atol=0.01)
    lungs = np.isin(sitk.GetArrayFromImage(mask), LUNGS)
    assert lungs.sum() > 10_000
    # On its own grid nothing was interpolated: not one HU may differ.
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(ct)[lungs], sitk.GetArrayFromImage(scan)[lungs]
    )


def test_a_resampled_scan_comes_back_to_interpolation_error(study):
    root, scan = study
    dgmvlc("preprocess", "--spacing", "2", "-w", str(root), "--workers", "1")
    ct, mask = restored(root)
    np.testing.assert_allclose(corners(ct), corners(scan), atol=0.01)
    lungs = np.isin(sitk.GetArrayFromImage(mask), LUNGS)
    difference = (
        sitk.GetArrayFromImage(ct)[lungs].astype(float) - sitk.GetArrayFromImage(scan)[lungs]
    )
    assert abs(difference.mean()) < 1
    assert np.sqrt((difference**2).mean()) < 0.2 * sitk.GetArrayFromImage(scan)[lungs].std()
    assert sitk.GetArrayFromImage(ct).min() >= -1024


def test_what_is_restored_already_is_kept_and_foreign_files_are_refused(study, tmp_path):
    root, _ = study
    dgmvlc("preprocess", "-w", str(root), "--workers", "1")
    file = str(root / "images" / "sub-s1" / "sub-s1_ct.nii.gz")
    w = ("-w", str(root))
    dgmvlc("restore", file, *w)
    assert "current, kept" in dgmvlc("restore", file, *w).stdout
    foreign = tmp_path / "x.nii.gz"
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(foreign))
    assert "--subject" in dgmvlc("restore", str(foreign), *w, expect=1).stderr
    assert "1 x 1 x 1 mm" in dgmvlc("restore", str(foreign), "--subject", "s1", *w, expect=1).stderr
    assert "no such file" in dgmvlc("restore", str(root / "absent.nii"), *w, expect=2).stderr
    assert dgmvlc("restore", file, "--kind", "colour", *w, expect=2).stderr


def test_a_difference_is_zero_where_it_does_not_reach(study):
    root, _ = study
    dgmvlc("preprocess", "--spacing", "8", "-w", str(root), "--workers", "1")
    ct = sitk.ReadImage(str(root / "images" / "sub-s1" / "sub-s1_ct.nii.gz"))
    folder = Path("counterfactuals", "flow", "smoking", "sub-s1")  # what counterfactual writes
    (root / folder).mkdir(parents=True)
    change = sitk.Cast(ct, sitk.sitkFloat32) * 0 - 25.5
    sitk.WriteImage(change, str(root / folder / "sub-s1_seed-0_difference.nii.gz"))
    dgmvlc("restore", str(root / folder / "sub-s1_seed-0_difference.nii.gz"), "-w", str(root))
    path = root / "restored" / folder / "sub-s1_seed-0_difference_space-scan.nii.gz"
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert values.dtype == np.float32
    assert values.min() == pytest.approx(-25.5) and values.max() == 0
    assert 0.1 < (values < -25).mean() < 1


def test_results_of_one_name_do_not_overwrite_each_other(study):
    root, _ = study
    dgmvlc("preprocess", "--spacing", "8", "-w", str(root), "--workers", "1")
    ct = root / "images" / "sub-s1" / "sub-s1_ct.nii.gz"
    twins = [root / "counterfactuals" / model / ct.name for model in ("flow", "gan")]
    for twin in twins:
        twin.parent.mkdir(parents=True)
        twin.write_bytes(ct.read_bytes())
    asked = ("restore", *map(str, twins), "-w", str(root))
    said = dgmvlc(*asked, "--out", str(root / "out"), expect=2).stderr
    assert "would both be written" in said
    dgmvlc(*asked)
    back = list((root / "restored" / "counterfactuals").glob("*/*_space-scan.nii.gz"))
    assert len(back) == len(twins)


def test_the_subject_is_the_last_that_the_path_in_the_workspace_names(chest, tmp_path):
    root = tmp_path / "sub-s1" / "study"
    (root / "scans").mkdir(parents=True)
    scan = sitk.Cast(image_of(chest[0].hu, chest[0]), sitk.sitkInt16)
    sitk.WriteImage(scan, str(root / "scans" / "s1.nrrd"))
    scan.SetOrigin([mm + 501 for mm in scan.GetOrigin()])
    sitk.WriteImage(scan, str(root / "scans" / "s2.nrrd"))
    w = ("-w", str(root))
    dgmvlc("init", str(root / "scans"), *w)
    dgmvlc("preprocess", "--spacing", "8", "--workers", "1", *w)
    file = root / "other" / "sub-s2" / "factual_ct.nii.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes((root / "images" / "sub-s2" / "sub-s2_ct.nii.gz").read_bytes())
    dgmvlc("restore", str(file), *w)
    back = root / "restored" / "other" / "sub-s2" / "factual_ct_space-scan.nii.gz"
    image = sitk.ReadImage(str(back))
    np.testing.assert_allclose(image.GetOrigin(), scan.GetOrigin(), atol=1e-3)
    assert sitk.GetArrayFromImage(image).max() > 0
    said = dgmvlc("restore", str(file), "--subject", "s1", *w, expect=1).stderr
    assert "not those of the preprocessed scan" in said and "--subject" in said
    near = sitk.ReadImage(str(file))
    near.SetOrigin([mm - 501 + 3 for mm in near.GetOrigin()])  # as if of s1, but between its voxels
    sitk.WriteImage(near, str(file))
    assert "not those of" in dgmvlc("restore", str(file), "--subject", "s1", *w, expect=1).stderr
