"""Numbers and names as a reader sees them: sensible rounding, true minus signs, full words."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from dgmvlc_cli.analysis.measures import MEASURES
from dgmvlc_cli.analysis.zones import REGIONS
from dgmvlc_cli.config import OPEN_CLIP

MISSING = "–"
FOLDER = "a folder"
MINUS = "−"

KINDS = {
    "model_implied": "Model-implied",
    "mixed": "Mixed model",
    "observed": "Observed",
    "debiased": "Debiased",
    "placebo": "Placebo, model-implied",
    "placebo_debiased": "Placebo, debiased",
}

HEADLINE_REGIONS = ("lungs", "upper", "middle", "lower")
"""The regions that the summary and the small figures show."""

_DECIMALS = {"HU": 1, "%": 2, "mL": 0, "g": 1, "mm": 1}


def is_missing(value: Any) -> bool:
    """True for None, NaN and infinity."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def number(value: Any, unit: str = "", *, sign: bool = False) -> str:
    """A value rounded as its unit deserves (HU to 0.1), without the unit.

    sign: write + before what is positive, as effects should have.
    """
    if is_missing(value):
        return MISSING
    text = f"{float(value):.{_DECIMALS.get(unit, 2)}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", MINUS) if text.startswith("-") else ("+" if sign else "") + text


def interval(low: Any, high: Any, unit: str = "") -> str:
    """Two limits, "−12.3 to −4.1"."""
    if is_missing(low) or is_missing(high):
        return MISSING
    return f"{number(low, unit)} to {number(high, unit)}"


def p_value(value: Any) -> str:
    """A p-value to two significant digits, never 0."""
    if is_missing(value):
        return MISSING
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def count(value: Any) -> str:
    """A number of subjects, or a dash."""
    return MISSING if is_missing(value) else f"{int(value)}"


def percent(share: Any) -> str:
    """A share in [0, 1] as whole percent."""
    return MISSING if is_missing(share) else f"{100 * float(share):.0f} %"


def region_label(name: str) -> str:
    """ "upper" -> "Upper third"; a name unknown here is written out."""
    label = REGIONS[name].label if name in REGIONS else name.replace("_", " ")
    return label[:1].upper() + label[1:]


def measure_label(name: str) -> str:
    """ "laa950_percent" -> "LAA−950"; a name unknown here is written out."""
    known = name in MEASURES
    return prose(MEASURES[name].label) if known else name.replace("_", " ").capitalize()


def unit_label(unit: str) -> str:
    """ "HU" -> "HU"; "1", the unit of what has none, -> ""."""
    return "" if unit == "1" else unit


def prose(text: str) -> str:
    """A sentence with true minus signs before digits and true arrows."""
    return re.sub(r"(?<![\w)])-(?=\d)|(?<=LAA)-(?=\d)", MINUS, text).replace("->", "→")


def region_order(name: str) -> int:
    """Place of a region in every table and figure; unknown ones come last."""
    return list(REGIONS).index(name) if name in REGIONS else len(REGIONS)


def measure_order(name: str) -> int:
    """Place of a measure in every table; unknown ones come last."""
    return list(MEASURES).index(name) if name in MEASURES else len(MEASURES)


def attribute_label(name: str) -> str:
    """ "pack_years" -> "pack years", "bmi" -> "BMI"."""
    return {"bmi": "BMI"}.get(name, name.replace("_", " "))


def encoder_label(name: str) -> str:
    """A text encoder's name or hub id; of a path, which may name people, only that it is one."""
    library = OPEN_CLIP if name.startswith(OPEN_CLIP) else ""
    path = Path(name.removeprefix(library))
    return f"{library}{FOLDER}" if path.is_absolute() or path.exists() else name


def duration(seconds: Any) -> str:
    """Seconds as "48 s", "12 min" or "3.4 h"."""
    if is_missing(seconds):
        return MISSING
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
