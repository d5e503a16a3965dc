"""Is the machine large enough?  Asked before hours of training, not by the kernel after them."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from dgmvlc_cli.config import Preset
from dgmvlc_cli.errors import DgmvlcError

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
GB = 1e9
BYTES_PER_VOXEL = 70.0  # of a training subject: scan, bands of it and its mask, weights, scales


def needed_gb(preset: Preset, subjects: int, batch_size: int | None = None) -> float:
    """Peak memory of training one fold on the CPU.

    Measured by tests/benchmarks/presets.py with two numbers of subjects: what every subject takes,
    and the rest, nearly all of it activations, which grow with the batch.
    """
    batches = (batch_size or preset.batch_size) / preset.batch_size
    voxels = math.prod(preset.grid)
    return preset.fixed_gb * max(batches, 1.0) + subjects * voxels * BYTES_PER_VOXEL / GB


def machine_gb() -> float:
    """Memory of this machine, or of the container that it is shared by; infinite where unknown."""
    limits = []
    with contextlib.suppress(AttributeError, ValueError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit
        limits.append(int(CGROUP_LIMIT.read_text()))
    return min(limits, default=math.inf) / GB


def check(preset: Preset, subjects: int, batch_size: int | None = None) -> None:
    """Raises DgmvlcError where training needs more memory than there is."""
    needed, there = needed_gb(preset, subjects, batch_size), machine_gb()
    if needed > there:
        grid = " x ".join(map(str, preset.grid))
        raise DgmvlcError(
            f"Training on {subjects} subjects at {grid} needs about {needed:.1f} GB of memory; "
            f"this machine has {there:.1f} GB.",
            "Choose a smaller preset (see `dgmvlc info`) or a smaller [train] batch_size.",
        )
