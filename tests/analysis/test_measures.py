from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dgmvlc_cli.analysis.measures import MEASURES, Sample, measure
from dgmvlc_cli.analysis.zones import REGIONS
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
    assert len(MEASURES) == 12
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


def test_all_measures_of_a_coarse_scan_take_milliseconds():
    z, y, x = np.mgrid[:32, :40, :40]
    lungs = ((z - 16) / 15) ** 2 + ((y - 20) / 16) ** 2 + ((abs(x - 20) - 10) / 9) ** 2 < 1
    labels = np.where(lungs, np.where(x < 20, 2, 3), 1).astype(np.uint8)
    hu = np.random.default_rng(0).normal(-850, 60, labels.shape).astype(np.float32)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        rows = measure(hu, labels, (6.0, 6.0, 6.0))
        seconds.append(time.perf_counter() - start)
    assert len(rows) == len(MEASURES) * len(REGIONS)
    assert min(seconds) < 0.05


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
