"""Small images and DICOM series with known contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dgmvlc_cli.imaging.volume import Volume
from dgmvlc_cli.phantom.render import render
from dgmvlc_cli.phantom.settings import PhantomSettings
from dgmvlc_cli.phantom.table import true_subjects


@dataclass
class Series:
    """A DICOM series to write: stored pixels (slices, rows, columns) and its header."""

    stored: np.ndarray
    gap_mm: float = 2.0
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    step: tuple[float, float, float] | None = None
    uid: str = "1.2.3.4"
    patient: str = "P1"
    tags: dict[str, Any] = field(default_factory=dict)
    slopes: list[float] = field(default_factory=list)
    positions: np.ndarray | None = None

    def write(self, folder: Path) -> list[Path]:
        """One file per slice, at `positions`, or in steps along the normal (or along `step`)."""
        folder.mkdir(parents=True, exist_ok=True)
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        step = normal if self.step is None else np.array(self.step)
        paths = []
        for index, pixels in enumerate(self.stored):
            path = folder / f"I{index:03d}.dcm"
            position = np.array([10.0, 20.0, 30.0]) + index * self.gap_mm * step
            if self.positions is not None:
                position = self.positions[index]
            self._dataset(path, index, pixels, position).save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    def _dataset(
        self, path: Path, index: int, pixels: np.ndarray, position: np.ndarray
    ) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{self.uid}.{index + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID = CTImageStorage
        slice_.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID = self.uid
        slice_.StudyInstanceUID = "1.2.3"
        slice_.PatientID = self.patient
        slice_.Modality = "CT"
        slice_.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        slice_.Rows, slice_.Columns = pixels.shape
        slice_.PixelSpacing = [1.5, 1.25]
        slice_.ImageOrientationPatient = list(self.orientation)
        slice_.ImagePositionPatient = [round(float(mm), 6) for mm in position]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 1
        slice_.RescaleIntercept = -1024
        slice_.RescaleSlope = self.slopes[index] if self.slopes else 1
        for name, value in self.tags.items():
            setattr(slice_, name, value)
        slice_.PixelData = pixels.astype("<i2").tobytes()
        return slice_


@pytest.fixture
def ramp() -> Series:
    """Eight slices of 5 x 6 whose stored values tell slice, row and column apart."""
    index = np.indices((8, 5, 6))
    return Series(1000 + 100 * index[0] + 10 * index[1] + index[2])


@pytest.fixture(scope="session")
def chest() -> tuple[Volume, np.ndarray]:
    """A synthetic chest at 4 mm with its true labels."""
    settings = PhantomSettings(subjects=1, spacing_mm=4.0, seed=7)
    return render(true_subjects(settings)[0], settings)


@pytest.fixture(scope="session")
def chest_series(chest) -> Callable[..., Series]:
    """The synthetic chest as a DICOM series of a patient, every other slice."""

    def build(patient: str, uid: str) -> Series:
        stored = np.rint(chest[0].hu[::2]).astype(int) + 1024
        tags = {"PixelSpacing": [4.0, 4.0]}
        return Series(stored, gap_mm=8.0, patient=patient, uid=uid, tags=tags)

    return build


@pytest.fixture(scope="session")
def dice() -> Callable[[np.ndarray, np.ndarray], float]:
    """Overlap of two masks, 2 |A and B| / (|A| + |B|)."""

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        return float(2 * (a & b).sum() / (a.sum() + b.sum()))

    return overlap


@pytest.fixture(scope="session")
def oblique_image() -> Callable[..., sitk.Image]:
    """An image of the field x + 2 y + 3 z (LPS, mm), in any direction and order of axes."""

    def build(direction: np.ndarray, size: tuple[int, int, int] = (12, 14, 16)) -> sitk.Image:
        image = sitk.Image(list(size), sitk.sitkFloat32)
        image.SetSpacing((1.5, 2.0, 2.5))
        image.SetOrigin((-40.0, 25.0, -100.0))
        image.SetDirection(np.asarray(direction, float).ravel().tolist())
        index = np.indices(size[::-1])[::-1].reshape(3, -1)
        steps = np.array(image.GetSpacing())[:, None] * index
        points = np.array(image.GetOrigin())[:, None] + np.asarray(direction, float) @ steps
        values = field_at(points).reshape(size[::-1]).astype(np.float32)
        filled = sitk.GetImageFromArray(values)
        filled.CopyInformation(image)
        return filled

    return build


def field_at(points: np.ndarray) -> np.ndarray:
    """x + 2 y + 3 z of points (3, n) in LPS mm."""
    return np.array([1.0, 2.0, 3.0]) @ points


@pytest.fixture(scope="session")
def field_of() -> Callable[[Volume], np.ndarray]:
    """The values that the field of oblique_image has at every voxel of a volume."""

    def values(volume: Volume) -> np.ndarray:
        index = np.indices(volume.hu.shape).reshape(3, -1)
        points = np.stack([volume.to_lps_mm(one) for one in index.T], axis=1)
        return field_at(points).reshape(volume.hu.shape)

    return values


@pytest.fixture(scope="session")
def field_series() -> Callable[..., Series]:
    """A series of the field x + 2 y + 3 z at given positions and orientation, to 0.05."""

    def build(positions: np.ndarray, orientation: tuple[float, ...], rows_cols=(24, 26)) -> Series:
        row, column = np.array(orientation[:3]), np.array(orientation[3:])
        down, across = np.indices(rows_cols)
        grid = down[..., None] * 1.5 * column + across[..., None] * 1.25 * row
        values = np.stack([field_at((grid + one).reshape(-1, 3).T) for one in positions])
        stored = np.round(values.reshape(-1, *rows_cols) * 10).astype(int)
        tags = {"RescaleIntercept": 0}
        slopes = [0.1] * len(positions)
        return Series(
            stored, orientation=orientation, positions=positions, slopes=slopes, tags=tags
        )

    return build


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., None]:
    """Change tags of a DICOM file in place."""

    def change(path: Path, **tags: Any) -> None:
        dataset = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(path)

    return change
