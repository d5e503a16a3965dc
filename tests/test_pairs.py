"""Sampling of arms: who shares what, and abduction from the scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.imaging.files import read_volume, write_labels, write_volume
from dgmvlc_cli.imaging.volume import Tissue, Volume
from dgmvlc_cli.pairs import (
    PairPlan,
    ReturnTask,
    Sampling,
    SubjectTask,
    generate_task,
    noise,
    return_task,
    sampler_of,
    unlike,
)
from dgmvlc_cli.workspace import Workspace, read_json

GRID = (8, 6, 8)
LEVELS = ("never", "former", "current")
HU = dict(zip(LEVELS, (0.0, -10.0, -20.0), strict=True))


@dataclass
class Linear:
    """A generator that is known exactly: HU = -850 + 30 noise + what the embedding says."""

    conditioning: object = field(default_factory=lambda: Grid)
    sampled: int = 0

    def noise_shape(self) -> tuple[int, ...]:
        return GRID

    def generate(self, noises, labels, embeddings, *, residuals=None, **how):
        self.sampled += len(noises)
        made = -850 + 30 * noises + embeddings[:, :1, None, None]
        return made if residuals is None else made + residuals[0]


class Invertible(Linear):
    def invert(self, hu, noises, labels, embeddings, *, steps):
        return (hu - Linear().generate(noises, labels, embeddings))[None]


class Grid:
    grid, spacing_mm = GRID, 8.0


@pytest.fixture
def task(tmp_path):
    """Two subjects, two contrasts with one reference; the scans lie 5 HU above their own arm."""
    ws = Workspace(tmp_path)
    labels = np.full(GRID, int(Tissue.BODY), np.uint8)
    labels[1:7, 1:5, 1:7] = Tissue.RIGHT_LUNG
    plans = []
    for k, subject in enumerate(("a", "b")):
        hu = np.random.default_rng(k).integers(-900, -800, GRID).astype(np.float32)
        scan = Volume(
            hu=hu, spacing_mm=(8.0,) * 3, origin_mm=(0.0,) * 3, direction=tuple(np.eye(3).ravel())
        )
        write_volume(ws.ct_path(subject), scan)
        write_labels(ws.mask_path(subject), labels, scan)
        for target in LEVELS[1:]:
            plans.append(
                PairPlan(
                    subject=subject,
                    contrast=Contrast("smoking", "never", target),
                    folder=tmp_path / f"never-{target}",
                    sentences=(f"{subject} never", f"{subject} {target}"),
                    embeddings=np.array([[HU["never"]], [HU[target]]], np.float32),
                )
            )

    def make(from_scan: bool = False, **sampling) -> SubjectTask:
        own = ("a former", np.array([HU["former"]], np.float32))
        return SubjectTask(
            fold=0,
            model_folder=tmp_path,
            model_sha256="x",
            workspace=ws,
            pairs=tuple(
                PairPlan(**{**vars(plan), "factual": own if from_scan else None}) for plan in plans
            ),
            sampling=Sampling(
                seed=0, seeds=2, steps=1, guidance_scale=1.0, batch_size=3, **sampling
            ),
            force=False,
        )

    return make


@pytest.fixture
def model(monkeypatch):
    """Makes a generator the one that every fold loads."""

    def use(one: Linear) -> Linear:
        monkeypatch.setattr(
            "dgmvlc_cli.pairs.Generator.from_pretrained", lambda folder, sampler: one
        )
        return one

    return use


def volume(task: SubjectTask, row: dict, arm: str) -> np.ndarray:
    return read_volume(task.workspace.root / row[f"{arm}_path"]).hu


def test_an_arm_that_contrasts_share_is_sampled_once(task, model):
    generator, chosen = model(Linear()), task()
    rows = generate_task(chosen)
    assert len(rows) == 8  # 2 subjects, 2 contrasts, 2 draws
    assert generator.sampled == 12  # 3 levels instead of 4 arms
    for row in rows:
        expected = -850 + 30 * noise(0, row["subject"], row["seed"], GRID)
        assert volume(chosen, row, "reference") == pytest.approx(expected, abs=0.51)
        change = volume(chosen, row, "target") - volume(chosen, row, "reference")
        assert change == pytest.approx(np.full(GRID, HU[row["target"]]), abs=1.01)
    assert {row["source"] for row in rows} == {"mask"}


def test_what_is_current_is_kept(task, model):
    model(Linear())
    generate_task(task())
    again = model(Linear())
    assert len(generate_task(task())) == 8
    assert again.sampled == 0


def test_pairs_that_a_kill_left_out_are_made_in_the_batches_of_the_whole(task, model):
    class Rounding(Linear):
        """What it makes depends on what else is in the batch, as floating-point sums do."""

        def generate(self, noises, labels, embeddings, **how):
            return super().generate(noises, labels, embeddings) + round(embeddings.sum())

    model(Rounding())
    rows = generate_task(task())
    made = {path: path.read_bytes() for path in task().workspace.root.rglob("*_ct.nii.gz")}
    assert len(made) > 8
    plan = task().pairs[1]
    plan.sidecar_path.unlink()
    for row in rows:
        if (row["subject"], row["target"]) == (plan.subject, plan.contrast.target):
            (task().workspace.root / row["target_path"]).unlink()
    generate_task(task())
    assert made == {path: path.read_bytes() for path in made}


def test_another_sampler_makes_the_pairs_anew_and_is_named(task, model):
    generator = model(Linear())
    generate_task(task())
    rows = generate_task(task(sampler="ddpm"))
    assert generator.sampled == 24
    assert sampler_of(pd.DataFrame(rows)) == "ddpm"
    assert sampler_of(pd.DataFrame(generate_task(task()))) is None


def test_from_the_scan_no_edit_returns_it_and_an_edit_changes_it_alone(task, model):
    model(Invertible())
    chosen = task(from_scan=True)
    for row in generate_task(chosen):
        scan = read_volume(chosen.workspace.ct_path(row["subject"])).hu
        assert row["source"] == "scan"
        assert row["reconstruction_error_hu"] == 0
        # Known to be former smokers: the reference arm is 10 HU denser, the target as told.
        assert (volume(chosen, row, "reference") - scan == 10).all()
        assert (volume(chosen, row, "target") - scan == 10 + HU[row["target"]]).all()
        record = read_json(chosen.pairs[0].sidecar_path)
        assert record["inputs"]["from_scan"] == "a former"


def test_differences_are_target_less_reference(task, model):
    model(Linear())
    chosen = task(differences=True)
    rows = generate_task(chosen)
    plan = chosen.pairs[0]
    difference = read_volume(plan.difference_path(0)).hu
    assert (
        difference == volume(chosen, rows[0], "target") - volume(chosen, rows[0], "reference")
    ).all()
    assert Path(plan.difference_path(1)).exists()


def test_there_and_back_returns_to_the_reference(task, model):
    model(Invertible())
    chosen = task()
    rows = [row for row in generate_task(chosen) if row["seed"] == 0]
    embeddings = {
        said: embedding
        for plan in chosen.pairs
        for said, embedding in zip(plan.sentences, plan.embeddings, strict=True)
    }
    back = return_task(
        ReturnTask(
            workspace=chosen.workspace,
            model_folder=chosen.model_folder,
            rows=tuple(rows),
            embeddings=embeddings,
            sampling=chosen.sampling,
        )
    )
    assert [row["subject"] for row in back] == [row["subject"] for row in rows]
    # Volumes hold whole HU, so a difference of two may be off by one.
    assert max(row["error_hu"] for row in back) < 0.6
    swapped = {said: np.array([0.0], np.float32) for said in embeddings}
    wrong = return_task(
        ReturnTask(
            workspace=chosen.workspace,
            model_folder=chosen.model_folder,
            rows=tuple(rows[:2]),
            embeddings=swapped,
            sampling=chosen.sampling,
        )
    )
    assert [row["shift_hu"] for row in wrong] == pytest.approx([-10, -20], abs=0.6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"seeds": 1}, "seeds 2, not 1"),
        ({"steps": 9}, "steps 8, not 9"),
        ({"guidance_scale": 2.0}, "guidance 1.0, not 2.0"),
        ({"sampler": "ddpm"}, "sampler ddim, not ddpm"),
        ({"seed": 4}, "seed 3, not 4"),
    ],
)
def test_pairs_that_were_sampled_otherwise_are_told(change, said):
    table = pd.DataFrame(
        {
            "subject": ["a", "a"],
            "seed": [0, 1],
            "steps": 8,
            "guidance_scale": 1.0,
            "sampler": "ddim",
            "noise_key": ["3/noise/a/0", "3/noise/a/1"],
        }
    )
    asked = {"seed": 3, "seeds": 2, "steps": 8, "guidance_scale": 1.0, "sampler": "ddim"}
    assert unlike(table, Sampling(**{**asked, **change}, batch_size=4)) == said
