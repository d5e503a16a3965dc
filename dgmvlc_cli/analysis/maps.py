"""Where in the lung: maps in lung-relative coordinates, over subjects, with inference.

A template of cells is laid over every subject's lungs by height, depth and side, so no image is
registered to another.  Height and depth are fractions of both lungs' common extent, as in `zones`;
the side runs across each lung by itself, so that the mediastinum's width does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from dgmvlc_cli.analysis import permutation
from dgmvlc_cli.analysis.contrasts import entangled
from dgmvlc_cli.analysis.zones import Anatomy
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.volume import FWHM_PER_SIGMA, Tissue

HEIGHT, DEPTH, WIDTH = 24, 18, 10
TEMPLATE = (HEIGHT, DEPTH, 2 * WIDTH + 1)
"""Cells (height, depth, across): the right lung, one empty column, the left lung.

They grow towards superior, posterior and the patient's left, as volumes do.  In an average lung a
cell is about 10 mm wide.
"""
SMOOTHING_MM = 12.0
"""Full width at half maximum of the smoothing within the lung."""
LEAST_WEIGHT = 0.1
LEAST_SHARE = 0.95
PLEURA_MM = (0.0, 10.0, 20.0, 30.0, np.inf)
THIRDS = ("lower", "middle", "upper")
ALPHA = 0.05


class Sampler:
    """Reads volumes of one subject in the cells of the template.

    labels: (z, y, x), `Tissue` values.  spacing_mm: (z, y, x).
    """

    def __init__(self, labels: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
        self.shape = labels.shape
        self.sigma = [SMOOTHING_MM / FWHM_PER_SIGMA / mm for mm in spacing_mm]
        common = Anatomy(labels, spacing_mm).box
        self.sides = [
            _Side(columns, labels == tissue, common, self.sigma)
            for columns, tissue in (
                (slice(0, WIDTH), Tissue.RIGHT_LUNG),
                (slice(WIDTH + 1, None), Tissue.LEFT_LUNG),
            )
            if (labels == tissue).any()
        ]
        widths = [side.extent[2] for side in self.sides] or [0]
        height, depth = (part.stop - part.start for part in common[:2])
        cells = np.array([height / HEIGHT, depth / DEPTH, np.mean(widths) / WIDTH])
        self.cell_mm = tuple(float(mm) for mm in cells * np.asarray(spacing_mm))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(z, y, x) -> `TEMPLATE` float32, NaN beyond the lungs.

        Voxels of one lung alone are smoothed, by a Gaussian of `SMOOTHING_MM` normalised over the
        lung (Knutsson and Westin 1993, doi:10.1109/CVPR.1993.341081), and read at the cell's
        centre.  A cell is NaN where less than `LEAST_WEIGHT` of the Gaussian is lung, and
        throughout an absent lung.  Raises DgmvlcError where the volume does not fit the mask.
        """
        if values.shape != self.shape:
            raise DgmvlcError(
                f"a map of shape {values.shape} does not fit a mask of shape {self.shape}",
                "Give each volume the mask made from it.",
            )
        result = np.full(TEMPLATE, np.nan, np.float32)
        for side in self.sides:
            result[..., side.columns] = side.read(values, self.sigma)
        return result


