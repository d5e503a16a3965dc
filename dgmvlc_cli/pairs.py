"""Counterfactual pairs: edited rows, shared noise, both arms through one held-out model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.cohort import Cohort, read_folds, training_inputs
from dgmvlc_cli.config import Settings
from dgmvlc_cli.generators.grid import place
from dgmvlc_cli.generators.model import Generator
from dgmvlc_cli.imaging.volume import Volume, read_labels, read_volume, write_volume
from dgmvlc_cli.text.describe import sentence
from dgmvlc_cli.text.edits import bundle_values, edit_row
from dgmvlc_cli.text.schema import Schema
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace, slug


def contrast_name(contrast: Contrast) -> str:
    """The contrast's folder: `smoking_never-smoker_current-smoker`."""
    parts = (contrast.attribute, contrast.reference, contrast.target)
    return "_".join(slug(part) for part in parts)


def pairs_sidecar(ws: Workspace, settings: Settings, cohort: Cohort, contrast: Contrast) -> Sidecar:
    """What the pairs of one contrast hang on: models, scans and sentences."""
    name = settings.train.model
    folds = read_folds(ws, name)
    weights = [path for fold in sorted(folds.unique()) for path in ws.weights(name, int(fold))]
    inputs = {
        "models": workspace.sha256_files(weights),
        **training_inputs(ws, cohort, [one for one in folds.index if one in cohort.rows.index]),
    }
    folder = ws.contrast(name, contrast_name(contrast))
    return Sidecar(path=folder / "pairs.json", inputs=inputs, outputs=(folder / "pairs.tsv",))


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """One subject's pair in one contrast: two sentences, and where the volumes go."""

    subject: str
    contrast: Contrast
    folder: Path
    sentences: tuple[str, str]
    embeddings: np.ndarray  # (2, E)

    def volume_path(self, level: str | float, seed: int) -> Path:
        name = f"sub-{slug(self.subject)}_arm-{slug(level)}_seed-{seed}_ct.nii.gz"
        return self.folder / f"sub-{slug(self.subject)}" / name

    @property
    def levels(self) -> tuple[str | float, str | float]:
        return self.contrast.reference, self.contrast.target

    @property
    def sidecar_path(self) -> Path:
        return self.folder / f"sub-{slug(self.subject)}" / f"sub-{slug(self.subject)}.json"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What decides a generated volume besides model, mask and sentence."""

    seed: int
    seeds: int
    steps: int
    guidance_scale: float
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class SubjectTask:
    """All pairs of a few subjects of one fold, for one worker."""

    fold: int
    model_folder: Path
    model_sha256: str
    workspace: Workspace
    pairs: tuple[PairPlan, ...]
    sampling: Sampling
    force: bool


def arm_sentences(
    row: dict[str, Any], contrast: Contrast, schema: Schema, rows: pd.DataFrame
) -> tuple[str, str]:
    """The sentences of the reference and of the target arm of one subject.

    The edit acts on the row and carries its bundle along; the sentence is written anew.  What
    comes with a level (pack-years with smoking) is set to that level's typical value for every
    subject, also for those who have one of their own: else an arm would depend on the subject's
    own attribute, and the debiased effect needs predictions that do not.
    """
    edited = (
        edit_row(row, arm_edits(contrast, level, schema, rows), schema, rows)
        for level in (contrast.reference, contrast.target)
    )
    reference, target = (sentence(one, schema) for one in edited)
    return reference, target


def arm_edits(
    contrast: Contrast, level: str | float, schema: Schema, rows: pd.DataFrame
) -> dict[str, str | float]:
    """The level, and the cohort's typical value of everything that comes with it."""
    edits: dict[str, str | float] = {contrast.attribute: level}
    if contrast.numeric:
        return edits
    typical = bundle_values(schema, contrast.attribute, str(level), rows)
    return edits | {name: value for name, value in typical.items() if value is not None}


def subjects_of(contrast: Contrast, rows: pd.DataFrame) -> list[str]:
    """Subjects whose real value informs the contrast: at either level, or any number.

    The same subjects serve all four numbers, so that these describe one population.
    """
    column = rows[contrast.attribute]
    if contrast.numeric:
        return list(rows.index[column.notna()])
    return list(rows.index[column.isin([contrast.reference, contrast.target])])


