"""A known change in the user's own scans: who carries it, where it is, and that it is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import dgmvlc

from dgmvlc_cli import workspace
from dgmvlc_cli.analysis.zones import LOBE_REGIONS, LUNG_REGIONS, regions
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.imaging.files import read_labels, read_volume
from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.volume import Tissue, Volume
from dgmvlc_cli.planting import ATTRIBUTE, WITH, WITHOUT, Plant, carriers, changed, truth_rows

ONE = ("--workers", "1")
TEN = Plant(effect_hu=10.0, region="upper")
SPACING = (8.0, 8.0, 8.0)


@pytest.fixture
def chest() -> tuple[Volume, np.ndarray]:
    """Two lungs in a body: (z, y, x) 18 by 12 by 20."""
    labels = np.full((18, 12, 20), int(Tissue.BODY), np.uint8)
    labels[2:16, 3:9, 2:9] = Tissue.RIGHT_LUNG
    labels[2:16, 3:9, 11:18] = Tissue.LEFT_LUNG
    hu = np.random.default_rng(0).normal(-850, 30, labels.shape).astype(np.float32)
    return Volume(hu=hu, spacing_mm=SPACING, origin_mm=(0, 0, 0), direction=np.eye(3)), labels


def test_half_of_the_subjects_carry_it_whatever_their_order():
    subjects = [f"s{i}" for i in range(21)]
    chosen = carriers(subjects, seed=1)
    assert len(chosen) == 10
    assert carriers(subjects[::-1], seed=1) == chosen
    assert carriers(subjects, seed=2) != chosen


def test_the_change_is_exact_in_its_region_and_nothing_elsewhere(chest):
    volume, labels = chest
    difference = changed(volume, labels, TEN).hu - np.rint(volume.hu)
    upper = regions(labels, SPACING, ["upper"])["upper"]
    assert upper.any()
    assert (difference[upper] == 10).all()
    assert not difference[~upper].any()


def test_a_lobe_alone_can_carry_it(chest):
    volume, labels = chest
    lobes = np.zeros_like(labels)
    lobes[2:9, 3:9, 2:9] = Lobe.RIGHT_LOWER
    lobes[9:16, 3:9, 2:9] = Lobe.RIGHT_UPPER
    plant = Plant(effect_hu=-20, region="right_upper_lobe")
    difference = changed(volume, labels, plant, lobes).hu - np.rint(volume.hu)
    assert (difference[lobes == Lobe.RIGHT_UPPER] == -20).all()
    assert not difference[lobes != Lobe.RIGHT_UPPER].any()


def test_the_truth_is_the_change_of_every_measure_in_both_directions(chest):
    volume, labels = chest
    rows = truth_rows("a", volume, changed(volume, labels, TEN), labels)
    change = {(r["from"], r["measure"], r["region"]): r["change"] for r in rows}
    # Before the change the scan was not yet in whole HU.
    assert change[WITHOUT, "mean_hu", "upper"] == pytest.approx(10, abs=0.1)
    assert change[WITHOUT, "mean_hu", "lower"] == pytest.approx(0, abs=0.1)
    assert change[WITHOUT, "volume_ml", "upper"] == 0
    assert change[WITH, "mean_hu", "upper"] == -change[WITHOUT, "mean_hu", "upper"]
    assert {r["region"] for r in rows} == set(LUNG_REGIONS)


@pytest.mark.parametrize(
    ("effect_hu", "region", "hint"),
    [(0, "upper", "--effect-hu"), (900, "upper", "--effect-hu"), (10, "airway", "lower")],
)
def test_a_plant_that_says_nothing_is_refused(effect_hu, region, hint):
    with pytest.raises(UsageError) as raised:
        Plant(effect_hu=effect_hu, region=region)
    assert hint in raised.value.hint


def test_carriers_alone_differ_from_the_original_scans(planted):
    record = json.loads((planted.control / "plant.json").read_text())
    for subject in workspace.read_table(planted.study / "subjects.tsv", dtype=str)["subject"]:
        name = Path("images") / f"sub-{subject}" / f"sub-{subject}_ct.nii.gz"
        mask = planted.study / str(name).replace("_ct", "_mask")
        lung = np.isin(read_labels(mask), (Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG))
        difference = read_volume(planted.control / name).hu - read_volume(planted.study / name).hu
        assert (difference[lung] == (40 if subject in record["carriers"] else 0)).all()
        assert not difference[~lung].any()


def test_a_lobe_that_some_scans_do_not_have_is_refused(planted, tmp_path):
    out = ("--out", str(tmp_path / "control"))
    asked = ("plant", "-w", str(planted.study), "--region", "left_lower_lobe")
    assert "6 of 24 scans have no left lower lobe" in dgmvlc(*asked, *out, expect=1).stderr
    assert not (tmp_path / "control").exists()


def test_the_table_keeps_its_rows_and_says_who_carries_it(planted):
    record = json.loads((planted.control / "plant.json").read_text())
    prompts = workspace.read_table(planted.control / "text" / "prompts.tsv", dtype=str)
    said = prompts.set_index("subject")[ATTRIBUTE]
    assert set(said.index[said == WITH]) == set(record["carriers"])
    assert prompts["sentence"].str.contains(f"Archive lamp: (?:{WITH}|{WITHOUT})").all()
    assert prompts["smoking"].notna().sum() > 20


def test_the_same_commands_find_the_plant_and_the_report_says_so(planted):
    folder = planted.control / "analysis" / "flow" / f"{ATTRIBUTE}_{WITHOUT}_{WITH}"
    truth = workspace.read_table(folder / "truth.tsv").set_index(["measure", "region"])
    row = truth.loc[("mean_hu", "lungs")]
    assert row["truth"] == pytest.approx(40, abs=0.5)
    assert row["bias"] == pytest.approx(row["debiased"] - row["truth"])
    assert row["slope"] == pytest.approx(row["debiased"] / row["truth"])
    assert row["found"]
    assert row["debiased_covers"]
    assert set(workspace.read_table(folder / "overlap.tsv")["level"]) == {WITH, WITHOUT}
    said = json.loads((folder / "analysis.json").read_text())["verdict"]
    assert any("planted 40 HU as measured, recovered" in one for one in said)


def test_lobes_of_those_who_have_them_go_through_every_stage(planted):
    folder = planted.control / "analysis" / "flow" / f"{ATTRIBUTE}_{WITHOUT}_{WITH}"
    table = workspace.read_table(planted.control / "subjects.tsv", dtype={"subject": str})
    lobed = set(table.loc[table["lobes"] == 5, "subject"])
    assert len(lobed) == 18 and table["lobes"].isna().sum() == 6
    measures = workspace.read_table(folder / "measures.tsv", dtype={"subject": str})
    inside = measures[measures["region"].isin(LOBE_REGIONS)]
    assert set(inside["subject"]) == lobed and inside["arm"].nunique() > 2
    wide = measures[measures["measure"] == "volume_ml"].pivot_table(
        index=["arm", "subject"], columns="region", values="value"
    )
    parts = wide.loc[(slice(None), list(lobed)), list(LOBE_REGIONS)].sum(axis=1)
    np.testing.assert_allclose(parts, wide.loc[parts.index, "lungs"])
    effects = workspace.read_table(folder / "effects.tsv")
    here = effects[effects["measure"] == "mean_hu"].set_index(["kind", "region"])
    for lobe in LOBE_REGIONS:
        assert here.loc[("model_implied", lobe), "n"] == 18
        assert here.loc[("observed", lobe), "n"] == 18
        assert here.loc[("debiased", "lungs"), "n"] == 24
        assert here.loc[("debiased", lobe), "effect"] == pytest.approx(40, abs=25)
    truth = workspace.read_table(folder / "truth.tsv").set_index(["measure", "region"])
    for lobe in LOBE_REGIONS:
        assert truth.loc[("mean_hu", lobe), "truth"] == pytest.approx(40, abs=0.5)
        assert truth.loc[("mean_hu", lobe), "n"] == 18
    verdicts = workspace.read_table(folder / "verdicts.tsv")
    said = verdicts.query("measure == 'mean_hu' and region == 'right_middle_lobe'")["sentence"]
    assert said.item().startswith("Mean HU, right middle lobe: ")


def test_controls_are_collected_into_one_table(planted):
    done = dgmvlc("plant", "--collect", "-w", str(planted.study))
    assert "recovery slope over 1 controls" in done.stdout
    table = workspace.read_table(planted.study / "analysis" / "recovery.tsv")
    assert table[["effect_hu", "region", "found"]].to_numpy().tolist() == [[40.0, "lungs", True]]


def test_planting_again_keeps_what_is_current(planted):
    before = workspace.sha256_file(planted.control / "truth.tsv")
    again = dgmvlc(
        "plant", "--effect-hu", "40", "--region", "lungs", "-w", str(planted.study), *ONE
    )
    assert "current, kept" in again.stdout
    assert workspace.sha256_file(planted.control / "truth.tsv") == before


def test_a_control_is_not_planted_in_nor_a_study_overwritten(planted):
    said = dgmvlc("plant", "-w", str(planted.control), expect=1).stderr
    assert "itself a planted control" in said
    said = dgmvlc("plant", "-w", str(planted.study), "--out", str(planted.study), expect=1).stderr
    assert "--out" in said
    said = dgmvlc("plant", "--collect", "-w", str(planted.control), expect=1).stderr
    assert "dgmvlc plant --effect-hu" in said


def test_the_plan_tells_what_could_be_found_before_training(planted):
    dgmvlc("describe", "-w", str(planted.study))
    done = dgmvlc("analyze", "--plan", "--attribute", "sex", "-w", str(planted.study), *ONE)
    assert "is found with 80 % power" in done.stdout
    table = workspace.read_table(planted.study / "analysis/plan/sex_female_male/plan.tsv")
    row = table.query("measure == 'mean_hu' and region == 'lungs'").iloc[0]
    assert 5 < row["detectable"] < 60
    assert row["detectable_family"] > row["detectable"]
    said = dgmvlc("analyze", "--plan", "--edit", "age=70", "-w", str(planted.study), expect=2)
    assert "no group of real scans" in said.stderr
