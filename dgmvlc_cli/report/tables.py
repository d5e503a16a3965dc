"""Small tables behind the page: whatever it shows that no table of the analysis holds already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dgmvlc_cli.report.contents import ReportContents, records
from dgmvlc_cli.report.numbers import Numbers


def report_tables(contents: ReportContents, numbers: Numbers) -> dict[str, pd.DataFrame]:
    """Name -> table, written to tables/NAME.tsv; the page names them as the source of its numbers.

    Tables without a row are not written.
    """
    trust = numbers.trust_facts
    return {
        "trust": pd.DataFrame([trust] if trust else []),
        "placebos": _placebos(numbers.effect_table),
        "folds": numbers.fold_table.reset_index(),
        "fit": pd.DataFrame(list(contents.fit)),
        "balance": pd.DataFrame() if contents.balance is None else contents.balance,
        "acquisition": pd.DataFrame() if contents.acquisition is None else contents.acquisition,
        "evaluation": pd.DataFrame() if contents.evaluation is None else contents.evaluation,
        "counts": pd.DataFrame(contents.counts.items(), columns=["stage", "subjects"]),
        "cohort": _cohort(contents),
        "training": training_table(contents),
        "scans": pd.DataFrame(list(contents.scans)),
        "failures": pd.DataFrame(list(contents.failures)),
    }


def _placebos(effect_rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Range and coverage of the placebos of each measure and region."""
    columns = ["measure", "region", "n", "pairs", "unit"]
    columns += ["placebo_size", "placebo_low", "placebo_high", "placebos", "placebos_covered"]
    return pd.DataFrame([{key: row[key] for key in columns} for row in effect_rows])


def _cohort(contents: ReportContents) -> pd.DataFrame:
    """One row for each level of an attribute, or one with the range of a number."""
    rows = []
    for item in contents.cohort:
        levels = item["levels"]
        pairs = levels.items() if isinstance(levels, Mapping) else [(levels, None)]
        for level, count in pairs:
            rows.append(
                {
                    "attribute": item["attribute"],
                    "coverage": item["coverage"],
                    "level": level,
                    "subjects": count,
                }
            )
    return pd.DataFrame(rows)


def training_table(contents: ReportContents) -> pd.DataFrame:
    """Fold, steps, seconds and last loss of each fold that was trained."""
    rows = []
    for fold, log in sorted(contents.training.items()):
        if len(log):
            last = records(log)[-1]
            seconds = last.get("seconds")
            rows.append(
                {"fold": fold, "steps": last["step"], "seconds": seconds, "loss": last["loss"]}
            )
    return pd.DataFrame(rows)


RESULT_COLUMNS = (
    "table",
    "quantity",
    "measure",
    "region",
    "contrast",
    "kind",
    "n",
    "estimate",
    "ci_low",
    "ci_high",
    "p",
    "p_adjusted",
    "p_placebo",
    "unit",
    "method",
)


def results_table(
    effects: pd.DataFrame, statistics: pd.DataFrame, maps: pd.DataFrame
) -> pd.DataFrame:
    """Every result of an analysis in one long table, for other programs: `RESULT_COLUMNS`.

    table: the file that holds the row with all its columns.  quantity: what the estimate is.
    """
    parts = [
        effects.rename(columns={"effect": "estimate"}).assign(table="effects", quantity="effect"),
        statistics.rename(columns={"statistic": "quantity"}).assign(table="statistics"),
    ]
    if len(maps):
        shown = ["mean", "lowest", "highest", "significant_percent", "beyond_placebos_percent"]
        shown += ["r_observed", "r_truth"]
        units = {"significant_percent": "%", "beyond_placebos_percent": "%"}
        units |= {"r_observed": "1", "r_truth": "1"}
        long = maps.melt(
            id_vars=["map", "contrast", "n", "unit", "method"],
            value_vars=shown,
            var_name="quantity",
            value_name="estimate",
        ).dropna(subset=["estimate"])
        long["unit"] = long["quantity"].map(units).fillna(long["unit"])
        long = long.rename(columns={"map": "kind"})
        parts.append(long.assign(table="maps", measure="mean_hu", region="cells"))
    return pd.concat(parts, ignore_index=True).reindex(columns=list(RESULT_COLUMNS))
