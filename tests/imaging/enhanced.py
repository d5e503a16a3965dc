"""Write an enhanced multi-frame CT, whose geometry and slopes are in functional groups."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

PLACES_MM = (30.0, 34.0, 32.0, 36.0)  # of the frames, not in order


def write_enhanced(
    path: Path,
    frames: list[bytes],
    rows_cols: tuple[int, int],
    slopes: list[float],
    source: Dataset | None = None,
) -> None:
    """source: a file whose pixel format and compression the frames have."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4.1"
    meta.TransferSyntaxUID = (
        ExplicitVRLittleEndian if source is None else source.file_meta.TransferSyntaxUID
    )
    whole = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    whole.SOPClassUID, whole.SOPInstanceUID = EnhancedCTImageStorage, "1.2.3.4.1"
    whole.SeriesInstanceUID, whole.PatientID, whole.Modality = "1.2.3.4", "P1", "CT"
    whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    whole.Rows, whole.Columns = rows_cols
    whole.NumberOfFrames = len(frames)
    whole.SamplesPerPixel, whole.PhotometricInterpretation = 1, "MONOCHROME2"
    whole.BitsAllocated = whole.BitsStored = 16
    whole.HighBit = 15
    whole.PixelRepresentation = 1 if source is None else source.PixelRepresentation
    if source is not None:
        whole.BitsStored, whole.HighBit = source.BitsStored, source.HighBit
    whole.SharedFunctionalGroupsSequence = [_shared()]
    whole.PerFrameFunctionalGroupsSequence = [
        _frame(place, slope) for place, slope in zip(PLACES_MM, slopes, strict=True)
    ]
    whole.PixelData = b"".join(frames) if source is None else pydicom.encaps.encapsulate(frames)
    if source is not None:
        whole["PixelData"].VR = "OB"
    whole.save_as(path, enforce_file_format=True)


def _shared() -> Dataset:
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1.5, 1.25], 2.0
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [plane]
    return shared


def _frame(place_mm: float, slope: float) -> Dataset:
    frame, position, values = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [10.0, 20.0, place_mm]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, -1024, "HU"
    frame.PlanePositionSequence = [position]
    frame.PixelValueTransformationSequence = [values]
    return frame
