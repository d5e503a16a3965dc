"""Several levels, doses, joint edits and chosen subjects, from the command to the report."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import dgmvlc

from dgmvlc_cli import workspace
from dgmvlc_cli.imaging.files import read_volume

ONE = ("--workers", "1")


@pytest.fixture(scope="module")
def root(planted, tmp_path_factory) -> Path:
    """A copy of the control, so that other modules find it as it was."""
    copy = tmp_path_factory.mktemp("counterfactual") / "control"
    shutil.copytree(planted.control, copy)
    return copy


def pairs_of(root: Path, name: str):
    return workspace.read_table(
        root / "counterfactuals" / "flow" / name / "pairs.tsv", dtype={"subject": str}
    )


@pytest.fixture(scope="module")
def ages(root) -> Path:
    """The folder of an analysis of three ages."""
    asked = ("--attribute", "age", "--values", "50,60,70", "-w", str(root))
    done = dgmvlc("counterfactual", *asked, *ONE)
    assert "dgmvlc analyze --attribute age --values 50,60,70" in done.stdout
    assert "steps 8, not 400" in done.stdout  # the control was trained by `train --steps 8`
    dgmvlc("analyze", *asked, *ONE)
    return root / "analysis" / "flow" / "age_50_60_70"


def test_a_dose_has_an_arm_for_every_value_and_shares_the_reference(root, ages):
    one, other = pairs_of(root, "age_50_60"), pairs_of(root, "age_50_70")
    assert list(one["subject"]) == list(other["subject"])
    for a, b in zip(one.to_dict("records"), other.to_dict("records"), strict=True):
        assert a["noise_key"] == b["noise_key"]
        assert a["reference_sentence"] == b["reference_sentence"]
        volumes = [read_volume(root / row["reference_path"]).hu for row in (a, b)]
        assert (volumes[0] == volumes[1]).all()
        assert "60-year-old" in a["target_sentence"] and "70-year-old" in b["target_sentence"]


def test_the_dose_response_is_a_table_beside_the_report(root, ages):
    table = workspace.read_table(ages / "dose.tsv")
    lungs = table[(table["measure"] == "mean_hu") & (table["region"] == "lungs")]
    arms = lungs[lungs["kind"] == "arm"].set_index("value")
    assert list(arms.index) == [50, 60, 70]
    assert arms.loc[50, "effect"] == 0
    effects = workspace.read_table(ages / "effects.tsv")
    whole = effects.query("kind == 'model_implied' and measure == 'mean_hu' and region == 'lungs'")
    assert arms.loc[70, "effect"] == pytest.approx(whole["effect"].item())
    slopes = lungs.set_index("kind")["effect"]
    assert slopes["slope"] == pytest.approx(arms.loc[70, "effect"] / 20)  # three values: ends only
    assert np.isfinite(slopes[["slope_observed", "slope_debiased"]]).all()
    assert (ages / "report.html").exists()


def test_levels_are_compared_in_one_population(root, monkeypatch):
    # The page is drawn in other tests; here the tables count.
    drawn = []
    monkeypatch.setattr(
        "dgmvlc_cli.report.html.write_report", lambda folder, contents: drawn.append(contents)
    )
    values = "never smoker,former smoker,current smoker"
    asked = ("--attribute", "smoking", "--values", values, "-w", str(root))
    dgmvlc("counterfactual", *asked, *ONE)
    dgmvlc("analyze", *asked, *ONE)
    folder = root / "analysis" / "flow" / "smoking_never-smoker_former-smoker_current-smoker"
    levels = workspace.read_table(folder / "levels.tsv")
    lobes = levels["region"].str.endswith("_lobe")  # which not all of these subjects have
    implied = levels[(levels["kind"] == "model_implied") & ~lobes]
    assert implied["contrast"].nunique() == 3
    prompts = workspace.read_table(root / "text" / "prompts.tsv", dtype=str)
    known = prompts["smoking"].notna().sum()
    assert set(implied["n"]) == {known}
    # The main contrast is of its own two levels, as it would be alone.
    effects = workspace.read_table(folder / "effects.tsv")
    alone = prompts["smoking"].isin(["never smoker", "current smoker"]).sum()
    own = (effects["kind"] == "model_implied") & ~effects["region"].str.endswith("_lobe")
    assert set(effects.loc[own, "n"]) == {alone}
    assert (folder / "overlap.tsv").exists()
    # So are its statistics, distances, maps and pictures; the other level is no placebo of it.
    statistics = workspace.read_table(folder / "statistics.tsv")
    own = (statistics["statistic"] == "mean, t") & ~statistics["region"].str.endswith("_lobe")
    assert set(statistics.loc[own, "n"]) == {alone}
    distances = workspace.read_table(folder / "distances.tsv")
    former = set(prompts.loc[prompts["smoking"] == "former smoker", "subject"])
    assert set(distances["contrast"]) == {"smoking: never smoker -> current smoker"}
    assert former and former.isdisjoint(distances["subject"])
    maps = workspace.read_table(folder / "maps.tsv").set_index("map")
    assert maps.loc["model_implied", "n"] == alone and "placebo" not in maps.index
    (contents,) = drawn
    assert len(contents.summaries) == alone
    assert former.isdisjoint(
        [*(one.subject for one in contents.pairs), *contents.measures["subject"]]
    )


def test_arms_that_would_say_the_same_are_refused(root):
    asked = ("counterfactual", "--attribute", "age", "--values", "59,59.4", "-w", str(root))
    said = " ".join(dgmvlc(*asked, expect=2).stderr.split())
    assert "Both arms of age: 59 -> 59.4 would say the same" in said and "`decimals`" in said


def test_edits_are_made_together_in_the_subjects_own_row(root):
    edits = ("--edit", "smoking=current smoker", "--edit", "pack_years=40", "-w", str(root))
    done = dgmvlc("counterfactual", *edits, *ONE)
    assert "--edit 'smoking=current smoker' --edit pack_years=40" in done.stdout
    pairs = pairs_of(root, "smoking-pack-years_as-recorded_current-smoker-40")
    own = workspace.read_table(root / "text" / "prompts.tsv", dtype=str).set_index("subject")
    for row in pairs.to_dict("records"):
        assert row["reference_sentence"] == own.loc[row["subject"], "sentence"]
        assert "current smoker" in row["target_sentence"]
        assert "40 pack-years" in row["target_sentence"]
    dgmvlc("analyze", *edits, *ONE)
    folder = root / "analysis/flow/smoking-pack-years_as-recorded_current-smoker-40"
    effects = workspace.read_table(folder / "effects.tsv").query("measure == 'mean_hu'")
    lungs = effects[effects["region"] == "lungs"].set_index("kind")
    assert np.isfinite(lungs.loc["model_implied", "effect"])
    assert "no group of real scans" in lungs.loc["debiased", "method"]
    verdicts = workspace.read_table(folder / "verdicts.tsv")
    assert set(verdicts["verdict"]) == {"undecided"}


def test_a_joint_edit_of_the_studied_attribute_has_its_placebos(root):
    edits = ("--edit", "planted=amber", "--edit", "age=70", "-w", str(root), *ONE)
    dgmvlc("counterfactual", *edits)
    record = json.loads((root / "text" / "attributes.json").read_text())
    for name, placebo in record["placebos"].items():
        word = placebo["words"]["amber"]
        pairs = pairs_of(root, f"{name.replace('_', '-')}_as-recorded_{word}")
        assert pairs["target_sentence"].str.contains(word).all()


def test_an_edit_that_contradicts_a_row_is_left_out_of_it(root):
    dgmvlc("counterfactual", "--edit", "pack_years=40", "-w", str(root), *ONE)
    pairs = pairs_of(root, "pack-years_as-recorded_40")
    prompts = workspace.read_table(root / "text" / "prompts.tsv", dtype=str)
    smoking = prompts.set_index("subject")["smoking"]
    assert 0 < len(pairs) < len(prompts)
    assert "never smoker" not in set(smoking[pairs["subject"]])


def test_a_dry_run_knows_what_is_current(root):
    def would(*arguments: str) -> str:
        return dgmvlc(*arguments, "--dry-run", "-w", str(root)).stdout

    assert "0 scans" in would("preprocess") and "24 current, kept" in would("preprocess")
    assert "fold 0: current, kept" in would("train", "--steps", "8")
    assert "fold 0: train on 12 subjects (changed: steps)" in would("train")
    assert "fold 1: train on 12 subjects\n" in would("train", "--steps", "8", "--force")
    assert "0 pairs in 2 contrasts" in would("counterfactual")
    assert "24 pairs in 1 contrast" in would("counterfactual", "--attribute", "sex", "--force")
    assert "would do:\n24 pairs" in would("analyze")  # its report was never drawn


def test_scans_made_unlike_are_told_and_adjusted_for_where_asked(planted, tmp_path):
    root = tmp_path / "control"
    shutil.copytree(planted.control, root)
    settings, scans = root / "dgmvlc.toml", root / "subjects.tsv"
    said = workspace.read_table(root / "text" / "prompts.tsv", dtype=str).set_index("subject")
    table = workspace.read_table(scans, dtype=str)
    studied = table["subject"].map(said[tomllib.loads(settings.read_text())["study"]["attribute"]])
    first = studied == sorted(studied.dropna().unique())[0]
    table["source_spacing_mm"] = np.where(first, "5x1x1", "2x1x1")
    table.loc[table.index % 4 == 0, "source_spacing_mm"] = "3x1x1"
    workspace.write_table(scans, table)
    told = dgmvlc("analyze", "-w", str(root), *ONE).stdout
    assert "made unlike: slice spacing" in " ".join(told.split())
    text = settings.read_text()
    settings.write_text(text.replace("scan_covariates = []", 'scan_covariates = ["slice spacing"]'))
    told = " ".join(dgmvlc("analyze", "-w", str(root), *ONE).stdout.split())
    assert "The observed and debiased effects are adjusted for it" in told
    (effects,) = root.glob("analysis/flow/*/effects.tsv")
    observed = workspace.read_table(effects).query("kind == 'observed'").dropna(subset="effect")
    assert observed["method"].str.contains("slice spacing").all()
    settings.write_text(text.replace("scan_covariates = []", 'scan_covariates = ["tube voltage"]'))
    refused = dgmvlc("analyze", "-w", str(root), expect=2).stderr
    assert "no scan of the cohort tells" in refused and "slice spacing" in refused


def test_a_scan_that_is_gone_leads_to_preprocess(root):
    image = sorted((root / "images").glob("*/*_ct.nii.gz"))[0]
    hidden = image.rename(image.with_suffix(".hidden"))
    try:
        for stage in ("train", "counterfactual", "analyze"):
            said = dgmvlc(stage, "-w", str(root), expect=1).stderr
            assert image.name in said and "dgmvlc preprocess" in said
    finally:
        hidden.rename(image)


def test_chosen_subjects_and_their_differences(root):
    subjects = list(pairs_of(root, "planted_ivory_amber")["subject"].iloc[[0, 5]])
    asked = ("--subjects", ",".join(subjects), "--differences", "-w", str(root), *ONE)
    done = dgmvlc("counterfactual", "--attribute", "sex", *asked)
    assert "chosen subjects only" in done.stdout
    pairs = pairs_of(root, "sex_female_male")
    assert sorted(pairs["subject"]) == sorted(subjects)
    for row in pairs.to_dict("records"):
        reference, target = (
            read_volume(root / row[f"{arm}_path"]).hu for arm in ("reference", "target")
        )
        folder = (root / row["target_path"]).parent
        (path,) = folder.glob("*_seed-0_difference.nii.gz")
        assert (read_volume(path).hu == target - reference).all()
    said = dgmvlc("counterfactual", "--subjects", "ph-9999", "-w", str(root), expect=2).stderr
    assert "ph-9999" in said and "subjects.tsv" in said


def test_chosen_subjects_leave_the_pairs_of_all_alone(root):
    whole = pairs_of(root, "planted_ivory_amber")
    subject = whole["subject"].iloc[3]
    asked = ("--subjects", subject, "-w", str(root), *ONE)
    done = dgmvlc("counterfactual", "--differences", *asked)
    assert "pairs of all subjects are kept" in done.stdout
    path = (root / whole["target_path"].iloc[3]).parent
    assert list(path.glob("*_difference.nii.gz"))
    said = dgmvlc("counterfactual", "--seeds", "2", *asked, expect=2).stderr
    assert "seeds 1, not 2" in said and "--force" in said
    pd.testing.assert_frame_equal(pairs_of(root, "planted_ivory_amber"), whole)
    dgmvlc("analyze", "--dry-run", "-w", str(root))  # which asks for current pairs


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--edit", "age=70", "--to", "80"), "do not go with it"),
        (("--edit", "age=70", "--attribute", "smoking"), "do not go with it"),
        (("--edit", "age=70", "--edit", "age=80"), "twice"),
        (("--attribute", "age", "--values", "45"), "two values"),
        (("--edit", "age"), "ATTRIBUTE=LEVEL"),
        (("--edit", "agee=70"), '"age"'),
        (("--edit", "age=old"), "number"),
    ],
)
def test_a_question_that_cannot_be_asked_says_how_to_ask_it(root, options, hint):
    assert hint in dgmvlc("counterfactual", *options, "-w", str(root), expect=2).stderr


def test_the_pairs_are_evaluated_by_what_real_scans_show(root):
    done = dgmvlc("evaluate", "-w", str(root), *ONE)
    assert "minimality, body" in done.stdout
    assert "reversibility, sentence: 1 [1, 1] share; comes back" in done.stdout
    folder = root / "analysis" / "flow" / "planted_ivory_amber"
    table = workspace.read_table(folder / "evaluation.tsv").set_index(["property", "what"])
    assert table.loc[("reversibility", "sentence"), "value"] == 1
    assert table.loc[("effectiveness", "planted"), "scale"] > 0.2
    assert {"age", "sex"} <= set(table.loc["specificity"].index)
    moved = table.loc[("minimality", "lungs")]
    assert moved["value"] == moved["scale"] > 0
    before = (folder / "evaluation.tsv").stat().st_mtime_ns
    dgmvlc("evaluate", "-w", str(root), *ONE)
    assert (folder / "evaluation.tsv").stat().st_mtime_ns == before
    assert "current, kept: 24 pairs" in dgmvlc("evaluate", "--dry-run", "-w", str(root)).stdout


def test_from_the_scan_no_edit_returns_it_and_the_outcome_does_not_leak(root, monkeypatch):
    monkeypatch.setattr("dgmvlc_cli.report.html.write_report", lambda folder, contents: None)
    asked = ("--source", "scan", "-w", str(root), *ONE)
    done = dgmvlc("counterfactual", *asked)
    assert "--source scan" in done.stdout
    pairs = pairs_of(root, "planted_ivory_amber_from-scan")
    assert (pairs["source"] == "scan").all()
    assert pairs["reconstruction_error_hu"].max() < 5
    dgmvlc("analyze", *asked)
    dgmvlc("evaluate", *asked)
    folder = root / "analysis" / "flow" / "planted_ivory_amber_from-scan"
    effects = workspace.read_table(folder / "effects.tsv")
    own = effects[(effects["kind"] == "debiased") & effects["effect"].notna()]
    assert own["method"].str.contains("generator weight 0.00").all()
    table = workspace.read_table(folder / "evaluation.tsv").set_index(["property", "what"])
    assert table.loc[("composition", "image"), "value"] < 5
    assert np.isfinite(table.loc[("reversibility", "image"), "value"])
    assert np.isfinite(table.loc[("bias", "lungs"), "value"])
