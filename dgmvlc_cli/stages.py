"""The stages, each of which reads like a paragraph of a methods section.

Read, skip what is current, compute, save: this is the only place that joins files to
algorithms.  Every stage takes a Workspace, Settings and Run, and returns a StageResult.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.progress import Reporter
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace, slug

if TYPE_CHECKING:
    from dgmvlc_cli.analysis.contrasts import Contrast
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.counterfactual import SubjectTask
    from dgmvlc_cli.generators.training import TrainingPlan, TrainingSet
    from dgmvlc_cli.imaging.discovery import Scan
    from dgmvlc_cli.text.encoders import Encoder
    from dgmvlc_cli.text.projection import Practice

SUBJECTS_PER_TASK = 8


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a stage is run, which never changes what it computes.

    force: compute again what is current.  dry_run: say what would be done, write nothing.
    workers: processes for work that splits by subject.
    """

    force: bool = False
    dry_run: bool = False
    workers: int = 1
    command: str = "python"
    reporter: Reporter = field(default_factory=Reporter)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage did.

    summary: lines for the user.  facts: JSON values for machines.  failed: subject -> reason.
    next_command: what to run next.
    """

    stage: str
    summary: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    next_command: str = ""

    @property
    def exit_code(self) -> int:
        return 3 if self.failed else 0


# preprocess ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ScanTask:
    """One scan to prepare, for one worker."""

    scan: Scan
    workspace: Workspace
    spacing_mm: float | None
    margin_mm: float
    mask: Path | None
    force: bool


def preprocess(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """Scans -> HU and masks on an isotropic LPS grid, cropped to the lungs, with QC pictures."""
    from dgmvlc_cli.imaging.discovery import survey

    found = survey(ws.root / settings.scans.path)
    tasks = [_scan_task(scan, ws, settings, run) for scan in found.scans]
    _refuse_same_folder(tasks)
    if run.dry_run:
        return _dry_run("preprocess", [f"{len(tasks)} scans -> {ws.root / 'images'}"])
    ws.describe_dataset()
    rows, failed = [], {}
    with run.reporter.track("preprocess", len(tasks)) as advance:
        for outcome in parallel.run(prepare_scan, tasks, run.workers):
            subject = outcome.item.scan.subject
            row = {"subject": subject, "source": str(outcome.item.scan.path)}
            if outcome.error is not None:
                failed[subject] = outcome.error.message
                run.reporter.note(f"{subject}: {outcome.error.message} {outcome.error.hint}")
            facts = outcome.result or {}
            rows.append(row | {"status": "failed" if outcome.error else "ok"} | facts)
            rows[-1]["reason"] = failed.get(subject, "")
            advance()
    table = pd.DataFrame(rows).sort_values("subject")
    workspace.write_table(ws.subjects_path, table)
    _write_passed_over(ws, found.passed_over)
    return _preprocess_result(ws, table, failed, len(found.passed_over))


def prepare_scan(task: ScanTask) -> dict[str, Any]:
    """Prepare one scan unless it is current; returns its row of subjects.tsv."""
    from dgmvlc_cli.imaging.prepare import prepare
    from dgmvlc_cli.imaging.qc import draw_qc
    from dgmvlc_cli.imaging.volume import write_labels, write_volume

    ws, subject = task.workspace, task.scan.subject
    sidecar = _scan_sidecar(task)
    if sidecar.is_current() and not task.force:
        return _scan_row(sidecar.previous() or {})
    clock = Stopwatch()
    prepared = prepare(
        task.scan, spacing_mm=task.spacing_mm, margin_mm=task.margin_mm, labels=task.mask
    )
    write_volume(ws.ct_path(subject), prepared.volume)
    write_labels(ws.mask_path(subject), prepared.labels, prepared.volume)
    draw_qc(prepared.volume, prepared.labels, ws.qc_path(subject))
    sidecar.write(seconds=clock.seconds, facts=prepared.facts, warnings=prepared.warnings)
    return _scan_row(sidecar.previous() or {})


def _scan_task(scan: Scan, ws: Workspace, settings: Settings, run: Run) -> ScanTask:
    masks = settings.scans.masks
    return ScanTask(
        scan=scan,
        workspace=ws,
        spacing_mm=settings.working_spacing_mm,
        margin_mm=settings.scans.margin_mm,
        mask=_mask_of(scan.subject, ws.root / masks) if masks else None,
        force=run.force,
    )


def _mask_of(subject: str, folder: Path) -> Path:
    """The subject's label map in a folder of masks."""
    found = sorted(folder.glob(f"{subject}.*")) or sorted(folder.glob(f"{subject}[_-]*"))
    if not found:
        raise DgmvlcError(
            f"No mask for subject {subject} in {folder}.",
            f"Add {subject}.nii.gz, or remove `masks` from [scans] to use the built-in segmenter.",
        )
    return found[0]


