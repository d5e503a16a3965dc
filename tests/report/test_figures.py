"""The figures and how they enter a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.report.drawing import THEME, Drawing
from dgmvlc_cli.report.figures import FIGURES, draw_all

Build = Callable[..., ReportContents]


@pytest.fixture(scope="module")
def drawings(contents: ReportContents) -> dict[str, Drawing]:
    return draw_all(contents)


def test_every_figure_is_drawn_and_brings_its_numbers(drawings: dict[str, Drawing]) -> None:
    assert len(drawings) == len(FIGURES)
    for drawing in drawings.values():
        assert len(drawing.data), drawing.name
        assert drawing.alt and drawing.caption and drawing.title


def test_figures_leave_no_global_setting_behind(contents: ReportContents) -> None:
    before = dict(mpl.rcParams) | {"backend": None}
    draw_all(contents)["forest"].png()
    assert dict(mpl.rcParams) | {"backend": None} == before


def test_files_are_a_picture_a_drawing_and_a_table(
    drawings: dict[str, Drawing], tmp_path: Path
) -> None:
    files = drawings["forest"].write(tmp_path / "figures")
    assert set(files) == {"png", "svg", "tsv"}
    assert (tmp_path / files["png"]).read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(tmp_path / files["svg"])
    read = pd.read_csv(tmp_path / files["tsv"], sep="\t")
    pd.testing.assert_series_equal(read["effect"], drawings["forest"].data["effect"])


def test_inline_drawings_follow_the_page_and_share_no_id(drawings: dict[str, Drawing]) -> None:
    page = "".join(drawing.inline_svg() for drawing in drawings.values())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(ids)
    for colour in THEME:
        assert colour.lower() not in page.lower()
    assert "DejaVu" not in page
    for drawing in drawings.values():
        ElementTree.fromstring(
            drawing.inline_svg().replace("<svg ", '<svg xmlns:xlink="x" xmlns="y" ', 1)
        )


def test_dollars_and_markup_in_a_level_are_only_text(
    build: Build, contents: ReportContents
) -> None:
    contrast = "smoking: <b>x</b> -> $\\frac"
    effects = contents.effects.replace({"contrast": {contents.contrast: contrast}})
    forest = draw_all(build(contrast=contrast, effects=effects))["forest"]
    svg = forest.inline_svg()
    assert "&lt;b&gt;x&lt;/b&gt; → $\\frac" in svg
    assert "<b>" not in svg


def test_missing_effects_leave_gaps_not_errors(build: Build, contents: ReportContents) -> None:
    effects = contents.effects.copy()
    effects.loc[effects["region"] == "upper", ["n", "effect", "ci_low", "ci_high", "p"]] = np.nan
    assert "forest" in draw_all(build(effects=effects))
    effects[["n", "effect", "ci_low", "ci_high"]] = np.nan
    assert "forest" not in draw_all(build(effects=effects))


def test_figures_without_their_numbers_are_left_out(build: Build, contents: ReportContents) -> None:
    bare = build(
        pairs=(),
        fit=(),
        training={},
        balance=None,
        truth=None,
        effects=contents.effects[~contents.effects["kind"].str.startswith("placebo")],
        measures=contents.measures.iloc[:0],
    )
    assert set(draw_all(bare)) == {"forest", "controls"}


def test_seeds_of_one_subject_are_averaged_in_the_slopes(
    build: Build, contents: ReportContents
) -> None:
    twice = contents.measures.copy()
    twice["seed"] = 1
    twice["value"] += 10
    both = pd.concat([contents.measures, twice])
    data = draw_all(build(measures=both))["slopes"].data
    once = draw_all(contents)["slopes"].data
    assert len(data) == len(once)
    np.testing.assert_allclose(data.iloc[:, 2], once.iloc[:, 2] + 5)


def test_the_table_of_the_map_holds_every_cell_drawn(drawings: dict[str, Drawing]) -> None:
    data = drawings["map"].data
    profile = data[data["view"] == "height"]
    assert (profile["low"] < profile["mean"]).all() and (profile["mean"] < profile["high"]).all()
    for view in ("front", "side"):
        cells = data[data["view"] == view]
        assert cells["mean"].notna().all()
        assert cells[["height", "across"]].max().max() < 1
        top = cells[cells["height"] > 2 / 3]["mean"].mean()
        assert top < cells[cells["height"] < 1 / 3]["mean"].mean() - 15
