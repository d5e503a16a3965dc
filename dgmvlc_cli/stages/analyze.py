"""Measures, effects and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.analysis.contrasts import Contrast
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.measuring import MeasureTask
    from dgmvlc_cli.report.contents import ReportContents


def analyze(
    ws: Workspace,
    settings: Settings,
    run: Run,
    *,
    attribute: str | None = None,
    reference: str | None = None,
    target: str | None = None,
) -> StageResult:
    """Measures of real scans and arms -> the four numbers per measure and region -> report.

    In a workspace without a clinical table only the real scans are measured.
    """
    if settings.table is None:
        return _measure_only(ws, settings, run)
    from dgmvlc_cli.analysis.effects import estimate_effects
    from dgmvlc_cli.analysis.trust import compare_truth, verdicts
    from dgmvlc_cli.cohort import covariates, load_cohort, placebo_contrasts, study_contrast
    from dgmvlc_cli.pairs import contrast_name

    cohort = load_cohort(ws)
    contrast = study_contrast(settings, cohort, attribute, reference, target)
    placebos = placebo_contrasts(contrast, cohort)
    name = settings.train.model
    pairs = {one: _read_pairs(ws, name, one, contrast) for one in [contrast, *placebos]}
    folder = ws.analysis(name, contrast_name(contrast))
    if run.dry_run:
        return dry_run("analyze", [f"{len(pairs[contrast])} pairs -> {folder}"])
    clock = Stopwatch()
    measures = _measure(ws, settings, run, pd.concat(pairs.values()))
    adjusted = covariates(settings, cohort.schema, contrast)
    effects = estimate_effects(measures, cohort.rows, contrast, placebos, adjusted, settings.seed)
    judged = verdicts(effects)
    truth = _truth(ws, settings)
    compared = None
    if truth is not None:
        compared = compare_truth(effects, truth, set(pairs[contrast]["subject"]))
        workspace.write_table(folder / "truth.tsv", compared)
    workspace.write_table(folder / "measures.tsv", measures)
    workspace.write_table(folder / "effects.tsv", effects)
    workspace.write_table(folder / "verdicts.tsv", judged)
    contents = _contents(
        ws,
        settings,
        run,
        cohort,
        contrast,
        pairs[contrast],
        measures,
        effects,
        judged,
        compared,
        adjusted,
        clock.seconds,
    )
    return _report(folder, contents, run, clock)


def _report(folder: Path, contents: ReportContents, run: Run, clock: Stopwatch) -> StageResult:
    """Write the report and say where it lies."""
    from dgmvlc_cli.report.html import write_report

    run.reporter.note("writing the report")
    page = write_report(folder, contents)
    facts = {
        "contrast": contents.contrast,
        "report": str(page),
        "effects": str(folder / "effects.tsv"),
        "verdict": list(contents.verdict),
    }
    Sidecar(path=folder / "analysis.json", inputs={"contrast": contents.contrast}).write(
        seconds=clock.seconds, command=run.command
    )
    return StageResult(
        stage="analyze",
        summary=[*contents.verdict, f"report: {page}"],
        facts=facts,
        next_command=f"open {page}",
    )


def _read_pairs(ws: Workspace, model: str, contrast: Contrast, asked: Contrast) -> pd.DataFrame:
    from dgmvlc_cli.pairs import contrast_name

    command = (
        f"dgmvlc counterfactual --attribute {asked.attribute} "
        f'--from "{asked.reference}" --to "{asked.target}"'
    )
    path = ws.contrast(model, contrast_name(contrast)) / "pairs.tsv"
    ws.require(path, f"pairs for {contrast.text}", command)
    return workspace.read_table(path, dtype={"subject": str})


def _measure(ws: Workspace, settings: Settings, run: Run, pairs: pd.DataFrame) -> pd.DataFrame:
    """measures.tsv of every held-out subject: the real scan and all its arms."""
    from dgmvlc_cli.cohort import read_folds
    from dgmvlc_cli.measuring import MeasureTask, arms_of

    folds = read_folds(ws, settings.train.model)
    arms = arms_of(pairs, ws.root)
    preset = settings.preset
    tasks = [
        MeasureTask(
            workspace=ws,
            subject=subject,
            fold=int(fold),
            arms=tuple(arms.get(subject, ())),
            grid=preset.grid,
            spacing_mm=preset.spacing_mm,
        )
        for subject, fold in zip(map(str, folds.index), folds, strict=True)
    ]
    return _measure_all(tasks, run)


def _measure_all(tasks: list[MeasureTask], run: Run) -> pd.DataFrame:
    """The rows of every task, in an order that does not depend on workers."""
    from dgmvlc_cli.measuring import COLUMNS, measure_task

    rows: list[dict[str, Any]] = []
    with run.reporter.track("measure", len(tasks)) as advance:
        for outcome in parallel.run(measure_task, tasks, run.workers):
            if outcome.error is not None:
                raise outcome.error
            rows += outcome.result or []
            advance()
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values(["subject", "arm", "seed"], kind="stable", ignore_index=True)


def _measure_only(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """Measures of the preprocessed scans alone."""
    from dgmvlc_cli.cohort import ready_subjects
    from dgmvlc_cli.measuring import MeasureTask

    subjects = ready_subjects(ws)
    path = ws.root / "analysis" / "measures.tsv"
    if run.dry_run:
        return dry_run("analyze", [f"{len(subjects)} scans -> {path}"])
    tasks = [
        MeasureTask(workspace=ws, subject=one, fold=None, arms=(), grid=None, spacing_mm=0.0)
        for one in subjects
    ]
    workspace.write_table(path, _measure_all(tasks, run))
    summary = [f"{len(subjects)} scans measured (there is no clinical table to learn from): {path}"]
    return StageResult(stage="analyze", summary=summary, facts={"measures": str(path)})


def _truth(ws: Workspace, settings: Settings) -> pd.DataFrame | None:
    """The phantom's exact counterfactual truth, where the settings name it."""
    if settings.analyze.truth is None:
        return None
    path = ws.root / settings.analyze.truth
    ws.require(path, "truth table", "dgmvlc phantom")
    return workspace.read_table(path, dtype={"subject": str})


