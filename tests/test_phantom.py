"""The synthetic cohort: reproducible, anatomically sound, and true to what it says it planted."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import dgmvlc
from scipy import ndimage

from dgmvlc_cli.analysis.measures import measure
from dgmvlc_cli.analysis.zones import LUNG_REGIONS, regions
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.files import read_labels, read_volume
from dgmvlc_cli.imaging.volume import Tissue
from dgmvlc_cli.phantom import PhantomSettings, write_cohort
from dgmvlc_cli.phantom.cohort import TRUTH_MEASURES, truth_of
from dgmvlc_cli.phantom.lungs import mottle
from dgmvlc_cli.phantom.render import Scene, render, scene, upper_weight
from dgmvlc_cli.phantom.shapes import capsule, ellipsoid
from dgmvlc_cli.phantom.table import COLUMNS, SMOKING, Subject, recorded, true_subjects
from dgmvlc_cli.phantom.trees import Grid, fill, polyline

COARSE = PhantomSettings(subjects=3, spacing_mm=8.0, seed=4)
NEVER, FORMER, CURRENT = SMOKING


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def change(truth: list[dict], region: str, name: str = "mean_hu") -> float:
    (row,) = (
        row
        for row in truth
        if (row["from"], row["to"], row["region"], row["measure"]) == (NEVER, CURRENT, region, name)
    )
    return float(row["change"])


def lungs(labels: np.ndarray) -> np.ndarray:
    return (labels == Tissue.RIGHT_LUNG) | (labels == Tissue.LEFT_LUNG)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort")
    write_cohort(out, COARSE)
    return out


@pytest.fixture(scope="module")
def subject() -> Subject:
    return true_subjects(COARSE)[0]


@pytest.fixture(scope="module")
def chest(subject: Subject) -> Scene:
    return scene(subject, replace(COARSE, spacing_mm=6.0))


# Files ---------------------------------------------------------------------------------------


def test_same_seed_gives_identical_files_whatever_the_workers(cohort: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, COARSE, workers=2)
    assert contents(tmp_path) == contents(cohort)


def test_another_seed_gives_other_subjects_and_scans(cohort: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, replace(COARSE, seed=5, subjects=1))
    ours, theirs = contents(cohort), contents(tmp_path)
    for name in ("scans/ph-0001.nii.gz", "labels/ph-0001.nii.gz", "clinical.csv"):
        assert ours[name] != theirs[name]


def test_a_larger_cohort_begins_with_the_smaller_one(cohort: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, replace(COARSE, subjects=1))
    name = "scans/ph-0001.nii.gz"
    assert contents(tmp_path)[name] == contents(cohort)[name]


def test_cohort_has_the_files_the_stages_expect(cohort: Path) -> None:
    names = [f"ph-000{n}.nii.gz" for n in (1, 2, 3)]
    assert sorted(path.name for path in (cohort / "scans").iterdir()) == names
    assert sorted(path.name for path in (cohort / "labels").iterdir()) == names
    with (cohort / "clinical.csv").open(newline="") as stream:
        assert tuple(next(csv.reader(stream))) == COLUMNS
    description = json.loads((cohort / "phantom.json").read_text())
    assert description["settings"]["seed"] == 4
    assert description["planted"]["smoking"] == {NEVER: 0.0, FORMER: -15.0, CURRENT: -30.0}


def test_scan_on_disk_is_the_render_with_its_geometry(cohort: Path, subject: Subject) -> None:
    volume, labels = render(subject, COARSE)
    saved = read_volume(cohort / "scans" / "ph-0001.nii.gz")
    np.testing.assert_array_equal(saved.hu, volume.hu)
    np.testing.assert_array_equal(read_labels(cohort / "labels" / "ph-0001.nii.gz"), labels)
    assert saved.spacing_mm == (8.0, 8.0, 8.0)
    np.testing.assert_allclose(saved.origin_mm, volume.origin_mm, atol=1e-3)
    np.testing.assert_allclose(saved.direction, np.eye(3).ravel())


def test_progress_counts_every_subject(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_cohort(tmp_path, COARSE, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("own", ["clinical.csv", "scans/mine.nii.gz"])
def test_somebodys_own_scans_and_table_are_not_written_over(tmp_path: Path, own: str) -> None:
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("mine")
    with pytest.raises(DgmvlcError, match=own):
        write_cohort(tmp_path, COARSE)
    assert (tmp_path / own).read_text() == "mine"


def test_a_cohort_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    write_cohort(tmp_path, COARSE)
    for name in ("phantom.json", "clinical.csv", "scans/ph-0002.nii.gz"):
        (tmp_path / name).unlink()
    write_cohort(tmp_path, COARSE)
    assert len(list((tmp_path / "scans").iterdir())) == 3


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DgmvlcError, match="Cannot write"):
        write_cohort(blocked / "cohort", COARSE)


@pytest.mark.parametrize(
    "wrong", [{"subjects": 0}, {"spacing_mm": 0.5}, {"seed": -1}, {"missing_rate": 0.9}]
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PhantomSettings(**wrong)


# Truth ---------------------------------------------------------------------------------------


def test_truth_equals_the_measured_difference_of_two_renders(
    cohort: Path, subject: Subject
) -> None:
    never, labels = render(replace(subject, smoking=NEVER), COARSE)
    current, _ = render(replace(subject, smoking=CURRENT), COARSE)
    rows = [
        pd.DataFrame(measure(volume.hu, labels, volume.spacing_mm, TRUTH_MEASURES, LUNG_REGIONS))
        for volume in (never, current)
    ]
    expected = rows[0].assign(change=rows[1]["value"] - rows[0]["value"])
    truth = pd.read_csv(cohort / "truth.tsv", sep="\t")
    ours = truth[(truth.subject == "ph-0001") & (truth["from"] == NEVER) & (truth["to"] == CURRENT)]
    both = ours.merge(expected[["measure", "region", "change"]], on=["measure", "region"])
    assert len(both) == len(ours) == len(TRUTH_MEASURES) * len(LUNG_REGIONS)
    np.testing.assert_allclose(both["change_x"], both["change_y"], atol=1e-4)


def test_truth_has_every_subject_contrast_measure_and_region_once(cohort: Path) -> None:
    truth = pd.read_csv(cohort / "truth.tsv", sep="\t")
    assert len(truth) == 3 * 6 * len(TRUTH_MEASURES) * len(LUNG_REGIONS)
    assert not truth.duplicated(["subject", "from", "to", "measure", "region"]).any()
    back = truth.rename(columns={"from": "to", "to": "from"})
    pair = truth.merge(back, on=["subject", "from", "to", "measure", "region"])
    np.testing.assert_allclose(pair["change_x"], -pair["change_y"])


def test_effect_is_what_was_planted_above_and_nothing_below(subject: Subject, chest: Scene) -> None:
    truth = truth_of(subject, chest, COARSE)
    assert -30.5 < change(truth, "upper") < -24.0
    assert -30.5 < change(truth, "upper", "median_hu") < -26.0
    assert change(truth, "middle") < -2.0
    assert all(row["change"] == 0.0 for row in truth if row["region"] == "lower")


def test_effect_touches_labelled_lung_only(subject: Subject, chest: Scene) -> None:
    never = chest.volume(replace(subject, smoking=NEVER), COARSE).hu
    current = chest.volume(replace(subject, smoking=CURRENT), COARSE).hu
    changed = never != current
    assert changed.any()
    assert not (changed & ~lungs(chest.labels)).any()


def test_effect_is_the_same_at_every_spacing(subject: Subject) -> None:
    fine, coarse = (
        change(truth_of(subject, scene(subject, settings), settings), "upper")
        for settings in (replace(COARSE, spacing_mm=4.0), COARSE)
    )
    assert fine == pytest.approx(coarse, abs=2.0)


def test_pattern_fades_from_the_upper_third_to_mid_lung() -> None:
    height = np.array([0.0, 0.5, 7 / 12, 2 / 3, 1.0])
    np.testing.assert_allclose(upper_weight(height), [0, 0, 0.5, 1, 1], atol=1e-12)


def test_former_smokers_keep_the_fraction(subject: Subject, chest: Scene) -> None:
    arms = {s: chest.planted(replace(subject, smoking=s), COARSE) for s in SMOKING}
    assert not arms[NEVER].any()
    np.testing.assert_allclose(arms[FORMER], 0.5 * arms[CURRENT], rtol=1e-6)


def test_null_cohort_is_the_one_with_zero_planted(tmp_path: Path) -> None:
    settings = replace(COARSE, subjects=2, pack_years_diffuse_hu_per_10=3.0)
    write_cohort(tmp_path / "null", replace(settings, null=True))
    zero = replace(settings, current_upper_hu=0.0, pack_years_diffuse_hu_per_10=0.0)
    write_cohort(tmp_path / "zero", zero)
    null, zeroed = contents(tmp_path / "null"), contents(tmp_path / "zero")
    assert null.pop("phantom.json") != zeroed.pop("phantom.json")
    assert null == zeroed
    assert (pd.read_csv(tmp_path / "null" / "truth.tsv", sep="\t")["change"] == 0.0).all()


def test_pack_years_raise_all_parenchyma_and_leave_the_smoking_truth(
    subject: Subject, chest: Scene
) -> None:
    settings = replace(COARSE, pack_years_diffuse_hu_per_10=4.0)
    heavy = chest.planted(replace(subject, smoking=NEVER, pack_years=20.0), settings)
    np.testing.assert_allclose(heavy, 8.0 * chest.parenchyma, rtol=1e-5)
    ours = change(truth_of(subject, chest, settings), "upper")
    assert ours == pytest.approx(change(truth_of(subject, chest, COARSE), "upper"), abs=0.1)


# Anatomy -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anatomies() -> list[tuple[np.ndarray, np.ndarray]]:
    settings = PhantomSettings(subjects=6, spacing_mm=6.0, seed=11)
    pairs = [render(one, settings) for one in true_subjects(settings)]
    return [(volume.hu, labels) for volume, labels in pairs]


def test_lungs_are_two_of_plausible_size_right_one_larger(
    anatomies: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for _, labels in anatomies:
        right, left = ((labels == side).sum() * 0.216 for side in (2, 3))
        assert 2000 < right + left < 8000
        assert left < right < 1.4 * left
        for side in (Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG):
            sizes = np.sort(np.bincount(ndimage.label(labels == side)[0].ravel())[1:])
            assert sizes[-1] > 0.98 * sizes.sum()


def test_right_lung_lies_at_low_x(anatomies: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for _, labels in anatomies:
        right, left = (np.nonzero(labels == side)[2].mean() for side in (2, 3))
        assert right < left


def test_lungs_do_not_touch_each_other_or_the_outside(
    anatomies: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for _, labels in anatomies:
        right = ndimage.binary_dilation(labels == Tissue.RIGHT_LUNG, np.ones((3, 3, 3)))
        assert not (right & (labels == Tissue.LEFT_LUNG)).any()
        around = ndimage.binary_dilation(lungs(labels), iterations=2)
        assert not (around & (labels == Tissue.OUTSIDE)).any()
        for axis in range(3):
            edges = np.take(lungs(labels), [0, -1], axis=axis)
            assert not edges.any()


def test_airways_are_one_tree_from_the_top_of_the_scan(
    anatomies: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for hu, labels in anatomies:
        airway = labels == Tissue.AIRWAY
        assert ndimage.label(airway)[1] == 1
        assert airway[-1].any()
        assert hu[airway & ~ndimage.binary_dilation(lungs(labels))].min() < -950
        for side in (Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG):
            assert (ndimage.binary_dilation(labels == side) & airway).any()


def test_a_threshold_finds_the_lungs_with_the_airways(
    anatomies: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for hu, labels in anatomies:
        dark = (hu < -400) & (labels != Tissue.OUTSIDE)
        parts, _ = ndimage.label(dark)
        largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
        truth = lungs(labels) | (labels == Tissue.AIRWAY)
        overlap = 2 * (largest & truth).sum() / (largest.sum() + truth.sum())
        assert overlap > 0.9


def test_lung_density_is_that_of_people(
    anatomies: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for hu, labels in anatomies:
        assert -890 < hu[lungs(labels)].mean() < -770
        zone = regions(labels, (6.0, 6.0, 6.0), ["anterior", "posterior"])
        assert np.median(hu[zone["posterior"]]) > np.median(hu[zone["anterior"]]) + 10


def test_tissues_have_their_hu(anatomies: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for hu, labels in anatomies:
        body = hu[labels == Tissue.BODY]
        for low, high, share in ((-140, -60, 0.05), (20, 90, 0.1), (200, 1200, 0.01)):
            assert ((body > low) & (body < high)).mean() > share
        outside = hu[(labels == Tissue.OUTSIDE)]
        assert np.median(outside) == pytest.approx(-1000, abs=25)


# Table ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people() -> list[Subject]:
    return true_subjects(PhantomSettings(subjects=3000, seed=2))


def test_smoking_is_confounded_by_sex_and_age(people: list[Subject]) -> None:
    shares = Counter(one.smoking for one in people)
    for level, share in ((NEVER, 0.45), (FORMER, 0.25), (CURRENT, 0.30)):
        assert shares[level] / len(people) == pytest.approx(share, abs=0.04)
    female = {s: np.mean([p.sex == "female" for p in people if p.smoking == s]) for s in SMOKING}
    age = {s: np.mean([p.age for p in people if p.smoking == s]) for s in SMOKING}
    assert female[NEVER] > female[CURRENT] + 0.1
    assert age[FORMER] > age[CURRENT] + 2.0


def test_smoking_history_is_coherent(people: list[Subject]) -> None:
    for one in people:
        assert (one.quit_year is not None) == (one.smoking == FORMER)
        assert (one.pack_years > 0) == (one.smoking != NEVER)
        assert 40 <= one.age <= 80
        if one.quit_year is not None:
            assert one.scan_date.year - (one.age - 19) < one.quit_year < one.scan_date.year


def test_table_has_missing_entries_sentinels_and_not_applicable(people: list[Subject]) -> None:
    settings = PhantomSettings(subjects=3000, seed=2)
    table = pd.DataFrame([recorded(one, settings) for one in people])
    assert tuple(table.columns) == COLUMNS
    assert table["subject"].is_unique
    assert not table["subject"].isin(["", "99999", "Not Collected"]).any()
    lost = table.isin(["", "99999", "Not Collected"]).mean()
    assert lost["smoking_status"] == pytest.approx(0.02, abs=0.01)
    for column in ("age", "sex", "bmi", "diagnosis", "scan_date"):
        assert lost[column] == pytest.approx(0.04, abs=0.015)
    for sentinel in ("", "99999", "Not Collected"):
        assert (table["bmi"] == sentinel).any()
    never = table["smoking_status"] == NEVER
    assert (table.loc[never, ["pack_years", "quit_year"]] == "N/A").all(axis=None)


def test_recording_does_not_depend_on_what_was_planted(people: list[Subject]) -> None:
    settings = PhantomSettings(subjects=3000, seed=2)
    null = replace(settings, null=True)
    assert recorded(people[0], settings) == recorded(people[0], null)


# Geometry ------------------------------------------------------------------------------------


def test_shapes_measure_distances() -> None:
    x, y, z = (np.array([value]) for value in (3.0, 4.0, 0.0))
    rod = capsule(x, y, z, np.array([0.0, 0, -5]), np.array([0.0, 0, 5]), 1.0)
    np.testing.assert_allclose(rod, 4.0, atol=1e-3)
    ball = ellipsoid(x, y, z, (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    np.testing.assert_allclose(ball, 3.0, atol=1e-3)


@pytest.mark.parametrize("radius", [0.8, 6.0])
def test_filled_branches_keep_their_volume(radius: float) -> None:
    axis = np.arange(-40.0, 41.0, 4.0, dtype=np.float32)
    grid = Grid(x=axis, y=axis, z=axis, spacing=4.0)
    rod = polyline(np.array([[-20.0, 3.0, 1.0], [20.0, -5.0, 7.0]]), [radius, radius])
    volume = float(fill(rod, grid).sum()) * 4.0**3
    ends = 4 / 3 * np.pi * radius**3 if radius > 2.4 else 0.0
    assert volume == pytest.approx(np.pi * radius**2 * rod.length[0] + ends, rel=0.06)


def test_texture_is_one_field_for_all_voxel_sizes() -> None:
    fields = []
    for spacing in (2.0, 4.0):
        axis = np.arange(0.0, 80.0, spacing, dtype=np.float32)
        grid = Grid(x=axis, y=axis, z=axis, spacing=spacing)
        fields.append(mottle(grid, 6.0, np.random.default_rng(0)))
    np.testing.assert_allclose(fields[0][::2, ::2, ::2], fields[1], atol=1e-5)
    assert fields[0].std() == pytest.approx(1.0, abs=0.1)


def test_subjects_differ_in_shape() -> None:
    settings = replace(COARSE, subjects=4)
    sizes = [int(lungs(render(one, settings)[1]).sum()) for one in true_subjects(settings)]
    assert all(a != b for a, b in pairwise(sorted(sizes)))


def test_on_a_coarser_grid_the_true_change_measures_a_little_smaller(tmp_path):
    fine = PhantomSettings(subjects=1, spacing_mm=6.0, seed=3)
    changes = {}
    for spacing_mm in (None, 12.0):
        settings = replace(fine, truth_spacing_mm=spacing_mm)
        subject = true_subjects(settings)[0]
        rows = truth_of(subject, scene(subject, settings), settings)
        changes[spacing_mm] = {
            row["region"]: row["change"]
            for row in rows
            if row["measure"] == "mean_hu"
            and (row["from"], row["to"]) == ("never smoker", "current smoker")
        }
    assert changes[None]["upper"] < changes[12.0]["upper"] < 0.8 * changes[None]["upper"]
    assert changes[12.0]["lower"] == pytest.approx(0, abs=1e-3)


def test_effect_and_confounding_can_be_chosen_from_the_command_line(tmp_path):
    arguments = ("--subjects", "1", "--spacing", "8", "--workers", "1")
    chosen = ("--effect-hu", "-10", "--confounding", "2", "--truth-spacing", "10")
    dgmvlc("phantom", str(tmp_path), *arguments, *chosen)
    settings = json.loads((tmp_path / "phantom.json").read_text())["settings"]
    usual = PhantomSettings()
    assert settings["current_upper_hu"] == -10
    assert settings["female_hu"] == 2 * usual.female_hu
    assert settings["age_hu_per_year"] == 2 * usual.age_hu_per_year
    assert settings["truth_spacing_mm"] == 10
