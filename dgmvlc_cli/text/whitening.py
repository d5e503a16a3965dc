"""Centre and whiten sentence embeddings on the training cohort.

Embeddings of templated sentences hardly differ between patients, but every attribute is
linearly decodable from the little that does; whitening brings it up to unit variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MINIMUM_SUBJECTS_PER_COMPONENT = 4
MAXIMUM_COMPONENTS = 64


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """w = (embedding - mean) @ matrix.

    mean: (E,) float32.  matrix: (E, K) float32: leading principal directions over their SD.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @property
    def dim(self) -> int:
        return int(self.matrix.shape[1])

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, E) embeddings -> (n, K) with unit variance on the training cohort, float32."""
        return ((embeddings - self.mean) @ self.matrix).astype(np.float32)


def fit_whitening(embeddings: np.ndarray, components: int | None = None) -> Whitening:
    """Principal directions of (n, E) training embeddings, each scaled to unit variance.

    components: how many are kept; unset keeps one per four subjects, at most 64.  Keeping
    all of them would give each subject a coordinate of its own to be memorised by.
    """
    n = len(embeddings)
    mean = embeddings.mean(axis=0)
    _, singular, directions = np.linalg.svd(embeddings - mean, full_matrices=False)
    deviation = singular / max(n - 1, 1) ** 0.5
    wanted = components or min(n // MINIMUM_SUBJECTS_PER_COMPONENT, MAXIMUM_COMPONENTS)
    present = int((deviation > 1e-6 * deviation[0]).sum()) if deviation[0] > 0 else 0
    kept = max(1, min(wanted, present))
    scale = np.maximum(deviation[:kept], 1e-12)
    # The sign of a singular vector is arbitrary; fixing it keeps saved models comparable.
    signs = np.sign(directions[np.arange(kept), np.abs(directions[:kept]).argmax(axis=1)])
    matrix = (directions[:kept] * signs[:, None]).T / scale
    return Whitening(mean=mean.astype(np.float32), matrix=matrix.astype(np.float32))
