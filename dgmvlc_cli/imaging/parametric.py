"""A restored result as a DICOM Parametric Map: HU as they are, placed as the scan is placed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from dgmvlc_cli import __version__
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import Grid
from dgmvlc_cli.workspace import atomic_path

if TYPE_CHECKING:
    from highdicom import Volume

INSTALL = 'Run `pip install "dgmvlc[dicom]"`.'


def require_highdicom() -> None:
    """DgmvlcError where the extra is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise DgmvlcError(
            "DICOM is written by highdicom, which is not installed.", INSTALL
        ) from error


def write_parametric_map(
    path: Path,
    array: np.ndarray,
    grid: Grid,
    *,
    subject: str,
    study: str,
    series: str,
    description: str,
) -> None:
    """Write an array (z, y, x), HU, that lies on a grid as one multi-frame Parametric Map.

    subject: the workspace's name of the subject, the only thing told about the patient.  study:
    what makes the UID of the study, the same for all results of one subject, so that viewers show
    them together; series: what makes those of this result.  The values are 32-bit floats with the
    unit HU; nothing of the original headers is copied, so a viewer matches it with the scan by its
    place alone.
    Source: DICOM PS3.3 A.75, Parametric Map.
    """
    from highdicom import VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from highdicom.sr import CodedConcept

    values = np.ascontiguousarray(array, np.float32)
    patient = _patient(subject, study, values.shape[1:])
    limit = max(float(np.abs(values).max()), 1.0)
    hounsfield = RealWorldValueMapping(
        lut_label="HU",
        lut_explanation=description[:64],
        unit=CodedConcept("[hnsf'U]", "UCUM", "Hounsfield unit"),
        value_range=(float(values.min()), float(values.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=CodedConcept("112031", "DCM", "Attenuation Coefficient"),
    )
    result = ParametricMap(
        [patient],
        _placed(values, grid, patient.FrameOfReferenceUID),
        series_instance_uid=_uid(study, series, "series"),
        series_number=1,
        sop_instance_uid=_uid(study, series, "instance"),
        instance_number=1,
        manufacturer="dgmvlc",
        manufacturer_model_name="dgmvlc",
        software_versions=__version__,
        device_serial_number="0",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[hounsfield],
        voi_lut_transformations=[VOILUTTransformation(window_center=0.0, window_width=2 * limit)],
        content_creator_name="dgmvlc^",
        content_description=description[:64],
        series_description=description[:64],
    )
    for keyword in ("SourceImageSequence", "ReferencedSeriesSequence"):
        if keyword in result:  # there is no file behind the patient
            del result[keyword]
    result.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_both_lungs()]
    _order_along_normal(result)
    with atomic_path(path) as part:
        result.save_as(part)


def _uid(*parts: str) -> str:
    return generate_uid(entropy_srcs=["dgmvlc", *parts])


def _patient(subject: str, study: str, shape: tuple[int, ...]) -> Dataset:
    """What highdicom asks of the image that a map is derived from, without a person in it."""
    patient = Dataset()
    patient.SOPClassUID = CTImageStorage
    patient.SOPInstanceUID = _uid(study, "source")
    patient.SeriesInstanceUID = _uid(study, "source series")
    patient.StudyInstanceUID = _uid(study)
    patient.FrameOfReferenceUID = _uid(study, "frame of reference")
    patient.PatientID, patient.PatientName = subject, f"{subject}^"
    patient.Modality, patient.StudyID = "CT", ""
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime"):
        setattr(patient, keyword, "")
    patient.Rows, patient.Columns = shape
    patient.PixelSpacing, patient.SliceThickness = [1.0, 1.0], 1.0
    patient.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    patient.ImagePositionPatient = [0.0, 0.0, 0.0]
    return patient


def _order_along_normal(result: Dataset) -> None:
    """Put the frames in rising order along rows x columns.

    highdicom writes them falling, which its positions say, but dcmqi (with it 3D Slicer) takes the
    order for granted and would show the lungs upside down.
    """
    orientation = result.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    row, column = np.reshape(np.array(orientation.ImageOrientationPatient, float), (2, 3))
    frames = list(result.PerFrameFunctionalGroupsSequence)
    places = [np.array(one.PlanePositionSequence[0].ImagePositionPatient, float) for one in frames]
    order = np.argsort(np.array(places) @ np.cross(row, column))
    numbers = [one.FrameContentSequence[0].DimensionIndexValues for one in frames]
    rising = [frames[k] for k in order]
    for frame, number in zip(rising, numbers, strict=True):
        frame.FrameContentSequence[0].DimensionIndexValues = number
    result.PerFrameFunctionalGroupsSequence = rising
    pixels = np.frombuffer(result.FloatPixelData, "<f4").reshape(len(frames), -1)
    result.FloatPixelData = pixels[order].tobytes()


def _both_lungs() -> Dataset:
    """The frame anatomy; readers such as dcmqi, and with it 3D Slicer, fail without one."""
    from highdicom.sr import CodedConcept

    anatomy = Dataset()
    anatomy.FrameLaterality = "B"
    anatomy.AnatomicRegionSequence = [CodedConcept("39607008", "SCT", "Lung")]
    return anatomy


def _placed(values: np.ndarray, grid: Grid, frame_of_reference_uid: str) -> Volume:
    from highdicom import Volume

    # The columns of a direction are those of x, y and z; arrays run along z, y and x.
    axes = np.reshape(grid.direction, (3, 3))[:, ::-1]
    affine = np.eye(4)
    affine[:3, :3] = axes * grid.spacing_mm
    affine[:3, 3] = grid.origin_mm
    return Volume(
        values,
        affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference_uid,
    )
