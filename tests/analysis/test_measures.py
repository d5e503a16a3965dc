from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dgmvlc_cli.analysis.measures import (
    MEASURES,
    Sample,
    cluster_sizes,
    measure,
    power_law_exponent,
    wasserstein_hu,
)
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.volume import Tissue

SPACING = (2.0, 3.0, 4.0)
REAL_DATA = Path(os.environ.get("DGMVLC_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def values(rows: list[dict], region: str = "lungs") -> dict[str, float]:
    return {row["measure"]: row["value"] for row in rows if row["region"] == region}


@pytest.fixture
def lung() -> tuple[np.ndarray, np.ndarray]:
    hu = np.random.default_rng(3).normal(-850, 80, (10, 11, 12)).astype(np.float32)
    return hu, np.full(hu.shape, Tissue.RIGHT_LUNG, np.uint8)


def test_every_measure_says_what_it_is():
    assert len(MEASURES) == 13
    for name, item in MEASURES.items():
        assert item.name == name
        assert item.unit and item.definition and item.label
        assert "doi:10." in item.source


def test_first_order_measures_equal_numpy_and_scipy(lung):
    got = values(measure(*lung, SPACING))
    hu = lung[0].astype(np.float64).ravel()
    assert got["mean_hu"] == pytest.approx(hu.mean())
    assert got["median_hu"] == pytest.approx(np.median(hu))
    assert got["sd_hu"] == pytest.approx(hu.std())
    assert got["skewness"] == pytest.approx(stats.skew(hu))
    assert got["kurtosis"] == pytest.approx(stats.kurtosis(hu))
    assert got["perc15_hu"] == pytest.approx(np.percentile(hu, 15))


def test_thresholds_count_below_and_within():
    hu = np.array([-960, -950, -949, -911, -910, -857, -856, -600, -425, -250, -249, 0.0])
    got = values(measure(hu.reshape(2, 2, 3), np.full((2, 2, 3), Tissue.LEFT_LUNG), SPACING))
    assert got["laa950_percent"] == pytest.approx(100 * 1 / 12)
    assert got["laa910_percent"] == pytest.approx(100 * 4 / 12)
    assert got["laa856_percent"] == pytest.approx(100 * 6 / 12)
    assert got["haa_percent"] == pytest.approx(100 * 3 / 12)


def test_volume_and_mass_of_half_dense_lung(lung):
    hu, labels = lung
    got = values(measure(np.full_like(hu, -500.0), labels, SPACING))
    assert got["volume_ml"] == pytest.approx(hu.size * 0.024)
    assert got["mass_g"] == pytest.approx(got["volume_ml"] / 2)


def test_what_is_not_defined_is_missing_with_a_reason(lung):
    hu, labels = lung
    rows = measure(np.full_like(hu, -850.0), labels, SPACING)
    reasons = {(row["region"], row["measure"]): row["reason"] for row in rows if row["reason"]}
    assert reasons["lungs", "skewness"] == reasons["lungs", "kurtosis"] == "constant region"
    assert reasons["left_lung", "mean_hu"] == reasons["airway", "volume_ml"] == "empty region"
    assert ("lungs", "mean_hu") not in reasons
    assert all(np.isnan(row["value"]) == bool(row["reason"]) for row in rows)


def test_a_hole_of_nan_spoils_its_region_only(lung):
    hu, labels = lung
    labels[:5] = Tissue.LEFT_LUNG
    hu[0, 0, 0] = np.nan
    rows = measure(hu, labels, SPACING, ["mean_hu"], ["left_lung", "right_lung"])
    assert rows[0]["reason"] == "1 of 660 voxels are not finite"
    assert np.isfinite(rows[1]["value"])


def test_rows_follow_the_order_asked_for(lung):
    rows = measure(*lung, SPACING, ["mass_g", "mean_hu"], ["upper", "lungs"])
    assert [(row["region"], row["measure"]) for row in rows] == [
        ("upper", "mass_g"),
        ("upper", "mean_hu"),
        ("lungs", "mass_g"),
        ("lungs", "mean_hu"),
    ]
    assert set(rows[0]) == {"region", "measure", "value", "unit", "reason"}


def test_wrong_names_and_shapes_are_refused(lung):
    hu, labels = lung
    with pytest.raises(UsageError, match="mean_hus"):
        measure(hu, labels, SPACING, ["mean_hus"])
    with pytest.raises(DgmvlcError, match="shape"):
        measure(hu, labels[1:], SPACING)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1024, 3000), min_size=1, max_size=40), st.integers(0, 100))
def test_percentiles_equal_numpy_for_any_voxels(hu, percent):
    sample = Sample(np.array(hu, np.float32), 1.0)
    assert sample.percentile(percent) == pytest.approx(np.percentile(hu, percent))


