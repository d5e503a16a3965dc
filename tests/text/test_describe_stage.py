"""`dgmvlc describe` as a user runs it: files, messages, edits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from commands import dgmvlc, process
from text_helpers import cohort_table

from dgmvlc_cli.stages.describe import _near_match
from dgmvlc_cli.stages.initialise import settings_text
from dgmvlc_cli.text.propose import propose_schema
from dgmvlc_cli.text.schema import schema_toml
from dgmvlc_cli.text.table import read_table


def workspace(folder: Path, table: Path) -> tuple[str, str]:
    """A workspace with the settings that `init` proposes for a table; returns its option."""
    text = settings_text(
        scans=Path("scans"), table=table, truth=None, study=None, seed=0, preset="tiny"
    )
    schema = schema_toml(*propose_schema(read_table(table)))
    (folder / "dgmvlc.toml").write_text(text + schema)
    return "-w", str(folder)


@pytest.fixture
def w(tmp_path: Path) -> tuple[str, str]:
    table = cohort_table(40)
    table.loc[1, ["smoking_status", "quit_year"]] = ["current smoker", ""]
    table.loc[2, ["smoking_status", "pack_years", "quit_year"]] = ["never smoker", "30", ""]
    table["Vital status"] = ["alive", "dead"] * 20
    table.to_csv(tmp_path / "clinical.csv", index=False)
    return workspace(tmp_path, tmp_path / "clinical.csv")


def test_the_summary_says_coverage_levels_exclusions_and_outcomes(w: tuple[str, str]):
    said = dgmvlc("describe", *w).stdout
    assert "40 sentences" in said
    assert "39 of 40" in next(line for line in said.splitlines() if line.startswith("  age"))
    assert "kept out of the sentence: vital_status (outcomes" in said
    assert "1 of them contradict" in said and "pack_years 30 (smoking is never smoker)" in said


def test_a_number_far_from_all_others_is_pointed_out(tmp_path: Path):
    table = cohort_table(40)
    table["Weight"] = [str(60 + k) for k in range(39)] + ["7000"]
    table["Cigarettes"] = ["0"] * 34 + ["5", "10", "10", "15", "20", "4000"]
    table.to_csv(tmp_path / "clinical.csv", index=False)
    said = dgmvlc("describe", *workspace(tmp_path, tmp_path / "clinical.csv")).stdout
    line, other = (line for line in said.splitlines() if "far from most others" in line)
    assert line.startswith("WARNING: weight") and "(7000)" in line
    assert other.startswith("WARNING: cigarettes") and "(4000)" in other


def test_an_edit_shows_both_sentences_and_writes_nothing(w: tuple[str, str], tmp_path: Path):
    said = dgmvlc("describe", "--edit", "smoking=Never", "ph-0002", *w).stdout
    before, after, *notes = said.splitlines()
    assert "Smoking status: [current] smoker." in before
    assert "Smoking status: [never] smoker." in after
    assert any(note.startswith("pack_years: ") and "not applicable" in note for note in notes)
    assert not (tmp_path / "text").exists()
    record = json.loads(
        dgmvlc(
            "describe", "--edit", "smoking=former smoker", "--set", "quit_year=2019", "ph-0002",
            "--json", *w,
        ).stdout
    )  # fmt: skip
    assert record["changes"]["quit_year"] == [None, 2019]
    assert "Quit smoking in 2019." in record["after"]


def test_an_edit_of_all_subjects_counts_what_changes_and_what_is_refused(w: tuple[str, str]):
    smoking = dgmvlc("describe", "--edit", "smoking=never", *w).stdout
    never = cohort_table(40)["smoking_status"].drop(index=[1, 2]).eq("never smoker").sum() + 1
    assert f"{40 - never} of 40 subjects would change, {never} are so already" in smoking
    assert smoking.count("after: ") == 3
    record = json.loads(dgmvlc("describe", "--edit", "pack_years=30", "--json", *w).stdout)
    assert len(record["refused"]) == never
    assert set(record["refused"].values()) == {
        "pack_years cannot be set to 30: smoking is never smoker"
    }
    assert all("30 pack-years" in after for _, after in record["sentences"].values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--edit", "smoking=never", "ph-2"], 'unknown subject "ph-2"'),
        (["--edit", "smoking=nevr"], 'Did you mean "never smoker"'),
        (["--edit", "smoking", "ph-0002"], "ATTRIBUTE=LEVEL"),
        (["ph-0002"], "--edit ATTRIBUTE=LEVEL"),
        (["--edit", "vital_status=dead", "ph-0002"], "not said in the sentence"),
        (["--edit", "quit_year=1999", "ph-0002"], "smoking is current smoker"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(w: tuple[str, str], arguments: list[str], said: str):
    done = dgmvlc("describe", *arguments, *w, expect=2)
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_sentences_do_not_depend_on_the_hash_seed_or_the_run(w: tuple[str, str], tmp_path: Path):
    hashes = set()
    for seed in ("1", "2"):
        subprocess.run(
            process("describe", *w), env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
            capture_output=True,
        )  # fmt: skip
        for name in ("prompts.tsv", "placebos.tsv", "attributes.json", "exclusions.tsv"):
            content = (tmp_path / "text" / name).read_bytes()
            hashes.add((name, hashlib.sha256(content).hexdigest()))
    assert len(hashes) == 4


def test_several_rows_are_refused_until_the_rule_is_declared(tmp_path: Path):
    table = cohort_table(20)
    later = table.assign(bmi="40.0", week="20")
    visits = pd.concat([table.assign(week="1"), later])
    visits.to_csv(tmp_path / "clinical.csv", index=False)
    w = workspace(tmp_path, tmp_path / "clinical.csv")
    assert "several_rows" in dgmvlc("describe", *w, expect=1).stderr
    settings = tmp_path / "dgmvlc.toml"
    rule = 'several_rows = {keep = "highest", by = "week"}'
    settings.write_text(settings.read_text().replace("[schema]\n", f"[schema]\n{rule}\n"))
    assert "20 rows dropped" in dgmvlc("describe", *w).stdout
    dropped = (tmp_path / "text" / "dropped_rows.tsv").read_text()
    assert "another row is kept: highest week" in dropped
    prompts = pd.read_csv(tmp_path / "text" / "prompts.tsv", sep="\t")
    assert (prompts["bmi"] == 40).all()


def test_ids_that_differ_only_in_form_are_pointed_out(w: tuple[str, str], tmp_path: Path):
    (tmp_path / "subjects.tsv").write_text("subject\tstatus\nPH_1\tok\nPH_2\tok\n")
    said = dgmvlc("describe", *w, expect=1).stderr
    assert "2 ids differ only in case, leading zeros or punctuation" in " ".join(said.split())
    (tmp_path / "subjects.tsv").write_text("subject\tstatus\nPH_1\tok\nph-0002\tok\n")
    said = dgmvlc("describe", *w).stdout
    assert "39 rows without scan: ph-0001, ph-0003, ph-0004, ..., all in " in said
    assert "1 scans without row: PH_1" in said
    assert "WARNING: 1 ids differ only in case" in said and '("ph-0001" in the table' in said


@pytest.mark.parametrize(
    ("rows", "scans", "near"),
    [
        (["PH-0001", "x"], ["sub-ph_1", "y"], [("PH-0001", "sub-ph_1")]),
        (["1.0"], ["10", "1"], [("1.0", "1")]),
        (["1.0"], ["10"], []),
        (["1-11", "12-3"], ["11-1", "1-23"], []),
        (["1_11"], ["01-11"], [("1_11", "01-11")]),
        (["P1", "p-1"], ["P01"], []),
        (["P01"], ["P1", "p1"], []),
        (["P1", "P01"], ["P1", "P001"], []),  # P01 is as like P1
        (["1.2.0"], ["1.2"], []),
        (["Müller"], ["Möller"], []),
    ],
)
def test_a_near_id_is_named_only_where_it_can_be_no_other(rows: list, scans: list, near: list):
    said = _near_match(rows, scans, {})
    assert said.startswith(f"{len(near)} ids differ") if near else not said
    assert all(f'"{row}" in the table, "{scan}" the scan' in said for row, scan in near)


def test_a_big_table_is_described(tmp_path: Path):
    cohort_table(5000).to_csv(tmp_path / "clinical.csv", index=False)
    w = workspace(tmp_path, tmp_path / "clinical.csv")
    assert "5000 sentences" in dgmvlc("describe", *w).stdout
    assert (tmp_path / "text" / "prompts.tsv").read_text().count("\n") == 5001
