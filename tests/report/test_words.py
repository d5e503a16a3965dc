"""Numbers as a reader sees them."""

from __future__ import annotations

import math

import pytest

from dgmvlc_cli.report import words


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (-25.312, "HU", "−25.3"),
        (-0.04, "HU", "0.0"),
        (0.0, "HU", "0.0"),
        (3.256, "%", "3.26"),
        (4550.4, "mL", "4550"),
        (math.nan, "HU", "–"),
        (None, "HU", "–"),
    ],
)
def test_number_rounds_by_unit_with_a_true_minus(value: float, unit: str, text: str) -> None:
    assert words.number(value, unit) == text


def test_an_effect_carries_its_sign_and_zero_has_none() -> None:
    assert words.number(2.0, "HU", sign=True) == "+2.0"
    assert words.number(-2.0, "HU", sign=True) == "−2.0"
    assert words.number(0.01, "HU", sign=True) == "0.0"


def test_interval_needs_both_ends() -> None:
    assert words.interval(-12.34, 4.0, "HU") == "−12.3 to 4.0"
    assert words.interval(-12.34, math.nan, "HU") == "–"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "< 0.001"), (0.0123, "0.012"), (0.31, "0.31"), (1.0, "1.00"), (math.nan, "–")],
)
def test_p_value_is_never_zero(p: float, text: str) -> None:
    assert words.p_value(p) == text


def test_prose_gets_minus_signs_and_arrows_and_keeps_its_hyphens() -> None:
    text = "smoking: a -> b: -25.4 HU [-34.5, -16.3], LAA-950, cross-fitted, ct-64, 2020-11-24"
    assert words.prose(text) == (
        "smoking: a → b: −25.4 HU [−34.5, −16.3], LAA−950, cross-fitted, ct-64, 2020-11-24"
    )


def test_names_unknown_here_are_written_out() -> None:
    assert words.region_label("upper") == "Upper third"
    assert words.region_label("right_apex") == "Right apex"
    assert words.measure_label("laa950_percent") == "LAA−950"
    assert words.measure_label("fractal_dimension") == "Fractal dimension"
    assert words.region_order("right_apex") > words.region_order("outside")


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.1, "8 s"), (360, "6 min"), (9000, "2.5 h"), (None, "–")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


def test_an_encoder_that_is_a_path_is_told_without_it(tmp_path) -> None:
    names = ("minilm", "emilyalsentzer/Bio_ClinicalBERT", "open_clip:org/model")
    assert [words.encoder_label(name) for name in names] == list(names)
    assert words.encoder_label(str(tmp_path)) == words.encoder_label("/gone/jane") == "a folder"
    assert words.encoder_label(f"open_clip:{tmp_path}") == "open_clip:a folder"
