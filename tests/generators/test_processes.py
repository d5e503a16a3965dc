"""Processes that share a training see what one with their summed batch would have seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dgmvlc_cli import workspace
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.generators.draws import Draws
from dgmvlc_cli.generators.processes import build_accelerator
from dgmvlc_cli.generators.training import train_fold

SCRIPT = """
import json, pickle, sys
from pathlib import Path
from dgmvlc_cli.generators.processes import this_process
from dgmvlc_cli.generators.training import train_fold
if __name__ == "__main__":
    folder, losses = Path(sys.argv[1]), []
    data, plan = pickle.loads((folder / "asked.pickle").read_bytes())
    train_fold(data, plan, folder / "shared", on_step=lambda step, loss: losses.append(loss))
    (folder / f"losses-{this_process().process_index}.json").write_text(json.dumps(losses))
    this_process().destroy_process_group()
"""


@pytest.mark.parametrize("model", ["flow", "gan"])
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path, training_set, plan, model):
    import pickle

    plan = replace(plan, model=model, steps=6, batch_size=4)
    (tmp_path / "asked.pickle").write_bytes(pickle.dumps((training_set, plan)))
    (tmp_path / "train.py").write_text(SCRIPT)
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launched, str(tmp_path / "train.py"), str(tmp_path)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shared = [json.loads((tmp_path / f"losses-{rank}.json").read_text()) for rank in (0, 1)]
    alone: list[float] = []
    train_fold(
        training_set,
        replace(plan, batch_size=8),
        tmp_path / "alone",
        on_step=lambda step, loss: alone.append(loss),
    )
    assert shared[0] == shared[1]
    np.testing.assert_allclose(shared[0], alone, rtol=1e-4)


def test_the_shares_of_a_step_are_what_one_process_would_draw():
    whole = Draws(3)
    shares = [Draws(3, rank=rank, processes=2) for rank in (0, 1)]
    for kind, args in (("normal", ((8, 5),)), ("uniform", ((8,),)), ("integers", (9, (8,)))):
        *bounds, shape = args
        half = (shape[0] // 2, *shape[1:])
        parts = [getattr(one, kind)(*bounds, half) for one in shares]
        assert torch.equal(getattr(whole, kind)(*args), torch.cat(parts))


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_reduced_precision_is_refused_on_a_cpu(tmp_path):
    with pytest.raises(UsageError, match="needs a GPU"):
        build_accelerator("bf16", tmp_path)
    assert build_accelerator("auto", Path(tmp_path)).mixed_precision == "no"


def test_tensorboard_is_told_where_it_is_installed(tmp_path, training_set, plan):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train_fold(training_set, plan, tmp_path)
    (events,) = tmp_path.glob("**/events.out.*")
    told = loader.EventAccumulator(str(events)).Reload().Scalars("loss")
    assert [one.step for one in told] == workspace.read_table(tmp_path / "train.tsv")[
        "step"
    ].tolist()
