"""Pairs that differ in one attribute, for held-out subjects."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Stopwatch, Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.analysis.contrasts import Contrast
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.pairs import PairPlan, SubjectTask
    from dgmvlc_cli.text.encoders import Encoder

SUBJECTS_PER_TASK = 8


def counterfactual(
    ws: Workspace,
    settings: Settings,
    run: Run,
    *,
    attribute: str | None = None,
    reference: str | None = None,
    target: str | None = None,
) -> StageResult:
    """Pairs that differ in one attribute, same mask and noise, for held-out subjects.

    The placebo contrasts are generated too: they are what this contrast must beat.
    """
    from dgmvlc_cli.cohort import load_cohort, placebo_contrasts, study_contrast
    from dgmvlc_cli.pairs import contrast_name, pairs_sidecar

    cohort = load_cohort(ws, settings)
    contrast = study_contrast(settings, cohort, attribute, reference, target)
    contrasts = [contrast, *placebo_contrasts(contrast, cohort)]
    tasks = _subject_tasks(ws, settings, run, cohort, contrasts)
    if run.dry_run:
        total = sum(len(task.pairs) for task in tasks)
        return dry_run("counterfactual", [f"{total} pairs in {len(contrasts)} contrasts"])
    clock = Stopwatch()
    sidecars = {one: pairs_sidecar(ws, settings, cohort, one) for one in contrasts}
    for sidecar in sidecars.values():
        sidecar.invalidate()
    rows = _generate_all(tasks, run)
    for one, sidecar in sidecars.items():
        table = rows[rows["attribute"] == one.attribute].sort_values(["subject", "seed"])
        workspace.write_table(sidecar.outputs[0], table)
        sidecar.write(seconds=clock.seconds, pairs=len(table))
    pairs = int((rows["attribute"] == contrast.attribute).sum())
    summary = [
        f"{contrast.text}: {pairs} pairs of held-out subjects, "
        f"and {len(rows) - pairs} placebo pairs, in {clock.seconds:.0f} s",
        f"volumes: {ws.contrast(settings.train.model, contrast_name(contrast))}",
    ]
    if len(contrasts) == 1:
        summary.append(
            f"no placebos: they are shuffled copies of {cohort.studied}; to study "
            f"{contrast.attribute}, set it under [study] and run describe and train again"
        )
    if settings.counterfactual.guidance_scale != 1.0:
        summary.append("guidance other than 1 distorts effect sizes: for pictures only")
    facts = {"contrast": contrast.text, "pairs": pairs, "placebo_pairs": len(rows) - pairs}
    return StageResult(
        stage="counterfactual", summary=summary, facts=facts, next_command=_next(contrast)
    )


def _next(contrast: Contrast) -> str:
    levels = " ".join(
        f"--{side} {shlex.quote(f'{level:g}' if isinstance(level, float) else str(level))}"
        for side, level in (("from", contrast.reference), ("to", contrast.target))
    )
    return f"dgmvlc analyze --attribute {contrast.attribute} {levels}"


def _generate_all(tasks: list[SubjectTask], run: Run) -> pd.DataFrame:
    from dgmvlc_cli.pairs import generate_task

    rows: list[dict[str, Any]] = []
    with run.reporter.track("counterfactual", sum(len(task.pairs) for task in tasks)) as advance:
        for outcome in parallel.run(generate_task, tasks, run.workers):
            if outcome.error is not None:
                raise outcome.error
            rows += outcome.result or []
            advance(len(outcome.item.pairs))
    return pd.DataFrame(rows)


def _subject_tasks(
    ws: Workspace, settings: Settings, run: Run, cohort: Cohort, contrasts: list[Contrast]
) -> list[SubjectTask]:
    """All pairs of all contrasts, cut by fold and a few subjects at a time."""
    from dgmvlc_cli.cohort import read_folds, require_current_model
    from dgmvlc_cli.pairs import Sampling, SubjectTask

    name = settings.train.model
    folds = read_folds(ws, name)
    folds = folds[folds.index.isin(cohort.subjects)]
    plans = _pair_plans(ws, settings, cohort, contrasts, set(folds.index))
    chosen = settings.counterfactual
    sampling = Sampling(
        seed=settings.seed,
        seeds=chosen.seeds,
        steps=chosen.steps,
        guidance_scale=chosen.guidance_scale,
        batch_size=chosen.batch_size,
    )
    tasks = []
    for fold in sorted(folds.unique()):
        folder = ws.fold(name, int(fold))
        require_current_model(ws, name, int(fold), cohort)
        model_sha256 = workspace.sha256_files(list(ws.weights(name, int(fold))))
        for subjects in _chunks([one for one in folds.index if folds[one] == fold]):
            pairs = tuple(plan for one in subjects for plan in plans.get(one, []))
            tasks.append(
                SubjectTask(
                    fold=int(fold),
                    model_folder=folder,
                    model_sha256=model_sha256,
                    workspace=ws,
                    pairs=pairs,
                    sampling=sampling,
                    force=run.force,
                )
            )
    return [task for task in tasks if task.pairs]


def _pair_plans(
    ws: Workspace,
    settings: Settings,
    cohort: Cohort,
    contrasts: list[Contrast],
    known: set[str],
) -> dict[str, list[PairPlan]]:
    """Subject -> its pairs, with edited sentences and their embeddings."""
    from dgmvlc_cli.pairs import PairPlan, arm_sentences, contrast_name, subjects_of
    from dgmvlc_cli.text.encoders import encode_cached, load_encoder

    wanted = [
        (
            subject,
            contrast,
            arm_sentences(_row(cohort, subject), contrast, cohort.schema, cohort.rows),
        )
        for contrast in contrasts
        for subject in subjects_of(contrast, cohort.rows)
        if subject in known
    ]
    if not wanted:
        raise DgmvlcError(
            f"No held-out subject informs {contrasts[0].text}.",
            "Choose levels that occur in text/prompts.tsv.",
        )
    texts = sorted({text for _, _, pair in wanted for text in pair})
    encoder = load_encoder(settings.study.text_encoder)
    _require_encoder(ws, settings, encoder)
    encoded = encode_cached(encoder, texts, ws.text / "embeddings.npz")
    embedding = dict(zip(texts, encoded, strict=True))
    plans: dict[str, list[PairPlan]] = {}
    for subject, contrast, sentences in wanted:
        plan = PairPlan(
            subject=subject,
            contrast=contrast,
            folder=ws.contrast(settings.train.model, contrast_name(contrast)),
            sentences=sentences,
            embeddings=np.stack([embedding[text] for text in sentences]),
        )
        plans.setdefault(subject, []).append(plan)
    return plans


def _require_encoder(ws: Workspace, settings: Settings, encoder: Encoder) -> None:
    """Another encoder's embeddings would mean nothing to the model."""
    path = ws.fold(settings.train.model, 0) / "conditioning.json"
    trained_with = (workspace.read_json(path) or {}).get("encoder_sha256")
    if trained_with != encoder.sha256:
        raise DgmvlcError(
            f"The model was trained with another text encoder than {encoder.name}.",
            "Set `text_encoder` under [study] back, or run `dgmvlc train` again.",
        )


def _row(cohort: Cohort, subject: str) -> dict[str, Any]:
    return {str(name): value for name, value in cohort.rows.loc[subject].items()}


def _chunks(subjects: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(subjects), SUBJECTS_PER_TASK):
        yield subjects[start : start + SUBJECTS_PER_TASK]
