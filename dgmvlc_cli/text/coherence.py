"""What cannot be true of one person at once."""

from __future__ import annotations

import math

SMOKES_FROM = 10.0  # years of age
MOST_PACKS = 5.0  # a day, for all years


def year_contradiction(name: str, year: float, scan_year: float, age: float | None) -> str | None:
    """Why something cannot have happened in a calendar year, or None where it can.

    name: of the attribute; nobody quits smoking as a child.  scan_year: of the scan, until when
    it must have happened; NaN if unknown.  age: years at the scan, if known; it may be a year
    off, as birthdays are.
    """
    if year > scan_year:
        return f"in {year:.0f}, after the scan of {scan_year:.0f}"
    if age is None or math.isnan(age):
        return None
    youngest = SMOKES_FROM if name == "quit_year" else 0.0
    if year < scan_year - age + youngest - 1:
        before = f"the age of {youngest:.0f}" if youngest else "the birth"
        return f"in {year:.0f}, before {before} of someone aged {age:.0f} in {scan_year:.0f}"
    return None


def smoking_contradiction(
    pack_years: float, age: float, scan_year: float, quit_year: float
) -> str | None:
    """Why nobody of that age can have smoked so much, or None where it can be.

    NaN is what is not known; without the age nothing can be said.  The bounds are wide: smoking
    from the age of ten, five packs a day.
    """
    since_quitting = scan_year - quit_year
    years = age - SMOKES_FROM - (0.0 if math.isnan(since_quitting) else since_quitting)
    if math.isnan(years) or math.isnan(pack_years) or pack_years <= MOST_PACKS * max(years, 0.0):
        return None
    said = f"{pack_years:.0f} pack-years in at most {max(years, 0):.0f} years of smoking"
    return said if math.isnan(since_quitting) else f"{said} until {quit_year:.0f}"
