"""Bronchi, pulmonary arteries and veins of one chest, from the hila to near the pleura."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dgmvlc_cli.phantom.thorax import RECESS_MM, Thorax
from dgmvlc_cli.phantom.trees import Branches, grow, join, polyline

LEAVES = 512
LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")
LOBE_SIZE = np.array([1.0, 0.75, 1.1, 1.0, 1.1])
"""Radius of each lobe's artery, vein and bronchus, relative to that of an upper lobe."""
ARTERY_MM, VEIN_MM = 5.0, 4.8
EXPONENT = 2.9
BRONCHUS_SHARE, BRONCHUS_FORKS = 0.8, 5
PAIR_MM = 9.2
ASIDE = np.array(
    [[0.6, -0.5, 0.6], [0.7, 0.4, 0.6], [0.8, -0.4, 0.4], [-0.6, -0.5, 0.6], [-0.8, -0.4, 0.4]]
)
"""From each lobe's artery towards its bronchus, PAIR_MM apart at the root."""


@dataclass(frozen=True, kw_only=True)
class LungTrees:
    """airways: lumen radii; their walls are added when drawn.  vessels: arteries and veins.

    extent: lowest and highest x, y, z in mm (3, 2) of the lungs.
    """

    airways: Branches
    vessels: Branches
    extent: np.ndarray


def lung_trees(chest: Thorax, rng: np.random.Generator) -> LungTrees:
    """Trees that fill the lungs of a chest; drawn in continuous space, for any voxel size."""
    points = _scatter(chest, rng)
    extent = np.stack([points.min(axis=0), points.max(axis=0)], axis=1)
    extent[2, 1] = chest.apex
    inner = points[chest.lungs(*points.T) < -3.0]
    lobe = lobe_of(chest, inner)
    starts, bearing = _lobar_bronchi(chest)
    arteries = _lobe_trees(
        _leaves(inner, lobe, rng), starts - PAIR_MM * ASIDE, bearing, ARTERY_MM, rng
    )
    veins = _lobe_trees(_leaves(inner, lobe, rng), *_vein_roots(chest), VEIN_MM, rng)
    airways = join([_central_airways(chest), _companions(arteries)])
    vessels = join([_central_vessels(chest), arteries, veins])
    return LungTrees(airways=airways, vessels=vessels, extent=extent)


