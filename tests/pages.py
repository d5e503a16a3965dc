"""Read a report as a sceptic: where does each number come from?"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

VOID = {"meta", "link", "br", "img", "input", "hr"}
NUMBER = r"\d+(?:\.\d+)?"


class Numbers(HTMLParser):
    """Every element with a number behind it, with the tables that it says it comes from.

    found: source, attribute, value.  bare: texts of number cells that have no value behind them.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.found: list[tuple[str, str, float]] = []
        self.bare: list[str] = []
        self.number_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag not in VOID:
            outer = self.sources[-1] if self.sources else ""
            self.sources.append(str(known.get("data-source") or outer))
        values = [name for name in known if name in VALUES]
        for name in values:
            if known[name]:
                self.found.append((self.sources[-1], name, float(str(known[name]))))
        self.number_cell = tag == "td" and "num" in str(known.get("class")).split() and not values

    def handle_endtag(self, tag: str) -> None:
        self.sources.pop()
        self.number_cell = False

    def handle_data(self, data: str) -> None:
        if self.number_cell and re.search(NUMBER, data):
            self.bare.append(data)


VALUES = ("data-value", "data-low", "data-high", "data-adjusted")


def trace_numbers(folder: Path) -> dict[str, int]:
    """How many numbers of report.html were found in each source; AssertionError for a stray one."""
    page = Numbers((folder / "report.html").read_text("utf-8"))
    assert not page.bare, page.bare
    traced: dict[str, int] = {}
    known: dict[str, np.ndarray] = {}
    for source, name, value in page.found:
        if source not in known:
            paths = [folder / path for path in source.split() if (folder / path).exists()]
            assert paths, f"no table {source!r} for {name}={value}"
            known[source] = np.concatenate(
                [pd.read_csv(path, sep="\t").select_dtypes("number").to_numpy(float).ravel()
                 for path in paths]
            )  # fmt: skip
        hit = np.isclose(known[source], value, rtol=1e-7, atol=1e-9).any()
        assert hit, f"{name}={value} is not in {source}"
        traced[source] = traced.get(source, 0) + 1
    return traced


def written(paths: list[Path]) -> set[str]:
    """Every number of some tables as prose would write it: whole, or to one or two decimals."""
    known: set[str] = set()
    for path in paths:
        for column in (table := pd.read_csv(path, sep="\t")):
            for cell in table[column].dropna():
                if isinstance(cell, str):
                    known |= set(re.findall(NUMBER, cell))
                else:
                    known |= {f"{abs(cell):.{places}f}" for places in (0, 1, 2)}
    return known
