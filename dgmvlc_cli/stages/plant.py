"""The planted control: a sibling workspace whose true effect is known."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.config import (
    AnalyzeSettings,
    ScanSettings,
    Settings,
    TableSettings,
    load_settings,
    settings_toml,
)
from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import PLANT_FILE, Sidecar, Stopwatch, Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.planting import Plant, PlantTask


def plant(
    ws: Workspace,
    settings: Settings,
    run: Run,
    *,
    effect_hu: float,
    region: str,
    out: Path | None = None,
) -> StageResult:
    """A sibling workspace in which a random half of the user's scans carries a known change.

    Scans and masks are the preprocessed ones, the table is the user's with one neutral attribute
    more, and the settings are the user's with that attribute studied; so the same commands run
    there, and its truth.tsv says what they should find.
    """
    from dgmvlc_cli.planting import Plant, carriers, planted_schema

    if ws.plant_path.exists():
        raise DgmvlcError(
            f"{ws.root} is itself a planted control.", "Plant in the workspace it was made from."
        )
    chosen = Plant(effect_hu=effect_hu, region=region)
    sibling = Workspace(out or _beside(ws, chosen.name))
    _refuse_foreign(sibling)
    schema = planted_schema(settings.require_schema())
    subjects = _ready(ws, settings)
    _require_lobes(ws, chosen, subjects)
    chosen_half = carriers(subjects, settings.seed)
    sidecar = _sidecar(ws, settings, sibling, chosen, subjects)
    if run.dry_run:
        lines = [f"{chosen.text}: {len(chosen_half)} of {len(subjects)} scans -> {sibling.root}"]
        return dry_run("plant", lines)
    clock = Stopwatch()
    kept = sidecar.is_current() and not run.force
    if not kept:
        workspace.write_json(sibling.plant_path, {"unfinished": True})
        _clear(sibling)
        tasks = _tasks(ws, sibling, chosen, subjects, chosen_half)
        workspace.write_table(sibling.root / "truth.tsv", _write_scans(tasks, run))
        table = _table(ws, settings, subjects, chosen_half)
        workspace.write_text(sibling.root / "clinical.csv", table.to_csv(index=False))
        sibling_settings = _settings(settings, schema)
        workspace.write_text(sibling.settings_path, settings_toml(sibling_settings))
        load_settings(sibling.settings_path)
        sidecar.write(seconds=clock.seconds, carriers=sorted(chosen_half))
    return StageResult(
        stage="plant",
        summary=[
            f"planted {chosen.text} in {len(chosen_half)} of {len(subjects)} scans"
            + (" (current, kept)" if kept else ""),
            f"workspace: {sibling.root}; truth: {sibling.root / 'truth.tsv'}",
            "run preprocess, describe, train, counterfactual and analyze there, as for the cohort",
        ],
        facts={"workspace": str(sibling.root), "carriers": len(chosen_half), **asdict(chosen)},
        next_command=f"dgmvlc preprocess -w {shlex.quote(str(sibling.root))}",
    )


def _beside(ws: Workspace, name: str) -> Path:
    """`study-planted-upper-plus-10-hu` beside `study`; short where that is the current folder."""
    root = ws.root.resolve()
    return Path(os.path.relpath(root.parent / f"{root.name}-planted-{name}"))


def _refuse_foreign(sibling: Workspace) -> None:
    """Scans are cleared away before others are planted: never somebody else's."""
    empty = not sibling.root.exists() or not any(sibling.root.iterdir())
    if not empty and not sibling.plant_path.exists():
        raise DgmvlcError(
            f"{sibling.root} is there already and is no planted control.",
            "Give the planted control a folder of its own with --out.",
        )


def _ready(ws: Workspace, settings: Settings) -> list[str]:
    """Subjects with a preprocessed scan and a row."""
    from dgmvlc_cli.cohort import clinical_ids, clinical_table, ready_subjects

    ids = clinical_ids(ws, settings, clinical_table(ws, settings))
    subjects = sorted(set(ready_subjects(ws)) & set(ids))
    if len(subjects) < 2:
        raise DgmvlcError(
            f"Both a usable scan and a row of the table: {counted(len(subjects), 'subject')}.",
            "Compare the ids in subjects.tsv and the table; run `dgmvlc preprocess` again.",
        )
    return subjects


def _require_lobes(ws: Workspace, plant: Plant, subjects: list[str]) -> None:
    """A plant in a lobe needs one in every scan: else some carriers would carry nothing."""
    from dgmvlc_cli.analysis.zones import LOBE_REGIONS, LUNG_REGIONS
    from dgmvlc_cli.imaging.lobes import LOBE_OF

    if plant.region not in LOBE_REGIONS:
        return
    table = workspace.read_table(ws.subjects_path, dtype={"subject": str})
    lobe_ml = f"{plant.region}_ml"
    found = set(table.loc[table[lobe_ml] > 0, "subject"]) if lobe_ml in table else set()
    without = [one for one in subjects if one not in found]
    if without:
        raise DgmvlcError(
            f"{len(without)} of {counted(len(subjects), 'scan')} have no "
            f"{LOBE_OF[plant.region].label}, first {without[0]}.",
            f"Plant in a region that all have: {', '.join(LUNG_REGIONS)}.",
        )


