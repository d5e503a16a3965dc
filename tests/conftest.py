"""Fixtures for all rooms."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("ct64/ct-64.nrrd")` is its path; without the data the test is skipped."""
    root = Path(os.environ.get("DGMVLC_REAL_DATA") or REPOSITORY.parent / "shared" / "data")

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"real data {name} not under {root} (set DGMVLC_REAL_DATA)")
        return path

    return find