def fissures(
    chest: Thorax, x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Heights in mm above the oblique and the horizontal fissure (the latter on the right)."""
    wave = 4.0 * np.sin(x / 28.0 + chest.wander[2]) + 3.0 * np.sin(y / 34.0 + chest.wander[3])
    hinge = chest.carina[2] + 18.0 + np.where(x < 0, 0.0, 8.0)
    oblique = z - hinge - 0.95 * (y - float(chest.back(chest.carina[2]))) + wave
    horizontal = z - chest.carina[2] + 44.0 + 0.5 * wave
    return oblique, horizontal


def lobe_of(chest: Thorax, point: np.ndarray) -> np.ndarray:
    """Index into LOBES of points (n, 3) in the lungs."""
    x, y, z = point.T
    oblique, horizontal = fissures(chest, x, y, z)
    right = np.where(oblique < 0, 2, np.where(horizontal < 0, 1, 0))
    return np.where(x < 0, right, np.where(oblique < 0, 4, 3))


def _scatter(chest: Thorax, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 3) spread evenly over the lungs."""
    low = np.array([-chest.half_width, float(chest.front(0.0)) - 5.0, -RECESS_MM - 12.0])
    high = np.array([chest.half_width, 78.0, chest.apex])
    point = low + (high - low) * rng.random((26_000, 3))
    return point[chest.lungs(*point.T) < 0]


def _leaves(point: np.ndarray, lobe: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(lobes, LEAVES, 3): the points that the twigs of each lobe end at."""
    chosen = []
    for index in range(len(LOBES)):
        own = np.flatnonzero(lobe == index)
        chosen.append(point[rng.choice(own, LEAVES, replace=len(own) < LEAVES)])
    return np.stack(chosen)


def _lobe_trees(
    leaves: np.ndarray,
    roots: np.ndarray,
    bearing: np.ndarray,
    radius: float,
    rng: np.random.Generator,
) -> Branches:
    """One tree a lobe, from roots (lobes, 3) along unit vectors (lobes, 3)."""
    return grow(roots, bearing, leaves, radius * LOBE_SIZE, EXPONENT, rng)


def _companions(arteries: Branches) -> Branches:
    """The bronchi that run beside the first branches of the arteries, thinner than these."""
    large = arteries[arteries.depth <= BRONCHUS_FORKS]
    radius = BRONCHUS_SHARE * large.radius
    aside = ASIDE[large.tree] * PAIR_MM
    first, last = (aside * (large.radius[:, k, None] / ARTERY_MM) for k in (0, 1))
    return replace(
        large,
        start=large.start + first,
        control=large.control + (first + last) / 2,
        end=large.end + last,
        radius=radius,
    )


def _lobar_bronchi(chest: Thorax) -> tuple[np.ndarray, np.ndarray]:
    """Where the lobar bronchi end, (lobes, 3), and unit vectors they head along."""
    ends = [(-39, -1, -13), (-41, -14, -53), (-37, 5, -58), (46, -10, -20), (42, 7, -50)]
    bearing = [(-0.6, -0.1, 0.8), (-0.6, -0.8, -0.3), (-0.3, 0.4, -0.9), (0.5, -0.5, 0.7)]
    return chest.carina + np.array(ends, float), _unit([*bearing, (0.3, 0.4, -0.9)])


def _vein_roots(chest: Thorax) -> tuple[np.ndarray, np.ndarray]:
    """Where the veins of the lobes leave the hila, in front of and below the bronchi."""
    ends = [(-38, -26, -28), (-41, -28, -58), (-38, -4, -72), (43, -26, -24), (41, -4, -66)]
    bearing = [(-0.5, -0.2, 0.8), (-0.7, -0.7, -0.1), (-0.5, 0.2, -0.8), (0.5, -0.2, 0.8)]
    return chest.carina + np.array(ends, float), _unit([*bearing, (0.5, 0.2, -0.8)])


def _unit(vectors: Sequence[Sequence[float]]) -> np.ndarray:
    rows = np.array(vectors, dtype=float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _central_vessels(chest: Thorax) -> Branches:
    """Main pulmonary artery, its branches to the lobes, and the veins to the left atrium."""
    arteries = [
        ([(14, -62, -52), (18, -46, -26), (20, -30, -16)], [14, 14, 12.5]),
        ([(18, -34, -20), (0, -20, -24), (-24, -14, -22), (-40, -4, -34)], [11, 10.5, 9, 6.5]),
        ([(20, -32, -16), (32, -14, -8), (39, 0, -16), (43, 4, -28)], [11, 10, 8, 6.5]),
    ]
    paths = [polyline(chest.carina + np.array(path, float), radii) for path, radii in arteries]
    sources = [(-26, -14, -22), (-40, -4, -34), (-40, -4, -34), (34, -12, -10), (43, 4, -28)]
    atrium = [(-16, -20, -50), (-16, -20, -54), (-14, -12, -60), (24, -20, -46), (22, -12, -56)]
    starts, _ = _lobar_bronchi(chest)
    for source, ends, size in (
        (sources, starts - PAIR_MM * ASIDE, ARTERY_MM),
        (atrium, _vein_roots(chest)[0], VEIN_MM),
    ):
        for first, last, share in zip(source, ends, LOBE_SIZE, strict=True):
            pair = np.stack([chest.carina + np.array(first, float), last])
            paths.append(polyline(pair, [1.2 * size * share, size * share]))
    return join(paths)


def _central_airways(chest: Thorax) -> Branches:
    """Windpipe, main and lobar bronchi."""
    c = chest.carina
    size = 0.93 + 0.07 * (chest.half_width - 127.0) / 14.0
    heights = np.linspace(chest.apex + 60.0, c[2], 5)
    windpipe = [(0.5 * c[0], float(chest.spine(z)) - 27.0 - 0.02 * (z - c[2]), z) for z in heights]
    ends, _ = _lobar_bronchi(chest)
    ends = ends - c
    main = [
        ([(0, 0, 0), (-14, 0, -10), (-25, 1, -20)], [7.5, 6.9, 6.6]),
        ([(-25, 1, -20), ends[0]], [5.2, 4.2]),
        ([(-25, 1, -20), (-31, 0, -42)], [5.8, 5.2]),
        ([(-31, 0, -42), ends[1]], [3.8, 3.2]),
        ([(-31, 0, -42), ends[2]], [4.9, 4.4]),
        ([(0, 0, 0), (20, 0, -15), (37, 2, -29)], [6.8, 6.0, 5.7]),
        ([(37, 2, -29), ends[3]], [4.9, 4.2]),
        ([(37, 2, -29), ends[4]], [5.0, 4.4]),
    ]
    tubes = [polyline(c + np.array(path, float), [size * r for r in radii]) for path, radii in main]
    return join([polyline(np.array(windpipe), [8.3 * size] * 5), *tubes])
