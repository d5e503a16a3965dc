"""The numbers that the page, report.json and the tables beside them share, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.effects import fold_effects
from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS
from dgmvlc_cli.mapping import summary_table
from dgmvlc_cli.report import words
from dgmvlc_cli.report.contents import ReportContents, records

FOUR_NUMBERS = ("model_implied", "observed", "debiased")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What is worked out of the contents: see the function of each field's name."""

    trust_facts: dict[str, Any] | None
    effect_table: list[dict[str, Any]]
    mixed_rows: list[dict[str, Any]]
    fold_table: pd.DataFrame
    map_rows: list[dict[str, Any]]


def numbers_of(contents: ReportContents) -> Numbers:
    """The numbers of a report."""
    return Numbers(
        trust_facts=trust_facts(contents),
        effect_table=effect_table(contents),
        mixed_rows=mixed_rows(contents),
        fold_table=fold_table(contents),
        map_rows=map_rows(contents),
    )


def trust_facts(contents: ReportContents) -> dict[str, Any] | None:
    """What the placebos say about the model's own intervals, for mean HU over the lung regions.

    None without placebos.  half_width: median half width of the model's own interval for the
    studied effect, HU; largest: the largest placebo effect, HU; missed, missed_debiased: how many
    of `intervals` and `intervals_debiased` exclude 0.
    """
    lungs = {kind: _lung_rows(contents, kind) for kind in words.KINDS}
    placebo, debiased, own = (
        lungs[kind] for kind in ("placebo", "placebo_debiased", "model_implied")
    )
    if placebo.empty:
        return None
    largest = max(records(placebo), key=lambda row: abs(row["effect"]))
    return {
        "half_width": float((own["ci_high"] - own["ci_low"]).median() / 2),
        "largest": abs(largest["effect"]),
        "largest_region": largest["region"],
        "placebos": int(placebo["contrast"].nunique()),
        "intervals": len(placebo),
        "missed": _excluding_zero(placebo),
        "intervals_debiased": len(debiased),
        "missed_debiased": _excluding_zero(debiased),
    }


def _lung_rows(contents: ReportContents, kind: str) -> pd.DataFrame:
    rows = contents.effects_of(kind, PRIMARY_MEASURE)
    return rows[~rows["region"].isin(CONTROL_REGIONS) & rows["ci_low"].notna()]


def _excluding_zero(rows: pd.DataFrame) -> int:
    return int(((rows["ci_low"] > 0) | (rows["ci_high"] < 0)).sum())


def effect_methods(contents: ReportContents) -> list[tuple[str, str]]:
    """(kind, method) for each kind; what a method text adds for one row alone is left out."""
    known = contents.effects.dropna(subset=["effect"])
    return [
        (label, ", or ".join(dict.fromkeys(method.partition(";")[0] for method in methods)))
        for kind, label in words.KINDS.items()
        if len(methods := known[known["kind"] == kind]["method"].astype(str))
    ]


def effect_table(contents: ReportContents) -> list[dict[str, Any]]:
    """One row for each measure and region, with the four numbers side by side.

    Keys: measure, region, unit, n, pairs, one row of effects (or None) for each of FOUR_NUMBERS,
    placebo_low, placebo_high and placebo_size (range and largest), placebos and placebos_covered
    (debiased intervals, and how many cover 0), truth.
    """
    kinds = {kind: by_place(contents.effects_of(kind)) for kind in FOUR_NUMBERS}
    placebos = {kind: contents.effects_of(kind) for kind in ("placebo", "placebo_debiased")}
    grouped = {
        kind: dict(list(rows.groupby(["measure", "region"]))) for kind, rows in placebos.items()
    }
    truths = {} if contents.truth is None else by_place(contents.truth)
    places = contents.effects[["measure", "region"]].drop_duplicates()
    rows = []
    for place in ordered(places):
        key = (place["measure"], place["region"])
        numbers = {kind: kinds[kind].get(key) for kind in FOUR_NUMBERS}
        any_row = next((row for row in numbers.values() if row), None)
        if any_row is None:
            continue
        rows.append(
            place
            | numbers
            | {"unit": any_row["unit"], "truth": truths.get(key)}
            | _sizes(numbers)
            | _placebo_cells(grouped["placebo"].get(key), grouped["placebo_debiased"].get(key))
        )
    return rows


def _sizes(numbers: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    """n: the scans of the debiased (or observed) effect; pairs: those of the model-implied one."""
    sizes = {kind: row["n"] for kind, row in numbers.items() if row}
    pairs = sizes.get("model_implied")
    return {"n": sizes.get("debiased", sizes.get("observed", pairs)), "pairs": pairs}


def _placebo_cells(implied: pd.DataFrame | None, debiased: pd.DataFrame | None) -> dict[str, Any]:
    known = None if debiased is None else debiased[debiased["ci_low"].notna()]
    return {
        "placebo_size": None if implied is None else float(implied["effect"].abs().max()),
        "placebo_low": None if implied is None else float(implied["effect"].min()),
        "placebo_high": None if implied is None else float(implied["effect"].max()),
        "placebos": 0 if known is None else len(known),
        "placebos_covered": 0 if known is None else len(known) - _excluding_zero(known),
    }


def mixed_rows(contents: ReportContents) -> list[dict[str, Any]]:
    """The mixed model over subject, fold and seed: a row for each measure and lung region.

    paired: the model-implied row beside it.  What the mask holds fixed is left out.
    """
    rows = contents.effects_of("mixed").dropna(subset=["effect"])
    rows = rows[~rows["region"].isin(CONTROL_REGIONS) & (rows["ci_low"] < rows["ci_high"])]
    paired = by_place(contents.effects_of("model_implied"))
    return [row | {"paired": paired.get((row["measure"], row["region"]))} for row in ordered(rows)]


def statistic_rows(contents: ReportContents) -> list[dict[str, Any]]:
    """Further statistics of the primary measure and of the distance, in the headline regions."""
    table = contents.statistics
    if table is None or table.empty:
        return []
    shown = table["region"].isin(words.HEADLINE_REGIONS)
    shown &= table["measure"].isin((PRIMARY_MEASURE, "wasserstein_hu"))
    rows = records(table[shown])
    return sorted(
        rows, key=lambda row: (words.region_order(row["region"]), row["kind"] == "placebo")
    )


def fold_table(contents: ReportContents) -> pd.DataFrame:
    """Model-implied change of mean HU by region (rows) and fold (columns): how steady it is.

    Empty with fewer than two folds.
    """
    if not contents.measures["arm"].isin(contents.arms).any():
        return pd.DataFrame()
    effects = fold_effects(contents.measures, Contrast(contents.attribute, *contents.levels))
    shown = effects["region"].isin(words.HEADLINE_REGIONS)
    shown &= effects["measure"] == PRIMARY_MEASURE
    wide = effects[shown].pivot(index="region", columns="fold", values="effect")
    ordered = wide.loc[sorted(wide.index, key=words.region_order)]
    return ordered if ordered.shape[1] > 1 else pd.DataFrame()


def by_place(table: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["measure"], row["region"]): row for row in records(table)}


def ordered(table: pd.DataFrame) -> list[dict[str, Any]]:
    def place(row: Mapping[str, Any]) -> tuple[int, str, int, str]:
        measure, region = row["measure"], row["region"]
        return words.measure_order(measure), measure, words.region_order(region), region

    return sorted(records(table), key=place)


def map_rows(contents: ReportContents) -> list[dict[str, Any]]:
    """One row for each group map, as maps.tsv holds them."""
    return [] if contents.maps is None else records(summary_table(contents.maps, contents.contrast))
