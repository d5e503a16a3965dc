"""Results on the grid of a preprocessed scan, brought back to the voxels of the scan as it came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.files import read_image
from dgmvlc_cli.imaging.names import stem
from dgmvlc_cli.imaging.volume import AIR_HU, Grid, fullest, grid_of_image, resample_image

ResultKind = Literal["hu", "difference", "mask"]
OUTSIDE_VALUE = {"hu": AIR_HU, "difference": 0.0, "mask": 0.0}
SLAB_VOXELS = 1 << 25
BETWEEN_VOXELS = 0.1  # of a voxel: what is off by more was not made on the grid of the scan


def kind_of_result(path: Path, image: sitk.Image) -> ResultKind:
    """What a result is: a mask by its number type or name, HU by the name's ending `_ct`."""
    name = stem(path.name)
    if name.endswith("_ct"):
        return "hu"
    if image.GetPixelID() in (sitk.sitkUInt8, sitk.sitkUInt16) or name.endswith("_mask"):
        return "mask"
    return "difference"


def grid_from_record(record: dict[str, Any]) -> Grid:
    """The grid that `preprocess` wrote into the sidecar of a scan."""
    depth, height, width = record["shape"]
    z_mm, y_mm, x_mm = record["spacing_mm"]
    x, y, z = record["origin_mm"]
    return Grid(
        shape=(depth, height, width),
        spacing_mm=(z_mm, y_mm, x_mm),
        origin_mm=(x, y, z),
        direction=tuple(record["direction"]),
    )


def restore_image(image: sitk.Image, grid: Grid, kind: ResultKind) -> np.ndarray:
    """The values of a result at the voxels of a grid; air or nothing where it does not reach.

    HU by cubic splines within the range that the result has, differences linearly, masks by the
    class that fills most of a voxel.  Whole numbers stay whole numbers.
    """
    values = sitk.GetArrayViewFromImage(image)
    restored = np.empty(grid.shape, values.dtype)
    for start, slab in _slabs(grid):
        part = restored[start : start + slab.shape[0]]
        part[:] = _labels(image, slab) if kind == "mask" else _numbers(image, slab, kind)
    return restored


def _slabs(grid: Grid) -> Iterator[tuple[int, Grid]]:
    """A grid in parts along its first axis, so that a whole scan never lies in memory as floats."""
    thickness = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    upward = np.reshape(grid.direction, (3, 3))[:, 2] * grid.spacing_mm[0]
    for start in range(0, grid.shape[0], thickness):
        x, y, z = (float(mm) for mm in np.array(grid.origin_mm) + start * upward)
        depth = min(thickness, grid.shape[0] - start)
        yield start, replace(grid, shape=(depth, *grid.shape[1:]), origin_mm=(x, y, z))


def _numbers(image: sitk.Image, grid: Grid, kind: ResultKind) -> np.ndarray:
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    method = sitk.sitkBSpline if kind == "hu" else sitk.sitkLinear
    found = resample_image(sitk.Cast(image, sitk.sitkFloat32), grid, method, OUTSIDE_VALUE[kind])
    found = np.clip(found, min(low, OUTSIDE_VALUE[kind]), max(high, OUTSIDE_VALUE[kind]))
    return np.rint(found) if np.issubdtype(values.dtype, np.integer) else found


def _labels(image: sitk.Image, grid: Grid) -> np.ndarray:
    values = sitk.GetArrayViewFromImage(image)
    return fullest(
        lambda value: resample_image(sitk.Cast(image == value, sitk.sitkFloat32), grid),
        values,
        grid.shape,
    )


def read_result(path: Path, prepared: Grid) -> sitk.Image:
    """A result file; DgmvlcError where its voxels are not those of the preprocessed scan.

    prepared: the grid of that scan.  A result may be cut or padded, as a generator's grid is, but
    by whole voxels and around the same lungs.
    """
    image = read_image(path)
    got = grid_of_image(image)
    if not np.allclose(got.spacing_mm, prepared.spacing_mm, rtol=0.01):
        raise _foreign(
            f"{path}: voxels of {_mm(got.spacing_mm)} mm, the preprocessed scan has "
            f"{_mm(prepared.spacing_mm)} mm"
        )
    first, size = _index_in(prepared, got.origin_mm), np.array(got.shape[::-1])
    middle = first + (size - 1) / 2
    turned = not np.allclose(got.direction, prepared.direction, atol=1e-3)
    between = float(np.abs(first - np.round(first)).max()) > BETWEEN_VOXELS
    if turned or between or (middle < 0).any() or (middle > np.array(prepared.shape[::-1])).any():
        raise _foreign(
            f"{path}: its voxels are not those of the preprocessed scan: {_placed(got)}, "
            f"the scan's {_placed(prepared)}"
        )
    return image


def _index_in(grid: Grid, point_mm: tuple[float, float, float]) -> np.ndarray:
    """Continuous index (x, y, z) of an LPS point."""
    steps = np.reshape(grid.direction, (3, 3)) * grid.spacing_mm[::-1]
    return np.linalg.solve(steps, np.subtract(point_mm, grid.origin_mm))


def _foreign(message: str) -> DgmvlcError:
    return DgmvlcError(
        message,
        "Give a file that was made from this workspace's scan, or name the right --subject.",
    )


def _placed(grid: Grid) -> str:
    """`40 x 32 x 40 voxels at (-150.0, 10.0, -80.0) mm`."""
    x, y, z = grid.origin_mm
    return f"{_mm(grid.shape[::-1])} voxels at ({x:.1f}, {y:.1f}, {z:.1f}) mm"


def _mm(sides: tuple[float, ...]) -> str:
    return " x ".join(f"{one:g}" for one in sides)
