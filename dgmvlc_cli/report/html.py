"""The report: one HTML file that needs nothing else, its figures, its numbers, its methods."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.mixed import FEW_FOLDS
from dgmvlc_cli.analysis.placebos import calibration_words
from dgmvlc_cli.report import words
from dgmvlc_cli.report.contents import ReportContents, records
from dgmvlc_cli.report.drawing import Drawing, data_uri
from dgmvlc_cli.report.figures import draw_all
from dgmvlc_cli.report.methods import describe_methods, methods_markdown
from dgmvlc_cli.report.numbers import (
    Numbers,
    by_place,
    effect_methods,
    numbers_of,
    ordered,
    statistic_rows,
)
from dgmvlc_cli.report.page import json_text, render_page
from dgmvlc_cli.report.references import REFERENCES, cite, cited
from dgmvlc_cli.report.tables import report_tables, training_table
from dgmvlc_cli.report.viewer import pack_pairs, viewer_settings
from dgmvlc_cli.workspace import read_json, write_table, write_text

SCHEMA_VERSION = 1
"""Of report.json; raised whenever a key changes its meaning or goes away."""
SCHEMA_PATH = Path(__file__).parent / "report.schema.json"

MOST_JSON_ROWS = 1000
"""Of one figure's data in report.json; a longer table (the cells of a map) is in its TSV alone."""

MAX_THUMBNAILS = 24
THUMBNAIL_PIXELS = 280


def write_report(directory: Path, contents: ReportContents) -> Path:
    """Write report.html, report.json, methods.md, figures/ and tables/ into a folder.

    Each file is put in place whole, the HTML last; the same contents give the same bytes.  Figures
    and tables of an earlier report that this one lacks go away.  Returns the path of report.html.
    """
    drawings = draw_all(contents)
    earlier = _figure_files(directory)
    files = {name: drawing.write(directory / "figures") for name, drawing in drawings.items()}
    for path in earlier.difference(
        directory / one for made in files.values() for one in made.values()
    ):
        path.unlink(missing_ok=True)
    numbers = numbers_of(contents)
    for name, table in report_tables(contents, numbers).items():
        path = directory / "tables" / f"{name}.tsv"
        if len(table):
            write_table(path, table)
        else:
            path.unlink(missing_ok=True)
    write_text(directory / "methods.md", methods_markdown(contents))
    write_text(directory / "report.json", report_json(contents, drawings, files, numbers))
    page = directory / "report.html"
    write_text(page, render(contents, drawings, numbers))
    return page


def _figure_files(directory: Path) -> set[Path]:
    """The files of the figures that the report in a folder has."""
    figures = (read_json(directory / "report.json") or {}).get("figures", ())
    names = [Path(file).name for one in figures for file in one.get("files", {}).values()]
    return {directory / "figures" / name for name in names}


def render(contents: ReportContents, drawings: Mapping[str, Drawing], numbers: Numbers) -> str:
    """The whole page."""
    return render_page(
        "report.html.j2",
        contents=contents,
        figures={name: _inline(drawing) for name, drawing in drawings.items()},
        **_summary_context(contents, numbers),
        **_effects_context(contents, numbers),
        **_pairs_context(contents, numbers),
        **_cohort_context(contents),
        **_methods_context(contents),
    )


def _inline(drawing: Drawing) -> dict[str, Any]:
    return {
        "name": drawing.name,
        "title": drawing.title,
        "caption": drawing.caption,
        "svg": Markup(drawing.inline_svg()),
    }


def _summary_context(contents: ReportContents, numbers: Numbers) -> dict[str, Any]:
    verdicts = ordered(contents.verdicts)
    primary = [row for row in verdicts if row["measure"] == PRIMARY_MEASURE]
    debiased = by_place(contents.effects_of("debiased"))
    for row in verdicts:
        row["effect"] = debiased.get((row["measure"], row["region"]))
        row["reason"] = _reason(row)
    headline = [row for row in primary if row["region"] in words.HEADLINE_REGIONS]
    return {
        "headline": headline or primary[:4],
        "other_verdicts": [row for row in verdicts if row not in (headline or primary[:4])],
        "trust": numbers.trust_facts,
    }


def _reason(row: Mapping[str, Any]) -> str:
    """The sentence of a verdict without the words that stand beside it anyway."""
    _, found, reason = str(row["sentence"]).partition(f": {row['verdict']}. ")
    return reason if found else str(row["sentence"])


def _effects_context(contents: ReportContents, numbers: Numbers) -> dict[str, Any]:
    rows = numbers.effect_table
    return {
        "effect_rows": rows,
        "primary_rows": [row for row in rows if row["measure"] == PRIMARY_MEASURE],
        "effect_measures": list(dict.fromkeys(row["measure"] for row in rows)),
        "effect_regions": list(dict.fromkeys(row["region"] for row in rows)),
        "folds": numbers.fold_table,
        "mixed_rows": numbers.mixed_rows,
        "few_folds": contents.methods.get("train", {}).get("folds") == FEW_FOLDS,
        "calibration": calibration_words(len(contents.placebo_words)),
        "statistic_rows": statistic_rows(contents),
        "effect_methods": effect_methods(contents),
        "truth_rows": [] if contents.truth is None else ordered(contents.truth),
    }


