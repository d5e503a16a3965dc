"""Where in the chest: regions of the lung and negative controls, from a tissue mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np
from scipy import ndimage

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.lobes import Lobe
from dgmvlc_cli.imaging.volume import Tissue

RIND_MM = 15.0
# Mitsiopoulos et al. 1998, doi:10.1152/jappl.1998.85.1.115
MUSCLE_HU = (-29.0, 150.0)
FAT_HU = (-190.0, -30.0)


class Anatomy:
    """What regions are cut from: the lungs of one mask, and coordinates inside them.

    labels: (z, y, x) integers, `Tissue` values, index growing towards superior, posterior and the
    patient's left.  spacing_mm: (z, y, x).  scan_hu: (z, y, x), the real scan, from which muscle
    and fat are cut, so that both arms of a pair are measured in the same voxels; without it these
    regions are empty.  lobes: (z, y, x) integers, `Lobe` values; without them lobes are empty.
    Coordinates are computed when a region asks for them.
    """

    def __init__(
        self,
        labels: np.ndarray,
        spacing_mm: tuple[float, float, float],
        scan_hu: np.ndarray | None = None,
        lobes: np.ndarray | None = None,
    ) -> None:
        if labels.ndim != 3:
            raise DgmvlcError(
                f"the mask has {labels.ndim} axes, expected 3 (z, y, x)",
                "Pass one volume at a time.",
            )
        if lobes is not None and lobes.shape != labels.shape:
            raise DgmvlcError(
                f"the mask has shape {labels.shape} and its lobes {lobes.shape}",
                "Run `dgmvlc preprocess --force`, which writes both anew.",
            )
        self.labels = labels
        self.spacing_mm = spacing_mm
        self.scan_hu = scan_hu
        self.lobes = lobes

    @cached_property
    def lungs(self) -> np.ndarray:
        """(z, y, x) bool: both lungs, without airways."""
        return (self.labels == Tissue.RIGHT_LUNG) | (self.labels == Tissue.LEFT_LUNG)

    @cached_property
    def box(self) -> tuple[slice, ...]:
        """Bounding box of the lungs; empty slices where there are none."""
        found = ndimage.find_objects(self.lungs.astype(np.uint8))
        return found[0] if found else (slice(0, 0),) * 3

    def lobe(self, lobe: Lobe) -> np.ndarray:
        """(z, y, x) bool: one lobe, without airways."""
        if self.lobes is None:
            return np.zeros_like(self.lungs)
        return self.lungs & (self.lobes == lobe)

    def between(self, axis: int, low: float, high: float) -> np.ndarray:
        """Lung voxels whose centre lies in [low, high) of the lungs' extent along an axis.

        low, high: fractions, 0 at the first lung voxel's outer face, 1 at the last one's.
        """
        extent = self.box[axis]
        centre = np.arange(self.labels.shape[axis]) + 0.5
        fraction = (centre - extent.start) / max(extent.stop - extent.start, 1)
        chosen = (fraction >= low) & (fraction < high)
        shape = [1, 1, 1]
        shape[axis] = -1
        return self.lungs & chosen.reshape(shape)

    @cached_property
    def depth_mm(self) -> np.ndarray:
        """(z, y, x) float32: distance of each lung voxel to the lungs' outer surface, 0 elsewhere.

        Airways inside the lung are no surface.  The distance runs from the voxel's centre to the
        nearest centre outside, less half a voxel: the surface lies between the two.
        """
        inside = self.lungs[self.box] | (self.labels[self.box] == Tissue.AIRWAY)
        depth_mm = np.zeros(self.lungs.shape, np.float32)
        if inside.size:
            padded = np.pad(inside, 1)
            distance = ndimage.distance_transform_edt(padded, sampling=self.spacing_mm)
            distance = distance[1:-1, 1:-1, 1:-1] - 0.5 * min(self.spacing_mm)
            depth_mm[self.box] = np.where(self.lungs[self.box], distance, 0.0)
        return depth_mm

    @cached_property
    def rind(self) -> np.ndarray:
        """(z, y, x) bool: lung within `RIND_MM` of the lungs' outer surface."""
        return self.lungs & (self.depth_mm <= RIND_MM)

    def soft_tissue(self, low_hu: float, high_hu: float) -> np.ndarray:
        """(z, y, x) bool: body within a range of the real scan's HU, a voxel below its surface.

        Voxels at the surface of the body, of lungs and of airways hold some air.
        """
        if self.scan_hu is None:
            return np.zeros_like(self.lungs)
        inner = ndimage.binary_erosion(self.labels == Tissue.BODY, border_value=1)
        return inner & (self.scan_hu >= low_hu) & (self.scan_hu <= high_hu)


@dataclass(frozen=True)
class Region:
    """A named part of the scan.

    label: what a reader sees.
    control: True where no lung disease should show (a negative control).
    find: `Anatomy` -> (z, y, x) bool.
    """

    name: str
    label: str
    definition: str
    control: bool
    find: Callable[[Anatomy], np.ndarray]


