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
from conftest import make_pair

from dgmvlc_cli.report import figures_maps
from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.report.drawing import THEME, Drawing, panels
from dgmvlc_cli.report.figures import FIGURES, draw_all
from dgmvlc_cli.report.figures_effects import draw_forest
from dgmvlc_cli.report.summaries import shown_difference

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
        summaries=(),
        maps=None,
        fit=(),
        training={},
        balance=None,
        truth=None,
        effects=contents.effects[~contents.effects["kind"].str.startswith("placebo")],
        measures=contents.measures.iloc[:0],
    )
    assert set(draw_all(bare)) == {"forest", "measures", "controls"}


def test_the_main_measures_have_a_panel_each(
    drawings: dict[str, Drawing], build: Build, contents: ReportContents
) -> None:
    data = drawings["measures"].data
    assert set(data["measure"]) == {"mean_hu", "sd_hu", "laa950_percent"}
    assert set(data["region"]) == {"lungs", "upper", "middle", "lower"}
    panels_shown = [axes for axes in drawings["measures"].figure.axes if axes.get_visible()]
    shown = [axes.get_title(loc="left") for axes in panels_shown]
    assert shown == ["Mean HU", "LAA−950 (%)", "SD of HU"]
    alone = contents.effects[contents.effects["measure"] == "mean_hu"]
    assert "measures" not in draw_all(build(effects=alone))


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


def test_the_table_of_the_map_holds_every_cell_drawn(
    drawings: dict[str, Drawing], contents: ReportContents
) -> None:
    data, maps = drawings["map"].data, contents.maps
    assert maps is not None
    model = data[data["map"] == "model_implied"]
    assert len(model) == maps.group["model_implied"].mask.sum()
    assert model[["effect", "t", "p_max", "p_tfce"]].notna().all().all()
    top = model[model["height"] > 2 / 3]["effect"].mean()
    assert top < model[model["height"] < 1 / 3]["effect"].mean() - 15
    assert {"model_implied", "observed", "truth"} == set(data["map"])
    assert "Truth" in drawings["map"].svg and "Real scans" in drawings["map"].svg


def test_the_heights_have_bands_for_the_model_and_lines_for_the_placebos(
    drawings: dict[str, Drawing],
) -> None:
    data = drawings["heights"].data
    own = data[(data["view"] == "height") & (data["line"] == "model_implied")]
    assert (own["low"] < own["mean"]).all() and (own["mean"] < own["high"]).all()
    assert data[data["view"] == "height"]["line"].nunique() == 1 + 2 + 1
    assert set(data[data["view"] == "pleura"]["line"]) == {"lower", "middle", "upper"}


def test_outlines_run_around_the_marked_cells_alone() -> None:
    _, (axes,) = panels(3, 3)
    marked = np.zeros((4, 4), bool)
    marked[1:3, 1:3] = True
    figures_maps._outline(axes, marked)
    (outline,) = axes.collections
    ends = np.array(outline.get_segments())
    assert len(ends) == 8
    assert ends.min() == 1 and ends.max() == 3


def test_clipped_voxels_leave_no_specks_in_the_difference() -> None:
    pair = make_pair(1)
    place = tuple(np.argwhere(pair.lung)[len(np.argwhere(pair.lung)) // 2])
    for hu in (pair.reference_hu, pair.target_hu):
        hu[place] = -1024
    shown = shown_difference(pair)
    assert pair.difference_hu[place] == 0
    assert shown[place] < -1 or shown[place] > 1
    elsewhere = ~pair.clipped
    np.testing.assert_array_equal(shown[elsewhere], pair.difference_hu[elsewhere])


def test_lobes_that_not_everybody_has_are_drawn_with_the_number_of_those_who_have_them(
    build: Build, contents: ReportContents
) -> None:
    upper = contents.effects[contents.effects["region"] == "upper"]
    lobe = upper.assign(region="right_upper_lobe", n=upper["n"] - 7)
    forest = draw_forest(build(effects=pd.concat([contents.effects, lobe])))
    most = int(contents.effects["n"].max())
    assert forest is not None and "Right upper lobe" in forest.svg
    assert f"(n = {most}, lobes {most - 7})" in forest.svg
    everybody = draw_forest(contents)
    assert everybody is not None and "lobes" not in everybody.svg
