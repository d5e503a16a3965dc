from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from simulated_cohort import EFFECT, LEVELS, WORDS, design_of, measures_of, simulate

from dgmvlc_cli.analysis.effects import (
    EFFECT_COLUMNS,
    SAME_ARMS,
    Contrast,
    debiased,
    estimate_effects,
    fold_effects,
    mixed,
    model_implied,
    observed,
    sign_flip_p,
)
from dgmvlc_cli.analysis.permutation import FLIPS
from dgmvlc_cli.analysis.readings import Readings
from dgmvlc_cli.errors import DgmvlcError

SMOKING = Contrast("smoking", *LEVELS)
PLACEBOS = [Contrast(f"placebo_{k}", *WORDS.values()) for k in (1, 2)]
COVARIATES = ["age", "sex", "bmi"]
OUTCOMES = (("mean_hu", "upper"), ("mean_hu", "lower"), ("sd_hu", "upper"), ("mean_hu", "airway"))


@pytest.fixture(scope="module")
def study() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measures of 96 subjects in four outcomes, and their clinical table."""
    rng = np.random.default_rng(11)
    cohort = simulate(rng)
    design = design_of(cohort, rng)
    return measures_of(cohort, design, rng, outcomes=OUTCOMES), design


@pytest.fixture(scope="module")
def effects(study) -> pd.DataFrame:
    measures, design = study
    return estimate_effects(measures, design, SMOKING, PLACEBOS, COVARIATES, seed=0)


def arm_differences(measures: pd.DataFrame) -> np.ndarray:
    upper = measures[(measures["measure"] == "mean_hu") & (measures["region"] == "upper")]
    by_arm = upper.groupby(["arm", "subject"])["value"].mean()
    reference, target = (by_arm[arm] for arm in SMOKING.arms)
    return (target - reference).to_numpy()


def test_the_table_has_every_kind_for_every_outcome(effects):
    assert tuple(effects.columns) == EFFECT_COLUMNS
    kinds = effects.groupby("kind").size().to_dict()
    assert kinds == {
        "model_implied": 4,
        "mixed": 4,
        "observed": 4,
        "debiased": 4,
        "placebo": 8,
        "placebo_debiased": 8,
    }
    assert set(effects["contrast"]) == {c.text for c in (SMOKING, *PLACEBOS)}
    assert effects["effect"].notna().all()
    assert (effects["ci_low"] < effects["ci_high"]).all()
    assert effects["p_adjusted"].between(effects["p"], 1).all()


def test_the_planted_effect_is_found(effects):
    upper = effects[(effects["measure"] == "mean_hu") & (effects["region"] == "upper")]
    rows = upper.set_index("kind")
    for kind in ("observed", "debiased"):
        half = (rows.loc[kind, "ci_high"] - rows.loc[kind, "ci_low"]) / 2
        assert rows.loc[kind, "effect"] == pytest.approx(EFFECT, abs=1.5 * half)
        assert rows.loc[kind, "p_adjusted"] < 0.001
    assert rows.loc["model_implied", "effect"] == pytest.approx(0.7 * EFFECT, abs=1)
    assert (rows.loc["placebo_debiased", "ci_low"] < 0).all()
    assert (rows.loc["placebo_debiased", "ci_high"] > 0).all()
    method = rows.loc["debiased", "method"]
    assert "generator weight" in method and "of regression's" in method
    assert "average effect -" in method


def test_model_implied_is_the_paired_t_test(study):
    measures, _ = study
    row = model_implied(measures, SMOKING).iloc[0]
    differences = arm_differences(measures)
    expected = stats.ttest_1samp(differences, 0)
    low, high = expected.confidence_interval()
    assert row["effect"] == pytest.approx(differences.mean())
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high))
    assert row["p"] == 1 / FLIPS
    assert f"d_z {differences.mean() / differences.std(ddof=1):.2f}" in row["method"]


def test_the_mixed_model_stands_beside_and_names_its_components(study):
    measures, _ = study
    paired, beside = model_implied(measures, SMOKING), mixed(measures, SMOKING)
    assert beside["effect"].to_numpy() == pytest.approx(paired["effect"], rel=0.02)
    assert (beside["kind"] == "mixed").all()
    # Both arms of a seed are shifted alike, so the seeds' differences are the same.
    assert beside["method"].str.contains("0 between seeds").all()
    shifted = measures.copy()
    shifted.loc[(shifted["fold"] == 1) & (shifted["arm"] == SMOKING.arms[1]), "value"] += 12
    disagreeing = mixed(shifted, SMOKING).iloc[0]
    assert disagreeing["ci_high"] - disagreeing["ci_low"] > 50
    assert float(disagreeing["method"].split("SD ")[1].split()[0]) == pytest.approx(
        12 / np.sqrt(2), rel=0.1
    )


def test_seeds_are_no_subjects(study):
    measures, _ = study
    arms = measures[measures["arm"] != "observed"]
    again = pd.concat([measures, arms.assign(seed=arms["seed"] + 10)])
    once, twice = (model_implied(table, SMOKING) for table in (measures, again))
    pd.testing.assert_frame_equal(once, twice)
    assert once["n"].eq(96).all()


def test_a_seed_that_failed_in_one_arm_counts_in_neither(study):
    measures, _ = study
    upper = (measures["measure"] == "mean_hu") & (measures["region"] == "upper")
    first = upper & (measures["subject"] == "ph-0000") & (measures["seed"] == 0)
    broken, dropped = measures.copy(), measures[~(first & (measures["arm"] != "observed"))]
    broken.loc[first & (measures["arm"] == SMOKING.arms[0]), "value"] = np.nan
    effect = model_implied(broken, SMOKING)["effect"].iloc[0]
    assert effect == model_implied(dropped, SMOKING)["effect"].iloc[0]


@pytest.mark.parametrize("n", [5, 9])
def test_exact_sign_flips_equal_scipy(n):
    d = np.random.default_rng(n).normal(0.5, 1, n)
    exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(d[:, None], np.random.default_rng(0))[0] == pytest.approx(exact.pvalue)


def test_random_sign_flips_are_near_the_t_test_and_keyed():
    d = np.random.default_rng(1).normal(0.2, 1, (60, 4))
    first, again = (sign_flip_p(d, np.random.default_rng(7)) for _ in range(2))
    assert (first == again).all()
    assert first == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.015)


def test_observed_is_ols_with_hc3(study):
    measures, design = study
    row = observed(measures, design, SMOKING, COVARIATES).iloc[0]
    scans = measures[(measures["arm"] == "observed") & (measures["region"] == "upper")]
    y = scans[scans["measure"] == "mean_hu"].set_index("subject")["value"]
    data = design.assign(y=y, current=design["smoking"] == LEVELS[1])
    fit = smf.ols("y ~ current + age + sex + bmi", data).fit(cov_type="HC3", use_t=True)
    name = "current[T.True]"
    assert row["effect"] == pytest.approx(fit.params[name])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(fit.conf_int().loc[name]))
    assert row["p"] == pytest.approx(fit.pvalues[name])
    assert row["n"] == 96


def test_adjustment_is_benjamini_hochberg_within_kind_over_lung_regions(effects):
    rows = effects[(effects["kind"] == "observed") & (effects["region"] != "airway")]
    assert rows["p_adjusted"].to_numpy() == pytest.approx(stats.false_discovery_control(rows["p"]))
    control = effects[(effects["kind"] == "observed") & (effects["region"] == "airway")]
    assert control["p_adjusted"].to_numpy() == pytest.approx(control["p"].to_numpy())


def test_both_estimands_name_themselves_and_each_other(study):
    measures, design = study
    first, second = (
        debiased(measures, design, SMOKING, COVARIATES, estimand=name).iloc[0]
        for name in ("overlap", "average")
    )
    assert f"average effect {second['effect']:.3g}" in first["method"]
    assert f"overlap-weighted effect {first['effect']:.3g}" in second["method"]
    with pytest.raises(ValueError, match="estimand"):
        debiased(measures, design, SMOKING, COVARIATES, estimand="mean")


def test_results_depend_on_the_seed_and_not_on_the_order_of_rows(study, effects):
    measures, design = study
    shuffled = measures.sample(frac=1, random_state=1)
    mixed = design.sample(frac=1, random_state=2)
    again = estimate_effects(shuffled, mixed, SMOKING, PLACEBOS, COVARIATES, seed=0)
    keys = ["kind", "contrast", "measure", "region"]
    one, two = (table.sort_values(keys).reset_index(drop=True) for table in (effects, again))
    pd.testing.assert_frame_equal(one, two, check_exact=False, rtol=1e-9)


def test_a_table_read_back_from_text_gives_the_same(study, effects, tmp_path):
    measures, design = study
    measures.to_csv(tmp_path / "measures.tsv", sep="\t", index=False)
    for options in ({}, {"dtype": str, "keep_default_na": False}):
        back = pd.read_csv(tmp_path / "measures.tsv", sep="\t", **options)
        got = estimate_effects(back, design, SMOKING, PLACEBOS, COVARIATES, seed=0)
        pd.testing.assert_frame_equal(got, effects)


def test_the_level_of_a_fold_does_not_matter(study):
    measures, design = study
    shifted = measures.copy()
    shifted.loc[(measures["arm"] != "observed") & (measures["fold"] == 1), "value"] += 30
    one, two = (debiased(table, design, SMOKING, COVARIATES) for table in (measures, shifted))
    pd.testing.assert_series_equal(one["effect"], two["effect"])


def test_fold_effects_are_the_means_of_their_subjects(study):
    measures, _ = study
    folds = fold_effects(measures, SMOKING)
    assert len(folds) == 2 * len(OUTCOMES)
    differences = arm_differences(measures)
    assert folds["effect"][:2].tolist() == pytest.approx(
        [differences[0::2].mean(), differences[1::2].mean()]
    )
    assert folds["n"].eq(48).all()


def test_a_measure_the_mask_holds_fixed_is_not_taken_for_a_prediction(study):
    measures, design = study
    fixed = measures.copy()
    fixed["value"] = fixed.groupby(["subject", "measure", "region"])["value"].transform("first")
    model = model_implied(fixed, SMOKING).iloc[0]
    assert (model["effect"], model["ci_high"], model["p"]) == (0, 0, 1)
    assert model["method"] == SAME_ARMS
    assert "generator weight 0.00" in debiased(fixed, design, SMOKING, COVARIATES).iloc[0]["method"]


@pytest.mark.parametrize("generator", ["good", "useless"])
def test_the_debiased_effect_is_that_at_one_lung_volume(generator):
    """Smokers' lungs are larger and so less dense; at one volume smoking changes nothing.

    Whether the generator reads the volume off the mask or not, the question is the same.
    """
    rng = np.random.default_rng(5)
    cohort = simulate(rng, n=240, effect=0.0)
    larger = 0.15 * cohort.a + 0.15 * rng.normal(size=240)
    cohort = replace(cohort, y=cohort.y - 150 * larger, baseline=cohort.baseline - 150 * larger)
    design = design_of(cohort, rng)
    measures = measures_of(cohort, design, rng, generator=generator)
    volume = measures[measures["arm"] == "observed"].assign(
        measure="volume_ml", region="lungs", unit="mL", value=5000 * np.exp(larger)
    )
    table = pd.concat([measures, volume], ignore_index=True)
    outcome = ("mean_hu", "upper")
    whole, held = (
        one.set_index(["measure", "region"]).loc[outcome]
        for one in (
            observed(table, design, SMOKING, COVARIATES),
            debiased(table, design, SMOKING, COVARIATES),
        )
    )
    assert whole["ci_high"] < -10
    assert held["ci_low"] < 0 < held["ci_high"]
    assert "log lung volume" in held["method"] and "volume" not in whole["method"]


def test_arms_made_from_the_scan_do_not_explain_it(study):
    measures, design = study
    scans = measures[measures["arm"] == "observed"]
    # Both arms are the scan itself, moved by 12 HU: a perfect but worthless prediction.
    arms = [
        scans.assign(arm=SMOKING.arms[k], seed=0, value=scans["value"] + 12 * k) for k in (0, 1)
    ]
    leaking = pd.concat([scans, *arms])
    free = debiased(leaking, design, SMOKING, COVARIATES, helped=False).iloc[0]
    plain = observed(leaking, design, SMOKING, COVARIATES).iloc[0]
    trusting = debiased(leaking, design, SMOKING, COVARIATES).iloc[0]
    assert trusting["ci_low"] > EFFECT + 15  # what must not happen: sure, and far off
    assert free["effect"] == pytest.approx(plain["effect"], abs=1)
    assert "generator weight 0.00" in free["method"]
    width = plain["ci_high"] - plain["ci_low"]
    assert free["ci_high"] - free["ci_low"] == pytest.approx(width, rel=0.15)


def test_what_cannot_be_estimated_is_missing_with_the_reason(study):
    measures, design = study
    few = design.assign(smoking=np.where(np.arange(96) < 93, *LEVELS))
    rows = estimate_effects(measures, few, SMOKING, [], COVARIATES, seed=0).set_index("kind")
    assert rows.loc[["observed", "debiased"], "effect"].isna().all()
    assert rows.loc["observed", "method"].str.contains("3 subjects at 'current smoker'").all()
    assert rows.loc["model_implied", "effect"].notna().all()


def test_without_pairs_the_real_scans_still_speak(study):
    measures, design = study
    scans = measures[measures["arm"] == "observed"]
    rows = estimate_effects(scans, design, SMOKING, [], COVARIATES, seed=0).set_index("kind")
    assert rows.loc["observed", "effect"].notna().all()
    assert rows.loc["debiased", "method"].str.contains("no pairs").all()
    assert rows.loc["model_implied", "effect"].isna().all()


def test_a_constant_measure_has_no_effect_to_estimate(study):
    measures, design = study
    constant = measures.assign(value=-1000.0)
    rows = estimate_effects(constant, design, SMOKING, [], COVARIATES, seed=0).set_index("kind")
    assert (rows.loc["debiased", "method"] == "no variation between subjects").all()


def test_a_number_is_contrasted_by_its_slope():
    rng = np.random.default_rng(12)
    cohort = simulate(rng, 200)
    design = design_of(cohort, rng, placebos=0)
    # 8 HU per standard deviation of 9 years; the arms forget the subject's own age.
    ageless = cohort.baseline - 8 * cohort.x[:, 0]
    arms = {"observed": cohort.y, "age=51": ageless - 8, "age=69": ageless + 4}
    table = pd.concat(
        pd.DataFrame({"subject": design.index, "arm": arm, "value": values})
        for arm, values in arms.items()
    ).assign(fold=0, seed=0, region="upper", measure="mean_hu", unit="HU", reason="")
    rows = estimate_effects(
        table, design, Contrast("age", 51, 69), [], ["smoking", "sex", "bmi"], seed=0
    ).set_index("kind")
    for kind in ("observed", "debiased"):
        assert rows.loc[kind, "ci_low"] < 16 < rows.loc[kind, "ci_high"]
    assert rows.loc["model_implied", "effect"] == pytest.approx(12)


def test_a_contrast_turned_round_has_the_same_answer_turned_round(study):
    measures, design = study
    there = debiased(measures, design, SMOKING, COVARIATES)
    back = debiased(measures, design, Contrast("smoking", *reversed(LEVELS)), COVARIATES)
    np.testing.assert_allclose(back["effect"], -there["effect"], rtol=1e-6)
    np.testing.assert_allclose(back["ci_high"], -there["ci_low"], rtol=1e-6)
    np.testing.assert_allclose(back["p"], there["p"], rtol=1e-6)


def test_groups_that_a_covariate_tells_apart_are_not_compared(study):
    """A threshold of age decides: regression on age leaves something, and it means nothing."""
    measures, design = study
    decided = np.where(design["age"] > design["age"].median(), *reversed(LEVELS))
    found = debiased(measures, design.assign(smoking=decided), SMOKING, COVARIATES)
    assert found["effect"].isna().all()
    assert found["method"].str.contains("the covariates tell .* from .*: nobody").all()
    seen = observed(measures, design.assign(smoking=decided), SMOKING, COVARIATES)
    assert seen["effect"].notna().all()


def test_readings_refuse_a_table_they_cannot_trust(study):
    measures, _ = study
    with pytest.raises(DgmvlcError, match="lacks seed"):
        Readings.of(measures.drop(columns="seed"))
    with pytest.raises(DgmvlcError, match="two values"):
        Readings.of(pd.concat([measures, measures.iloc[:1]]))
