"""Figures of the group maps: three planes, and profiles along height and away from the pleura."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from dgmvlc_cli.analysis.maps import (
    ALPHA,
    DEPTH,
    HEIGHT,
    PLEURA_MM,
    TEMPLATE,
    THIRDS,
    WIDTH,
)
from dgmvlc_cli.mapping import MODEL, OBSERVED, Maps, cells_table
from dgmvlc_cli.report.contents import ReportContents, records
from dgmvlc_cli.report.drawing import (
    BLUE,
    DIVERGING,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SKY,
    VERMILLION,
    Drawing,
    panels,
)
from dgmvlc_cli.report.drawing import WIDTH as PAGE
from dgmvlc_cli.report.summaries import mean_band, nice_limit
from dgmvlc_cli.report.words import number, region_label

# Slices through the template: the middle of the depth, of the right lung, of the upper third.
PLANES: tuple[tuple[str, Callable[[np.ndarray], np.ndarray], tuple[str, str, str, str]], ...] = (
    ("Coronal, middle", lambda cells: cells[:, DEPTH // 2], ("right", "left", "base", "apex")),
    ("Sagittal, right lung", lambda cells: cells[:, :, WIDTH // 2], ("front", "back", "", "")),
    (
        "Axial, upper third",
        lambda cells: cells[5 * HEIGHT // 6, ::-1],
        ("right", "left", "back", "front"),
    ),
)


def draw_map(contents: ReportContents) -> Drawing | None:
    """The model's map, the real scans' and the true one in three planes."""
    maps = contents.maps
    if maps is None or MODEL not in maps.group:
        return None
    shown = _rows(maps)
    limit = nice_limit(max(_reach(effect) for _, effect, _ in shown))
    figure, all_axes = panels(
        PAGE, 0.9 + 1.95 * len(shown), len(shown), 3, width_ratios=(TEMPLATE[2], DEPTH, TEMPLATE[2])
    )
    for row, (label, effect, marked) in enumerate(shown):
        for axes, (title, cut, ends) in zip(all_axes[3 * row : 3 * row + 3], PLANES, strict=True):
            image = _plane(axes, cut(effect), cut(marked), limit, ends)
            if row == 0:
                axes.set_title(title)
        all_axes[3 * row].set_ylabel(label)
    colours = figure.colorbar(image, ax=all_axes, orientation="horizontal", shrink=0.5, aspect=40)
    colours.set_label(f"Change of HU, {' → '.join(contents.levels)}")
    return Drawing(
        name="map",
        title="Where it moves",
        caption=_map_caption(maps),
        alt=_map_alt(maps),
        figure=figure,
        data=cells_table(maps),
    )


def _rows(maps: Maps) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Label, effect and outlined cells of each row."""
    model = maps.group[MODEL]
    beyond = np.abs(model.effect) > maps.largest_placebo
    rows = [(f"Model-implied\n(n = {model.n} pairs)", model.effect, beyond)]
    if seen := maps.group.get(OBSERVED):
        rows.append((f"Real scans\n(n = {seen.n})", seen.effect, seen.p_max < ALPHA))
    if maps.truth is not None:
        known = np.where(model.mask, maps.truth, np.nan)
        rows.append((f"Truth\n(n = {maps.truth_n})", known, np.zeros(TEMPLATE, bool)))
    return rows


def _reach(effect: np.ndarray) -> float:
    return float(np.nanpercentile(np.abs(effect), 98))


