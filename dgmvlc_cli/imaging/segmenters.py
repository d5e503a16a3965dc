"""Segmenters by name: the built-in one, and adapters to what a user may have installed."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import redirect_stdout
from functools import cache
from typing import Any

import numpy as np

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.lungs import segment
from dgmvlc_cli.imaging.masks import READY_MAPPINGS, Segmentation, parts_of, segmentation
from dgmvlc_cli.imaging.volume import Volume, image_of

LUNGMASK_MODEL = "R231"
LUNGMASK_LOBES_MODEL = "LTRCLobes"
TOTALSEGMENTATOR_STRUCTURES = [
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
    "trachea",
]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def require_segmenter(name: str) -> None:
    """Raise DgmvlcError where a segmenter of SEGMENTERS is not installed."""
    package = name.partition("-")[0]
    try:
        missing = name != "builtin" and importlib.util.find_spec(package) is None
    except ValueError:  # loaded by other ways than a finder's
        missing = False
    if missing:
        raise _not_installed(package)


def segment_with(name: str, volume: Volume) -> Segmentation:
    """Tissues, and the lobes that it finds, by a segmenter of SEGMENTERS or `builtin`.

    `totalsegmentator` and `lungmask-lobes` find lobes, `builtin` and `lungmask` do not.

    Raises DgmvlcError where the segmenter is not installed, fails, or gives something else than
    labels on the scan's grid.
    """
    if name == "builtin":
        return Segmentation(labels=segment(volume))
    values = _values(name, volume)
    if values.shape != volume.hu.shape:
        raise DgmvlcError(
            f"{name} gave a mask of shape {values.shape} for a scan of {volume.hu.shape}.",
            "Use another version of it, or --segmenter builtin.",
        )
    mapping = READY_MAPPINGS[name].items()
    return segmentation(volume, parts_of((part, np.isin(values, found)) for part, found in mapping))


def _values(name: str, volume: Volume) -> np.ndarray:
    """What a segmenter makes of a scan; DgmvlcError where it fails, so that other scans go on.

    They write to stdout, which is kept for results, and some end the process where weights lack.
    """
    try:
        with redirect_stdout(sys.stderr):
            return SEGMENTERS[name](volume)
    except DgmvlcError:
        raise
    except MemoryError as error:
        raise DgmvlcError(
            f"The segmenter {name} ran out of memory.",
            "Run with fewer --workers, or use --segmenter builtin.",
        ) from error
    except (Exception, SystemExit) as error:
        said = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise DgmvlcError(
            f"The segmenter {name} failed: {said[0]}",
            "It needs its weights, which it downloads when first used; try it by itself, or use "
            "--segmenter builtin.",
        ) from error


def _lungmask(volume: Volume) -> np.ndarray:
    """1 right lung, 2 left lung.

    Source: Hofmanninger et al. 2020, doi:10.1186/s41747-020-00173-2
    """
    return np.asarray(_lungmask_inferer(LUNGMASK_MODEL).apply(image_of(volume.hu, volume)))


def _lungmask_lobes(volume: Volume) -> np.ndarray:
    """1 left upper lobe, 2 left lower, 3 right upper, 4 right middle, 5 right lower.

    What the network of the lobes misses of the lungs is filled from the one of the lungs, and what
    lies beyond these is taken away.  Source: as `_lungmask`.
    """
    inferer = _lungmask_inferer(LUNGMASK_LOBES_MODEL, fillmodel=LUNGMASK_MODEL)
    return np.asarray(inferer.apply(image_of(volume.hu, volume)))


@cache
def _lungmask_inferer(model: str, **options: str) -> Any:
    """A network, loaded once per process."""
    try:
        from lungmask import LMInferer
    except ImportError as error:
        raise _not_installed("lungmask") from error
    return LMInferer(modelname=model, tqdm_disable=True, **options)


def _totalsegmentator(volume: Volume) -> np.ndarray:
    """Values of the task `total` of version 2.

    Source: Wasserthal et al. 2023, doi:10.1148/ryai.230024
    """
    try:
        import nibabel
        from totalsegmentator.python_api import totalsegmentator
    except ImportError as error:
        raise _not_installed("totalsegmentator") from error
    scan = nibabel.Nifti1Image(volume.hu.transpose(2, 1, 0), _ras_affine(volume))
    found = totalsegmentator(
        scan, None, ml=True, quiet=True, roi_subset=TOTALSEGMENTATOR_STRUCTURES
    )
    return np.rint(np.asarray(found.dataobj)).astype(np.int32).transpose(2, 1, 0)


SEGMENTERS = {
    "lungmask": _lungmask,
    "lungmask-lobes": _lungmask_lobes,
    "totalsegmentator": _totalsegmentator,
}


def _ras_affine(volume: Volume) -> np.ndarray:
    """Index (x, y, z) to RAS mm, as NIfTI has it."""
    affine = np.eye(4)
    spacing_xyz = np.array(volume.spacing_mm[::-1])
    affine[:3, :3] = np.reshape(volume.direction, (3, 3)) * spacing_xyz
    affine[:3, 3] = volume.origin_mm
    return LPS_TO_RAS @ affine


def _not_installed(name: str) -> DgmvlcError:
    return DgmvlcError(
        f"The segmenter {name} is not installed.",
        f'Run `pip install "dgmvlc[{name}]"`, or use --segmenter builtin.',
    )
