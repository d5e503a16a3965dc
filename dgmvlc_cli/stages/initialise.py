"""`dgmvlc init`: look at the scans and the table, propose a commented dgmvlc.toml."""

from __future__ import annotations

import json
from pathlib import Path

from dgmvlc_cli import workspace
from dgmvlc_cli.config import DEFAULT_SEED, PRESETS, SETTINGS_HEADER, load_settings
from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.stages.base import Run, StageResult
from dgmvlc_cli.text.schema import Schema, schema_toml
from dgmvlc_cli.workspace import Workspace


def init(
    ws: Workspace,
    scans: Path,
    table: Path | None,
    run: Run,
    *,
    seed: int = DEFAULT_SEED,
    truth: Path | None = None,
    preset: str = "tiny",
) -> StageResult:
    """Write dgmvlc.toml for the scans and the table, with a comment on every column.

    truth: the truth.tsv of a phantom.  Raises DgmvlcError where there are no scans, the table
    cannot be read, or a dgmvlc.toml is there already (unless run.force).
    """
    from dgmvlc_cli.imaging.discovery import survey

    if ws.settings_path.exists() and not run.force and not run.dry_run:
        raise DgmvlcError(
            f"{ws.settings_path} is there already.",
            "Edit it, or write it anew with --force.",
        )
    found = survey(scans)
    lines = [counted(len(found.scans), "scan") + f" below {scans}"]
    if found.passed_over:
        lines.append(
            f"{counted(len(found.passed_over), 'file')} passed over, for example: "
            f"{found.passed_over[0].path.name} ({found.passed_over[0].reason})"
        )
    if noted := [scan for scan in found.scans if scan.notes]:
        lines.append(f"WARNING: {noted[0].subject}: {noted[0].notes[0]}")
        if others := len(noted) - 1:
            lines[-1] += f"; {counted(others, 'other scan')} with such notes"
    schema, schema_text = None, ""
    if table is not None:
        schema, schema_text, seen = _schema(table, [scan.subject for scan in found.scans])
        lines += seen
    text = settings_text(
        scans=_relative(scans, ws.root),
        table=_relative(table, ws.root) if table else None,
        truth=_relative(truth, ws.root) if truth else None,
        study=_study(schema),
        seed=seed,
        preset=preset,
    )
    if run.dry_run:
        return StageResult(stage="init", summary=["would write:", text + schema_text])
    if ws.settings_path.exists() and ws.settings_path.read_bytes() != (text + schema_text).encode():
        kept = ws.settings_path.with_suffix(".toml.previous")
        workspace.write_bytes(kept, ws.settings_path.read_bytes())
        lines.append(f"the settings that were there are kept in {kept}")
    workspace.write_text(ws.settings_path, text + schema_text)
    load_settings(ws.settings_path)
    facts = {"settings": str(ws.settings_path), "scans": len(found.scans)}
    return StageResult(
        stage="init",
        summary=[*lines, f"settings: {ws.settings_path} (read it, change what you like)"],
        facts=facts,
        next_command="dgmvlc preprocess",
    )


def _schema(table: Path, subjects: list[str]) -> tuple[Schema, str, list[str]]:
    """The proposed schema, its TOML, and what was seen, in words."""
    from dgmvlc_cli.text.cleaning import table_ids
    from dgmvlc_cli.text.propose import propose_schema
    from dgmvlc_cli.text.table import read_table

    content = read_table(table)
    schema, notes = propose_schema(content)
    ids = set(table_ids(content, schema.id_column))
    shared = len(ids & set(subjects))
    seen = [
        f"{counted(len(content), 'row')} and {counted(len(content.columns), 'column')} in {table}",
        f"in the sentence: {', '.join(schema.names('condition', 'covariate')) or 'nothing'}",
        f"{shared} of {counted(len(subjects), 'scan')} have a row (id column: {schema.id_column})",
        f"date of the scan: {schema.scan_date or 'no column'}",
    ]
    if not shared:
        seen.append("WARNING: no id matches; set `id_column` under [schema], or rename the scans")
        if others := content.attrs.get("other_sheets"):
            seen[-1] += f"; only one sheet was read, save another as a file: {', '.join(others)}"
    return schema, schema_toml(schema, notes), seen


def _study(schema: Schema | None) -> tuple[str, str, str] | None:
    """Attribute, reference and target to start with: smoking where there is one."""
    if schema is None:
        return None
    with_levels = [
        name for name in schema.names("condition") if len(schema.attributes[name].levels) > 1
    ]
    if not with_levels:
        return None
    name = "smoking" if "smoking" in with_levels else with_levels[0]
    levels = schema.attributes[name].levels
    return name, levels[0], levels[-1]


def settings_text(
    *,
    scans: Path,
    table: Path | None,
    truth: Path | None,
    study: tuple[str, str, str] | None,
    seed: int,
    preset: str,
) -> str:
    """dgmvlc.toml without its [schema]."""
    spacing = (
        f"# spacing_mm = {PRESETS[preset].spacing_mm:g}    # unset: the preset's"
        if table
        else 'spacing_mm = "native"   # no model is trained, so the scans keep their own grid'
    )
    lines = [
        SETTINGS_HEADER,
        f"seed = {seed}",
        "",
        "[scans]",
        f"path = {_quote(scans)}",
        spacing,
        '# subject_from = "auto"   # or patient-id, folder, file-name, pattern, column',
        "# pseudonyms = true   # unset: where there are DICOM scans",
        '# masks = "masks"     # one label map per subject instead of the built-in segmenter',
        "margin_mm = 10.0     # kept around the lungs",
    ]
    if table is None:
        return "\n".join(lines) + "\n"
    lines += ["", "[table]", f"path = {_quote(table)}", "", "[study]"]
    if study:
        lines += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}"
            for key, value in zip(("attribute", "reference", "target"), study, strict=True)
        ]
    lines += [
        "placebos = 4         # attributes of no meaning that the effect must beat",
        'text_encoder = "minilm"   # bundled; or a hub id or folder of a transformers model',
        "",
        "[train]",
        f'preset = "{preset}"      # {", ".join(PRESETS)}: see `dgmvlc info`',
        "folds = 2            # one model per fold, never trained on what it predicts",
        f"# steps = {PRESETS[preset].steps}        # unset: the preset's",
        "",
        "[counterfactual]",
        "seeds = 1            # noise draws per subject",
        "guidance_scale = 1.0 # anything else distorts effect sizes",
        "",
        "[analyze]",
        '# covariates = ["age", "sex"]   # unset: every attribute of role "covariate"',
        '# scan_covariates = ["slice spacing", "reconstruction kernel"]   # adjusted for, too',
    ]
    if truth:
        lines.append(f"truth = {_quote(truth)}   # exact, because the cohort is a simulation")
    return "\n".join(lines) + "\n\n"


def _relative(path: Path, root: Path) -> Path:
    """The path as seen from the workspace where it lies below it, else absolute."""
    resolved = path.resolve()
    base = root.resolve()
    return resolved.relative_to(base) if resolved.is_relative_to(base) else resolved


def _quote(path: Path) -> str:
    return json.dumps(path.as_posix(), ensure_ascii=False)
