"""Whether an effect can be believed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from effect_rows import SMOKING, evidence, row
from simulated_cohort import WORDS, design_of, measures_of, simulate

from dgmvlc_cli.analysis.effects import Contrast, estimate_effects
from dgmvlc_cli.analysis.placebos import placebo_coverage
from dgmvlc_cli.analysis.verdicts import (
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    summary_sentence,
    verdicts,
)


def judged(effects: pd.DataFrame) -> tuple[str, str]:
    (found,) = verdicts(effects).itertuples()
    return found.verdict, found.sentence


def test_real_scans_and_model_in_agreement_are_support():
    assert judged(evidence((-22.1, 9.0), -19.4)) == (
        SUPPORTED,
        "Mean HU, upper third: supported. In the real scans, current smoker differs from never "
        "smoker by -22.1 HU [-31.1, -13.1] (debiased); the model says -19.4 HU, its largest "
        "placebo 3.2 HU.",
    )


def test_neither_real_scans_nor_model_is_no_support():
    verdict, sentence = judged(evidence((-3.0, 9.0), -2.0))
    assert verdict == NOT_SUPPORTED
    assert "do not show it: -3 HU [-12, 6]" in sentence
    assert "no more than chance explains (p_placebo 0." in sentence


@pytest.mark.parametrize(
    ("effects", "because"),
    [
        (evidence((-22.1, 9.0), 19.4), "but the model says 19.4 HU"),
        (evidence((-22.1, 9.0), -3.0), "but the model says -3 HU"),
        (evidence((-3.0, 9.0), -40.0), "do not settle it"),
        (evidence((-22.1, 9.0), -19.4, placebos=()), "nothing to judge it by"),
        (evidence((-22.1, 9.0), 0.0), "the model does not answer the sentence"),
        (evidence((-22.1, 9.0), 0.0).assign(measure="volume_ml"), "the model holds it fixed"),
        (evidence((np.nan, np.nan), -19.4, method="3 subjects"), "not be estimated: 3 subjects"),
        (evidence((-22.1, np.inf), -19.4, method="3 subjects"), "not be estimated: 3 subjects"),
        (evidence((-3.0, 9.0), -20.0, placebos=(0.0, 0.0)), "answers no placebo"),
    ],
    ids=[
        "opposite",
        "within placebos",
        "model alone",
        "no placebo",
        "deaf",
        "held fixed",
        "missing",
        "endless",
        "placebos of nothing",
    ],
)
def test_disagreement_is_undecided_and_says_why(effects, because):
    verdict, sentence = judged(effects)
    assert verdict == UNDECIDED
    assert because in sentence


def test_scans_whose_whole_difference_is_the_opposite_are_undecided():
    effects = evidence((-22.1, 9.0), -19.4)
    opposite = pd.concat([effects, pd.DataFrame([row("observed", 25.0, 9.0)])])
    verdict, sentence = judged(opposite)
    assert verdict == UNDECIDED
    assert "but their whole difference is 25 HU: " in sentence
    unclear = pd.concat([effects, pd.DataFrame([row("observed", 5.0, 9.0)])])
    assert judged(unclear)[0] == SUPPORTED


def test_a_summary_says_why_nothing_could_be_judged():
    for effects, why in (
        (evidence((np.nan, np.nan), -19.4, method="3 subjects"), "3 subjects"),
        (evidence((-22.1, 9.0), -19.4, placebos=()), "there is no placebo"),
    ):
        said = summary_sentence(verdicts(effects), effects)
        assert f"none of 1 comparisons could be judged: {why}." in said


def test_a_summary_leaves_out_paired_intervals_of_placebos_that_nothing_answers():
    effects = evidence((-3.0, 9.0), -2.0, placebos=(0.0, 0.0))
    effects.loc[effects["kind"] == "placebo", ["ci_low", "ci_high"]] = 0.0
    said = summary_sentence(verdicts(effects), effects)
    assert said.endswith("100 % cover 0 (95 % should) (2 placebos, 2 intervals, not independent).")
    assert "nan" not in said


def test_an_interval_that_adjustment_takes_back_is_undecided():
    effects = evidence((-10.0, 9.0), -19.4)
    effects.loc[effects["kind"] == "debiased", "p_adjusted"] = 0.2
    verdict, sentence = judged(effects)
    assert verdict == UNDECIDED and "may be chance" in sentence


def test_negative_controls_get_no_verdict():
    assert verdicts(evidence((-22.1, 9.0), -19.4).assign(region="airway")).empty


def test_the_summary_names_the_clearest_and_the_placebos():
    effects = evidence((-22.1, 9.0), -19.4)
    sentence = summary_sentence(verdicts(effects), effects)
    assert sentence.startswith(f"{SMOKING.text}: 1 of 1 comparisons is supported. The clearest: ")
    assert "Mean HU, upper third. In the real scans" in sentence
    assert "debiased intervals 100 % cover 0" in sentence
    nothing = evidence((-3.0, 9.0), -2.0)
    assert "no effect is claimed" in summary_sentence(verdicts(nothing), nothing)


def test_a_null_cohort_claims_nothing_and_its_placebos_cover_zero():
    outcomes = (("mean_hu", "upper"), ("mean_hu", "lower"))
    placebos = [Contrast(f"placebo_{k}", *WORDS.values()) for k in (1, 2)]
    supported, covered, total = 0, 0, 0
    for seed in range(25):
        rng = np.random.default_rng([seed, 5])
        cohort = simulate(rng, 80, effect=0.0)
        design = design_of(cohort, rng)
        measures = measures_of(
            cohort, design, rng, generator="overfitted", outcomes=outcomes, placebo_effect=3.0
        )
        effects = estimate_effects(measures, design, SMOKING, placebos, ["age", "sex", "bmi"], seed)
        supported += (verdicts(effects)["verdict"] == SUPPORTED).any()
        coverage = placebo_coverage(effects[effects["region"] == "upper"])
        covered, total = covered + coverage.covered, total + coverage.total
    assert supported <= 3
    assert covered / total >= 0.86
