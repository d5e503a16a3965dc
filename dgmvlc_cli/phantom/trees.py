"""Branching trees of the lung: bronchi, arteries and veins, and how they fill voxels.

A lobe's tree divides the points it must supply in two, again and again, and grows a branch part
of the way towards each half: space is filled evenly and reaches the pleura.  Radii taper as
powers of two (Murray 1926, doi:10.1073/pnas.12.3.207, with a steeper exponent than his cube).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dgmvlc_cli.phantom.shapes import capsule

PIECES = 3
"""Straight rods that stand for one curved branch."""


@dataclass(frozen=True, kw_only=True)
class Branches:
    """Curved segments: start, control and end point (n, 3) mm, radii (n, 2) mm.

    depth: (n,) forks between a segment and its root.  tree: (n,) which root it hangs on.
    """

    start: np.ndarray
    control: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    depth: np.ndarray
    tree: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> Branches:
        return Branches(**{name: value[keep] for name, value in vars(self).items()})

    def at(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (n, k, 3) and radii (n, k) at fractions t (k,) of each segment."""
        u = t[None, :, None]
        point = (
            (1 - u) ** 2 * self.start[:, None]
            + 2 * u * (1 - u) * self.control[:, None]
            + u**2 * self.end[:, None]
        )
        return point, self.radius[:, :1] * (1 - t) + self.radius[:, 1:] * t

    @property
    def length(self) -> np.ndarray:
        return np.linalg.norm(self.end - self.start, axis=1)


def join(parts: list[Branches]) -> Branches:
    return Branches(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])}
    )


def polyline(points: np.ndarray, radii: list[float], depth: int = 0) -> Branches:
    """Straight segments through points (n, 3), with a radius at each."""
    start, end = np.asarray(points[:-1], float), np.asarray(points[1:], float)
    radius = np.stack([radii[:-1], radii[1:]], axis=1)
    return Branches(
        start=start,
        control=(start + end) / 2,
        end=end,
        radius=radius,
        depth=np.full(len(start), depth),
        tree=np.zeros(len(start), dtype=int),
    )


def grow(
    roots: np.ndarray,
    heading: np.ndarray,
    targets: np.ndarray,
    radius: np.ndarray,
    exponent: float,
    rng: np.random.Generator,
) -> Branches:
    """Trees from roots (s, 3) along heading (s, 3) to targets (s, m, 3), m a power of two.

    radius: (s,) mm at the roots; the two daughters of a branch have 2 ** (-1 / exponent) of it.
    """
    parts, start, depth = [], roots, 1
    while True:
        sets, size, _ = targets.shape
        centre = targets.mean(axis=1)
        # Early forks lie near the hilum, so that branches run outwards from it.
        share = min(0.12 + 0.045 * depth, 0.45) if size > 1 else 1.0
        wobble = rng.uniform(0.7, 1.3, (sets, 1)) if size > 1 else 1.0
        end = start + share * wobble * (centre - start)
        reach = np.linalg.norm(end - start, axis=1, keepdims=True)
        narrowed = radius * 2.0 ** (-1.0 / exponent) * rng.uniform(0.9, 1.1, sets)
        parts.append(
            Branches(
                start=start,
                control=start + 0.4 * reach * heading,
                end=end,
                radius=np.stack([radius, (radius + narrowed) / 2], axis=1),
                depth=np.full(sets, depth),
                tree=np.arange(sets) // (sets // len(roots)),
            )
        )
        if size == 1:
            return join(parts)
        last = end - parts[-1].control
        heading = np.repeat(last / (np.linalg.norm(last, axis=1, keepdims=True) + 1e-6), 2, axis=0)
        targets, start, radius = (
            _halve(targets, end, rng),
            end.repeat(2, axis=0),
            narrowed.repeat(2),
        )
        depth += 1


