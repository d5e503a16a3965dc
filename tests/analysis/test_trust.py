from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_cohort import LEVELS, WORDS, design_of, measures_of, simulate

from dgmvlc_cli.analysis.effects import Contrast, adjust, estimate_effects
from dgmvlc_cli.analysis.trust import (
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    compare_truth,
    number,
    placebo_calibration,
    placebo_coverage,
    recovery_line,
    recovery_table,
    recovery_words,
    summary_sentence,
    verdicts,
    with_placebo_p,
)
from dgmvlc_cli.errors import DgmvlcError

SMOKING = Contrast("smoking", *LEVELS)


def row(kind: str, effect: float, half: float, contrast: str = SMOKING.text, **more) -> dict:
    return {
        "measure": "mean_hu",
        "region": "upper",
        "contrast": contrast,
        "kind": kind,
        "n": 96,
        "effect": effect,
        "ci_low": effect - half,
        "ci_high": effect + half,
        "p": 2 * stats.norm.sf(1.96 * abs(effect) / half) if half else 1.0,
        "p_adjusted": np.nan,
        "unit": "HU",
        "method": "",
        **more,
    }


def evidence(
    debiased: tuple[float, float],
    model: float,
    placebos: tuple[float, ...] = (3.2, -1.5),
    **more,
) -> pd.DataFrame:
    """Effects of one outcome.  debiased: effect and half width of its interval."""
    rows = [row("debiased", *debiased, **more), row("model_implied", model, 1.0 if model else 0.0)]
    for k, effect in enumerate(placebos):
        words = f"placebo_{k}: birch -> maple"
        rows += [row("placebo", effect, 1.0, words), row("placebo_debiased", effect, 5.0, words)]
    return adjust(pd.DataFrame(rows))


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


@pytest.mark.parametrize(
    ("effects", "because"),
    [
        (evidence((-22.1, 9.0), 19.4), "but the model says 19.4 HU"),
        (evidence((-22.1, 9.0), -3.0), "but the model says -3 HU"),
        (evidence((-3.0, 9.0), -40.0), "do not settle it"),
        (evidence((-22.1, 9.0), -19.4, placebos=()), "nothing to judge it by"),
        (evidence((-22.1, 9.0), 0.0), "the model holds it fixed"),
        (evidence((np.nan, np.nan), -19.4, method="3 subjects"), "not be estimated: 3 subjects"),
    ],
    ids=["opposite", "within placebos", "model alone", "no placebo", "held fixed", "missing"],
)
def test_disagreement_is_undecided_and_says_why(effects, because):
    verdict, sentence = judged(effects)
    assert verdict == UNDECIDED
    assert because in sentence


def test_an_interval_that_adjustment_takes_back_is_undecided():
    effects = evidence((-10.0, 9.0), -19.4)
    effects.loc[effects["kind"] == "debiased", "p_adjusted"] = 0.2
    verdict, sentence = judged(effects)
    assert verdict == UNDECIDED and "may be chance" in sentence


def test_negative_controls_get_no_verdict():
    assert verdicts(evidence((-22.1, 9.0), -19.4).assign(region="airway")).empty


def test_the_effect_is_judged_by_placebos_and_real_scans_together():
    (got,) = placebo_calibration(evidence((-22.1, 9.0), -19.4)).itertuples()
    rms, se = np.sqrt((3.2**2 + 1.5**2) / 2), 9.0 / stats.norm.ppf(0.975)
    assert (got.placebos, got.largest) == (2, 3.2)
    assert got.rms == pytest.approx(rms)
    assert got.p == pytest.approx(2 * stats.t.sf(19.4 / rms, 2))  # the larger one
    quiet = evidence((-5.0, 9.0), -6.0, placebos=(0.1, -0.1, 0.1, -0.1))
    (got,) = placebo_calibration(quiet).itertuples()
    assert got.p == pytest.approx(2 * stats.norm.sf(6.0 / se))
    missing = evidence((np.nan, np.nan), -19.4, method="3 subjects")
    (got,) = placebo_calibration(missing).itertuples()
    assert got.p == pytest.approx(2 * stats.t.sf(19.4 / rms, 2))


def test_the_calibrated_p_stands_beside_the_effect_with_its_method():
    table = with_placebo_p(evidence((-22.1, 9.0), -19.4).assign(method="paired"))
    own = table["kind"] == "model_implied"
    want = placebo_calibration(table)["p"].tolist()
    assert table.loc[own, "p_placebo"].tolist() == want
    assert table.loc[own, "method"].item().endswith("the larger p")
    assert table.loc[~own, "p_placebo"].isna().all()
    alone = with_placebo_p(evidence((-22.1, 9.0), -19.4, ()).assign(method="paired"))
    assert alone["p_placebo"].isna().all() and set(alone["method"]) == {"paired"}


