"""The words of a DICOM header that may be written down, because they cannot name a patient.

Free text of a header is never copied: technicians type names, dates and wards into it.  What is
of use for choosing a series is looked up here, and all else is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

MODALITIES = frozenset(
    {"CR", "CT", "DX", "ES", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "REG", "RF", "RTDOSE",
     "RTPLAN", "RTSTRUCT", "SC", "SEG", "SR", "US", "XA"}
)  # fmt: skip
IMAGE_TYPES = frozenset(
    {"ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "SCOUT", "TOPOGRAM",
     "REFORMATTED", "MPR", "MIP", "MINIP", "AVERAGE", "PROJECTION IMAGE", "VOLUME", "ADD", "NONE",
     "RESAMPLED", "SUBTRACTION", "SCREEN SAVE", "CT_SOM5 SPI", "OTHER", "HELIX"}
)  # fmt: skip
DERIVED_TYPES = frozenset(
    {"DERIVED", "SECONDARY", "REFORMATTED", "MPR", "MIP", "MINIP", "AVERAGE", "PROJECTION IMAGE",
     "RESAMPLED", "SUBTRACTION", "SCREEN SAVE"}
)  # fmt: skip
# Words of series descriptions, in the spellings of several languages and vendors.
DESCRIPTION_WORDS = frozenset(
    {"abdomen", "arterial", "axial", "bone", "cap", "chest", "contrast", "cor", "coronal", "ctpa",
     "delayed", "exp", "expiration", "expiratory", "hr", "hrct", "insp", "inspiration",
     "inspiratory", "ld", "low", "dose", "lung", "lungs", "mediastinum", "minip", "mip", "mpr",
     "native", "noncontrast", "non", "pe", "portal", "prone", "pulmo", "recon", "routine", "sag",
     "sagittal", "scout", "soft", "standard", "supine", "thick", "thin", "thorax", "tissue",
     "topogram", "venous", "wo", "with", "without"}
)  # fmt: skip
MOST_WORDS = 8
# Makers of scanners: a word of their names -> how they are called here.
MAKERS = {"siemens": "Siemens", "ge": "GE", "general": "GE", "philips": "Philips",
          "toshiba": "Canon", "canon": "Canon", "hitachi": "Hitachi", "neusoft": "Neusoft",
          "uih": "United Imaging", "united": "United Imaging", "shimadzu": "Shimadzu",
          "fujifilm": "Fujifilm"}  # fmt: skip
# What changes the density of a lung by more than any exposure does.
UNLIKE_INSPIRATION = frozenset({"exp", "expiration", "expiratory", "prone"})
SMOOTH_KERNELS = frozenset({"SOFT", "STANDARD", "STD", "STD+", "CHST", "A", "B", "C"})
SHARP_KERNELS = frozenset(
    {"LUNG", "BONE", "BONEPLUS", "DETAIL", "EDGE", "D", "E", "L", "YA", "YB", "YC", "YD"}
)
# Siemens: the two digits grow with sharpness, 50 and more are for lung and bone.
SIEMENS_KERNEL = re.compile(r"[BDHIQTU][A-Z]?(\d{2})[A-Z]?")
# Canon and Toshiba: FC30 to FC39 bone, FC50 to FC59 lung, FC80 to FC89 high resolution.
CANON_KERNEL = re.compile(r"FC(\d{2})[A-Z]?")


def known_words(text: object) -> str:
    """The words of a description that are about the scan, in order, each once."""
    words = re.findall(r"[a-z]+", str(text or "").lower())
    kept = dict.fromkeys(word for word in words if word in DESCRIPTION_WORDS)
    return " ".join(list(kept)[:MOST_WORDS])


def known_types(values: Iterable[str]) -> list[str]:
    """The values of an ImageType that DICOM or a vendor defines."""
    return [value for value in values if value in IMAGE_TYPES]


def kernel_name(value: object) -> str:
    """The reconstruction kernel if it is a vendor's; `other` if not; empty where none is told."""
    first = value if isinstance(value, str) else next(iter(value or ()), "")  # type: ignore[call-overload]
    name = str(first).strip().upper()
    if not name:
        return ""
    return name if sharpness(name) else "other"


def maker_name(value: object) -> str:
    """The maker of a scanner if it is one of `MAKERS`; `other` if not; empty where none is told."""
    words = re.findall(r"[a-z]+", str(value or "").lower())
    return next((MAKERS[word] for word in words if word in MAKERS), "other" if words else "")


def sharpness(kernel: str) -> Literal["smooth", "sharp", ""]:
    """Whether a kernel sharpens edges, and with them noise and density; empty if not known."""
    if kernel in SMOOTH_KERNELS:
        return "smooth"
    if kernel in SHARP_KERNELS:
        return "sharp"
    if found := SIEMENS_KERNEL.fullmatch(kernel):
        return "sharp" if int(found[1]) >= 50 else "smooth"
    if found := CANON_KERNEL.fullmatch(kernel):
        return "sharp" if int(found[1]) // 10 in (3, 5, 8) else "smooth"
    return ""
