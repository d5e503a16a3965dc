"""Damage files in every way that disks, networks and broken tools do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.imaging.discovery import survey
from dgmvlc_cli.imaging.prepare import Handling, read_scan

HANDLING = Handling(allow_lossy=True)
ABSURD = (b"\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00", b"\x00\x80", b"-1", b"1e999", b"nan")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content cut short, with bits flipped, with absurd numbers, or with parts moved."""
    data = bytearray(content)
    head = min(len(data), 2000)  # where sizes, types and lengths are
    kind = rng.integers(6)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        for place in rng.integers(len(data), size=rng.integers(1, 30)):
            data[place] ^= 1 << rng.integers(8)
    elif kind == 2:
        for place in rng.integers(head, size=rng.integers(1, 8)):
            data[place] ^= 1 << rng.integers(8)
    elif kind == 3:
        number = ABSURD[rng.integers(len(ABSURD))]
        place = int(rng.integers(head))
        data[place : place + len(number)] = number
    elif kind == 4:
        start, length = int(rng.integers(len(data))), int(rng.integers(1, 200))
        del data[start : start + length]
    else:
        start, length = int(rng.integers(len(data))), int(rng.integers(1, 200))
        data[start:start] = data[start : start + length]
    return bytes(data)


def outcome(folder: Path) -> str:
    """`read`, or `refused`: a message that a user can act on.  Anything else is raised."""
    try:
        for scan in survey(folder).scans:
            read_scan(scan, HANDLING)
    except DgmvlcError as error:
        assert error.message and error.hint
        return "refused"
    return "read"
