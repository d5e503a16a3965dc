"""From slices at known places to a regular grid: order, gaps, gantry tilt, what is missing.

The places are believed, never an average of them: where gaps differ or slices lean, the volume is
resampled from where each slice really lies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import AIR_HU, Grid

DIRECTION_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-3
DUPLICATE_GAP_MM = 1e-2
# Of the usual gap: headers are rounded, and tables do not run to the micrometre.
GAP_TOLERANCE = 0.05
MOST_ASTRAY = 0.5  # of the usual gap: so far a slice may lie from its place on an even grid
MISSING_GAP = 1.5  # of the gaps nearby
NEIGHBOURS = 3  # gaps on either side that say what is usual nearby
MOST_LOST = 0.1  # of all slices
SHIFT_TOLERANCE_PIXELS = 0.5
MOST_STRAY_PIXELS = 3.0  # off the line along which the other slices are stacked
LEAST_TILT_DEGREES = 0.05  # what is less reads as none
LARGEST_CANVAS = 4.0  # of the pixels of a slice: 30 degrees of tilt over half a metre need 2.2
SNAP = 0.02  # of a gap: so near to a slice, the slice itself is taken
SPARSE_GAP = 1.5  # of the slice thickness: between such slices tissue was never scanned
MOST_GAPS_LISTED = 4


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What the header says about one slice.

    frame: its index in a multi-frame file, else None.  rows_cols: pixels.  pixel_mm: spacing
    between rows, between columns.  position_mm: LPS (x, y, z) of the first pixel.  row, column:
    unit vectors along increasing column and row index.  slope, intercept: stored value to HU.
    padding_hu: lowest and highest HU that stand for "nothing here", if declared.  number: in the
    series; of: how many images its acquisition had; both as the header counts, which may be
    otherwise.
    """

    path: Path
    frame: int | None = None
    rows_cols: tuple[int, int]
    pixel_mm: tuple[float, float]
    thickness_mm: float | None
    position_mm: np.ndarray
    row: np.ndarray
    column: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    padding_hu: tuple[float, float] | None = None
    number: int | None = None
    of: int | None = None

    @property
    def name(self) -> str:
        return self.path.name if self.frame is None else f"{self.path.name}, frame {self.frame + 1}"

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.row, self.column)


@dataclass(frozen=True, kw_only=True)
class Stacked:
    """HU (z, y, x) of a series on a regular grid, what was measured, and what the user must know.

    grid: in the order of axes of the slices, not yet that of LPS.
    """

    hu: np.ndarray
    grid: Grid
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def in_order(slices: Sequence[Slice]) -> list[Slice]:
    """Slices of one size and orientation, in order of position; DgmvlcError for a mixture."""
    _require_consistent(slices)
    return [slices[index] for index in np.argsort(places_mm(slices), kind="stable")]


def places_mm(slices: Sequence[Slice]) -> np.ndarray:
    """Positions (n,) along the normal of the first slice.

    Not of each: far from the origin, normals that differ in rounding give places that differ.
    """
    return np.array([one.position_mm for one in slices]) @ slices[0].normal


def stack(
    slices: Sequence[Slice], hu: np.ndarray, *, max_missing: int, unreadable: Sequence[str] = ()
) -> Stacked:
    """A regular grid from slices in order and their HU (n, rows, columns).

    Copies of a slice are dropped.  Up to max_missing slices in a row that are missing are
    interpolated and told.  unreadable: names of damaged files, told where a slice is missing.
    Raises DgmvlcError for two different slices at one place, and for larger holes.
    """
    slices, hu, notes = _without_copies(slices, hu)
    places = places_mm(slices)
    gaps = np.diff(places)
    holes, lost = _holes(slices, gaps, max_missing, unreadable)
    facts: dict[str, Any] = {"slices": len(slices), "slices_lost": lost}
    notes += holes + _lost_ends(slices) + _sparse(slices, gaps)
    if unreadable and not holes:
        notes.append(f"damaged beside the slices, left out: {', '.join(unreadable)}")
    corner_mm, gap_mm = slices[0].position_mm, _gap_mm(slices, gaps)
    shift = _shift_mm(slices)
    stray = _stray_pixels(shift, places, slices[0])
    _require_in_line(slices, stray, shift)
    if leans := _leans(shift, slices[0]):
        if strays := stray.max() > SHIFT_TOLERANCE_PIXELS:
            notes.append(f"slices up to {stray.max():.1f} pixels off the line of the others, moved")
        if not strays or tilt_degrees(slices) >= LEAST_TILT_DEGREES:
            facts["tilt_degrees"] = round(tilt_degrees(slices), 2)
            notes.append(f"gantry tilt of {tilt_degrees(slices):.1f} degrees, corrected")
        hu, corner_mm = _straighten(hu, shift, slices[0])
    if uneven := _uneven(places, gaps):
        hu, gap_mm = _even_out(hu, places, _step(gaps))
    if leans or uneven:
        facts["gaps_mm"] = _gaps_text(slices)
    if uneven and not lost:
        notes.append(f"irregular gaps between slices ({facts['gaps_mm']}), resampled")
    grid = _grid(slices[0], hu.shape, gap_mm, corner_mm)
    return Stacked(hu=hu, grid=grid, facts=facts, notes=tuple(notes))


