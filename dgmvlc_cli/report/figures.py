"""The figures of a report: one function each, from the report's contents to a Drawing.

Every function returns None when its numbers are not there, and the report leaves the place out.
"""

from __future__ import annotations

from collections.abc import Callable

from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.report.drawing import Drawing, house_style
from dgmvlc_cli.report.figures_effects import (
    draw_controls,
    draw_forest,
    draw_measures,
    draw_placebos,
    draw_slopes,
)
from dgmvlc_cli.report.figures_images import draw_histogram, draw_pairs
from dgmvlc_cli.report.figures_maps import draw_heights, draw_map
from dgmvlc_cli.report.figures_model import draw_balance, draw_calibration, draw_training

FIGURES: tuple[Callable[[ReportContents], Drawing | None], ...] = (
    draw_forest,
    draw_measures,
    draw_pairs,
    draw_slopes,
    draw_placebos,
    draw_map,
    draw_heights,
    draw_histogram,
    draw_controls,
    draw_calibration,
    draw_training,
    draw_balance,
)


def draw_all(contents: ReportContents) -> dict[str, Drawing]:
    """Every figure whose numbers are there, by name."""
    with house_style():
        drawings = [draw(contents) for draw in FIGURES]
    return {drawing.name: drawing for drawing in drawings if drawing is not None}
