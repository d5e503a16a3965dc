from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from matplotlib.image import imread

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.qc import _centre, draw_qc
from dgmvlc_cli.imaging.volume import Tissue, Volume


@pytest.fixture
def two_boxes():
    """A right lung that is tall and a left lung that is low, in a body of water."""
    labels = np.full((40, 30, 50), Tissue.BODY, np.uint8)
    labels[4:36, 8:22, 6:20] = Tissue.RIGHT_LUNG
    labels[4:14, 8:22, 30:44] = Tissue.LEFT_LUNG
    hu = np.where(labels == Tissue.BODY, 40.0, -850.0).astype(np.float32)
    return Volume(hu=hu, spacing_mm=(4.0, 2.0, 2.0)), labels


def test_the_picture_shows_the_head_up_and_the_right_lung_at_the_left(two_boxes, tmp_path):
    draw_qc(*two_boxes, tmp_path / "qc.png")
    picture = imread(tmp_path / "qc.png")[..., :3]
    height, width, _ = picture.shape
    # Axial, coronal and sagittal pictures are 100, 100 and 60 mm wide, the histogram 128 mm.
    coronal = picture[:, int(width * 100 / 388) : int(width * 200 / 388)]
    lung = coronal.mean(axis=2) < 0.5
    upper, lower = lung[: height // 2], lung[height // 2 :]
    left, right = slice(0, lung.shape[1] // 2), slice(lung.shape[1] // 2, None)
    assert upper[:, left].mean() > 0.4
    assert upper[:, right].mean() < 0.1
    assert lower[:, right].mean() > 0.2


def test_the_same_scan_gives_the_same_bytes(two_boxes, tmp_path):
    for name in ("a.png", "b.png"):
        draw_qc(*two_boxes, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_mask_without_lungs_is_drawn_too(two_boxes, tmp_path):
    volume, labels = two_boxes
    draw_qc(volume, np.zeros_like(labels), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_a_place_that_cannot_be_written_is_an_error(two_boxes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DgmvlcError):
        draw_qc(*two_boxes, tmp_path / "file" / "qc.png")


def test_flags_lie_below_the_pictures_in_the_colour_of_warnings(two_boxes, tmp_path):
    draw_qc(*two_boxes, tmp_path / "plain.png")
    draw_qc(*two_boxes, tmp_path / "flagged.png", ["lung volume 0.30 L is outside 1-10 L"] * 2)
    plain, flagged = (imread(tmp_path / f"{name}.png") for name in ("plain", "flagged"))
    assert flagged.shape[0] > plain.shape[0] and flagged.shape[1] == plain.shape[1]
    added = flagged[plain.shape[0] :, :, :3]
    assert (added[..., 0] - added[..., 2] > 0.5).sum() > 200


def test_the_edge_between_two_lobes_is_drawn(two_boxes, tmp_path):
    _, labels = two_boxes
    lobes = np.where(labels == Tissue.RIGHT_LUNG, Lobe.RIGHT_UPPER, 0).astype(np.uint8)
    lobes[:20][lobes[:20] > 0] = Lobe.RIGHT_LOWER
    draw_qc(*two_boxes, tmp_path / "lungs.png")
    draw_qc(*two_boxes, tmp_path / "lobes.png", lobes=lobes)
    without, within = (imread(tmp_path / f"{name}.png")[..., :3] for name in ("lungs", "lobes"))
    changed = np.argwhere(np.abs(within - without).max(axis=2) > 0.5)
    height, width, _ = without.shape
    # In the coronal and the sagittal picture, at half the height of the lung.
    assert np.allclose(np.median(changed[:, 0]) / height, 0.5, atol=0.1)
    assert changed[:, 1].min() > width * 100 / 388


def test_the_centre_of_large_lungs_takes_no_more_memory_than_they_do():
    labels = np.full((60, 100, 100), Tissue.RIGHT_LUNG, np.uint8)
    labels[:20] = labels[:, :, :30] = Tissue.BODY
    tracemalloc.start()
    assert _centre(labels) == (39, 49, 64)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 * labels.nbytes
