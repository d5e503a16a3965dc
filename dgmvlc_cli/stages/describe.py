"""Table rows to sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from dgmvlc_cli.text.cleaning import Cleaned
    from dgmvlc_cli.text.schema import Schema

EXAMPLES = 3
FEW = 3
UNMATCHED = ("rows_without_scan", "scans_without_row")


def describe(ws: Workspace, settings: Settings, run: Run) -> StageResult:
    """Table rows -> sentences, with missing values left out and placebo attributes added."""
    from dgmvlc_cli.cohort import described_inputs
    from dgmvlc_cli.text.describe import summarise

    said = read_rows(ws, settings)
    if run.dry_run:
        return dry_run("describe", [f"{len(said.prompts)} sentences -> {ws.prompts_path}"])
    clock = Stopwatch()
    sidecar = Sidecar(path=ws.text / "describe.json", inputs=described_inputs(ws, settings))
    sidecar.invalidate()
    workspace.write_table(ws.prompts_path, said.prompts)
    placebos = said.rows[list(said.placebos)]
    workspace.write_table(ws.placebos_path, placebos.rename_axis("subject").reset_index())
    workspace.write_table(ws.text / "exclusions.tsv", said.cleaned.exclusions)
    workspace.write_table(ws.text / "dropped_rows.tsv", said.cleaned.dropped)
    record = {
        "schema": said.schema.model_dump(mode="json"),
        "studied": said.studied,
        "placebos": said.placebos,
        "summary": summarise(said.cleaned.only(said.rows.index), said.schema),
        "unmatched": said.unmatched,
    }
    workspace.write_json(ws.attributes_path, record)
    sidecar.write(seconds=clock.seconds, seed=settings.seed, placebos=settings.study.placebos)
    return _result(ws, said, record)


@dataclass(frozen=True, kw_only=True)
class Described:
    """The table as the generator hears it.

    cleaned: every subject of the table.  rows: those with a scan, placebo columns included.
    schema: with the placebos as attributes.  placebos: name -> label and words.  prompts:
    subject, sentence and values.  unmatched: ids without a partner on either side.  near: a
    warning where some of them differ only in how they are written.
    """

    cleaned: Cleaned
    rows: pd.DataFrame
    schema: Schema
    studied: str
    placebos: dict[str, dict[str, Any]]
    prompts: pd.DataFrame
    unmatched: dict[str, list[str]]
    near: str


def read_rows(ws: Workspace, settings: Settings) -> Described:
    """Read and clean the table, add the placebos, write the sentences; nothing is saved."""
    from dgmvlc_cli.cohort import clinical_table, key_path, studied_attribute
    from dgmvlc_cli.text.cleaning import clean
    from dgmvlc_cli.text.describe import prompts_table
    from dgmvlc_cli.text.edits import edit_value
    from dgmvlc_cli.text.placebos import add_placebos, make_placebos

    schema = settings.require_schema()
    assert settings.table is not None
    original = clean(clinical_table(ws, settings), schema)
    cleaned = _named(ws, settings, original)
    behind = _behind(ws, settings, original.rows.index)
    used, unmatched = _match(ws, cleaned.rows, behind, key_path(ws, settings))
    scans_alone = unmatched.get("scans_without_row", [])
    studied = studied_attribute(settings, schema)
    _require_values(studied, used, cleaned)
    for level in (settings.study.reference, settings.study.target):
        if level is not None:
            edit_value(schema, studied, level)
    placebos, records = make_placebos(used[studied], settings.study.placebos, settings.seed)
    extended = add_placebos(schema, records, studied)
    rows = pd.concat([used, placebos], axis=1)
    return Described(
        cleaned=cleaned,
        rows=rows,
        schema=extended,
        studied=studied,
        placebos=records,
        prompts=prompts_table(rows, extended),
        unmatched=unmatched,
        near=_near_match(cleaned.rows.index, [*used.index, *scans_alone], behind),
    )


def _require_values(studied: str, used: pd.DataFrame, cleaned: Cleaned) -> None:
    """Raise DgmvlcError where nobody has a usable value of the studied attribute."""
    if used[studied].notna().any():
        return
    out = cleaned.exclusions
    out = out[(out["attribute"] == studied) & out["subject"].isin(used.index)]
    reasons = ", ".join(f"{n} {reason}" for reason, n in out["reason"].value_counts().items())
    seen = _few(f'"{text}"' for text in out["raw"].dropna().unique() if text)
    raise DgmvlcError(
        f"No subject has a usable value of the studied attribute {studied}: {reasons or 'no cell'}"
        + (f" (the table has {seen})" if seen else "")
        + ".",
        f"Name the column's own values under [schema.attributes.{studied}] (`levels`, `synonyms`), "
        "or study another attribute.",
    )


def _behind(ws: Workspace, settings: Settings, ids: Iterable[str]) -> dict[str, str]:
    """Pseudonym -> id of every row and scan; nothing where names are as they are."""
    from dgmvlc_cli.cohort import identity_of, key_path
    from dgmvlc_cli.imaging.identity import read_key

    identity = identity_of(ws, settings)
    if not identity.pseudonymous:
        return {}
    return {**read_key(key_path(ws, settings))["subjects"], **{identity.subject(i): i for i in ids}}


def _named(ws: Workspace, settings: Settings, cleaned: Cleaned) -> Cleaned:
    """The table under the names that the workspace gives its subjects."""
    from dgmvlc_cli.cohort import identity_of

    named = identity_of(ws, settings).subject
    out, dropped = cleaned.exclusions, cleaned.dropped
    return replace(
        cleaned,
        rows=cleaned.rows.rename(index=named),
        status=cleaned.status.rename(index=named),
        exclusions=out.assign(subject=out["subject"].map(named)),
        scan_years=cleaned.scan_years.rename(index=named),
        dropped=dropped.assign(subject=dropped["subject"].map(named)),
    )


def _match(
    ws: Workspace, rows: pd.DataFrame, behind: Mapping[str, str], key: Path
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Rows of subjects that have a scan, and the ids without a partner on either side.

    Before `preprocess` has run every row is described.  behind: as `_behind`; what it knows is not
    said, but that it lies in the file `key`.  Raises DgmvlcError if none matches.
    """
    from dgmvlc_cli.cohort import ready_subjects

    if not ws.subjects_path.exists():
        return rows, {}
    scans = ready_subjects(ws)
    matched = rows.loc[rows.index.isin(scans)]
    if matched.empty:
        raise _no_match(list(rows.index), scans, behind, key)
    without = sorted(set(rows.index) - set(scans)), sorted(set(scans) - set(rows.index))
    return matched, dict(zip(UNMATCHED, without, strict=True))


