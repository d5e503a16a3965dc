"""A chest as a CT scan, and what smoking changes in it.

Smoking and pack-years change one additive field, which is zero outside the labelled lungs and
weighted by the share of parenchyma in each voxel.  Anatomy, texture and noise are the same
whatever a subject smoked, so the difference of two renders is the exact counterfactual truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmvlc_cli.imaging.volume import Tissue, Volume
from dgmvlc_cli.phantom.lungs import film, paint_lungs, parenchyma_hu, true_labels
from dgmvlc_cli.phantom.pulmonary import lung_trees
from dgmvlc_cli.phantom.settings import PhantomSettings
from dgmvlc_cli.phantom.table import Subject
from dgmvlc_cli.phantom.thorax import RECESS_MM, Thorax, thorax
from dgmvlc_cli.phantom.tissues import (
    AIR_HU,
    Canvas,
    paint_abdomen,
    paint_body,
    paint_bones,
    paint_mediastinum,
)
from dgmvlc_cli.phantom.trees import Grid
from dgmvlc_cli.workspace import generator

NOISE_HU = 9.0
"""Standard deviation of noise at 4 mm with the soft kernel; thinner voxels have more."""
GRAINS_MM = (1.0, 1.5)
"""Correlation lengths of noise under the sharp and the soft kernel."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One chest on a voxel grid, ready to be seen under any smoking history.

    hu: (d, h, w) float32 without planted effects.  parenchyma: (d, h, w) share of each voxel,
    0 outside the labelled lungs.  height: (d,) 0 at the base of the lungs, 1 at the apex.
    labels: (d, h, w) uint8 Tissue.
    """

    hu: np.ndarray
    parenchyma: np.ndarray
    height: np.ndarray
    labels: np.ndarray
    spacing_mm: float
    origin_mm: tuple[float, float, float]

    def volume(self, subject: Subject, settings: PhantomSettings) -> Volume:
        """The scan of a subject with this smoking status and these pack-years, in whole HU."""
        hu = self.hu + self.planted(subject, settings)
        whole = np.clip(np.rint(hu), -1024.0, 3071.0).astype(np.float32)
        spacing = (self.spacing_mm, self.spacing_mm, self.spacing_mm)
        return Volume(hu=whole, spacing_mm=spacing, origin_mm=self.origin_mm)

    def planted(self, subject: Subject, settings: PhantomSettings) -> np.ndarray:
        """(d, h, w) change of HU by smoking and pack-years."""
        upper = settings.smoking_upper_hu(subject.smoking) * upper_weight(self.height)
        change = upper + settings.pack_years_hu(subject.pack_years)
        return change.astype(np.float32)[:, None, None] * self.parenchyma


def upper_weight(height: np.ndarray) -> np.ndarray:
    """The planted pattern: 1 in the upper third, fading linearly to 0 at mid-lung."""
    return np.clip((height - 1 / 2) / (2 / 3 - 1 / 2), 0.0, 1.0)


def render(subject: Subject, settings: PhantomSettings) -> tuple[Volume, np.ndarray]:
    """Scan and true labels (Tissue, uint8) of a subject.

    Pure: the same arguments give the same voxels; subjects that differ in nothing but smoking
    or pack-years share anatomy, texture and noise.
    """
    chest = scene(subject, settings)
    return chest.volume(subject, settings), chest.labels


def scene(subject: Subject, settings: PhantomSettings) -> Scene:
    """Everything about a scan that smoking does not change."""
    chest = thorax(subject, settings.seed)
    trees = lung_trees(chest, _stream(subject, settings, "trees"))
    grid = _grid(chest, settings.spacing_mm)
    canvas = Canvas(grid, chest)
    paint_body(canvas)
    paint_abdomen(canvas)
    paint_mediastinum(canvas, trees)
    paint_bones(canvas, subject)
    lung_hu = parenchyma_hu(canvas, trees, subject, settings, _stream(subject, settings, "texture"))
    parenchyma = paint_lungs(canvas, trees, lung_hu)
    _paint_couch(canvas)
    labels = true_labels(canvas, trees)
    in_lung = (labels == Tissue.RIGHT_LUNG) | (labels == Tissue.LEFT_LUNG)
    base, apex = trees.extent[2]
    return Scene(
        hu=(canvas.hu + _noise(canvas, _stream(subject, settings, "noise"))).astype(np.float32),
        parenchyma=(parenchyma * in_lung).astype(np.float32),
        height=(grid.z - base) / (apex - base),
        labels=labels,
        spacing_mm=settings.spacing_mm,
        origin_mm=_origin(grid, _stream(subject, settings, "table position")),
    )


def _stream(subject: Subject, settings: PhantomSettings, purpose: str) -> np.random.Generator:
    return generator(settings.seed, subject.subject, purpose)


def _grid(chest: Thorax, spacing: float) -> Grid:
    """Voxels around the trunk and the couch, from below the recesses to above the apex."""
    half = chest.half_width + 26.0 + chest.fat
    front = float(chest.front(-RECESS_MM)) - 28.0 - chest.fat - 10.0 * chest.breast
    return Grid(
        x=_centres(-half, half, spacing),
        y=_centres(front, chest.skin_back + 34.0, spacing),
        z=_centres(-RECESS_MM - 30.0, chest.apex + 26.0, spacing),
        spacing=spacing,
    )


def _centres(low: float, high: float, spacing: float) -> np.ndarray:
    count = int(np.ceil((high - low) / spacing))
    return (low + spacing * (np.arange(count) + 0.5)).astype(np.float32)


def _origin(grid: Grid, rng: np.random.Generator) -> tuple[float, float, float]:
    """Where the first voxel lies in the scanner: patients are never centred quite the same."""
    corner = np.array([grid.x[0], grid.y[0], grid.z[0]], dtype=float)
    x, y, z = corner + rng.uniform(-20.0, 20.0, 3) - (0.0, 160.0, 250.0)
    return round(x, 2), round(y, 2), round(z, 2)


def _paint_couch(canvas: Canvas) -> None:
    """A thin curved shell under a mattress, behind the back."""
    x, y, _ = canvas.grid.coordinates()
    back, spacing = canvas.chest.skin_back, canvas.grid.spacing
    surface = y - (back + 18.0) + x * x / 900.0
    foam = (surface < 0) & (y > back - 40.0) & (canvas.skin > 0.5 * spacing)
    canvas.blend(foam.astype(np.float32), AIR_HU + 22.0)
    canvas.blend(film(surface, spacing, 2.0) * (canvas.skin > 0), -150.0)


def _noise(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Noise of one scan: its kernel sets the grain, its dose and the body's width the level."""
    spacing = canvas.grid.spacing
    grain = float(rng.choice(GRAINS_MM))
    level = NOISE_HU * (4.0 / spacing) ** 0.75 * (1.5 / grain) ** 0.5 * np.exp(0.15 * rng.normal())
    noise = rng.standard_normal(canvas.grid.shape, dtype=np.float32)
    side = np.float32(np.exp(-((spacing / (2.0 * grain)) ** 2)))
    for axis in (1, 2):
        neighbours = np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
        noise = (noise + side * neighbours) / np.sqrt(1 + 2 * side * side)
    area = (canvas.skin < 0).sum(axis=(1, 2))
    thickness = np.sqrt(area / np.median(area))
    return noise * (level * thickness).astype(np.float32)[:, None, None]
