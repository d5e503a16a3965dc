import numpy as np
import pytest

from dgmvlc_cli.generators.level import (
    HEIGHTS,
    Level,
    fit_level,
    height_profiles,
    relevance_regression,
)


def lungs() -> np.ndarray:
    labels = np.ones((20, 6, 6), np.uint8)
    labels[2:18, 1:5, 1:3] = 2
    labels[2:18, 1:5, 3:5] = 3
    return labels


def test_height_profiles_add_up_to_one_and_peak_at_their_height():
    profiles = height_profiles(lungs())
    assert profiles.sum(axis=0) == pytest.approx(1)
    assert profiles[0, 2] == pytest.approx(1) and profiles[-1, 17] == pytest.approx(1)


def test_the_level_recovers_what_was_planted_where_it_was_planted():
    rng = np.random.default_rng(0)
    text = rng.normal(size=(60, 3))
    text -= text.mean(axis=0)
    slopes = np.zeros((3, HEIGHTS))
    slopes[0, -2:] = -0.5  # the first column moves the upper part, the others nothing
    planted = Level(mean=np.full(HEIGHTS, 0.2), slopes=slopes)
    labels = np.stack([lungs()] * 60)
    own = rng.normal(0, 0.3, (60, 1, 1, 1)) * (labels > 1)
    noise = rng.normal(0, 1, labels.shape)
    level, _ = fit_level((planted(text, labels) + own + noise).astype(np.float32), labels, text)
    assert level.slopes[0, -2:] == pytest.approx([-0.5, -0.5], abs=0.12)
    assert np.abs(level.slopes[0, :2]).max() < 0.12
    assert np.abs(level.slopes[1:]).max() < 0.15  # subjects differ by 0.3 of themselves
    assert np.all(level(text, labels)[labels < 2] == 0)


def test_a_column_without_bearing_is_shrunk_more_than_one_that_bears():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 10))
    y = np.outer(x[:, 0], [1.0, 0.5, 0.0]) + rng.normal(0, 1, (50, 3))
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    slopes = relevance_regression(x, y).slopes
    assert np.linalg.norm(slopes[0]) > 0.8 * np.linalg.norm(plain[0])
    assert np.linalg.norm(slopes[1:]) < 0.5 * np.linalg.norm(plain[1:])


def test_residuals_left_out_are_those_of_a_fit_without_the_subject():
    rng = np.random.default_rng(2)
    text = rng.normal(size=(12, 2))
    text -= text.mean(axis=0)
    labels = np.stack([lungs()] * 12)
    z = rng.normal(0, 1, labels.shape) + 2 * text[:, :1, None, None] * (labels > 1)
    _, residuals = fit_level(z.astype(np.float32), labels, text)
    assert (np.abs(residuals.left_out) > np.abs(residuals.own)).all()
    without, _ = fit_level(z[1:].astype(np.float32), labels[1:], text[1:] - text[1:].mean(axis=0))
    found, _ = fit_level(z[:1].astype(np.float32), labels[:1], np.zeros((1, 2)))
    predicted = without.mean + (text[0] - text[1:].mean(axis=0)) @ without.slopes
    assert residuals.left_out[0] == pytest.approx(found.mean - predicted, abs=0.05)


def test_a_silent_text_implies_the_mean_level_for_everyone():
    rng = np.random.default_rng(3)
    labels = np.stack([lungs()] * 5)
    level, _ = fit_level(rng.normal(size=labels.shape), labels, np.zeros((5, 4)))
    assert np.all(level.slopes == 0)
