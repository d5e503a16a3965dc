"""The report on paper: printed by a Chromium that is on the machine, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.workspace import atomic_path

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
OFFLINE = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_SECONDS = 180


def find_browser() -> str | None:
    """Path of a Chromium or one of its kin; None where there is none."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def browser_command(browser: str, profile: str | Path) -> list[str]:
    """A headless browser that keeps to itself, with a profile that is thrown away."""
    # A browser run by root (in a container) refuses to start inside its own sandbox.
    sandbox = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    return [browser, *OFFLINE, *sandbox, f"--user-data-dir={profile}"]


def print_pdf(page: Path) -> Path:
    """Print an HTML file beside itself, as .pdf, and return where.

    Raises DgmvlcError where no browser is found, or where it makes no PDF.
    """
    browser = find_browser()
    if browser is None:
        raise DgmvlcError(
            f"No Chromium or Chrome was found to print {page} with.",
            "Install Chromium, or open the report in any browser and print it to a file.",
        )
    target = page.with_suffix(".pdf")
    with tempfile.TemporaryDirectory() as profile, atomic_path(target) as part:
        command = [
            *browser_command(browser, profile),
            "--no-pdf-header-footer",
            "--virtual-time-budget=10000",
            f"--print-to-pdf={part}",
            page.resolve().as_uri(),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
            )
            said = done.stderr.strip()[-300:]
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        if not part.read_bytes().startswith(b"%PDF"):
            raise DgmvlcError(
                f"{browser} made no PDF of {page} ({said or 'it said nothing'}).",
                "Open the report in a browser and print it to a file.",
            )
    return target
