"""The chain on a small phantom cohort, as a user runs it: `dgmvlc` with arguments."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from commands import dgmvlc, process
from pages import NUMBER, trace_numbers, written

from dgmvlc_cli import workspace
from dgmvlc_cli.analysis.readings import MEASURE_COLUMNS
from dgmvlc_cli.errors import DgmvlcError

EFFECT_COLUMNS = [
    "measure",
    "region",
    "contrast",
    "kind",
    "n",
    "effect",
    "ci_low",
    "ci_high",
    "p",
    "p_adjusted",
    "p_placebo",
    "unit",
    "method",
]
CONTRAST = "smoking_never-smoker_current-smoker"
TRAIN = ("--preset", "micro", "--steps", "30")


ONE = ("--workers", "1")  # a cohort of 40 is done before a second process has started


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A workspace in which every stage has run once."""
    root = tmp_path_factory.mktemp("study")
    cohort = root / "cohort"
    w = ("-w", str(root))
    dgmvlc("phantom", str(cohort), "--subjects", "40", "--spacing", "8", "--seed", "5", *ONE)
    dgmvlc("init", str(cohort / "scans"), str(cohort / "clinical.csv"), *w)
    use_micro(root)
    dgmvlc("preprocess", *w, *ONE)
    dgmvlc("describe", *w)
    dgmvlc("train", *TRAIN, *w)
    dgmvlc("counterfactual", "--attribute", "smoking", *w, *ONE)
    dgmvlc("analyze", *w, *ONE)
    return root


def use_micro(root: Path) -> None:
    settings = root / "dgmvlc.toml"
    text = settings.read_text().replace('preset = "tiny"', 'preset = "micro"')
    settings.write_text(text.replace("# steps = 450 ", "steps = 30 "))


