import numpy as np
import pytest

from dgmvlc_cli.generators.fitting import TrainingPlan, TrainingSet
from dgmvlc_cli.text.projection import Practice

GRID = (8, 8, 8)


def lungs() -> np.ndarray:
    labels = np.ones(GRID, np.uint8)
    labels[1:7, 2:6, 1:4] = 2
    labels[1:7, 2:6, 4:7] = 3
    return labels


@pytest.fixture
def training_set() -> TrainingSet:
    """24 scans whose lung level follows the first coordinate of the sentence embedding."""
    rng = np.random.default_rng(0)
    n = 24
    embeddings = rng.normal(size=(n, 6)).astype(np.float32)
    labels = np.stack([lungs()] * n)
    hu = np.full((n, *GRID), 30.0, np.float32)
    level = -850 + 40 * embeddings[:, 0]
    inside = labels > 1
    hu[inside] = (level[:, None, None, None] + rng.normal(0, 20, hu.shape))[inside]
    practice = rng.normal(size=(50, 6)).astype(np.float32)
    return TrainingSet(
        hu=hu,
        labels=labels,
        embeddings=embeddings,
        rewordings=np.zeros((n, 0, 6), np.float32),
        practice=Practice(embeddings=practice, codes=practice),
    )


@pytest.fixture
def plan() -> TrainingPlan:
    return TrainingPlan(
        seed=1, fold=0, steps=12, batch_size=4, learning_rate=2e-3, text_dropout=0.1,
        widths=(16, 16), model="flow", fusion="affine", grid=GRID, spacing_mm=8.0, wavelet_levels=1,
        encoder="minilm", encoder_sha256="0",
    )  # fmt: skip
