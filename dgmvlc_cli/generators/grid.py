"""Place a preprocessed scan on the generator's fixed grid, lungs in the middle, geometry kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import LUNGS, Tissue, Volume

AIR_HU = -1000.0
SPACING_TOLERANCE = 0.01


def place(
    volume: Volume, labels: np.ndarray, grid: tuple[int, int, int], spacing_mm: float
) -> tuple[Volume, np.ndarray]:
    """The scan cut or padded with air to `grid`, the box of its lungs centred.

    labels: (z, y, x) Tissue.  Returns the volume with its moved origin, and the labels.
    Raises DgmvlcError where the spacing is not the generator's or the lungs do not fit.
    """
    if not np.allclose(volume.spacing_mm, spacing_mm, rtol=SPACING_TOLERANCE):
        voxel = " x ".join(f"{side:g}" for side in volume.spacing_mm)
        raise DgmvlcError(
            f"Voxels of {voxel} mm, but the preset works at {spacing_mm:g} mm.",
            "Set `preset` under [train] in dgmvlc.toml, leave `spacing_mm` under [scans] unset, "
            "and run `dgmvlc preprocess` again.",
        )
    start = _start(labels, grid)
    box = tuple(slice(a, a + side) for a, side in zip(start, grid, strict=True))
    hu = _cut(volume.hu, box, AIR_HU)
    placed = replace(volume, hu=hu, origin_mm=tuple(volume.to_lps_mm(start)))
    return placed, _cut(labels, box, int(Tissue.OUTSIDE))


def place_lobes(lobes: np.ndarray, labels: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Lobes that belong to `labels`, cut or padded as `place` does with these.

    lobes: (z, y, x) Lobe.  labels: (z, y, x) Tissue, not yet placed.
    """
    start = _start(labels, grid)
    return _cut(lobes, tuple(slice(a, a + n) for a, n in zip(start, grid, strict=True)), 0)


def _start(labels: np.ndarray, grid: tuple[int, int, int]) -> tuple[int, ...]:
    """Index (possibly negative) in the scan of the grid's first voxel."""
    where = np.argwhere(np.isin(labels, LUNGS))
    if not len(where):
        raise DgmvlcError("The mask holds no lung.", "Look at the subject's QC picture.")
    low, high = where.min(axis=0), where.max(axis=0) + 1
    if (high - low > grid).any():
        raise DgmvlcError(
            f"The lungs span {tuple(map(int, high - low))} voxels, the preset's grid is {grid}.",
            "Choose a preset with a larger grid, or a coarser one.",
        )
    return tuple(map(int, (low + high - np.asarray(grid)) // 2))


def _cut(array: np.ndarray, box: tuple[slice, ...], fill: float) -> np.ndarray:
    """array[box], where the box may reach beyond the array."""
    out = np.full([part.stop - part.start for part in box], fill, array.dtype)
    inside = [
        slice(max(part.start, 0), min(part.stop, side))
        for part, side in zip(box, array.shape, strict=True)
    ]
    target = tuple(
        slice(one.start - part.start, one.stop - part.start)
        for one, part in zip(inside, box, strict=True)
    )
    out[target] = array[tuple(inside)]
    return out