def _is(tissue: Tissue) -> Callable[[Anatomy], np.ndarray]:
    return lambda anatomy: anatomy.labels == tissue


def _between(axis: int, low: float, high: float) -> Callable[[Anatomy], np.ndarray]:
    return lambda anatomy: anatomy.between(axis, low, high)


def _lobe(lobe: Lobe) -> Region:
    definition = f"the {lobe.label}, as given with the mask"
    return Region(lobe.structure, lobe.label, definition, False, lambda anatomy: anatomy.lobe(lobe))


_ALL = (
    Region(
        "lungs", "both lungs", "both lungs without airways", False, lambda anatomy: anatomy.lungs
    ),
    Region("right_lung", "right lung", "the right lung", False, _is(Tissue.RIGHT_LUNG)),
    Region("left_lung", "left lung", "the left lung", False, _is(Tissue.LEFT_LUNG)),
    *(_lobe(lobe) for lobe in Lobe),
    Region(
        "upper",
        "upper third",
        "upper third of the lungs' common height",
        False,
        _between(0, 2 / 3, 2),
    ),
    Region(
        "middle",
        "middle third",
        "middle third of the lungs' common height",
        False,
        _between(0, 1 / 3, 2 / 3),
    ),
    Region(
        "lower",
        "lower third",
        "lower third of the lungs' common height",
        False,
        _between(0, 0, 1 / 3),
    ),
    Region(
        "anterior", "anterior half", "front half of the lungs' depth", False, _between(1, 0, 0.5)
    ),
    Region(
        "posterior", "posterior half", "back half of the lungs' depth", False, _between(1, 0.5, 2)
    ),
    Region(
        "core",
        "core",
        f"lung deeper than {RIND_MM:g} mm below the lungs' outer surface",
        False,
        lambda anatomy: anatomy.lungs & ~anatomy.rind,
    ),
    Region(
        "rind",
        "rind",
        f"lung within {RIND_MM:g} mm of the lungs' outer surface",
        False,
        lambda anatomy: anatomy.rind,
    ),
    Region("airway", "airway", "airway lumen (negative control)", True, _is(Tissue.AIRWAY)),
    Region(
        "body", "soft tissue", "soft tissue and bone (negative control)", True, _is(Tissue.BODY)
    ),
    Region(
        "muscle",
        "muscle",
        f"body of {MUSCLE_HU[0]:g} to {MUSCLE_HU[1]:g} HU in the real scan (negative control)",
        True,
        lambda anatomy: anatomy.soft_tissue(*MUSCLE_HU),
    ),
    Region(
        "fat",
        "fat",
        f"body of {FAT_HU[0]:g} to {FAT_HU[1]:g} HU in the real scan (negative control)",
        True,
        lambda anatomy: anatomy.soft_tissue(*FAT_HU),
    ),
    Region(
        "outside",
        "outside the body",
        "air around the body (negative control)",
        True,
        _is(Tissue.OUTSIDE),
    ),
)
REGIONS: dict[str, Region] = {region.name: region for region in _ALL}
LOBE_REGIONS: tuple[str, ...] = tuple(lobe.structure for lobe in Lobe)
"""Regions of scans whose mask tells lobes; the other regions are those of every scan."""
LUNG_REGIONS: tuple[str, ...] = tuple(
    r.name for r in _ALL if not r.control and r.name not in LOBE_REGIONS
)
CONTROL_REGIONS: tuple[str, ...] = tuple(r.name for r in _ALL if r.control)


def regions(
    labels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    names: Iterable[str] | None = None,
    scan_hu: np.ndarray | None = None,
    lobes: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Regions of one mask: name -> (z, y, x) bool, in the order asked for.

    By default all, the lobes only where `lobes` is given.
    labels: (z, y, x) integers, `Tissue` values.  spacing_mm: (z, y, x).  scan_hu: the real scan.
    lobes: (z, y, x) integers, `Lobe` values.
    A region that is absent from the mask is empty, not missing.
    Raises UsageError for an unknown name, DgmvlcError for a mask that is not three-dimensional.
    """
    anatomy = Anatomy(labels, spacing_mm, scan_hu, lobes)
    if names is None:
        names = [name for name in REGIONS if lobes is not None or name not in LOBE_REGIONS]
    return {name: REGIONS[name].find(anatomy) for name in known(names, REGIONS, "region")}


def known(names: Iterable[str] | None, registry: dict, kind: str) -> tuple[str, ...]:
    """The names asked for, all of the registry's when None; UsageError for an unknown one."""
    chosen = tuple(registry) if names is None else tuple(names)
    for name in chosen:
        if name not in registry:
            near = get_close_matches(name, registry, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(registry)}."
            raise UsageError(f"unknown {kind} {name!r}", hint)
    return chosen
