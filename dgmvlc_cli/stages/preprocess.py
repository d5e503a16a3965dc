"""Scans to HU and masks on one grid."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace, slug

if TYPE_CHECKING:
    from dgmvlc_cli.imaging.discovery import Scan


OUTPUT_FOLDERS = ("images", "models", "counterfactuals", "analysis")


@dataclass(frozen=True, kw_only=True)
class ScanTask:
    """One scan to prepare, for one worker."""

    scan: Scan
    workspace: Workspace
    spacing_mm: float | None
    margin_mm: float
    masks: Path | None
    force: bool


def preprocess(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """Scans -> HU and masks on an isotropic LPS grid, cropped to the lungs, with QC pictures."""
    from dgmvlc_cli.imaging.discovery import survey

    made = [ws.root / name for name in OUTPUT_FOLDERS]
    found = survey(ws.root / settings.scans.path, exclude=made)
    tasks = [_scan_task(scan, ws, settings, run) for scan in found.scans]
    _refuse_same_folder(tasks)
    if run.dry_run:
        return dry_run("preprocess", [f"{len(tasks)} scans -> {ws.root / 'images'}"])
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
    following = "dgmvlc describe" if settings.table else "dgmvlc analyze"
    return _preprocess_result(ws, table, failed, len(found.passed_over), following)


def prepare_scan(task: ScanTask) -> dict[str, Any]:
    """Prepare one scan unless it is current; returns its row of subjects.tsv."""
    from dgmvlc_cli.imaging.prepare import prepare
    from dgmvlc_cli.imaging.qc import draw_qc
    from dgmvlc_cli.imaging.volume import write_labels, write_volume

    ws, subject = task.workspace, task.scan.subject
    mask = _mask_of(subject, task.masks) if task.masks else None
    sidecar = _scan_sidecar(task, mask)
    if sidecar.is_current() and not task.force:
        return _scan_row(sidecar.previous() or {})
    clock = Stopwatch()
    prepared = prepare(task.scan, spacing_mm=task.spacing_mm, margin_mm=task.margin_mm, labels=mask)
    sidecar.invalidate()
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
        masks=ws.root / masks if masks else None,
        force=run.force,
    )


def _mask_of(subject: str, folder: Path) -> Path:
    """The subject's label map in a folder of masks: `A.nii.gz`, else `A_mask.nii.gz`."""
    from dgmvlc_cli.imaging.volume import is_image_name, stem

    images = [path for path in sorted(folder.glob("*")) if is_image_name(path.name)]
    found = [path for path in images if stem(path.name) == subject]
    found += [path for path in images if re.match(re.escape(subject) + "[_-]", stem(path.name))]
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


def _scan_sidecar(task: ScanTask, mask: Path | None) -> Sidecar:
    ws, subject = task.workspace, task.scan.subject
    inputs = {
        "source_sha256": workspace.sha256_files(list(task.scan.files)),
        "mask_sha256": workspace.sha256_file(mask) if mask else None,
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
    ws: Workspace,
    table: pd.DataFrame,
    failed: dict[str, str],
    passed_over: int,
    following: str,
) -> StageResult:
    ok = table[table["status"] == "ok"]
    if ok.empty:
        first = next(iter(failed.items()), ("", ""))
        raise DgmvlcError(
            f"No scan of {len(table)} could be prepared; the first ({first[0]}): {first[1]}",
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
        next_command=following,
    )
