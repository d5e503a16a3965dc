"""Figures from the image pairs themselves: slices and histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from dgmvlc_cli.counting import counted
from dgmvlc_cli.report.contents import Pair, ReportContents
from dgmvlc_cli.report.drawing import (
    BLUE,
    DIVERGING,
    FAINT,
    GREY,
    INK,
    VERMILLION,
    WIDTH,
    Drawing,
    panels,
)
from dgmvlc_cli.report.summaries import (
    difference_limit,
    lung_histograms,
    shown_difference,
)
from dgmvlc_cli.report.words import (
    number,
)

LUNG_WINDOW_HU = (-1350.0, 150.0)
STATIC_SUBJECTS = 3


def draw_pairs(contents: ReportContents) -> Drawing | None:
    """A few subjects without the viewer: coronal slices through the middle of the lungs."""
    pairs = [pair for pair in contents.pairs if pair.lung.any()][:STATIC_SUBJECTS]
    if not pairs:
        return None
    limit = difference_limit(contents.pairs)
    figure, all_axes = panels(WIDTH, 0.5 + 2.1 * len(pairs), len(pairs), 3)
    images = [
        _pair_row(all_axes[3 * row : 3 * row + 3], pair, limit) for row, pair in enumerate(pairs)
    ]
    for axes, title in zip(all_axes[:3], (*contents.levels, "difference"), strict=True):
        axes.set_title(title, loc="center")
    figure.colorbar(images[0], ax=all_axes[2::3], shrink=0.8, label="Difference (HU)")
    return Drawing(
        name="pairs",
        title="Image pairs",
        caption=f"Coronal slices of {counted(len(pairs), 'subject')}, lung window "
        f"({number(LUNG_WINDOW_HU[0], 'mL')} to {number(LUNG_WINDOW_HU[1], 'mL')} HU); the "
        "patient's right is at the left. The difference is drawn over the lungs only; "
        "a voxel cut off at −1024 HU in both arms takes the mean of its neighbours there.",
        alt=f"Coronal slices of {counted(len(pairs), 'subject')}: reference arm, target arm and "
        f"their difference on a scale of ±{limit:.0f} HU",
        figure=figure,
        data=pd.DataFrame([_pair_summary(pair) for pair in pairs]),
    )


def _pair_summary(pair: Pair) -> dict[str, object]:
    return {
        "subject": pair.subject,
        "coronal_slice": _middle(pair),
        "reference_mean_hu": float(pair.reference_hu[pair.lung].mean()),
        "target_mean_hu": float(pair.target_hu[pair.lung].mean()),
        "difference_mean_hu": float(pair.difference_hu[pair.lung].mean()),
    }


def _middle(pair: Pair) -> int:
    return int(np.median(np.argwhere(pair.lung)[:, 1]))


def _pair_row(axes: Sequence[Axes], pair: Pair, limit: float) -> AxesImage:
    middle = _middle(pair)
    low, high = LUNG_WINDOW_HU
    aspect = pair.spacing_mm[0] / pair.spacing_mm[2]
    reference, target, difference, lung = (
        volume[::-1, middle]
        for volume in (pair.reference_hu, pair.target_hu, shown_difference(pair), pair.lung)
    )
    # The third panel is dimmed, so that the colours stand out from the anatomy around them.
    grey = ((reference, high), (target, high), (reference, 2 * high - low))
    for panel, (slice_hu, top) in zip(axes, grey, strict=True):
        panel.imshow(slice_hu, vmin=low, vmax=top, aspect=aspect, interpolation="bicubic")
    image = axes[2].imshow(
        np.where(lung, difference, np.nan),
        cmap=DIVERGING,
        vmin=-limit,
        vmax=limit,
        aspect=aspect,
        interpolation="nearest",
    )
    for panel in axes:
        bare(panel)
    axes[0].set_ylabel(pair.subject)
    return image


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_histogram(contents: ReportContents) -> Drawing | None:
    """How the distribution of lung HU moves."""
    if not contents.summaries:
        return None
    data = lung_histograms(contents.summaries)
    n = len(contents.summaries)
    figure, (above, below) = panels(WIDTH, 4.0, 2, 1, sharex=True, height_ratios=(1.7, 1))
    for arm, level, colour in zip(
        ("reference", "target"), contents.levels, (BLUE, VERMILLION), strict=True
    ):
        _band(above, data, arm, colour)
        above.plot(data["hu"], data[f"{arm}_mean"], color=colour, lw=2, label=level)
    _band(below, data, "difference", GREY)
    below.plot(data["hu"], data["difference_mean"], color=INK, lw=2)
    below.axhline(0, color=FAINT, lw=1)
    above.set_ylabel("Lung voxels (%)")
    below.set_ylabel("Difference (points)")
    below.set_xlabel(f"HU in bins of {data['hu'].diff().iloc[1]:.0f} (n = {n} pairs)")
    above.set_ylim(bottom=0)
    above.legend(loc="upper right")
    for axes in (above, below):
        axes.grid()
    moved = 0.5 * np.abs(data["difference_mean"]).sum()
    return Drawing(
        name="histogram",
        title="How the lungs' HU shift",
        caption=f"Distribution of HU in both lungs under both sentences, mean over {n} "
        "pairs with 95 % bands; below, target minus reference. Vessels denser than the last bin "
        "lie beyond the axis.",
        alt="Histograms of lung HU in both arms; on balance "
        f"{moved:.1f} % of the lung voxels change their bin",
        figure=figure,
        data=data,
    )


def _band(axes: Axes, data: pd.DataFrame, arm: str, colour: str) -> None:
    axes.fill_between(
        data["hu"], data[f"{arm}_low"], data[f"{arm}_high"], color=colour, alpha=0.25, lw=0
    )
