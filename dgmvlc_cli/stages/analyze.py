"""Measures, effects and the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dgmvlc_cli import __version__, parallel, workspace
from dgmvlc_cli.cohort import Question
from dgmvlc_cli.config import Settings
from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.analysis.contrasts import Contrast
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.mapping import Maps
    from dgmvlc_cli.measuring import Look, MeasureTask
    from dgmvlc_cli.phantom import PhantomSettings
    from dgmvlc_cli.report.contents import ReportContents


def analyze(
    ws: Workspace,
    settings: Settings,
    run: Run,
    question: Question,
    *,
    pdf: bool = False,
) -> StageResult:
    """Measures of real scans and arms -> the four numbers per measure and region -> report.

    question: as it was put to `counterfactual`.  Of several levels or numbers the report shows the
    first against the last, and the tables of all levels or of the dose-response lie beside it.
    pdf: print the report too.  In a workspace without a clinical table only the real scans are
    measured.
    """
    if settings.table is None:
        return _measure_only(ws, settings, run)
    from dgmvlc_cli.cohort import (
        asked_contrasts,
        covariates,
        load_cohort,
        placebo_contrasts,
        require_scans,
    )
    from dgmvlc_cli.pairs import analysis_name
    from dgmvlc_cli.report.html import write_report

    cohort = load_cohort(ws, settings)
    series = asked_contrasts(settings, cohort, question)
    *others, contrast = series
    placebos = placebo_contrasts(contrast, cohort)
    name = settings.train.model
    pairs = read_pairs(ws, settings, cohort, [contrast, *placebos, *others], question)
    folder = ws.analysis(name, analysis_name(settings, series))
    adjusted = covariates(settings, cohort, contrast)
    sidecar = _sidecar(ws, settings, folder, list(pairs), adjusted)
    if run.dry_run:
        kept = "current, kept: " if sidecar.is_current() and not run.force else ""
        return dry_run("analyze", [f"{kept}{len(pairs[contrast])} pairs -> {folder}"])
    if sidecar.is_current() and not run.force:
        return _result(folder, (sidecar.previous() or {})["verdict"], kept=True, pdf=pdf)
    require_scans(ws, cohort.subjects)
    run.reporter.note(f"analysis: {sidecar.why_stale()}")
    clock = Stopwatch()
    found = _findings(ws, settings, run, cohort, series, placebos, pairs, adjusted)
    with workspace.only_writer(folder):
        # Only now: what fails or is stopped before leaves the earlier report whole.
        sidecar.invalidate()
        (folder / "report.pdf").unlink(missing_ok=True)  # printed when asked for
        _write_tables(folder, found)
        run.reporter.note("writing the report")
        contents = _contents(ws, settings, cohort, found, clock.seconds)
        write_report(folder, contents)
        files = _sometimes_made(folder)
        replace(sidecar, outputs=_outputs(folder, files)).write(
            seconds=clock.seconds, verdict=list(contents.verdict), files=files
        )
    return _result(folder, list(contents.verdict), pdf=pdf)


def _findings(
    ws: Workspace,
    settings: Settings,
    run: Run,
    cohort: Cohort,
    series: list[Contrast],
    placebos: list[Contrast],
    pairs: dict[Contrast, pd.DataFrame],
    adjusted: list[str],
) -> Findings:
    """Measure everything once and estimate all that the report shows.

    series: the contrasts asked for, the studied one last.  adjusted: names of covariates.
    """
    from dgmvlc_cli.analysis.balance import scanned_alike
    from dgmvlc_cli.analysis.contrasts import informing, usable
    from dgmvlc_cli.analysis.effects import estimate_effects
    from dgmvlc_cli.analysis.paired import distance_rows, statistics_table
    from dgmvlc_cli.analysis.several import tables_of_several
    from dgmvlc_cli.analysis.verdicts import verdicts
    from dgmvlc_cli.measuring import distances_table, measures_table

    # The other levels of a series are measured; what is drawn and mapped is the main contrast.
    contrast = series[-1]
    shown = [contrast, *placebos]
    looks = look_at_arms(ws, settings, run, cohort, pairs, shown)
    measures, distances = measures_table(looks), distances_table(looks)
    # Arms made from a scan hold its outcome: they cannot help to predict it.
    helped = settings.counterfactual.source == "mask"
    effects = estimate_effects(
        measures, cohort.design, contrast, placebos, adjusted, settings.seed, helped=helped
    )
    several = tables_of_several(measures, cohort.design, series, adjusted, settings.seed, helped)
    subjects = informing(cohort.rows, contrast)
    return Findings(
        contrast=contrast,
        subjects=subjects,
        pairs=pairs[contrast][pairs[contrast]["subject"].isin(subjects)],
        measures=measures,
        effects=effects,
        verdicts=verdicts(effects),
        truth=_against_truth(ws, settings, effects, subjects),
        covariates=usable(cohort.design.loc[subjects], adjusted),
        acquisition=scanned_alike(cohort.scans, cohort.rows, contrast),
        evaluation=_evaluation(ws, settings, contrast),
        several=several,
        statistics=pd.concat(
            [
                statistics_table(measures, cohort.design, contrast, adjusted, settings.seed),
                distance_rows(distances, shown, settings.seed),
            ],
            ignore_index=True,
        ),
        distances=distances,
        looks=looks,
        maps=_maps(ws, settings, run, cohort, shown, adjusted, looks),
    )


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the analysis of one contrast found, before it is written and shown.

    subjects: those that inform the contrast.  pairs: theirs.  measures: of all arms that were made.
    covariates: those adjusted for, and those that could not be, see `contrasts.usable`.
    """

    contrast: Contrast
    subjects: list[str]
    pairs: pd.DataFrame
    measures: pd.DataFrame
    effects: pd.DataFrame
    verdicts: pd.DataFrame
    truth: pd.DataFrame | None
    covariates: tuple[tuple[str, ...], tuple[str, ...]]
    acquisition: pd.DataFrame
    evaluation: pd.DataFrame | None
    several: dict[str, pd.DataFrame]
    statistics: pd.DataFrame
    distances: pd.DataFrame
    looks: list[Look]
    maps: Maps


