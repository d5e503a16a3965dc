"""One subject's images, read once: measures, maps, distances, and what the report shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lobed import lobed

from dgmvlc_cli import measuring
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.zones import LOBE_REGIONS, LUNG_REGIONS
from dgmvlc_cli.imaging.files import read_labels, read_volume, write_labels, write_volume
from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.volume import Tissue, Volume
from dgmvlc_cli.measuring import ArmVolume, MeasureTask, look_at
from dgmvlc_cli.workspace import Workspace

SMOKING = Contrast("smoking", "never smoker", "current smoker")
PLACEBO = Contrast("placebo_1", "cedar", "rowan")
GRID = (14, 12, 16)
CHANGES = {SMOKING.arms[0]: 0, SMOKING.arms[1]: -20, PLACEBO.arms[0]: 0, PLACEBO.arms[1]: 3}


def write_subject(root: Path, draws: int = 2) -> tuple[ArmVolume, ...]:
    """A box-lunged subject, and arms that move the lungs by `CHANGES`, 2 HU more in draw 1."""
    labels = np.full(GRID, Tissue.BODY, np.uint8)
    labels[2:12, 2:10, 2:7], labels[2:12, 2:10, 9:14] = Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG
    lung = labels >= Tissue.RIGHT_LUNG
    hu = np.where(lung, -850.0, 40.0).astype(np.float32)

    def volume(change: float) -> Volume:
        moved = hu + np.float32(change) * lung
        return Volume(hu=moved, spacing_mm=(10.0, 10.0, 10.0), origin_mm=(0.0, 0.0, 0.0))

    ws = Workspace(root)
    write_volume(ws.ct_path("s1"), volume(0))
    write_labels(ws.mask_path("s1"), labels, volume(0))
    arms = []
    for arm, change in CHANGES.items():
        for seed in range(draws):
            path = root / f"{arm.replace(' ', '-')}-{seed}.nii.gz"
            write_volume(path, volume(change + 2 * seed * (change != 0)))
            arms.append(ArmVolume(arm=arm, seed=seed, path=path))
    return tuple(arms)


def task(root: Path, arms: tuple[ArmVolume, ...], **changes: object) -> MeasureTask:
    fields: dict = {
        "workspace": Workspace(root),
        "subject": "s1",
        "fold": 1,
        "arms": arms,
        "grid": GRID,
        "spacing_mm": 10.0,
        "contrasts": (SMOKING, PLACEBO),
        "studied": SMOKING,
        "sentences": ("never", "current"),
        "keep_images": True,
    }
    return MeasureTask(**(fields | changes))


def test_lobes_are_cut_in_the_real_scan_and_the_arms_alike_wherever_they_are_placed(tmp_path):
    arms, ws = write_subject(tmp_path, draws=1), Workspace(tmp_path)
    bare = look_at(task(tmp_path, arms))
    scan, labels = read_volume(ws.ct_path("s1")), read_labels(ws.mask_path("s1"))
    hu = scan.hu - 50 * (lobed(labels) == Lobe.LEFT_LOWER)
    write_labels(ws.lobes_path("s1"), lobed(labels), scan)
    pad = ((1, 0), (0, 2), (3, 0))  # the scan lies elsewhere than on the generator's grid
    wide = replace(scan, hu=np.pad(hu, pad, constant_values=-1000))
    write_volume(ws.ct_path("s1"), wide)
    write_labels(ws.mask_path("s1"), np.pad(labels, pad), wide)
    write_labels(ws.lobes_path("s1"), np.pad(lobed(labels), pad), wide)
    table = measuring.measures_table([look_at(task(tmp_path, arms))])
    means = table[table["measure"] == "mean_hu"].set_index(["arm", "region"])["value"]
    assert means["observed", "left_lower_lobe"] == pytest.approx(-900)
    assert means["observed", "left_upper_lobe"] == pytest.approx(-850)
    assert (means.loc["smoking=current smoker"].loc[list(LOBE_REGIONS)] == -870).all()
    # What is measured elsewhere in the generated arms is what it was without lobes.
    before = measuring.measures_table([bare])
    kept = table[~table["region"].isin(LOBE_REGIONS) & (table["arm"] != "observed")]
    pd.testing.assert_frame_equal(
        kept[kept["region"].isin(LUNG_REGIONS)].reset_index(drop=True),
        before[before["region"].isin(LUNG_REGIONS) & (before["arm"] != "observed")].reset_index(
            drop=True
        ),
    )


def test_every_image_is_read_once(tmp_path, monkeypatch):
    arms, read = write_subject(tmp_path), Counter()
    original = measuring.read_volume
    monkeypatch.setattr(
        measuring, "read_volume", lambda path: read.update([path]) or original(path)
    )
    look = look_at(task(tmp_path, arms))
    assert set(read.values()) == {1} and len(read) == 1 + len(arms)
    assert look.pair is not None and look.summary is not None


def test_differences_are_averaged_over_draws_and_kept_by_contrast(tmp_path):
    look = look_at(task(tmp_path, write_subject(tmp_path)))
    assert set(look.difference_maps) == {SMOKING.text, PLACEBO.text}
    assert np.nanmean(look.difference_maps[SMOKING.text]) == pytest.approx(-19)
    assert np.nanmean(look.difference_maps[PLACEBO.text]) == pytest.approx(4)
    assert np.nanmean(look.real_map) == pytest.approx(-850, abs=0.1)
    table = measuring.measures_table([look]).query("measure == 'mean_hu' and region == 'lungs'")
    assert table.groupby("arm")["value"].mean()["smoking=current smoker"] == pytest.approx(-869)


def test_regions_are_cut_once_for_all_arms(tmp_path, monkeypatch):
    arms, cut = write_subject(tmp_path), []
    original = measuring.regions
    monkeypatch.setattr(
        measuring, "regions", lambda *mask, **scan: cut.append(mask) or original(*mask, **scan)
    )
    assert len(look_at(task(tmp_path, arms)).rows) > 2 * len(arms)
    assert len(cut) == 1


def test_what_moves_is_of_the_studied_contrast_and_a_mean_over_draws(tmp_path):
    arms = write_subject(tmp_path)
    moved = look_at(task(tmp_path, arms)).moved_hu
    assert (moved["lungs"], moved["body"]) == (19, 0)
    assert not look_at(task(tmp_path, arms, studied=None)).moved_hu


def test_a_subject_that_does_not_inform_a_contrast_is_measured_and_not_shown(tmp_path):
    look = look_at(task(tmp_path, write_subject(tmp_path), contrasts=(PLACEBO,), studied=None))
    assert SMOKING.arms[1] in {row["arm"] for row in look.rows}
    assert set(look.difference_maps) == {PLACEBO.text}
    assert {row["contrast"] for row in look.distances} == {PLACEBO.text}
    assert look.pair is None and look.summary is None


def test_distances_are_those_of_the_shift_in_every_draw(tmp_path):
    look = look_at(task(tmp_path, write_subject(tmp_path)))
    table = measuring.distances_table([look])
    assert list(table.columns) == list(measuring.DISTANCE_COLUMNS)
    lungs = table[(table["region"] == "lungs") & (table["contrast"] == SMOKING.text)]
    assert lungs["value"].tolist() == [20, 18]


def test_images_are_given_back_where_asked_and_always_of_the_first_draw(tmp_path):
    arms = write_subject(tmp_path)
    kept, bare = look_at(task(tmp_path, arms)), look_at(task(tmp_path, arms, keep_images=False))
    assert bare.pair is None and bare.summary is not None
    assert kept.pair.difference_hu[kept.pair.lung].tolist() == [-20] * int(kept.pair.lung.sum())
    assert kept.pair.target_sentence == "current"


def test_an_arm_that_is_missing_leaves_the_rest(tmp_path):
    arms = tuple(one for one in write_subject(tmp_path) if one.arm != SMOKING.arms[1])
    look = look_at(task(tmp_path, arms))
    assert set(look.difference_maps) == {PLACEBO.text}
    assert look.pair is None and look.summary is None
    assert {row["contrast"] for row in look.distances} == {PLACEBO.text}


def test_without_contrasts_only_the_scan_is_measured(tmp_path):
    write_subject(tmp_path)
    look = look_at(task(tmp_path, (), contrasts=(), grid=None))
    assert {row["arm"] for row in look.rows} == {"observed"}
    assert look.real_map is None and not look.difference_maps
