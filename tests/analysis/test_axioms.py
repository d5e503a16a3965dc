from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.analysis.axioms import (
    COLUMNS,
    against_truth,
    in_words,
    minimality,
    moved_hu,
    readouts,
    ridge,
)
from dgmvlc_cli.analysis.contrasts import Contrast, joint_edit
from dgmvlc_cli.analysis.zones import regions
from dgmvlc_cli.imaging.volume import Tissue

SMOKING = Contrast("smoking", "never", "current")
REGIONS = ("lungs", "upper", "lower", "rind")


def study(
    shift: float, ages: float = 0.0, seed: int = 1, n: int = 160
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scans whose upper level shows smoking (-20 HU) and whose lower level shows age (2 HU a year).

    The target arm moves the upper lungs by `shift`, and the lower ones as `ages` years would.
    """
    rng = np.random.default_rng(seed)
    subjects = [f"s{i:03d}" for i in range(n)]
    smokes, age = rng.integers(0, 2, n), rng.normal(60, 8, n)
    design = pd.DataFrame(
        {
            "smoking": np.where(smokes, "current", "never"),
            "age": age,
            "site": rng.integers(0, 2, n),
        },
        subjects,
    )
    base = {region: -850 + 4 * rng.normal(size=n) for region in REGIONS}
    arms = {"observed": (smokes, age), "smoking=never": (0, age)}
    rows = []
    for arm, (a, years) in arms.items():
        for region in REGIONS:
            value = base[region] - 20 * a * (region == "upper")
            rows.append((arm, region, value + 2 * (years - 60) * (region == "lower")))
    for region in REGIONS:
        value = base[region] + shift * (region == "upper")
        rows.append(
            ("smoking=current", region, value + 2 * (age + ages - 60) * (region == "lower"))
        )
    table = [
        pd.DataFrame({"subject": subjects, "value": value}).assign(arm=arm, region=region)
        for arm, region, value in rows
    ]
    common = {"fold": 0, "seed": 0, "measure": "mean_hu", "unit": "HU", "reason": ""}
    return pd.concat(table, ignore_index=True).assign(**common), design


def found(measures: pd.DataFrame, design: pd.DataFrame, contrast=SMOKING) -> pd.DataFrame:
    table = readouts(measures, design, contrast, ["age", "site"])
    assert tuple(table.columns) == COLUMNS
    return table.set_index(["property", "what"])


def test_an_edit_that_does_what_the_attribute_does_is_effective_and_specific():
    table = found(*study(-20.0))
    effect = table.loc[("effectiveness", "smoking")]
    assert effect["value"] == pytest.approx(effect["scale"], abs=0.1)
    assert effect["scale"] > 0.8
    age = table.loc[("specificity", "age")]
    assert age["ci_low"] < 0 < age["ci_high"]
    assert age["ci_high"] - age["ci_low"] < 3
    assert age["scale"] == pytest.approx(8, rel=0.2)
    assert float(age["method"].split("R2 ")[1]) > 0.8


def test_the_interval_of_a_specific_edit_holds_zero_as_often_as_it_says():
    rows = [
        readouts(*study(-20.0, seed=seed), SMOKING, ["age"])
        .set_index("property")
        .loc["specificity"]
        for seed in range(20)
    ]
    assert sum(row["ci_low"] < 0 < row["ci_high"] for row in rows) >= 17
    assert abs(np.mean([row["value"] for row in rows])) < 0.25


def test_an_edit_that_does_too_little_is_still_specific():
    age = found(*study(-8.0)).loc[("specificity", "age")]
    assert age["ci_low"] < 0 < age["ci_high"]


def test_an_edit_that_changes_nothing_is_not_effective():
    effect = found(*study(0.0)).loc[("effectiveness", "smoking")]
    assert abs(effect["value"]) < 0.1 * effect["scale"]


def test_an_edit_that_ages_the_lung_is_not_specific():
    age = found(*study(-20.0, ages=5.0)).loc[("specificity", "age")]
    assert age["ci_low"] > 3
    assert age["value"] == pytest.approx(5, rel=0.2)


def test_what_cannot_be_read_off_real_scans_is_missing_with_the_reason():
    site = found(*study(-20.0)).loc[("specificity", "site")]
    assert np.isnan(site["value"])
    assert "nothing is said" in site["method"]


def test_a_joint_edit_has_no_groups_but_can_be_specific():
    measures, design = study(-20.0, ages=5.0)
    contrast = joint_edit({"smoking": "current", "bmi": 30.0})
    names = dict(zip(SMOKING.arms, contrast.arms, strict=True))
    table = found(measures.assign(arm=measures["arm"].replace(names)), design, contrast)
    assert ("effectiveness", "smoking + bmi") not in table.index
    assert table.loc[("specificity", "age"), "value"] == pytest.approx(5, rel=0.3)


def test_the_ridge_of_many_subjects_is_least_squares():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(4000, 3)) + 2
    z = features @ [1.0, -2.0, 0.5] + 3 + 0.1 * rng.normal(size=4000)
    w, intercept = ridge(features, z)
    want = np.linalg.lstsq(np.column_stack([features, np.ones(4000)]), z)[0]
    assert np.r_[w, intercept] == pytest.approx(want, abs=2e-3)


def test_movement_is_the_mean_absolute_difference_of_each_tissue():
    labels = np.full((6, 6, 6), int(Tissue.BODY), np.uint8)
    labels[1:5, 1:5, 1:3], labels[0] = Tissue.RIGHT_LUNG, Tissue.OUTSIDE
    one = np.zeros(labels.shape)
    other = np.where(labels == Tissue.RIGHT_LUNG, -8.0, 0.0)
    other[0, 0, 0] = 36.0
    scan = np.where(labels == Tissue.BODY, 50.0, -850.0)  # muscle, deep enough to be told
    moved = moved_hu(one, other, regions(labels, (8.0, 8.0, 8.0), scan_hu=scan))
    assert moved["lungs"] == 8 and moved["body"] == 0
    assert moved["outside"] == 1
    assert np.isnan(moved["airway"])
    table = minimality(pd.DataFrame([moved, moved | {"lungs": 10.0}])).set_index("what")
    assert table.loc["lungs", "value"] == 9
    assert table.loc["body", ["value", "ci_low", "ci_high", "scale"]].tolist() == [0, 0, 0, 9]
    assert np.isnan(table.loc["airway", "value"])


def test_each_pair_stands_beside_the_subjects_own_truth():
    measures, design = study(-15.0)
    truth = pd.DataFrame(
        [
            (subject, "smoking", "never", "current", "mean_hu", region, change)
            for subject in design.index
            for region, change in (("upper", -20.0), ("lower", 0.0), ("lungs", -8.0))
        ],
        columns=["subject", "attribute", "from", "to", "measure", "region", "change"],
    )
    table = against_truth(measures, truth, SMOKING).set_index(["property", "what"])
    bias = table.loc["bias"]
    assert bias["value"].to_dict() == pytest.approx({"upper": 5, "lower": 0, "lungs": 8}, abs=1e-9)
    assert bias.loc["upper", "scale"] == -20
    expected = np.corrcoef([-15, 0, 0], [-20, 0, -8])[0, 1]
    assert table.loc[("pattern", "all regions"), "value"] == pytest.approx(expected)
    assert against_truth(measures, truth.assign(attribute="age"), SMOKING).empty


@pytest.mark.parametrize(
    ("kind", "what", "value", "half", "scale", "said"),
    [
        ("effectiveness", "smoking", 0.4, 0.1, 0.5, "shows about as between the real groups"),
        ("effectiveness", "smoking", 0.1, 0.05, 0.5, "shows less than"),
        ("effectiveness", "smoking", 0.1, 0.2, 0.5, "does not show"),
        ("effectiveness", "smoking", -0.3, 0.1, 0.5, "wrong way round"),
        ("effectiveness", "smoking", 0.3, 0.1, 0.01, "hardly show it"),
        ("specificity", "age", 0.3, 0.4, 8.0, "left alone"),
        ("specificity", "age", 5.0, 6.0, 8.0, "no change shown (+0.62 of its SD"),
        ("specificity", "age", 4.0, 0.5, 8.0, "moves along by +0.50 of its SD"),
        ("minimality", "body", 0.2, 0.1, 20.0, "still: 1 % of the lungs"),
        ("minimality", "body", 4.0, 0.1, 20.0, "moves too: 20 % of the lungs"),
        ("reversibility", "sentence", 1.0, 0.0, 1.0, "comes back"),
        ("reversibility", "sentence", 0.75, 0.1, 1.0, "25 % do not come back"),
        ("composition", "image", 1.2, 0.1, np.nan, "comes back"),
        ("reversibility", "level", -9.0, 0.1, np.nan, "misses by 5 HU or more"),
        ("bias", "upper", 1.0, 2.0, -26.0, "no bias shown (true change -26 HU)"),
        ("pattern", "all regions", 0.6, 0.1, 1.0, "the truth's own pattern"),
        ("bias", "upper", 5.0, 2.0, -26.0, "off from the true change of -26 HU"),
        ("specificity", "site", np.nan, np.nan, 1.0, "why"),
    ],
)
def test_every_property_is_said_in_words(kind, what, value, half, scale, said):
    in_hu = kind in ("composition", "bias") or what == "level"
    row = {
        "property": kind,
        "what": what,
        "value": value,
        "ci_low": value - half,
        "ci_high": value + half,
        "unit": "HU" if in_hu else "share",
        "scale": scale,
        "method": "why",
    }
    assert said in in_words(row)
