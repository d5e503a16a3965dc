"""The words of a DICOM header that may be written down, because they cannot name a patient.

Free text of a header is never copied: technicians type names, dates and wards into it.  What is
of use for choosing a series is looked up here, and all else is dropped.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
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
# What changes the density of a lung by more than any exposure does: breathed out, or face down.
UNLIKE_INSPIRATION = frozenset(
    {"bauchlage", "espiracion", "espirazione", "exp", "expi", "expir", "expiration", "expiratory",
     "exsp", "exspir", "exspiration", "exspiratorisch", "procubitus", "pronazione", "prone",
     "prono"}
)  # fmt: skip
PRONE_POSITIONS = frozenset({"HFP", "FFP"})  # coded: head or feet first, prone
NEGATIONS = frozenset({"no", "non", "not", "kein", "keine", "nicht"})  # not "without": of contrast
# Agents that say there was none, by their first word.
NO_AGENT = frozenset(
    {"0", "false", "kein", "keine", "keines", "n", "n/a", "native", "nativ", "nein", "nil", "no",
     "non", "none", "not", "ohne", "sans", "senza", "sin", "w/o", "without", "wo"}
)  # fmt: skip
# Words of series descriptions, in the spellings of several languages and vendors.
DESCRIPTION_WORDS = UNLIKE_INSPIRATION | frozenset(
    {"abdomen", "arterial", "axial", "bone", "cap", "chest", "contrast", "cor", "coronal", "ctpa",
     "delayed", "hr", "hrct", "insp", "inspiration",
     "inspiratory", "ld", "low", "dose", "lung", "lungs", "mediastinum", "minip", "mip", "mpr",
     "native", "noncontrast", "non", "pe", "portal", "pulmo", "recon", "routine", "sag",
     "sagittal", "scout", "soft", "standard", "supine", "thick", "thin", "thorax", "tissue",
     "topogram", "venous", "wo", "with", "without"}
)  # fmt: skip
MOST_WORDS = 8
# Makers of scanners: a word of their names -> how they are called here.
MAKERS = {"siemens": "Siemens", "ge": "GE", "general": "GE", "philips": "Philips",
          "toshiba": "Canon", "canon": "Canon", "hitachi": "Hitachi", "neusoft": "Neusoft",
          "uih": "United Imaging", "united": "United Imaging", "shimadzu": "Shimadzu",
          "fujifilm": "Fujifilm"}  # fmt: skip
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
    plain = unicodedata.normalize("NFKD", str(text or "")).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z]+", plain.lower())
    kept = dict.fromkeys(
        word
        for before, word in itertools.pairwise(["", *words])
        if word in DESCRIPTION_WORDS and not (word in UNLIKE_INSPIRATION and before in NEGATIONS)
    )
    return " ".join(list(kept)[:MOST_WORDS])


def names_agent(value: object) -> bool:
    """Whether a ContrastBolusAgent names one, and not that there was none."""
    text = value if isinstance(value, str) else " ".join(map(str, value or ()))  # type: ignore[call-overload]
    words = re.findall(r"[\w/]+(?:\.\w+)*", text.lower())
    return bool(words) and (words[0] not in NO_AGENT or words[:2] == ["non", "ionic"])


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
