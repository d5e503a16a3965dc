"""Figures of the model and the cohort: calibration, training, balance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from dgmvlc_cli.analysis.zones import CONTROL_REGIONS
from dgmvlc_cli.report.contents import ReportContents, records
from dgmvlc_cli.report.drawing import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RULE,
    VERMILLION,
    WIDTH,
    Drawing,
    panels,
)
from dgmvlc_cli.report.figures_effects import region_axis
from dgmvlc_cli.report.words import (
    attribute_label,
    number,
    region_order,
)


def draw_calibration(contents: ReportContents) -> Drawing | None:
    """Generated against real: level and spread."""
    rows = [row for row in contents.fit if row["region"] not in CONTROL_REGIONS]
    data = pd.DataFrame(rows)
    if data.empty:
        return None
    figure, (left, right) = panels(WIDTH, 3.2, 1, 2, width_ratios=(1, 1.15))
    _level_panel(left, data)
    _spread_panel(right, data)
    off = (data["generated_mean_hu"] - data["real_mean_hu"]).abs().max()
    return Drawing(
        name="calibration",
        title="Does the model make lungs like the real ones?",
        caption="Left: mean HU of generated against real scans, each lung region and fold; the "
        "band is ±10 HU. Right: standard deviations, generated divided by real, between subjects "
        "and between the voxels of one subject. Below 1 the model makes lungs too much alike.",
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
    region_axis(axes, regions)
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