def _plane(
    axes: Axes,
    effect: np.ndarray,
    marked: np.ndarray,
    limit: float,
    ends: tuple[str, str, str, str],
) -> AxesImage:
    rows, columns = effect.shape
    image = axes.imshow(
        effect,
        origin="lower",
        extent=(0, columns, 0, rows),
        cmap=DIVERGING,
        norm=Normalize(-limit, limit),
        interpolation="nearest",
        aspect="auto",
    )
    _outline(axes, np.nan_to_num(marked, nan=0).astype(bool))
    left, right, low, high = ends
    axes.set_xticks([0.1 * columns, 0.9 * columns], [left, right])
    axes.set_yticks([0.06 * rows, 0.94 * rows], [low, high], rotation=90, va="center")
    axes.tick_params(length=0, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _outline(axes: Axes, marked: np.ndarray) -> None:
    """A line around the marked cells, along the cells' own edges."""
    padded = np.pad(marked, 1)
    across = np.argwhere(padded[1:, 1:] != padded[:-1, 1:])[:, ::-1]
    along = np.argwhere(padded[1:, 1:] != padded[1:, :-1])[:, ::-1]
    edges = [((x, y), (x + 1, y)) for x, y in across] + [((x, y), (x, y + 1)) for x, y in along]
    axes.add_collection(LineCollection(edges, colors=INK, linewidths=1.2, capstyle="round"))


def _map_caption(maps: Maps) -> str:
    said = (
        "Change of HU in lung-relative coordinates: fractions of the lungs' height and depth, and "
        "across each lung. The patient's right is at the left. "
    )
    if maps.placebos:
        said += (
            "Outlined in the model's map: cells that move more than any cell of any placebo "
            f"({number(maps.largest_placebo, 'HU')} HU). "
        )
    if OBSERVED in maps.group:
        said += (
            "Outlined in the real scans' map: p below 0.05, family-wise over all cells (maximum t, "
            "adjusted for the covariates). "
        )
    return said + "The model's own p-values lie in maps/ and say nothing about its accidents."


def _map_alt(maps: Maps) -> str:
    return "Mean change by third of the height: " + "; ".join(
        f"{label.splitlines()[0].lower()} "
        + ", ".join(
            f"{third} {number(float(np.nanmean(effect[8 * i : 8 * i + 8])), 'HU')} HU"
            for i, third in enumerate(THIRDS)
        )
        for label, effect, _ in _rows(maps)
    )


def draw_heights(contents: ReportContents) -> Drawing | None:
    """Along the height with the placebos beside it, and away from the pleura."""
    maps = contents.maps
    if maps is None or MODEL not in maps.heights:
        return None
    profile, pleura = _height_table(maps), _pleura_table(contents)
    figure, (left, right) = panels(PAGE, 3.4, 1, 2, width_ratios=(1, 1.1))
    _height_panel(left, profile, contents.truth_label)
    if not pleura.empty:
        _pleura_panel(right, pleura)
    n = len(maps.heights[MODEL])
    return Drawing(
        name="heights",
        title="Along the height, and away from the pleura",
        caption=f"Left: mean difference at each height of the lungs with its 95 % band over "
        f"{n} pairs. Right: the same by distance to the pleura, within each third. The bands are "
        "the model's own and as narrow as its own intervals; the grey lines show how much the same "
        "model makes of attributes without meaning.",
        alt="Mean difference by relative height: "
        + ", ".join(
            f"{row['place']:.2f}: {number(row['mean'], 'HU')} HU"
            for row in records(profile[profile["line"] == MODEL].iloc[::4])
        ),
        figure=figure,
        data=pd.concat([profile, pleura], ignore_index=True),
    )


def _height_table(maps: Maps) -> pd.DataFrame:
    """line, place (0 at the base), mean, low, high, n, unit, view."""
    place = (np.arange(HEIGHT) + 0.5) / HEIGHT
    parts = []
    for name, rows in maps.heights.items():
        mean, low, high = mean_band(rows)
        parts.append(_line(name, place, mean, low, high, len(rows), "height"))
    if maps.truth is not None:
        inside = np.where(maps.group[MODEL].mask, maps.truth, np.nan).reshape(HEIGHT, -1)
        known = np.isfinite(inside).any(axis=1)
        mean = np.full(HEIGHT, np.nan)
        mean[known] = np.nanmean(inside[known], axis=1)
        empty = np.full(HEIGHT, np.nan)
        parts.append(_line("truth", place, mean, empty, empty, maps.truth_n, "height"))
    return pd.concat(parts, ignore_index=True)


def _line(
    name: str,
    place: np.ndarray,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    n: int,
    view: str,
) -> pd.DataFrame:
    columns = {"line": name, "place": place, "mean": mean, "low": low, "high": high}
    return pd.DataFrame({**columns, "n": n, "unit": "HU", "view": view})


def _pleura_table(contents: ReportContents) -> pd.DataFrame:
    """As the table of heights; place is the class of distance, 0 nearest to the pleura."""
    if not contents.summaries:
        return pd.DataFrame()
    values = np.stack([one.pleura_hu for one in contents.summaries])
    place = np.arange(values.shape[2], dtype=float)
    bands = [mean_band(values[:, row]) for row in range(len(THIRDS))]
    return pd.concat(
        [
            _line(third, place, *band, len(values), "pleura")
            for third, band in zip(THIRDS, bands, strict=True)
        ],
        ignore_index=True,
    )


def _height_panel(axes: Axes, profile: pd.DataFrame, truth_label: str) -> None:
    for name, rows in profile.groupby("line", sort=False):
        if name not in (MODEL, "truth"):
            axes.plot(rows["mean"], rows["place"], color=GREY, lw=1)
    if set(profile["line"]) - {MODEL, "truth"}:
        axes.plot([], [], color=GREY, lw=1, label="Placebos")
    own = profile[profile["line"] == MODEL]
    axes.fill_betweenx(own["place"], own["low"], own["high"], color=SKY, alpha=0.4, lw=0)
    axes.plot(own["mean"], own["place"], color=BLUE, lw=2, label="Pairs")
    true = profile[profile["line"] == "truth"]
    if len(true):
        axes.plot(true["mean"], true["place"], color=ORANGE, lw=2, label=truth_label)
    axes.axvline(0, color=FAINT, lw=1)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1 / 3, 2 / 3, 1], ["base", "⅓", "⅔", "apex"])
    axes.set_xlabel(f"Difference (HU, n = {int(own['n'].iloc[0])} pairs)")
    axes.set_title("By height")
    axes.legend(loc="best")
    axes.grid()


def _pleura_panel(axes: Axes, pleura: pd.DataFrame) -> None:
    colours = dict(zip(THIRDS, (GREEN, VERMILLION, BLUE), strict=True))
    for third in reversed(THIRDS):
        rows = pleura[pleura["line"] == third]
        axes.fill_between(
            rows["place"], rows["low"], rows["high"], color=colours[third], alpha=0.2, lw=0
        )
        axes.plot(rows["place"], rows["mean"], "o-", color=colours[third], ms=4, lw=1.8,
                  label=region_label(third))  # fmt: skip
    ends = [
        f"{near:.0f} to {far:.0f}" if np.isfinite(far) else f"over {near:.0f}"
        for near, far in pairwise(PLEURA_MM)
    ]
    axes.set_xticks(range(len(ends)), ends)
    axes.axhline(0, color=FAINT, lw=1)
    axes.set_xlabel("Distance to the pleura (mm)")
    axes.set_ylabel("Difference (HU)")
    axes.set_title("By depth below the pleura")
    axes.legend(loc="best")
    axes.grid()
