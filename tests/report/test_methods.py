"""Methods prose from the stages that ran."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dgmvlc_cli.analysis.contrasts import MIN_SUBJECTS, Contrast, joint_edit
from dgmvlc_cli.analysis.debias import CLIP, FOLDS
from dgmvlc_cli.report.assemble import _estimand
from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.report.html import render
from dgmvlc_cli.report.methods import describe_methods, methods_markdown
from dgmvlc_cli.report.numbers import numbers_of
from dgmvlc_cli.report.references import REFERENCES, cited

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


def test_the_estimator_named_is_that_of_the_contrast(build: Build) -> None:
    said = {
        estimand: methods_markdown(
            build(methods={"analyze": {"estimand": estimand, "covariates": ["age"]}})
        )
        for estimand in ("overlap", "slope", "none")
    }
    assert "overlap weights" in said["overlap"] and "residual on residual" not in said["overlap"]
    assert (
        f"logistic regression (multinomial for several levels) clipped at {CLIP:g}"
        in said["overlap"]
    )
    assert "residual on residual" in said["slope"] and "Robinson PM" in said["slope"]
    assert "inverse-probability" not in said["slope"] and "clipped" not in said["slope"]
    assert "no debiased effect" in said["none"] and "outcome model" not in said["none"]


def test_what_is_incomplete_in_the_adjustment_is_said(contents: ReportContents) -> None:
    text = methods_markdown(contents)
    assert "nothing was imputed" not in text
    assert f"indicator column where at least {MIN_SUBJECTS} subjects lack it" in text
    assert f"cross-fitted {FOLDS}-fold; the median over five random divisions" in text
    assert "curved in a covariate is not fully removed" in text
    assert "over all measures and lung regions of one kind of effect and one contrast" in text
    assert "the observed association and the mixed model were not" in text


def test_a_covariate_that_could_not_enter_is_named_as_such(build: Build) -> None:
    facts = {"covariates": ["age"], "left_out": ["reconstruction_kernel"]}
    text = methods_markdown(build(methods={"analyze": facts}))
    assert "adjusted for age." in text
    assert "could not be adjusted for reconstruction kernel: fewer than 5 subjects" in text


@pytest.mark.parametrize(
    ("contrast", "estimand"),
    [
        (Contrast("smoking", "never", "current"), "overlap"),
        (Contrast("age", 45.0, 65.0), "slope"),
        (joint_edit({"age": 70.0, "smoking": "never"}), "none"),
    ],
)
def test_a_number_has_a_slope_and_a_joint_edit_no_group(contrast: Contrast, estimand: str) -> None:
    assert _estimand(contrast) == estimand


@pytest.mark.parametrize(("folds", "told"), [(2, True), (5, False)])
def test_two_trainings_are_told_to_be_few(build: Build, folds: int, told: bool) -> None:
    made = build(methods={"train": {"folds": folds}, "analyze": {}})
    assert ("interval is too narrow" in methods_markdown(made)) == told
    page = render(made, {}, numbers_of(made))
    assert ("Two trainings tell too little" in page) == told


def test_pairs_are_said_to_be_of_the_subjects_that_are_counted(build: Build) -> None:
    said = {
        estimand: methods_markdown(
            build(methods={"counterfactual": {}, "analyze": {"estimand": estimand}})
        )
        for estimand in ("overlap", "slope", "none")
    }
    assert "For every held-out subject at either level two images" in said["overlap"]
    assert "For every held-out subject whose smoking is known two images" in said["slope"]
    assert "For every held-out subject two images" in said["none"]


def test_a_planted_control_is_described_as_one(build: Build) -> None:
    facts = {"effect_hu": -10.0, "region": "lungs", "carriers": 12}
    made = build(methods={"plant": facts})
    text = methods_markdown(made)
    assert "change of -10 HU was planted into every voxel of one region (both lungs)" in text
    assert "random half of the subjects (12)" in text and made.truth_label == "Truth (planted)"
    page = render(made, {}, numbers_of(made))
    assert "planted into these scans" in page and "The cohort is a phantom" not in page


def test_an_encoder_of_the_users_own_is_not_named_by_its_folder(build: Build) -> None:
    text = methods_markdown(build(methods={"describe": {"encoder": "a folder"}}))
    assert "embedded by a frozen text encoder of the user's own;" in text


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
