"""Figures of effects: the four numbers, the placebos, and every subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS, LOBE_REGIONS
from dgmvlc_cli.counting import counted
from dgmvlc_cli.report.contents import ReportContents, records
from dgmvlc_cli.report.drawing import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    VERMILLION,
    WIDTH,
    Drawing,
    panels,
)
from dgmvlc_cli.report.words import (
    HEADLINE_REGIONS,
    KINDS,
    count,
    measure_label,
    number,
    region_label,
    region_order,
    unit_label,
)

MARKS = {
    "model_implied": (PINK, "o", 5.5),
    "observed": (GREEN, "s", 5.5),
    "debiased": (INK, "D", 6.5),
}
FOREST_MEASURES = (
    "mean_hu",
    "perc15_hu",
    "laa950_percent",
    "haa_percent",
    "sd_hu",
    "volume_ml",
)
PANELS_ACROSS = 3


def draw_forest(contents: ReportContents) -> Drawing | None:
    """The four numbers for the mean HU, region by region."""
    return _draw_regions(
        contents,
        name="forest",
        title="Mean HU: the four numbers side by side",
        chosen=lambda region: region not in CONTROL_REGIONS,
        caption="Effect on mean HU by region, with 95 % intervals. The grey band is as wide, "
        "to both sides of 0, as the largest effect that the same models give to attributes without "
        "meaning (ticks: each placebo). Only the debiased number is meant to be believed.",
    )


def draw_measures(contents: ReportContents) -> Drawing | None:
    """The four numbers for the main measures of density and size, a panel for each."""
    data = pd.concat(contents.effects_of(kind) for kind in (*MARKS, "placebo"))
    data = data[data["measure"].isin(FOREST_MEASURES) & data["region"].isin(HEADLINE_REGIONS)]
    data = data[data.groupby("measure")["effect"].transform("count") > 0]
    measures = [name for name in FOREST_MEASURES if name in set(data["measure"])]
    regions = sorted(set(data["region"]), key=region_order)
    if len(measures) < 2:
        return None
    rows = -(-len(measures) // PANELS_ACROSS)
    height = 0.9 + rows * (0.7 + 0.34 * len(regions))
    figure, all_axes = panels(WIDTH, height, rows, PANELS_ACROSS, sharey=True)
    for axes in all_axes[len(measures) :]:
        axes.set_visible(False)
    for axes, measure in zip(all_axes, measures, strict=False):
        own = data[data["measure"] == measure]
        for place, region in enumerate(regions):
            here = own[own["region"] == region]
            _placebo_band(axes, here[here["kind"] == "placebo"]["effect"], place)
            _intervals(axes, here, place)
        region_axis(axes, regions)
        label, unit = measure_label(measure), unit_label(str(own["unit"].iloc[0]))
        axes.set_title(f"{label} ({unit})" if unit and unit not in label else label)
    legend: list[Artist] = [
        _kind_handle(kind, data) for kind in MARKS if (data["kind"] == kind).any()
    ]
    figure.legend(handles=_by_rows(legend, 3), loc="outside upper left", ncols=3)
    return Drawing(
        name="measures",
        title="The main measures side by side",
        caption="As the figure above, each measure on its own scale. What the shared mask holds "
        "fixed (the volume) cannot move between the arms of a pair. At coarse grids the threshold "
        "measures (LAA, HAA) do not compare with clinical values.",
        alt="; ".join(
            f"{measure_label(row['measure'])}, {region_label(row['region'])}: debiased "
            f"{number(row['effect'], row['unit'], sign=True)} {unit_label(row['unit'])}".rstrip()
            for row in records(data[data["kind"] == "debiased"])
        ),
        figure=figure,
        data=data.reset_index(drop=True),
    )


def draw_controls(contents: ReportContents) -> Drawing | None:
    """The same for regions in which nothing should move."""
    return _draw_regions(
        contents,
        name="controls",
        title="Negative controls: where nothing should move",
        chosen=lambda region: region in CONTROL_REGIONS,
        caption="Mean HU outside the lung tissue, where no effect on the lungs can be. "
        "What moves here is the generator's doing. Mind the scale of the axis.",
    )


def _draw_regions(
    contents: ReportContents,
    *,
    name: str,
    title: str,
    chosen: Callable[[str], bool],
    caption: str,
) -> Drawing | None:
    rows = contents.effects[contents.effects["measure"] == PRIMARY_MEASURE]
    regions = sorted({r for r in rows["region"] if chosen(r)}, key=region_order)
    shown = [contents.effects_of(kind, PRIMARY_MEASURE) for kind in (*MARKS, "placebo")]
    data = pd.concat(shown)
    data = data[data["region"].isin(regions)]
    if data["effect"].notna().sum() == 0:
        return None
    truths = contents.truths
    figure, (axes,) = panels(WIDTH, 1.3 + 0.46 * len(regions))
    for place, region in enumerate(regions):
        here = data[data["region"] == region]
        _placebo_band(axes, here[here["kind"] == "placebo"]["effect"], place)
        _intervals(axes, here, place)
        if region in truths:
            axes.plot([truths[region]] * 2, [place - 0.36, place + 0.36], color=ORANGE, lw=2.5)
    region_axis(axes, regions)
    axes.set_xlabel(f"Change of mean HU, {' → '.join(contents.levels)}")
    legend: list[Artist] = [
        _kind_handle(kind, data) for kind in MARKS if (data["kind"] == kind).any()
    ]
    if (data["kind"] == "placebo").any():
        legend.append(Patch(color=GREY, alpha=0.35, label="As large as the placebos"))
    if set(regions) & set(truths):
        legend.append(Line2D([], [], color=ORANGE, lw=2.5, label=contents.truth_label))
    figure.legend(handles=_by_rows(legend, 3), loc="outside upper left", ncols=3)
    return Drawing(
        name=name,
        title=title,
        caption=caption,
        alt=_effects_alt(title, contents, regions),
        figure=figure,
        data=data.reset_index(drop=True),
    )


def _by_rows(handles: list[Artist], columns: int) -> list[Artist]:
    """Reorder handles so that a legend, which fills columns first, reads along its rows."""
    return [handle for column in range(columns) for handle in handles[column::columns]]


def _intervals(axes: Axes, here: pd.DataFrame, place: float) -> None:
    for offset, (kind, (colour, marker, size)) in zip((-0.23, 0, 0.23), MARKS.items(), strict=True):
        for row in records(here[here["kind"] == kind]):
            _interval(axes, row, place + offset, colour, marker, size)


def _interval(
    axes: Axes, row: Mapping[str, Any], place: float, colour: str, marker: str, size: float
) -> None:
    axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=colour, lw=1.8, zorder=3)
    axes.plot([row["effect"]], [place], marker, color=colour, ms=size, zorder=4)


def _placebo_band(axes: Axes, effects: pd.Series, place: float) -> None:
    effects = effects.dropna()
    if effects.empty:
        return
    # Whichever way a placebo points is chance, so the band reaches as far to the other side.
    reach = effects.abs().max()
    axes.fill_betweenx([place - 0.4, place + 0.4], -reach, reach, color=GREY, alpha=0.28, lw=0)
    for effect in effects:
        axes.plot([effect] * 2, [place - 0.4, place + 0.4], color=GREY, lw=1.2)


def _kind_handle(kind: str, data: pd.DataFrame) -> Line2D:
    colour, marker, size = MARKS[kind]
    label = f"{KINDS[kind]} ({_subjects(data[data['kind'] == kind])})"
    return Line2D([], [], color=colour, marker=marker, ms=size, lw=1.8, label=label)


def _subjects(rows: pd.DataFrame) -> str:
    """How many subjects estimates are of; of the lobes apart, where not everybody has them."""
    most, lobes = rows["n"].max(), rows.loc[rows["region"].isin(LOBE_REGIONS), "n"].max()
    apart = f", lobes {count(lobes)}" if lobes < most else ""
    return f"n = {count(most)}{apart}"


def region_axis(axes: Axes, regions: Sequence[str]) -> None:
    axes.set_yticks(range(len(regions)), [region_label(region) for region in regions])
    axes.set_ylim(len(regions) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=FAINT, lw=1, zorder=1)
    axes.grid(axis="x")


def _effects_alt(title: str, contents: ReportContents, regions: Iterable[str]) -> str:
    rows = contents.effects_of("debiased", PRIMARY_MEASURE).set_index("region")["effect"]
    numbers = [
        f"{region_label(region)} {number(rows[region], 'HU', sign=True)} HU"
        for region in regions
        if region in rows.index
    ]
    return f"{title}. Debiased: {', '.join(numbers)}. The table below holds every number."


def draw_placebos(contents: ReportContents) -> Drawing | None:
    """The effect among what the same models make of nothing, raw and debiased."""
    kinds = {
        "Model-implied: what the model says": ("model_implied", "placebo"),
        "Debiased: what the scans bear out": ("debiased", "placebo_debiased"),
    }
    data = pd.concat(
        contents.effects_of(kind, PRIMARY_MEASURE) for pair in kinds.values() for kind in pair
    )
    data = data[data["region"].isin(HEADLINE_REGIONS)]
    regions = sorted(set(data["region"]), key=region_order)
    if not data["kind"].str.startswith("placebo").any():
        return None
    figure, both = panels(WIDTH, 1.25 + 0.52 * len(regions), 1, 2, sharex=True, sharey=True)
    for axes, (title, (own, placebo)) in zip(both, kinds.items(), strict=True):
        axes.set_title(title)
        for place, region in enumerate(regions):
            here = data[data["region"] == region]
            _placebo_row(axes, here[here["kind"] == placebo], place)
            for row in records(here[here["kind"] == own]):
                _interval(axes, row, place - 0.25, VERMILLION, "D", 6.5)
        region_axis(axes, regions)
    figure.supxlabel("Change of mean HU", fontsize=9)
    n = int(data["contrast"][data["kind"].str.startswith("placebo")].nunique())
    known = data.loc[data["kind"] == "placebo_debiased", "ci_low"].notna().sum()
    handles = [
        Line2D(
            [], [], color=VERMILLION, marker="D", ms=6.5, lw=2, label=" → ".join(contents.levels)
        ),
        Line2D([], [], color=GREY, marker="o", ms=5, lw=1.5, label=f"Placebo attributes (n = {n})"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return Drawing(
        name="placebos",
        title="The effect among placebos",
        caption="Left, the model's own intervals: for the placebos they should cover 0 and often "
        "do not. Right, after debiasing: they should cover 0 in 95 of 100 cases. "
        f"{counted(n, 'placebo')}, "
        f"{counted(int(known), 'interval')} after debiasing; those of one placebo are "
        "correlated.",
        alt=_placebo_alt(data, n),
        figure=figure,
        data=data.reset_index(drop=True),
    )


def _placebo_row(axes: Axes, rows: pd.DataFrame, place: int) -> None:
    offsets = np.linspace(0.02, 0.34, len(rows)) if len(rows) > 1 else [0.15]
    for offset, row in zip(offsets, records(rows), strict=True):
        _interval(axes, row, place + offset, GREY, "o", 4.5)


def _placebo_alt(data: pd.DataFrame, n: int) -> str:
    rows = data[data["kind"] == "placebo"]
    missed = int(((rows["ci_low"] > 0) | (rows["ci_high"] < 0)).sum())
    return (
        f"{n} placebo attributes in {data['region'].nunique()} regions: {missed} of {len(rows)} "
        "of the model's own intervals exclude 0"
    )


def draw_slopes(contents: ReportContents) -> Drawing | None:
    """Each subject's mean HU in both arms."""
    table = contents.measures[contents.measures["measure"] == PRIMARY_MEASURE]
    table = table[table["arm"].isin(contents.arms) & table["region"].isin(HEADLINE_REGIONS)]
    if table["value"].notna().sum() == 0:
        return None
    # Seeds are repeated looks at one subject, so they are averaged first.
    wide = table.pivot_table(
        index=["region", "subject"], columns="arm", values="value", aggfunc="mean", observed=True
    ).reindex(columns=list(contents.arms))
    wide = wide.dropna()
    regions = sorted(set(wide.index.get_level_values("region")), key=region_order)
    if not regions:
        return None
    figure, all_axes = panels(WIDTH, 3.0, 1, len(regions), sharey=True)
    for axes, region in zip(all_axes, regions, strict=True):
        _slope_panel(axes, wide.loc[region].to_numpy(), region)
        axes.set_xticks([0, 1], [_wrap(level) for level in contents.levels])
    n = wide.loc[regions[0]].shape[0]
    all_axes[0].set_ylabel(f"Mean HU of each subject (n = {n})")
    return Drawing(
        name="slopes",
        title="Every subject, both arms",
        caption=f"Mean HU of each subject under both sentences, same mask and same noise "
        f"(n = {n}). Blue lines fall, vermillion lines rise; the thick line is the mean. "
        "Parallel lines show a generator that gives everyone the same change.",
        alt="; ".join(
            f"{region_label(r)}: {(wide.loc[r].iloc[:, 1] < wide.loc[r].iloc[:, 0]).sum()} of "
            f"{len(wide.loc[r])} subjects fall"
            for r in regions
        ),
        figure=figure,
        data=wide.reset_index(),
    )


def _slope_panel(axes: Axes, arms: np.ndarray, region: str) -> None:
    for before, after in arms:
        colour = BLUE if after < before else VERMILLION
        axes.plot([0, 1], [before, after], color=colour, lw=0.8, alpha=0.45)
    axes.plot([0, 1], arms.mean(axis=0), color=INK, lw=2.5, marker="o", ms=5)
    axes.set_title(f"{region_label(region)}\n{number(np.diff(arms).mean(), 'HU', sign=True)} HU")
    axes.set_xlim(-0.25, 1.25)
    axes.grid(axis="y")


def _wrap(level: str) -> str:
    return level.replace(" ", "\n", 1)