@pytest.fixture
def copy(study, tmp_path) -> Path:
    """A copy to do harm to."""
    shutil.copytree(study, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {str(p.relative_to(folder)): workspace.sha256_file(p) for p in folder.rglob(pattern)}


def test_every_subject_is_listed_with_its_geometry(study):
    table = workspace.read_table(study / "subjects.tsv", dtype={"subject": str})
    assert len(table) == 40
    assert set(table["status"]) == {"ok"}
    assert table["lung_volume_ml"].between(1000, 10000).all()
    for subject in table["subject"]:
        folder = study / "images" / f"sub-{subject}"
        assert sitk.ReadImage(str(folder / f"sub-{subject}_ct.nii.gz")).GetSpacing() == (12,) * 3
        assert (folder / f"sub-{subject}_qc.png").stat().st_size > 1000
        assert json.loads((folder / f"sub-{subject}.json").read_text())["fingerprint"]


def test_sentences_leave_missing_values_out_and_carry_the_placebos(study):
    prompts = workspace.read_table(study / "text" / "prompts.tsv", dtype=str)
    assert not prompts["sentence"].str.contains("99999|Not Collected|nan|None|N/A").any()
    record = json.loads((study / "text" / "attributes.json").read_text())
    for name, placebo in record["placebos"].items():
        known = prompts[name].dropna()
        assert set(known) == set(placebo["words"].values())
        assert sorted(known.value_counts()) == sorted(prompts["smoking"].dropna().value_counts())
        said = prompts.loc[known.index, "sentence"]
        assert all(word in text for word, text in zip(known, said, strict=True))


def test_pairs_are_of_held_out_subjects_and_share_the_noise(study):
    folds = workspace.read_table(study / "models" / "flow" / "folds.tsv", dtype={"subject": str})
    fold_of = folds.set_index("subject")["fold"]
    pairs = workspace.read_table(study / "counterfactuals" / "flow" / CONTRAST / "pairs.tsv")
    assert len(pairs) > 10
    for row in pairs.itertuples():
        assert row.fold == fold_of[row.subject]
        model = study / "models" / "flow" / f"fold-{row.fold}"
        assert row.model_sha256 == workspace.sha256_files(sorted(model.glob("*.safetensors")))
        assert row.reference_sentence != row.target_sentence
        assert "never smoker" in row.reference_sentence
        assert "current smoker" in row.target_sentence


def test_generated_volumes_lie_where_the_scan_lies(study):
    pairs = workspace.read_table(study / "counterfactuals" / "flow" / CONTRAST / "pairs.tsv")
    row = pairs.iloc[0]
    made = sitk.ReadImage(str(study / row["reference_path"]))
    scan = sitk.ReadImage(
        str(study / f"images/sub-{row['subject']}/sub-{row['subject']}_ct.nii.gz")
    )
    offset = np.subtract(made.GetOrigin(), scan.GetOrigin()) / scan.GetSpacing()
    assert made.GetSpacing() == pytest.approx(scan.GetSpacing())
    assert offset == pytest.approx(np.round(offset), abs=1e-4)  # a whole number of voxels
    lungs = sitk.GetArrayFromImage(made)
    assert lungs.min() >= -1024


def test_the_tables_have_the_columns_of_the_contract(study):
    folder = study / "analysis" / "flow" / CONTRAST
    measures = workspace.read_table(folder / "measures.tsv")
    assert list(measures.columns) == list(MEASURE_COLUMNS)
    arms = {"observed", "smoking=never smoker", "smoking=current smoker"}
    assert arms <= set(measures["arm"])
    effects = workspace.read_table(folder / "effects.tsv")
    assert list(effects.columns) == EFFECT_COLUMNS
    kinds = {"model_implied", "mixed", "observed", "debiased", "placebo", "placebo_debiased"}
    assert set(effects["kind"]) == kinds
    assert effects.loc[effects["kind"] == "placebo", "contrast"].nunique() == 4


def test_an_effect_is_the_mean_difference_of_its_measures(study):
    folder = study / "analysis" / "flow" / CONTRAST
    measures = workspace.read_table(folder / "measures.tsv")
    upper = measures[(measures["region"] == "upper") & (measures["measure"] == "mean_hu")]
    wide = upper.pivot_table(index="subject", columns="arm", values="value")
    change = (wide["smoking=current smoker"] - wide["smoking=never smoker"]).dropna()
    effects = workspace.read_table(folder / "effects.tsv")
    row = effects.query("kind == 'model_implied' and region == 'upper' and measure == 'mean_hu'")
    assert row["effect"].item() == pytest.approx(change.mean(), rel=1e-6)
    assert row["n"].item() == len(change)


def test_the_report_is_one_file_without_network(study):
    folder = study / "analysis" / "flow" / CONTRAST
    page = (folder / "report.html").read_text()
    assert 'src="http' not in page
    assert "<link" not in page or 'href="http' not in page.split("<body")[0]
    report = json.loads((folder / "report.json").read_text())
    assert report["contrast"] == "smoking: never smoker -> current smoker"


def test_every_number_of_the_report_is_in_a_table(study):
    folder = study / "analysis" / "flow" / CONTRAST
    traced = trace_numbers(folder)
    assert sum(traced.values()) > 1000
    report = json.loads((folder / "report.json").read_text())
    names = ("effects", "verdicts", "tables/fit", "tables/trust")
    known = written([folder / f"{name}.tsv" for name in names])
    claims = report["verdict"][0].split(" comparisons")[-1].split(" Of the placebos")[0]
    assert re.findall(NUMBER, claims) or "no effect is claimed" in report["verdict"][0]
    for number in re.findall(NUMBER, claims):
        assert number in known


def test_maps_lie_beside_the_report_with_their_table(study):
    folder = study / "analysis" / "flow" / CONTRAST
    table = workspace.read_table(folder / "maps.tsv").set_index("map")
    assert table.loc["model_implied", "n"] == table.loc["observed", "n"]
    mask, effect = (
        sitk.GetArrayFromImage(
            sitk.ReadImage(str(folder / "maps" / f"model_implied_{name}.nii.gz"))
        )
        for name in ("mask", "effect")
    )
    assert (mask > 0).sum() == table.loc["model_implied", "cells"]
    assert effect[mask > 0].mean() == pytest.approx(table.loc["model_implied", "mean"], rel=1e-4)


def test_a_second_run_keeps_everything(study):
    before = hashes(study, "*.nii.gz") | hashes(study, "*.safetensors")
    w = ("-w", str(study))
    dgmvlc("preprocess", *w, *ONE)
    assert "current, kept" in dgmvlc("train", *TRAIN, *w).stdout
    dgmvlc("counterfactual", *w, *ONE)
    assert hashes(study, "*.nii.gz") | hashes(study, "*.safetensors") == before


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_do_not_change_a_volume(copy, study, workers):
    dgmvlc("counterfactual", "--force", "--workers", workers, "-w", str(copy))
    folder = Path("counterfactuals") / "flow" / CONTRAST
    paths = sorted((study / folder).rglob("*_ct.nii.gz"))
    assert paths
    for path in paths:
        one, other = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(root / path.relative_to(study))))
            for root in (study, copy)
        )
        # Files hold whole HU: a difference far below 0.1 HU may still round to another one, but
        # hardly ever does.  The difference itself is tested with the generator.
        changed = np.abs(one.astype(int) - other)
        assert changed.max() <= 1
        assert (changed > 0).mean() < 1e-3