def tilt_degrees(slices: Sequence[Slice]) -> float:
    """Angle between the line along which slices are stacked and their normal."""
    run = slices[-1].position_mm - slices[0].position_mm
    length = float(np.linalg.norm(run))
    if length < DUPLICATE_GAP_MM:
        return 0.0
    return float(np.degrees(np.arccos(np.clip(run @ slices[0].normal / length, -1.0, 1.0))))


def difference(one: Slice, other: Slice) -> str:
    """How two slices differ that cannot be of one volume; empty if they can."""
    if one.rows_cols != other.rows_cols:
        return f"size {one.rows_cols} differs from {other.rows_cols}"
    if not np.allclose(one.pixel_mm, other.pixel_mm, atol=SPACING_TOLERANCE_MM):
        return f"pixel spacing {one.pixel_mm} differs from {other.pixel_mm}"
    turn = np.abs(np.r_[one.row - other.row, one.column - other.column]).max()
    if turn > DIRECTION_TOLERANCE:
        return f"orientation {_cosines(one)} differs from {_cosines(other)}"
    return ""


def _cosines(one: Slice) -> list[float]:
    return [round(float(value), 4) for value in (*one.row, *one.column)]


def _require_consistent(slices: Sequence[Slice]) -> None:
    """Refuse a mixture of sizes, pixel spacings or orientations."""
    first = slices[0]
    for one in slices[1:]:
        if found := difference(one, first):
            raise DgmvlcError(
                f"{one.path}: {found} in {first.name}",
                "Keep one series per folder; these slices belong to different ones.",
            )


def _without_copies(
    slices: Sequence[Slice], hu: np.ndarray
) -> tuple[list[Slice], np.ndarray, list[str]]:
    """Slices of which each place has one; DgmvlcError where two at one place differ."""
    kept, notes, places = [0], [], places_mm(slices)
    for index in range(1, len(slices)):
        one, before = slices[index], slices[kept[-1]]
        if places[index] - places[kept[-1]] >= DUPLICATE_GAP_MM:
            kept.append(index)
        elif np.array_equal(hu[index], hu[kept[-1]]):
            notes.append(f"{one.name} is a copy of {before.name}, left out")
        else:
            raise _two_at_one_place(slices, one, before)
    if len(kept) == len(slices):
        return list(slices), hu, notes
    return [slices[index] for index in kept], hu[kept], notes


def _two_at_one_place(slices: Sequence[Slice], one: Slice, before: Slice) -> DgmvlcError:
    places = Counter(np.rint(places_mm(slices) / DUPLICATE_GAP_MM).tolist())
    if len(slices) > 2 and min(places.values()) > 1:
        return DgmvlcError(
            f"{one.path.parent}: 4-D, {max(places.values())} different slices at each of "
            f"{len(places)} positions (a time series, or several reconstructions)",
            "Give one of its volumes.",
        )
    return DgmvlcError(
        f"{one.path}: at the same position as {before.name}, with other content",
        "Remove the slice of the other reconstruction or acquisition.",
    )


def _holes(
    slices: Sequence[Slice], gaps: np.ndarray, max_missing: int, unreadable: Sequence[str]
) -> tuple[list[str], int]:
    """A sentence per hole, and how many slices are lost in all.

    Raises DgmvlcError for a hole of more than max_missing slices, or too many holes.
    """
    notes, total = [], 0
    beside = f"; damaged beside them: {', '.join(unreadable)}" if unreadable else ""
    for index, gap in enumerate(gaps):
        usual = _usual_nearby(gaps, index)
        if gap <= MISSING_GAP * usual:
            continue
        lost = max(round(float(gap) / usual) - 1, 1)
        total += lost
        where = _hole(slices[index], slices[index + 1], float(gap), usual, lost)
        if lost > max_missing:
            raise DgmvlcError(
                f"{slices[index].path.parent}: {where}{beside}",
                "Export the series again, complete; or allow more with `max_missing_slices`.",
            )
        notes.append(f"{where}, interpolated{beside}")
    if total > max(MOST_LOST * len(slices), max_missing):
        raise DgmvlcError(
            f"{slices[0].path.parent}: {total} of {len(slices) + total} slices missing; the first: "
            f"{notes[0]}",
            "Export the series again, complete.",
        )
    return notes, total