def lungs_below(count: int, shape: tuple[int, int, int] = (20, 20, 20)) -> np.ndarray:
    """HU with `count` single voxels and one block of 8 below -950."""
    hu = np.full(shape, -850.0, np.float32)
    places = [(z, y, x) for z in range(0, 20, 2) for y in range(0, 20, 2) for x in range(0, 14, 2)]
    for place in places[:count]:
        hu[place] = -970
    hu[10:12, 10:12, 16:18] = -970
    return hu


def test_clusters_of_emphysema_are_counted_by_size():
    hu = lungs_below(12)
    sample = Sample(hu.ravel(), 0.008, (hu, np.ones(hu.shape, bool)))
    assert sorted(cluster_sizes(sample)) == [1] * 12 + [8]


def test_the_exponent_of_a_power_law_is_recovered():
    # P(size) = size^-2.5 / zeta(2.5): the cumulative exponent is 1.5.
    sizes = stats.zipf.rvs(2.5, size=4000, random_state=0)
    assert power_law_exponent(sizes) == pytest.approx(1.5, abs=0.06)
    assert power_law_exponent(sizes[sizes < 3]) > 1.7  # fewer large clusters: steeper


def test_the_cluster_exponent_is_for_fine_scans_of_lungs_with_clusters():
    hu, labels = lungs_below(12), np.full((20, 20, 20), Tissue.RIGHT_LUNG, np.uint8)
    labels[-2:] = Tissue.AIRWAY
    fine = measure(hu, labels, (1.0, 0.7, 0.7), ["cluster_exponent"])
    by_region = {row["region"]: row for row in fine}
    assert by_region["right_lung"]["value"] > 0
    assert by_region["upper"]["reason"].endswith("at least 10 needed")
    assert "airway" not in by_region
    assert not measure(hu, labels, (4.0, 4.0, 4.0), ["cluster_exponent"])


def test_the_distance_of_distributions_equals_scipy_and_a_shift():
    rng = np.random.default_rng(0)
    one, other = rng.normal(-850, 60, 500), rng.normal(-870, 80, 500)
    assert wasserstein_hu(one, other) == pytest.approx(stats.wasserstein_distance(one, other))
    assert wasserstein_hu(one, rng.permutation(one) - 13) == pytest.approx(13)
    uneven = wasserstein_hu(one, other[:300])
    assert uneven == pytest.approx(stats.wasserstein_distance(one, other[:300]))


def test_muscle_and_fat_are_cut_from_the_real_scan_a_voxel_below_the_surface():
    labels = np.full((9, 9, 12), Tissue.OUTSIDE, np.uint8)
    labels[1:8, 1:8, 1:11] = Tissue.BODY
    scan = np.where(np.arange(12) < 6, 50.0, -100.0) * np.ones(labels.shape)
    arm = scan + 7
    got = {
        row["region"]: row["value"]
        for row in measure(arm, labels, SPACING, ["mean_hu"], ["muscle", "fat"], scan_hu=scan)
    }
    assert got == {"muscle": 57, "fat": -93}
    volumes = measure(scan, labels, (1.0, 1.0, 1.0), ["volume_ml"], ["muscle", "fat"])
    assert [row["value"] for row in volumes] == pytest.approx([0.1, 0.1])  # 5 x 5 x 4 voxels each


def test_first_order_measures_equal_pyradiomics(lung):
    radiomics = pytest.importorskip("radiomics.firstorder")
    sitk = pytest.importorskip("SimpleITK")
    hu, labels = lung
    image, mask = (sitk.GetImageFromArray(a) for a in (hu, (labels > 0).astype(np.uint8)))
    theirs = radiomics.RadiomicsFirstOrder(image, mask, binWidth=25)
    theirs.enableAllFeatures()
    found = {name: float(value) for name, value in theirs.execute().items()}
    got = values(measure(hu, labels, SPACING))
    assert got["mean_hu"] == pytest.approx(found["Mean"])
    assert got["median_hu"] == pytest.approx(found["Median"])
    assert got["sd_hu"] == pytest.approx(found["Variance"] ** 0.5)
    assert got["skewness"] == pytest.approx(found["Skewness"])
    # Theirs is not less 3.
    assert got["kurtosis"] == pytest.approx(found["Kurtosis"] - 3)


def test_the_real_scan_measures_as_known():
    folder = REAL_DATA / "ct64"
    if not folder.is_dir():
        pytest.skip(f"no real scan in {folder}")
    sitk = pytest.importorskip("SimpleITK")
    scan = sitk.ReadImage(str(folder / "ct-64.nrrd"))
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "wholelung-64.nrrd")))
    labels = np.where(mask > 0, Tissue.RIGHT_LUNG, Tissue.OUTSIDE)
    got = values(measure(sitk.GetArrayFromImage(scan), labels, scan.GetSpacing()[::-1]))
    assert got["laa950_percent"] == pytest.approx(19.7, abs=0.05)
    assert got["mean_hu"] == pytest.approx(-874, abs=0.5)
    assert got["volume_ml"] == pytest.approx(4550, abs=5)
