"""Results as DICOM Parametric Maps: every voxel in its place, and nobody's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import dgmvlc

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging import parametric
from dgmvlc_cli.imaging.files import read_image
from dgmvlc_cli.imaging.volume import Grid, image_of

AXES = {
    "straight": np.eye(3),
    "turned": np.array([[0, 0.8, 0.6], [0, -0.6, 0.8], [1, 0, 0]]),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
}


def grid_along(direction: np.ndarray) -> Grid:
    return Grid(
        shape=(4, 5, 6),
        spacing_mm=(5.0, 2.0, 3.0),
        origin_mm=(10.0, -20.0, 30.0),
        direction=tuple(direction.ravel()),
    )


def write(path: Path, values: np.ndarray, grid: Grid, series: str = "one") -> None:
    parametric.write_parametric_map(
        path, values, grid, subject="s1", study="s1 of a study", series=series, description="change"
    )


@pytest.mark.parametrize("direction", AXES.values(), ids=AXES)
def test_every_value_lies_where_the_grid_has_it(direction: np.ndarray, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    grid = grid_along(direction)
    values = np.random.default_rng(0).normal(0, 20, grid.shape).astype(np.float32)
    write(tmp_path / "map.dcm", values, grid)
    read = highdicom.imread(tmp_path / "map.dcm").get_volume(apply_real_world_transform=True)
    for place in np.ndindex(grid.shape):
        along = direction @ (np.array(place) * grid.spacing_mm)[::-1]
        there = np.linalg.solve(read.affine, [*(grid.origin_mm + along), 1])[:3]
        assert there == pytest.approx(np.rint(there), abs=1e-4)
        assert read.array[tuple(np.rint(there).astype(int))] == values[place]


def test_maps_of_a_subject_share_a_study_and_say_their_unit(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    grid = grid_along(np.eye(3))
    for name in ("one", "other"):
        write(tmp_path / f"{name}.dcm", np.zeros(grid.shape), grid, name)
    one, other = (highdicom.imread(tmp_path / f"{name}.dcm") for name in ("one", "other"))
    assert one.StudyInstanceUID == other.StudyInstanceUID
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.SOPClassUID.name == "Parametric Map Storage"
    mapping = one.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
    assert (one.PatientID, one.ContentQualification) == ("s1", "RESEARCH")
    assert "SourceImageSequence" not in one and "ReferencedSeriesSequence" not in one


@pytest.mark.parametrize("direction", AXES.values(), ids=AXES)
def test_dcmqi_which_3d_slicer_reads_with_finds_the_same_voxels(
    direction: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom")
    converter = Path(pytest.importorskip("dcmqi").__file__).parent / "bin" / "paramap2itkimage"
    grid = grid_along(direction)
    values = np.random.default_rng(1).normal(0, 20, grid.shape).astype(np.float32)
    write(tmp_path / "map.dcm", values, grid)
    options = ["--inputDICOM", tmp_path / "map.dcm", "--outputDirectory", tmp_path]
    subprocess.run([converter, *options, "--outputType", "nrrd"], check=True, capture_output=True)
    found = read_image(tmp_path / "pmap.nrrd")
    for place in np.ndindex(grid.shape):
        along = direction @ (np.array(place) * grid.spacing_mm)[::-1]
        index = found.TransformPhysicalPointToIndex((grid.origin_mm + along).tolist())
        assert found[index] == pytest.approx(values[place])


def test_restore_writes_hu_and_leaves_masks_as_they_are(chest, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    sitk = pytest.importorskip("SimpleITK")
    (tmp_path / "scans").mkdir()
    scan = sitk.Cast(image_of(chest[0].hu, chest[0]), sitk.sitkInt16)
    sitk.WriteImage(scan, str(tmp_path / "scans" / "s1.nrrd"))
    dgmvlc("init", str(tmp_path / "scans"), "-w", str(tmp_path))
    dgmvlc("preprocess", "-w", str(tmp_path), "--workers", "1")
    files = [str(tmp_path / f"images/sub-s1/sub-s1_{what}.nii.gz") for what in ("ct", "mask")]
    dgmvlc("restore", *files, "--dicom", "-w", str(tmp_path))
    folder = tmp_path / "restored" / "images" / "sub-s1"
    assert [path.name for path in folder.glob("*.dcm")] == ["sub-s1_ct_space-scan.dcm"]
    read = highdicom.imread(folder / "sub-s1_ct_space-scan.dcm").get_volume()
    nifti = read_image(folder / "sub-s1_ct_space-scan.nii.gz")
    assert read.array.mean() == pytest.approx(sitk.GetArrayFromImage(nifti).mean())
    done = dgmvlc("restore", *files, "--dicom", "-w", str(tmp_path))
    assert "2 current, kept" in done.stdout


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(DgmvlcError, match="highdicom") as raised:
        parametric.require_highdicom()
    assert "dgmvlc[dicom]" in raised.value.hint
