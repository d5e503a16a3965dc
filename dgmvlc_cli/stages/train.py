"""One generator per cross-fitting fold."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dgmvlc_cli import workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.generators.training import TrainingPlan, TrainingSet
    from dgmvlc_cli.text.encoders import Encoder
    from dgmvlc_cli.text.projection import Practice


def train(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """One generator per cross-fitting fold, never trained on the subjects that it predicts."""
    from dgmvlc_cli.cohort import assign_folds, load_cohort
    from dgmvlc_cli.text.encoders import load_encoder

    cohort = load_cohort(ws)
    name, folds = settings.train.model, settings.train.folds
    assigned = assign_folds(cohort.rows, cohort.studied, folds, settings.seed)
    if run.dry_run:
        lines = [f"fold {k}: train on {int((assigned != k).sum())} subjects" for k in range(folds)]
        return dry_run("train", lines)
    encoder = load_encoder(settings.study.text_encoder)
    embeddings = encoder.encode(list(cohort.sentences))
    practice = _practice(cohort, encoder, settings.seed)
    images = load_images(ws, cohort.subjects, settings)
    workspace.write_table(ws.model(name) / "folds.tsv", assigned.reset_index())
    notes = []
    for fold in range(folds):
        training = (assigned != fold).to_numpy()
        plan = _training_plan(settings, fold, encoder.name, encoder.sha256)
        data = _training_set(images, embeddings, practice, training)
        notes.append(_train_one(ws, settings, run, plan, data, cohort, training))
    facts = {"model": name, "folds": folds, "subjects": len(assigned), "notes": notes}
    return StageResult(
        stage="train",
        summary=[*notes, f"models: {ws.model(name)}"],
        facts=facts,
        next_command=f"dgmvlc counterfactual --attribute {cohort.studied}",
    )


def load_images(
    ws: Workspace, subjects: list[str], settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """HU (n, D, H, W) float32 and labels uint8 of the subjects on the preset's grid."""
    from dgmvlc_cli.generators.grid import place
    from dgmvlc_cli.imaging.volume import read_labels, read_volume

    preset = settings.preset
    hu = np.empty((len(subjects), *preset.grid), np.float32)
    labels = np.empty((len(subjects), *preset.grid), np.uint8)
    for i, subject in enumerate(subjects):
        scan, mask = read_volume(ws.ct_path(subject)), read_labels(ws.mask_path(subject))
        placed, labels[i] = place(scan, mask, preset.grid, preset.spacing_mm)
        hu[i] = placed.hu
    return hu, labels


def _practice(cohort: Cohort, encoder: Encoder, seed: int) -> Practice:
    """Practice sentences from recombined values of the table, and what they say."""
    from dgmvlc_cli.text.describe import sentence
    from dgmvlc_cli.text.projection import Practice, encode_rows, practice_rows

    rows = practice_rows(cohort.rows, cohort.schema, seed)
    return Practice(
        embeddings=encoder.encode([sentence(row, cohort.schema) for row in rows]),
        codes=encode_rows(rows, cohort.schema, cohort.rows),
    )


def _training_set(
    images: tuple[np.ndarray, np.ndarray],
    embeddings: np.ndarray,
    practice: Practice,
    use: np.ndarray,
) -> TrainingSet:
    from dgmvlc_cli.generators.training import TrainingSet

    hu, labels = images
    return TrainingSet(
        hu=hu[use], labels=labels[use], embeddings=embeddings[use], practice=practice
    )


def _training_plan(settings: Settings, fold: int, encoder: str, sha256: str) -> TrainingPlan:
    from dgmvlc_cli.generators.training import TrainingPlan

    chosen, preset = settings.train, settings.preset
    return TrainingPlan(
        seed=settings.seed,
        fold=fold,
        steps=chosen.steps or preset.steps,
        batch_size=chosen.batch_size or preset.batch_size,
        learning_rate=chosen.learning_rate,
        text_dropout=chosen.text_dropout,
        widths=preset.widths,
        fusion=chosen.fusion,
        grid=preset.grid,
        spacing_mm=preset.spacing_mm,
        wavelet_levels=preset.wavelet_levels,
        encoder=encoder,
        encoder_sha256=sha256,
    )


def _train_one(
    ws: Workspace, settings: Settings, run: Run, plan, data, cohort: Cohort, use: np.ndarray
) -> str:
    """Train one fold unless it is current; returns what was done, in words."""
    from dgmvlc_cli.generators.training import device_name, train_fold

    folder = ws.fold(settings.train.model, plan.fold)
    sidecar = _model_sidecar(ws, folder, plan, cohort, use)
    if sidecar.is_current() and not run.force:
        return f"fold {plan.fold}: current, kept"
    why = sidecar.why_stale()
    _discard_other_state(folder, sidecar.fingerprint, run)
    run.reporter.note(f"fold {plan.fold}: {why}; {len(data.hu)} subjects, {plan.steps} steps")
    clock = Stopwatch()
    with run.reporter.track(f"train fold {plan.fold}", plan.steps) as advance:
        done = 0

        def on_step(step: int, loss: float) -> None:
            nonlocal done
            advance(step - done, f"loss {loss:.3f}")
            done = step

        train_fold(
            data,
            plan,
            folder,
            checkpoint_seconds=settings.train.checkpoint_seconds,
            on_step=on_step,
        )
    sidecar.write(seconds=clock.seconds, device=device_name())
    shutil.rmtree(folder / "state", ignore_errors=True)
    return f"fold {plan.fold}: trained on {len(data.hu)} subjects in {clock.seconds:.0f} s"


def _model_sidecar(ws: Workspace, folder: Path, plan, cohort: Cohort, use: np.ndarray) -> Sidecar:
    subjects = [one for one, used in zip(cohort.subjects, use, strict=True) if used]
    records = [workspace.read_json(ws.sidecar_path(one)) or {} for one in subjects]
    scans = [record.get("fingerprint") for record in records]
    inputs = {
        **asdict(plan),
        "scans": workspace.fingerprint(dict(zip(subjects, scans, strict=True))),
        "sentences": workspace.fingerprint({"said": list(cohort.sentences[subjects])}),
    }
    weights = (folder / "diffusion_pytorch_model.safetensors", folder / "conditioning.safetensors")
    return Sidecar(path=folder / "train.json", inputs=inputs, outputs=weights)


def _discard_other_state(folder: Path, fingerprint: str, run: Run) -> None:
    """Keep a checkpoint only if it belongs to exactly this training; mark what comes next."""
    state, marker = folder / "state", folder / "state" / "fingerprint.json"
    if run.force or workspace.read_json(marker) != fingerprint:
        shutil.rmtree(state, ignore_errors=True)
    elif (state / "last.pt").exists():
        run.reporter.note("going on from the last checkpoint")
    workspace.write_json(marker, fingerprint)
