"""One generator per cross-fitting fold."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import time
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dgmvlc_cli import __version__, memory, workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import DgmvlcError, made_by
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.generators.fitting import TrainingPlan, TrainingSet
    from dgmvlc_cli.text.encoders import Encoder
    from dgmvlc_cli.text.projection import Practice


def train(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """One generator per cross-fitting fold, never trained on the subjects that it predicts.

    Of several processes (`accelerate launch`), all train and the first one writes.
    """
    from dgmvlc_cli.cohort import assign_folds, load_cohort, require_scans
    from dgmvlc_cli.stages.validate import Checks
    from dgmvlc_cli.text.encoders import load_encoder

    cohort = load_cohort(ws, settings)
    require_scans(ws, cohort.subjects)
    trained_on = len(cohort.subjects) - len(cohort.subjects) // settings.train.folds
    memory.check(settings.preset, trained_on, settings.train.batch_size)
    images, failed = load_images(ws, cohort.subjects, settings)
    cohort = cohort.without(failed)
    name, folds = settings.train.model, settings.train.folds
    assigned = assign_folds(cohort.rows, cohort.studied, folds, settings.seed)
    if run.dry_run:
        uses = [(assigned != fold).to_numpy() for fold in range(folds)]
        lines = [_planned(ws, settings, run, k, cohort, use) for k, use in enumerate(uses)]
        return dry_run("train", [*lines, *_failure_lines(failed)])
    from dgmvlc_cli.generators.processes import mixed_precision, this_process

    mixed_precision(settings.train.precision)  # refused before anything is written
    encoder = load_encoder(settings.study.text_encoder)
    texts = read_texts(cohort, settings, encoder, ws.text / "embeddings.npz")
    jobs = []
    for fold in range(folds):
        use = (assigned != fold).to_numpy()
        plan = training_plan(settings, fold, encoder.name, encoder.sha256)
        jobs.append((plan, use, _model_sidecar(ws, settings, plan, cohort, use, texts.practice)))
    process = this_process()
    kept = [sidecar.is_current() and not run.force for _, _, sidecar in jobs]
    process.wait_for_everyone()
    alone = workspace.only_writer(ws.model(name))
    with alone if process.is_main_process else contextlib.nullcontext():
        if not all(kept) and process.is_main_process:
            # Without it nobody is held out: no kill may leave old folds beside new models.
            (ws.model(name) / "folds.tsv").unlink(missing_ok=True)
        minutes = settings.train.max_minutes
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        notes = []
        checks = Checks(ws, settings, cohort, assigned, images, texts.embeddings, encoder)
        run.reporter.note(f"to be checked on held-out subjects: {checks.contrast.text}")
        for (plan, use, sidecar), current in zip(jobs, kept, strict=True):
            if current:
                notes.append(f"fold {plan.fold}: current, kept")
            else:
                # Cut out here and held by nobody: a copy of the scans of every fold would be large.
                notes.append(
                    _train_one(
                        ws, settings, run, plan, training_set(images, texts, use), sidecar, deadline
                    )
                )
            if process.is_main_process:
                notes += [f"  {line}" for line in checks.words(plan.fold, run)]
        if process.is_main_process:
            workspace.write_table(ws.model(name) / "folds.tsv", assigned.reset_index())
    facts = {"model": name, "folds": folds, "subjects": len(assigned), "notes": notes}
    return StageResult(
        stage="train",
        summary=[*notes, *_failure_lines(failed), f"models: {ws.model(name)}"],
        facts=facts,
        failed=failed,
        next_command=f"dgmvlc counterfactual --attribute {cohort.studied}",
    )


def _planned(
    ws: Workspace, settings: Settings, run: Run, fold: int, cohort: Cohort, use: np.ndarray
) -> str:
    """What training would do of a fold, as far as can be told without encoding its sentences."""
    from dgmvlc_cli.cohort import trained_inputs, training_inputs
    from dgmvlc_cli.text.rewording import said_in

    subjects = _used(cohort, use)
    made = trained_inputs(ws, settings.train.model, fold)
    now: dict[str, Any] = {**training_inputs(ws, cohort, subjects), "version": __version__}
    if settings.train.rewordings:
        now["phrases"] = said_in(cohort.schema)
    changed = [*trained_otherwise(ws, settings, fold)]
    changed += [name for name, value in workspace.plain(now).items() if made.get(name) != value]
    weights = ws.weights(settings.train.model, fold)
    if made and not changed and not run.force and all(one.exists() for one in weights):
        return f"fold {fold}: current, kept"
    why = f" (changed: {', '.join(changed)})" if made and changed else ""
    return f"fold {fold}: train on {len(subjects)} subjects{why}"


def trained_otherwise(ws: Workspace, settings: Settings, fold: int = 0) -> dict[str, str]:
    """Where a trained fold differs from what the settings ask for by now: `fusion` -> `a, not b`.

    Nothing where there is no such fold.
    """
    from dgmvlc_cli.cohort import trained_inputs

    made = trained_inputs(ws, settings.train.model, fold)
    asked = asdict(training_plan(settings, fold, settings.study.text_encoder, ""))
    del asked["encoder_sha256"]
    return {
        name.replace("_", " "): f"{made[name]}, not {value}"
        for name, value in workspace.plain(asked).items()
        if name in made and made[name] != value
    }


def _used(cohort: Cohort, use: np.ndarray) -> list[str]:
    return [one for one, used in zip(cohort.subjects, use, strict=True) if used]


def load_images(
    ws: Workspace, subjects: list[str], settings: Settings
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, str]]:
    """(HU (n, D, H, W) float32, labels uint8) on the preset's grid, and who could not be loaded.

    Subjects that fail are left out of the arrays; raises DgmvlcError where all do.
    """
    from dgmvlc_cli.generators.grid import place
    from dgmvlc_cli.imaging.files import read_labels, read_volume

    preset = settings.preset
    hu, labels, failed = [], [], {}
    for subject in subjects:
        try:
            with made_by("dgmvlc preprocess"):
                scan, mask = read_volume(ws.ct_path(subject)), read_labels(ws.mask_path(subject))
            placed, moved = place(scan, mask, preset.grid, preset.spacing_mm)
        except DgmvlcError as error:
            failed[subject] = f"{error.message} {error.hint}"
        else:
            hu.append(placed.hu)
            labels.append(moved)
    if not hu:
        subject, reason = next(iter(failed.items()))
        raise DgmvlcError(f"No scan can be trained on; the first ({subject}): {reason}")
    return (np.stack(hu), np.stack(labels)), failed


def _failure_lines(failed: dict[str, str]) -> list[str]:
    return [f"left out: {subject}: {reason}" for subject, reason in failed.items()]


@dataclass
class Divergence:
    """Notices a loss that grows: its running mean against the lowest that it has been."""

    mean: float = math.nan
    lowest: float = math.inf
    noticed: bool = False

    def begins(self, loss: float) -> bool:
        """True once, when the running mean is twice its lowest.  A loss that is no number waits for
        the trainer's own guard."""
        if not math.isfinite(loss):
            return False
        self.mean = loss if math.isnan(self.mean) else 0.98 * self.mean + 0.02 * loss
        self.lowest = min(self.lowest, self.mean)
        first, self.noticed = not self.noticed, self.noticed or self.mean > 2 * self.lowest
        return first and self.noticed


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What the models are told of the whole cohort.

    embeddings: (n, E) of the sentences; rewordings: (n, V, E) of the rows in other words;
    practice: sentences without images.
    """

    embeddings: np.ndarray
    rewordings: np.ndarray
    practice: Practice


def read_texts(cohort: Cohort, settings: Settings, encoder: Encoder, cache: Path) -> Texts:
    """Encode the cohort's sentences, their other wordings, and practice sentences."""
    from dgmvlc_cli.text.encoders import encode_cached
    from dgmvlc_cli.text.projection import practise
    from dgmvlc_cli.text.rewording import rewordings

    rows, schema, seed = cohort.rows, cohort.schema, settings.seed
    count = settings.train.rewordings
    others = list(chain(*rewordings(rows, schema, count, seed)))
    shape = len(rows), count, encoder.dim
    return Texts(
        embeddings=encode_cached(encoder, list(cohort.sentences), cache),
        rewordings=encode_cached(encoder, others, cache).reshape(shape),
        practice=practise(rows, schema, encoder, seed, cache, reworded=count > 0),
    )


