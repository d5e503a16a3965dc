"""Numbers over all pairs that only the images can give: histograms, profiles and lung maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from dgmvlc_cli.report.contents import Pair

HISTOGRAM_HU = np.arange(-1040, -399, 20)
NICE_LIMITS_HU = (5, 10, 20, 30, 50, 75, 100, 150, 200)


def nice_limit(value: float) -> float:
    """The smallest round limit of a symmetric HU scale that holds a value."""
    return next((float(limit) for limit in NICE_LIMITS_HU if limit >= value), 200.0)


def difference_limit(pairs: Sequence[Pair]) -> float:
    """One colour scale for every pair: holds 98 % of the absolute lung differences, HU."""
    values = [np.abs(pair.difference_hu[pair.lung]) for pair in pairs if pair.lung.any()]
    return nice_limit(float(np.percentile(np.concatenate(values), 98))) if values else 50.0


def mean_band(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over subjects and its 95 % t interval; NaN where fewer than two subjects have a value.

    rows: (subjects, points).  Returns mean, low, high: (points,).
    """
    n = np.isfinite(rows).sum(axis=0)
    filled = np.where(np.isfinite(rows), rows, 0.0)
    mean = np.divide(filled.sum(axis=0), n, out=np.full(len(n), np.nan), where=n > 0)
    squares = np.where(np.isfinite(rows), (rows - mean) ** 2, 0.0).sum(axis=0)
    variance = np.divide(squares, n - 1, out=np.full(len(n), np.nan), where=n > 1)
    half = stats.t.ppf(0.975, np.maximum(n - 1, 1)) * np.sqrt(variance / np.maximum(n, 1))
    return mean, mean - half, mean + half


def lung_histograms(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Share of lung voxels in each bin of HU, mean over subjects with 95 % bands.

    Columns: hu (bin centre), and for reference, target and difference: mean, low, high (percent).
    """
    arms = {
        "reference": np.stack([_histogram(p.reference_hu[p.lung]) for p in pairs]),
        "target": np.stack([_histogram(p.target_hu[p.lung]) for p in pairs]),
    }
    arms["difference"] = arms["target"] - arms["reference"]
    table = pd.DataFrame({"hu": (HISTOGRAM_HU[:-1] + HISTOGRAM_HU[1:]) / 2})
    for arm, rows in arms.items():
        for name, values in zip(("mean", "low", "high"), mean_band(rows), strict=True):
            table[f"{arm}_{name}"] = values
    return table


def _histogram(values: np.ndarray) -> np.ndarray:
    return 100 * np.histogram(values, HISTOGRAM_HU)[0] / max(values.size, 1)


def lung_bins(pairs: Sequence[Pair]) -> int:
    """As many bins along an axis as the smallest lung has voxels there, 4 to 24."""
    extents = [np.ptp(np.argwhere(pair.lung), axis=0).min() + 1 for pair in pairs]
    return int(np.clip(min(extents), 4, 24))


def lung_map(pairs: Sequence[Pair], axes: tuple[int, ...], bins: int) -> np.ndarray:
    """Difference in lung-relative coordinates, averaged within each subject's bins.

    axes: the axes of the volume that are kept, each running from 0 to 1 over the lungs' extent.
    Returns (subjects, bins, ...) HU; NaN where a subject has no lung.
    """
    return np.stack([_binned(pair, axes, bins) for pair in pairs])


def _binned(pair: Pair, axes: tuple[int, ...], bins: int) -> np.ndarray:
    places = np.argwhere(pair.lung)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    relative = ((places + 0.5 - low) / (high - low) * bins).astype(int)
    cell = np.ravel_multi_index([relative[:, axis] for axis in axes], (bins,) * len(axes))
    total = np.bincount(cell, pair.difference_hu[pair.lung], bins ** len(axes))
    count = np.bincount(cell, minlength=bins ** len(axes))
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean.reshape((bins,) * len(axes))


def group_mean(rows: np.ndarray) -> np.ndarray:
    """Mean over subjects where at least half of them have a value, else NaN."""
    n = np.isfinite(rows).sum(axis=0)
    total = np.where(np.isfinite(rows), rows, 0.0).sum(axis=0)
    return np.where(2 * n >= len(rows), total / np.maximum(n, 1), np.nan)
