import pytest

from dgmvlc_cli import memory
from dgmvlc_cli.config import PRESETS
from dgmvlc_cli.errors import DgmvlcError


def test_memory_grows_with_subjects_and_batch():
    micro = PRESETS["micro"]
    assert memory.needed_gb(micro, 200) > memory.needed_gb(micro, 100)
    assert memory.needed_gb(micro, 100, 4 * micro.batch_size) > memory.needed_gb(micro, 100)
    assert memory.needed_gb(micro, 100, 1) == memory.needed_gb(micro, 100)


def test_the_machine_is_no_larger_than_its_container(tmp_path, monkeypatch):
    (tmp_path / "limit").write_text("2000000000\n")
    monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "limit")
    assert memory.machine_gb() == pytest.approx(2.0)
    (tmp_path / "limit").write_text("max\n")
    assert memory.machine_gb() > 2.0


def test_what_cannot_fit_is_said_before_training(monkeypatch):
    monkeypatch.setattr(memory, "machine_gb", lambda: 16.0)
    memory.check(PRESETS["tiny"], 100)
    with pytest.raises(DgmvlcError, match=r"256 x 208 x 256 needs about .* this machine has 16\.0"):
        memory.check(PRESETS["large"], 100)
