"""What a finished analysis says was done, and what counts as finished."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from commands import dgmvlc

from dgmvlc_cli.errors import DgmvlcError

ONE = ("--workers", "1")


@pytest.fixture(scope="module")
def folder(planted, tmp_path_factory) -> Path:
    """The analysis of a copy of the control, its report drawn after its settings were changed."""
    root = tmp_path_factory.mktemp("analyze") / "control"
    shutil.copytree(planted.control, root)
    settings = root / "dgmvlc.toml"
    text = settings.read_text()
    for told, now in (
        ('masks = "masks"', ""),
        ('"builtin"', '"lungmask"'),
        ("folds = 2", "folds = 3"),
    ):
        assert text.count(told) == 1
        text = text.replace(told, now)
    settings.write_text(text)
    dgmvlc("analyze", "--force", "-w", str(root), *ONE)
    return root / "analysis" / "flow" / "planted_ivory_amber"


def root_of(folder: Path) -> str:
    return str(folder.parents[2])


def test_the_report_says_what_was_done_whatever_the_settings_say_by_now(folder):
    methods = (folder / "methods.md").read_text()
    assert "Two models were trained" in methods and "given with the scans" in methods
    report = json.loads((folder / "report.json").read_text())
    settings = report["provenance"]["settings"]
    assert settings["train"]["folds"] == 2 and settings["scans"]["segmenter"] == "builtin"
    assert set(report["training"]) == {"0", "1"}


def test_a_planted_control_is_not_told_to_be_a_phantom(folder):
    methods = (folder / "methods.md").read_text()
    assert "A known change of +40 HU was planted" in methods and "synthetic" not in methods
    page = (folder / "report.html").read_text()
    assert "A change was planted into these scans" in page and "planted control" in page
    assert "Truth (planted)" in page and "phantom" not in page.lower()


def test_an_analysis_that_lacks_any_of_its_files_is_not_current(folder):
    def would() -> str:
        return dgmvlc("analyze", "--dry-run", "-w", root_of(folder)).stdout

    made = [path for path in folder.rglob("*") if path.is_file() and path.name != "analysis.json"]
    assert len(made) > 30 and "current, kept" in would()
    for path in made:
        path.rename(path.with_name("gone"))
        assert "current, kept" not in would(), path
        path.with_name("gone").rename(path)
    assert "current, kept" in would()


def test_an_analysis_that_fails_leaves_the_earlier_one_whole(folder, monkeypatch):
    def fail(*_, **__):
        raise DgmvlcError("enough", "Look at what was left.")

    (folder / "report.pdf").write_bytes(b"printed")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys.modules["dgmvlc_cli.stages.analyze"], "_findings", fail)
    dgmvlc("analyze", "--force", "-w", root_of(folder), *ONE, expect=1)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
