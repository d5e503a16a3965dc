"""The shape of one chest: its measures, drawn at random, and its surfaces as functions.

The frame is anatomical: x = 0 in the midline, z = 0 at the top of the right diaphragm.  `level`
runs from 0 at the apex of the lungs to 1 at the deepest recess.  Nothing here depends on the
voxel grid, nor on smoking.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dgmvlc_cli.phantom.shapes import capsule, common, ellipse, ellipsoid, smooth_step, union
from dgmvlc_cli.phantom.table import Subject
from dgmvlc_cli.workspace import generator

RECESS_MM = 68.0
"""Depth of the costophrenic recess below the top of the right diaphragm."""


@dataclass(frozen=True, kw_only=True)
class Thorax:
    """Measures of one chest in mm, and its breath: 0 a usual full inspiration, in SDs."""

    half_width: float
    depth: float
    apex: float
    left_dome: float
    fat: float
    heart: float
    heart_turn: float
    breast: float
    aorta: float
    breath: float
    wander: tuple[float, ...]

    @cached_property
    def height(self) -> float:
        return self.apex + RECESS_MM

    @property
    def pitch(self) -> float:
        """From one vertebra, and one rib, to the next."""
        return self.height / 11.3

    @property
    def skin_back(self) -> float:
        """y of the skin of the back, which lies flat on the couch."""
        return 113.0 + 0.5 * self.fat

    @cached_property
    def carina(self) -> np.ndarray:
        z = self.apex - 0.36 * self.height
        return np.array([1.0, float(self.spine(z)) - 27.0, z])

    def level(self, z: np.ndarray | float) -> np.ndarray:
        return (self.apex - np.asarray(z)) / self.height

    # Outlines as functions of height -----------------------------------------------------

    def back(self, z: np.ndarray | float) -> np.ndarray:
        """y of the hindmost lung: the curve of the spine."""
        bend = (self.level(z) - 0.55) / 0.55
        return 75.0 - 24.0 * np.minimum(bend * bend, 1.6)

    def front(self, z: np.ndarray | float) -> np.ndarray:
        """y of the inner chest wall in front: the slope of the sternum."""
        level = self.level(z)
        depth = self.depth * (0.58 + 0.42 * smooth_step(level, -0.12, 0.6))
        # Below mid-chest the belly does not follow the spine forwards.
        return np.where(level < 0.55, self.back(z), 75.0 - 20.0 * (level - 0.55) ** 2) - depth

    def spine(self, z: np.ndarray | float) -> np.ndarray:
        """y of the centres of the vertebral bodies."""
        return self.back(z) - 35.0

    def inner_half_width(self, z: np.ndarray | float) -> np.ndarray:
        v = np.clip(self.level(z) / 0.55 + 0.03, 0.0, 1.0)
        return 52.0 + (self.half_width - 52.0) * np.sqrt(1.0 - (1.0 - v) ** 3.2)

    # Surfaces ----------------------------------------------------------------------------

    def cage(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The inner chest wall."""
        back, front = self.back(z), self.front(z)
        half_width, half_depth = self.inner_half_width(z), (back - front) / 2
        return ellipse(x, y - (back + front) / 2, half_width, half_depth, 0.35)

    def torso(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The skin of trunk and neck, without shoulders and breasts."""
        level = self.level(z)
        trunk = smooth_step(level, -0.12, 0.32)
        half_width = self.inner_half_width(z) + 18.0 + self.fat * (0.35 + 0.65 * trunk)
        front = self.front(z) - 16.0 - self.fat * (0.3 + 0.5 * trunk)
        back = self.skin_back - 51.0 * smooth_step(level, 0.3, -0.25)
        return ellipse(x, y - (back + front) / 2, half_width, (back - front) / 2, 0.45)

    def diaphragm(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """z of the diaphragm: two domes, the right one higher, falling away to the recesses."""
        right = x < 0
        peak = np.where(right, 0.0, self.left_dome)
        off = np.abs(x) - np.where(right, 60.0, 66.0)
        middle = float(self.front(0.0) + self.back(0.0)) / 2 - 8.0
        across = off / np.where(off > 0, self.half_width - 58.0, 105.0)
        along = (y - middle) / np.where(y > middle, 0.52, 0.78) / self.depth
        fall = across * across + along * along
        bumps = 2.5 * np.sin(x / 21.0 + self.wander[0]) * np.sin(y / 25.0 + self.wander[1])
        return peak + bumps - RECESS_MM * fall**1.15

    def heart_surface(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The heart with its fat: long axis to the left, forwards and down."""
        turn = self.heart_turn
        long_axis = np.array([np.cos(turn), -0.42, -np.sin(turn)])
        long_axis /= np.linalg.norm(long_axis)
        across = np.cross(long_axis, [0.0, 1.0, 0.0])
        across /= np.linalg.norm(across)
        axes = np.array([long_axis, np.cross(across, long_axis), across])
        half = np.array([72.0, 47.0, 52.0]) * self.heart
        return ellipsoid(x, y, z, self.heart_centre, half, axes)

    @cached_property
    def heart_centre(self) -> np.ndarray:
        return np.array([17.0, float(self.front(28.0)) + 58.0 * self.heart, 22.0 * self.heart])

    def vertebrae(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The block that the spine and its joints with the ribs push into the chest."""
        behind = y - self.spine(z)
        half_width = 21.0 + 15.0 * smooth_step(behind, -4.0, 30.0)
        return np.maximum(np.abs(x) - half_width, -18.0 - behind) + 4.0

    def aortic_path(self) -> np.ndarray:
        """(n, 3) points from the heart over the arch and down along the spine."""
        top, spine = self.carina[2] + 24.0, float(self.spine(self.carina[2]))
        rise = [(-10.0, spine - 62.0, z) for z in (40.0, top - 28.0)]
        arch = [
            (-9.0, spine - 58.0, top - 10.0),
            (1.0, spine - 46.0, top),
            (14.0, spine - 26.0, top - 2.0),
            (22.0, spine - 9.0, top - 16.0),
        ]
        heights = np.linspace(top - 34.0, -RECESS_MM - 60.0, 8)
        fall = [(10.0 + 13.0 * self._beside(z), float(self.spine(z)) - 12.0, z) for z in heights]
        return np.array(rise + arch + fall)

    def _beside(self, z: float) -> float:
        return float(smooth_step(np.asarray(z), -RECESS_MM, self.carina[2]))

    def mediastinum(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """What lies between the lungs: vessels, windpipe, heart, fat, spine."""
        level, spine, front = self.level(z), self.spine(z), self.front(z)
        half_width = 24.0 + 8.0 * np.exp(-(((level - 0.31) / 0.12) ** 2))
        half_width = half_width - 7.0 * smooth_step(level, 0.5, 0.85)
        middle, half_depth = (front + spine) / 2 + 4.0, (spine - front) / 2 - 2.0
        solid = ellipse(x - 3.0, y - middle, half_width, half_depth)
        solid = union(solid, self.heart_surface(x, y, z) - 3.0, 12.0)
        solid = union(solid, self._hila(x, y, z), 12.0)
        solid = union(solid, self._arch(x, y, z), 8.0)
        solid = union(solid, self._beside_spine(x, y, z), 6.0)
        solid = union(solid, self.vertebrae(x, y, z), 8.0)
        sheet = np.abs(x - 2.0) - 5.0 - 0.6 * np.maximum(14.0 - (y - front), 0.0)
        return union(solid, sheet, 8.0)

    def _hila(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        cx, cy, cz = self.carina
        right = ellipsoid(x, y, z, (cx - 31.0, cy - 2.0, cz - 34.0), (15.0, 15.0, 27.0))
        left = ellipsoid(x, y, z, (cx + 33.0, cy - 1.0, cz - 26.0), (15.0, 14.0, 25.0))
        return np.minimum(right, left)

    def _arch(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        path = self.aortic_path()
        middle, end = path[4], path[5]
        return capsule(x, y, z, middle, end, self.aorta + 3.0)

    def _beside_spine(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The descending aorta with its fat, below the arch."""
        shift = 10.0 + 13.0 * smooth_step(z, -RECESS_MM, self.carina[2])
        column = np.hypot(x - shift, y - self.spine(z) + 12.0) - self.aorta - 2.0
        return np.maximum(column, z - self.carina[2] + 5.0)

    def lungs(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Both lungs: inside the cage, under the apical domes, above the diaphragm, beside
        the mediastinum.  They never touch: the mediastinum parts them everywhere."""
        side = np.abs(x) - 48.0
        hump = (side / 54.0) ** 2 + ((y - self.spine(self.apex) + 8.0) / 58.0) ** 2
        cap = z - self.apex + 36.0 * hump
        solid = common(self.cage(x, y, z) + 2.5, cap, 14.0)
        solid = common(solid, self.diaphragm(x, y) - z, 5.0)
        return common(solid, -self.mediastinum(x, y, z), 5.0)


def thorax(subject: Subject, seed: int) -> Thorax:
    """The chest of a subject: sex, age and body mass index shape it, chance the rest."""
    rng = generator(seed, subject.subject, "thorax")
    female = subject.sex == "female"
    size = rng.normal(0.0, 1.0, 12)
    breath = float(np.clip(size[0], -2.2, 2.2))
    slim = (subject.bmi - 26.0) / 10.0
    return Thorax(
        half_width=float((127.0 if female else 141.0) + 4.5 * size[1] + 3.0 * slim),
        depth=float(
            (172.0 if female else 190.0) + 7.0 * size[2] + 6.0 * slim + 0.25 * (subject.age - 60)
        ),
        apex=float((168.0 if female else 190.0) + 6.5 * size[3] - 5.0 * slim + 9.0 * breath),
        left_dome=float(-12.0 + 4.0 * np.clip(size[4], -2, 2)),
        fat=float(np.clip(1.5 * (subject.bmi - 16.5) + 3.0 * female, 5.0, 36.0)),
        heart=float((0.93 if female else 1.03) + 0.04 * size[5] + 0.05 * slim),
        heart_turn=float(0.62 + 0.12 * np.clip(size[6] + slim, -2, 2)),
        breast=float(np.clip(1.0 + 0.25 * size[7] + 0.6 * slim, 0.5, 2.0)) if female else 0.0,
        aorta=float(12.0 + 1.0 * np.clip(size[8], -2, 2) + 0.05 * (subject.age - 60)),
        breath=breath,
        wander=tuple(float(value) for value in rng.uniform(0.0, 2.0 * np.pi, 8)),
    )
