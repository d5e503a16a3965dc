"""Tissues of a chest painted on a voxel grid, back to front: wall, abdomen, mediastinum, bones.

Every edge is soft by one voxel (partial volume).  Lengths are mm in the frame of `thorax`.
"""

from __future__ import annotations

import numpy as np

from dgmvlc_cli.phantom.pulmonary import LungTrees
from dgmvlc_cli.phantom.shapes import capsule, common, ellipse, ellipsoid, smooth_step, union
from dgmvlc_cli.phantom.table import Subject
from dgmvlc_cli.phantom.thorax import Thorax
from dgmvlc_cli.phantom.trees import Grid, fill

AIR_HU, FAT_HU, MUSCLE_HU, BLOOD_HU, LIVER_HU = -1000.0, -100.0, 52.0, 42.0, 60.0
CORTEX_HU, CARTILAGE_HU = 780.0, 110.0
EVERYWHERE = (slice(None), slice(None), slice(None))
Box = tuple[slice, slice, slice]


class Canvas:
    """HU on a grid, with the surfaces that several organs share."""

    def __init__(self, grid: Grid, chest: Thorax) -> None:
        self.grid, self.chest = grid, chest
        self.hu = np.full(grid.shape, AIR_HU, dtype=np.float32)
        x, y, z = grid.coordinates()
        self.cage = self.steepened(chest.cage(x, y, z))
        self.lungs = self.steepened(chest.lungs(x, y, z))
        self.below = z - chest.diaphragm(x, y)
        self.skin = skin_surface(chest, x, y, z)

    def steepened(self, field: np.ndarray) -> np.ndarray:
        """A field divided by its slope, so that it measures mm near its zero surface."""
        parts = np.gradient(field, self.grid.spacing)
        slope = np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2)
        return field / np.clip(slope, 0.35, 4.0)

    def paint(
        self,
        distance: np.ndarray,
        hu: np.ndarray | float,
        box: Box = EVERYWHERE,
    ) -> None:
        """Blend HU into the voxels of a box, by the share of each inside a shape."""
        self.blend(self.grid.covered(distance), hu, box)

    def blend(
        self,
        share: np.ndarray,
        hu: np.ndarray | float,
        box: Box = EVERYWHERE,
    ) -> None:
        part = self.hu[box]
        part += share * (hu - part)


# Body wall ----------------------------------------------------------------------------------


def _shoulder(chest: Thorax) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shoulder, elbow side and humeral head of the left arm, raised above the head."""
    spine = float(chest.spine(chest.apex))
    low = np.array([chest.half_width - 22.0, spine + 10.0, chest.apex - 48.0])
    head = np.array([chest.half_width + 14.0, spine + 4.0, chest.apex + 18.0])
    high = head + np.array([8.0, -12.0, 120.0])
    return low, head, high


def _arms(chest: Thorax, x: np.ndarray, y: np.ndarray, z: np.ndarray, inset: float) -> np.ndarray:
    low, head, high = _shoulder(chest)
    side = np.abs(x)
    shoulder = capsule(side, y, z, low, head, (40.0 - inset, 44.0 - inset))
    return np.minimum(shoulder, capsule(side, y, z, head, high, (44.0 - inset, 38.0 - inset)))


def skin_surface(chest: Thorax, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Trunk, neck, raised arms and breasts in one."""
    skin = union(chest.torso(x, y, z), _arms(chest, x, y, z, -0.4 * chest.fat), 26.0)
    if chest.breast:
        skin = union(skin, _breasts(chest, x, y, z), 26.0)
    return skin


def _breasts(
    chest: Thorax, x: np.ndarray, y: np.ndarray, z: np.ndarray, scale: float = 1.0
) -> np.ndarray:
    level = chest.apex - 0.56 * chest.height
    front = float(chest.front(level)) - 10.0 - 0.6 * chest.fat
    size = scale * chest.breast**0.4
    half = (62.0 * size, 25.0 * size, 60.0 * size)
    return ellipsoid(np.abs(x), y, z, (0.58 * chest.half_width, front, level), half)