def _halve(targets: np.ndarray, fork: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Targets (s, m, 3) seen from forks (s, 3), parted into two sectors: (2 s, m / 2, 3)."""
    sets, size, _ = targets.shape
    view = targets - fork[:, None]
    view = view / (np.linalg.norm(view, axis=2, keepdims=True) + 1.0) ** 0.6
    view = view - view.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("smi,smj->sij", view, view))
    # An eigenvector's sign is the linear algebra library's whim.
    longest = axes[..., -1] * np.where(axes[..., -1].sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    axis = longest + 0.3 * rng.standard_normal((sets, 3))
    order = np.argsort(np.einsum("smi,si->sm", view, axis), axis=1)
    return np.take_along_axis(targets, order[..., None], axis=1).reshape(2 * sets, size // 2, 3)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Voxel centres of an isotropic grid: x (w,), y (h,), z (d,) in mm."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing: float

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.z), len(self.y), len(self.x)

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
        """Index slices (z, y, x) of the voxels between two corners in mm (x, y, z)."""
        slices = []
        for axis, centres in ((2, self.z), (1, self.y), (0, self.x)):
            first = int(np.floor((low[axis] - centres[0]) / self.spacing))
            last = int(np.ceil((high[axis] - centres[0]) / self.spacing)) + 1
            slices.append(slice(max(first, 0), max(last, 0)))
        return slices[0], slices[1], slices[2]

    def coordinates(
        self, box: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Broadcastable x (1, 1, w), y (1, h, 1), z (d, 1, 1) inside a box."""
        z, y, x = self.z[box[0]], self.y[box[1]], self.x[box[2]]
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def covered(self, distance: np.ndarray) -> np.ndarray:
        """Share of each voxel inside a shape, in [0, 1], from distances to its surface."""
        return np.clip(0.5 - distance / self.spacing, 0.0, 1.0)


def fill(branches: Branches, grid: Grid) -> np.ndarray:
    """Share of each voxel inside the branches, (d, h, w) float32 in [0, 1].

    Branches thinner than a voxel keep their volume, spread over the voxels around; thicker
    ones get smooth edges.
    """
    radius = branches.radius.max(axis=1)
    thick = radius > 0.6 * grid.spacing
    share = _fill_thin(branches[~thick], grid)
    for box, distance in distances(branches[thick], grid):
        np.maximum(share[box], grid.covered(distance), out=share[box])
    return share


def distances(
    branches: Branches, grid: Grid
) -> Iterator[tuple[tuple[slice, slice, slice], np.ndarray]]:
    """For each piece of each branch, the box of voxels around it and distances to its surface."""
    point, radius = branches.at(np.linspace(0.0, 1.0, PIECES + 1))
    for curve, radii in zip(point.astype(np.float32), radius, strict=True):
        for k in range(PIECES):
            reach = radii[k : k + 2].max() + grid.spacing
            ends = curve[k : k + 2]
            box = grid.box(ends.min(axis=0) - reach, ends.max(axis=0) + reach)
            coordinates = grid.coordinates(box)
            if all(axis.size for axis in coordinates):
                ends_mm = (float(radii[k]), float(radii[k + 1]))
                yield box, capsule(*coordinates, ends[0], ends[1], ends_mm)


def _fill_thin(branches: Branches, grid: Grid) -> np.ndarray:
    """Volume of thin branches, dropped at points along them and shared among eight voxels."""
    count = np.maximum(np.ceil(branches.length / (0.5 * grid.spacing)).astype(int), 1)
    points, shares = [np.empty((0, 3))], [np.empty(0)]
    for n in np.unique(count):
        chosen = branches[count == n]
        point, radius = chosen.at((np.arange(n) + 0.5) / n)
        volume = np.pi * radius**2 * (chosen.length / n)[:, None]
        points.append(point.reshape(-1, 3))
        shares.append(volume.ravel() / grid.spacing**3)
    total = _drop(grid, np.concatenate(points), np.concatenate(shares))
    return np.minimum(total, 1.0).astype(np.float32)


def _drop(grid: Grid, point: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Shares (n,) at points (n, 3) dropped trilinearly on a grid; points outside are lost."""
    d, h, w = grid.shape
    total = np.zeros(d * h * w)
    first = np.array([grid.x[0], grid.y[0], grid.z[0]], dtype=float)
    position = (point - first) / grid.spacing
    inside = np.all((position >= 0) & (position < np.array([w - 1, h - 1, d - 1])), axis=1)
    position, share = position[inside], share[inside]
    low = position.astype(int)
    rest = position - low
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(np.array(corner), rest, 1.0 - rest), axis=1)
        ix, iy, iz = (low + corner).T
        total += np.bincount((iz * h + iy) * w + ix, weights=share * weight, minlength=total.size)
    return total.reshape(grid.shape)
