"""Pairs that differ in one attribute, for held-out subjects."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.cohort import Question
from dgmvlc_cli.config import Settings
from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from dgmvlc_cli.analysis.contrasts import Contrast
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.pairs import PairPlan, Sampling, SubjectTask

SUBJECTS_PER_TASK = 8


def counterfactual(
    ws: Workspace,
    settings: Settings,
    run: Run,
    question: Question,
    *,
    subjects: Sequence[str] | None = None,
) -> StageResult:
    """Pairs that differ in one attribute, same mask and noise, for held-out subjects.

    question: what differs; an empty one asks for the study's own contrast.  subjects: only these;
    a current pairs.tsv of all, sampled alike, stays as it is.  The placebo contrasts are generated
    too: they are what the contrast must beat.
    """
    from dgmvlc_cli.cohort import (
        asked_contrasts,
        load_cohort,
        placebo_contrasts,
        require_scans,
    )
    from dgmvlc_cli.pairs import folder_name

    cohort = load_cohort(ws, settings)
    asked = asked_contrasts(settings, cohort, question)
    placebos = [one for contrast in asked for one in placebo_contrasts(contrast, cohort)]
    contrasts = list(dict.fromkeys([*asked, *placebos]))
    require_scans(ws, cohort.subjects)
    tasks = _subject_tasks(ws, settings, run, cohort, contrasts, subjects)
    tables, alike = _tables(ws, settings, run, cohort, contrasts, tasks[0].sampling, subjects)
    if run.dry_run:
        return _would_generate(tasks, contrasts)
    clock = Stopwatch()
    with workspace.only_writer(ws.root / "counterfactuals" / settings.train.model):
        for sidecar in tables.values():
            sidecar.invalidate()
        rows = _generate_all(tasks, run)
        for one, sidecar in tables.items():
            table = _rows_of(rows, one).sort_values(["subject", "seed"])
            workspace.write_table(sidecar.outputs[0], table)
            sidecar.write(seconds=clock.seconds, pairs=len(table))
    pairs = sum(len(_rows_of(rows, one)) for one in asked)
    folders = [ws.contrast(settings.train.model, folder_name(settings, one)) for one in asked]
    otherwise = _trained_otherwise(ws, settings)
    summary = [
        f"{'; '.join(one.text for one in asked)}: {counted(pairs, 'pair')} of held-out subjects, "
        f"and {len(rows) - pairs} placebo pairs, in {clock.seconds:.0f} s",
        f"volumes: {', '.join(map(str, folders))}",
        *_cautions(settings, cohort, asked, placebos, subjects),
        *_beside_those_of_all(alike),
        *_models_as_they_are(otherwise),
    ]
    facts = {
        "contrasts": [one.text for one in asked],
        "pairs": pairs,
        "placebo_pairs": len(rows) - pairs,
        "trained_otherwise": otherwise,
    }
    return StageResult(
        stage="counterfactual",
        summary=summary,
        facts=facts,
        next_command="" if subjects is not None else _next_command(settings, question, asked),
    )


def _would_generate(tasks: list[SubjectTask], contrasts: list[Contrast]) -> StageResult:
    from dgmvlc_cli.pairs import stale_pairs

    total = sum(len(task.pairs) for task in tasks)
    new = sum(len(stale_pairs(task)) for task in tasks)
    made = f"{counted(new, 'pair')} in {counted(len(contrasts), 'contrast')}"
    return dry_run("counterfactual", [made, f"{total - new} current, kept"])


def _tables(
    ws: Workspace,
    settings: Settings,
    run: Run,
    cohort: Cohort,
    contrasts: list[Contrast],
    sampling: Sampling,
    subjects: Sequence[str] | None,
) -> tuple[dict[Contrast, Sidecar], dict[Contrast, bool]]:
    """The sidecars of the pairs.tsv to be written, and which of those of all are sampled alike.

    Where a few subjects are asked for, a current table of all is kept if they are sampled alike.
    """
    from dgmvlc_cli.pairs import pairs_inputs, pairs_sidecar

    inputs = pairs_inputs(ws, settings, cohort)
    tables = {one: pairs_sidecar(ws, settings, one, inputs, subjects) for one in contrasts}
    if subjects is None:
        return tables, {}
    whole = {one: pairs_sidecar(ws, settings, one, inputs) for one in contrasts}
    alike = {
        one: _is_alike(sidecar.outputs[0], sampling, one, run)
        for one, sidecar in whole.items()
        if sidecar.is_current()
    }
    return {one: table for one, table in tables.items() if not alike.get(one)}, alike


def _is_alike(path: Path, sampling: Sampling, contrast: Contrast, run: Run) -> bool:
    """Whether pairs of a few are sampled as those of all in a pairs.tsv, which then stays.

    Raises UsageError where they are not, unless they are forced upon it.
    """
    from dgmvlc_cli.pairs import unlike

    changed = unlike(workspace.read_table(path), sampling)
    if changed and not run.force:
        raise UsageError(
            f"The pairs of all subjects for {contrast.text} are here, made with {changed}.",
            "Ask for these few in the same way; with --force they replace the pairs of all.",
        )
    return not changed


def _beside_those_of_all(alike: dict[Contrast, bool]) -> list[str]:
    """What became of the pairs of all, where a few were asked for.  alike: contrast -> kept."""
    said = []
    for kept, words in ((True, "are kept"), (False, "are replaced by these few")):
        if names := [one.text for one, same in alike.items() if same is kept]:
            said.append(f"the pairs of all subjects {words}: {'; '.join(names)}")
    return said


def _trained_otherwise(ws: Workspace, settings: Settings) -> list[str]:
    """What dgmvlc.toml says of the training by now and the models were not made with."""
    from dgmvlc_cli.cohort import read_folds
    from dgmvlc_cli.stages.train import trained_otherwise

    said = [f"{name} {values}" for name, values in trained_otherwise(ws, settings).items()]
    folds = read_folds(ws, settings.train.model).nunique()
    if folds != settings.train.folds:
        said.append(f"folds {folds}, not {settings.train.folds}")
    return said


def _models_as_they_are(otherwise: list[str]) -> list[str]:
    if not otherwise:
        return []
    return [
        f"the models are as they were trained ({'; '.join(otherwise)}): for the settings of now, "
        "run `dgmvlc train` first"
    ]


def _cautions(
    settings: Settings,
    cohort: Cohort,
    asked: list[Contrast],
    placebos: list[Contrast],
    subjects: Sequence[str] | None,
) -> list[str]:
    """What a reader of these pairs must know."""
    from dgmvlc_cli.text.edits import beyond

    values = [pair for one in asked for pair in one.settings]
    far = (beyond(name, value, cohort.rows) for name, value in dict.fromkeys(values))
    lines = [f"WARNING: {reason}" for reason in far if reason]
    if settings.counterfactual.source == "scan":
        lines.append(
            "from the scan: analyze with `--source scan`; these arms hold the scan itself, so the "
            "debiased effect is estimated without them"
        )
    if not placebos:
        lines.append(
            f"no placebos: they are shuffled copies of {cohort.studied}; to study "
            f"{asked[-1].attribute}, set it under [study] and run describe and train again"
        )
    if settings.counterfactual.guidance_scale != 1.0:
        lines.append("guidance other than 1 distorts effect sizes: for pictures only")
    if subjects is not None:
        lines.append("chosen subjects only: for pictures, too few for an effect")
    return lines


def _next_command(settings: Settings, question: Question, asked: list[Contrast]) -> str:
    """To analyse these pairs: the question as options, its contrast spelt out."""
    if not (question.edits or question.values):
        (one,) = asked
        question = Question(attribute=one.attribute, reference=one.reference, target=one.target)
    from_scan = " --source scan" if settings.counterfactual.source == "scan" else ""
    return f"dgmvlc analyze {question.options}{from_scan}"


def _rows_of(rows: pd.DataFrame, contrast: Contrast) -> pd.DataFrame:
    """The pairs of one contrast."""
    same = rows["attribute"] == contrast.attribute
    for side, level in (("reference", contrast.reference), ("target", contrast.target)):
        same &= rows[side] == level
    return rows[same]


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
    ws: Workspace,
    settings: Settings,
    run: Run,
    cohort: Cohort,
    contrasts: list[Contrast],
    subjects: Sequence[str] | None,
) -> list[SubjectTask]:
    """All pairs of all contrasts, cut by fold and a few subjects at a time."""
    from dgmvlc_cli.cohort import read_folds, require_current_model
    from dgmvlc_cli.pairs import Sampling, SubjectTask

    name = settings.train.model
    folds = read_folds(ws, name)
    folds = folds[folds.index.isin(cohort.subjects)]
    if subjects is not None:
        folds = folds.loc[_known(subjects, list(folds.index))]
    plans = _pair_plans(ws, settings, run, cohort, contrasts, set(folds.index))
    chosen = settings.counterfactual
    sampling = Sampling(
        seed=settings.seed,
        seeds=chosen.seeds,
        steps=chosen.steps,
        guidance_scale=chosen.guidance_scale,
        batch_size=chosen.batch_size,
        sampler=settings.sampler,
        differences=chosen.differences,
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
    run: Run,
    cohort: Cohort,
    contrasts: list[Contrast],
    known: set[str],
) -> dict[str, list[PairPlan]]:
    """Subject -> its pairs, with edited sentences and their embeddings."""
    from dgmvlc_cli.cohort import require_encoder
    from dgmvlc_cli.pairs import PairPlan, folder_name, possible_arms, subjects_of
    from dgmvlc_cli.text.encoders import encode_cached, load_encoder

    wanted = []
    for contrast in contrasts:
        series = [one for one in contrasts if one.attribute == contrast.attribute]
        for subject in subjects_of(contrast, cohort, series):
            if subject in known and (pair := possible_arms(cohort, subject, contrast)):
                wanted.append((subject, contrast, pair))
    if not wanted:
        raise DgmvlcError(
            f"No held-out subject informs {contrasts[0].text}.",
            "Choose levels that occur in text/prompts.tsv, and --subjects that have one of them.",
        )
    for contrast in contrasts:
        pairs = [pair for _, asked, pair in wanted if asked == contrast]
        if pairs and all(reference == target for reference, target in pairs):
            raise UsageError(
                f"Both arms of {contrast.text} would say the same.",
                "Choose values further apart, or more `decimals` for the attribute under [schema].",
            )
    from_scan = settings.counterfactual.source == "scan"
    own = cohort.sentences
    said = {text for _, _, pair in wanted for text in pair}
    texts = sorted(said | {own[subject] for subject, *_ in wanted if from_scan})
    encoded = np.zeros((len(texts), 0))  # enough for a dry run, which saves no embeddings
    if not run.dry_run:
        encoder = load_encoder(settings.study.text_encoder)
        require_encoder(ws, settings, encoder)
        encoded = encode_cached(encoder, texts, ws.text / "embeddings.npz")
    embedding = dict(zip(texts, encoded, strict=True))
    plans: dict[str, list[PairPlan]] = {}
    for subject, contrast, sentences in wanted:
        plan = PairPlan(
            subject=subject,
            contrast=contrast,
            folder=ws.contrast(settings.train.model, folder_name(settings, contrast)),
            sentences=sentences,
            embeddings=np.stack([embedding[text] for text in sentences]),
            factual=(own[subject], embedding[own[subject]]) if from_scan else None,
        )
        plans.setdefault(subject, []).append(plan)
    return plans


def _known(subjects: Sequence[str], held_out: list[str]) -> list[str]:
    """The subjects asked for, checked."""
    for one in subjects:
        if one not in held_out:
            near = difflib.get_close_matches(one, held_out, n=1)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"No held-out subject is called {one!r}.", f"{guess}The ids are in subjects.tsv."
            )
    return list(dict.fromkeys(subjects))


def _chunks(subjects: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(subjects), SUBJECTS_PER_TASK):
        yield subjects[start : start + SUBJECTS_PER_TASK]
