import errno
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli import workspace
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.workspace import Sidecar, Workspace, atomic_path, generator, only_writer, slug


def test_randomness_depends_on_seed_and_keys_alone():
    draws = generator(1, "noise", "s1").standard_normal(4)
    assert np.array_equal(draws, generator(1, "noise", "s1").standard_normal(4))
    for other in (generator(2, "noise", "s1"), generator(1, "noise", "s2"), generator(1, "s1")):
        assert not np.array_equal(draws, other.standard_normal(4))


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "a.txt"
    workspace.write_text(path, "old")
    with pytest.raises(ValueError, match="stopped"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ValueError("stopped")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_said_in_words(tmp_path):
    path = tmp_path / "a.txt"
    workspace.write_text(path, "old")
    with pytest.raises(DgmvlcError, match="No space left") as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "Free some space" in caught.value.hint
    assert path.read_text() == "old"


def test_a_sidecar_is_current_only_with_the_same_inputs_and_outputs(tmp_path):
    output = tmp_path / "out.txt"
    first = Sidecar(path=tmp_path / "out.json", inputs={"a": 1, "b": (1, 2)}, outputs=(output,))
    assert not first.is_current()
    assert first.why_stale() == "not made yet"
    output.write_text("x")
    first.write(seconds=1.0)
    assert first.is_current()
    changed = Sidecar(path=first.path, inputs={"a": 2, "b": (1, 2)}, outputs=(output,))
    assert not changed.is_current()
    assert changed.why_stale() == "changed: a"
    output.unlink()
    assert not first.is_current()
    assert first.why_stale() == "missing: out.txt"


def test_an_output_that_was_cut_short_is_not_current(tmp_path):
    output = tmp_path / "deep" / "out.txt"
    workspace.write_text(output, "whole")
    sidecar = Sidecar(path=tmp_path / "out.json", inputs={"a": 1}, outputs=(output,))
    sidecar.write(seconds=0)
    assert sidecar.is_current()
    output.write_text("who")
    assert not sidecar.is_current()
    assert sidecar.why_stale() == "of another size than they were made: out.txt"


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    folder = tmp_path / "models"
    other = (
        "import sys, time; from pathlib import Path; from dgmvlc_cli.workspace import only_writer\n"
        "with only_writer(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", other, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "in\n"
        with pytest.raises(DgmvlcError, match="Another dgmvlc command"), only_writer(folder):
            pass
        process.kill()
    with only_writer(folder), only_writer(folder):  # a stage may call another
        pass


def test_a_damaged_sidecar_is_not_current(tmp_path):
    sidecar = Sidecar(path=tmp_path / "out.json", inputs={"a": 1})
    sidecar.path.write_text("{")
    assert not sidecar.is_current()


def test_a_table_survives_a_round_trip(tmp_path):
    table = pd.DataFrame({"subject": ["N/A", "b"], "value": [1.25, None]})
    workspace.write_table(tmp_path / "t.tsv", table)
    again = workspace.read_table(tmp_path / "t.tsv", dtype={"subject": str})
    pd.testing.assert_frame_equal(again, table)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"subject;status\na;ok\n", "has no column 'subject'; its columns: subject;status"),
    ],
)
def test_a_table_that_another_program_saved_is_told(tmp_path, content, said):
    path = tmp_path / "subjects.tsv"
    path.write_bytes(content)
    with pytest.raises(DgmvlcError, match=said) as caught:
        workspace.read_table(path, ("subject", "status"), dtype=str)
    assert "--force" in caught.value.hint


def test_a_missing_stage_names_its_command(tmp_path):
    ws = Workspace(tmp_path)
    with pytest.raises(DgmvlcError) as caught:
        ws.require(ws.subjects_path, "preprocessed scans", "dgmvlc preprocess")
    assert "dgmvlc preprocess" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "name"),
    [("current smoker", "current-smoker"), ("R01-001", "R01-001"), (45.0, "45"), ("ph.1", "ph.1")],
)
def test_names_of_files_are_plain(text, name):
    assert slug(text) == name


def test_names_that_lose_something_are_told_apart():
    texts = ["<5", ">5", "5", -5.0, "+", "-", "männlich", "../etc", "etc", "男", "女"]
    names = [slug(text) for text in texts]
    assert len(set(names)) == len(names)
    assert all(name and "/" not in name and name[0] not in ".-" for name in names)