def noise(seed: int, subject: str, draw: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise of one subject and draw, whatever the batch or worker."""
    stream = workspace.generator(seed, "noise", subject, draw)
    return stream.standard_normal(shape, dtype=np.float32)


def generate_task(task: SubjectTask) -> list[dict[str, Any]]:
    """Generate what is not current; returns one row of pairs.tsv per pair and seed."""
    stale = [plan for plan in task.pairs if task.force or not _sidecar(plan, task).is_current()]
    if stale:
        generator = Generator.from_pretrained(task.model_folder)
        masks = {plan.subject: _placed(task.workspace, plan.subject, generator) for plan in stale}
        clock = Stopwatch()
        for plan in stale:
            _sidecar(plan, task).invalidate()
        for plan in _generate(stale, masks, generator, task):
            _sidecar(plan, task).write(seconds=clock.seconds, subject=plan.subject)
    return [row for plan in task.pairs for row in _rows(plan, task)]


def _placed(ws: Workspace, subject: str, generator: Generator) -> tuple[Volume, np.ndarray]:
    """The subject's scan and mask on the generator's grid."""
    volume = read_volume(ws.ct_path(subject))
    labels = read_labels(ws.mask_path(subject))
    conditioning = generator.conditioning
    return place(volume, labels, conditioning.grid, conditioning.spacing_mm)


def _generate(
    plans: list[PairPlan],
    masks: dict[str, tuple[Volume, np.ndarray]],
    generator: Generator,
    task: SubjectTask,
) -> Iterator[PairPlan]:
    """Sample whole pairs batch by batch, write their volumes, yield each finished plan."""
    sampling = task.sampling
    per_batch = max(1, sampling.batch_size // (2 * sampling.seeds))
    for start in range(0, len(plans), per_batch):
        batch = plans[start : start + per_batch]
        draws = [
            (plan, draw, arm) for plan in batch for draw in range(sampling.seeds) for arm in (0, 1)
        ]
        shape = generator.noise_shape()
        hu = generator.generate(
            np.stack([noise(sampling.seed, p.subject, draw, shape) for p, draw, _ in draws]),
            np.stack([masks[plan.subject][1] for plan, _, _ in draws]),
            np.stack([plan.embeddings[arm] for plan, _, arm in draws]),
            steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
        )
        for (plan, draw, arm), voxels in zip(draws, hu, strict=True):
            where = masks[plan.subject][0]
            volume = Volume(
                hu=voxels,
                spacing_mm=where.spacing_mm,
                origin_mm=where.origin_mm,
                direction=where.direction,
            )
            write_volume(plan.volume_path(plan.levels[arm], draw), volume)
        yield from batch


def _sidecar(plan: PairPlan, task: SubjectTask) -> Sidecar:
    sampling = task.sampling
    mask_facts = workspace.read_json(task.workspace.sidecar_path(plan.subject)) or {}
    inputs = {
        "model_sha256": task.model_sha256,
        "mask": mask_facts.get("fingerprint"),
        "sentences": plan.sentences,
        "seed": sampling.seed,
        "seeds": sampling.seeds,
        "steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
    }
    outputs = tuple(
        plan.volume_path(level, draw) for level in plan.levels for draw in range(sampling.seeds)
    )
    return Sidecar(path=plan.sidecar_path, inputs=inputs, outputs=outputs)


def _rows(plan: PairPlan, task: SubjectTask) -> Iterator[dict[str, Any]]:
    root = task.workspace.root
    for draw in range(task.sampling.seeds):
        reference, target = (plan.volume_path(level, draw) for level in plan.levels)
        yield {
            "subject": plan.subject,
            "fold": task.fold,
            "seed": draw,
            "attribute": plan.contrast.attribute,
            "reference": plan.contrast.reference,
            "target": plan.contrast.target,
            "reference_path": str(reference.relative_to(root)),
            "target_path": str(target.relative_to(root)),
            "reference_sentence": plan.sentences[0],
            "target_sentence": plan.sentences[1],
            "noise_key": f"{task.sampling.seed}/noise/{plan.subject}/{draw}",
            "model_sha256": task.model_sha256,
            "steps": task.sampling.steps,
            "guidance_scale": task.sampling.guidance_scale,
        }