def _refuse_same_folder(tasks: list[ScanTask]) -> None:
    seen: dict[str, str] = {}
    for task in tasks:
        subject = task.scan.subject
        other = seen.setdefault(slug(subject), subject)
        if other != subject:
            raise DgmvlcError(
                f"Subjects {other!r} and {subject!r} would share the folder sub-{slug(subject)}.",
                "Rename one of them.",
            )


def _scan_sidecar(task: ScanTask) -> Sidecar:
    ws, subject = task.workspace, task.scan.subject
    inputs = {
        "source_sha256": workspace.sha256_files(list(task.scan.files)),
        "mask_sha256": workspace.sha256_file(task.mask) if task.mask else None,
        "spacing_mm": task.spacing_mm,
        "margin_mm": task.margin_mm,
    }
    outputs = (ws.ct_path(subject), ws.mask_path(subject), ws.qc_path(subject))
    return Sidecar(path=ws.sidecar_path(subject), inputs=inputs, outputs=outputs)


def _scan_row(record: dict[str, Any]) -> dict[str, Any]:
    facts = record.get("facts", {})
    return {
        "sha256": record.get("inputs", {}).get("source_sha256", ""),
        "warnings": "; ".join(record.get("warnings", [])),
        **{key: _cell(value) for key, value in facts.items()},
    }


def _cell(value: Any) -> Any:
    """A JSON value as one field of a TSV."""
    return "x".join(f"{v:g}" for v in value) if isinstance(value, list) else value


def _write_passed_over(ws: Workspace, passed_over: list[Any]) -> None:
    table = pd.DataFrame(
        [{"path": str(one.path), "reason": one.reason} for one in passed_over],
        columns=["path", "reason"],
    )
    workspace.write_table(ws.root / "passed_over.tsv", table)


def _preprocess_result(
    ws: Workspace, table: pd.DataFrame, failed: dict[str, str], passed_over: int
) -> StageResult:
    ok = table[table["status"] == "ok"]
    if ok.empty:
        first = next(iter(failed.items()), ("", ""))
        raise DgmvlcError(
            f"All {len(table)} scans failed, the first ({first[0]}): {first[1]}",
            f"The reason for each is in {ws.subjects_path}.",
        )
    warned = int((ok["warnings"] != "").sum())
    summary = [
        f"{len(ok)} of {len(table)} scans ready"
        + (f", {warned} with warnings" if warned else "")
        + (f"; {len(failed)} failed" if failed else "")
        + (f"; {passed_over} files passed over" if passed_over else ""),
        f"median lung volume {ok['lung_volume_ml'].median() / 1000:.2f} L, "
        f"median lung mean {ok['mean_lung_hu'].median():.0f} HU",
        f"one row per scan: {ws.subjects_path}; pictures: {ws.root / 'images'}/sub-*/sub-*_qc.png",
    ]
    facts = {"ok": len(ok), "failed": failed, "passed_over": passed_over}
    return StageResult(
        stage="preprocess",
        summary=summary,
        facts=facts,
        failed=failed,
        next_command="dgmvlc describe",
    )


# describe -----------------------------------------------------------------------------------