def training_set(
    images: tuple[np.ndarray, np.ndarray], texts: Texts, use: np.ndarray
) -> TrainingSet:
    """The chosen subjects.  images: HU and labels, (n, D, H, W); use: (n,) bool."""
    from dgmvlc_cli.generators.fitting import TrainingSet

    hu, labels = images
    return TrainingSet(
        hu=hu[use],
        labels=labels[use],
        embeddings=texts.embeddings[use],
        rewordings=texts.rewordings[use],
        practice=texts.practice,
    )


def training_plan(settings: Settings, fold: int, encoder: str, sha256: str) -> TrainingPlan:
    from dgmvlc_cli.generators.fitting import TrainingPlan

    chosen, preset = settings.train, settings.preset
    return TrainingPlan(
        seed=settings.seed,
        fold=fold,
        steps=chosen.steps or preset.steps,
        batch_size=chosen.batch_size or preset.batch_size,
        learning_rate=chosen.learning_rate,
        text_dropout=chosen.text_dropout,
        rewordings=chosen.rewordings,
        widths=preset.widths,
        model=chosen.model,
        fusion=chosen.fusion,
        grid=preset.grid,
        spacing_mm=preset.spacing_mm,
        wavelet_levels=preset.wavelet_levels,
        encoder=encoder,
        encoder_sha256=sha256,
        paper=chosen.preset == "paper",
    )


