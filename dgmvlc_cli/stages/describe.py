"""Table rows to sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.text.table import Cleaned


def describe(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """Table rows -> sentences, with missing values left out and placebo attributes added."""
    from dgmvlc_cli.cohort import described_inputs, studied_attribute
    from dgmvlc_cli.text.describe import prompts_table, summarise
    from dgmvlc_cli.text.placebos import add_placebos, make_placebos
    from dgmvlc_cli.text.table import clean, read_table

    schema = settings.require_schema()
    assert settings.table is not None
    table_path = ws.root / settings.table.path
    cleaned = _named(ws, settings, clean(read_table(table_path), schema))
    used, unmatched = _match(ws, cleaned.rows)
    studied = studied_attribute(settings, schema)
    placebos, records = make_placebos(used[studied], settings.study.placebos, settings.seed)
    extended = add_placebos(schema, records, studied)
    prompts = prompts_table(pd.concat([used, placebos], axis=1), extended)
    if run.dry_run:
        return dry_run("describe", [f"{len(prompts)} sentences -> {ws.prompts_path}"])
    clock = Stopwatch()
    sidecar = Sidecar(path=ws.text / "describe.json", inputs=described_inputs(ws, settings))
    sidecar.invalidate()
    workspace.write_table(ws.prompts_path, prompts)
    workspace.write_table(ws.placebos_path, placebos.rename_axis("subject").reset_index())
    workspace.write_table(ws.text / "exclusions.tsv", cleaned.exclusions)
    summary = summarise(_only(cleaned, used.index), schema)
    record = {
        "schema": extended.model_dump(mode="json"),
        "studied": studied,
        "placebos": records,
        "summary": summary,
        "unmatched": unmatched,
    }
    workspace.write_json(ws.attributes_path, record)
    sidecar.write(seconds=clock.seconds, seed=settings.seed, placebos=settings.study.placebos)
    return _describe_result(ws, prompts, studied, record, len(cleaned.exclusions))


def _named(ws: Workspace, settings: Settings, cleaned: Cleaned) -> Cleaned:
    """The table under the names that the workspace gives its subjects."""
    from dgmvlc_cli.imaging.identity import workspace_identity
    from dgmvlc_cli.stages.preprocess import key_path
    from dgmvlc_cli.text.table import Cleaned

    identity = workspace_identity(key_path(ws, settings), settings.scans.pseudonyms)
    out = cleaned.exclusions
    return Cleaned(
        rows=cleaned.rows.rename(index=identity.subject),
        status=cleaned.status.rename(index=identity.subject),
        exclusions=out.assign(subject=out["subject"].map(identity.subject)),
    )


def _only(cleaned: Cleaned, subjects: pd.Index) -> Cleaned:
    """The cleaned table of some subjects."""
    from dgmvlc_cli.text.table import Cleaned

    out = cleaned.exclusions
    return Cleaned(
        rows=cleaned.rows.loc[subjects],
        status=cleaned.status.loc[subjects],
        exclusions=out[out["subject"].isin(subjects)],
    )


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
