"""Methods prose from the stages that ran."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.report.html import render
from dgmvlc_cli.report.methods import REFERENCES, cited, describe_methods, methods_markdown
from dgmvlc_cli.report.numbers import numbers_of

Build = Callable[..., ReportContents]


def test_only_stages_that_ran_are_described(build: Build) -> None:
    paragraphs = describe_methods(build(methods={"train": {"model": "gan"}, "analyze": {}}))
    assert [heading for heading, _ in paragraphs] == ["Generator", "Effects"]


def test_nothing_is_claimed_that_no_stage_recorded(build: Build) -> None:
    text = methods_markdown(build(methods={name: {} for name in ("train", "analyze", "describe")}))
    for claim in (
        "wavelet",
        "folds",
        "HC3",
        "MiniLM",
        "overlap",
        "placebo attributes",
        "flips",
        "None",
    ):
        assert claim not in text, claim


def test_references_listed_are_those_cited(contents: ReportContents) -> None:
    keys = cited(describe_methods(contents))
    assert {"xing2024", "lipman2023", "li2018", "mackinnon1985", "wang2020"} <= set(keys)
    text = methods_markdown(contents)
    for key, reference in REFERENCES.items():
        assert (reference.full in text) == (key in keys)
        assert f"[{key}]" not in text


def test_settings_are_read_as_prose(contents: ReportContents) -> None:
    text = methods_markdown(contents)
    assert "resampled to 8 mm" in text
    assert "(20 × 14 × 20 voxels)" in text
    assert "adjusted for age, sex and BMI" in text
    assert "1,820,000 weights" in text
    assert "Two models were trained" in text
    assert "10,000 sign flips" in text and "smoothed within the lung by 12 mm" in text


@pytest.mark.parametrize(("folds", "told"), [(2, True), (5, False)])
def test_two_trainings_are_told_to_be_few(build: Build, folds: int, told: bool) -> None:
    made = build(methods={"train": {"folds": folds}, "analyze": {}})
    assert ("interval is too narrow" in methods_markdown(made)) == told
    page = render(made, {}, numbers_of(made))
    assert ("Two trainings tell too little" in page) == told


@pytest.mark.parametrize("model", ["flow", "diffusion", "gan", "something-new"])
def test_every_generator_has_its_words(build: Build, model: str) -> None:
    assert "The generator is" in methods_markdown(build(methods={"train": {"model": model}}))


def test_brackets_that_are_no_citation_stay(build: Build) -> None:
    text = methods_markdown(build(methods={"describe": {"encoder": "org/model[v2]"}}))
    assert "org/model[v2]" in text


def test_a_null_phantom_says_that_nothing_was_planted(build: Build) -> None:
    assert "No effect was planted" in methods_markdown(build(methods={"phantom": {"null": True}}))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"mask": "given", "lobes": 18, "lobes_of": 24}, "tells lobes of 18 of 24 subjects; the"),
        ({"mask": "totalsegmentator", "lobes": 24, "lobes_of": 24}, "It tells lobes too"),
    ],
)
def test_it_is_told_who_has_lobes_and_where_they_come_from(
    build: Build, facts: dict[str, object], said: str
) -> None:
    text = methods_markdown(build(methods={"preprocess": facts}))
    assert said in text
    source = "given with the scans" if facts["mask"] == "given" else "taken from totalsegmentator"
    assert source in text
    without = methods_markdown(build(methods={"preprocess": {"mask": "given"}}))
    assert "lobes" not in without
