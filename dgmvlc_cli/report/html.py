"""The report: one HTML file that needs nothing else, its figures, its numbers, its methods."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from dgmvlc_cli import __version__
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.effects import fold_effects
from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.zones import CONTROL_REGIONS
from dgmvlc_cli.mapping import summary_table
from dgmvlc_cli.report import words
from dgmvlc_cli.report.contents import ReportContents, records
from dgmvlc_cli.report.drawing import Drawing, data_uri
from dgmvlc_cli.report.figures import draw_all
from dgmvlc_cli.report.methods import (
    REFERENCES,
    cite,
    cited,
    describe_methods,
    methods_markdown,
)
from dgmvlc_cli.report.tables import report_tables, training_table
from dgmvlc_cli.report.viewer import pack_pairs, viewer_settings
from dgmvlc_cli.workspace import write_table, write_text

SCHEMA_VERSION = 1
"""Of report.json; raised whenever a key changes its meaning or goes away."""
SCHEMA_PATH = Path(__file__).parent / "report.schema.json"

MOST_JSON_ROWS = 1000
"""Of one figure's data in report.json; a longer table (the cells of a map) is in its TSV alone."""

MAX_THUMBNAILS = 24
THUMBNAIL_PIXELS = 280
BADGES = {"supported": "●", "undecided": "◐", "not supported": "○"}
FOUR_NUMBERS = ("model_implied", "observed", "debiased")


def write_report(directory: Path, contents: ReportContents) -> Path:
    """Write report.html, report.json, methods.md, figures/ and tables/ into a folder.

    Each file is put in place whole, the HTML last; the same contents give the same bytes.
    Returns the path of report.html.
    """
    drawings = draw_all(contents)
    files = {name: drawing.write(directory / "figures") for name, drawing in drawings.items()}
    for name, table in all_tables(contents).items():
        write_table(directory / "tables" / f"{name}.tsv", table)
    write_text(directory / "methods.md", methods_markdown(contents))
    write_text(directory / "report.json", report_json(contents, drawings, files))
    page = directory / "report.html"
    write_text(page, render(contents, drawings))
    return page


def all_tables(contents: ReportContents) -> dict[str, pd.DataFrame]:
    """The small tables behind the page, by name."""
    return report_tables(
        contents,
        trust=trust_facts(contents),
        effect_rows=effect_table(contents),
        folds=fold_table(contents),
    )


