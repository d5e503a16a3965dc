"""Lungs, airway and body from HU alone: thresholds, connected regions and physical distances.

All lengths are in mm and all sizes in mL, so that the same rules serve 1 mm and 8 mm slices.
"""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from dgmvlc_cli.imaging.hounsfield import halfway
from dgmvlc_cli.imaging.volume import LUNGS, Tissue, Volume, centre_of

Spacing = tuple[float, float, float]

TISSUE_HU = -300.0  # air and lung lie below, fat and all other tissue above
LUNG_THRESHOLD_RANGE_HU = (-550.0, -350.0)
WORK_SPACING_MM = 2.0  # finer scans are segmented at about this spacing, then refined
TABLE_THICKNESS_MM = 12.0
WALL_REACH_MM = 25.0
RING_GAP_MM = 20.0
PURE_GAS_HU = -985.0  # of stomach, bowel and pleural air; a lung holds no more than bubbles of it
SECOND_LUNG_RATIO = 0.2  # of the larger lung's volume: what is smaller is no lung of its own
LEAST_WIDTH_MM = 16.0
AXIAL_NEIGHBOURS = ndimage.generate_binary_structure(2, 1)[None]
SPECK_RATIO = 0.01  # of the largest region: what is smaller is not worth a look
SLIVER_RATIO = 0.1
SPLIT_STEP_MM, SPLIT_MAX_MM = 2.0, 24.0
TRACHEA_LENGTH_MM = 30.0
TRACHEA_SECTION_MM2 = (20.0, 700.0)
TRACHEA_OFF_CENTRE = 0.15  # of the body's width
AIRWAY_THRESHOLDS_HU = tuple(range(-980, -600, 20))
AIRWAY_MAX_ML = 150.0
LEAK_ML = 15.0  # a growth that no bronchus explains
VESSEL_CLOSING_MM = 5.0
PLAUSIBLE_LUNG_ML = (1000.0, 10000.0)
PLAUSIBLE_LUNG_HU = (-950.0, -500.0)
LEAST_CUT_MM2 = 200.0  # less of the lungs in the last slice is an apex or a costal angle


def segment(volume: Volume) -> np.ndarray:
    """Tissue labels, uint8 (z, y, x), of a chest CT in HU.

    Fine scans are segmented on a coarser grid, which is quick and quiet, and sharpened afterwards.
    Returns labels without any lung where none is found: check_labels says so.
    """
    factors = _work_factors(volume)
    hu = _block_mean(volume.hu, factors)
    z, y, x = (mm * factor for mm, factor in zip(volume.spacing_mm, factors, strict=True))
    flesh = find_flesh(hu, (z, y, x))
    inside = enclosed(flesh, (z, y, x))
    threshold = lung_threshold(hu[inside])
    gas = inside & (hu < threshold)
    airway = find_airway(hu, gas, inside, (z, y, x))
    lungs, whole = find_lungs(hu, gas & ~airway, (z, y, x))
    right, left = split_lungs(whole, inside, (z, y, x))
    right = close_lung(right & lungs, airway | left, (z, y, x))
    left = close_lung(left & lungs, airway | right, (z, y, x))
    labels = _assemble(flesh, airway, right, left)
    return labels if max(factors) == 1 else _sharpen(labels, factors, volume.hu, threshold)


def label_lungs(volume: Volume, lungs: np.ndarray) -> np.ndarray:
    """Tissue labels from a given binary lung mask: sides, body and airway are found around it."""
    flesh = find_flesh(volume.hu, volume.spacing_mm)
    inside = enclosed(flesh | lungs, volume.spacing_mm)
    gas = inside & (volume.hu < TISSUE_HU)
    airway = find_airway(volume.hu, gas, inside, volume.spacing_mm) & ~lungs
    right, left = split_lungs(lungs, inside, volume.spacing_mm)
    return _assemble(flesh, airway, right, left)


def check_labels(volume: Volume, labels: np.ndarray) -> list[str]:
    """Sentences on what is implausible about the lungs of a mask; empty if nothing is.

    volume: oriented to LPS.
    """
    lungs = np.isin(labels, LUNGS)
    if not lungs.any():
        return ["no lung found"]
    warnings = [
        f"no {tissue.name.lower().replace('_', ' ')} found"
        for tissue in LUNGS
        if not (labels == tissue).any()
    ]
    right, left = (centre_of(labels == side) for side in LUNGS)
    if right is not None and left is not None and right[2] > left[2]:
        warnings.append("the right lung lies to the left of the left one")
    lung_ml = float(lungs.sum()) * volume.voxel_ml
    mean_hu = float(volume.hu[lungs].mean(dtype=np.float64))
    low, high = PLAUSIBLE_LUNG_ML
    if not low <= lung_ml <= high:
        warnings.append(
            f"lung volume {lung_ml / 1000:.2f} L is outside {low / 1000:g}-{high / 1000:g} L"
        )
    low, high = PLAUSIBLE_LUNG_HU
    if not low <= mean_hu <= high:
        warnings.append(f"mean lung HU {mean_hu:.0f} is outside {low:g} to {high:g}")
    if cut := _cut_off(lungs, volume.spacing_mm):
        warnings.append(f"lungs cut off by the {' and the '.join(cut)} of the scan")
    return warnings


