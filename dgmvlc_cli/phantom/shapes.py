"""Solid shapes as implicit functions: millimetres to the surface, negative inside.

Coordinates are patient millimetres: x to the left, y to the back, z to the head.  Arguments
broadcast, so the same function serves a voxel grid and a list of points.  Distances are exact
for capsules and first-order accurate near the surface for everything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TINY = 1e-4


def smooth_step(value: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 before start, 1 after end, a cubic without kinks between."""
    t = np.clip((value - start) / (end - start), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Inside either shape, the seam rounded over blend_mm."""
    overlap = np.maximum(blend_mm - np.abs(a - b), 0.0)
    return np.minimum(a, b) - overlap * overlap * (0.25 / blend_mm)


def common(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Inside both shapes, the edge rounded over blend_mm."""
    overlap = np.maximum(blend_mm - np.abs(a - b), 0.0)
    return np.maximum(a, b) + overlap * overlap * (0.25 / blend_mm)


def ellipse(
    u: np.ndarray,
    v: np.ndarray,
    half_u: np.ndarray | float,
    half_v: np.ndarray | float,
    squareness: float = 0.0,
) -> np.ndarray:
    """An elliptical column around (0, 0); squareness 0 is an ellipse, towards 1 a rectangle."""
    ru, rv = (u / half_u) ** 2, (v / half_v) ** 2
    steepness = np.sqrt(ru / half_u**2 + rv / half_v**2) + TINY
    q = ru + rv
    if squareness:
        q = q - squareness * np.minimum(ru * rv, 1.0)
    r = np.sqrt(q)
    return (r - 1.0) * r / steepness


def ellipsoid(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    centre: Sequence[float] | np.ndarray,
    half: Sequence[float] | np.ndarray,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """An ellipsoid; axes: (3, 3), one unit vector a row, where it is turned."""
    dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
    if axes is not None:
        dx, dy, dz = (a[0] * dx + a[1] * dy + a[2] * dz for a in axes)
    qx, qy, qz = (dx / half[0]) ** 2, (dy / half[1]) ** 2, (dz / half[2]) ** 2
    r = np.sqrt(qx + qy + qz)
    steepness = np.sqrt(qx / half[0] ** 2 + qy / half[1] ** 2 + qz / half[2] ** 2) + TINY
    return (r - 1.0) * r / steepness


def capsule(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    radius: float | tuple[float, float],
) -> np.ndarray:
    """A rod with round ends, its radius changing linearly from start to end."""
    first, last = radius if isinstance(radius, tuple) else (radius, radius)
    bx, by, bz = (float(value) for value in np.subtract(end, start))
    ax, ay, az = x - float(start[0]), y - float(start[1]), z - float(start[2])
    along = np.clip((ax * bx + ay * by + az * bz) / (bx * bx + by * by + bz * bz + TINY), 0.0, 1.0)
    off = (ax - along * bx) ** 2 + (ay - along * by) ** 2 + (az - along * bz) ** 2
    return np.sqrt(off) - (first + (last - first) * along)
