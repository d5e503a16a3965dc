"""Several analyses on one page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import trace_numbers

from dgmvlc_cli import mapping, stages
from dgmvlc_cli.analysis.readings import MEASURE_COLUMNS
from dgmvlc_cli.config import load_settings
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.stages import Run
from dgmvlc_cli.workspace import Workspace, write_json, write_table, write_text

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
    write_json(folder / "analysis.json", {})


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
    assert list(dict.fromkeys(dose["value"])) == ["never smoker", "former smoker", "current smoker"]
    assert set(dose["region"]) == {"lungs", "upper", "middle", "lower"}
    assert (page.parent / "figures" / "dose.svg").is_file()
    document = json.loads((page.parent / "comparison.json").read_text())
    assert len(document["dose"]) == len(dose)
    # Each level has the number that its own analysis gives it.
    effects = pd.read_csv(ws.root / "analysis" / "flow" / FORMER / "effects.tsv", sep="\t")
    own = effects.query("kind == 'model_implied' and measure == 'mean_hu' and region == 'upper'")
    got = dose.query("value == 'former smoker' and region == 'upper'")
    assert (
        got[["effect", "ci_low", "n"]].values.tolist()
        == own[["effect", "ci_low", "n"]].values.tolist()
    )


def test_nothing_of_an_earlier_comparison_stays(ws: Workspace) -> None:
    page = Path(stages.compare(ws, SETTINGS, Run(), [FORMER, CURRENT]).facts["report"])
    for name in (FORMER, CURRENT):
        folder = ws.root / "analysis" / "flow" / name
        (folder / "maps" / "model_implied_mask.nii.gz").unlink()
        effects = pd.read_csv(folder / "effects.tsv", sep="\t")
        starts = effects["contrast"].str.replace("never", "former" if name == FORMER else "light")
        write_table(folder / "effects.tsv", effects.assign(contrast=starts))
    again = Path(stages.compare(ws, SETTINGS, Run(), [FORMER, CURRENT]).facts["report"])
    assert again == page
    assert not (page.parent / "dose.tsv").exists()
    assert not (page.parent / "map_correlations.tsv").exists()
    assert not list((page.parent / "figures").glob("dose.*"))


def test_numbers_have_slopes_of_the_subjects_with_all_arms(ws: Workspace) -> None:
    rng = np.random.default_rng(0)
    for target in (60.0, 70.0):
        folder = ws.root / "analysis" / "flow" / f"age_50_{target:g}"
        shutil.copytree(ws.root / "analysis" / "flow" / CURRENT, folder)
        effects = pd.read_csv(folder / "effects.tsv", sep="\t")
        text = effects["contrast"].str.replace(
            "smoking: never smoker -> current smoker", f"age: 50 -> {target:g}"
        )
        write_table(folder / "effects.tsv", effects.assign(contrast=text))
        rows = [
            (
                f"s{k}",
                k % 2,
                0,
                f"age={value:g}",
                "upper",
                "mean_hu",
                -0.6 * value + noise,
                "HU",
                "",
            )
            for k, noise in enumerate(rng.normal(size=20))
            for value in (50.0, target)
        ]
        write_table(folder / "measures.tsv", pd.DataFrame(rows, columns=list(MEASURE_COLUMNS)))
    names = ["age_50_70", "age_50_60"]
    page = Path(stages.compare(ws, SETTINGS, Run(), names).facts["report"])
    dose = pd.read_csv(page.parent / "dose.tsv", sep="\t")
    assert list(dict.fromkeys(dose["value"].dropna())) == [50, 60, 70]
    slope = dose.set_index("kind").loc["slope"]
    assert slope["n"] == 20 and slope["effect"] == pytest.approx(-0.6, abs=0.1)


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


def test_an_analysis_that_was_stopped_between_its_tables_is_not_compared(ws: Workspace) -> None:
    (ws.root / "analysis" / "flow" / FORMER / "analysis.json").unlink()
    with pytest.raises(UsageError, match="No finished analysis") as raised:
        stages.compare(ws, SETTINGS, Run(), [CURRENT, FORMER])
    assert FORMER not in raised.value.hint and CURRENT in raised.value.hint


def test_a_dry_run_of_a_comparison_writes_nothing(ws: Workspace) -> None:
    result = stages.compare(ws, SETTINGS, Run(dry_run=True), [CURRENT, FORMER])
    assert "2 analyses" in result.summary[1]
    assert not (ws.root / "analysis" / "compare").exists()


def test_levels_are_numbers_where_all_of_them_are() -> None:
    from dgmvlc_cli.stages.compare import _numbers

    assert _numbers(["50", "70", "60"]) == [50.0, 70.0, 60.0]
    assert _numbers(["50", "never"]) == []