def paint_body(canvas: Canvas) -> None:
    """Skin, fat, glands, the muscle coat with streaks of fat, arms and back muscles."""
    chest, (x, y, z) = canvas.chest, canvas.grid.coordinates()
    canvas.paint(canvas.skin, 10.0)
    canvas.paint(canvas.skin + 2.0, FAT_HU)
    if chest.breast:
        wave = np.sin(x / 6.0 + chest.wander[4]) * np.sin(y / 5.0) * np.sin(z / 7.0)
        gland = common(_breasts(chest, x, y, z, 0.62), canvas.skin + 7.0, 4.0)
        canvas.blend(0.7 * canvas.grid.covered(gland + 5.0 * wave), 25.0)
    depth = canvas.skin + 4.0 + 0.55 * chest.fat
    muscle = common(_muscle(canvas), depth, 6.0)
    muscle = np.minimum(muscle, common(_arms(chest, x, y, z, 8.0), canvas.skin + 7.0, 4.0))
    canvas.paint(np.minimum(muscle, _paraspinal(canvas)), MUSCLE_HU)
    streak = np.exp(-(((canvas.cage - 13.0) / 1.6) ** 2))
    canvas.blend(0.45 * streak * canvas.grid.covered(canvas.skin + 12.0), FAT_HU)


def _muscle(canvas: Canvas) -> np.ndarray:
    """The muscle coat of the ribs: pectorals in front above, shoulder blade muscles behind."""
    chest, (_, _, z) = canvas.chest, canvas.grid.coordinates()
    level = chest.level(z)
    side, behind = _bearing(canvas)
    pectoral = 11.0 * np.exp(-(((side - 0.55) / 0.3) ** 2)) * (behind < 0)
    pectoral = pectoral * smooth_step(level, 0.62, 0.3)
    blade = 17.0 * np.exp(-(((side - 0.72) / 0.24) ** 2)) * smooth_step(behind, 0.1, 0.5)
    blade = blade * smooth_step(level, 0.62, 0.4)
    flank = 6.0 * smooth_step(side, 0.6, 0.95)
    return canvas.cage - 14.0 - pectoral - blade - flank


