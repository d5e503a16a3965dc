"""One picture per subject, by which a person judges scan, orientation and mask at a glance."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.volume import LUNGS, Tissue, Volume, centre_of
from dgmvlc_cli.workspace import atomic_path

LUNG_WINDOW_HU = (-1350.0, 150.0)
OUTLINES = {
    Tissue.RIGHT_LUNG: "#4cc9f0",
    Tissue.LEFT_LUNG: "#f9c74f",
    Tissue.AIRWAY: "#f94144",
}
LOBE_OUTLINE = "#ffffff"
PLANES = ("axial", "coronal", "sagittal")
# What lies at the left, right, top and bottom edge of each picture, as the patient sees it.
EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
EDGE_PLACES = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04))
HEIGHT_INCHES = 4.4
LINE_INCHES = 0.17
HISTOGRAM_WIDTH = 0.8  # of the height
HISTOGRAM_HU = (-1050.0, 200.0)
HISTOGRAM_BINS = 100
HISTOGRAM_CLASSES = (
    ("lungs", LUNGS, "#4cc9f0"),
    ("airway", (Tissue.AIRWAY,), "#f94144"),
    ("body", (Tissue.BODY,), "#adb5bd"),
)


def draw_qc(
    volume: Volume,
    labels: np.ndarray,
    path: Path,
    flags: Sequence[str] = (),
    lobes: np.ndarray | None = None,
) -> None:
    """Draw one axial, coronal and sagittal cut, the histogram of HU, and the flags, as PNG.

    Outlines of lungs, airway and, where the mask tells them, lobes; lung window, true proportions,
    head up, patient right at the left.  The sagittal cut goes through the right lung.  flags:
    sentences below the pictures.
    Written atomically; DgmvlcError if it cannot be written.
    """
    centre = _centre(labels)
    sizes = [_size_mm(plane, volume) for plane in PLANES]
    tallest = max(height for _, height in sizes)
    widths = [width for width, _ in sizes]
    widths.append(HISTOGRAM_WIDTH * tallest)
    lines = _wrapped(flags, 14 * HEIGHT_INCHES * sum(widths) / tallest)
    height_inches = HEIGHT_INCHES + LINE_INCHES * len(lines)
    figure = Figure(
        figsize=(HEIGHT_INCHES * sum(widths) / tallest, height_inches), facecolor="black"
    )
    FigureCanvasAgg(figure)
    bottom = LINE_INCHES * len(lines) / height_inches
    axes = figure.subplots(1, 4, width_ratios=widths)
    figure.subplots_adjust(0.005, bottom + 0.01, 0.995, 0.99, wspace=0.02)
    for axis, plane, size in zip(axes, PLANES, sizes, strict=False):
        _show(axis, _cut(volume.hu, plane, centre), size)
        if lobes is not None:
            _outline(axis, _cut(lobes, plane, centre), size, dict.fromkeys(Lobe, LOBE_OUTLINE), 0.6)
        _outline(axis, _cut(labels, plane, centre), size, OUTLINES, 1.0)
        _letters(axis, EDGES[plane])
    _histogram(axes[3], volume.hu, labels)
    figure.text(0.008, 0.01, "\n".join(lines), color="#ffb703", fontsize=8, va="bottom")
    _save(figure, path)


def _wrapped(flags: Sequence[str], columns: float) -> list[str]:
    """Lines of at most so many characters, each flag beginning a new one."""
    return [line for flag in flags for line in textwrap.wrap(f"! {flag}", max(int(columns), 20))]


def _histogram(axis: Axes, hu: np.ndarray, labels: np.ndarray) -> None:
    """Share of voxels by HU in lung, airway and body, each with its peak."""
    axis.set_facecolor("black")
    edges = np.linspace(*HISTOGRAM_HU, HISTOGRAM_BINS + 1)
    for number, (name, tissues, colour) in enumerate(HISTOGRAM_CLASSES):
        counts, _ = np.histogram(hu[np.isin(labels, tissues)], edges)
        if not counts.sum():
            continue
        peak = int(counts.argmax())
        axis.stairs(counts / counts.max(), edges, color=colour, linewidth=1.2)
        place = (edges[peak] + edges[peak + 1]) / 2
        axis.text(
            0.97,
            0.97 - 0.08 * number,
            f"{name} {place:.0f} HU",
            color=colour,
            fontsize=8,
            ha="right",
            va="top",
            transform=axis.transAxes,
        )
    axis.set_xlim(*HISTOGRAM_HU)
    axis.set_ylim(0, 1.4)
    axis.set_yticks([])
    axis.tick_params(axis="x", colors="white", labelsize=7, direction="in", pad=-12)
    axis.set_xticks([-900, -600, -300, 0])


def _show(axis: Axes, hu: np.ndarray, size_mm: tuple[float, float]) -> None:
    width, height = size_mm
    low, high = LUNG_WINDOW_HU
    axis.imshow(hu, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0))
    axis.set_axis_off()


def _outline(
    axis: Axes,
    labels: np.ndarray,
    size_mm: tuple[float, float],
    colours: Mapping[Any, str],
    linewidth: float,
) -> None:
    """The edge of every label that has a colour."""
    width, height = size_mm
    rows, columns = labels.shape
    x = (np.arange(columns) + 0.5) * width / columns
    y = (np.arange(rows) + 0.5) * height / rows
    for value, colour in colours.items():
        if (labels == value).any() and min(labels.shape) > 1:
            axis.contour(x, y, labels == value, [0.5], colors=colour, linewidths=linewidth)


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
    lungs = np.isin(labels, LUNGS)
    side = centre_of(labels == Tissue.RIGHT_LUNG) or centre_of(lungs)
    if side is None:
        z, y, x = (size // 2 for size in labels.shape)
        return z, y, x
    filled = [np.flatnonzero(lungs.any(axis=others)) for others in ((1, 2), (0, 2))]
    z, y = (int(where[0] + where[-1]) // 2 for where in filled)
    return z, y, int(side[2])


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
