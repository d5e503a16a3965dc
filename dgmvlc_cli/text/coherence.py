"""What cannot be true of one person at once."""

from __future__ import annotations

import math


def year_contradiction(year: float, scan_year: float, age: float | None) -> str | None:
    """Why something cannot have happened in a calendar year, or None where it can.

    scan_year: of the scan, until when it must have happened; NaN if unknown.  age: years at the
    scan, if known; it may be a year off, as birthdays are.
    """
    if year > scan_year:
        return f"in {year:.0f}, after the scan of {scan_year:.0f}"
    if age is not None and not math.isnan(age) and year < scan_year - age - 1:
        return f"in {year:.0f}, before the birth of someone aged {age:.0f} in {scan_year:.0f}"
    return None