def _sidecar(
    ws: Workspace,
    settings: Settings,
    folder: Path,
    contrasts: list[Contrast],
    adjusted: list[str],
) -> Sidecar:
    """What the analysis depends on, and how it is done."""
    evaluated = evaluation_sidecar(ws, settings, contrasts[0])
    inputs = {
        **read_inputs(ws, settings, contrasts),
        "covariates": adjusted,
        "evaluation": workspace.sha256_files(list(evaluated.outputs))
        if evaluated.is_current()
        else None,
    }
    path = folder / "analysis.json"
    files = (workspace.read_json(path) or {}).get("files", [])
    return Sidecar(path=path, inputs=inputs, outputs=_outputs(folder, files))


ALWAYS_MADE = (
    "measures.tsv", "effects.tsv", "verdicts.tsv", "placebos.tsv", "acquisition.tsv",
    "statistics.tsv", "distances.tsv", "maps.tsv", "results.tsv", "methods.md", "report.json",
    "report.html",
)  # fmt: skip


def _sometimes_made(folder: Path) -> list[str]:
    """What an analysis made besides, which depends on what it found; relative to its folder."""
    from dgmvlc_cli.analysis.several import SEVERAL

    names = [name for name in (*SEVERAL, "truth.tsv") if (folder / name).exists()]
    below = [path for part in ("figures", "maps", "tables") for path in folder.glob(f"{part}/*")]
    made = [path.relative_to(folder).as_posix() for path in below if path.name[0] != "."]
    return [*names, *sorted(made)]


def _outputs(folder: Path, files: Iterable[str]) -> tuple[Path, ...]:
    return tuple(folder / name for name in (*ALWAYS_MADE, *files))


def read_inputs(ws: Workspace, settings: Settings, contrasts: list[Contrast]) -> dict[str, Any]:
    """Fingerprints of what is read of the pairs of some contrasts: also scans, rows and truth."""
    from dgmvlc_cli.pairs import folder_name

    name, truth = settings.train.model, settings.analyze.truth
    tables = [ws.contrast(name, folder_name(settings, one)) / "pairs.tsv" for one in contrasts]
    return {
        "pairs": workspace.sha256_files(tables),
        "scans": workspace.sha256_file(ws.subjects_path),
        "sentences": workspace.sha256_file(ws.prompts_path),
        "truth": workspace.sha256_file(_truth_path(ws, truth)) if truth else None,
        "seed": settings.seed,
        "version": __version__,
    }