def _no_match(
    rows: list[str], scans: list[str], behind: Mapping[str, str], key: Path
) -> DgmvlcError:
    said = f"the table has {_few(rows)}, the scans are {_few(scans)}"
    where = ""
    if behind:
        said = f"{counted(len(rows), 'row')}, {counted(len(scans), 'scan')}, all under pseudonyms"
        where = f"; the ids of the scans are in {key}"
    return DgmvlcError(
        f"No id of the table matches a scan: {said}.",
        _near_match(rows, scans, behind)
        or "Set `id_column` under [schema] in dgmvlc.toml, or `subject_from` under [scans] and "
        f"preprocess again{where}.",
    )


def _near_match(rows: Iterable[str], scans: Iterable[str], behind: Mapping[str, str]) -> str:
    """A hint where ids differ only in case, leading zeros, `sub-` or punctuation; else nothing.

    rows, scans: all ids.  Ids that are so like two others are not guessed.  behind: the ids behind
    pseudonyms, which are compared and not said.
    """
    in_scans = _by_core(scans, behind)
    near = [(row, in_scans.get(core, row)) for core, row in _by_core(rows, behind).items()]
    near = [(row, scan) for row, scan in near if row != scan]
    if not near:
        return ""
    row, scan = near[0]
    example = "" if behind else f' ("{row}" in the table, "{scan}" the scan)'
    return (
        f"{len(near)} ids differ only in case, leading zeros or punctuation{example}: write them "
        "alike in the table."
    )


def _by_core(names: Iterable[str], behind: Mapping[str, str]) -> dict[str, str]:
    """What the ids have in common with other spellings of theirs -> id, where it is only one's."""
    cores = {name: _core(behind.get(name, name)) for name in names}
    times = Counter(cores.values())
    return {core: name for name, core in cores.items() if times[core] == 1}


def _core(name: str) -> str:
    """An id without case, `sub-`, leading zeros, a program's `.0` and marks: 1-11 is not 11-1."""
    plain = re.sub(r"^(\d+)\.0+$", r"\1", name.lower().removeprefix("sub-"))
    plain = re.sub(r"(?<!\d)0+(?=\d)", "", plain)
    return re.sub(r"[\W_]+(?!\d)|(?<!\d)[\W_]+", "", re.sub(r"[\W_]+", "-", plain))


