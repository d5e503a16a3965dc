"""A look at a freshly trained model: held-out subjects, real and generated, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from dgmvlc_cli.imaging.volume import LUNGS
from dgmvlc_cli.report.drawing import DIVERGING, WIDTH, house_style, panels
from dgmvlc_cli.report.figures_images import LUNG_WINDOW_HU, bare

COLUMNS = ("the scan", "generated", "{reference}", "{target}", "difference")


def preview(
    subjects: Sequence[str],
    scans: np.ndarray,
    generated: np.ndarray,
    pairs: np.ndarray,
    labels: np.ndarray,
    levels: tuple[str, str],
) -> bytes:
    """PNG of coronal slices, one row per subject.

    scans, generated: (n, D, H, W) HU, the latter under the subjects' own sentences.  pairs:
    (n, 2, D, H, W) HU of the two arms.  labels: (n, D, H, W) Tissue values.  levels: of the arms.
    """
    change = np.where(np.isin(labels, LUNGS), pairs[:, 1] - pairs[:, 0], np.nan)
    inside = np.abs(change[np.isfinite(change)])
    limit = float(np.quantile(inside, 0.99)) if inside.size else 1.0
    low, high = LUNG_WINDOW_HU
    with house_style():
        figure, axes = panels(WIDTH, 0.3 + 1.4 * len(subjects), len(subjects), len(COLUMNS))
        for row, subject in enumerate(subjects):
            middle = int(np.median(np.argwhere(np.isin(labels[row], LUNGS))[:, 1]))
            volumes = (scans[row], generated[row], *pairs[row], change[row])
            here = axes[len(COLUMNS) * row : len(COLUMNS) * (row + 1)]
            for panel, volume in zip(here, volumes, strict=True):
                bare(panel)
                last = panel is here[-1]
                image = panel.imshow(
                    volume[::-1, middle],
                    cmap=DIVERGING if last else "gray",
                    vmin=-limit if last else low,
                    vmax=limit if last else high,
                    interpolation="nearest",
                )
            here[0].set_ylabel(subject)
        for panel, title in zip(axes, COLUMNS, strict=False):
            panel.set_title(
                title.format(reference=levels[0], target=levels[1]), loc="center", fontsize=7
            )
        figure.colorbar(image, ax=axes[len(COLUMNS) - 1 :: len(COLUMNS)], label="HU")
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, facecolor="white")
    return stream.getvalue()