def evaluation_sidecar(ws: Workspace, settings: Settings, contrast: Contrast) -> Sidecar:
    """Of the table in which `evaluate` says whether the pairs of a contrast are sound."""
    from dgmvlc_cli.pairs import folder_name

    path = ws.analysis(settings.train.model, folder_name(settings, contrast)) / "evaluation.tsv"
    inputs = {**read_inputs(ws, settings, [contrast]), "encoder": settings.study.text_encoder}
    return Sidecar(path=path.with_suffix(".json"), inputs=inputs, outputs=(path,))


def _evaluation(ws: Workspace, settings: Settings, contrast: Contrast) -> pd.DataFrame | None:
    """What `evaluate` found of these very pairs; None where it was not asked."""
    sidecar = evaluation_sidecar(ws, settings, contrast)
    return workspace.read_table(sidecar.outputs[0]) if sidecar.is_current() else None


def _write_tables(folder: Path, found: Findings) -> None:
    """The tables of the analysis, and results.tsv, which holds every result in one long table."""
    from dgmvlc_cli.analysis.placebos import placebo_calibration
    from dgmvlc_cli.analysis.several import SEVERAL
    from dgmvlc_cli.mapping import summary_table, write_maps
    from dgmvlc_cli.report.tables import results_table

    workspace.write_table(folder / "measures.tsv", found.measures)
    workspace.write_table(folder / "effects.tsv", found.effects)
    workspace.write_table(folder / "verdicts.tsv", found.verdicts)
    workspace.write_table(folder / "placebos.tsv", placebo_calibration(found.effects))
    workspace.write_table(folder / "acquisition.tsv", found.acquisition)
    for name in (*SEVERAL, "truth.tsv"):  # of an earlier run with other values or settings
        (folder / name).unlink(missing_ok=True)
    for name, table in found.several.items():
        workspace.write_table(folder / name, table)
    workspace.write_table(folder / "statistics.tsv", found.statistics)
    workspace.write_table(folder / "distances.tsv", found.distances)
    if found.truth is not None:
        workspace.write_table(folder / "truth.tsv", found.truth)
    maps = summary_table(found.maps, found.contrast.text)
    workspace.write_table(folder / "maps.tsv", maps)
    results = results_table(found.effects, found.statistics, maps)
    workspace.write_table(folder / "results.tsv", results)
    write_maps(folder / "maps", found.maps)


def _result(
    folder: Path, verdict: list[str], *, kept: bool = False, pdf: bool = False
) -> StageResult:
    from dgmvlc_cli.report.pdf import print_pdf

    page = folder / "report.html"
    summary = [*verdict, f"report{' (current, kept)' if kept else ''}: {page}"]
    facts: dict[str, Any] = {
        "report": str(page),
        "effects": str(folder / "effects.tsv"),
        "verdict": verdict,
    }
    if pdf:
        facts["pdf"] = str(print_pdf(page))
        summary.append(f"on paper: {facts['pdf']}")
    return StageResult(
        stage="analyze",
        summary=summary,
        facts=facts,
        next_command=f"open {page}",
    )


def read_pairs(
    ws: Workspace,
    settings: Settings,
    cohort: Cohort,
    contrasts: list[Contrast],
    question: Question,
) -> dict[Contrast, pd.DataFrame]:
    """pairs.tsv of contrasts, if the volumes come from the models, scans and sentences of now."""
    from dgmvlc_cli.pairs import pairs_inputs

    inputs = pairs_inputs(ws, settings, cohort)
    return {one: _read_pairs(ws, settings, one, inputs, question) for one in contrasts}


def _read_pairs(
    ws: Workspace,
    settings: Settings,
    contrast: Contrast,
    inputs: dict[str, str],
    question: Question,
) -> pd.DataFrame:
    from dgmvlc_cli.pairs import pairs_sidecar

    command = f"dgmvlc counterfactual {question.options}".rstrip()
    if settings.counterfactual.source == "scan":
        command += " --source scan"
    sidecar = pairs_sidecar(ws, settings, contrast, inputs)
    only = (sidecar.previous() or {}).get("inputs", {}).get("only")
    sidecar = pairs_sidecar(ws, settings, contrast, inputs, only)
    path = ws.require(sidecar.outputs[0], f"pairs for {contrast.text}", command)
    if not sidecar.is_current():
        raise DgmvlcError(
            f"The pairs for {contrast.text} are not current ({sidecar.why_stale()}).",
            f"Run `{command}` again.",
        )
    return workspace.read_table(path, dtype={"subject": str})