def _cut_off(lungs: np.ndarray, spacing_mm: Spacing) -> list[str]:
    """Which ends of the scan the lungs reach over more than `LEAST_CUT_MM2`."""
    reached = []
    for axis, names in enumerate(
        (("bottom", "top"), ("front", "back"), ("right side", "left side"))
    ):
        face_mm2 = np.prod(np.delete(spacing_mm, axis))
        for index, name in zip((0, -1), names, strict=True):
            if np.take(lungs, index, axis=axis).sum() * face_mm2 > LEAST_CUT_MM2:
                reached.append(name)
    return reached


def _assemble(
    flesh: np.ndarray, airway: np.ndarray, right: np.ndarray, left: np.ndarray
) -> np.ndarray:
    """Labels of four masks; the body is the flesh and all that it and the lungs enclose."""
    body = np.stack([_fill_ring(plane) for plane in flesh | airway | right | left])
    labels = body.astype(np.uint8) * np.uint8(Tissue.BODY)
    labels[airway] = Tissue.AIRWAY
    labels[right] = Tissue.RIGHT_LUNG
    labels[left] = Tissue.LEFT_LUNG
    return labels


def find_flesh(hu: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Soft tissue and bone of the patient without the table, as bool (z, y, x).

    Thick flesh is the core, and what is thin belongs to it if it is near: the chest wall of a
    thin patient is no thicker than a table.
    """
    tissue = hu > TISSUE_HU
    core = _largest(_erode(tissue, TABLE_THICKNESS_MM / 2, spacing_mm, axial=True))
    return _largest(tissue & _dilate(core, WALL_REACH_MM, spacing_mm, axial=True))


def enclosed(flesh: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """The flesh and what lies within its ring in each axial plane, small gaps in the ring bridged.

    Axial, because along the body lungs and bowel may leave the scan.
    """
    reach = RING_GAP_MM / 2
    wide = _dilate(flesh, reach, spacing_mm, axial=True)
    closed = _erode(wide, reach, spacing_mm, axial=True)
    return np.stack([_fill_ring(plane) for plane in flesh | closed])


def _fill_ring(plane: np.ndarray) -> np.ndarray:
    """A slice of the body with what it encloses, also where the field of view cuts its ring."""
    closed = np.pad(plane, 1)
    for edge, line in (
        (closed[0], closed[1]),
        (closed[-1], closed[-2]),
        (closed[:, 0], closed[:, 1]),
        (closed[:, -1], closed[:, -2]),
    ):
        touching = np.flatnonzero(line)
        if touching.size:
            edge[touching[0] : touching[-1] + 1] = True
    return ndimage.binary_fill_holes(closed)[1:-1, 1:-1]


def lung_threshold(hu_in_body: np.ndarray) -> float:
    """The HU halfway between the means of gas and tissue, within a plausible range."""
    low, high = LUNG_THRESHOLD_RANGE_HU
    return min(max(halfway(hu_in_body, start=-500.0, tolerance=0.5), low), high)


def find_airway(
    hu: np.ndarray, gas: np.ndarray, inside: np.ndarray, spacing_mm: Spacing
) -> np.ndarray:
    """Trachea and large bronchi, by region growing that stops before it leaks into the lung.

    The lumen is grown at ever higher thresholds as long as its volume does not jump.  Its rim of
    mixed voxels is added.  Empty where no trachea is in the scan.
    """
    voxel_ml = math.prod(spacing_mm) / 1000
    lumen = np.zeros(hu.shape, bool)
    for threshold in AIRWAY_THRESHOLDS_HU:
        dark, count = ndimage.label(gas & (hu < threshold))
        if not lumen.any():
            lumen = _trachea(dark, count, inside, spacing_mm)
            continue
        grown = np.isin(dark, np.unique(dark[lumen]))
        before_ml, grown_ml = lumen.sum() * voxel_ml, grown.sum() * voxel_ml
        if grown_ml > min(AIRWAY_MAX_ML, 1.5 * before_ml + LEAK_ML):
            break
        lumen = grown
    return (lumen | ndimage.binary_dilation(lumen)) & gas


def _trachea(dark: np.ndarray, count: int, inside: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """The highest of the regions that are as long, as slim and as central as a trachea."""
    middle, width = _midline(inside)
    # Below half height there is no trachea, but there are bowel loops of that shape.
    best, best_top = 0, dark.shape[0] // 2
    for region, box in enumerate(ndimage.find_objects(dark, count), start=1):
        length_mm = (box[0].stop - box[0].start) * spacing_mm[0]
        if length_mm < TRACHEA_LENGTH_MM or box[0].stop <= best_top or _at_edge(box, dark.shape):
            continue
        member = dark[box] == region
        section_mm2 = member.sum() * math.prod(spacing_mm) / length_mm
        slim = TRACHEA_SECTION_MM2[0] < section_mm2 < TRACHEA_SECTION_MM2[1]
        top_column = np.nonzero(member[-1])[1].mean() + box[2].start
        if slim and abs(top_column - middle) < TRACHEA_OFF_CENTRE * width:
            best, best_top = region, box[0].stop
    return dark == best if best else np.zeros(dark.shape, bool)


def _at_edge(box: tuple[slice, slice, slice], shape: tuple[int, ...]) -> bool:
    """Whether a box reaches the edge of the field of view, where outside air may be enclosed."""
    return any(
        side.start == 0 or side.stop == size for side, size in zip(box[1:], shape[1:], strict=True)
    )


def _midline(inside: np.ndarray) -> tuple[float, float]:
    """Centre and width of the body along the right-left axis, in voxels."""
    weights = inside.sum(axis=(0, 1), dtype=np.float64)
    columns = np.flatnonzero(weights)
    if not columns.size:
        return inside.shape[2] / 2, float(inside.shape[2])
    middle = np.average(np.arange(inside.shape[2]), weights=weights)
    return float(middle), float(np.ptp(columns) + 1)


def find_lungs(
    hu: np.ndarray, gas: np.ndarray, spacing_mm: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """The one or two large regions that hold more than the pure gas of stomach, bowel or pleura.

    As they are, and with the holes of each plane.
    Nothing where no region is as wide as a lung: the rims of other things are mixed voxels too.
    """
    regions, count = ndimage.label(gas)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(sizes > SPECK_RATIO * sizes.max(initial=0)) + 1
    airy = {
        int(one): sizes[one - 1] for one in large if np.median(hu[regions == one]) > PURE_GAS_HU
    }
    least = SECOND_LUNG_RATIO * max(airy.values(), default=0)
    lungs = np.isin(regions, [one for one, size in airy.items() if size >= least])
    steps = math.ceil(LEAST_WIDTH_MM / 2 / max(spacing_mm[1:]))
    whole = fill_planes(lungs)
    inner = ndimage.binary_erosion(whole, AXIAL_NEIGHBOURS, iterations=steps, border_value=1)
    nothing = np.zeros_like(lungs)
    return (lungs, whole) if inner.any() else (nothing, nothing)


def fill_planes(mask: np.ndarray) -> np.ndarray:
    """A mask with the holes of each axial plane."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])


def split_lungs(
    lungs: np.ndarray, inside: np.ndarray, spacing_mm: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """Right and left lung, apart even where they touch.

    Eroded until two large parts lie on the two sides of the body, then grown back by a watershed
    on the depth inside the lung, whose ridge runs along the thin junction.
    """
    depth = _depth(lungs, spacing_mm)
    middle, _ = _midline(inside)
    for erosion_mm in np.arange(0.0, SPLIT_MAX_MM, SPLIT_STEP_MM):
        markers = _two_parts(lungs & (depth > erosion_mm), middle)
        if markers is not None:
            return _grow_markers(markers, depth, lungs)
    return _halves(lungs, middle)


def _halves(lungs: np.ndarray, middle: float) -> tuple[np.ndarray, np.ndarray]:
    """Lungs cut at a column; a sliver beyond it belongs to the only lung there is."""
    right = lungs & (np.arange(lungs.shape[2]) < middle)
    share = float(right.sum()) / max(int(lungs.sum()), 1)
    if share < SLIVER_RATIO:
        right = np.zeros_like(lungs)
    elif share > 1 - SLIVER_RATIO:
        right = lungs
    return right, lungs & ~right


def _two_parts(lungs: np.ndarray, middle: float) -> np.ndarray | None:
    """Markers 1 (right) and 2 (left) if the two largest parts lie on both sides, else None."""
    parts, count = ndimage.label(lungs)
    if count < 2:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    second, first = np.argsort(sizes, kind="stable")[-2:] + 1
    if sizes[second - 1] < SECOND_LUNG_RATIO * sizes[first - 1]:
        return None
    columns = {int(part): _mean_column(parts == part) for part in (first, second)}
    right, left = sorted(columns, key=lambda part: columns[part])
    if not columns[right] < middle < columns[left]:
        return None
    return (parts == right).astype(np.uint8) + 2 * (parts == left).astype(np.uint8)


def _mean_column(member: np.ndarray) -> float:
    return float(np.average(np.arange(member.shape[2]), weights=member.sum(axis=(0, 1))))


def _grow_markers(
    markers: np.ndarray, depth: np.ndarray, lungs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Every lung voxel to the marker that a watershed on the depth reaches it from."""
    relief = sitk.GetImageFromArray((-depth).astype(np.float32))
    basins = sitk.MorphologicalWatershedFromMarkers(
        relief, sitk.GetImageFromArray(markers), markWatershedLine=False
    )
    side = sitk.GetArrayFromImage(basins)
    return lungs & (side == 1), lungs & (side == 2)


def close_lung(lung: np.ndarray, taken: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """One lung with its vessels and the dents that they and nodules leave at the pleura.

    taken: voxels of the airway and of the other lung, which the closing must not swallow.
    """
    if not lung.any():
        return lung
    (found,) = ndimage.find_objects(lung.astype(np.uint8))
    pads = [math.ceil(VESSEL_CLOSING_MM / mm) + 1 for mm in spacing_mm]
    box = tuple(
        slice(max(side.start - pad, 0), side.stop + pad)
        for side, pad in zip(found, pads, strict=True)
    )
    wide = _dilate(lung[box], VESSEL_CLOSING_MM, spacing_mm)
    closed = _erode(wide, VESSEL_CLOSING_MM, spacing_mm) | lung[box]
    # Not before: which gaps close an outline is a matter of mm, and not of the size of voxels.
    filled = fill_planes(closed)
    result = np.zeros(lung.shape, bool)
    result[box] = filled & ~taken[box]
    return result


def _sharpen(
    labels: np.ndarray, factors: tuple[int, int, int], hu: np.ndarray, threshold: float
) -> np.ndarray:
    """Labels of the working grid on the grid of the scan, whose HU decide within one voxel.

    The inside of a lung stays whole, vessels included; its rim is where the scan says it is.
    """
    gas = hu < threshold
    flesh = _sharp_edge(labels > 0, factors, hu > TISSUE_HU)
    airway = _spread(labels == Tissue.AIRWAY, factors, hu.shape) & gas
    right, left = (_sharp_edge(labels == side, factors, gas) & ~airway for side in LUNGS)
    return _assemble(flesh, airway, right & ~left, left)


def _sharp_edge(mask: np.ndarray, factors: tuple[int, int, int], inside: np.ndarray) -> np.ndarray:
    """A coarse mask on the fine grid; within one coarse voxel of its edge `inside` decides."""
    core = ndimage.binary_erosion(mask, border_value=1)
    reach = ndimage.binary_dilation(mask)
    sharp = _spread(reach, factors, inside.shape) & inside
    sharp |= _spread(core, factors, inside.shape)
    return sharp


def _spread(mask: np.ndarray, factors: tuple[int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    for axis, factor in enumerate(factors):
        mask = np.repeat(mask, factor, axis=axis)
    return mask[tuple(slice(size) for size in shape)]


def _work_factors(volume: Volume) -> tuple[int, int, int]:
    """How many voxels along each axis make one voxel of the working grid."""
    z, y, x = (
        min(max(1, round(WORK_SPACING_MM / mm)), size)
        for mm, size in zip(volume.spacing_mm, volume.hu.shape, strict=True)
    )
    return z, y, x


def _block_mean(hu: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Means over blocks of voxels; the last block of an axis may be smaller."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            starts = np.arange(0, hu.shape[axis], factor)
            counts = np.diff(starts, append=hu.shape[axis]).astype(np.float32)
            hu = np.add.reduceat(hu, starts, axis=axis) / np.expand_dims(
                counts, tuple(other for other in range(3) if other != axis)
            )
    return hu


def _largest(mask: np.ndarray) -> np.ndarray:
    regions, count = ndimage.label(mask)
    if not count:
        return mask
    return regions == np.bincount(regions.ravel())[1:].argmax() + 1


def _depth(mask: np.ndarray, spacing_mm: Spacing, axial: bool = False) -> np.ndarray:
    """Distance in mm of each mask voxel to the nearest voxel outside; the scan's end is no outside.

    axial: distances within the axial plane only.
    """
    if mask.all():
        return np.full(mask.shape, np.inf)
    sampling = (1e6, *spacing_mm[1:]) if axial else spacing_mm
    return ndimage.distance_transform_edt(mask, sampling=sampling)


def _erode(
    mask: np.ndarray, radius_mm: float, spacing_mm: Spacing, axial: bool = False
) -> np.ndarray:
    return _depth(mask, spacing_mm, axial) > radius_mm


def _dilate(
    mask: np.ndarray, radius_mm: float, spacing_mm: Spacing, axial: bool = False
) -> np.ndarray:
    return _depth(~mask, spacing_mm, axial) <= radius_mm
