"""Printing the report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.report import pdf


def test_without_a_browser_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pdf, "BROWSERS", ("chromium",))
    with pytest.raises(DgmvlcError, match="No Chromium") as raised:
        pdf.print_pdf(tmp_path / "report.html")
    assert "Install Chromium" in raised.value.hint


def test_a_browser_that_prints_nothing_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho cannot start >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(pdf, "find_browser", lambda: str(broken))
    with pytest.raises(DgmvlcError, match=r"made no PDF.*cannot start"):
        pdf.print_pdf(tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_page_is_printed_beside_itself(tmp_path: Path) -> None:
    if pdf.find_browser() is None:
        pytest.skip("no Chromium on this machine")
    page = tmp_path / "report.html"
    page.write_text("<!doctype html><title>x</title><p>one</p>" + "<p>line</p>" * 200)
    made = pdf.print_pdf(page)
    content = made.read_bytes()
    assert made == tmp_path / "report.pdf"
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", content)) > 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.pdf"]
