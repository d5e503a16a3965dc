"""One picture per subject, by which a person judges scan, orientation and mask at a glance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dgmvlc_cli.imaging.volume import LUNGS, Tissue, Volume
from dgmvlc_cli.workspace import atomic_path

LUNG_WINDOW_HU = (-1350.0, 150.0)
OUTLINES = {
    Tissue.RIGHT_LUNG: "#4cc9f0",
    Tissue.LEFT_LUNG: "#f9c74f",
    Tissue.AIRWAY: "#f94144",
}
PLANES = ("axial", "coronal", "sagittal")
# What lies at the left, right, top and bottom edge of each picture, as the patient sees it.
EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
EDGE_PLACES = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04))
HEIGHT_INCHES = 4.4


def draw_qc(volume: Volume, labels: np.ndarray, path: Path) -> None:
    """Draw one axial, coronal and sagittal cut with the outlines of lungs and airway as PNG.

    Lung window, true proportions, head up, patient right at the left.  The sagittal cut goes
    through the right lung.  Written atomically; DgmvlcError if it cannot be written.
    """
    centre = _centre(labels)
    sizes = [_size_mm(plane, volume) for plane in PLANES]
    tallest = max(height for _, height in sizes)
    width_inches = HEIGHT_INCHES * sum(width for width, _ in sizes) / tallest
    figure = Figure(figsize=(width_inches, HEIGHT_INCHES), facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, width_ratios=[width for width, _ in sizes])
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.99, wspace=0.02)
    for axis, plane, size in zip(axes, PLANES, sizes, strict=True):
        _draw(axis, _cut(volume.hu, plane, centre), _cut(labels, plane, centre), size)
        _letters(axis, EDGES[plane])
    _save(figure, path)


def _draw(axis: Axes, hu: np.ndarray, labels: np.ndarray, size_mm: tuple[float, float]) -> None:
    width, height = size_mm
    low, high = LUNG_WINDOW_HU
    axis.imshow(hu, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0))
    rows, columns = labels.shape
    x = (np.arange(columns) + 0.5) * width / columns
    y = (np.arange(rows) + 0.5) * height / rows
    for tissue, colour in OUTLINES.items():
        if (labels == tissue).any() and min(labels.shape) > 1:
            axis.contour(x, y, labels == tissue, [0.5], colors=colour, linewidths=1.0)
    axis.set_axis_off()


def _letters(axis: Axes, letters: str) -> None:
    for letter, (x, y) in zip(letters, EDGE_PLACES, strict=True):
        axis.text(
            x,
            y,
            letter,
            color="white",
            fontsize=9,
            ha="center",
            va="center",
            transform=axis.transAxes,
            bbox={"facecolor": "black", "alpha": 0.55, "pad": 1.5, "edgecolor": "none"},
        )


def _centre(labels: np.ndarray) -> tuple[int, int, int]:
    """Middle of the lungs along z and y, of the right lung along x; of the array without lungs."""
    lungs = np.argwhere(np.isin(labels, LUNGS))
    if not len(lungs):
        z, y, x = (size // 2 for size in labels.shape)
        return z, y, x
    right = np.argwhere(labels == Tissue.RIGHT_LUNG)
    side = right if len(right) else lungs
    z, y, _ = ((lungs.min(axis=0) + lungs.max(axis=0)) // 2).tolist()
    return z, y, int(side[:, 2].mean())


def _cut(array: np.ndarray, plane: str, centre: tuple[int, int, int]) -> np.ndarray:
    """A plane through the centre, first row at the top: anterior, or superior with the head up."""
    z, y, x = centre
    if plane == "axial":
        return array[z]
    return array[::-1, y] if plane == "coronal" else array[::-1, :, x]


def _size_mm(plane: str, volume: Volume) -> tuple[float, float]:
    """Width and height of a plane."""
    z, y, x = (size * mm for size, mm in zip(volume.hu.shape, volume.spacing_mm, strict=True))
    return {"axial": (x, y), "coronal": (x, z), "sagittal": (y, z)}[plane]


def _save(figure: Figure, path: Path) -> None:
    # Without the version of the drawing library, the same picture has the same bytes.
    with atomic_path(path) as part:
        figure.savefig(part, dpi=110, metadata={"Software": None})
