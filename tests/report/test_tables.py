"""Tables behind the page, and the long table of all results."""

from __future__ import annotations

import numpy as np

from dgmvlc_cli.mapping import summary_table
from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.report.numbers import numbers_of
from dgmvlc_cli.report.tables import RESULT_COLUMNS, report_tables, results_table


def test_the_long_table_holds_every_result_once(contents: ReportContents) -> None:
    assert contents.maps is not None and contents.statistics is not None
    maps = summary_table(contents.maps, contents.contrast)
    table = results_table(contents.effects, contents.statistics, maps)
    assert list(table.columns) == list(RESULT_COLUMNS)
    by_table = table.groupby("table").size()
    assert by_table["effects"] == len(contents.effects)
    assert by_table["statistics"] == len(contents.statistics)
    np.testing.assert_array_equal(
        table.loc[table["table"] == "effects", "estimate"], contents.effects["effect"]
    )
    model = table[(table["table"] == "maps") & (table["kind"] == "model_implied")]
    truth = model[model["quantity"] == "r_truth"]
    assert truth["estimate"].item() == maps.loc[maps["map"] == "model_implied", "r_truth"].item()
    assert truth["unit"].item() == "1"
    assert table["method"].notna().all()


def test_no_maps_leave_the_rest(contents: ReportContents) -> None:
    assert contents.statistics is not None
    maps = summary_table(contents.maps, contents.contrast).iloc[:0]
    table = results_table(contents.effects, contents.statistics, maps)
    assert set(table["table"]) == {"effects", "statistics"}


def test_a_report_without_rows_has_tables_without_rows(contents: ReportContents) -> None:
    tables = report_tables(contents, numbers_of(contents))
    assert {"trust", "placebos", "folds", "fit", "counts", "cohort", "training"} <= set(tables)
    levels = tables["cohort"].set_index("level")["subjects"]
    assert levels["never smoker"] == 38
    names = ["title", "contrast", "attribute", "verdict", "verdicts"]
    bare = ReportContents(
        **{name: getattr(contents, name) for name in names},
        effects=contents.effects.iloc[:0],
        measures=contents.measures.iloc[:0],
    )
    assert not any(len(table) for table in report_tables(bare, numbers_of(bare)).values())
