"""A synthetic cohort on disk: scans, labels, clinical table and the exact truth about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from dgmvlc_cli import __version__
from dgmvlc_cli.analysis.measures import MEASURES, Sample
from dgmvlc_cli.analysis.zones import LUNG_REGIONS, regions
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.files import write_labels, write_volume
from dgmvlc_cli.imaging.volume import Volume, resample_isotropic, resample_labels
from dgmvlc_cli.parallel import run
from dgmvlc_cli.phantom.render import Scene, scene
from dgmvlc_cli.phantom.settings import PhantomSettings
from dgmvlc_cli.phantom.table import COLUMNS, SMOKING, Subject, recorded, true_subjects
from dgmvlc_cli.workspace import write_error, write_json, write_table, write_text

TRUTH_MEASURES = (
    "mean_hu",
    "median_hu",
    "perc15_hu",
    "sd_hu",
    "laa950_percent",
    "laa910_percent",
    "haa_percent",
)
TRUTH_COLUMNS = ("subject", "attribute", "from", "to", "measure", "region", "change", "unit")


def write_cohort(
    out: Path,
    settings: PhantomSettings,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> None:
    """Write scans/, labels/, clinical.csv, truth.tsv and, last, phantom.json into a folder.

    progress: called with (subjects done, subjects in all).  The files depend on the settings
    alone, not on workers.  Raises DgmvlcError where the folder cannot be written, or holds scans or
    a table that are no phantom's.
    """
    _refuse_foreign(out)
    subjects = true_subjects(settings)
    _make_folders(out)
    _clear(out)
    truth: dict[str, list[dict]] = {}
    for outcome in run(partial(_write_subject, out, settings), subjects, workers):
        if outcome.error is not None:
            raise outcome.error
        truth[outcome.item.subject] = outcome.result or []
        if progress is not None:
            progress(len(truth), len(subjects))
    rows = [row for subject in subjects for row in truth[subject.subject]]
    write_table(out / "truth.tsv", pd.DataFrame(rows, columns=list(TRUTH_COLUMNS)))
    table = pd.DataFrame([recorded(s, settings) for s in subjects], columns=list(COLUMNS))
    write_text(out / "clinical.csv", table.to_csv(index=False, lineterminator="\n"))
    write_json(out / "phantom.json", description(settings))


def truth_of(subject: Subject, chest: Scene, settings: PhantomSettings) -> list[dict]:
    """Exact change of each measure in each lung region, for every ordered pair of levels.

    The change is measured on the whole-HU scans of the same subject under both levels and on the
    true labels, on the grid of `truth_spacing_mm`.  Pack-years stay as they are: it is the
    controlled direct effect of smoking.
    """
    volumes = {level: chest.volume(replace(subject, smoking=level), settings) for level in SMOKING}
    labels, spacing_mm = chest.labels, settings.truth_spacing_mm
    if spacing_mm is not None:
        labels = resample_labels(labels, volumes[SMOKING[0]], spacing_mm)
        volumes = {level: resample_isotropic(one, spacing_mm) for level, one in volumes.items()}
    masks = regions(labels, volumes[SMOKING[0]].spacing_mm, LUNG_REGIONS)
    arms = {level: _measures(one, masks) for level, one in volumes.items()}
    return [
        {
            "subject": subject.subject,
            "attribute": "smoking",
            "from": before,
            "to": after,
            "measure": measure,
            "region": region,
            # Resampling leaves traces of 1e-6 where nothing was changed.
            "change": round(arms[after][measure, region] - arms[before][measure, region], 4),
            "unit": MEASURES[measure].unit,
        }
        for before, after in permutations(SMOKING, 2)
        for measure in TRUTH_MEASURES
        for region in LUNG_REGIONS
    ]


def true_difference(
    subject: Subject, levels: tuple[str, str], settings: PhantomSettings
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """What smoking changes in one subject, voxel by voxel: HU (z, y, x), labels, spacing in mm.

    On the grid of `truth_spacing_mm`, from the first level to the second.
    """
    chest = scene(subject, settings)
    before, after = (chest.volume(replace(subject, smoking=level), settings) for level in levels)
    labels, spacing_mm = chest.labels, settings.truth_spacing_mm
    if spacing_mm is not None:
        labels = resample_labels(labels, before, spacing_mm)
        before, after = (resample_isotropic(one, spacing_mm) for one in (before, after))
    return after.hu - before.hu, labels, before.spacing_mm


def description(settings: PhantomSettings) -> dict:
    """What phantom.json says: the settings, and what was planted, in words."""
    return {
        "generated_by": f"dgmvlc {__version__} phantom",
        "settings": asdict(settings),
        "planted": {
            "smoking": {level: settings.smoking_upper_hu(level) for level in SMOKING},
            "smoking_pattern": "HU in the upper third of the lungs' height (fraction 2/3 to 1), "
            "fading linearly to 0 at mid-lung (1/2), 0 below; parenchyma only",
            "pack_years_hu_per_10": settings.pack_years_hu(10.0),
            "age_hu_per_year": settings.age_hu_per_year,
            "female_hu": settings.female_hu,
            "diagnosis_hu": 0.0,
        },
        "truth": "controlled direct effect of smoking on the same subject: anatomy, texture, noise "
        "and pack-years held fixed; measured on the true labels",
    }


def _measures(volume: Volume, masks: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """The value of every (measure, region) on one scan."""
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000.0
    values = {}
    for region, mask in masks.items():
        sample = Sample(volume.hu[mask], voxel_ml)
        for measure in TRUTH_MEASURES:
            values[measure, region] = MEASURES[measure].function(sample)
    return values


def _write_subject(out: Path, settings: PhantomSettings, subject: Subject) -> list[dict]:
    """Write scan and labels of one subject; return its rows of truth."""
    chest = scene(subject, settings)
    volume = chest.volume(subject, settings)
    write_volume(out / "scans" / f"{subject.subject}.nii.gz", volume)
    write_labels(out / "labels" / f"{subject.subject}.nii.gz", chest.labels, volume)
    return truth_of(subject, chest, settings)


def _refuse_foreign(out: Path) -> None:
    """Somebody's own scans and table are not written over."""
    if (out / "phantom.json").exists():
        return
    files = [path for name in ("scans", "labels") for path in (out / name).glob("[!.]*")]
    foreign = [path for path in files if not path.match("ph-*.nii.gz")]
    foreign += filter(Path.exists, [out / "clinical.csv"])
    if foreign:
        raise DgmvlcError(
            f"{out} holds {foreign[0].relative_to(out)}, which is of no phantom.",
            "Give the phantom a folder of its own.",
        )


def _clear(out: Path) -> None:
    """Take away an older cohort, its description first: no kill leaves it over mixed scans."""
    for name in ("phantom.json", "clinical.csv", "truth.tsv"):
        (out / name).unlink(missing_ok=True)
    for name in ("scans", "labels"):
        for path in (out / name).glob("ph-*.nii.gz"):
            path.unlink()


def _make_folders(out: Path) -> None:
    try:
        for name in ("scans", "labels"):
            (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from error
