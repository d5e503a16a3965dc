"""Figures from the image pairs themselves: slices, maps and histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from dgmvlc_cli.report.contents import Pair, ReportContents, records
from dgmvlc_cli.report.drawing import (
    BLUE,
    DIVERGING,
    FAINT,
    GREY,
    INK,
    ORANGE,
    SKY,
    VERMILLION,
    WIDTH,
    Drawing,
    panels,
)
from dgmvlc_cli.report.summaries import (
    difference_limit,
    group_mean,
    lung_bins,
    lung_histograms,
    lung_map,
    mean_band,
    nice_limit,
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
        caption=f"Coronal slices of {len(pairs)} subjects, lung window "
        f"({number(LUNG_WINDOW_HU[0], 'mL')} to {number(LUNG_WINDOW_HU[1], 'mL')} HU); the "
        "patient's right is at the left. The difference is drawn over the lungs only.",
        alt=f"Coronal slices of {len(pairs)} subjects: reference arm, target arm and their "
        f"difference on a scale of ±{limit:.0f} HU",
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
        for volume in (pair.reference_hu, pair.target_hu, pair.difference_hu, pair.lung)
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
        _bare(panel)
    axes[0].set_ylabel(pair.subject)
    return image


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_map(contents: ReportContents) -> Drawing | None:
    """Mean difference in lung-relative coordinates, and its profile along the height."""
    pairs = [pair for pair in contents.pairs if pair.lung.any()]
    if not pairs:
        return None
    bins = lung_bins(pairs)
    coronal = group_mean(lung_map(pairs, (0, 2), bins))
    sagittal = group_mean(lung_map(pairs, (0, 1), bins))
    profile = _profile_table(pairs, bins)
    limit = nice_limit(float(np.nanmax(np.abs([coronal, sagittal]))))
    figure, (left, middle, right) = panels(WIDTH, 3.2, 1, 3, width_ratios=(1, 1, 1.2))
    image = _map_panel(left, coronal, limit, "From the front", ("right", "left"))
    _map_panel(middle, sagittal, limit, "From the side", ("anterior", "posterior"))
    left.set_yticks([0, 0.5, 1], ["base", "", "apex"])
    left.set_ylabel("Relative lung height")
    colours = figure.colorbar(image, ax=[left, middle], orientation="horizontal", shrink=0.75)
    colours.set_label("Mean difference (HU)")
    _profile_panel(right, profile, contents.truths)
    right.set_title(f"By height (n = {len(pairs)})")
    return Drawing(
        name="map",
        title="Where it moves",
        caption=f"Target minus reference arm in lung-relative coordinates, mean over {len(pairs)} "
        "pairs: seen from the front (patient's right at the left), seen from the side, and along "
        "the height with a 95 % band. The band is the model's own and as narrow as its own "
        "intervals; it does not say how far the model can be trusted.",
        alt="Mean difference by relative height: "
        + ", ".join(
            f"{row['height']:.2f}: {number(row['mean'], 'HU')} HU"
            for row in records(profile.iloc[:: max(1, bins // 6)])
        ),
        figure=figure,
        data=pd.concat(
            [
                profile.assign(view="height"),
                _map_table(coronal, "front"),
                _map_table(sagittal, "side"),
            ],
            ignore_index=True,
        ),
    )


def _profile_table(pairs: Sequence[Pair], bins: int) -> pd.DataFrame:
    mean, low, high = mean_band(lung_map(pairs, (0,), bins))
    height = (np.arange(bins) + 0.5) / bins
    return pd.DataFrame(
        {"height": height, "mean": mean, "low": low, "high": high, "n": len(pairs), "unit": "HU"}
    )


def _map_table(values: np.ndarray, view: str) -> pd.DataFrame:
    """One row for each cell that has lung: height and across run from 0 to 1, mean in HU."""
    rows, columns = np.nonzero(np.isfinite(values))
    bins = len(values)
    return pd.DataFrame(
        {
            "height": (rows + 0.5) / bins,
            "mean": values[rows, columns],
            "unit": "HU",
            "view": view,
            "across": (columns + 0.5) / bins,
        }
    )


def _map_panel(
    axes: Axes, values: np.ndarray, limit: float, title: str, ends: tuple[str, str]
) -> AxesImage:
    image = axes.imshow(
        values,
        origin="lower",
        extent=(0, 1, 0, 1),
        cmap=DIVERGING,
        norm=Normalize(-limit, limit),
        interpolation="nearest",
        aspect="auto",
    )
    axes.set_title(title)
    axes.set_xticks([0.08, 0.92], ends)
    axes.set_yticks([])
    axes.tick_params(length=0, pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _profile_panel(axes: Axes, profile: pd.DataFrame, truths: dict[str, float]) -> None:
    axes.fill_betweenx(profile["height"], profile["low"], profile["high"], color=SKY, alpha=0.4)
    axes.plot(profile["mean"], profile["height"], color=BLUE, lw=2, label="Pairs")
    thirds = [("lower", 0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("upper", 2 / 3, 1)]
    known = [(truths[name], low, high) for name, low, high in thirds if name in truths]
    for place, (value, low, high) in enumerate(known):
        label = None if place else "Truth, by thirds"
        axes.plot([value] * 2, [low, high], color=ORANGE, lw=2.5, label=label)
    if known:
        axes.legend(loc="best")
    axes.axvline(0, color=FAINT, lw=1)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1 / 3, 2 / 3, 1], ["base", "⅓", "⅔", "apex"])
    axes.set_xlabel("Difference (HU)")
    axes.grid()


def draw_histogram(contents: ReportContents) -> Drawing | None:
    """How the distribution of lung HU moves."""
    pairs = [pair for pair in contents.pairs if pair.lung.any()]
    if not pairs:
        return None
    data = lung_histograms(pairs)
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
    below.set_xlabel(f"HU in bins of {data['hu'].diff().iloc[1]:.0f} (n = {len(pairs)} pairs)")
    above.set_ylim(bottom=0)
    above.legend(loc="upper right")
    for axes in (above, below):
        axes.grid()
    moved = 0.5 * np.abs(data["difference_mean"]).sum()
    return Drawing(
        name="histogram",
        title="How the lungs' HU shift",
        caption=f"Distribution of HU in both lungs under both sentences, mean over {len(pairs)} "
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