def _usual_nearby(gaps: np.ndarray, index: int) -> float:
    """Median of the gaps around one, itself left out; itself where it is the only one."""
    around = np.r_[gaps[max(index - NEIGHBOURS, 0) : index], gaps[index + 1 :][:NEIGHBOURS]]
    return float(np.median(around)) if around.size else float(gaps[index])


def _hole(before: Slice, after: Slice, gap: float, usual: float, lost: int) -> str:
    first = before.position_mm + (after.position_mm - before.position_mm) * usual / gap
    return (
        f"{counted(lost, 'slice')} missing at z = {first[2]:.1f} mm, between "
        f"{before.name} and {after.name} (gap {gap:.2f} mm, nearby {usual:.2f} mm)"
    )


def _lost_ends(slices: Sequence[Slice]) -> list[str]:
    """What the headers' own count tells of slices before the first or after the last.

    No gap shows these.  Believed only where the numbers run with the positions and few are amiss:
    elsewhere they count something else (other series, reconstructions, localizers).
    """
    numbers = [one.number for one in slices if one.number is not None]
    most = max(MOST_LOST * len(slices), 1)
    steps = np.diff(numbers)
    runs = len(steps) and len(set(np.sign(steps))) == 1 and np.median(np.abs(steps)) == 1
    if len(numbers) < len(slices) or not runs or slices[0].of == len(slices):
        return []
    before = min(numbers) - 1
    after = max((one.of or 0) for one in slices) - max(numbers)
    ends = [slices[0], slices[-1]] if steps[0] > 0 else [slices[-1], slices[0]]
    return [
        f"{counted(amiss, 'slice')} may be missing beyond "
        f"{end.name} (z = {end.position_mm[2]:.1f} mm): {why}"
        for amiss, end, why in (
            (before, ends[0], f"the series' own numbers begin at {min(numbers)}"),
            (after, ends[1], f"its header counts {max(numbers) + after}"),
        )
        if 0 < amiss <= most
    ]


def _gaps_text(slices: Sequence[Slice]) -> str:
    """Distances between successive positions, most frequent first: `4.22 mm x 13, ...`."""
    steps = np.diff([one.position_mm for one in slices], axis=0)
    counted = Counter(np.round(np.linalg.norm(steps, axis=1), 2).tolist()).most_common()
    text = ", ".join(f"{mm:.2f} mm x {count}" for mm, count in counted[:MOST_GAPS_LISTED])
    return text + (", ..." if len(counted) > MOST_GAPS_LISTED else "")


def _sparse(slices: Sequence[Slice], gaps: np.ndarray) -> list[str]:
    thickness = slices[0].thickness_mm
    if not thickness or not len(gaps) or np.median(gaps) <= SPARSE_GAP * thickness:
        return []
    return [
        f"slices of {thickness:g} mm at gaps of {np.median(gaps):.2f} mm: tissue between them was "
        "not scanned"
    ]


def _leans(shift_mm: np.ndarray, first: Slice) -> bool:
    pixel_mm = np.array(first.pixel_mm)
    return bool((np.abs(shift_mm) > SHIFT_TOLERANCE_PIXELS * pixel_mm).any())


def _uneven(places: np.ndarray, gaps: np.ndarray) -> bool:
    """Whether gaps differ, or differ by so little each that only their sum leads astray."""
    if len(gaps) < 2:
        return False
    usual = np.median(gaps)
    astray = np.abs(places - np.linspace(places[0], places[-1], len(places))).max()
    return bool(np.ptp(gaps) > 2 * GAP_TOLERANCE * usual or astray > MOST_ASTRAY * usual)


def _gap_mm(slices: Sequence[Slice], gaps: np.ndarray) -> float:
    return float(gaps.mean()) if len(gaps) else slices[0].thickness_mm or 1.0


def _step(gaps: np.ndarray) -> float:
    """The gap of the regular grid: among the smaller ones, so that fine parts stay fine."""
    return max(float(np.quantile(gaps, 0.25, method="lower")), float(gaps.mean()) / 2)


def _shift_mm(slices: Sequence[Slice]) -> np.ndarray:
    """In-plane offset of each slice from the first, (n, 2): down the columns, along the rows."""
    away = np.array([one.position_mm for one in slices]) - slices[0].position_mm
    return np.stack([away @ slices[0].column, away @ slices[0].row], axis=1)


