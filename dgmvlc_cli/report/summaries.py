"""Numbers over all pairs that only the images can give: bands, histograms and scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from dgmvlc_cli.analysis.looks import HISTOGRAM_HU, Pair, PairSummary

NICE_LIMITS_HU = (5, 10, 20, 30, 50, 75, 100, 150, 200)


def nice_limit(value: float) -> float:
    """The smallest round limit of a symmetric HU scale that holds a value."""
    return next((float(limit) for limit in NICE_LIMITS_HU if limit >= value), 200.0)


def difference_limit(pairs: Sequence[Pair]) -> float:
    """One colour scale for every pair: holds 98 % of the absolute lung differences, HU."""
    values = [np.abs(pair.difference_hu[pair.lung]) for pair in pairs if pair.lung.any()]
    return nice_limit(float(np.percentile(np.concatenate(values), 98))) if values else 50.0


def shown_difference(pair: Pair) -> np.ndarray:
    """The difference as it is drawn: (z, y, x) float32, HU.

    Where both arms were cut off at an end of the scale the difference is not 0 but unknown; such a
    voxel takes the mean of its lung neighbours, so that pictures have no specks.
    """
    shown = pair.difference_hu
    unknown = pair.clipped & pair.lung
    if not unknown.any():
        return shown
    known = (pair.lung & ~unknown).astype(np.float32)
    near = ndimage.gaussian_filter(shown * known, 1.0, mode="constant")
    share = ndimage.gaussian_filter(known, 1.0, mode="constant")
    filled = np.divide(near, share, out=np.zeros_like(near), where=share > 1e-3)
    return np.where(unknown, filled, shown)


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


def lung_histograms(summaries: Sequence[PairSummary]) -> pd.DataFrame:
    """Share of lung voxels in each bin of HU, mean over subjects with 95 % bands.

    Columns: hu (bin centre), and for reference, target and difference: mean, low, high (percent).
    """
    arms = {
        "reference": np.stack([one.reference_percent for one in summaries]),
        "target": np.stack([one.target_percent for one in summaries]),
    }
    arms["difference"] = arms["target"] - arms["reference"]
    table = pd.DataFrame({"hu": (HISTOGRAM_HU[:-1] + HISTOGRAM_HU[1:]) / 2})
    for arm, rows in arms.items():
        for name, values in zip(("mean", "low", "high"), mean_band(rows), strict=True):
            table[f"{arm}_{name}"] = values
    return table