class _Side:
    """One lung: its columns of the template, and where their cells lie in the volume."""

    def __init__(
        self, columns: slice, lung: np.ndarray, common: tuple[slice, ...], sigma: list[float]
    ) -> None:
        self.columns = columns
        (own,) = ndimage.find_objects(lung.astype(np.uint8))
        # The lungs' common height and depth, and this lung's own width.
        box = (common[0], common[1], own[2])
        self.extent = [part.stop - part.start for part in box]
        self.near = tuple(
            slice(max(part.start - reach, 0), part.stop + reach)
            for part, reach in zip(box, (int(3 * one) + 1 for one in sigma), strict=True)
        )
        self.lung = lung[self.near]
        places = [
            part.start - near.start + (np.arange(cells) + 0.5) / cells * size - 0.5
            for part, near, cells, size in zip(
                box, self.near, (HEIGHT, DEPTH, WIDTH), self.extent, strict=True
            )
        ]
        self.at = np.meshgrid(*places, indexing="ij")
        self.weight = self._smooth_at(self.lung.astype(np.float32), sigma)

    def read(self, values: np.ndarray, sigma: list[float]) -> np.ndarray:
        inside = np.where(self.lung, values[self.near], 0).astype(np.float32)
        known = self.weight >= LEAST_WEIGHT
        total = self._smooth_at(inside, sigma)
        return np.where(known, total / np.where(known, self.weight, 1), np.nan)

    def _smooth_at(self, field: np.ndarray, sigma: list[float]) -> np.ndarray:
        smooth = ndimage.gaussian_filter(field, sigma, mode="constant", truncate=3.0)
        return ndimage.map_coordinates(smooth, self.at, order=1, mode="nearest")