@pytest.mark.parametrize("shrunken", [False, True], ids=["as observed", "shrunken"])
def test_a_model_of_nothing_but_chance_is_seldom_called_more(shrunken):
    rng, se = np.random.default_rng(0), 4.0
    draws = rng.normal(0, se, (200, 5))
    if shrunken:  # a generator that drops most chance associations and keeps a few whole
        draws[:, 1:] *= np.where(rng.random((200, 4)) < 0.2, 1.0, 0.1)
    half = stats.norm.ppf(0.975) * se
    p = np.array(
        [
            placebo_calibration(evidence((0.0, half), draw[0], tuple(draw[1:])))["p"].iloc[0]
            for draw in draws
        ]
    )
    assert (0.0 if shrunken else 0.005) < (p < 0.05).mean() < 0.07


def test_coverage_counts_intervals_with_width():
    effects = evidence((-22.1, 9.0), -19.4, placebos=(3.2, -7.0, 0.0))
    assert placebo_coverage(effects).covered == 2
    assert placebo_coverage(effects, "placebo").percent == pytest.approx(100 / 3)


def test_the_summary_names_the_clearest_and_the_placebos():
    effects = evidence((-22.1, 9.0), -19.4)
    sentence = summary_sentence(verdicts(effects), effects)
    assert sentence.startswith(f"{SMOKING.text}: 1 of 1 comparisons are supported. The clearest: ")
    assert "Mean HU, upper third. In the real scans" in sentence
    assert "debiased intervals 100 % cover 0" in sentence
    nothing = evidence((-3.0, 9.0), -2.0)
    assert "no effect is claimed" in summary_sentence(verdicts(nothing), nothing)


def test_two_contrasts_are_not_judged_as_one():
    one = evidence((-22.1, 9.0), -19.4)
    other = one.assign(contrast="sex: female -> male")
    with pytest.raises(DgmvlcError, match="one contrast"):
        verdicts(pd.concat([one, other]))


def test_truth_is_averaged_over_the_subjects_used():
    truth = pd.DataFrame(
        {
            "subject": ["a", "b", "c", "c"],
            "attribute": "smoking",
            "from": [*[LEVELS[0]] * 3, LEVELS[1]],
            "to": [*[LEVELS[1]] * 3, LEVELS[0]],
            "measure": "mean_hu",
            "region": "upper",
            "change": [-20.0, -24.0, -100.0, 100.0],
            "unit": "HU",
        }
    )
    observed = pd.DataFrame([row("observed", -50.0, 9.0)])
    effects = pd.concat([evidence((-22.1, 9.0), -19.4), observed])
    (got,) = compare_truth(effects, truth, ["a", "b"]).itertuples()
    assert (got.n, got.truth) == (2, -22.0)
    assert got.ratio == pytest.approx(19.4 / 22)
    assert got.debiased_covers and not got.observed_covers
    assert compare_truth(effects, truth).loc[0, "truth"] == -48
    assert compare_truth(effects, truth.assign(attribute="age")).empty


def control(effect_hu: float, debiased: float, found: bool) -> tuple[dict, pd.DataFrame]:
    """A planted control and its comparison with the truth."""
    row = {
        "measure": "mean_hu", "region": "upper", "n": 96, "truth": effect_hu, "unit": "HU",
        "model_implied": debiased / 2, "observed": debiased, "debiased": debiased,
        "ci_low": debiased - 9, "ci_high": debiased + 9, "debiased_covers": True,
        "bias": debiased - effect_hu, "slope": debiased / effect_hu, "found": found,
    }  # fmt: skip
    plant = {"effect_hu": effect_hu, "region": "upper", "model": "flow"}
    return plant, pd.DataFrame([row, row | {"region": "lower", "truth": 0.0}])


def test_a_series_of_plants_gives_the_slope_and_the_smallest_that_was_found():
    table = recovery_table([control(20, 18, True), control(5, 2, False), control(-10, -11, True)])
    assert table["effect_hu"].tolist() == [5, -10, 20]
    line = stats.linregress([5, -10, 20], [2, -11, 18])
    assert recovery_line(table) == pytest.approx((line.slope, line.intercept))
    assert recovery_line(table[:1]) == pytest.approx((0.4, 0))
    said = recovery_words(table)
    assert "planted 20 HU as measured, recovered 18 HU [9, 27]" in said[2]
    assert "smallest that was found: 10 HU" in said[-1]
    nothing = recovery_words(recovery_table([control(5, 2, False)]))
    assert nothing[-1] == "none was found: plant more than 5 HU"


@pytest.mark.parametrize(
    ("value", "text"), [(-22.14, "-22.1"), (0.012345, "0.0123"), (1234.5, "1230"), (0, "0")]
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert number(value) == text


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
