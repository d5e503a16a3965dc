"""Image pairs packed for the page."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from dgmvlc_cli.report import viewer
from dgmvlc_cli.report.contents import ReportContents


def unpack(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """What report.js does to undo `pack`: (z, y, x) int16."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).astype(np.uint16)
    low, high = planes.reshape(2, -1)
    return (low | high << 8).astype("<u2").view("<i2").reshape(shape)


def test_unpacking_gives_back_every_step() -> None:
    volume = np.random.default_rng(0).integers(-2048, 2048, (5, 7, 3)).astype(np.int16)
    assert np.array_equal(unpack(viewer.pack(volume), volume.shape), volume)


def test_packed_images_are_within_half_a_step(contents: ReportContents) -> None:
    pair = contents.pairs[0]
    packed = viewer.pack_pair(pair)
    shape = pair.labels.shape
    reference = unpack(packed["volumes"]["reference"], shape) * viewer.STEP_HU
    difference = unpack(packed["volumes"]["difference"], shape)
    assert np.abs(reference - pair.reference_hu).max() <= viewer.STEP_HU / 2
    assert np.abs(difference - pair.difference_hu).max() <= 0.5
    assert np.array_equal(unpack(packed["volumes"]["lung"], shape) > 0, pair.lung)


def test_voxels_that_are_no_number_are_shown_as_air() -> None:
    assert viewer.steps(np.array([[[np.nan, 100.0]]]), 2).tolist() == [[[-512, 50]]]


def test_the_viewer_takes_no_more_subjects_than_fit(
    contents: ReportContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sum(map(len, viewer.pack_pair(contents.pairs[0])["volumes"].values()))
    monkeypatch.setattr(viewer, "MAX_BYTES", int(2.5 * one))
    assert len(viewer.pack_pairs(contents.pairs)) == 2
    monkeypatch.setattr(viewer, "MAX_SUBJECTS", 1)
    assert len(viewer.pack_pairs(contents.pairs)) == 1


def test_twenty_noisy_subjects_of_a_large_grid_fit(build: Callable[..., ReportContents]) -> None:
    pair = build(subjects=1, shape=(64, 64, 64)).pairs[0]
    noise = np.random.default_rng(0).normal(0, 25, (3, 64, 64, 64)).astype(np.float32)
    noisy = dataclasses.replace(
        pair,
        reference_hu=pair.reference_hu + noise[0],
        target_hu=pair.target_hu + noise[0] + 0.3 * noise[1],
        real_hu=pair.reference_hu + noise[2],
    )
    one = sum(map(len, viewer.pack_pair(noisy)["volumes"].values()))
    assert viewer.MAX_SUBJECTS * one < viewer.MAX_BYTES


def test_a_pair_without_a_lung_or_a_real_scan_is_packed(contents: ReportContents) -> None:
    pair = contents.pairs[0]
    bare = dataclasses.replace(pair, real_hu=None, labels=np.zeros_like(pair.labels))
    packed = viewer.pack_pair(bare)
    assert "real" not in packed["volumes"]
    assert packed["mean_hu"]["reference"] is None


def test_colours_are_symmetric_about_a_light_middle(contents: ReportContents) -> None:
    settings = viewer.viewer_settings(contents.pairs, contents.levels)
    colours = settings["colours"]
    assert len(colours) % 2 == 1
    middle = [int(colours[len(colours) // 2][i : i + 2], 16) for i in (1, 3, 5)]
    assert min(middle) > 235
    assert settings["limit_hu"] in settings["limits_hu"]
