"""Permutation inference on maps: one p per cell that holds over all cells together.

The maximum statistic controls the family-wise error whatever the dependence between cells (Nichols
and Holmes 2002, doi:10.1002/hbm.1058).  Own code, since only arrays of a few thousand cells are
needed and the fields' packages bring some 90 MB along; the tests hold it against nilearn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from scipy import ndimage

FLIPS = 10_000
TFCE_FLIPS = 1_000
TFCE_STEP = 0.1
TFCE_MOST_STEPS = 200
# Relabellings computed together: tens of MB in a template's cells.
CHUNK = 250
TFCE_CHUNK = 50
PERMUTATION_CHUNK = 25
LEAST_FREEDOM = 1e-6
"""Of a subject's residual, that the model's own fit leaves to it (1 less the leverage)."""
# Signs (flips, subjects) to the statistic of each cell (flips, cells).
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Controlled:
    """p of each cell, adjusted over all cells, and how it was found.

    p: (cells,).  flips: number of relabellings, the observed one included.
    """

    p: np.ndarray
    flips: int


def one_sample_t(x: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """t of the mean of each cell under each choice of signs: (flips, cells).

    x: (subjects, cells), NaN where a subject lacks a cell.  signs: (flips, subjects) of -1 and 1.
    Flipping signs leaves the sum of squares alone, so one matrix product does all of it; in double
    precision, since the variance is lost in the squares where the mean is many times the spread.
    Cells without any spread have t = 0.
    """
    filled = np.nan_to_num(x.astype(np.float64))
    n = np.isfinite(x).sum(axis=0)
    squares = np.einsum("ij,ij->j", filled, filled)
    mean = (signs @ filled) / np.maximum(n, 1)
    variance = (squares / np.maximum(n, 1) - mean**2) / np.maximum(n - 1, 1)
    usable = (n > 1) & (variance > 1e-12 * np.maximum(squares, 1e-30))
    return np.where(usable, mean / np.sqrt(np.where(usable, variance, 1.0)), 0.0)


def sign_flips(n: int, rng: np.random.Generator, flips: int = FLIPS) -> np.ndarray:
    """(flips, n) float32 of -1 and 1, the observed signs (all 1) first.

    All 2^n of them where these are no more than asked for.
    """
    if n < 60 and 2**n <= flips:
        return np.array(list(product((1.0, -1.0), repeat=n)), np.float32).reshape(2**n, n)
    signs = 1.0 - 2.0 * rng.integers(0, 2, size=(flips, n))
    signs[0] = 1.0
    return signs.astype(np.float32)


def chunks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def maximum_p(x: np.ndarray, rng: np.random.Generator, flips: int = FLIPS) -> Controlled:
    """Two-sided family-wise p of the mean of each cell by sign flips of whole subjects.

    x: (subjects, cells), NaN where a subject lacks a cell.  Valid where the subjects' maps are
    independent and symmetric about 0 under the null.  The observed signs count as one of the flips
    (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).
    """
    return _by_maximum(partial(one_sample_t, x), sign_flips(x.shape[0], rng, flips), CHUNK)


def _by_maximum(statistic: Statistic, signs: np.ndarray, size: int) -> Controlled:
    """p by the largest absolute statistic, computed for so many flips at a time.

    The observed values come out of the same product as their maximum among the flips: another
    product rounds otherwise, and might put all flips below them (p = 0).
    """
    largest = np.empty(len(signs))
    for part in chunks(len(signs), size):
        values = np.abs(statistic(signs[part]))
        largest[part] = values.max(axis=1)
        if part.start == 0:
            observed = values[0]
    return Controlled(exceedance(largest, observed), len(signs))


def exceedance(largest: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Share of the maxima (flips,) that reach each observed value (cells,); rounding forgiven."""
    ordered = np.sort(largest)
    reached = np.searchsorted(ordered, observed * (1 - 1e-5), side="left")
    return (len(ordered) - reached) / len(ordered)


def tfce_p(
    x: np.ndarray, mask: np.ndarray, rng: np.random.Generator, flips: int = TFCE_FLIPS
) -> Controlled:
    """As `maximum_p`, of the threshold-free cluster enhancement of t.

    x: (subjects, cells), the cells being those of `mask`, (d, h, w) bool, in its order.
    """
    signs = sign_flips(x.shape[0], rng, flips)
    return _by_maximum(lambda some: tfce(one_sample_t(x, some), mask), signs, TFCE_CHUNK)


