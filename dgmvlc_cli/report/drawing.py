"""One figure with its words and its numbers, and how it is written and put into a page."""

from __future__ import annotations

import base64
import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dgmvlc_cli.workspace import write_bytes

INK = "#1b2733"
FAINT = "#5f6c79"
RULE = "#d5dbe1"

# Okabe and Ito's palette, colour-blind safe: https://jfly.uni-koeln.de/color/
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PINK, ORANGE, SKY, GREY = "#CC79A7", "#E69F00", "#56B4E9", "#8a96a3"

WIDTH = 7.2
"""Of every figure, inches: at 700 pixels its smallest text is 11 pixels high."""

THEME = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    RULE: "var(--rule)",
    BLUE: "var(--blue)",
    VERMILLION: "var(--vermillion)",
    GREEN: "var(--green)",
    PINK: "var(--pink)",
    ORANGE: "var(--orange)",
    SKY: "var(--sky)",
    GREY: "var(--grey)",
}
"""Colours that follow the page's light or dark scheme; only the page sees this."""

DIVERGING = LinearSegmentedColormap.from_list(
    "blue_vermillion",
    ["#00304f", "#0072B2", "#7db8dc", "#f5f4f1", "#efa878", "#D55E00", "#6b2d00"],
)
"""Less HU is blue, more is vermillion, nothing is near white."""

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "dgmvlc",
    "image.cmap": "gray",
}


def house_style() -> AbstractContextManager[None]:
    """Within it, figures are built and written in the house style, and no setting outlives it."""
    settings: Any = STYLE
    return mpl.rc_context(settings)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure, its caption, its text alternative and the numbers it shows."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    data: pd.DataFrame

    @cached_property
    def svg(self) -> str:
        """The figure as SVG, the same bytes for the same numbers."""
        stream = io.StringIO()
        with house_style():
            self.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        return stream.getvalue()

    def png(self) -> bytes:
        """The figure as PNG on white, 200 dots per inch."""
        stream = io.BytesIO()
        with house_style():
            self.figure.savefig(
                stream, format="png", dpi=200, facecolor="white", metadata={"Software": None}
            )
        return stream.getvalue()

    def inline_svg(self) -> str:
        """SVG that takes the page's font and colours and has ids of its own."""
        return inline_svg(self.svg, self.name, self.alt)

    def write(self, folder: Path) -> dict[str, str]:
        """Write NAME.png, .svg and .tsv into a folder and return their paths from its parent."""
        files: dict[str, str | bytes] = {
            "png": self.png(),
            "svg": self.svg,
            "tsv": self.data.to_csv(sep="\t", index=False, lineterminator="\n"),
        }
        for suffix, content in files.items():
            write_bytes(
                folder / f"{self.name}.{suffix}",
                content.encode() if isinstance(content, str) else content,
            )
        return {suffix: f"{folder.name}/{self.name}.{suffix}" for suffix in files}


def panels(
    width: float, height: float, rows: int = 1, columns: int = 1, **subplots: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, list(axes.ravel())


def inline_svg(svg: str, name: str, alt: str) -> str:
    """Make a stand-alone SVG of matplotlib part of a page.

    Its ids get the figure's name before them, since several figures share one document; its size
    is left to the style sheet; its fonts and colours become the page's.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r"font: ([^;\"]*?)([\d.]+px)[^;\"]*", _font, svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, themed in THEME.items():
        svg = re.sub(re.escape(colour), themed, svg, flags=re.IGNORECASE)
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg {box[0] if box else ""} role="img" aria-label="{_escape(alt)}"'
    return re.sub(r"<svg[^>]*", head, svg, count=1)


def _font(match: re.Match[str]) -> str:
    weight = "font-weight: 600; " if "bold" in match[1] or "700" in match[1] else ""
    return f"{weight}font-size: {match[2]}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """Bytes as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
