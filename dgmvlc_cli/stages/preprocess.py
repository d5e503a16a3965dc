"""Scans to HU and masks on one grid."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.cohort import key_path, subjects_with_lobes
from dgmvlc_cli.config import Settings
from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace, slug

if TYPE_CHECKING:
    from pathlib import Path

    from dgmvlc_cli.imaging.identity import Identity, SubjectRule
    from dgmvlc_cli.imaging.masks import MaskFiles
    from dgmvlc_cli.imaging.prepare import Handling
    from dgmvlc_cli.imaging.scans import Scan, Survey


MOST_WARNINGS = 5  # said on the screen


@dataclass(frozen=True, kw_only=True)
class ScanTask:
    """One scan to prepare, for one worker.

    subject: its name in the workspace.  longer_ids: ids of other subjects that begin with its id.
    """

    scan: Scan
    subject: str
    source: str
    workspace: Workspace
    handling: Handling
    masks: Path | None
    force: bool
    longer_ids: tuple[str, ...] = ()


def preprocess(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """Scans -> HU and masks on an isotropic LPS grid, cropped to the lungs, with QC pictures."""
    found, identity = find_scans(ws, settings)
    ids = sorted({one.subject for one in found.all} - {""})
    tasks = [_scan_task(scan, ids, identity, ws, settings, run) for scan in found.scans]
    _refuse_same_folder(tasks)
    _refuse_what_none_can_have(ws, settings, run, tasks)
    if run.dry_run:
        current = sum(_is_current(task) for task in tasks)
        made = f"{counted(len(tasks) - current, 'scan')} -> {ws.root / 'images'}"
        return dry_run("preprocess", [made, f"{current} current, kept"])
    ws.describe_dataset()
    _write_survey(ws, settings, found, identity, warnings={})
    rows, failed = [], {}
    with workspace.only_writer(ws.root / "images"):
        with run.reporter.track("preprocess", len(tasks)) as advance:
            for outcome in parallel.run(prepare_scan, tasks, run.workers, run.cluster):
                task = outcome.item
                row = {"subject": task.subject, "source": task.source}
                if outcome.error is not None:
                    failed[task.subject] = _told(outcome.error.message, task, identity)
                    hint = _told(outcome.error.hint, task, identity)
                    reason = failed[task.subject].rstrip(".")
                    run.reporter.note(f"{task.subject}: {reason}. {hint}")
                rows.append(row | {"status": "failed" if outcome.error else "ok"})
                rows[-1] |= outcome.result or {}
                rows[-1]["reason"] = failed.get(task.subject, "")
                advance()
        table = pd.DataFrame(rows).sort_values("subject")
        workspace.write_table(ws.subjects_path, table)
        wrong = table["reason"].where(table["status"] == "failed", table.get("warnings", ""))
        warnings = dict(zip(table["subject"], wrong, strict=True))
        _write_survey(ws, settings, found, identity, warnings)
    return _preprocess_result(ws, settings, table, failed, found, identity)


def find_scans(ws: Workspace, settings: Settings) -> tuple[Survey, Identity]:
    """The chosen scans and all other series, and the names that the workspace gives them."""
    from dgmvlc_cli.imaging.choosing import choose
    from dgmvlc_cli.imaging.discovery import collect
    from dgmvlc_cli.imaging.identity import load_identity

    collected = collect(ws.root / settings.scans.path, _subject_rule(ws, settings))
    identity = load_identity(
        key_path(ws, settings),
        settings.scans.pseudonyms,
        from_dicom=any(scan.kind == "dicom" for scan in collected.scans),
    )
    return choose(collected, settings.scans.choose, identity), identity


def _is_current(task: ScanTask) -> bool:
    """Whether a scan's outputs are there and of the inputs of now; False where a mask is amiss."""
    try:
        return _scan_sidecar(task, _masks_of(task)).is_current() and not task.force
    except DgmvlcError:
        return False


