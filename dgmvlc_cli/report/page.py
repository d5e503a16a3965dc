"""What the report and the comparison have in common: how a page is rendered, and its JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dgmvlc_cli import __version__
from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.counting import counted
from dgmvlc_cli.report import words
from dgmvlc_cli.report.contents import records

BADGES = {"supported": "●", "undecided": "◐", "not supported": "○"}


def render_page(template: str, **context: Any) -> str:
    """A template of this folder with its values; whatever text they hold is escaped."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        words=words, counted=counted, badges=BADGES, version=__version__, primary=PRIMARY_MEASURE
    )
    environment.filters.update(json=script_json, prose=words.prose)
    return environment.get_template(template).render(
        css=Markup((folder / "report.css").read_text("utf-8")),
        script=Markup((folder / "report.js").read_text("utf-8")),
        **context,
    )


def json_text(document: Mapping[str, Any]) -> str:
    """A document of plain values as JSON; what is missing is null."""
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