def _bearing(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Direction from the middle of the chest: sideways (0 to 1), backwards (-1 to 1)."""
    chest, (x, y, z) = canvas.chest, canvas.grid.coordinates()
    back, front = chest.back(z), chest.front(z)
    across = x / chest.inner_half_width(z)
    along = (y - (back + front) / 2) / ((back - front) / 2)
    radius = np.sqrt(across * across + along * along) + 1e-3
    return np.abs(across) / radius, along / radius


def _paraspinal(canvas: Canvas) -> np.ndarray:
    chest, (x, y, z) = canvas.chest, canvas.grid.coordinates()
    return ellipse(np.abs(x) - 25.0, y - chest.spine(z) - 46.0, 22.0, 17.0, 0.4)


# Below the diaphragm ------------------------------------------------------------------------


def paint_abdomen(canvas: Canvas) -> None:
    """Fat, diaphragm, liver, spleen and a stomach with an air bubble in front."""
    chest, (x, y, z) = canvas.chest, canvas.grid.coordinates()
    inside = canvas.cage + 1.0
    canvas.paint(inside, FAT_HU + 5.0)
    under = common(inside, canvas.below + 1.0, 4.0)
    canvas.paint(np.maximum(under, -3.5 - canvas.below), MUSCLE_HU)
    space = common(canvas.cage + 5.0, canvas.below + 4.5, 6.0)
    back, front = float(chest.back(-40.0)), float(chest.front(-40.0))
    lobe = x - 48.0 + 0.62 * (y - front) + 0.45 * (-z - 20.0)
    lobe = union(lobe * 0.75, x + 18.0 + 0.25 * (y - front - 80.0), 30.0)
    spine_clear = 30.0 - np.hypot(x, y - chest.spine(z) - 4.0)
    liver = common(common(space, lobe, 16.0), spine_clear, 10.0)
    spleen = ellipsoid(x, y, z, (0.70 * chest.half_width, back - 42.0, -52.0), (36.0, 48.0, 42.0))
    canvas.paint(common(space, spleen, 8.0), 50.0)
    stomach = ellipsoid(x, y, z, (60.0, front + 78.0, -58.0), (44.0, 54.0, 46.0))
    stomach = common(common(space + 2.0, stomach, 10.0), 6.0 - liver, 6.0)
    canvas.paint(stomach, 45.0)
    canvas.paint(stomach + 4.0, 22.0)
    canvas.paint(np.maximum(stomach + 8.0, y - front - 62.0), AIR_HU)
    canvas.paint(liver, LIVER_HU)


# Between the lungs --------------------------------------------------------------------------


def paint_mediastinum(canvas: Canvas, trees: LungTrees) -> None:
    """Fat, heart with its grooves, gullet, great vessels and the roots of the lungs."""
    chest, (x, y, z) = canvas.chest, canvas.grid.coordinates()
    above = np.maximum(canvas.cage + 1.0, -canvas.below - 1.0)
    canvas.paint(above, FAT_HU + 8.0)
    heart = common(chest.heart_surface(x, y, z) + 4.0, -canvas.below + 1.0, 6.0)
    groove = np.abs((x - chest.heart_centre[0]) * 0.75 + (z - chest.heart_centre[2]) * 0.6 + 14.0)
    canvas.paint(heart, BLOOD_HU)
    rim = common(heart, -heart - 9.0, 3.0)
    canvas.blend(0.8 * canvas.grid.covered(np.maximum(rim, groove - 4.0)), FAT_HU)
    gullet = np.hypot(x - 5.0, y - chest.spine(z) + 19.5) - 7.0
    canvas.paint(np.maximum(gullet, canvas.cage), 35.0)
    for path, radius in _great_vessels(chest):
        _paint_path(canvas, path, radius, BLOOD_HU)
    canvas.blend(fill(trees.vessels[trees.vessels.depth == 0], canvas.grid), BLOOD_HU)


def _great_vessels(chest: Thorax) -> list[tuple[np.ndarray, list[float]]]:
    """Paths (n, 3) and radii of aorta, cavae and the arteries and veins of the neck."""
    c, aorta = chest.carina, chest.aortic_path()
    n, top = len(aorta), chest.apex + 40.0
    widths = [chest.aorta + 4.0, chest.aorta + 4.0, *[chest.aorta + 2.0] * 3]
    widths += [chest.aorta + 0.5] * (n - len(widths))

    def up(*rows: tuple[float, float, float]) -> np.ndarray:
        """Points relative to the carina that follow the slope of the spine upwards."""
        shifted = [(x, float(chest.spine(c[2] + z)) - 27.0 + y, c[2] + z) for x, y, z in rows]
        return np.array(shifted)

    rise = top - c[2]
    return [
        (aorta, widths),
        (up((-20, -24, -48), (-21, -22, 0), (-20, -24, 34)), [10.0, 9.5, 9.0]),
        (up((-20, -24, 34), (-26, -18, 60), (-30, -14, rise)), [8.0, 7.0, 6.5]),
        (up((-18, -26, 32), (10, -32, 40), (28, -20, 62), (30, -14, rise)), [7.0, 6.5, 7.0, 6.5]),
        (up((-4, -16, 20), (-14, -10, 50), (-20, -6, rise)), [6.5, 6.0, 4.5]),
        (up((6, -12, 22), (14, -6, 50), (19, -4, rise)), [4.5, 4.0, 4.0]),
        (up((14, -4, 20), (22, 4, 46), (34, 6, 76)), [5.0, 4.5, 4.5]),
        (np.array([(-17.0, c[1] - 14.0, -70.0), (-19.0, c[1] - 22.0, 14.0)]), [12.0, 12.0]),
    ]


def _paint_path(canvas: Canvas, path: np.ndarray, radii: list[float], hu: float) -> None:
    for k in range(len(path) - 1):
        reach = max(radii[k : k + 2]) + canvas.grid.spacing
        ends = path[k : k + 2].astype(np.float32)
        box = canvas.grid.box(ends.min(axis=0) - reach, ends.max(axis=0) + reach)
        solid = capsule(*canvas.grid.coordinates(box), ends[0], ends[1], (radii[k], radii[k + 1]))
        canvas.paint(solid, hu, box)


# Bones --------------------------------------------------------------------------------------


def paint_bones(canvas: Canvas, subject: Subject) -> None:
    """Spine, ribs, breastbone and shoulders; marrow fades with age."""
    marrow = 190.0 - 2.2 * (subject.age - 60)
    _paint_spine(canvas, marrow)
    _paint_ribs(canvas, marrow)
    _paint_breastbone(canvas, marrow)
    _paint_shoulder_bones(canvas)


def _bone(canvas: Canvas, solid: np.ndarray, marrow: float, shell: float) -> None:
    """A bone with a cortex of shell mm around marrow."""
    canvas.paint(solid, CORTEX_HU)
    canvas.paint(solid + shell, marrow)


def _paint_spine(canvas: Canvas, marrow: float) -> None:
    """Vertebral bodies and discs, arches, processes and the canal with the cord."""
    chest, grid = canvas.chest, canvas.grid
    middle = float(chest.spine(60.0)) + 20.0
    box = grid.box(np.array([-40.0, middle - 70.0, -1e3]), np.array([40.0, middle + 60.0, 1e3]))
    x, y, z = grid.coordinates(box)
    behind = y - chest.spine(z)
    from_disc = chest.pitch / 2 - np.abs(_from_nearest(z - 6.0, chest.pitch))
    column = ellipse(x, behind, 17.0, 13.0, 0.3)
    body = common(column, 2.6 - from_disc, 3.0)
    rear = _vertebral_rear(chest, x, behind, z, from_disc)
    canvas.paint(column, 95.0, box)
    canvas.paint(np.minimum(body, rear), 620.0, box)
    canvas.paint(body + 1.6, marrow, box)
    canvas.paint(rear + 2.2, marrow + 60.0, box)
    canvas.paint(ellipse(x, behind - 21.0, 8.5, 7.5), 20.0, box)
    canvas.paint(np.hypot(x, behind - 21.0) - 4.2, 38.0, box)


def _vertebral_rear(
    chest: Thorax, x: np.ndarray, behind: np.ndarray, z: np.ndarray, from_disc: np.ndarray
) -> np.ndarray:
    """Arches, transverse processes and spinous processes, which slope downwards."""
    arch = np.maximum(ellipse(x, behind - 21.0, 13.0, 12.0), 4.0 - from_disc)
    sideways = np.hypot((behind - 23.0 - 0.25 * np.abs(x)) / 5.0, (from_disc - 9.0) / 6.0) - 1.0
    wings = np.maximum(5.0 * sideways, np.abs(x) - 32.0)
    drop = np.abs(_from_nearest(z - 6.0 + 0.55 * (behind - 30.0), chest.pitch))
    thorn = np.maximum(np.maximum(np.abs(x) - 3.4, np.abs(behind - 43.0) - 13.0), drop - 4.5)
    return np.minimum(np.minimum(arch, wings), thorn)


def _from_nearest(height: np.ndarray, pitch: float) -> np.ndarray:
    """Distance to the nearest multiple of pitch, signed."""
    return height - np.round(height / pitch) * pitch


def _paint_ribs(canvas: Canvas, marrow: float) -> None:
    """Ribs of bone that go over into cartilage near the breastbone."""
    shell = np.nonzero((canvas.cage > -4.0) & (canvas.cage < 15.0))
    solid, gristle = _ribs(canvas, shell)
    part = canvas.hu[shell]
    for inset, bone in ((0.0, CORTEX_HU), (1.3, marrow + 40.0)):
        hu = (1.0 - gristle) * bone + gristle * CARTILAGE_HU
        part += canvas.grid.covered(solid + inset) * (hu - part)
    canvas.hu[shell] = part


def _ribs(canvas: Canvas, shell: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the ribs and share of cartilage at voxels (n,) in the shell around the cage.

    `turn` goes from 0 at the spine to 1 at the breastbone; a rib falls as it comes forwards.
    """
    chest, grid = canvas.chest, canvas.grid
    x, y, z = grid.x[shell[2]], grid.y[shell[1]], grid.z[shell[0]]
    back, front = chest.back(z), chest.front(z)
    along = (y - (back + front) / 2) / ((back - front) / 2)
    turn = np.arctan2(np.abs(x / chest.inner_half_width(z)), along) / np.pi
    level = chest.level(z)
    fall = (30.0 + 62.0 * np.clip(level, 0.0, 0.9)) * smooth_step(turn, -0.1, 0.82)
    climb = 70.0 * np.clip(level - 0.25, 0.0, 1.0) * smooth_step(turn, 0.78, 1.0)
    root = z + fall - climb
    number = (chest.apex - 10.0 - root) / chest.pitch
    tilt = 1.0 / np.sqrt(1.0 + (fall / 90.0) ** 2)
    across = _from_nearest(root - 9.0, chest.pitch) * tilt / 1.7
    solid = np.maximum(np.hypot(across, canvas.cage[shell] - 5.0) - 3.6, 0.12 - turn)
    gristle = smooth_step(turn, 0.74, 0.80)
    floating = 12.0 * gristle * smooth_step(number, 6.5, 7.5)
    return np.where((number > -0.6) & (number < 10.6), solid + floating, 20.0), gristle


def _paint_breastbone(canvas: Canvas, marrow: float) -> None:
    chest, (x, y, z) = canvas.chest, canvas.grid.coordinates()
    level = chest.level(z)
    half = 15.0 + 14.0 * smooth_step(level, 0.24, 0.10)
    solid = np.maximum(np.abs(x) - half, np.abs(y - chest.front(z) + 8.0) - 5.5)
    ends = np.maximum(level - 0.68, 0.075 - level) * chest.height
    _bone(canvas, common(solid, ends, 4.0), marrow - 40.0, 1.4)


def _paint_shoulder_bones(canvas: Canvas) -> None:
    """Collar bones, shoulder blades and the upper arm bones."""
    chest, grid = canvas.chest, canvas.grid
    box = grid.box(np.array([-400.0, -400.0, chest.apex - 140.0]), np.array([400.0, 400.0, 900.0]))
    x, y, z = grid.coordinates(box)
    side, (_, head, high) = np.abs(x), _shoulder(chest)
    front = float(chest.front(chest.apex - 20.0))
    inner = np.array([24.0, front - 8.0, chest.apex - 24.0])
    bend = np.array([72.0, front + 6.0, chest.apex + 2.0])
    tip = head + np.array([-14.0, 0.0, 4.0])
    collar = np.minimum(
        capsule(side, y, z, inner, bend, 5.5), capsule(side, y, z, bend, tip, (5.0, 5.5))
    )
    blade = _blade(canvas, box)
    arm = capsule(side, y, z, head, high, 11.0)
    arm = np.minimum(arm, ellipsoid(side, y, z, head, (20.0, 20.0, 20.0)))
    for solid, marrow, shell in ((collar, 180.0, 1.6), (blade, 300.0, 1.4), (arm, 60.0, 3.0)):
        canvas.paint(solid, CORTEX_HU, box)
        canvas.paint(solid + shell, marrow, box)


def _blade(canvas: Canvas, box: Box) -> np.ndarray:
    """A thin plate behind the ribs, thick along its outer edge."""
    chest, (_, _, z) = canvas.chest, canvas.grid.coordinates(box)
    side, behind = (part[box] for part in _bearing(canvas))
    level = chest.level(z)
    outer = 0.90 - 0.28 * smooth_step(level, 0.15, 0.5)
    half = 1.9 + 2.6 * np.exp(-(((side - outer) / 0.07) ** 2))
    plate = np.abs(canvas.cage[box] - 21.0) - half
    limits = np.maximum(np.maximum(0.42 - side, side - outer - 0.04) * 80.0, -behind * 100.0)
    return common(common(plate, limits, 3.0), np.maximum(level - 0.5, 0.04 - level) * 240.0, 4.0)
