"""What is read off a scan: the registry of lung measures, and their values by region."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage, optimize, special, stats

from dgmvlc_cli.analysis.zones import REGIONS, known, regions
from dgmvlc_cli.errors import DgmvlcError

LEAST_CLUSTERS = 10
IBSI = "Zwanenburg et al. 2020, doi:10.1148/radiol.2020191145"


class Sample:
    """The voxels of one region, sorted once so that every measure is cheap.

    values: (n,) HU, finite, n >= 1.  voxel_ml: volume of one voxel.  image: (z, y, x) HU and the
    region's (z, y, x) bool, which only what depends on neighbourhood needs.
    """

    def __init__(
        self,
        values: np.ndarray,
        voxel_ml: float,
        image: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.sorted = np.sort(values, axis=None)
        self.voxel_ml = voxel_ml
        self.image = image

    @cached_property
    def mean(self) -> float:
        return float(self.sorted.mean(dtype=np.float64))

    @cached_property
    def standardised(self) -> np.ndarray:
        """(n,) values less their mean, over their population standard deviation."""
        if self.sorted[0] == self.sorted[-1]:
            raise ValueError("constant region")
        deviation = self.sorted.astype(np.float64) - self.mean
        return deviation / np.sqrt(np.mean(deviation * deviation))

    def percentile(self, percent: float) -> float:
        """Percentile by linear interpolation between order statistics."""
        position = (self.sorted.size - 1) * percent / 100
        below = int(position)
        pair = self.sorted[below : below + 2].astype(np.float64)
        return float(pair[0] + (position - below) * (pair[-1] - pair[0]))

    def percent_below(self, threshold_hu: float, side: str = "left") -> float:
        """Percent of voxels below a threshold; side "right" counts those equal to it too."""
        count = np.searchsorted(self.sorted, np.float32(threshold_hu), side=side)  # type: ignore[call-overload]
        return 100.0 * float(count) / self.sorted.size


@dataclass(frozen=True)
class Measure:
    """One number read off a region.

    label: what a reader sees.
    function: `Sample` -> value; raises ValueError with the reason where it is not defined.
    coarsest_mm: on coarser voxels it means nothing and is left out, as it is outside the lungs.
    """

    name: str
    unit: str
    definition: str
    source: str
    function: Callable[[Sample], float]
    label: str
    coarsest_mm: float = float("inf")


def _sd(sample: Sample) -> float:
    return float(sample.sorted.std(dtype=np.float64))


def _skewness(sample: Sample) -> float:
    z = sample.standardised
    return float(np.mean(z * z * z))


def _kurtosis(sample: Sample) -> float:
    squares = sample.standardised**2
    return float(np.mean(squares * squares) - 3.0)


def _volume_ml(sample: Sample) -> float:
    return sample.sorted.size * sample.voxel_ml


def _mass_g(sample: Sample) -> float:
    # Density in g/mL is (HU + 1000) / 1000: air 0, water 1.
    return _volume_ml(sample) * (sample.mean + 1000.0) / 1000.0


def cluster_sizes(sample: Sample, threshold_hu: float = -950.0) -> np.ndarray:
    """Voxels in each face-connected cluster below a threshold, within the region: (clusters,)."""
    if sample.image is None:
        raise ValueError("clusters need the image, not its voxels alone")
    hu, mask = sample.image
    labels, count = ndimage.label(mask & (hu < threshold_hu))
    return np.bincount(labels.ravel(), minlength=count + 1)[1:]


def _cluster_exponent(sample: Sample) -> float:
    sizes = cluster_sizes(sample)
    if sizes.size < LEAST_CLUSTERS:
        raise ValueError(f"{sizes.size} clusters below -950 HU, at least {LEAST_CLUSTERS} needed")
    return power_law_exponent(sizes)


def power_law_exponent(sizes: np.ndarray) -> float:
    """D of N(size >= s) ~ s^-D, by maximum likelihood of a discrete power law from size 1.

    sizes: (n,) whole numbers >= 1.  P(s) = s^-(D + 1) / zeta(D + 1), equation 3.7 of Clauset et al.
    2009, doi:10.1137/070710111.
    """
    mean_log = np.log(sizes).mean()
    fit = optimize.minimize_scalar(
        lambda d: (d + 1) * mean_log + np.log(special.zeta(d + 1)),
        bounds=(0.02, 8),
        method="bounded",
    )
    return float(fit.x)


def wasserstein_hu(one: np.ndarray, other: np.ndarray) -> float:
    """Earth mover's distance between the HU of two regions, in HU.

    one, other: (n,) each.  How far the voxels of one would have to move to become the other's, on
    average; at least the absolute difference of the means.
    """
    if one.size != other.size:
        return float(stats.wasserstein_distance(one, other))
    # In one dimension the best plan keeps the order.
    return float(np.mean(np.abs(np.sort(one).astype(np.float64) - np.sort(other))))


def _low_attenuation(threshold_hu: int, source: str, note: str = "") -> Measure:
    definition = f"percent of voxels below {threshold_hu} HU{note}"
    return Measure(
        f"laa{-threshold_hu}_percent",
        "%",
        definition,
        source,
        lambda sample: sample.percent_below(threshold_hu),
        f"LAA{threshold_hu}",
    )


_ALL = (
    Measure("mean_hu", "HU", "mean", IBSI, lambda sample: sample.mean, "Mean HU"),
    Measure("median_hu", "HU", "median", IBSI, lambda sample: sample.percentile(50), "Median HU"),
    Measure("sd_hu", "HU", "population standard deviation", IBSI, _sd, "SD of HU"),
    Measure("skewness", "1", "third standardised moment", IBSI, _skewness, "Skewness"),
    Measure(
        "kurtosis",
        "1",
        "fourth standardised moment less 3 (normal: 0)",
        IBSI,
        _kurtosis,
        "Kurtosis",
    ),
    Measure(
        "perc15_hu",
        "HU",
        "15th percentile, linear interpolation",
        "Dirksen et al. 1999, doi:10.1164/ajrccm.160.5.9901055",
        lambda sample: sample.percentile(15),
        "Perc15",
    ),
    _low_attenuation(-950, "Gevenois et al. 1996, doi:10.1164/ajrccm.154.1.8680679"),
    _low_attenuation(-910, "Müller et al. 1988, doi:10.1378/chest.94.4.782"),
    _low_attenuation(
        -856,
        "Busacker et al. 2009, doi:10.1378/chest.08-0049",
        " (air trapping where the scan is expiratory)",
    ),
    Measure(
        "haa_percent",
        "%",
        "percent of voxels from -600 to -250 HU",
        "Lederer et al. 2009, doi:10.1164/rccm.200812-1966OC",
        lambda sample: sample.percent_below(-250, side="right") - sample.percent_below(-600),
        "HAA",
    ),
    Measure(
        "cluster_exponent",
        "1",
        "D of the clusters of emphysema, N(size >= s) ~ s^-D: face-connected voxels below -950 HU, "
        "maximum likelihood; small where clusters are large",
        "Mishima et al. 1999, doi:10.1073/pnas.96.16.8829",
        _cluster_exponent,
        "Emphysema cluster exponent",
        coarsest_mm=2.5,
    ),
    Measure("volume_ml", "mL", "voxel count times voxel volume", IBSI, _volume_ml, "Volume"),
    Measure(
        "mass_g",
        "g",
        "volume times mean density, density (HU + 1000) / 1000 g/mL",
        "Coxson et al. 1999, doi:10.1164/ajrccm.159.3.9805067",
        _mass_g,
        "Mass",
    ),
)
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}

PRIMARY_MEASURE = "mean_hu"
"""The measure that summaries and the first figure speak of."""


def measure(
    hu: np.ndarray,
    labels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    measures: Iterable[str] | None = None,
    region_names: Iterable[str] | None = None,
    scan_hu: np.ndarray | None = None,
    lobes: np.ndarray | None = None,
) -> list[dict]:
    """Measures of one scan in each region: rows of region, measure, value, unit, reason.

    hu: (z, y, x) HU.  labels: (z, y, x) integers, `Tissue` values.  spacing_mm: (z, y, x).
    measures, region_names: names from `MEASURES` and `zones.REGIONS`, all by default.  scan_hu: the
    real scan, from which muscle and fat are cut; the scan itself by default.  lobes: (z, y, x)
    integers, `Lobe` values; without them the lobes are no regions.
    A measure that is not defined is NaN with the reason: "empty region", "constant region" or the
    count of voxels without a finite value.
    Raises UsageError for an unknown name, DgmvlcError where scan and mask differ in shape.
    """
    _require_shape(hu, labels)
    muscle_from = hu if scan_hu is None else scan_hu
    masks = regions(labels, spacing_mm, region_names, muscle_from, lobes)
    return measure_regions(hu, masks, spacing_mm, measures)


def measure_regions(
    hu: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing_mm: tuple[float, float, float],
    measures: Iterable[str] | None = None,
) -> list[dict]:
    """As `measure`, in regions that were cut before: several images of one mask share them.

    masks: name -> (z, y, x) bool, from `zones.regions`.
    """
    chosen = [MEASURES[name] for name in known(measures, MEASURES, "measure")]
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    rows: list[dict] = []
    for region, mask in masks.items():
        _require_shape(hu, mask)
        limit_mm = np.inf if REGIONS[region].control else max(spacing_mm)
        usable = [item for item in chosen if limit_mm <= item.coarsest_mm]
        rows += [{"region": region, **row} for row in _measure_mask(hu, mask, voxel_ml, usable)]
    return rows


def _require_shape(hu: np.ndarray, mask: np.ndarray) -> None:
    if hu.shape != mask.shape:
        raise DgmvlcError(
            f"the scan has shape {hu.shape} and its mask {mask.shape}",
            "Give each scan the mask made from it.",
        )


def _measure_mask(
    hu: np.ndarray, mask: np.ndarray, voxel_ml: float, chosen: list[Measure]
) -> list[dict]:
    """Rows of measure, value, unit, reason for one region."""
    values = hu[mask]
    problem = _unusable(values)
    sample = None if problem else Sample(values, voxel_ml, (hu, mask))
    return [_row(item, sample, problem) for item in chosen]


def _unusable(values: np.ndarray) -> str:
    """Why nothing can be measured on these voxels; empty when all is well."""
    if values.size == 0:
        return "empty region"
    broken = values.size - int(np.isfinite(values).sum())
    return f"{broken} of {values.size} voxels are not finite" if broken else ""


def _row(item: Measure, sample: Sample | None, problem: str) -> dict:
    value, reason = float("nan"), problem
    if sample is not None:
        try:
            value = item.function(sample)
        except ValueError as undefined:
            reason = str(undefined)
    return {"measure": item.name, "value": value, "unit": item.unit, "reason": reason}
