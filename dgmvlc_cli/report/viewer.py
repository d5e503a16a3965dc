"""Image pairs packed small enough to travel inside a page, and what the slice viewer needs.

A volume becomes whole steps of HU, low and high bytes apart, deflated and written as base64;
`report.js` undoes this with the browser's own DecompressionStream.  A PNG read back from a canvas
would be simpler, but browsers that resist fingerprinting alter what is read.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from dgmvlc_cli.analysis.looks import Pair
from dgmvlc_cli.report.drawing import DIVERGING
from dgmvlc_cli.report.summaries import NICE_LIMITS_HU, difference_limit, shown_difference

STEP_HU = 2
"""Real and reference images are kept to 2 HU, below their noise; the difference to 1 HU."""

MAX_SUBJECTS = 20
MAX_BYTES = 21_000_000
"""Base64 characters of all packed images, so that the whole report stays below 25 MB."""

WINDOWS_HU = {"Lung": (-1350, 150), "Mediastinum": (-160, 240), "Wide": (-1024, 1024)}


def pack_pairs(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The first pairs, packed: as many as MAX_SUBJECTS and MAX_BYTES allow."""
    packed: list[dict[str, Any]] = []
    left = MAX_BYTES
    for pair in pairs[:MAX_SUBJECTS]:
        item = pack_pair(pair)
        left -= sum(len(text) for text in item["volumes"].values())
        if left < 0:
            break
        packed.append(item)
    return packed


def pack_pair(pair: Pair) -> dict[str, Any]:
    """One subject's images, geometry, sentences and where to look first."""
    lung = pair.lung
    centre = np.median(np.argwhere(lung), axis=0) if lung.any() else np.array(lung.shape) // 2
    volumes = {
        "reference": pack(steps(pair.reference_hu, STEP_HU)),
        "difference": pack(steps(pair.difference_hu, 1)),
        "lung": pack(lung.astype(np.int16)),
    }
    if (pair.clipped & lung).any():
        volumes["shown"] = pack(steps(shown_difference(pair), 1))
    if pair.real_hu is not None:
        volumes["real"] = pack(steps(pair.real_hu, STEP_HU))
    return {
        "subject": pair.subject,
        "shape": list(lung.shape),
        "spacing_mm": [float(spacing) for spacing in pair.spacing_mm],
        "centre": [int(index) for index in centre],
        "sentences": [pair.reference_sentence, pair.target_sentence],
        "mean_hu": {
            "reference": _lung_mean(pair.reference_hu, lung),
            "target": _lung_mean(pair.target_hu, lung),
            "difference": _lung_mean(pair.difference_hu, lung),
            "real": None if pair.real_hu is None else _lung_mean(pair.real_hu, lung),
        },
        "volumes": volumes,
    }


def _lung_mean(hu: np.ndarray, lung: np.ndarray) -> float | None:
    return round(float(np.mean(hu[lung], dtype=float)), 2) if lung.any() else None


def steps(hu: np.ndarray, step: int) -> np.ndarray:
    """HU as whole steps, int16; what is not a number becomes air (-1024) so that it shows."""
    filled = np.nan_to_num(np.asarray(hu, np.float32), nan=-1024.0)
    return np.round(np.clip(filled, -4096, 4095) / step).astype(np.int16)


def pack(volume: np.ndarray) -> str:
    """(z, y, x) int16 to base64 of the deflated low bytes, then high bytes."""
    bits = volume.astype("<i2").view("<u2").ravel()
    planes = np.concatenate([bits & 255, bits >> 8]).astype(np.uint8)
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def viewer_settings(pairs: Sequence[Pair], levels: tuple[str, str]) -> Mapping[str, Any]:
    """What all subjects share: windows, the scale of the difference and its colours."""
    limit = difference_limit(pairs)
    return {
        "levels": list(levels),
        "step_hu": STEP_HU,
        "windows_hu": WINDOWS_HU,
        "limit_hu": limit,
        "limits_hu": sorted({*(float(nice) for nice in NICE_LIMITS_HU if nice >= 10), limit}),
        "colours": [to_hex(colour) for colour in DIVERGING(np.linspace(0, 1, 129))],
    }