def _masks_of(task: ScanTask) -> MaskFiles | None:
    from dgmvlc_cli.imaging.masks import find_masks

    if not task.masks:
        return None
    return find_masks(task.scan.subject, task.masks, task.subject, task.longer_ids)


def prepare_scan(task: ScanTask) -> dict[str, Any]:
    """Prepare one scan unless it is current; returns its row of subjects.tsv."""
    from dgmvlc_cli.imaging.files import write_labels, write_volume
    from dgmvlc_cli.imaging.prepare import prepare
    from dgmvlc_cli.imaging.qc import draw_qc

    ws, subject = task.workspace, task.subject
    masks = _masks_of(task)
    sidecar = _scan_sidecar(task, masks)
    if sidecar.is_current() and not task.force:
        return _scan_row(sidecar.previous() or {})
    clock = Stopwatch()
    prepared = prepare(task.scan, task.handling, masks)
    # The table goes before the first scan that it tells of, and comes back with the last: a run
    # that is killed between leaves scans of two grids, which no later stage may take for one.
    ws.subjects_path.unlink(missing_ok=True)
    sidecar.invalidate()
    write_volume(ws.ct_path(subject), prepared.volume)
    write_labels(ws.mask_path(subject), prepared.labels, prepared.volume)
    ws.lobes_path(subject).unlink(missing_ok=True)
    if prepared.lobes is not None:
        write_labels(ws.lobes_path(subject), prepared.lobes, prepared.volume)
    warnings = prepared.warnings
    if not task.source:
        warnings = [_scrubbed(warning, task) for warning in warnings]
    draw_qc(prepared.volume, prepared.labels, ws.qc_path(subject), warnings, prepared.lobes)
    sidecar.write(
        seconds=clock.seconds,
        facts=prepared.facts,
        warnings=warnings,
        scan_grid=asdict(prepared.grid),
    )
    return _scan_row(sidecar.previous() or {})


def _subject_rule(ws: Workspace, settings: Settings) -> SubjectRule:
    from dgmvlc_cli.imaging.identity import SubjectRule

    scans = settings.scans
    rows = _scan_column(ws, settings) if scans.subject_from == "column" else {}
    return SubjectRule(source=scans.subject_from, pattern=scans.subject_pattern or "", rows=rows)


def _scan_column(ws: Workspace, settings: Settings) -> dict[str, str]:
    """What the table's rows say about their scans -> the ids of the rows."""
    from dgmvlc_cli.cohort import clinical_table
    from dgmvlc_cli.text.cleaning import check_column, table_ids

    id_column, column = settings.require_schema().id_column, settings.scans.subject_column
    table = clinical_table(ws, settings)
    if not column or column not in table:
        raise UsageError(
            f"subject_column {column!r} is not a column of the table.",
            f"Name one of these under [scans]: {', '.join(table.columns)}.",
        )
    check_column(id_column, table)
    named = table[column] != ""
    ids = table_ids(table, id_column)
    rows: dict[str, str] = {}
    for cell, subject in zip(table.loc[named, column], ids[named], strict=True):
        other = rows.setdefault(cell, subject)
        if other != subject:
            raise UsageError(
                f"subject_column {column!r} names {cell!r} for two ids: {other!r} and {subject!r}.",
                "Name each scan in the rows of one id.",
            )
    return rows


def _scan_task(
    scan: Scan, ids: list[str], identity: Identity, ws: Workspace, settings: Settings, run: Run
) -> ScanTask:
    """ids: of all subjects, sorted."""
    from dgmvlc_cli.imaging.masks import longer_ids

    scans = settings.scans
    return ScanTask(
        scan=scan,
        subject=identity.subject(scan.subject),
        source="" if identity.pseudonymous else str(scan.path),
        workspace=ws,
        handling=_handling(settings),
        masks=ws.root / scans.masks if scans.masks else None,
        force=run.force,
        longer_ids=longer_ids(scan.subject, ids) if scans.masks else (),
    )


