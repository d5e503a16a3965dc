"""How scans were made: what changes the density of a lung besides a disease.

Slice thickness, kernel, contrast medium, tube voltage and scanner all move lung HU, so that groups
which were scanned unlike differ though nothing else does.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from dgmvlc_cli.imaging.scans import Traits
from dgmvlc_cli.imaging.vocabulary import sharpness

# Numbers with their units, then what has levels: the choices of `Acquisition` in the settings.
NUMBERS = {
    "slice spacing": "mm",
    "slice thickness": "mm",
    "pixel spacing": "mm",
    "tube voltage": "kV",
}
LEVELS = ("reconstruction kernel", "contrast medium", "scanner maker")
# Of subjects.tsv; one of an earlier version lacks some.
COLUMNS = ["source_spacing_mm", "slice_thickness_mm", "kvp", "kernel", "contrast", "scanner"]


def made_how(traits: Traits) -> dict[str, Any]:
    """What a scan's facts keep of how it was made, beside its spacing: columns of subjects.tsv."""
    return {
        "kernel": traits.kernel,
        "contrast": traits.contrast,
        "slice_thickness_mm": traits.thickness_mm,
        "kvp": traits.kvp,
        "scanner": traits.maker,
    }


def acquisition(subjects: pd.DataFrame) -> pd.DataFrame:
    """How each scan was made: index subject; columns NUMBERS and LEVELS; None where it is not told.

    subjects: subjects.tsv as text.  kernel: smooth or sharp.  contrast medium: given or none.
    """
    known = subjects.set_index("subject").reindex(columns=COLUMNS)
    spacing = known["source_spacing_mm"].astype("string").str.split("x")
    numbers = {
        "slice spacing": spacing.str[0],
        "slice thickness": known["slice_thickness_mm"],
        "pixel spacing": spacing.str[2],
        "tube voltage": known["kvp"],
    }
    levels = {
        "reconstruction kernel": known["kernel"].map(lambda name: sharpness(str(name)) or None),
        "contrast medium": known["contrast"].map({"True": "given", "False": "none"}),
        "scanner maker": known["scanner"],
    }
    table = pd.DataFrame(
        {name: pd.to_numeric(numbers[name], errors="coerce") for name in NUMBERS}, known.index
    )
    return table.astype(float).assign(**{name: levels[name].astype(object) for name in LEVELS})