def tfce(t: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Threshold-free cluster enhancement, signed: (maps, cells).

    t: (maps, cells) of `mask`, (d, h, w) bool.  A cell gets the sum over thresholds h of
    extent(h)^0.5 h^2 dh, extent being the cells of its face-connected cluster above h; negative t
    alike with a minus (Smith and Nichols 2009, doi:10.1016/j.neuroimage.2008.03.061).  dh is
    `TFCE_STEP`, or coarser where a map would take more than `TFCE_MOST_STEPS`.
    """
    both = np.concatenate([t, -t])
    top = both.max(axis=1)
    step = np.maximum(TFCE_STEP, top / TFCE_MOST_STEPS)
    result = np.zeros_like(both)
    for k in range(1, TFCE_MOST_STEPS + 1):
        h = k * step
        # Maps whose highest cell lies below the threshold have nothing more to add.
        live = np.flatnonzero(top >= h)
        if not live.size:
            break
        above = both[live] >= h[live, None]
        gain = (h[live] ** 2 * step[live])[:, None]
        result[live] += np.sqrt(cluster_extents(above, mask)) * gain
    return result[: len(t)] - result[len(t) :]


def cluster_extents(above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cells in the face-connected cluster of each cell, 0 where it is not above: (maps, cells)."""
    field = np.zeros((len(above), *mask.shape), bool)
    field[:, mask] = above
    structure = np.zeros((3, 3, 3, 3), bool)
    # Maps lie beside each other along the first axis and are not neighbours.
    structure[1] = ndimage.generate_binary_structure(3, 1)
    labels, count = ndimage.label(field, structure)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return sizes[labels[:, mask]]


def regression_p(
    y: np.ndarray,
    a: np.ndarray,
    covariates: np.ndarray,
    rng: np.random.Generator,
    flips: int = TFCE_FLIPS,
) -> tuple[np.ndarray, np.ndarray, Controlled]:
    """Slope, t and family-wise p of an attribute in each cell, adjusted for covariates.

    y: (subjects, cells), no missing values.  a: (subjects,).  covariates: (subjects, p), without
    an intercept.  Residuals of the covariates' model are permuted (Freedman and Lane 1983,
    doi:10.2307/1391660), which Winkler et al. 2014 (doi:10.1016/j.neuroimage.2014.01.060) found
    the best of its kind.  t has HC3 standard errors (MacKinnon and White 1985,
    doi:10.1016/0304-4076(85)90158-7), computed anew in every permutation: permuting mixes groups
    of unequal spread, which only such a t survives where they are also of unequal size (DiCiccio
    and Romano 2017, doi:10.1080/01621459.2016.1202117).
    """
    n = len(a)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(n), covariates]))
    own = a - basis @ (basis.T @ a)
    scale = np.sqrt(own @ own)
    design = np.column_stack([basis, own / scale])
    rest = y - basis @ (basis.T @ y)
    squares = rest**2
    first, t = _robust_t(design, np.arange(n)[None], rest, squares)
    largest = [np.abs(t).max(axis=1)]
    for part in chunks(flips - 1, PERMUTATION_CHUNK):
        orders = np.argsort(rng.random((part.stop - part.start, n)), axis=1)
        _, null = _robust_t(design, orders, rest, squares)
        largest.append(np.abs(null).max(axis=1))
    control = Controlled(exceedance(np.concatenate(largest), np.abs(t[0])), flips)
    return first[0] / scale, t[0], control


def _robust_t(
    design: np.ndarray, orders: np.ndarray, rest: np.ndarray, squares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The design's last coefficient and its HC3 t, each (k, cells), of k permuted residuals.

    design: (n, q) orthonormal columns B.  orders: (k, n).  rest: (n, cells) residuals r, squares
    r^2.  The last column's HC3 variance is the sum of w (r - B c)^2 over subjects, with c = B'r,
    w = B_q^2 / (1 - h)^2 and leverages h.  Multiplied out it needs matrix products alone, no array
    of permutations x subjects x cells:  w'r^2 - 2 c'(wB)'r + c'(B'wB)c.
    """
    k, (n, q) = len(orders), design.shape
    freedom = np.maximum(1 - np.einsum("iq,iq->i", design, design), LEAST_FREEDOM)
    w = (design[:, -1] / freedom) ** 2
    weighted = w[:, None] * design
    # Permuting residuals is the same as permuting the rows that they are multiplied with.
    both = np.concatenate([design.T, weighted.T])[:, orders].swapaxes(0, 1)
    products = (both.reshape(k * 2 * q, n) @ rest).reshape(k, 2, q, -1)
    c = products[:, 0]
    whole = w[orders] @ squares
    crossed = (design.T @ weighted) @ c - 2 * products[:, 1]
    variance = whole + np.einsum("kqj,kqj->kj", c, crossed)
    usable = variance > 1e-12 * np.maximum(whole, 1e-30)
    return c[:, -1], np.where(usable, c[:, -1] / np.sqrt(np.where(usable, variance, 1.0)), 0.0)
