"""What can be chosen about a synthetic cohort, and what is planted in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dgmvlc_cli.errors import UsageError


class Range(NamedTuple):
    """Inclusive limits of a setting."""

    low: float
    high: float


LIMITS = {
    "subjects": Range(1, 9999),
    "spacing_mm": Range(1.0, 10.0),
    "truth_spacing_mm": Range(1.0, 20.0),
    "current_upper_hu": Range(-150.0, 150.0),
    "former_fraction": Range(-2.0, 2.0),
    "pack_years_diffuse_hu_per_10": Range(-50.0, 50.0),
    "age_hu_per_year": Range(-5.0, 5.0),
    "female_hu": Range(-100.0, 100.0),
    "subject_sd_hu": Range(0.0, 100.0),
    "missing_rate": Range(0.0, 0.5),
    "missing_smoking_rate": Range(0.0, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class PhantomSettings:
    """Settings of a synthetic cohort; checked on creation (UsageError).

    current_upper_hu: change of parenchymal HU by current smoking, full from the apex down to the
    lower edge of the upper third, fading linearly to 0 at mid-lung.  former_fraction: the part of
    it that former smokers keep.  pack_years_diffuse_hu_per_10: change of all parenchyma per ten
    pack-years.  null: plant no effect of smoking or pack-years at all.
    age_hu_per_year, female_hu: what makes age and sex confounders of smoking.
    subject_sd_hu: differences between subjects that no column of the table explains.
    truth_spacing_mm: grid that the true change is measured on; None takes the scans' own.  On a
    coarser grid voxels at the pleura hold less lung, so the same change measures a little smaller
    there, and truth and estimates should be measured alike.
    """

    subjects: int = 192
    spacing_mm: float = 4.0
    null: bool = False
    seed: int = 0
    current_upper_hu: float = -30.0
    former_fraction: float = 0.5
    pack_years_diffuse_hu_per_10: float = 0.0
    age_hu_per_year: float = -0.6
    female_hu: float = 12.0
    subject_sd_hu: float = 10.0
    truth_spacing_mm: float | None = None
    missing_rate: float = 0.04
    missing_smoking_rate: float = 0.02

    def __post_init__(self) -> None:
        for name, limits in LIMITS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not limits.low <= value <= limits.high:
                raise UsageError(
                    f"{name} is {value}; expected a value from {limits.low:g} to {limits.high:g}.",
                    f"Choose {name} within these limits.",
                )
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; expected 0 or more.", "Give another seed.")

    def smoking_upper_hu(self, smoking: str) -> float:
        """HU planted in the upper third for one smoking level."""
        if self.null or smoking == "never smoker":
            return 0.0
        fraction = self.former_fraction if smoking == "former smoker" else 1.0
        return fraction * self.current_upper_hu

    def pack_years_hu(self, pack_years: float) -> float:
        """HU planted in all parenchyma for a number of pack-years."""
        return 0.0 if self.null else self.pack_years_diffuse_hu_per_10 * pack_years / 10.0