def _handling(settings: Settings) -> Handling:
    from dgmvlc_cli.imaging.prepare import Handling

    scans = settings.scans
    return Handling(
        spacing_mm=settings.working_spacing_mm,
        margin_mm=scans.margin_mm,
        segmenter=scans.segmenter,
        mask_labels=scans.mask_labels
        if isinstance(scans.mask_labels, str)
        else {str(name): values for name, values in scans.mask_labels.items()},
        max_missing_slices=scans.max_missing_slices,
        allow_lossy=scans.allow_lossy,
        allow_not_hu=scans.allow_not_hu,
    )


def _refuse_what_none_can_have(
    ws: Workspace, settings: Settings, run: Run, tasks: list[ScanTask]
) -> None:
    """What would fail for every scan is refused before anything is written."""
    from dgmvlc_cli.imaging.masks import require_masks
    from dgmvlc_cli.imaging.segmenters import require_segmenter

    if settings.scans.masks:
        require_masks(ws.root / settings.scans.masks, [task.scan.subject for task in tasks])
    elif run.cluster is None:  # whose workers may have what this machine has not
        try:
            require_segmenter(settings.scans.segmenter)
        except DgmvlcError:
            if not all(map(_is_current, tasks)):  # what is current needs none
                raise


def _refuse_same_folder(tasks: list[ScanTask]) -> None:
    seen: dict[str, str] = {}
    for task in tasks:
        other = seen.setdefault(slug(task.subject), task.subject)
        if other != task.subject:
            raise DgmvlcError(
                f"Subjects {other!r} and {task.subject!r} would share the folder "
                f"sub-{slug(task.subject)}.",
                "Rename one of them.",
            )


def _told(message: str, task: ScanTask, identity: Identity) -> str:
    return _scrubbed(message, task) if identity.pseudonymous else message


def _scrubbed(message: str, task: ScanTask) -> str:
    """A message that names no path and no id."""
    from dgmvlc_cli.imaging.identity import scrub

    files, masks = [*task.scan.files, *task.scan.unreadable], []
    if task.masks:
        masks = [path for path in task.masks.rglob("*") if task.scan.subject in str(path)]
        message = message.replace(str(task.masks), "the mask") if not masks else message
    return scrub(message, task.scan.subject, task.subject, files, masks)


def _scan_sidecar(task: ScanTask, masks: MaskFiles | None) -> Sidecar:
    ws, subject = task.workspace, task.subject
    inputs = {
        "source_sha256": workspace.sha256_files(list(task.scan.files)),
        "mask_sha256": workspace.sha256_files(list(masks.files)) if masks else None,
        **asdict(task.handling),
    }
    path = ws.sidecar_path(subject)
    outputs = [ws.ct_path(subject), ws.mask_path(subject), ws.qc_path(subject)]
    if "lobes" in (workspace.read_json(path) or {}).get("facts", {}):
        outputs.append(ws.lobes_path(subject))
    return Sidecar(path=path, inputs=inputs, outputs=tuple(outputs))


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


def _write_survey(
    ws: Workspace,
    settings: Settings,
    found: Survey,
    identity: Identity,
    warnings: dict[str, str],
) -> None:
    """series.tsv, and the key where the names in it are pseudonyms.

    warnings: what is known by now to be wrong with a subject's scan.
    """
    from dgmvlc_cli.imaging.choosing import series_paths, series_rows
    from dgmvlc_cli.imaging.identity import save_key

    if identity.pseudonymous:  # first, so that no name is ever used that has no key
        ids = {one.subject for one in found.all} - {""}
        save_key(key_path(ws, settings), identity, ids, series_paths(found, identity))
    workspace.write_table(ws.series_path, pd.DataFrame(series_rows(found, identity, warnings)))