def _train_one(
    ws: Workspace,
    settings: Settings,
    run: Run,
    plan: TrainingPlan,
    data: TrainingSet,
    sidecar: Sidecar,
    deadline: float,
) -> str:
    """Train one fold; returns what was done, in words."""
    from dgmvlc_cli.generators.processes import device_name, this_process
    from dgmvlc_cli.generators.training import train_fold

    process, folder = this_process(), ws.fold(settings.train.model, plan.fold)
    why = sidecar.why_stale()
    if process.is_main_process:
        sidecar.invalidate()
        _discard_other_state(folder, sidecar.fingerprint, run)
    process.wait_for_everyone()
    run.reporter.note(f"fold {plan.fold}: {why}; {len(data.hu)} subjects, {plan.steps} steps")
    clock, watch = Stopwatch(), Divergence()
    with run.reporter.track(f"train fold {plan.fold}", plan.steps) as advance:
        done = 0

        def on_step(step: int, loss: float) -> None:
            nonlocal done
            advance(step - done, f"loss {loss:.3f}")
            done = step
            if watch.begins(loss):
                run.reporter.note(
                    f"WARNING: at step {step} the loss is twice what it was: training diverges. "
                    "A smaller [train] learning_rate may help."
                )

        train_fold(
            data,
            plan,
            folder,
            precision=settings.train.precision,
            compiled=settings.train.compile,
            checkpoint_seconds=settings.train.checkpoint_seconds,
            deadline=deadline,
            on_step=on_step,
        )
    if process.is_main_process:
        sidecar.write(seconds=clock.seconds, device=device_name())
        shutil.rmtree(folder / "state", ignore_errors=True)
    return f"fold {plan.fold}: trained on {len(data.hu)} subjects in {clock.seconds:.0f} s"


def _model_sidecar(
    ws: Workspace,
    settings: Settings,
    plan: TrainingPlan,
    cohort: Cohort,
    use: np.ndarray,
    practice: Practice,
) -> Sidecar:
    from dgmvlc_cli.cohort import training_inputs
    from dgmvlc_cli.text.rewording import said_in

    name = settings.train.model
    inputs = {
        **asdict(plan),
        **training_inputs(ws, cohort, _used(cohort, use)),
        "practice": hashlib.sha256(practice.codes.tobytes()).hexdigest(),
        **({"phrases": said_in(cohort.schema)} if plan.rewordings else {}),
        "version": __version__,
    }
    path = ws.fold(name, plan.fold) / "train.json"
    return Sidecar(path=path, inputs=inputs, outputs=ws.weights(name, plan.fold))


def _discard_other_state(folder: Path, fingerprint: str, run: Run) -> None:
    """Keep a checkpoint only if it belongs to exactly this training; mark what comes next."""
    state, marker = folder / "state", folder / "state" / "fingerprint.json"
    if run.force or workspace.read_json(marker) != fingerprint:
        shutil.rmtree(state, ignore_errors=True)
    elif (state / "last.pt").exists():
        run.reporter.note("going on from the last checkpoint")
    workspace.write_json(marker, fingerprint)
