"""The figures of a report: one function each, from the report's contents to a Drawing.

Every function returns None when its numbers are not there, and the report leaves the place out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from dgmvlc_cli.report.contents import Pair, ReportContents, records
from dgmvlc_cli.report.drawing import (
    BLUE,
    DIVERGING,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    RULE,
    SKY,
    VERMILLION,
    Drawing,
    house_style,
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
    CONTROL_REGIONS,
    HEADLINE_REGIONS,
    KINDS,
    PRIMARY_MEASURE,
    attribute_label,
    count,
    number,
    region_label,
    region_order,
)

WIDTH = 7.2
MARKS = {
    "model_implied": (PINK, "o", 5.5),
    "observed": (GREEN, "s", 5.5),
    "debiased": (INK, "D", 6.5),
}
LUNG_WINDOW_HU = (-1350.0, 150.0)
STATIC_SUBJECTS = 3


def draw_all(contents: ReportContents) -> dict[str, Drawing]:
    """Every figure whose numbers are there, by name."""
    with house_style():
        drawings = [draw(contents) for draw in FIGURES]
    return {drawing.name: drawing for drawing in drawings if drawing is not None}


# --- effects -------------------------------------------------------------------------------


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
    truths = _truths(contents)
    figure, (axes,) = panels(WIDTH, 1.3 + 0.46 * len(regions))
    for place, region in enumerate(regions):
        here = data[data["region"] == region]
        _placebo_band(axes, here[here["kind"] == "placebo"]["effect"], place)
        _intervals(axes, here, place)
        if region in truths:
            axes.plot([truths[region]] * 2, [place - 0.36, place + 0.36], color=ORANGE, lw=2.5)
    _region_axis(axes, regions)
    axes.set_xlabel(f"Change of mean HU, {_arrow(contents)}")
    legend: list[Artist] = [
        _kind_handle(kind, data) for kind in MARKS if (data["kind"] == kind).any()
    ]
    if (data["kind"] == "placebo").any():
        legend.append(Patch(color=GREY, alpha=0.35, label="As large as the placebos"))
    if set(regions) & set(truths):
        legend.append(Line2D([], [], color=ORANGE, lw=2.5, label="Truth (phantom)"))
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
    label = f"{KINDS[kind]} (n = {count(data[data['kind'] == kind]['n'].max())})"
    return Line2D([], [], color=colour, marker=marker, ms=size, lw=1.8, label=label)


def _region_axis(axes: Axes, regions: Sequence[str]) -> None:
    axes.set_yticks(range(len(regions)), [region_label(region) for region in regions])
    axes.set_ylim(len(regions) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=FAINT, lw=1, zorder=1)
    axes.grid(axis="x")


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
        _region_axis(axes, regions)
    figure.supxlabel("Change of mean HU", fontsize=9)
    n = int(data["contrast"][data["kind"].str.startswith("placebo")].nunique())
    handles = [
        Line2D([], [], color=VERMILLION, marker="D", ms=6.5, lw=2, label=_arrow(contents)),
        Line2D([], [], color=GREY, marker="o", ms=5, lw=1.5, label=f"Placebo attributes (n = {n})"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return Drawing(
        name="placebos",
        title="The effect among placebos",
        caption="Left, the model's own intervals: for the placebos they should cover 0 and often "
        "do not. Right, after debiasing: they should cover 0 in 95 of 100 cases.",
        alt=_placebo_alt(data, n),
        figure=figure,
        data=data.reset_index(drop=True),
    )


def _placebo_row(axes: Axes, rows: pd.DataFrame, place: int) -> None:
    offsets = np.linspace(0.02, 0.34, len(rows)) if len(rows) > 1 else [0.15]
    for offset, row in zip(offsets, records(rows), strict=True):
        _interval(axes, row, place + offset, GREY, "o", 4.5)


# --- subjects ------------------------------------------------------------------------------


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
        f"({number(LUNG_WINDOW_HU[0], 'ml')} to {number(LUNG_WINDOW_HU[1], 'ml')} HU); the "
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


# --- where and how -------------------------------------------------------------------------


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
    _profile_panel(right, profile, _truths(contents))
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
        data=profile,
    )


def _profile_table(pairs: Sequence[Pair], bins: int) -> pd.DataFrame:
    mean, low, high = mean_band(lung_map(pairs, (0,), bins))
    height = (np.arange(bins) + 0.5) / bins
    return pd.DataFrame(
        {"height": height, "mean": mean, "low": low, "high": high, "n": len(pairs), "unit": "HU"}
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


# --- the model and the cohort --------------------------------------------------------------


def draw_calibration(contents: ReportContents) -> Drawing | None:
    """Generated against real: level and spread."""
    data = pd.DataFrame(list(contents.fit))
    if data.empty:
        return None
    figure, (left, right) = panels(WIDTH, 3.2, 1, 2, width_ratios=(1, 1.15))
    _level_panel(left, data)
    _spread_panel(right, data)
    off = (data["generated_mean_hu"] - data["real_mean_hu"]).abs().max()
    return Drawing(
        name="calibration",
        title="Does the model make lungs like the real ones?",
        caption="Left: mean HU of generated against real scans, each region and fold; the band is "
        "±10 HU. Right: standard deviations, generated divided by real, between subjects and "
        "between the voxels of one subject. Below 1 the model makes lungs too much alike.",
        alt=f"Generated against real mean HU by region; the largest deviation is {off:.1f} HU",
        figure=figure,
        data=data,
    )


def _level_panel(axes: Axes, data: pd.DataFrame) -> None:
    both = data[["real_mean_hu", "generated_mean_hu"]].to_numpy(float)
    ends = np.array([np.nanmin(both) - 8, np.nanmax(both) + 8])
    axes.fill_between(ends, ends - 10, ends + 10, color=GREY, alpha=0.2, lw=0)
    axes.plot(ends, ends, color=FAINT, lw=1)
    for fold, marker in zip(sorted(set(data["fold"])), "os^Dv<>p", strict=False):
        here = data[data["fold"] == fold]
        axes.plot(
            here["real_mean_hu"],
            here["generated_mean_hu"],
            marker,
            color=(BLUE, VERMILLION, GREEN, PINK)[int(fold) % 4],
            ms=6,
            label=f"Fold {fold}",
        )
    axes.set_aspect("equal")
    axes.set_xlabel("Real mean HU")
    axes.set_ylabel("Generated mean HU")
    axes.set_title(f"Level (n = {len(data)} regions and folds)")
    axes.legend(loc="upper left")
    axes.grid()


def _spread_panel(axes: Axes, data: pd.DataFrame) -> None:
    regions = sorted(set(data["region"]), key=region_order)
    for kind, colour, marker, offset in (
        ("between", BLUE, "o", -0.13),
        ("within", ORANGE, "s", 0.13),
    ):
        ratio = data[f"generated_sd_{kind}"] / data[f"real_sd_{kind}"]
        place = data["region"].map(regions.index) + offset
        axes.plot(ratio, place, marker, color=colour, ms=6, label=f"{kind.capitalize()} subjects")
    _region_axis(axes, regions)
    axes.lines[-1].set_visible(False)
    axes.axvline(1, color=FAINT, lw=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("Standard deviation, generated / real")
    axes.set_title("Spread")
    axes.legend(loc="lower left")


def draw_training(contents: ReportContents) -> Drawing | None:
    """The loss of each fold, raw and smoothed, and every validation column."""
    logs = {fold: log for fold, log in contents.training.items() if len(log)}
    if not logs:
        return None
    data = pd.concat([log.assign(fold=fold) for fold, log in logs.items()], ignore_index=True)
    names = [str(name) for name in data.columns]
    extra = [name for name in names if name.startswith("val_") and name != "val_loss"][:2]
    figure, all_axes = panels(WIDTH, 2.9, 1, 1 + len(extra))
    for place, (fold, log) in enumerate(sorted(logs.items())):
        colour = (BLUE, VERMILLION, GREEN, PINK)[place % 4]
        _loss_panel(all_axes[0], fold, log, colour)
        for axes, name in zip(all_axes[1:], extra, strict=True):
            known = log[["step", name]].dropna() if name in log else log.iloc[:0]
            axes.plot(known["step"], known.iloc[:, -1], "o-", color=colour, ms=3, lw=1.5)
    for axes, name in zip(all_axes, ["loss", *extra], strict=True):
        axes.set_ylabel(name.replace("_", " ").capitalize())
        axes.set_xlabel("Step")
        axes.grid()
    all_axes[0].set_yscale("log")
    all_axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    all_axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    all_axes[0].yaxis.set_minor_locator(NullLocator())
    all_axes[0].legend(loc="upper right")
    return Drawing(
        name="training",
        title="Training",
        caption="Training loss of each fold (faint) and its moving average; dots are the loss on "
        "held-out subjects where it was measured.",
        alt="; ".join(
            f"fold {fold}: loss {log['loss'].iloc[0]:.3g} at step {log['step'].iloc[0]}, "
            f"{log['loss'].iloc[-1]:.3g} at step {log['step'].iloc[-1]}"
            for fold, log in sorted(logs.items())
        ),
        figure=figure,
        data=data,
    )


def _loss_panel(axes: Axes, fold: int, log: pd.DataFrame, colour: str) -> None:
    smooth = log["loss"].rolling(max(1, len(log) // 20), min_periods=1, center=True).mean()
    axes.plot(log["step"], log["loss"], color=colour, lw=0.7, alpha=0.3)
    axes.plot(log["step"], smooth, color=colour, lw=2, label=f"Fold {fold}")
    if "val_loss" in log:
        known = log[["step", "val_loss"]].dropna()
        axes.plot(known["step"], known["val_loss"], "o", color=colour, ms=4, mec="white", mew=0.6)


def draw_balance(contents: ReportContents) -> Drawing | None:
    """How unlike the two groups are before and after weighting."""
    data = contents.balance
    if data is None or data.empty:
        return None
    figure, (axes,) = panels(WIDTH, 1.15 + 0.32 * len(data))
    place = np.arange(len(data))
    axes.hlines(place, data["smd_raw"], data["smd_weighted"], color=RULE, lw=2)
    axes.plot(data["smd_raw"], place, "o", color=VERMILLION, ms=6, label="As observed")
    axes.plot(data["smd_weighted"], place, "D", color=BLUE, ms=6, label="After weighting")
    axes.axvspan(-0.1, 0.1, color=GREY, alpha=0.18, lw=0)
    axes.axvline(0, color=FAINT, lw=1)
    axes.set_yticks(place, [attribute_label(str(name)) for name in data["covariate"]])
    axes.set_ylim(len(data) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("Standardised mean difference between the groups")
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=2)
    return Drawing(
        name="balance",
        title="Are the groups alike?",
        caption="Standardised mean difference of each covariate between the two groups, before "
        "and after overlap weighting; the band is ±0.1.",
        alt="; ".join(
            f"{row['covariate']}: {number(row['smd_raw'])} before, "
            f"{number(row['smd_weighted'])} after"
            for row in records(data)
        ),
        figure=figure,
        data=data,
    )


# --- words ---------------------------------------------------------------------------------


def _truths(contents: ReportContents) -> dict[str, float]:
    if contents.truth is None:
        return {}
    rows = contents.truth[contents.truth["measure"] == PRIMARY_MEASURE].dropna(subset=["truth"])
    return dict(zip(rows["region"], rows["truth"].astype(float), strict=True))


def _arrow(contents: ReportContents) -> str:
    return " → ".join(contents.levels)


def _wrap(level: str) -> str:
    return level.replace(" ", "\n", 1)


def _effects_alt(title: str, contents: ReportContents, regions: Iterable[str]) -> str:
    rows = contents.effects_of("debiased", PRIMARY_MEASURE).set_index("region")["effect"]
    numbers = [
        f"{region_label(region)} {number(rows[region], 'HU', sign=True)} HU"
        for region in regions
        if region in rows.index
    ]
    return f"{title}. Debiased: {', '.join(numbers)}. The table below holds every number."


def _placebo_alt(data: pd.DataFrame, n: int) -> str:
    rows = data[data["kind"] == "placebo"]
    missed = int(((rows["ci_low"] > 0) | (rows["ci_high"] < 0)).sum())
    return (
        f"{n} placebo attributes in {data['region'].nunique()} regions: {missed} of {len(rows)} "
        "of the model's own intervals exclude 0"
    )


FIGURES: tuple[Callable[[ReportContents], Drawing | None], ...] = (
    draw_forest,
    draw_pairs,
    draw_slopes,
    draw_placebos,
    draw_map,
    draw_histogram,
    draw_controls,
    draw_calibration,
    draw_training,
    draw_balance,
)
