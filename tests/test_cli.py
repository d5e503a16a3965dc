"""Help, exit codes and error messages of the command line."""

import json
import subprocess
import sys

import pytest
from commands import dgmvlc
from typer.main import get_command

from dgmvlc_cli import __version__
from dgmvlc_cli.cli import app

COMMANDS = sorted(get_command(app).commands)


def fails(code: int, *arguments: str) -> str:
    """The message of a command that must fail with this exit code, without a traceback."""
    done = dgmvlc(*arguments, expect=code)
    assert "Error" in done.stderr
    return done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_with_an_example(name):
    done = dgmvlc(name, "--help")
    assert f"Example: dgmvlc {name}" in " ".join(done.stdout.split())
    assert "--json" in done.stdout


def test_the_version_is_the_packages():
    assert dgmvlc("--version").stdout.strip() == f"dgmvlc {__version__}"


def test_without_a_command_there_is_help():
    assert "dgmvlc demo" in dgmvlc(expect=None).stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['dgmvlc', '--help']\n"
        "from dgmvlc_cli.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'SimpleITK', 'pandas', 'scipy', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_info_is_json_and_needs_no_torch():
    code = (
        "import sys, json; from dgmvlc_cli.info import facts\n"
        "print(json.dumps([facts(), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, torch_loaded = json.loads(done.stdout)
    assert not torch_loaded
    assert {"tiny", "small"} <= set(found["presets"])
    assert "mean_hu" in found["measures"]


def test_an_unknown_option_is_a_usage_error():
    assert dgmvlc("preprocess", "--nonsense", expect=2).stderr


def test_an_empty_folder_has_no_scan(tmp_path):
    (tmp_path / "scans").mkdir()
    assert "no CT scan" in fails(1, "init", str(tmp_path / "scans"), "-w", str(tmp_path))


@pytest.mark.parametrize("stage", ["preprocess", "describe", "train", "counterfactual", "analyze"])
def test_a_folder_that_is_no_workspace_says_what_to_run(tmp_path, stage):
    assert "dgmvlc init" in fails(1, stage, "-w", str(tmp_path))


@pytest.fixture
def workspace(tmp_path):
    """A workspace with one tiny scan and a table, before any stage has run."""
    dgmvlc("phantom", str(tmp_path / "c"), "--subjects", "3", "--spacing", "8", "--workers", "1")
    scans, table = tmp_path / "c" / "scans", tmp_path / "c" / "clinical.csv"
    dgmvlc("init", str(scans), str(table), "-w", str(tmp_path))
    return tmp_path


def test_a_missing_stage_is_named(workspace):
    w = ("-w", str(workspace))
    assert "dgmvlc describe" in fails(1, "train", *w)
    dgmvlc("describe", *w)
    assert "dgmvlc preprocess" in fails(1, "train", *w)
    dgmvlc("preprocess", *w, "--workers", "1")
    assert "too few" in fails(1, "train", *w)
    assert "dgmvlc train" in fails(1, "counterfactual", *w)
    assert "dgmvlc train" in fails(1, "analyze", *w)


def test_an_unknown_attribute_or_level_is_a_usage_error_with_the_nearest(workspace):
    w = ("-w", str(workspace))
    dgmvlc("preprocess", *w, "--workers", "1")
    dgmvlc("describe", *w)
    assert '"smoking"' in fails(2, "counterfactual", "--attribute", "smokin", *w)
    said = fails(2, "counterfactual", "--attribute", "smoking", "--to", "curent smoker", *w)
    assert "current smoker" in said
    assert "two values" in fails(2, "counterfactual", "--attribute", "age", *w)


def test_a_misspelt_key_is_a_usage_error(workspace):
    settings = workspace / "dgmvlc.toml"
    settings.write_text(settings.read_text().replace("margin_mm", "margn_mm"))
    assert "margin_mm" in fails(2, "preprocess", "-w", str(workspace))


def test_init_says_which_column_is_the_date_of_the_scan(workspace):
    table = workspace / "c" / "clinical.csv"
    said = dgmvlc(
        "init", str(workspace / "c" / "scans"), str(table), "--force", "-w", str(workspace)
    )
    assert "date of the scan: scan_date" in said.stdout


def test_init_does_not_overwrite_settings(workspace):
    w = ("-w", str(workspace))
    before = (workspace / "dgmvlc.toml").read_text()
    scans = str(workspace / "c" / "scans")
    assert "--force" in fails(1, "init", scans, *w)
    assert (workspace / "dgmvlc.toml").read_text() == before
    dgmvlc("init", scans, "--force", *w)
    assert (workspace / "dgmvlc.toml").read_text() != before
    assert (workspace / "dgmvlc.toml.previous").read_text() == before


def test_a_table_without_the_id_column_is_said(workspace):
    table = workspace / "c" / "clinical.csv"
    table.write_text(table.read_text().replace("subject,", "nobody,", 1))
    said = fails(2, "describe", "-w", str(workspace))
    assert '"subject"' in said and "id_column" in said


def test_a_table_whose_ids_match_no_scan_is_said(workspace):
    table = workspace / "c" / "clinical.csv"
    table.write_text(table.read_text().replace("ph-", "xx-"))
    w = ("-w", str(workspace))
    dgmvlc("preprocess", *w, "--workers", "1")
    said = fails(1, "describe", *w)
    assert "xx-0001" in said and "ph-0001" in said


def test_errors_are_json_where_asked_for(tmp_path):
    done = dgmvlc("preprocess", "--json", "-w", str(tmp_path), expect=1)
    record = json.loads(done.stdout)
    assert record["exit_code"] == done.returncode == 1
    assert "dgmvlc init" in record["hint"]


def test_a_comparison_takes_names_and_nothing_else(workspace):
    w = ("-w", str(workspace))
    assert "--compare" in dgmvlc("analyze", "smoking_a_b", *w, expect=2).stderr
    assert "nothing else" in dgmvlc("analyze", "--compare", "a", "b", "--pdf", *w, expect=2).stderr
    assert "No finished analysis" in fails(2, "analyze", "--compare", "a", "b", *w)
