"""Lobes for lungs that have none: cut along fissures as straight as a ruler."""

import numpy as np

from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.volume import Tissue

# A label map that holds tissues and lobes.
VALUES = {1: "body", 2: "right_lung", 3: "left_lung", 4: "airway"} | {
    10 + lobe: lobe.structure for lobe in Lobe
}
MAPPING = {structure: (value,) for value, structure in VALUES.items()}


def lobed(labels: np.ndarray) -> np.ndarray:
    """Lobe, uint8 (z, y, x): oblique fissures fall from back to front, a horizontal one is right.

    labels: (z, y, x) Tissue.
    """
    lobes = np.zeros(labels.shape, np.uint8)
    z, y, _ = np.indices(labels.shape)
    lungs = np.argwhere(np.isin(labels, (Tissue.RIGHT_LUNG, Tissue.LEFT_LUNG)))
    low, size = lungs.min(axis=0), np.ptp(lungs, axis=0) + 1
    height, depth = (z + 0.5 - low[0]) / size[0], (y + 0.5 - low[1]) / size[1]
    above = height > 0.2 + 0.5 * depth
    right, left = labels == Tissue.RIGHT_LUNG, labels == Tissue.LEFT_LUNG
    lobes[right & above], lobes[left & above] = Lobe.RIGHT_UPPER, Lobe.LEFT_UPPER
    lobes[right & above & (height < 0.5)] = Lobe.RIGHT_MIDDLE
    lobes[right & ~above], lobes[left & ~above] = Lobe.RIGHT_LOWER, Lobe.LEFT_LOWER
    return lobes


def lobed_map(labels: np.ndarray) -> np.ndarray:
    """A label map of VALUES."""
    lobes = lobed(labels)
    return np.where(lobes > 0, 10 + lobes, labels).astype(np.uint8)