def _contents(
    ws: Workspace,
    settings: Settings,
    run: Run,
    cohort: Cohort,
    contrast: Contrast,
    pairs: pd.DataFrame,
    measures: pd.DataFrame,
    effects: pd.DataFrame,
    judged: pd.DataFrame,
    truth: pd.DataFrame | None,
    adjusted: list[str],
    seconds: float,
) -> ReportContents:
    """Everything that the report shows, gathered from the workspace."""
    from dgmvlc_cli.analysis.effects import balance
    from dgmvlc_cli.analysis.trust import summary_sentence
    from dgmvlc_cli.cohort import read_folds
    from dgmvlc_cli.report import assemble
    from dgmvlc_cli.report.contents import ReportContents

    name = settings.train.model
    subjects = workspace.read_table(ws.subjects_path, dtype=str)
    loaded = assemble.load_pairs(ws, settings, pairs)
    folds = read_folds(ws, name)
    record = workspace.read_json(ws.attributes_path)
    return ReportContents(
        title=f"{contrast.text} in {ws.root.resolve().name}",
        contrast=contrast.text,
        attribute=contrast.attribute,
        verdict=[summary_sentence(judged, effects)],
        verdicts=judged,
        effects=effects,
        measures=measures,
        balance=balance(cohort.rows, contrast, adjusted, settings.seed),
        cohort=assemble.cohort_rows(record),
        counts=assemble.counts(subjects, cohort, int(pairs["subject"].nunique())),
        exclusions=workspace.read_table(ws.text / "exclusions.tsv", dtype=str),
        failures=assemble.failures(subjects),
        qc=[(one, ws.qc_path(one)) for one in cohort.subjects],
        training=assemble.training_logs(ws, name, settings.train.folds),
        fit=assemble.fit_table(loaded, folds, cohort.rows[contrast.attribute], contrast),
        pairs=loaded,
        truth=truth,
        placebo_words=cohort.words,
        methods=assemble.methods_facts(ws, settings, cohort, subjects, pairs, adjusted),
        provenance={
            "versions": workspace.versions(),
            "command": run.command,
            "seed": settings.seed,
            "model_sha256": dict(
                pairs.groupby("fold")["model_sha256"].first().rename(index=lambda k: f"fold {k}")
            ),
            "seconds": round(seconds, 1),
            "settings": settings.model_dump(mode="json", by_alias=True, exclude={"table_schema"}),
        },
        guidance_scale=float(pairs["guidance_scale"].iloc[0]),
    )