def describe(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """Table rows -> sentences, with missing values left out and placebo attributes added."""
    from dgmvlc_cli.cohort import studied_attribute
    from dgmvlc_cli.text.describe import prompts_table, summarise
    from dgmvlc_cli.text.placebos import add_placebos, make_placebos
    from dgmvlc_cli.text.table import clean, read_table

    schema = settings.require_schema()
    assert settings.table is not None
    table_path = ws.root / settings.table.path
    cleaned = clean(read_table(table_path), schema)
    used, unmatched = _match(ws, cleaned.rows)
    studied = studied_attribute(settings, schema)
    placebos, records = make_placebos(used[studied], settings.study.placebos, settings.seed)
    extended = add_placebos(schema, records, studied)
    prompts = prompts_table(pd.concat([used, placebos], axis=1), extended)
    if run.dry_run:
        return _dry_run("describe", [f"{len(prompts)} sentences -> {ws.prompts_path}"])
    clock = Stopwatch()
    workspace.write_table(ws.prompts_path, prompts)
    workspace.write_table(ws.placebos_path, placebos.rename_axis("subject").reset_index())
    workspace.write_table(ws.text / "exclusions.tsv", cleaned.exclusions)
    summary = summarise(cleaned, schema)
    record = {
        "schema": extended.model_dump(mode="json"),
        "studied": studied,
        "placebos": records,
        "summary": summary,
        "unmatched": unmatched,
    }
    workspace.write_json(ws.attributes_path, record)
    inputs = {"table_sha256": workspace.sha256_file(table_path), "seed": settings.seed}
    Sidecar(path=ws.text / "describe.json", inputs=inputs).write(seconds=clock.seconds)
    return _describe_result(ws, prompts, studied, record, len(cleaned.exclusions))


def _match(ws: Workspace, rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Rows of subjects that have a scan, and the ids without a partner on either side.

    Before `preprocess` has run every row is described.  Raises DgmvlcError if none matches.
    """
    from dgmvlc_cli.cohort import ready_subjects

    if not ws.subjects_path.exists():
        return rows, {}
    scans = ready_subjects(ws)
    matched = rows.loc[rows.index.isin(scans)]
    if matched.empty:
        raise DgmvlcError(
            f"No id of the table matches a scan: the table has {_few(rows.index)}, "
            f"the scans are {_few(scans)}.",
            "Set `id_column` under [schema] in dgmvlc.toml, or rename the scans.",
        )
    return matched, {
        "rows_without_scan": sorted(set(rows.index) - set(scans)),
        "scans_without_row": sorted(set(scans) - set(rows.index)),
    }


def _few(names: Any) -> str:
    names = list(map(str, names))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _describe_result(
    ws: Workspace, prompts: pd.DataFrame, studied: str, record: dict[str, Any], excluded: int
) -> StageResult:
    lines = [
        f"{len(prompts)} sentences, for example: {prompts['sentence'].iloc[0]}",
        f"studied attribute: {studied}; placebos: {', '.join(record['placebos']) or 'none'}",
        f"{excluded} entries left out, each with its reason in {ws.text / 'exclusions.tsv'}",
    ]
    for what, ids in record["unmatched"].items():
        if ids:
            lines.append(f"{len(ids)} {what.replace('_', ' ')}: {_few(ids)}")
    facts = {key: record[key] for key in ("studied", "summary", "unmatched", "placebos")}
    return StageResult(
        stage="describe",
        summary=lines,
        facts=facts | {"sentences": len(prompts)},
        next_command="dgmvlc train",
    )


# train --------------------------------------------------------------------------------------


def train(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """One generator per cross-fitting fold, never trained on the subjects that it predicts."""
    from dgmvlc_cli.cohort import assign_folds, load_cohort
    from dgmvlc_cli.text.encoders import load_encoder

    cohort = load_cohort(ws)
    name, folds = settings.train.model, settings.train.folds
    assigned = assign_folds(cohort.rows, cohort.studied, folds, settings.seed)
    if run.dry_run:
        lines = [f"fold {k}: train on {int((assigned != k).sum())} subjects" for k in range(folds)]
        return _dry_run("train", lines)
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
    from dgmvlc_cli.generators.training import train_fold

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
    sidecar.write(seconds=clock.seconds, command=run.command)
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


# counterfactual -----------------------------------------------------------------------------


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
    from dgmvlc_cli.cohort import load_cohort, placebo_contrasts
    from dgmvlc_cli.counterfactual import contrast_name

    cohort = load_cohort(ws)
    contrast = _contrast(settings, cohort, attribute, reference, target)
    contrasts = [contrast, *placebo_contrasts(contrast, cohort)]
    tasks = _subject_tasks(ws, settings, run, cohort, contrasts)
    if run.dry_run:
        total = sum(len(task.pairs) for task in tasks)
        return _dry_run("counterfactual", [f"{total} pairs in {len(contrasts)} contrasts"])
    clock = Stopwatch()
    rows = _generate_all(tasks, run)
    for one in contrasts:
        table = rows[rows["attribute"] == one.attribute].sort_values(["subject", "seed"])
        folder = ws.contrast(settings.train.model, contrast_name(one))
        workspace.write_table(folder / "pairs.tsv", table)
    pairs = int((rows["attribute"] == contrast.attribute).sum())
    summary = [
        f"{contrast.text}: {pairs} pairs of held-out subjects, "
        f"and {len(rows) - pairs} placebo pairs, in {clock.seconds:.0f} s",
        f"volumes: {ws.contrast(settings.train.model, contrast_name(contrast))}",
    ]
    if settings.counterfactual.guidance_scale != 1.0:
        summary.append("guidance other than 1 distorts effect sizes: for pictures only")
    facts = {"contrast": contrast.text, "pairs": pairs, "placebo_pairs": len(rows) - pairs}
    return StageResult(
        stage="counterfactual", summary=summary, facts=facts, next_command="dgmvlc analyze"
    )


def _contrast(
    settings: Settings,
    cohort: Cohort,
    attribute: str | None,
    reference: str | None,
    target: str | None,
) -> Contrast:
    """The contrast asked for, else the study's."""
    from dgmvlc_cli.cohort import choose_contrast

    study = settings.study
    if attribute is None or attribute == study.attribute:
        reference = study.reference if reference is None else reference
        target = study.target if target is None else target
    return choose_contrast(cohort.schema, attribute or cohort.studied, reference, target)


def _generate_all(tasks: list[SubjectTask], run: Run) -> pd.DataFrame:
    from dgmvlc_cli.counterfactual import generate_task

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
    from dgmvlc_cli.counterfactual import Sampling, SubjectTask

    name = settings.train.model
    folds = read_folds(ws, name)
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
        ws.require(folder / "train.json", f"trained model of fold {fold}", "dgmvlc train")
        model_sha256 = workspace.sha256_files(list(folder.glob("*.safetensors")))
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
) -> dict[str, list[Any]]:
    """Subject -> its pairs, with edited sentences and their embeddings."""
    from dgmvlc_cli.counterfactual import PairPlan, arm_sentences, contrast_name, subjects_of
    from dgmvlc_cli.text.encoders import load_encoder

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
    encoded = load_encoder(settings.study.text_encoder).encode(texts)
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


def _row(cohort: Cohort, subject: str) -> dict[str, Any]:
    return {str(name): value for name, value in cohort.rows.loc[subject].items()}


def _chunks(subjects: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(subjects), SUBJECTS_PER_TASK):
        yield subjects[start : start + SUBJECTS_PER_TASK]


def read_folds(ws: Workspace, model: str) -> pd.Series:
    """Subject -> the fold whose model never saw it."""
    path = ws.require(ws.model(model) / "folds.tsv", "trained model", "dgmvlc train")
    table = workspace.read_table(path, dtype={"subject": str, "fold": int})
    return table.set_index("subject")["fold"]


# analyze ------------------------------------------------------------------------------------


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
    from dgmvlc_cli.cohort import covariates, load_cohort, placebo_contrasts
    from dgmvlc_cli.counterfactual import contrast_name

    cohort = load_cohort(ws)
    contrast = _contrast(settings, cohort, attribute, reference, target)
    placebos = placebo_contrasts(contrast, cohort)
    name = settings.train.model
    pairs = {one: _read_pairs(ws, name, one, contrast) for one in [contrast, *placebos]}
    folder = ws.analysis(name, contrast_name(contrast))
    if run.dry_run:
        return _dry_run("analyze", [f"{len(pairs[contrast])} pairs -> {folder}"])
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


def _report(folder: Path, contents: Any, run: Run, clock: Stopwatch) -> StageResult:
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
    from dgmvlc_cli.counterfactual import contrast_name

    command = (
        f"dgmvlc counterfactual --attribute {asked.attribute} "
        f'--from "{asked.reference}" --to "{asked.target}"'
    )
    path = ws.contrast(model, contrast_name(contrast)) / "pairs.tsv"
    ws.require(path, f"pairs for {contrast.text}", command)
    return workspace.read_table(path, dtype={"subject": str})


def _measure(ws: Workspace, settings: Settings, run: Run, pairs: pd.DataFrame) -> pd.DataFrame:
    """measures.tsv of every held-out subject: the real scan and all its arms."""
    from dgmvlc_cli.measuring import COLUMNS, MeasureTask, arms_of, measure_task

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
    from dgmvlc_cli.measuring import COLUMNS, MeasureTask, measure_task

    subjects = ready_subjects(ws)
    path = ws.root / "analysis" / "measures.tsv"
    if run.dry_run:
        return _dry_run("analyze", [f"{len(subjects)} scans -> {path}"])
    tasks = [
        MeasureTask(workspace=ws, subject=one, fold=None, arms=(), grid=None, spacing_mm=0.0)
        for one in subjects
    ]
    rows: list[dict[str, Any]] = []
    with run.reporter.track("measure", len(tasks)) as advance:
        for outcome in parallel.run(measure_task, tasks, run.workers):
            rows += outcome.result or []
            advance()
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    workspace.write_table(path, table.sort_values("subject", kind="stable"))
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
) -> Any:
    """Everything that the report shows, gathered from the workspace."""
    from dgmvlc_cli.analysis.effects import balance
    from dgmvlc_cli.analysis.trust import summary_sentence
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


def _dry_run(stage: str, lines: list[str]) -> StageResult:
    return StageResult(stage=stage, summary=["would do:", *lines], facts={"dry_run": lines})