def _stray_pixels(shift_mm: np.ndarray, places: np.ndarray, first: Slice) -> np.ndarray:
    """How far each slice lies in its plane from the line of the others, in pixels, (n,).

    The line is of medians, over pairs half the series apart: few strays do not bend it, and the
    rounding of headers does not add up along it.
    """
    half = len(places) // 2
    if len(places) < 3:
        return np.zeros(len(places))
    run = (places[half:] - places[:-half])[:, None]
    line = np.median((shift_mm[half:] - shift_mm[:-half]) / run, axis=0) * places[:, None]
    line += np.median(shift_mm - line, axis=0)
    return np.asarray(np.abs((shift_mm - line) / np.array(first.pixel_mm)).max(axis=1))


def _require_in_line(slices: Sequence[Slice], stray: np.ndarray, shift_mm: np.ndarray) -> None:
    """Refuse slices that no gantry tilt puts where they lie, before memory is taken for them."""
    first, worst = slices[0], int(stray.argmax())
    if stray[worst] > MOST_STRAY_PIXELS:
        others = int((stray > MOST_STRAY_PIXELS).sum()) - 1
        raise DgmvlcError(
            f"{first.path.parent}: {slices[worst].name} lies {stray[worst]:.0f} pixels to the "
            "side of the line along which the other slices are stacked"
            + (f", and so do {counted(others, 'other')}" if others else ""),
            "Export the series again; or remove what is of another series.",
        )
    size = np.array(first.rows_cols)
    canvas = np.prod(size + np.ptp(shift_mm, axis=0) / np.array(first.pixel_mm))
    if canvas > LARGEST_CANVAS * np.prod(size):
        raise DgmvlcError(
            f"{first.path.parent}: the slices move {np.ptp(shift_mm, axis=0).max():.0f} mm to the "
            f"side, from {first.name} to {slices[-1].name}, which no gantry tilt explains",
            "Export the series again, the positions in its headers are wrong.",
        )


def _straighten(
    hu: np.ndarray, shift_mm: np.ndarray, first: Slice
) -> tuple[np.ndarray, np.ndarray]:
    """Slices moved in their planes to where they lie, on a canvas that holds them all.

    Returns HU and the position of the canvas' first pixel.  Cubic splines, the range of each
    slice kept; what no slice covers is air.
    """
    pixels = shift_mm / np.array(first.pixel_mm)
    low, high = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0))
    rows, columns = (np.array(first.rows_cols) + high - low).astype(int)
    canvas = np.full((len(hu), rows, columns), AIR_HU, np.float32)
    for plane, target, move in zip(hu, canvas, pixels - low, strict=True):
        whole = np.floor(move).astype(int)
        moved = _moved(plane, move - whole)
        y, x = whole
        part = target[y : y + moved.shape[0], x : x + moved.shape[1]]
        part[:] = moved[: part.shape[0], : part.shape[1]]
    down, across = low * np.array(first.pixel_mm)
    return canvas, first.position_mm + down * first.column + across * first.row


def _moved(plane: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """A slice moved by less than a pixel along each axis, on one row and column more."""
    wider = np.pad(plane, ((0, 1), (0, 1)), mode="edge")
    moved = ndimage.shift(wider, fraction, order=3, mode="nearest")
    moved = np.clip(moved, plane.min(), plane.max())
    # The row gained at one end or the other is less than half covered.
    moved[-1 if fraction[0] < 0.5 else 0] = AIR_HU
    moved[:, -1 if fraction[1] < 0.5 else 0] = AIR_HU
    return moved


def _even_out(hu: np.ndarray, places: np.ndarray, step_mm: float) -> tuple[np.ndarray, float]:
    """Slices at equal gaps, each between the two slices nearest to its place, by its distance."""
    count = round((places[-1] - places[0]) / step_mm) + 1
    wanted = np.linspace(places[0], places[-1], count)
    after = np.clip(np.searchsorted(places, wanted), 1, len(places) - 1)
    weight = (wanted - places[after - 1]) / (places[after] - places[after - 1])
    weight = np.where(weight < SNAP, 0.0, np.where(weight > 1 - SNAP, 1.0, weight))
    even = np.empty((count, *hu.shape[1:]), np.float32)
    for target, right, share in zip(even, after, weight, strict=True):
        target[:] = hu[right - 1] if share < 1 else hu[right]
        if 0 < share < 1:
            target += np.float32(share) * (hu[right] - hu[right - 1])
    return even, float((places[-1] - places[0]) / (count - 1))


def _grid(first: Slice, shape: tuple[int, ...], gap_mm: float, corner_mm: np.ndarray) -> Grid:
    depth, rows, columns = shape
    down_mm, across_mm = first.pixel_mm
    x, y, z = (float(mm) for mm in corner_mm)
    axes = np.stack([first.row, first.column, first.normal], axis=1)
    return Grid(
        shape=(depth, rows, columns),
        spacing_mm=(gap_mm, down_mm, across_mm),
        origin_mm=(x, y, z),
        direction=tuple(axes.ravel().tolist()),
    )
