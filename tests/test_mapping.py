"""From looks to group maps, and the phantom's true map."""

from __future__ import annotations

from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli import mapping
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.maps import HEIGHT, TEMPLATE, WIDTH
from dgmvlc_cli.measuring import Look
from dgmvlc_cli.phantom import PhantomSettings
from dgmvlc_cli.report import assemble

SMOKING = Contrast("smoking", "never smoker", "current smoker")
PLACEBO = Contrast("placebo_1", "cedar", "rowan")


def study(n: int = 24) -> tuple[list[Look], pd.DataFrame]:
    """Subjects whose upper third really changes with smoking; the model half believes it."""
    rng = np.random.default_rng(0)
    upper = np.zeros(TEMPLATE, np.float32)
    upper[2 * HEIGHT // 3 :] = -30
    upper[..., WIDTH] = np.nan
    smokes = np.arange(n) % 2
    looks = [
        Look(
            subject=f"s{k:02d}",
            rows=[],
            real_map=-850 + smokes[k] * upper + rng.normal(0, 12, TEMPLATE).astype(np.float32),
            difference_maps={
                SMOKING.text: upper / 2 + rng.normal(0, 3, TEMPLATE).astype(np.float32),
                PLACEBO.text: 4 + 0 * upper + rng.normal(0, 3, TEMPLATE).astype(np.float32),
            },
            cell_mm=(10.0, 9.0, 11.0),
        )
        for k in range(n)
    ]
    levels = np.array(["never smoker", "current smoker"], dtype=object)[smokes]
    rows = pd.DataFrame(
        {"smoking": levels, "age": rng.normal(60, 8, n)},
        index=pd.Index([look.subject for look in looks], name="subject"),
    )
    return looks, rows


@pytest.fixture(scope="module")
def found() -> mapping.Maps:
    looks, rows = study()
    return mapping.group_maps(looks, rows, [SMOKING, PLACEBO], ["age"], seed=0, tfce_flips=20)


def test_the_model_and_the_scans_agree_on_where_and_the_placebo_is_a_null(found):
    table = mapping.summary_table(found, SMOKING.text).set_index("map")
    assert set(table.index) == {"model_implied", "observed", "placebo"}
    assert table.loc["model_implied", "r_observed"] > 0.7
    assert table.loc["observed", "significant_percent"] > 15
    # 4 HU everywhere: significant by the model's own p nearly everywhere, and yet nothing.
    assert table.loc["placebo", "significant_percent"] > 20
    assert 25 < table.loc["model_implied", "beyond_placebos_percent"] < 40
    assert (table["method"].str.len() > 20).all()
    # One of so many flips is written as such, without the noise of single precision.
    assert len(f"{table.loc['model_implied', 'smallest_p_max']:.9g}") < 10


def test_the_same_looks_and_seed_give_the_same_maps(found):
    looks, rows = study()
    again = mapping.group_maps(looks, rows, [SMOKING, PLACEBO], ["age"], seed=0, tfce_flips=20)
    np.testing.assert_array_equal(
        found.group["model_implied"].p_tfce, again.group["model_implied"].p_tfce
    )
    np.testing.assert_array_equal(found.group["observed"].p_max, again.group["observed"].p_max)


def test_maps_are_written_as_nifti_that_another_library_reads(found, tmp_path):
    mapping.write_maps(tmp_path, found)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model_implied_effect.nii.gz", "observed_pmax.nii.gz"} <= names
    assert "model_implied_ptfce.nii.gz" in names and "truth_effect.nii.gz" not in names
    known = replace(found, truth=found.group["model_implied"].effect)
    mapping.write_maps(tmp_path, known)
    assert {path.name for path in tmp_path.iterdir()} == names | {"truth_effect.nii.gz"}
    unobserved = {name: one for name, one in found.group.items() if name != "observed"}
    mapping.write_maps(tmp_path, replace(found, group=unobserved))
    kept = {name for name in names if not name.startswith("observed")}
    assert {path.name for path in tmp_path.iterdir()} == kept  # what an earlier run left is gone
    image = nibabel.load(tmp_path / "model_implied_effect.nii.gz")
    assert image.header.get_zooms() == pytest.approx((11, 9, 10))
    values = np.asarray(image.dataobj).T  # NIfTI is (x, y, z)
    model = found.group["model_implied"]
    np.testing.assert_array_equal(values, np.nan_to_num(model.effect))
    mask = np.asarray(nibabel.load(tmp_path / "model_implied_mask.nii.gz").dataobj).T
    p = np.asarray(nibabel.load(tmp_path / "model_implied_pmax.nii.gz").dataobj).T
    np.testing.assert_array_equal(mask > 0, model.mask)
    assert (p[~model.mask] == 1).all()


def test_heights_average_the_cells_of_each_subject(found):
    heights = found.heights["model_implied"]
    assert heights.shape == (24, HEIGHT)
    np.testing.assert_allclose(heights[:, -4:].mean(), -15, atol=0.5)
    np.testing.assert_allclose(heights[:, :8].mean(), 0, atol=0.5)


def test_no_pairs_make_no_maps():
    _, rows = study()
    looks = [Look(subject=subject, rows=[]) for subject in rows.index]
    empty = mapping.group_maps(looks, rows, [SMOKING, PLACEBO], ["age"], seed=0, tfce_flips=20)
    assert not empty.group
    assert mapping.summary_table(empty, SMOKING.text).empty
    assert mapping.cells_table(empty).empty


def test_the_true_map_is_what_was_planted():
    settings = PhantomSettings(subjects=6, spacing_mm=8.0)
    known = mapping.true_map(settings, SMOKING, ["ph-0002", "ph-0005", "elsewhere"])
    assert known is not None
    truth, n = known
    assert n == 2
    # Parenchyma changes by 30 HU; vessels and the pleura's partial volume take a little away.
    assert -30 < np.nanmean(truth[2 * HEIGHT // 3 + 2 :]) < -26
    np.testing.assert_allclose(truth[: HEIGHT // 3][np.isfinite(truth[: HEIGHT // 3])], 0, atol=0.1)


def test_a_null_phantom_has_a_true_map_of_zeros_and_other_attributes_have_none():
    settings = PhantomSettings(subjects=3, spacing_mm=8.0, null=True)
    known = mapping.true_map(settings, SMOKING, ["ph-0001"])
    assert known is not None and np.nanmax(np.abs(known[0])) == 0
    assert mapping.true_map(settings, Contrast("age", 50.0, 70.0), ["ph-0001"]) is None
    assert mapping.true_map(settings, SMOKING, ["elsewhere"]) is None


def test_the_report_tells_the_flips_that_few_subjects_allow():
    looks, rows = study(8)
    maps = mapping.group_maps(looks, rows, [SMOKING], ["age"], seed=0, tfce_flips=20)
    facts = assemble.map_facts(maps)
    assert (facts["map_flips"], facts["map_tfce_flips"], facts["map_permutations"]) == (
        256,
        20,
        1000,
    )
    few = mapping.group_maps(looks[:4], rows, [SMOKING], ["age"], seed=0, tfce_flips=0)
    facts = assemble.map_facts(few)
    assert facts["map_flips"] == 16 and facts["map_tfce_flips"] is None
    assert "map_permutations" not in facts  # four scans are too few for a regression
