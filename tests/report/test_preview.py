import io

import numpy as np
from PIL import Image

from dgmvlc_cli.report.preview import preview


def drawn(change_hu: float) -> np.ndarray:
    labels = np.ones((2, 8, 6, 8), np.uint8)
    labels[:, 2:6, 1:5, 1:4] = 2
    labels[:, 2:6, 1:5, 4:7] = 3
    scans = np.where(labels > 1, -850.0, 40.0)
    pairs = np.stack((scans, scans + np.where(labels > 1, change_hu, 0.0)), axis=1)
    png = preview(["a", "b"], scans, scans, pairs, labels, ("never", "current"))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_change_is_drawn_in_the_colour_of_its_sign():
    denser, emptier = drawn(20.0), drawn(-20.0)
    assert denser.shape == emptier.shape

    def blue(picture: np.ndarray) -> int:
        return int(
            (picture[..., 2] - picture[..., 0] > 60)[:, : int(0.85 * picture.shape[1])].sum()
        )

    assert blue(emptier) > 100 and blue(denser) < 20
