"""Damaged files end in a message; tests/benchmarks/fuzz_files.py does the same by thousands."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from enhanced import write_enhanced
from fuzzing import damaged, outcome

from dgmvlc_cli.imaging.files import write_volume

FILES = 60


@pytest.mark.parametrize("kind", ["dicom", "enhanced", "nii", "nii.gz", "nrrd", "mha"])
def test_a_damaged_file_ends_in_a_message_or_is_read(kind, ramp, chest, tmp_path):
    source = tmp_path / "source"
    if kind == "dicom":
        whole = ramp.write(source)[0]
    elif kind == "enhanced":
        source.mkdir()
        whole = source / "e.dcm"
        frames = [one.astype("<i2").tobytes() for one in ramp.stored[:4]]
        write_enhanced(whole, frames, (5, 6), [1.0] * 4)
    else:
        small = chest[0]
        whole = source / f"a.{kind}"
        write_volume(whole, type(small)(hu=small.hu[30:36, 30:50, 30:50], spacing_mm=(4.0,) * 3))
    content, rng = whole.read_bytes(), np.random.default_rng(1)
    (tmp_path / "scans").mkdir()
    target = tmp_path / "scans" / whole.name
    ends = Counter()
    for _ in range(FILES):
        target.write_bytes(damaged(content, rng))
        ends[outcome(target.parent)] += 1
    assert ends["refused"] > 5
    target.write_bytes(content)
    assert outcome(target.parent) == "read"
