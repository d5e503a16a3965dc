"""Results back on the voxels of the scans they belong to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgmvlc_cli import workspace
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace, slug

if TYPE_CHECKING:
    from dgmvlc_cli.imaging.restoring import ResultKind

SUFFIX = "_space-scan"
SUBJECT = r"sub-([A-Za-z0-9.-]+)"


def restore(
    ws: Workspace,
    run: Run,
    files: list[Path],
    *,
    subject: str | None = None,
    kind: ResultKind | None = None,
    out: Path | None = None,
    dicom: bool = False,
) -> StageResult:
    """Counterfactuals, difference maps, masks -> the voxels of the subject's scan as it came.

    subject: whose the files are; by default what the path says (`sub-X`).  kind: what they are.
    A scan whose tilt or gaps were corrected has no grid of its own; there it is the corrected one.
    dicom: write HU and differences as DICOM Parametric Maps besides (masks stay NIfTI alone).
    """
    from dgmvlc_cli.imaging.parametric import require_highdicom

    if dicom:
        require_highdicom()
    made = []
    jobs = [_job(ws, path, subject, out) for path in dict.fromkeys(files)]
    _refuse_one_place_for_two(jobs)
    if run.dry_run:
        return dry_run("restore", [f"{path} -> {target}" for path, target, _ in jobs])
    with run.reporter.track("restore", len(jobs)) as advance:
        for path, target, record in jobs:
            made.append(_restore_one(path, target, record, kind, run.force, dicom))
            advance()
    kept = sum(not new for new in made)
    summary = [
        f"{len(made) - kept} of {len(made)} files brought to the grid of their scans"
        + (f"; {kept} current, kept" if kept else ""),
        *(str(target) for _, target, _ in jobs),
    ]
    return StageResult(
        stage="restore", summary=summary, facts={"files": [str(target) for _, target, _ in jobs]}
    )


def _refuse_one_place_for_two(jobs: list[tuple[Path, Path, dict[str, Any]]]) -> None:
    """Volumes of different models and contrasts share their names."""
    sources: dict[Path, Path] = {}
    for path, target, _ in jobs:
        if target in sources:
            raise UsageError(
                f"{sources[target]} and {path} would both be written to {target}.",
                "Leave --out away, so that results lie as their sources do, or restore one by one.",
            )
        sources[target] = path


def _job(
    ws: Workspace, path: Path, subject: str | None, out: Path | None
) -> tuple[Path, Path, dict[str, Any]]:
    """A file, where its restored version goes, the sidecar of its scan, with subject and scan."""
    from dgmvlc_cli.imaging.names import stem

    if not path.is_file():
        raise UsageError(f"{path}: no such file", "Give files that this workspace made.")
    within, root = path.resolve().parent, ws.root.resolve()
    if within.is_relative_to(root):
        within = within.relative_to(root)
    found = re.search(SUBJECT, path.name) or next(
        filter(None, (re.search(SUBJECT, part) for part in within.parts[::-1])), None
    )
    name = slug(subject) if subject else (found[1] if found else "")
    place = ws.root / "images" / f"sub-{name}"
    record = workspace.read_json(place / f"sub-{name}.json")
    if not name or not record or "scan_grid" not in record:
        raise DgmvlcError(
            f"{path}: no preprocessed scan of subject {name or '(unknown)'} in {ws.root}.",
            "Name its --subject, or run `dgmvlc preprocess` again.",
        )
    scan = place / f"sub-{name}_ct.nii.gz"
    ws.require(scan, f"preprocessed scan of {name}", "dgmvlc preprocess")
    inside = Path(f"sub-{name}") if within.is_absolute() else within
    folder = out or ws.root / "restored" / inside
    record |= {"subject": name, "scan": scan}
    return path, folder / f"{stem(path.name)}{SUFFIX}.nii.gz", record


def _restore_one(
    path: Path,
    target: Path,
    record: dict[str, Any],
    kind: ResultKind | None,
    force: bool,
    dicom: bool,
) -> bool:
    """Restore a file unless that is done already; returns whether it was done now."""
    from dgmvlc_cli.imaging.files import image_header, write_on_grid
    from dgmvlc_cli.imaging.parametric import write_parametric_map
    from dgmvlc_cli.imaging.restoring import (
        grid_from_record,
        kind_of_result,
        read_result,
        restore_image,
    )
    from dgmvlc_cli.imaging.volume import grid_of_image

    image = read_result(path, grid_of_image(image_header(record["scan"])))
    kind = kind or kind_of_result(path, image)
    inputs = {
        "result_sha256": workspace.sha256_file(path),
        "scan_grid": record["scan_grid"],
        "kind": kind,
    }
    name = target.name.removesuffix(".nii.gz")
    as_dicom = target.with_name(f"{name}.dcm") if dicom and kind != "mask" else None
    sidecar = Sidecar(
        path=target.with_name(f"{name}.json"),
        inputs=inputs,
        outputs=(target, as_dicom) if as_dicom else (target,),
    )
    if sidecar.is_current() and not force:
        return False
    clock = Stopwatch()
    sidecar.invalidate()
    grid = grid_from_record(record["scan_grid"])
    restored = restore_image(image, grid, kind)
    write_on_grid(target, restored, grid)
    if as_dicom:
        write_parametric_map(
            as_dicom,
            restored,
            grid,
            subject=record["subject"],
            study=f"{record['subject']} {record['fingerprint']}",
            series=f"{path.parent.parent.name}/{path.name} {inputs['result_sha256']}",
            description=name.removesuffix(SUFFIX),
        )
    sidecar.write(seconds=clock.seconds)
    return True