def _pairs_context(contents: ReportContents, numbers: Numbers) -> dict[str, Any]:
    packed = pack_pairs(contents.pairs)
    flagged = {row["subject"] for row in contents.scans if row["flags"]}
    thumbnails, unreadable = qc_thumbnails(contents.qc, flagged)
    return {
        "packed": packed,
        "pair_count": max(len(contents.summaries), len(contents.pairs)),
        "map_rows": numbers.map_rows,
        "viewer": viewer_settings(contents.pairs, contents.levels) if packed else None,
        "thumbnails": thumbnails,
        "unreadable": unreadable,
    }


def qc_thumbnails(
    paths: Sequence[tuple[str, Path]], flagged: Collection[str] = ()
) -> tuple[list[tuple[str, str]], list[str]]:
    """(subject, data address) of up to MAX_THUMBNAILS pictures: flagged ones, then the others.

    The others are evenly spaced over the cohort.  The second list names the subjects whose picture
    cannot be read.
    """
    first = [one for one in paths if one[0] in flagged][:MAX_THUMBNAILS]
    others = [one for one in paths if one[0] not in flagged]
    places = min(len(others), MAX_THUMBNAILS - len(first))
    chosen = np.unique(np.linspace(0, len(others) - 1, places).round()).astype(int)
    thumbnails, unreadable = [], []
    for subject, path in (*first, *(others[place] for place in chosen)):
        try:
            thumbnails.append((subject, data_uri(_thumbnail(path), "image/jpeg")))
        except OSError:
            unreadable.append(subject)
    return thumbnails, unreadable


def _thumbnail(path: Path) -> bytes:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=84)
    return stream.getvalue()


def _cohort_context(contents: ReportContents) -> dict[str, Any]:
    balance, exclusions = contents.balance, contents.exclusions
    made, sound = contents.acquisition, contents.evaluation
    return {
        "balance_rows": [] if balance is None else records(balance),
        "acquisition_rows": [] if made is None else records(made),
        "evaluation_rows": [] if sound is None else records(sound),
        "exclusion_columns": [] if exclusions is None else list(exclusions.columns),
        "exclusion_rows": [] if exclusions is None else records(exclusions),
        "training_rows": records(training_table(contents)),
    }


def _methods_context(contents: ReportContents) -> dict[str, Any]:
    paragraphs = describe_methods(contents)
    keys = cited(paragraphs)
    return {
        "methods": [(heading, _cite_html(text, keys)) for heading, text in paragraphs],
        "references": [(key, REFERENCES[key]) for key in keys],
        "provenance": list(flatten(contents.provenance)),
        "settings": list(flatten(contents.methods)),
    }


def _cite_html(text: str, keys: Sequence[str]) -> Markup:
    """Citations become numbers of the list of references, and links to it."""

    def links(group: list[str]) -> str:
        numbers = (f'<a href="#ref-{key}">{keys.index(key) + 1}</a>' for key in group)
        return f'<span class="cite">[{", ".join(numbers)}]</span>'

    return Markup(cite(str(Markup.escape(text)), links))


def flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """("versions / torch", "2.13.0") for every leaf of nested mappings."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key} / ")
        else:
            yield f"{prefix}{key}", _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_leaf(item) for item in value)
    if isinstance(value, float):
        return words.MISSING if words.is_missing(value) else f"{value:.6g}"
    return words.MISSING if value is None else str(value)


def report_json(
    contents: ReportContents,
    drawings: Mapping[str, Drawing],
    files: Mapping[str, Mapping[str, str]],
    numbers: Numbers,
) -> str:
    """Every number that the page shows, as JSON; what is missing is null."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "title": contents.title,
        "contrast": contents.contrast,
        "attribute": contents.attribute,
        "levels": contents.levels,
        "verdict": contents.verdict,
        "verdicts": contents.verdicts,
        "trust": numbers.trust_facts,
        "effects": contents.effects,
        "folds": numbers.fold_table.reset_index(),
        "truth": contents.truth,
        "placebo_words": contents.placebo_words,
        "balance": contents.balance,
        "acquisition": contents.acquisition,
        "evaluation": contents.evaluation,
        "counts": contents.counts,
        "cohort": contents.cohort,
        "exclusions": contents.exclusions,
        "scans": contents.scans,
        "failures": contents.failures,
        "fit": contents.fit,
        "training": {str(fold): log for fold, log in contents.training.items()},
        "maps": numbers.map_rows,
        "statistics": contents.statistics,
        "pairs": [
            {"subject": pair.subject, "sentences": [pair.reference_sentence, pair.target_sentence]}
            for pair in contents.pairs
        ],
        "figures": [
            {"name": name, "title": drawing.title, "caption": drawing.caption}
            | {"files": files[name]}
            | {"data": drawing.data if len(drawing.data) <= MOST_JSON_ROWS else None}
            for name, drawing in drawings.items()
        ],
        "guidance_scale": contents.guidance_scale,
        "methods": contents.methods,
        "provenance": contents.provenance,
        "intended_use": contents.intended_use,
    }
    return json_text(document)