def _sidecar(
    ws: Workspace, settings: Settings, sibling: Workspace, plant: Plant, subjects: list[str]
) -> Sidecar:
    from dgmvlc_cli.cohort import scans_fingerprint

    assert settings.table is not None
    inputs = {
        **asdict(plant),
        "seed": settings.seed,
        "source": str(ws.root.resolve()),
        "scans": scans_fingerprint(ws, subjects),
        "table": workspace.sha256_file(ws.root / settings.table.path),
        "settings": workspace.fingerprint(settings.model_dump(mode="json", by_alias=True)),
    }
    outputs = tuple(sibling.root / name for name in ("clinical.csv", "truth.tsv", "dgmvlc.toml"))
    return Sidecar(path=sibling.plant_path, inputs=inputs, outputs=outputs)


def _clear(sibling: Workspace) -> None:
    """Take an older control's scans away, so that none stays beside another plant's."""
    for folder in ("scans", "masks"):
        for path in (sibling.root / folder).glob("*.nii.gz"):
            path.unlink()


def _tasks(
    ws: Workspace,
    sibling: Workspace,
    plant: Plant,
    subjects: list[str],
    chosen: frozenset[str],
) -> list[PlantTask]:
    from dgmvlc_cli.planting import PlantTask

    return [
        PlantTask(
            subject=subject,
            source=ws,
            out=sibling.root,
            plant=plant,
            carrier=subject in chosen,
        )
        for subject in subjects
    ]


def _write_scans(tasks: list[PlantTask], run: Run) -> pd.DataFrame:
    """All scans and masks on disk; the table of truth in order of subject."""
    from dgmvlc_cli.planting import TRUTH_COLUMNS, plant_task

    rows: list[dict[str, Any]] = []
    with run.reporter.track("plant", len(tasks)) as advance:
        for outcome in parallel.run(plant_task, tasks, run.workers):
            if outcome.error is not None:
                raise outcome.error
            rows += outcome.result or []
            advance()
    table = pd.DataFrame(rows, columns=list(TRUTH_COLUMNS))
    return table.sort_values("subject", kind="stable", ignore_index=True)


def _table(
    ws: Workspace, settings: Settings, subjects: list[str], chosen: frozenset[str]
) -> pd.DataFrame:
    """The user's rows, ids as the sibling's files are named, and who carries it.

    Under pseudonyms only the columns that the schema uses go along: the others may name people.
    """
    from dgmvlc_cli.cohort import clinical_ids, clinical_table, identity_of
    from dgmvlc_cli.planting import ATTRIBUTE, WITH, WITHOUT

    schema, rows = settings.require_schema(), clinical_table(ws, settings)
    id_column, ids = schema.id_column, clinical_ids(ws, settings, rows)
    rows, ids = rows[ids.isin(subjects)], ids[ids.isin(subjects)]
    if identity_of(ws, settings).pseudonymous:
        used = {id_column, schema.scan_date, *(one.column for one in schema.attributes.values())}
        rows = rows[[name for name in rows.columns if name in used]]
    named: dict[str, pd.Series] = {
        id_column: ids.map(workspace.slug),
        ATTRIBUTE: ids.map(lambda one: WITH if one in chosen else WITHOUT),
    }
    return rows.assign(**named)


def _settings(settings: Settings, schema: Any) -> Settings:
    """The user's settings with scans, table, truth and question of the sibling."""
    from dgmvlc_cli.planting import ATTRIBUTE, MASK_LABELS, WITH, WITHOUT

    study = {"attribute": ATTRIBUTE, "reference": WITHOUT, "target": WITH}
    return settings.model_copy(
        update={
            "scans": ScanSettings(
                path=Path("scans"),
                masks=Path("masks"),
                mask_labels=MASK_LABELS,
                spacing_mm=settings.scans.spacing_mm,
                margin_mm=settings.scans.margin_mm,
            ),
            "table": TableSettings(path=Path("clinical.csv")),
            "study": settings.study.model_copy(update=study),
            "table_schema": schema,
            "analyze": AnalyzeSettings(
                **{**settings.analyze.model_dump(), "truth": Path("truth.tsv")}
            ),
        }
    )


# A series of plants ---------------------------------------------------------------------------


def recovery(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """What the planted controls of this workspace found, and the smallest that was found."""
    from dgmvlc_cli.analysis.truth import recovery_table, recovery_words

    found = _siblings(ws)
    if not found:
        raise DgmvlcError(
            f"No analysed planted control of {ws.root} was found beside it.",
            "Run `dgmvlc plant --effect-hu 10`, then every stage up to `dgmvlc analyze` there.",
        )
    table = recovery_table(found)
    path = ws.root / "analysis" / "recovery.tsv"
    if run.dry_run:
        return dry_run("plant", [f"{len(table)} planted controls -> {path}"])
    workspace.write_table(path, table)
    return StageResult(
        stage="plant",
        summary=[*recovery_words(table), f"table: {path}"],
        facts={"recovery": table.to_dict("records"), "table": str(path)},
    )


def _siblings(ws: Workspace) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """(plant, comparison with the truth) of every analysed control made from this workspace."""
    found: list[tuple[dict[str, Any], pd.DataFrame]] = []
    for path in sorted(ws.root.resolve().parent.glob(f"*/{PLANT_FILE}")):
        inputs = (workspace.read_json(path) or {}).get("inputs", {})
        if inputs.get("source") == str(ws.root.resolve()):
            tables = sorted(path.parent.glob("analysis/*/planted_*/truth.tsv"))
            found += [
                (inputs | {"model": one.parts[-3]}, workspace.read_table(one)) for one in tables
            ]
    return found