def look_at_arms(
    ws: Workspace,
    settings: Settings,
    run: Run,
    cohort: Cohort,
    pairs: dict[Contrast, pd.DataFrame],
    shown: list[Contrast],
) -> list[Look]:
    """Every held-out subject's real scan and all its arms, measured and mapped in one reading.

    pairs: of every contrast whose arms are measured.  shown: those whose differences are mapped,
    each in the subjects that inform it; the first is the studied one.
    """
    from dgmvlc_cli.analysis.contrasts import informing
    from dgmvlc_cli.cohort import model_grid, read_folds
    from dgmvlc_cli.measuring import MeasureTask, arms_of
    from dgmvlc_cli.report.viewer import MAX_SUBJECTS

    folds = read_folds(ws, settings.train.model)
    arms = arms_of(pairs, ws.root)
    grid, spacing_mm = model_grid(ws, settings.train.model)
    studied, informed = shown[0], {one: set(informing(cohort.rows, one)) for one in shown}
    said = pairs[studied].drop_duplicates("subject").set_index("subject")
    sentences = said.loc[
        said.index.isin(informed[studied]), ["reference_sentence", "target_sentence"]
    ]
    pictured = set(sorted(sentences.index)[:MAX_SUBJECTS])
    tasks = [
        MeasureTask(
            workspace=ws,
            subject=subject,
            fold=int(folds[subject]),
            arms=tuple(arms.get(subject, ())),
            grid=grid,
            spacing_mm=spacing_mm,
            contrasts=tuple(one for one in shown if subject in informed[one]),
            studied=studied if subject in sentences.index else None,
            sentences=tuple(sentences.loc[subject]) if subject in sentences.index else ("", ""),
            keep_images=subject in pictured,
        )
        for subject in cohort.subjects
        if subject in folds.index
    ]
    return look_at_all(tasks, run)


def look_at_all(tasks: list[MeasureTask], run: Run) -> list[Look]:
    """The look at every task, by subject, whatever the workers did first."""
    from dgmvlc_cli.measuring import look_at

    looks: list[Look] = []
    with run.reporter.track("measure", len(tasks)) as advance:
        for outcome in parallel.run(look_at, tasks, run.workers):
            if outcome.error is not None:
                raise outcome.error
            if outcome.result is not None:
                looks.append(outcome.result)
            advance()
    return sorted(looks, key=lambda look: look.subject)


def _maps(
    ws: Workspace,
    settings: Settings,
    run: Run,
    cohort: Cohort,
    contrasts: list[Contrast],
    adjusted: list[str],
    looks: list[Look],
) -> Maps:
    """Group maps with inference, and the phantom's true one where the settings name the truth."""
    from dgmvlc_cli.mapping import group_maps, true_map

    run.reporter.note("maps: where in the lung")
    maps = group_maps(looks, cohort.design, contrasts, adjusted, settings.seed)
    phantom = _phantom(ws, settings) if settings.analyze.truth else None
    if phantom is None:
        return maps
    subjects = [one.subject for one in looks if contrasts[0].text in one.difference_maps]
    known = true_map(phantom, contrasts[0], subjects, run.workers)
    return maps if known is None else replace(maps, truth=known[0], truth_n=known[1])


def _phantom(ws: Workspace, settings: Settings) -> PhantomSettings | None:
    """The settings of the synthetic cohort that the scans are; None where they are not one."""
    from dgmvlc_cli.phantom import PhantomSettings
    from dgmvlc_cli.report.assemble import phantom_record

    record = phantom_record(ws, settings)
    return PhantomSettings(**record["settings"]) if record else None


