"""Several analyses on one page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import trace_numbers

from dgmvlc_cli import mapping, stages
from dgmvlc_cli.config import load_settings
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.stages import Run
from dgmvlc_cli.workspace import Workspace, write_table, write_text

SETTINGS = load_settings(Path(__file__).parents[2] / "examples" / "dgmvlc.toml")
CURRENT, FORMER = "smoking_never-smoker_current-smoker", "smoking_never-smoker_former-smoker"


def write_analysis(folder: Path, contents: ReportContents, level: str, factor: float) -> None:
    """A finished analysis of never smoker -> level, its effects times a factor."""

    def renamed(table: pd.DataFrame) -> pd.DataFrame:
        texts = table.select_dtypes(exclude="number").columns
        changed = table.copy()
        for column in texts:
            changed[column] = changed[column].astype(str).str.replace("current smoker", level)
        return changed

    effects = renamed(contents.effects)
    effects[["effect", "ci_low", "ci_high"]] *= factor
    write_table(folder / "effects.tsv", effects)
    write_table(folder / "verdicts.tsv", renamed(contents.verdicts))
    write_table(folder / "measures.tsv", renamed(contents.measures))
    assert contents.maps is not None
    mapping.write_maps(folder / "maps", contents.maps)
    write_text(folder / "report.html", "<!doctype html>")


@pytest.fixture
def ws(tmp_path: Path, contents: ReportContents) -> Workspace:
    for name, level, factor in ((CURRENT, "current smoker", 1.0), (FORMER, "former smoker", 0.5)):
        write_analysis(tmp_path / "analysis" / "flow" / name, contents, level, factor)
    return Workspace(tmp_path)


def test_analyses_stand_side_by_side_and_every_number_is_in_a_table(
    ws: Workspace, contents: ReportContents
) -> None:
    result = stages.compare(ws, SETTINGS, Run(), [FORMER, f"flow/{CURRENT}"])
    page = Path(result.facts["report"])
    (page.parent / "report.html").write_text(page.read_text("utf-8"))
    assert sum(trace_numbers(page.parent).values()) > 60
    table = pd.read_csv(page.parent / "comparison.tsv", sep="\t")
    upper = table.query("measure == 'mean_hu' and region == 'upper'").set_index("analysis")
    debiased = contents.effects.query(
        "measure == 'mean_hu' and region == 'upper' and kind == 'debiased'"
    )["effect"].item()
    assert upper.loc["smoking: never smoker -> current smoker", "debiased"] == pytest.approx(
        debiased
    )
    assert upper.loc["smoking: never smoker -> former smoker", "debiased"] == pytest.approx(
        debiased / 2
    )
    assert upper["verdict"].tolist() == ["supported", "supported"]
    text = page.read_text("utf-8")
    assert "default-src 'none'" in text and 'src="http' not in text
    assert f"../../flow/{FORMER}/report.html" in text


def test_levels_that_share_a_reference_make_a_dose_response(ws: Workspace) -> None:
    page = Path(stages.compare(ws, SETTINGS, Run(), [FORMER, CURRENT]).facts["report"])
    dose = pd.read_csv(page.parent / "dose.tsv", sep="\t")
    assert list(dict.fromkeys(dose["level"])) == ["never smoker", "former smoker", "current smoker"]
    assert set(dose["region"]) == {"lungs", "upper", "middle", "lower"}
    assert (page.parent / "figures" / "dose.svg").is_file()
    document = json.loads((page.parent / "comparison.json").read_text())
    assert len(document["dose"]) == len(dose)


def test_maps_of_the_same_pairs_agree_fully(ws: Workspace) -> None:
    page = Path(stages.compare(ws, SETTINGS, Run(), [FORMER, CURRENT]).facts["report"])
    found = pd.read_csv(page.parent / "map_correlations.tsv", sep="\t")
    assert found["r"].tolist() == [pytest.approx(1)] and found["cells"].item() > 1000


def test_two_models_of_one_contrast_are_told_apart_and_make_no_dose_response(
    ws: Workspace, contents: ReportContents
) -> None:
    write_analysis(ws.root / "analysis" / "other" / CURRENT, contents, "current smoker", 0.8)
    result = stages.compare(ws, SETTINGS, Run(), [f"flow/{CURRENT}", f"other/{CURRENT}"])
    page = Path(result.facts["report"])
    table = pd.read_csv(page.parent / "comparison.tsv", sep="\t")
    contrast = "smoking: never smoker -> current smoker"
    assert list(dict.fromkeys(table["analysis"])) == [f"{contrast} (flow)", f"{contrast} (other)"]
    assert not (page.parent / "dose.tsv").exists()


def test_what_was_not_analysed_is_refused_with_what_was(ws: Workspace) -> None:
    with pytest.raises(UsageError, match="'smoking_nobody'") as raised:
        stages.compare(ws, SETTINGS, Run(), [CURRENT, "smoking_nobody"])
    assert f"flow/{FORMER}" in raised.value.hint
    with pytest.raises(UsageError, match="1 different analyses"):
        stages.compare(ws, SETTINGS, Run(), [CURRENT, f"flow/{CURRENT}"])


def test_a_dry_run_of_a_comparison_writes_nothing(ws: Workspace) -> None:
    result = stages.compare(ws, SETTINGS, Run(dry_run=True), [CURRENT, FORMER])
    assert "2 analyses" in result.summary[1]
    assert not (ws.root / "analysis" / "compare").exists()


def test_numbers_are_levels_in_order_of_size() -> None:
    from dgmvlc_cli.stages.compare import _levels

    assert _levels(["50", "70", "60"]) == [50.0, 60.0, 70.0]
    assert _levels(["never", "current", "former", "current"]) == ["never", "current", "former"]
    assert np.diff(_levels(["50", "70", "60"])).tolist() == [10, 10]