def render(contents: ReportContents, drawings: Mapping[str, Drawing]) -> str:
    """The whole page."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        words=words, badges=BADGES, version=__version__, primary=PRIMARY_MEASURE
    )
    environment.filters.update(json=script_json, prose=words.prose)
    page = environment.get_template("report.html.j2")
    return page.render(
        contents=contents,
        css=Markup((folder / "report.css").read_text("utf-8")),
        script=Markup((folder / "report.js").read_text("utf-8")),
        figures={name: _inline(drawing) for name, drawing in drawings.items()},
        **_summary_context(contents),
        **_effects_context(contents),
        **_pairs_context(contents),
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


def _summary_context(contents: ReportContents) -> dict[str, Any]:
    verdicts = _ordered(contents.verdicts)
    primary = [row for row in verdicts if row["measure"] == PRIMARY_MEASURE]
    debiased = _by_place(contents.effects_of("debiased"))
    for row in verdicts:
        row["effect"] = debiased.get((row["measure"], row["region"]))
        row["reason"] = _reason(row)
    headline = [row for row in primary if row["region"] in words.HEADLINE_REGIONS]
    return {
        "headline": headline or primary[:4],
        "other_verdicts": [row for row in verdicts if row not in (headline or primary[:4])],
        "trust": trust_facts(contents),
    }


def _reason(row: Mapping[str, Any]) -> str:
    """The sentence of a verdict without the words that stand beside it anyway."""
    _, found, reason = str(row["sentence"]).partition(f": {row['verdict']}. ")
    return reason if found else str(row["sentence"])


def trust_facts(contents: ReportContents) -> dict[str, Any] | None:
    """What the placebos say about the model's own intervals, for mean HU over the lung regions.

    None without placebos.  half_width: median half width of the model's own interval for the
    studied effect, HU; largest: the largest placebo effect, HU; missed, missed_debiased: how many
    of `intervals` and `intervals_debiased` exclude 0.
    """
    lungs = {kind: _lung_rows(contents, kind) for kind in words.KINDS}
    placebo, debiased, own = (
        lungs[kind] for kind in ("placebo", "placebo_debiased", "model_implied")
    )
    if placebo.empty:
        return None
    largest = max(records(placebo), key=lambda row: abs(row["effect"]))
    return {
        "half_width": float((own["ci_high"] - own["ci_low"]).median() / 2),
        "largest": abs(largest["effect"]),
        "largest_region": largest["region"],
        "placebos": int(placebo["contrast"].nunique()),
        "intervals": len(placebo),
        "missed": _excluding_zero(placebo),
        "intervals_debiased": len(debiased),
        "missed_debiased": _excluding_zero(debiased),
    }


def _lung_rows(contents: ReportContents, kind: str) -> pd.DataFrame:
    rows = contents.effects_of(kind, PRIMARY_MEASURE)
    return rows[~rows["region"].isin(CONTROL_REGIONS) & rows["ci_low"].notna()]


def _excluding_zero(rows: pd.DataFrame) -> int:
    return int(((rows["ci_low"] > 0) | (rows["ci_high"] < 0)).sum())


def _effects_context(contents: ReportContents) -> dict[str, Any]:
    rows = effect_table(contents)
    return {
        "effect_rows": rows,
        "primary_rows": [row for row in rows if row["measure"] == PRIMARY_MEASURE],
        "effect_measures": list(dict.fromkeys(row["measure"] for row in rows)),
        "effect_regions": list(dict.fromkeys(row["region"] for row in rows)),
        "folds": fold_table(contents),
        "statistic_rows": statistic_rows(contents),
        "effect_methods": effect_methods(contents),
        "truth_rows": [] if contents.truth is None else _ordered(contents.truth),
    }


def effect_methods(contents: ReportContents) -> list[tuple[str, str]]:
    """(kind, method) for each kind; what a method text adds for one row alone is left out."""
    known = contents.effects.dropna(subset=["effect"])
    return [
        (label, ", or ".join(dict.fromkeys(method.partition(";")[0] for method in methods)))
        for kind, label in words.KINDS.items()
        if len(methods := known[known["kind"] == kind]["method"].astype(str))
    ]


def effect_table(contents: ReportContents) -> list[dict[str, Any]]:
    """One row for each measure and region, with the four numbers side by side.

    Keys: measure, region, unit, n, pairs, one row of effects (or None) for each of FOUR_NUMBERS,
    placebo_low, placebo_high and placebo_size (range and largest), placebos and placebos_covered
    (debiased intervals, and how many cover 0), truth.
    """
    kinds = {kind: _by_place(contents.effects_of(kind)) for kind in FOUR_NUMBERS}
    placebos = {kind: contents.effects_of(kind) for kind in ("placebo", "placebo_debiased")}
    grouped = {
        kind: dict(list(rows.groupby(["measure", "region"]))) for kind, rows in placebos.items()
    }
    truths = {} if contents.truth is None else _by_place(contents.truth)
    places = contents.effects[["measure", "region"]].drop_duplicates()
    rows = []
    for place in _ordered(places):
        key = (place["measure"], place["region"])
        numbers = {kind: kinds[kind].get(key) for kind in FOUR_NUMBERS}
        any_row = next((row for row in numbers.values() if row), None)
        if any_row is None:
            continue
        rows.append(
            place
            | numbers
            | {"unit": any_row["unit"], "truth": truths.get(key)}
            | _sizes(numbers)
            | _placebo_cells(grouped["placebo"].get(key), grouped["placebo_debiased"].get(key))
        )
    return rows


def _sizes(numbers: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    """n: the scans of the debiased (or observed) effect; pairs: those of the model-implied one."""
    sizes = {kind: row["n"] for kind, row in numbers.items() if row}
    pairs = sizes.get("model_implied")
    return {"n": sizes.get("debiased", sizes.get("observed", pairs)), "pairs": pairs}


def _placebo_cells(implied: pd.DataFrame | None, debiased: pd.DataFrame | None) -> dict[str, Any]:
    known = None if debiased is None else debiased[debiased["ci_low"].notna()]
    return {
        "placebo_size": None if implied is None else float(implied["effect"].abs().max()),
        "placebo_low": None if implied is None else float(implied["effect"].min()),
        "placebo_high": None if implied is None else float(implied["effect"].max()),
        "placebos": 0 if known is None else len(known),
        "placebos_covered": 0 if known is None else len(known) - _excluding_zero(known),
    }


def statistic_rows(contents: ReportContents) -> list[dict[str, Any]]:
    """Further statistics of the primary measure and of the distance, in the headline regions."""
    table = contents.statistics
    if table is None or table.empty:
        return []
    shown = table["region"].isin(words.HEADLINE_REGIONS)
    shown &= table["measure"].isin((PRIMARY_MEASURE, "wasserstein_hu"))
    rows = records(table[shown])
    return sorted(
        rows, key=lambda row: (words.region_order(row["region"]), row["kind"] == "placebo")
    )


def fold_table(contents: ReportContents) -> pd.DataFrame:
    """Model-implied change of mean HU by region (rows) and fold (columns): how steady it is.

    Empty with fewer than two folds.
    """
    if not contents.measures["arm"].isin(contents.arms).any():
        return pd.DataFrame()
    effects = fold_effects(contents.measures, Contrast(contents.attribute, *contents.levels))
    shown = effects["region"].isin(words.HEADLINE_REGIONS)
    shown &= effects["measure"] == PRIMARY_MEASURE
    wide = effects[shown].pivot(index="region", columns="fold", values="effect")
    ordered = wide.loc[sorted(wide.index, key=words.region_order)]
    return ordered if ordered.shape[1] > 1 else pd.DataFrame()


def _by_place(table: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["measure"], row["region"]): row for row in records(table)}


def _ordered(table: pd.DataFrame) -> list[dict[str, Any]]:
    def place(row: Mapping[str, Any]) -> tuple[int, str, int, str]:
        measure, region = row["measure"], row["region"]
        return words.measure_order(measure), measure, words.region_order(region), region

    return sorted(records(table), key=place)


def _pairs_context(contents: ReportContents) -> dict[str, Any]:
    packed = pack_pairs(contents.pairs)
    thumbnails, unreadable = qc_thumbnails(contents.qc)
    return {
        "packed": packed,
        "pair_count": max(len(contents.summaries), len(contents.pairs)),
        "map_rows": map_rows(contents),
        "viewer": viewer_settings(contents.pairs, contents.levels) if packed else None,
        "thumbnails": thumbnails,
        "unreadable": unreadable,
    }


def map_rows(contents: ReportContents) -> list[dict[str, Any]]:
    """One row for each group map, as maps.tsv holds them."""
    return [] if contents.maps is None else records(summary_table(contents.maps, contents.contrast))


def qc_thumbnails(paths: Sequence[tuple[str, Path]]) -> tuple[list[tuple[str, str]], list[str]]:
    """(subject, data address) of up to MAX_THUMBNAILS pictures, evenly spaced over the cohort.

    The second list names the subjects whose picture cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MAX_THUMBNAILS)).round())
    thumbnails, unreadable = [], []
    for place in chosen.astype(int):
        subject, path = paths[place]
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
    return {
        "balance_rows": [] if balance is None else records(balance),
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
        "trust": trust_facts(contents),
        "effects": contents.effects,
        "folds": fold_table(contents).reset_index(),
        "truth": contents.truth,
        "placebo_words": contents.placebo_words,
        "balance": contents.balance,
        "counts": contents.counts,
        "cohort": contents.cohort,
        "exclusions": contents.exclusions,
        "failures": contents.failures,
        "fit": contents.fit,
        "training": {str(fold): log for fold, log in contents.training.items()},
        "maps": map_rows(contents),
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
    return json.dumps(plain(document), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Tables, arrays, paths and mappings as JSON knows them; NaN and infinity become None."""
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in records(value)]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def script_json(value: Any) -> Markup:
    """JSON that may stand inside a <script> element: no text in it can close the element."""
    text = json.dumps(plain(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
