"""Fixtures for all rooms."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import dgmvlc
from lobed import MAPPING, lobed_map

from dgmvlc_cli.imaging.files import read_labels, read_volume, write_labels
from dgmvlc_cli.text import projection

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Processes that share the tests have one thread each, or they would wait for each other."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


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


def give_lobes(study: Path, first: int) -> None:
    """Masks from the phantom's labels, with lobes for the first subjects, named in the settings."""
    labels = sorted((study / "cohort" / "labels").glob("*.nii.gz"))
    for number, path in enumerate(labels):
        truth, scan = read_labels(path), read_volume(study / "cohort" / "scans" / path.name)
        mask = lobed_map(truth) if number < first else truth
        write_labels(study / "masks" / path.name, mask, scan)
    settings = study / "dgmvlc.toml"
    table = ", ".join(f"{name} = {list(values)}" for name, values in MAPPING.items())
    added = f'[scans]\nmasks = "masks"\nmask_labels = {{ {table} }}'
    settings.write_text(settings.read_text().replace("[scans]", added))


@dataclass(frozen=True)
class Planted:
    """A preprocessed cohort, and its control of 40 HU in which every stage has run.

    18 of its 24 subjects have lobes in their masks.
    """

    study: Path
    control: Path


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A small cohort with 40 HU planted in both lungs; the generator is hardly trained."""
    root = tmp_path_factory.mktemp("planted")
    study, control = root / "study", root / "study-planted-lungs-plus-40-hu"
    cohort, one = study / "cohort", ("--workers", "1")
    with pytest.MonkeyPatch.context() as patch:
        # Fewer practice sentences only make the reading of the text coarser.
        patch.setattr(projection.practice_rows, "__defaults__", (120,))
        # The page is drawn in other tests; here the tables and the verdict count.
        patch.setattr("dgmvlc_cli.report.html.write_report", lambda folder, contents: None)
        dgmvlc("phantom", str(cohort), "--subjects", "24", "--spacing", "10", "--seed", "6", *one)
        dgmvlc("init", str(cohort / "scans"), str(cohort / "clinical.csv"), "-w", str(study))
        settings = study / "dgmvlc.toml"
        text = settings.read_text().replace('preset = "tiny"', 'preset = "micro"')
        settings.write_text(text.replace("placebos = 4", "placebos = 1") + "\n")
        give_lobes(study, first=18)
        dgmvlc("preprocess", "-w", str(study), *one)
        dgmvlc("plant", "--effect-hu", "40", "--region", "lungs", "-w", str(study), *one)
        there = ("-w", str(control))
        dgmvlc("preprocess", *there, *one)
        dgmvlc("describe", *there)
        dgmvlc("train", "--steps", "8", *there)
        dgmvlc("counterfactual", *there, *one)
        dgmvlc("analyze", *there, *one)
    return Planted(study, control)
