"""The lungs on a voxel grid: parenchyma with its texture, vessels, bronchi, and true labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dgmvlc_cli.imaging.volume import Tissue
from dgmvlc_cli.phantom.pulmonary import LungTrees, fissures
from dgmvlc_cli.phantom.settings import PhantomSettings
from dgmvlc_cli.phantom.table import Subject
from dgmvlc_cli.phantom.tissues import AIR_HU, BLOOD_HU, Canvas
from dgmvlc_cli.phantom.trees import Grid, distances, fill

LUNG_HU = -906.0
"""Parenchyma without visible vessels: a man of 60 who never smoked, at usual inspiration."""
BREATH_HU = -8.0
GRAVITY_HU, GRAVITY_SD_HU = 50.0, 6.0
MOTTLE = ((32.0, 6.0), (13.0, 8.0), (6.0, 10.0))
"""Texture: size in mm and amplitude in HU of independent random fields."""
MOTTLE_ORIGIN_MM = (-260.0, -280.0, -160.0)
FISSURE_MM, FISSURE_HU = 0.5, 620.0
LABELLED_AIRWAY_MM = 2.0


def parenchyma_hu(
    canvas: Canvas,
    trees: LungTrees,
    subject: Subject,
    settings: PhantomSettings,
    rng: np.random.Generator,
) -> np.ndarray:
    """(d, h, w) HU of parenchyma: level of the subject, gravity, texture, fissures."""
    grid = canvas.grid
    _, y, z = grid.coordinates()
    level = LUNG_HU + settings.age_hu_per_year * (subject.age - 60)
    level += settings.female_hu * (subject.sex == "female") + BREATH_HU * canvas.chest.breath
    level += settings.subject_sd_hu * rng.standard_normal()
    front, back = trees.extent[1]
    gravity = rng.normal(GRAVITY_HU, GRAVITY_SD_HU) * ((y - front) / (back - front) - 0.5)
    hu = level + gravity - 10.0 * ((z - 60.0) / 120.0)
    for size, amplitude in MOTTLE:
        hu = hu + amplitude * mottle(grid, size, rng)
    return hu + FISSURE_HU * _fissure_share(canvas)


def paint_lungs(canvas: Canvas, trees: LungTrees, hu: np.ndarray) -> np.ndarray:
    """Paint lungs, vessels and airways; return the share of each voxel that is parenchyma."""
    grid = canvas.grid
    lung = grid.covered(canvas.lungs)
    vessel = fill(trees.vessels[trees.vessels.depth > 0], grid)
    # Walls thin out with the lumen; those of the smallest bronchi are below what CT shows.
    outer = replace(trees.airways, radius=1.08 * trees.airways.radius + 0.45)
    wall, lumen = fill(outer, grid), fill(trees.airways, grid)
    canvas.blend(lung, hu)
    soft = canvas.hu > -200.0
    canvas.blend(vessel * np.maximum(lung, soft), BLOOD_HU)
    canvas.blend(wall, 20.0)
    canvas.blend(lumen, AIR_HU + 6.0)
    return lung * (1.0 - vessel) * (1.0 - np.maximum(wall, lumen))


def true_labels(canvas: Canvas, trees: LungTrees) -> np.ndarray:
    """(d, h, w) uint8 Tissue, by what the centre of each voxel lies in.

    Vessels belong to the lung around them.  Airways down to LABELLED_AIRWAY_MM are labelled at
    least as thick as a voxel's diagonal half, so that they stay connected.
    """
    grid = canvas.grid
    x, _, _ = grid.coordinates()
    labels = np.where(canvas.skin <= 0, np.uint8(Tissue.BODY), np.uint8(Tissue.OUTSIDE))
    side = np.where(x < 2.0, np.uint8(Tissue.RIGHT_LUNG), np.uint8(Tissue.LEFT_LUNG))
    labels = np.where(canvas.lungs <= 0, side, labels)
    wide = trees.airways[trees.airways.radius.max(axis=1) >= LABELLED_AIRWAY_MM]
    thick = replace(wide, radius=np.maximum(wide.radius, 0.87 * grid.spacing))
    for box, distance in distances(thick, grid):
        labels[box][distance <= 0] = Tissue.AIRWAY
    return labels


def film(distance: np.ndarray, spacing: float, thickness: float) -> np.ndarray:
    """Share of each voxel taken by a membrane thinner than a voxel."""
    share = thickness / spacing * np.maximum(1.0 - np.abs(distance) / spacing, 0.0)
    return np.minimum(share, 1.0)


def mottle(grid: Grid, size: float, rng: np.random.Generator) -> np.ndarray:
    """(d, h, w) float32 smooth random field of unit variance, with features of size mm.

    Its nodes lie at fixed places in the chest, so that finer voxels show the same field.
    """
    extent = (600.0, 520.0, 520.0)
    field = rng.standard_normal([int(mm / size) + 3 for mm in extent], dtype=np.float32)
    for axis, centres in enumerate((grid.z, grid.y, grid.x)):
        position = (centres - MOTTLE_ORIGIN_MM[2 - axis]) / size
        field = _interpolate(field, axis, position)
    return field


def _interpolate(field: np.ndarray, axis: int, position: np.ndarray) -> np.ndarray:
    """Quadratic B-spline along one axis, scaled so that white nodes keep unit variance."""
    middle = np.clip(np.round(position).astype(int), 1, field.shape[axis] - 2)
    off = np.clip(position - middle, -0.5, 0.5)
    weights = np.stack([0.5 * (0.5 - off) ** 2, 0.75 - off**2, 0.5 * (0.5 + off) ** 2])
    weights = (weights / np.sqrt((weights**2).sum(axis=0))).astype(np.float32)
    shape = [1, 1, 1]
    shape[axis] = -1
    below, centre, above = (
        np.take(field, middle + step, axis=axis) * weights[step + 1].reshape(shape)
        for step in (-1, 0, 1)
    )
    return below + centre + above


def _fissure_share(canvas: Canvas) -> np.ndarray:
    """Share of each voxel taken by the oblique fissures and the right horizontal one."""
    x, y, z = canvas.grid.coordinates()
    spacing = canvas.grid.spacing
    oblique, horizontal = fissures(canvas.chest, x, y, z)
    level_film = film(horizontal, spacing, FISSURE_MM) * ((x < 0) & (oblique > 0))
    return np.maximum(film(oblique / 1.4, spacing, FISSURE_MM), level_film)
