from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.effects import observed
from dgmvlc_cli.validating import HeldOut, scan_rows, validate

CONTRAST = Contrast("smoking", "never", "current")
SUBJECTS = [f"s{i:02d}" for i in range(24)]
EFFECT_HU = -30.0


def mask() -> np.ndarray:
    labels = np.ones((12, 6, 8), np.uint8)
    labels[1:10, 1:5, 1:4] = 2
    labels[1:10, 1:5, 4:7] = 3
    return labels


def scans_of(levels: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Lungs at a level each, the upper third moved where the subject is a current smoker."""
    texture = np.random.default_rng(0).normal(0, 40, (len(levels), *mask().shape))
    hu = np.where(mask() > 1, levels[:, None, None, None] + texture, 30.0)
    hu[:, 7:10] += np.where(mask()[7:10] > 1, current[:, None, None, None] * EFFECT_HU, 0)
    return hu.astype(np.float32)


@dataclass(frozen=True)
class Knows:
    """A generator that moves the upper third by a part of what the sentence asks for."""

    share: float
    conditioning = SimpleNamespace(spacing_mm=10.0)

    def noise_shape(self) -> tuple[int, ...]:
        return (1, 1, 1, 1)

    def generate(self, noise, labels, embeddings, *, steps):
        return scans_of(-850 + 15 * noise.reshape(-1), self.share * embeddings[:, 0])


def cohort_of(effect: float) -> tuple[HeldOut, pd.DataFrame, pd.DataFrame]:
    """Held-out subjects, measures and design; smoking moves the real scans by so many effects."""
    rng = np.random.default_rng(1)
    current = (np.arange(24) % 2).astype(float)
    hu = scans_of(-850 + rng.normal(0, 15, 24), effect * current)
    labels = np.stack([mask()] * 24)
    design = pd.DataFrame(
        {"smoking": np.where(current, "current", "never"), "age": rng.normal(60, 8, 24)},
        index=pd.Index(SUBJECTS, name="subject"),
    )
    arms = np.zeros((24, 2, 3), np.float32)
    arms[:, 1, 0] = 1
    factual = np.zeros((24, 3), np.float32)
    factual[:, 0] = current
    held = HeldOut(subjects=SUBJECTS, hu=hu, labels=labels, factual=factual, arms=arms)
    return held, scan_rows(SUBJECTS, hu, labels, 10.0), design


@pytest.fixture
def cohort() -> tuple[HeldOut, pd.DataFrame, pd.DataFrame]:
    return cohort_of(1.0)


def test_a_model_that_obeys_is_found_calibrated_and_obedient(cohort):
    found, _ = validate(Knows(1.0), *cohort, CONTRAST, ["age"], steps=2, seed=0)
    assert found.model_hu["upper"] == pytest.approx(EFFECT_HU, abs=0.1)
    assert found.model_hu["lower"] == pytest.approx(0, abs=0.1)
    assert found.obedience == pytest.approx(1, abs=0.35)  # of what 24 subjects happen to show
    assert abs(found.mean_error_hu) < 10
    assert found.sd_between == pytest.approx(1, abs=0.4)
    assert found.sd_within == pytest.approx(1, abs=0.05)
    assert "reproduced" in found.words()[-1]


def test_a_model_that_ignores_its_text_is_called_so(cohort):
    found, _ = validate(Knows(0.0), *cohort, CONTRAST, ["age"], steps=2, seed=0)
    assert found.obedience == pytest.approx(0, abs=1e-6)
    assert found.detectable
    assert "ignores its sentence" in found.words()[-1]


def test_a_model_that_does_far_too_much_is_called_so(cohort):
    found, _ = validate(Knows(3.0), *cohort, CONTRAST, ["age"], steps=2, seed=0)
    assert found.obedience > 2
    assert "much more than observed" in found.words()[-1]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_nothing_is_seen_there_is_nothing_to_obey(share):
    found, _ = validate(Knows(share), *cohort_of(0.0), CONTRAST, ["age"], steps=2, seed=0)
    assert not found.detectable
    assert "no clear association" in found.words()[-1]


def test_one_of_three_thirds_must_differ_by_more_than_chance_among_three():
    held, scans, design = cohort_of(0.45)
    seen = observed(scans, design, CONTRAST, ["age"]).set_index(["measure", "region"])
    assert 0.05 / 3 < seen.loc[("mean_hu", "upper"), "p"] < 0.05
    found, _ = validate(Knows(0.0), held, scans, design, CONTRAST, ["age"], steps=2, seed=0)
    assert not found.detectable
    assert "no clear association" in found.words()[-1]