def _preprocess_result(
    ws: Workspace,
    settings: Settings,
    table: pd.DataFrame,
    failed: dict[str, str],
    found: Survey,
    identity: Identity,
) -> StageResult:
    ok = table[table["status"] == "ok"]
    if ok.empty:
        first = next(iter(failed.items()), ("", ""))
        raise DgmvlcError(
            f"No scan of {len(table)} could be prepared; the first ({first[0]}): {first[1]}",
            f"The reason for each is in {ws.subjects_path}.",
        )
    warned, others = int((ok["warnings"] != "").sum()), len(found.passed_over)
    summary = [
        f"{len(ok)} of {len(table)} scans ready"
        + (f", {warned} with warnings" if warned else "")
        + (f"; {len(failed)} failed" if failed else "")
        + (
            f"; {others} other series and files, each with its reason in {ws.series_path}"
            if others
            else ""
        ),
        f"median lung volume {ok['lung_volume_ml'].median() / 1000:.2f} L, "
        f"median lung mean {ok['mean_lung_hu'].median():.0f} HU",
        *_lobe_lines(ok),
        *_warning_lines(ok),
        f"one row per scan: {ws.subjects_path}; pictures: {ws.root / 'images'}/sub-*/sub-*_qc.png",
        *_mixed_kernels(ok),
        *_stray_folders(ws, table, identity),
    ]
    if identity.pseudonymous:
        summary.append(
            f"names are pseudonyms; who is behind them: {key_path(ws, settings)} (keep it apart)"
        )
    facts = {"ok": len(ok), "failed": failed, "passed_over": others}
    return StageResult(
        stage="preprocess",
        summary=summary,
        facts=facts,
        failed=failed,
        next_command="dgmvlc describe" if settings.table else "dgmvlc analyze",
    )


def _lobe_lines(ok: pd.DataFrame) -> list[str]:
    """How many scans have lobes; nothing where none has."""
    told = len(subjects_with_lobes(ok))
    if not told:
        return []
    if told == len(ok):
        return ["lobes of all scans, which become regions of their own"]
    return [f"lobes of {told} of {len(ok)} scans; the others have no value in these regions"]


def _warning_lines(ok: pd.DataFrame) -> list[str]:
    """The first warnings; all are in subjects.tsv."""
    warned = ok[ok["warnings"] != ""]
    rows = zip(warned["subject"], warned["warnings"], strict=True)
    return [f"  {subject}: {told}" for subject, told in islice(rows, MOST_WARNINGS)]


def _mixed_kernels(ok: pd.DataFrame) -> list[str]:
    """A warning where density is not comparable, because scans were reconstructed differently."""
    from dgmvlc_cli.imaging.vocabulary import sharpness

    found = Counter(sharpness(str(kernel)) for kernel in ok.get("kernel", ()) if kernel)
    if not (found["sharp"] and found["smooth"]):
        return []
    return [
        f"WARNING: {counted(found['smooth'], 'scan')} of smooth and {found['sharp']} of sharp "
        "kernels; their densities are not comparable (column kernel)"
    ]


def _stray_folders(ws: Workspace, table: pd.DataFrame, identity: Identity) -> list[str]:
    """A warning of images that belong to no subject any more, or to one by its real name."""
    known = {ws.subject_folder(one).name for one in table["subject"]}
    found = sorted(path.name for path in (ws.root / "images").glob("sub-*") if path.is_dir())
    stray = [name for name in found if name not in known]
    if not stray:
        return []
    listed = ", ".join(stray[:MOST_WARNINGS]) + (", ..." if len(stray) > MOST_WARNINGS else "")
    why = " before you share the workspace: they may name patients" if identity.pseudonymous else ""
    return [
        f"WARNING: {counted(len(stray), 'folder')} in {ws.root / 'images'} of no subject in "
        f"subjects.tsv: {listed}; delete what is not needed{why}"
    ]