def _few(names: Any) -> str:
    names = list(map(str, names))
    return ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")


def _result(ws: Workspace, said: Described, record: dict[str, Any]) -> StageResult:
    from dgmvlc_cli.text.entailed import entailed

    out = said.cleaned.exclusions
    out = out[out["subject"].isin(said.rows.index)]  # the file has those without a scan too
    lines = [
        f"{len(said.prompts)} sentences, for example:",
        *(f"  {text}" for text in said.prompts["sentence"].head(EXAMPLES)),
        *_coverage(record["summary"], said.schema),
        *_far_lines(record["summary"], said.schema),
        *_empty_lines(record["summary"], said.schema),
        *(f"WARNING: {one}" for one in entailed(said.rows, said.schema, said.studied)),
        f"studied attribute: {said.studied}; placebos: {', '.join(said.placebos) or 'none'}",
        f"{len(out)} entries left out, each with its reason in {ws.text / 'exclusions.tsv'}",
        *_contradictions(out),
    ]
    if dropped := len(said.cleaned.dropped):
        lines.append(f"{counted(dropped, 'row')} dropped: {ws.text / 'dropped_rows.tsv'}")
    for what, ids in said.unmatched.items():
        if ids:
            listed = f", all in {ws.attributes_path}" if len(ids) > FEW else ""
            lines.append(f"{len(ids)} {what.replace('_', ' ')}: {_few(ids)}{listed}")
    lines += [f"WARNING: {said.near}"] if said.near else []
    lines.append("what a generator can hear of each attribute: dgmvlc describe --probe")
    facts = {key: record[key] for key in ("studied", "summary", "unmatched", "placebos")}
    return StageResult(
        stage="describe",
        summary=lines,
        facts=facts | {"sentences": len(said.prompts)},
        next_command="dgmvlc train",
    )


def _coverage(summary: dict[str, dict[str, Any]], schema: Schema) -> list[str]:
    """A line per attribute of the sentence, and what is kept out of it and why."""
    said = [name for name in summary if schema.attributes[name].in_sentence]
    width = max(map(len, said), default=0)
    lines = [f"  {name:<{width}}  {_attribute_line(summary[name])}" for name in said]
    outcomes = schema.names("outcome")
    if outcomes:
        lines.append(
            f"kept out of the sentence: {', '.join(outcomes)} (outcomes: they happen after the "
            'scan, and a generator told of them would draw them; role = "condition" asks for it)'
        )
    return lines


def _far_lines(summary: dict[str, dict[str, Any]], schema: Schema) -> list[str]:
    """Numbers that may be slips of the pen; one of them can rule a regression."""
    return [
        f"WARNING: {name} has values far from most others ({_few(map('{:g}'.format, far))}): if "
        f"they are errors, set `plausible` or `missing` under [schema.attributes.{name}]"
        for name, entry in summary.items()
        if (far := entry.get("far")) and schema.attributes[name].in_sentence
    ]


def _empty_lines(summary: dict[str, dict[str, Any]], schema: Schema) -> list[str]:
    return [
        f"WARNING: {name} has no usable value and is never said: compare its `levels`, `synonyms` "
        f"or `plausible` under [schema.attributes.{name}] with the table"
        for name, entry in summary.items()
        if not entry["present"] and schema.attributes[name].in_sentence
    ]


def _attribute_line(entry: dict[str, Any]) -> str:
    """`155 of 211: 1 to 120, median 37 pack-years (left out: 48 not applicable: ...)`."""
    from dgmvlc_cli.text.describe import number_text

    if "median" in entry:
        low, median, high = (number_text(entry[key]) for key in ("min", "median", "max"))
        values = f"{low} to {high}, median {median} {entry['unit']}".rstrip()
    else:
        values = ", ".join(f"{level} {n}" for level, n in entry.get("levels", {}).items())
    reasons: Counter[str] = Counter()
    for reason, n in entry["left_out"].items():
        reasons["contradiction" if reason.startswith("contradiction") else reason] += n
    out = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
    said = f"{entry['present']} of {entry['n']}: {values}".rstrip(": ")
    return f"{said} (left out: {out})" if out else said


def _contradictions(exclusions: pd.DataFrame) -> list[str]:
    found = exclusions[exclusions["reason"].str.startswith("contradiction")]
    if found.empty:
        return []
    first = found.iloc[0]
    return [
        f"{len(found)} of them contradict the rest of their row, for example {first['subject']}: "
        f"{first['attribute']} {first['raw']} ({first['reason'].removeprefix('contradiction: ')})"
    ]