def pleura_profile(
    values: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Mean by third of the height (lower first) and class of distance to the pleura: (3, bins).

    Distance classes are `PLEURA_MM`; NaN where there is no lung.
    """
    anatomy = Anatomy(labels, spacing_mm)
    result = np.full((len(THIRDS), len(PLEURA_MM) - 1), np.nan)
    for row in range(len(THIRDS)):
        third = anatomy.between(0, row / 3, (row + 1) / 3 if row < 2 else 2)
        depth_mm, inside = anatomy.depth_mm[third], values[third]
        for column, (near, far) in enumerate(pairwise(PLEURA_MM)):
            chosen = inside[(depth_mm > near) & (depth_mm <= far)]
            if chosen.size:
                result[row, column] = chosen.mean(dtype=np.float64)
    return result


@dataclass(frozen=True, kw_only=True)
class GroupMap:
    """A map over subjects; arrays are `TEMPLATE`, NaN outside `mask`.

    effect: mean, or slope for the real scans.  t: its t statistic.  p_max, p_tfce: adjusted over
    the cells, p_tfce None where it was not asked for.  n: subjects.  flips, tfce_flips:
    relabellings behind p_max and p_tfce.  method: in words.
    """

    effect: np.ndarray
    t: np.ndarray
    p_max: np.ndarray
    p_tfce: np.ndarray | None
    mask: np.ndarray
    n: int
    flips: int
    tfce_flips: int
    method: str

    @property
    def significant_percent(self) -> float:
        """Percent of the cells with p_max below 0.05."""
        return 100.0 * float(np.mean(self.p_max[self.mask] < ALPHA)) if self.mask.any() else 0.0

    @property
    def significant_tfce_percent(self) -> float:
        if self.p_tfce is None or not self.mask.any():
            return float("nan")
        return 100.0 * float(np.mean(self.p_tfce[self.mask] < ALPHA))


def common_mask(stack: np.ndarray) -> np.ndarray:
    """Cells that `LEAST_SHARE` of the subjects have.  stack: (subjects, *TEMPLATE)."""
    return np.isfinite(stack).sum(axis=0) >= max(LEAST_SHARE * len(stack), 1)


def paired_map(
    stack: np.ndarray,
    rng: np.random.Generator,
    *,
    flips: int = permutation.FLIPS,
    tfce_flips: int = permutation.TFCE_FLIPS,
) -> GroupMap | None:
    """Mean difference over subjects, its t, and p by sign flips; None for fewer than 2 subjects.

    stack: (subjects, *TEMPLATE), one difference per subject.  tfce_flips 0 leaves TFCE out.
    """
    mask = common_mask(stack)
    if len(stack) < 2 or not mask.any():
        return None
    x = stack[:, mask]
    observed = permutation.one_sample_t(x, np.ones((1, len(x)), np.float32))[0]
    by_maximum = permutation.maximum_p(x, rng, flips)
    enhanced = permutation.tfce_p(x, mask, rng, tfce_flips) if tfce_flips else None
    method = f"mean over subjects; maximum t over {int(mask.sum())} cells, {by_maximum.flips} flips"
    if enhanced is not None:
        method += f"; TFCE (E 0.5, H 2), {enhanced.flips} flips"
    return GroupMap(
        effect=_spread(np.nanmean(x, axis=0), mask),
        t=_spread(observed, mask),
        p_max=_spread(by_maximum.p, mask),
        p_tfce=None if enhanced is None else _spread(enhanced.p, mask),
        mask=mask,
        n=len(stack),
        flips=by_maximum.flips,
        tfce_flips=0 if enhanced is None else enhanced.flips,
        method=method,
    )


def observed_map(
    stack: np.ndarray,
    a: np.ndarray,
    covariates: np.ndarray,
    rng: np.random.Generator,
    flips: int = permutation.TFCE_FLIPS,
) -> GroupMap | None:
    """The real scans: slope of the attribute in each cell, adjusted for covariates.

    stack: (subjects, *TEMPLATE) HU.  a: (subjects,) on the scale of the contrast.  A subject
    without a cell (at most 1 in 20) gets the cell's mean there.  None where there are too few
    subjects, or where the covariates (nearly) determine the attribute.
    """
    mask = common_mask(stack)
    if len(stack) < covariates.shape[1] + 5 or not mask.any() or not np.ptp(a):
        return None
    if entangled(a, covariates, "the attribute"):
        return None
    y = stack[:, mask].astype(np.float64)
    y = np.where(np.isfinite(y), y, np.nanmean(y, axis=0))
    slope, t, control = permutation.regression_p(y, a, covariates, rng, flips)
    return GroupMap(
        effect=_spread(slope, mask),
        t=_spread(t, mask),
        p_max=_spread(control.p, mask),
        p_tfce=None,
        mask=mask,
        n=len(stack),
        flips=control.flips,
        tfce_flips=0,
        method=f"OLS with {covariates.shape[1]} covariate columns, HC3; maximum t over "
        f"{int(mask.sum())} cells, {control.flips} Freedman-Lane permutations",
    )


def _spread(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values of the mask's cells as a map, NaN elsewhere."""
    # Of double precision: a p of 0.0001 is to be read as such in the tables.
    result = np.full(mask.shape, np.nan)
    result[mask] = values
    return result


def spatial_correlation(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Pearson's r over the cells that both maps have, and their number; NaN without spread.

    Neighbouring cells resemble each other, so no p is given.
    """
    both = np.isfinite(one) & np.isfinite(other)
    x, y = one[both].astype(np.float64), other[both].astype(np.float64)
    if x.size < 3 or not np.ptp(x) or not np.ptp(y):
        return float("nan"), int(both.sum())
    return float(stats.pearsonr(x, y).statistic), int(both.sum())


def map_table(maps: Mapping[str, GroupMap | np.ndarray]) -> pd.DataFrame:
    """One row for each cell: map, height, depth, across, side, effect, t, p_max, p_tfce.

    height, depth: fractions, 0 at the base and in front.  across: 0 at the right lung's outer edge,
    1 at the left one's.  A bare array (the truth) has an effect alone.
    """
    parts = []
    for name, one in maps.items():
        effect = one.effect if isinstance(one, GroupMap) else one
        z, y, x = np.nonzero(np.isfinite(effect))
        columns: dict[str, Any] = {
            "map": name,
            "height": (z + 0.5) / HEIGHT,
            "depth": (y + 0.5) / DEPTH,
            "across": (x + 0.5) / TEMPLATE[2],
            "side": np.where(x < WIDTH, "right", "left"),
            "effect": effect[z, y, x],
        }
        for field in ("t", "p_max", "p_tfce"):
            values = getattr(one, field, None)
            columns[field] = np.nan if values is None else values[z, y, x]
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
