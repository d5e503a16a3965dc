"""`dgmvlc describe --probe`: what can be read from the embeddings of the sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dgmvlc_cli import workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.stages.describe import Described, read_rows
from dgmvlc_cli.workspace import Workspace, slug

if TYPE_CHECKING:
    from dgmvlc_cli.text.encoders import Encoder
    from dgmvlc_cli.text.probe import Probe

EMBEDDING, PROJECTION, CLAUSE = "embedding", "projection", "clause"
MEANING = {
    EMBEDDING: "whole sentence",
    PROJECTION: "as the generator hears it",
    CLAUSE: "its clause alone",
}


def probe(
    ws: Workspace, settings: Settings, run: Run, encoder_name: str | None = None
) -> StageResult:
    """Read every attribute back from the sentences, before and after the projection.

    encoder_name: another text encoder than the study's.  Writes text/probe.tsv.
    """
    from dgmvlc_cli.text.encoders import load_encoder
    from dgmvlc_cli.text.probe import probe as read_back

    name = encoder_name or settings.study.text_encoder
    studied = name == settings.study.text_encoder
    path = ws.text / ("probe.tsv" if studied else f"probe_{slug(name)}.tsv")
    said = read_rows(ws, settings)
    if run.dry_run:
        return dry_run("probe", [f"{len(said.prompts)} sentences through {name} -> {path}"])
    encoder = load_encoder(name)
    inputs = _inputs(ws, settings, said, encoder, "embeddings" if studied else "probe")
    found = read_back(said.rows.sort_index(), said.schema, inputs, settings.seed)
    workspace.write_table(path, found.table)
    return StageResult(
        stage="probe",
        summary=[*_lines(found, name), f"per level: {path}"],
        facts={
            "encoder": name,
            "readings": found.table.to_dict("records"),
            "unheard": sorted(found.unheard(PROJECTION)),
            "too_few": found.untold,
        },
    )


def _inputs(
    ws: Workspace, settings: Settings, said: Described, encoder: Encoder, cache_name: str
) -> dict[str, dict[str, np.ndarray]]:
    """What is read from: name -> attribute -> (n, E), subjects in order of their ids."""
    from dgmvlc_cli.text.describe import sentence
    from dgmvlc_cli.text.encoders import encode_cached
    from dgmvlc_cli.text.projection import fit_projection, practise
    from dgmvlc_cli.text.projection import said as in_sentence

    cache = ws.text / f"{cache_name}.npz"
    rows, schema = said.rows.sort_index(), said.schema
    prompts = said.prompts.set_index("subject")["sentence"].loc[rows.index]
    whole = encode_cached(encoder, list(prompts), cache)
    practice = practise(rows, schema, encoder, settings.seed, cache)
    projected = fit_projection(practice, whole)(whole)
    names = in_sentence(schema)
    alone = {name: [sentence({name: value}, schema) for value in rows[name]] for name in names}
    return {
        EMBEDDING: dict.fromkeys(names, whole),
        PROJECTION: dict.fromkeys(names, projected),
        CLAUSE: {name: encode_cached(encoder, texts, cache) for name, texts in alone.items()},
    }


def _lines(found: Probe, encoder: str) -> list[str]:
    """A table of readings, and a warning for each attribute that can hardly be read."""
    by_input = {read_from: found.of(read_from) for read_from in MEANING}
    names = list(by_input[EMBEDDING])
    width = max(map(len, [*names, "attribute"]))
    head = f"  {'attribute':<{width}}  {'n':>5}  {'':3}  " + "  ".join(
        f"{meaning:<26}" for meaning in MEANING.values()
    )
    lines = [f"read from the embeddings of {encoder}, out of fold, with 95 % intervals:", head]
    for name in names:
        row = by_input[EMBEDDING][name]
        cells = "  ".join(f"{_cell(by_input[one][name]):<26}" for one in MEANING)
        lines.append(f"  {name:<{width}}  {row['n']:>5}  {row['metric']:<3}  {cells}".rstrip())
    for name, row in found.unheard(PROJECTION).items():
        lines.append(
            f"WARNING: {name} can hardly be read ({row['metric']} {row['estimate']:.2f}), so the "
            "generator can hardly learn it: give it a template of its own, leave out other "
            "attributes, or take another text encoder"
        )
    for name, few in found.untold.items():
        lines.append(f"too few to tell of {name}: {', '.join(few)}")
    return lines


def _cell(row: dict[str, Any]) -> str:
    return f"{row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
