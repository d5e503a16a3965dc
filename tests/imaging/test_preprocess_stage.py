"""`dgmvlc preprocess` on exports as they come: choices, subjects, refusals and their overrides."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
from commands import dgmvlc

from dgmvlc_cli.imaging.acquisition import acquisition
from dgmvlc_cli.imaging.files import write_volume
from dgmvlc_cli.workspace import read_table

preprocess = importlib.import_module("dgmvlc_cli.stages.preprocess")

RUN = ("preprocess", "--spacing", "8", "--workers", "1")


@pytest.fixture(scope="module")
def export(chest_series, tmp_path_factory) -> Path:
    """Two series of one patient, the better one compressed with loss some time before."""
    root = tmp_path_factory.mktemp("export")
    plain = chest_series("P1", uid="1.2.1")
    soft = replace(plain, uid="1.2.2", tags=plain.tags | {"ConvolutionKernel": "SOFT"})
    replace(plain, tags=plain.tags | {"ConvolutionKernel": "LUNG"}).write(root / "a" / "lung")
    soft.write(root / "a" / "soft")
    (root / "table.csv").write_text("id,scan,age\nS7,a/soft,61\n")
    return root


def workspace(export: Path, study: Path, *lines: str) -> tuple[str, str]:
    dgmvlc("init", str(export / "a"), str(export / "table.csv"), "-w", str(study))
    settings = study / "dgmvlc.toml"
    added = "\n".join(["[scans]", *lines])
    settings.write_text(settings.read_text().replace("[scans]", added))
    return ("-w", str(study))


def table(study: Path, name: str):
    return read_table(study / f"{name}.tsv", dtype=str)


def test_the_choice_is_listed_and_can_be_changed_by_label(export, tmp_path):
    w = workspace(export, tmp_path, "pseudonyms = false")
    dgmvlc(*RUN, *w)
    series = table(tmp_path, "series").set_index("path")
    assert series.loc["soft", "chosen"] == "yes"
    assert series.loc["lung", "reason"].startswith("sharp kernel LUNG")
    assert table(tmp_path, "subjects")["kernel"].tolist() == ["SOFT"]
    made = acquisition(table(tmp_path, "subjects")).iloc[0]
    assert made["reconstruction kernel"] == "smooth"
    assert made.isna()["contrast medium"], "its header has no such tag"
    assert made[["slice spacing", "pixel spacing"]].notna().all()
    settings = tmp_path / "dgmvlc.toml"
    chosen = f'\n[scans.choose]\nP1 = "{series.loc["lung", "series"]}"\n\n[table]'
    settings.write_text(settings.read_text().replace("\n[table]", chosen))
    dgmvlc(*RUN, *w)
    assert table(tmp_path, "subjects")["kernel"].tolist() == ["LUNG"]
    settings.write_text(settings.read_text().replace("P1 = ", "P2 = "))
    assert "'P2' that has no scan" in dgmvlc(*RUN, *w, expect=2).stderr


def test_a_column_of_the_table_names_the_scan_of_each_row(export, tmp_path):
    lines = ('subject_from = "column"', 'subject_column = "scan"', "pseudonyms = false")
    w = workspace(export, tmp_path, *lines)
    settings = tmp_path / "dgmvlc.toml"
    text = settings.read_text()
    said = dgmvlc(*RUN, *w, expect=1).stderr
    assert "no subject id by the rule `column`" in said
    (export / "table.csv").write_text("id,scan,age\nS7,soft,61\n")
    dgmvlc(*RUN, *w)
    assert table(tmp_path, "subjects")["subject"].tolist() == ["S7"]
    (export / "table.csv").write_text("id,scan,age\nS7,soft,61\nS8,soft,55\n")
    assert "'soft' for two ids: 'S7' and 'S8'" in dgmvlc(*RUN, *w, expect=2).stderr
    settings.write_text(text.replace('"scan"', '"scn"'))
    assert "id, scan, age" in dgmvlc(*RUN, *w, expect=2).stderr


def test_what_was_compressed_with_loss_needs_a_word(chest_series, tmp_path):
    lossy = chest_series("P1", uid="1.2.1")
    lossy.tags["LossyImageCompression"] = "01"
    lossy.write(tmp_path / "scans")
    dgmvlc("init", str(tmp_path / "scans"), "-w", str(tmp_path / "w"))
    w = ("-w", str(tmp_path / "w"))
    assert "compressed with loss" in dgmvlc(*RUN, *w, expect=1).stderr
    assert "compressed with loss" in table(tmp_path / "w", "series")["warnings"].item()
    assert "compressed with loss" in dgmvlc(*RUN, "--allow-lossy", *w).stdout
    for listed in "subjects", "series":
        assert "HU are not those" in table(tmp_path / "w", listed)["warnings"].item()


def test_a_killed_run_leaves_no_table_of_scans_on_two_grids(chest, tmp_path, monkeypatch):
    for name in ("p0", "p1"):
        write_volume(tmp_path / "scans" / f"{name}.nii.gz", chest[0])
    w = ("-w", str(tmp_path))
    dgmvlc("init", str(tmp_path / "scans"), *w)
    dgmvlc(*RUN, *w)
    before = (tmp_path / "subjects.tsv").read_bytes()
    prepare_scan = preprocess.prepare_scan

    def killed(task):
        if task.subject == "p1":
            raise KeyboardInterrupt
        return prepare_scan(task)

    dgmvlc(*RUN, "--dry-run", *w)
    monkeypatch.setattr(preprocess, "prepare_scan", killed)
    dgmvlc("preprocess", "--spacing", "12", "--workers", "1", *w, expect=None)
    assert "dgmvlc preprocess" in dgmvlc("analyze", *w, expect=1).stderr
    monkeypatch.setattr(preprocess, "prepare_scan", prepare_scan)
    dgmvlc(*RUN, *w)
    assert (tmp_path / "subjects.tsv").read_bytes() == before
