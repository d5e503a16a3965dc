import numpy as np
import pytest

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.intensity import MINIMUM_SCALE_HU, exposure, fit_standardiser


def scan(seed: int, lung_hu: float = -850.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (12, 12, 12)).astype(np.uint8)
    centre = np.array([-1000.0, 20.0, lung_hu, lung_hu, -950.0])[labels]
    return (centre + rng.normal(0, 40, labels.shape) * (labels > 0)).astype(np.float32), labels


def test_the_inverse_is_exact():
    hu, labels = scan(0)
    standardiser = fit_standardiser([(hu, labels)])
    again = standardiser.to_hu(standardiser.to_z(hu, labels), labels)
    assert again == pytest.approx(hu, abs=1e-3)


def test_every_class_is_centred_and_scaled():
    hu, labels = scan(0)
    z = fit_standardiser([(hu, labels)]).to_z(hu, labels)
    for tissue in (1, 2, 4):
        values = z[labels == tissue]
        assert np.median(values) == pytest.approx(0, abs=0.2)
        assert values.std() == pytest.approx(1, rel=0.2)


def test_both_lungs_share_location_and_scale():
    hu, labels = scan(0)
    hu[labels == 3] += 60
    standardiser = fit_standardiser([(hu, labels)])
    assert standardiser.location_hu[2] == standardiser.location_hu[3]
    assert standardiser.scale_hu[2] == standardiser.scale_hu[3]


def test_a_uniform_class_is_not_blown_up():
    hu, labels = scan(0)
    assert fit_standardiser([(hu, labels)]).scale_hu[0] == MINIMUM_SCALE_HU


def test_scans_without_lung_are_refused():
    hu, labels = scan(0)
    with pytest.raises(DgmvlcError, match="No lung voxel"):
        fit_standardiser([(hu, np.minimum(labels, 1))])


def test_voxels_at_the_edge_are_centred_by_themselves():
    labels = np.ones((14, 14, 14), np.uint8)
    labels[3:11, 3:11, 3:11] = 2
    hu = np.where(labels == 2, -850.0, 30.0)
    edge = (labels == 2) & (exposure(labels) > 0)
    hu[edge] += 200.0  # partial volume
    hu = (hu + np.random.default_rng(0).normal(0, 20, hu.shape)).astype(np.float32)
    z = fit_standardiser([(hu, labels)]).to_z(hu, labels)
    inside = (labels == 2) & ~edge
    assert abs(np.median(z[edge])) < 0.2 and abs(np.median(z[inside])) < 0.2


def test_exposure_counts_foreign_faces_and_takes_both_lungs_for_one():
    labels = np.full((3, 3, 3), 2, np.uint8)
    labels[1, 1, 2] = 3
    assert exposure(labels).max() == 0
    labels[1, 1, 2] = 1
    assert exposure(labels)[1, 1].tolist()[1:] == [1, 3]  # five faces, counted as three or more
