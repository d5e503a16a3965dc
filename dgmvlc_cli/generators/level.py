"""The level of the lung that a sentence implies: a regression fitted in closed form.

What a clinical attribute changes most is how dense the lung is, region by region, and a deep
network learns that last.  The regional level is therefore fitted first, on the training
subjects, and the network generates what is left.  A hundred subjects decide a few dozen
coefficients, and most of what a sentence says has no bearing on the lung: each column of the
sentence is therefore shrunk by as much as the data say (automatic relevance determination).
Sources: MacKay 1992, doi:10.1162/neco.1992.4.3.415; Tipping 2001, JMLR 1:211-244
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmvlc_cli.imaging.volume import LUNGS

HEIGHTS = 5
ITERATIONS = 200
PRECISIONS = (1e-6, 1e8)
NOISE_SHRINKAGE = 0.3
LEAST_KEPT = 0.2  # a subject that decides its own fit tells nothing about new ones


@dataclass(frozen=True, kw_only=True)
class Level:
    """z of the lung by height, linear in the projected sentence.

    mean: (P,) coefficients of the average subject, one per height of `height_profiles`.
    slopes: (K, P) their change per unit of each column of the projected sentence.
    """

    mean: np.ndarray
    slopes: np.ndarray

    def __call__(self, text: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """text: (n, K); labels: (n, D, H, W) -> z (n, D, H, W) float32, 0 outside the lungs."""
        coefficients = self.mean + text @ self.slopes
        rows = zip(coefficients, labels, strict=True)
        return np.stack([_by_height(row @ height_profiles(one), one) for row, one in rows])


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """What the level leaves unexplained, as coefficients (n, P) of each training subject.

    own: as fitted.  left_out: as if the subject had not been part of the fit, which is how much
    a new subject differs from its sentence.
    """

    own: np.ndarray
    left_out: np.ndarray


def fit_level(z: np.ndarray, labels: np.ndarray, text: np.ndarray) -> tuple[Level, Residuals]:
    """The level of the training subjects.

    z: (n, D, H, W) standardised scans; labels: (n, D, H, W); text: (n, K), centred, and all 0
    where every sentence shall imply the mean level.
    """
    sums = [_normal_equations(*pair) for pair in zip(z, labels, strict=True)]
    gram = np.mean([one for one, _ in sums], axis=0)
    steady = 1e-6 * np.eye(HEIGHTS) * np.trace(gram) / HEIGHTS
    found = np.stack([np.linalg.solve(one + steady, moment) for one, moment in sums])  # (n, P)
    mean = found.mean(axis=0)
    metric = np.linalg.cholesky(gram + steady)  # so that voxels count, not coefficients
    x = text.astype(np.float64)
    fit = relevance_regression(x, (found - mean) @ metric)
    level = Level(mean=mean, slopes=np.linalg.solve(metric.T, fit.slopes.T).T)
    own = found - mean - x @ level.slopes
    kept = (1 - fit.leverage - 1 / len(x)).clip(LEAST_KEPT)
    return level, Residuals(own=own, left_out=own / kept[:, None])


def no_level(columns: int) -> Level:
    """A level of 0 whatever the sentence (of `columns` columns) says."""
    return Level(mean=np.zeros(HEIGHTS), slopes=np.zeros((columns, HEIGHTS)))


def height_profiles(labels: np.ndarray) -> np.ndarray:
    """Hat functions along the lungs' height: (D, H, W) labels -> (P, D)."""
    inside = np.flatnonzero(np.isin(labels, LUNGS).any(axis=(1, 2)))
    low, high = (inside[0], inside[-1]) if len(inside) else (0, len(labels) - 1)
    height = np.clip((np.arange(len(labels)) - low) / max(high - low, 1), 0, 1)
    centres = np.linspace(0, 1, HEIGHTS)
    return np.clip(1 - np.abs(height - centres[:, None]) * (HEIGHTS - 1), 0, None)


def _by_height(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """values (D,) in the lungs of labels (D, H, W), 0 elsewhere: float32."""
    return np.where(np.isin(labels, LUNGS), values[:, None, None], 0).astype(np.float32)


def _normal_equations(z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrix (P, P) and moments (P,) of one scan's regression on the height profiles."""
    lung = np.isin(labels, LUNGS)
    profiles = height_profiles(labels)
    count = lung.sum(axis=(1, 2))
    total = np.where(lung, z, 0).sum(axis=(1, 2), dtype=np.float64)
    return (profiles * count) @ profiles.T, profiles @ total


@dataclass(frozen=True, kw_only=True)
class Regression:
    """slopes: (K, P).  leverage: (n,) how much each subject's own outputs move its own fit."""

    slopes: np.ndarray
    leverage: np.ndarray


def relevance_regression(x: np.ndarray, y: np.ndarray) -> Regression:
    """Regression of centred y (n, P) on x (n, K), a column without bearing shrunk to near 0.

    Fitted twice: the residuals of the first fit tell which combinations of outputs are noisy,
    and the second is done where noise is white.
    """
    residual = y - x @ _fit_relevance(x, y).slopes
    noise = residual.T @ residual / len(x)
    floor = (np.trace(noise) / len(noise) + 1e-12) * np.eye(len(noise))
    shrunk = (1 - NOISE_SHRINKAGE) * noise + NOISE_SHRINKAGE * floor
    whiten = np.linalg.cholesky(np.linalg.inv(shrunk))
    fit = _fit_relevance(x, y @ whiten)
    return Regression(slopes=np.linalg.solve(whiten.T, fit.slopes.T).T, leverage=fit.leverage)


def _fit_relevance(x: np.ndarray, y: np.ndarray) -> Regression:
    """Posterior mean under w_kp ~ N(0, 1 / a_k), with a_k and the noise by evidence."""
    n, outputs = y.shape
    precision, noise = np.ones(x.shape[1]), float(y.var(axis=0).mean()) + 1e-12
    for _ in range(ITERATIONS):
        covariance = np.linalg.inv(x.T @ x / noise + np.diag(precision))
        mean = covariance @ x.T @ y / noise
        determined = 1 - precision * np.diag(covariance)  # between 0 and 1 by column
        leverage = ((x @ covariance) * x).sum(axis=1) / noise
        energy = (mean**2).sum(axis=1) + 1e-12
        precision = (outputs * determined / energy).clip(*PRECISIONS)
        freedom = outputs * max(n - 1 - float(determined.sum()), 1.0)
        noise = float(((y - x @ mean) ** 2).sum()) / freedom + 1e-12
    return Regression(slopes=mean, leverage=leverage)