def _measure_only(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """Measures of the preprocessed scans alone."""
    from dgmvlc_cli.cohort import ready_subjects
    from dgmvlc_cli.measuring import MeasureTask, measures_table

    subjects = ready_subjects(ws)
    path = ws.root / "analysis" / "measures.tsv"
    if run.dry_run:
        return dry_run("analyze", [f"{counted(len(subjects), 'scan')} -> {path}"])
    tasks = [
        MeasureTask(workspace=ws, subject=one, fold=None, arms=(), grid=None, spacing_mm=0.0)
        for one in subjects
    ]
    workspace.write_table(path, measures_table(look_at_all(tasks, run)))
    measured = counted(len(subjects), "scan")
    summary = [f"{measured} measured (there is no clinical table to learn from): {path}"]
    return StageResult(stage="analyze", summary=summary, facts={"measures": str(path)})


def _truth_path(ws: Workspace, truth: Path) -> Path:
    return ws.require(ws.root / truth, "truth table", "dgmvlc phantom")


def _against_truth(
    ws: Workspace, settings: Settings, effects: pd.DataFrame, subjects: list[str]
) -> pd.DataFrame | None:
    """Estimates beside the phantom's exact counterfactual truth, where the settings name it."""
    from dgmvlc_cli.analysis.truth import compare_truth

    if settings.analyze.truth is None:
        return None
    truth = workspace.read_table(_truth_path(ws, settings.analyze.truth), dtype={"subject": str})
    return compare_truth(effects, truth, subjects)


def _planted_sentence(ws: Workspace, found: Findings) -> list[str]:
    """Whether a planted control was recovered, in one sentence; none in another workspace."""
    from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
    from dgmvlc_cli.analysis.truth import recovery_sentence

    planted = (workspace.read_json(ws.plant_path) or {}).get("inputs")
    if planted is None or found.truth is None:
        return []
    truth = found.truth
    here = (truth["measure"] == PRIMARY_MEASURE) & (truth["region"] == planted["region"])
    said = [recovery_sentence(row) for row in truth[here].to_dict("records")]
    return [f"Planted control, mean HU in {planted['region']}: {one}." for one in said]


def _contents(
    ws: Workspace, settings: Settings, cohort: Cohort, found: Findings, seconds: float
) -> ReportContents:
    """Everything that the report shows, gathered from the workspace."""
    from dgmvlc_cli.analysis.balance import balance, unlike_words
    from dgmvlc_cli.analysis.contrasts import LUNG_VOLUME, usable
    from dgmvlc_cli.analysis.levels import overlap_words
    from dgmvlc_cli.analysis.readings import Readings
    from dgmvlc_cli.analysis.verdicts import summary_sentence
    from dgmvlc_cli.report import assemble
    from dgmvlc_cli.report.contents import ReportContents

    name, contrast, pairs = settings.train.model, found.contrast, found.pairs
    subjects = workspace.read_table(ws.subjects_path, dtype=str)
    # The arms of a joint edit are nobody's own.
    levels = cohort.rows.get(contrast.attribute, pd.Series(dtype=object))
    fit = assemble.fit_table(found.measures, levels, contrast)
    volume = Readings.of(found.measures).scans().get(LUNG_VOLUME)
    adjusted, left_out = found.covariates
    compared = cohort.design.loc[found.subjects]
    _, unusable = usable(compared, found.acquisition["characteristic"])
    return ReportContents(
        title=f"{contrast.text} in {ws.root.resolve().name}",
        contrast=contrast.text,
        attribute=contrast.attribute,
        verdict=[
            summary_sentence(found.verdicts, found.effects),
            *_planted_sentence(ws, found),
            *unlike_words(found.acquisition, adjusted, unusable),
            *overlap_words(found.several.get("overlap.tsv", pd.DataFrame({"overlap": []}))),
            *assemble.calibration_sentence(fit),
            *(
                assemble.obedience_sentence(ws, name)
                if contrast.attribute == cohort.studied
                else []
            ),
        ],
        verdicts=found.verdicts,
        effects=found.effects,
        measures=found.measures[found.measures["subject"].isin(found.subjects)],
        acquisition=found.acquisition,
        evaluation=found.evaluation,
        balance=balance(cohort.design, contrast, adjusted, settings.seed, volume),
        cohort=assemble.cohort_rows(workspace.read_json(ws.attributes_path)),
        counts=assemble.counts(subjects, cohort, int(pairs["subject"].nunique())),
        exclusions=workspace.read_table(ws.text / "exclusions.tsv", dtype=str),
        failures=assemble.failures(subjects),
        qc=[(one, ws.qc_path(one)) for one in cohort.subjects],
        scans=assemble.scan_rows(subjects, cohort.subjects),
        training=assemble.training_logs(ws, name),
        fit=fit,
        pairs=[look.pair for look in found.looks if look.pair is not None],
        summaries=[look.summary for look in found.looks if look.summary is not None],
        maps=found.maps,
        statistics=found.statistics,
        truth=found.truth,
        placebo_words=cohort.words,
        methods=assemble.methods_facts(
            ws, settings, cohort, subjects, pairs, contrast, adjusted, left_out, found.maps
        ),
        provenance=assemble.provenance(
            ws, settings, cohort, pairs, seconds, assemble.lobe_facts(subjects, cohort)
        ),
        guidance_scale=float(pairs["guidance_scale"].iloc[0]),
    )
