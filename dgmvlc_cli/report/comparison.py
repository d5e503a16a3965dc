"""Several analyses on one page: contrasts or models, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.several import DOSE_COLUMNS
from dgmvlc_cli.report import words
from dgmvlc_cli.report.contents import records
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
    house_style,
    panels,
)
from dgmvlc_cli.report.page import json_text, render_page
from dgmvlc_cli.workspace import write_table, write_text

COLOURS = (BLUE, VERMILLION, GREEN, PINK, ORANGE, INK)
MARKERS = "osD^vP"
MOST = len(COLOURS)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One analysis: its label, contrast and model, its effects and verdicts, and its report."""

    label: str
    model: str
    contrast: str
    effects: pd.DataFrame
    verdicts: pd.DataFrame
    report: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison shows.

    table: from `comparison_table`.  dose: from `arms_table`, with slopes where the levels are
    numbers; empty where the analyses share no attribute and reference.  correlations: analysis,
    other, r, cells of the model-implied maps.
    """

    analyses: Sequence[Compared]
    table: pd.DataFrame
    dose: pd.DataFrame
    correlations: pd.DataFrame


def comparison_table(analyses: Sequence[Compared]) -> pd.DataFrame:
    """One row for each analysis, measure and region: the numbers, the largest placebo, the verdict.

    Columns: analysis, model, contrast, measure, region, unit, n, model_implied, observed, debiased,
    ci_low, ci_high, p, p_adjusted (all of the debiased effect), largest_placebo, verdict.
    """
    parts = []
    for one in analyses:
        keys = ["measure", "region"]
        by_kind = {kind: rows.set_index(keys) for kind, rows in one.effects.groupby("kind")}
        base = by_kind["debiased"]
        table = base[["unit", "n"]].assign(
            analysis=one.label, model=one.model, contrast=one.contrast
        )
        for kind in ("model_implied", "observed"):
            table[kind] = by_kind[kind]["effect"] if kind in by_kind else np.nan
        table["debiased"] = base["effect"]
        table = table.join(base[["ci_low", "ci_high", "p", "p_adjusted"]])
        placebos = one.effects[one.effects["kind"] == "placebo"]
        table["largest_placebo"] = placebos.groupby(keys)["effect"].agg(lambda x: x.abs().max())
        table["verdict"] = one.verdicts.set_index(keys)["verdict"]
        parts.append(table.reset_index())
    columns = ["analysis", "model", "contrast", "measure", "region", "unit", "n", "model_implied"]
    columns += ["observed", "debiased", "ci_low", "ci_high", "p", "p_adjusted"]
    return pd.concat(parts, ignore_index=True)[[*columns, "largest_placebo", "verdict"]]


def arms_table(
    attribute: str, reference: str | float, analyses: Mapping[Any, Compared]
) -> pd.DataFrame:
    """Change of the primary measure from the reference at each level: `several.DOSE_COLUMNS`.

    analyses: target level -> its analysis, whose model-implied effect is the change, so that each
    level is of the subjects that inform its contrast.  The reference is 0 in all of them.
    """
    parts = []
    for value, one in analyses.items():
        rows = one.effects[
            (one.effects["kind"] == "model_implied")
            & (one.effects["measure"] == PRIMARY_MEASURE)
            & one.effects["region"].isin(words.HEADLINE_REGIONS)
        ]
        parts.append(rows.assign(value=value))
    largest = max(parts, key=lambda rows: rows["n"].max())
    start = largest.assign(value=reference, p=np.nan, method="reference")
    start[["effect", "ci_low", "ci_high"]] = 0.0
    table = pd.concat([start, *parts])
    table = table.assign(attribute=attribute, kind="arm")[list(DOSE_COLUMNS)]
    order = table["region"].map(words.region_order).argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True)


def write_comparison(folder: Path, comparison: Comparison) -> Path:
    """Write comparison.html, .json and .tsv, dose.tsv, map_correlations.tsv and figures/.

    What an earlier comparison of the same analyses left and this one lacks is taken away.
    """
    drawings = _draw(comparison)
    for figure in (folder / "figures").glob("*"):
        figure.unlink()
    files = {name: drawing.write(folder / "figures") for name, drawing in drawings.items()}
    tables = {
        "comparison": comparison.table,
        "dose": comparison.dose,
        "map_correlations": comparison.correlations,
    }
    for name, table in tables.items():
        path = folder / f"{name}.tsv"
        if len(table):
            write_table(path, table)
        else:
            path.unlink(missing_ok=True)
    analyses = [
        {"label": one.label, "model": one.model, "contrast": one.contrast, "report": one.report}
        for one in comparison.analyses
    ]
    document = {"schema_version": 1, "analyses": analyses, **tables, "figures": files}
    write_text(folder / "comparison.json", json_text(document))
    page = folder / "comparison.html"
    write_text(page, _render(comparison, drawings))
    return page


def _render(comparison: Comparison, drawings: Mapping[str, Drawing]) -> str:
    table = comparison.table
    primary = table[
        (table["measure"] == PRIMARY_MEASURE) & table["region"].isin(words.HEADLINE_REGIONS)
    ]
    rows = sorted(records(primary), key=lambda row: words.region_order(row["region"]))
    return render_page(
        "comparison.html.j2",
        comparison=comparison,
        rows=rows,
        dose_rows=records(comparison.dose),
        correlation_rows=records(comparison.correlations),
        figures={name: Markup(drawing.inline_svg()) for name, drawing in drawings.items()},
        drawings=drawings,
    )


def _draw(comparison: Comparison) -> dict[str, Drawing]:
    with house_style():
        drawings = [draw_forest(comparison), draw_dose(comparison)]
    return {drawing.name: drawing for drawing in drawings if drawing is not None}


def draw_forest(comparison: Comparison) -> Drawing | None:
    """Debiased and model-implied change of mean HU by region, an analysis in each colour."""
    table = comparison.table
    data = table[
        (table["measure"] == PRIMARY_MEASURE) & table["region"].isin(words.HEADLINE_REGIONS)
    ]
    regions = sorted(set(data["region"]), key=words.region_order)
    if data["debiased"].notna().sum() == 0:
        return None
    labels = [one.label for one in comparison.analyses]
    step = 0.7 / len(labels)
    figure, (axes,) = panels(WIDTH, 1.2 + len(regions) * (0.35 + 0.24 * len(labels)))
    for k, label in enumerate(labels):
        for row in records(data[data["analysis"] == label]):
            place = regions.index(row["region"]) + (k - (len(labels) - 1) / 2) * step
            _row(axes, row, place, k)
    axes.set_yticks(range(len(regions)), [words.region_label(region) for region in regions])
    axes.set_ylim(len(regions) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=FAINT, lw=1, zorder=1)
    axes.set_xlabel("Change of mean HU (debiased with 95 % interval; ring: model-implied)")
    axes.grid(axis="x")
    handles = [
        axes.plot(
            [],
            [],
            MARKERS[k],
            color=COLOURS[k],
            label=f"{words.prose(label)} (n = {_n(data, label)})",
        )[0]
        for k, label in enumerate(labels)
    ]
    figure.legend(handles=handles, loc="outside upper left")
    return Drawing(
        name="comparison",
        title="Side by side",
        caption="Change of mean HU by region in each analysis. The grey bar reaches as far as the "
        "largest effect that the same models give to a placebo.",
        alt="; ".join(
            f"{row['analysis']}, {words.region_label(row['region']).lower()}: "
            f"{words.number(row['debiased'], 'HU', sign=True)} HU"
            for row in records(data)
        ),
        figure=figure,
        data=data.reset_index(drop=True),
    )


def _n(data: pd.DataFrame, label: str) -> str:
    return words.count(data.loc[data["analysis"] == label, "n"].max())


def _row(axes: Axes, row: Mapping[str, Any], place: float, k: int) -> None:
    reach = row["largest_placebo"]
    if not words.is_missing(reach):
        axes.plot([-reach, reach], [place] * 2, color=GREY, alpha=0.35, lw=6, solid_capstyle="butt")
    axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=COLOURS[k], lw=1.8, zorder=3)
    axes.plot([row["debiased"]], [place], MARKERS[k], color=COLOURS[k], ms=6, zorder=4)
    axes.plot([row["model_implied"]], [place], "o", mfc="none", mec=COLOURS[k], ms=8, zorder=4)


def draw_dose(comparison: Comparison) -> Drawing | None:
    """Change from the reference at each level, region by region."""
    data = comparison.dose[comparison.dose["kind"] == "arm"] if len(comparison.dose) else None
    if data is None or data["effect"].notna().sum() < 3:
        return None
    levels = list(dict.fromkeys(data["value"]))
    numeric = all(isinstance(level, int | float) for level in levels)
    place = {level: float(level) if numeric else float(k) for k, level in enumerate(levels)}
    figure, (axes,) = panels(WIDTH, 3.4)
    for k, (region, rows) in enumerate(data.groupby("region", sort=False)):
        at = rows["value"].map(place)
        axes.fill_between(at, rows["ci_low"], rows["ci_high"], color=COLOURS[k], alpha=0.18, lw=0)
        axes.plot(
            at, rows["effect"], MARKERS[k] + "-", color=COLOURS[k], ms=5, lw=1.8,
            label=words.region_label(str(region)),
        )  # fmt: skip
    counts = data.groupby("value", sort=False)["n"].max()
    names = [f"{level:g}" if numeric else str(level) for level in levels]
    ticks = [f"{name}\n(n = {counts[level]})" for name, level in zip(names, levels, strict=True)]
    axes.set_xticks([place[level] for level in levels], ticks)
    axes.axhline(0, color=FAINT, lw=1)
    axes.set_ylabel("Change of mean HU")
    axes.set_xlabel(words.attribute_label(str(data["attribute"].iloc[0])).capitalize())
    axes.legend(loc="best")
    axes.grid()
    return Drawing(
        name="dose",
        title="Dose-response",
        caption="Model-implied change of mean HU from the reference level, with paired 95 % "
        "intervals. As with every model-implied number, the intervals know nothing of what the "
        "model learned by accident.",
        alt="; ".join(
            f"{words.region_label(row['region'])}, {row['value']}: "
            f"{words.number(row['effect'], 'HU', sign=True)} HU"
            for row in records(data)
        ),
        figure=figure,
        data=comparison.dose,
    )