def test_training_killed_and_started_again_ends_with_the_same_weights(copy):
    w = ("-w", str(copy))
    more = ("--preset", "micro", "--steps", "60")
    settings = copy / "dgmvlc.toml"
    settings.write_text(
        settings.read_text().replace("[train]", "[train]\ncheckpoint_seconds = 0.05")
    )
    models = copy / "models" / "flow"
    shutil.rmtree(models)
    dgmvlc("train", *more, *w)
    whole = hashes(models, "*.safetensors")
    shutil.rmtree(models)
    killed = 0
    for _ in range(6):
        child = subprocess.Popen(
            process("train", *more, *w), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        state = models / "fold-0" / "state" / "last.pt"
        deadline = time.monotonic() + 120
        while child.poll() is None and not state.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            killed += 1
        child.wait()
        if killed == 2:
            break
    assert killed >= 1
    dgmvlc("train", *more, *w)
    assert hashes(models, "*.safetensors") == whole


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_training_that_is_refused_leaves_the_models_as_they_are(copy):
    settings = copy / "dgmvlc.toml"
    settings.write_text(settings.read_text().replace("[train]", '[train]\nprecision = "bf16"'))
    before = {path: path.read_bytes() for path in (copy / "models").rglob("*") if path.is_file()}
    said = dgmvlc("train", "--steps", "3", "-w", str(copy), expect=2).stderr
    assert "needs a GPU" in said
    assert before == {path: path.read_bytes() for path in before if path.exists()}


def test_the_settings_of_training_reach_it(copy, monkeypatch):
    given = {}

    def stop(*_, **settings):
        given.update(settings)
        raise DgmvlcError("enough", "Look at what was given.")

    monkeypatch.setattr("dgmvlc_cli.generators.training.train_fold", stop)
    settings = copy / "dgmvlc.toml"
    added = '[train]\ncompile = true\nprecision = "fp32"\ncheckpoint_seconds = 7.0'
    settings.write_text(settings.read_text().replace("[train]", added))
    dgmvlc("train", "--force", "-w", str(copy), expect=1)
    assert given["compiled"] is True
    assert (given["precision"], given["checkpoint_seconds"]) == ("fp32", 7.0)


def test_a_study_of_what_follows_another_attribute_is_trained_and_checked(copy):
    settings = copy / "dgmvlc.toml"
    text = settings.read_text()
    for key in ("attribute", "reference", "target"):
        text = re.sub(rf'^{key} = ".*"$', "", text, count=1, flags=re.MULTILINE)
    settings.write_text(text.replace("[study]", '[study]\nattribute = "pack_years"'))
    dgmvlc("describe", "-w", str(copy))
    said = dgmvlc("train", *TRAIN, "-w", str(copy)).stdout
    assert "pack_years" in said and (copy / "models" / "flow" / "folds.tsv").exists()


def test_a_check_is_made_anew_where_it_would_be_of_another_question(copy):
    record = copy / "models" / "flow" / "fold-0" / "validation.json"
    before = workspace.read_json(record)
    settings = copy / "dgmvlc.toml"
    settings.write_text(
        settings.read_text().replace('target = "current smoker"', 'target = "former smoker"')
    )
    done = dgmvlc("train", *TRAIN, "-w", str(copy))
    assert "fold 0: current, kept" in done.stdout and "checking it" in done.stderr
    after = workspace.read_json(record)
    assert after["contrast"].endswith("former smoker") and before["contrast"] != after["contrast"]
    assert after["weights_sha256"] == before["weights_sha256"]
    assert "checking it" not in dgmvlc("train", *TRAIN, "-w", str(copy)).stderr


def test_another_encoder_than_the_models_is_refused(copy, monkeypatch):
    conditioning = copy / "models" / "flow" / "fold-1" / "conditioning.json"
    content = json.loads(conditioning.read_text())
    conditioning.write_text(json.dumps({**content, "encoder_sha256": "0"}))
    for stage in ("counterfactual", "evaluate"):
        said = dgmvlc(stage, "--force", "-w", str(copy), expect=1).stderr
        assert "fold 1 was trained with another text encoder" in " ".join(said.split())


def test_other_placebos_ask_for_another_training(copy):
    w = ("-w", str(copy))
    dgmvlc("describe", "--placebos", "2", *w)
    said = dgmvlc("counterfactual", *w, *ONE, expect=1).stderr
    assert "sentences changed" in said and "dgmvlc train" in said


def test_an_edited_table_asks_for_describe(copy):
    table = copy / "cohort" / "clinical.csv"
    table.write_text(table.read_text().replace("current smoker", "former smoker", 1))
    for stage in ("train", "counterfactual", "analyze"):
        assert "dgmvlc describe" in dgmvlc(stage, "-w", str(copy), expect=1).stderr


def test_another_model_asks_for_new_pairs(copy):
    w = ("-w", str(copy))
    dgmvlc("train", "--preset", "micro", "--steps", "2", *w)
    said = dgmvlc("analyze", *w, *ONE, expect=1).stderr
    assert "models" in said and "dgmvlc counterfactual" in said


def test_a_scan_too_large_for_the_grid_is_left_out_by_name(copy):
    folder = copy / "images" / "sub-ph-0002"
    mask = sitk.ReadImage(str(folder / "sub-ph-0002_mask.nii.gz"))
    tall = sitk.ConstantPad(mask, [0, 0, 10], [0, 0, 10], 2)
    scan = sitk.ReadImage(str(folder / "sub-ph-0002_ct.nii.gz"))
    sitk.WriteImage(tall, str(folder / "sub-ph-0002_mask.nii.gz"))
    padded = sitk.ConstantPad(scan, [0, 0, 10], [0, 0, 10], -800)
    sitk.WriteImage(padded, str(folder / "sub-ph-0002_ct.nii.gz"))
    done = dgmvlc("train", "--preset", "micro", "--steps", "2", "-w", str(copy), expect=3)
    assert "ph-0002" in done.stdout and "lungs span" in done.stdout
    folds = workspace.read_table(copy / "models" / "flow" / "folds.tsv", dtype={"subject": str})
    assert len(folds) == 39


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_ends_with_130_and_in_one_message(tmp_path, workers):
    arguments = ("phantom", str(tmp_path), "--subjects", "400", "--spacing", "8")
    child = subprocess.Popen(
        process(*arguments, "--workers", workers), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("scans/*.nii.gz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Interrupted" in said and "Traceback" not in said
    assert not (tmp_path / "phantom.json").exists()


def test_numeric_contrasts_work_end_to_end(study):
    w = ("-w", str(study))
    dgmvlc("counterfactual", "--attribute", "age", "--from", "50", "--to", "70", *w, *ONE)
    dgmvlc("analyze", "--attribute", "age", "--from", "50", "--to", "70", *w, *ONE)
    effects = workspace.read_table(study / "analysis/flow/age_50_70/effects.tsv")
    debiased = effects.query("kind == 'debiased' and region == 'lungs' and measure == 'mean_hu'")
    assert np.isfinite(debiased["effect"].item())


def test_json_is_one_object_on_stdout(study):
    done = dgmvlc("analyze", "--json", "-w", str(study))
    record = json.loads(done.stdout)
    assert record["stage"] == "analyze"
    assert Path(record["report"]).exists()
    assert done.stderr == ""


def test_dry_runs_write_nothing(study):
    before = {p: p.stat().st_mtime_ns for p in study.rglob("*")}
    w = ("-w", str(study), "--dry-run")
    for stage in ("preprocess", "describe", "train", "counterfactual", "analyze"):
        assert "would do" in dgmvlc(stage, *w, "--force").stdout
    assert {p: p.stat().st_mtime_ns for p in study.rglob("*")} == before


def test_one_broken_scan_fails_alone_and_is_listed(copy):
    scan = copy / "cohort" / "scans" / "ph-0003.nii.gz"
    scan.write_bytes(scan.read_bytes()[:5000])
    done = dgmvlc("preprocess", "-w", str(copy), *ONE, expect=3)
    table = workspace.read_table(copy / "subjects.tsv", dtype={"subject": str})
    failed = table[table["status"] == "failed"]
    assert list(failed["subject"]) == ["ph-0003"]
    assert failed["reason"].item()
    assert "39 of 40" in done.stdout


def test_without_a_table_scans_are_still_measured(study, tmp_path):
    w = ("-w", str(tmp_path))
    dgmvlc("init", str(study / "cohort" / "scans" / "ph-0001.nii.gz"), *w)
    dgmvlc("preprocess", *w, *ONE)
    assert "no clinical table" in dgmvlc("describe", *w, expect=1).stderr
    dgmvlc("analyze", *w, *ONE)
    measures = workspace.read_table(tmp_path / "analysis" / "measures.tsv")
    mean = measures.query("region == 'lungs' and measure == 'mean_hu'")["value"].item()
    assert -950 < mean < -700


def test_a_segmenter_that_is_not_installed_stops_before_any_scan(copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "lungmask", None)
    before = (copy / "subjects.tsv").read_bytes()
    asked = ("preprocess", "--segmenter", "lungmask", "-w", str(copy), *ONE)
    for more in ((), ("--dry-run",)):
        assert "lungmask is not installed" in dgmvlc(*asked, *more, expect=1).stderr
    assert (copy / "subjects.tsv").read_bytes() == before
    # What is current needs no segmenter: as in a workspace that came from another machine.
    stage = sys.modules["dgmvlc_cli.stages.preprocess"]
    monkeypatch.setattr(stage, "_is_current", lambda task: True)
    assert "current, kept" in dgmvlc(*asked, "--dry-run").stdout


def test_a_demo_is_not_replaced_by_another_one_unasked(tmp_path):
    dgmvlc("phantom", str(tmp_path / "phantom"), "--subjects", "2", "--spacing", "10", *ONE)
    said = dgmvlc("demo", str(tmp_path), "--preset", "micro", "--subjects", "24", expect=1).stderr
    assert "another synthetic cohort" in said and "--force" in said
    assert "none of tiny, micro" in dgmvlc("demo", "--preset", "large", expect=2).stderr


def test_the_demo_names_its_report_and_the_truth(tmp_path):
    done = dgmvlc("demo", str(tmp_path), "--subjects", "24", "--dry-run")
    assert "truth.tsv" in done.stdout
    assert not list(tmp_path.iterdir())


def test_truth_is_compared_where_it_is_known(copy):
    settings = copy / "dgmvlc.toml"
    text = settings.read_text().replace("[analyze]", '[analyze]\ntruth = "cohort/truth.tsv"')
    settings.write_text(text)
    dgmvlc("analyze", "-w", str(copy), *ONE)
    table = pd.read_csv(copy / "analysis" / "flow" / CONTRAST / "truth.tsv", sep="\t")
    upper = table.query("measure == 'mean_hu' and region == 'upper'").iloc[0]
    assert -32 < upper["truth"] < -20
    assert upper["ratio"] == pytest.approx(upper["model_implied"] / upper["truth"])
