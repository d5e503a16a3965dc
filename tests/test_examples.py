"""The examples keep working, and the README keeps telling the truth."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from dgmvlc_cli.cli import app
from dgmvlc_cli.config import load_settings
from dgmvlc_cli.text.describe import sentence

ROOT = Path(__file__).parent.parent


def test_the_example_settings_are_valid_and_give_sentences():
    settings = load_settings(ROOT / "examples" / "dgmvlc.toml")
    schema = settings.require_schema()
    row = {"age": 61.0, "sex": "female", "smoking": "current smoker", "pack_years": 30.0}
    said = sentence(row, schema)
    assert "61-year-old woman" in said
    assert "30 pack-years" in said


def test_the_walkthrough_names_only_what_exists():
    tree = ast.parse((ROOT / "examples" / "walkthrough.py").read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported
    for node in imported:
        module = __import__(str(node.module), fromlist=[alias.name for alias in node.names])
        assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("name", sorted(get_command(app).commands))
def test_the_readme_mentions_every_command(name):
    assert re.search(rf"\b{name}\b", (ROOT / "README.md").read_text())


def test_the_readmes_architecture_is_the_tree():
    text = (ROOT / "README.md").read_text()
    tree = text.split("```\ndgmvlc_cli/")[1].split("```")[0]
    package = ROOT / "dgmvlc_cli"
    for name in re.findall(r"\b\w+\.py\b", tree):
        assert (package / name).exists(), name
    for name in re.findall(r"^  (\w+)/", tree, re.MULTILINE):
        assert (package / name).is_dir(), name
    listed = set(re.findall(r"\b(\w+)\.py\b", tree)) | set(re.findall(r"^  (\w+)/", tree, re.M))
    present = {p.stem for p in package.iterdir() if not p.name.startswith("__")}
    assert present <= listed


def test_the_readme_has_the_command_that_ci_runs():
    text = (ROOT / "README.md").read_text()
    block = text.split("<!-- tests -->")[1].split("<!-- /tests -->")[0]
    assert "pytest" in block
