"""Whether the values of a chest CT are Hounsfield units: where gas and soft tissue lie."""

from __future__ import annotations

import numpy as np

AIR_BELOW_HU = -500.0
SOFT_TISSUE_HU = (-200.0, 200.0)
DENSE_HU = 600.0
LEAST_SHARE = 0.005  # of the voxels of a chest CT that are air or lung, and that are soft tissue
MOST_DENSE_SHARE = 0.25  # bone, metal and contrast medium fill far less
# Where the two peaks of a chest CT lie: lung or outside air, and muscle or fat.
GAS_PEAK_HU = (-1100.0, -550.0)
TISSUE_PEAK_HU = (-250.0, 250.0)
BINS = 256
ROUNDS = 50
MOST_SAMPLES = 4_000_000
TAIL_PERCENT = 0.5


def why_not_hu(hu: np.ndarray, peaks_hu: tuple[float, float]) -> str:
    """Why values cannot be HU, with a guess at what they are; empty where they may well be.

    peaks_hu: what `peaks` finds in them.
    """
    low, high = float(hu.min()), float(hu.max())
    air = float((hu < AIR_BELOW_HU).mean())
    soft = float(((hu > SOFT_TISSUE_HU[0]) & (hu < SOFT_TISSUE_HU[1])).mean())
    dense = float((hu > DENSE_HU).mean())
    if min(air, soft) < LEAST_SHARE or dense > MOST_DENSE_SHARE:
        return f"values run from {low:g} to {high:g}; {_guess(low, high, dense)}"
    for name, peak, (lowest, highest) in zip(
        ("gas", "soft tissue"), peaks_hu, (GAS_PEAK_HU, TISSUE_PEAK_HU), strict=True
    ):
        if not lowest <= peak <= highest:
            return (
                f"the peak of {name} lies at {peak:.0f}, {lowest:g} to {highest:g} was expected; "
                "slope or intercept is wrong, or it is no chest CT"
            )
    return ""


def peaks(hu: np.ndarray) -> tuple[float, float]:
    """The most frequent value of each of the two classes that values fall into, gas and tissue.

    The classes are parted halfway between their means, wherever on the scale they lie.
    """
    sample = hu.ravel()[:: max(1, hu.size // MOST_SAMPLES)]
    low, high = np.percentile(sample, (TAIL_PERCENT, 100 - TAIL_PERCENT))
    kept = sample[(sample >= low) & (sample <= high)]
    start = float(kept.mean(dtype=np.float64))
    threshold = halfway(kept, start, 1e-3 * max(high - low, 1e-6))
    return _mode(kept[kept < threshold]), _mode(kept[kept >= threshold])


def halfway(values: np.ndarray, start: float, tolerance: float) -> float:
    """The threshold halfway between the means of the two classes that it parts values into.

    Iterated from `start` until it moves by less than `tolerance`, or one class is empty.
    Source: Hu, Hoffman and Reinhardt 2001, doi:10.1109/42.929615
    """
    threshold = start
    for _ in range(ROUNDS):
        below = values < threshold
        if not below.any() or below.all():
            break
        previous = threshold
        means = values[below].mean(dtype=np.float64), values[~below].mean(dtype=np.float64)
        threshold = float(sum(means)) / 2
        if abs(threshold - previous) < tolerance:
            break
    return threshold


def _mode(values: np.ndarray) -> float:
    """The middle of the fullest bin."""
    if not values.size:
        return float("nan")
    counts, edges = np.histogram(values, BINS)
    fullest = int(counts.argmax())
    return float(edges[fullest] + edges[fullest + 1]) / 2


def _guess(low: float, high: float, dense: float) -> str:
    """What such a range of values is most likely to be."""
    if low >= -1.01 and high <= 1.01:
        return "they were scaled to [-1, 1] or [0, 1]"
    if low >= 0 and high <= 255:
        return "they were scaled to 0..255"
    if low >= 0 or dense > MOST_DENSE_SHARE:
        return "the rescale intercept (usually -1024) was not applied"
    return "there is no air or no soft tissue where HU put them"
