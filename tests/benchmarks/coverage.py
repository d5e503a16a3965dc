"""Do the intervals hold what they promise?  Counts over finished phantom workspaces, by hand.

python tests/benchmarks/coverage.py COHORTS/* --json coverage.json

Each workspace must know its truth ([analyze] truth, as `dgmvlc init` writes it for a phantom) and
have been analysed.  Cohorts are made, for example, by

    for hu in -5 -10 -20 -30; do dgmvlc phantom c$hu --effect-hu $hu --truth-spacing 12 ...

Printed by generator and fusion, for mean HU in four regions:

- how often each 95 % interval covers the truth, mean error, and standard error against plain
  regression's.  "naive" is augmented weighting with the generator's draw as the outcome model, and
  "paired" the interval within the model: the traps that the debiased estimate is for; "raw" is the
  difference of the groups without any adjustment;
- false positives at the 5 % level, of every test that there is where nothing was planted: the
  studied contrast in null cohorts and in untouched regions, and every placebo.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dgmvlc_cli.analysis import debias
from dgmvlc_cli.analysis.contrasts import Contrast, cohorts
from dgmvlc_cli.analysis.placebos import placebo_calibration
from dgmvlc_cli.analysis.readings import Readings
from dgmvlc_cli.cohort import Cohort, covariates, load_cohort, placebo_contrasts, study_contrast
from dgmvlc_cli.config import load_settings
from dgmvlc_cli.pairs import contrast_name
from dgmvlc_cli.workspace import Workspace, generator, read_table

REGIONS = ("lungs", "upper", "middle", "lower")
MEASURE = "mean_hu"
NOTHING_HU = 0.5  # a true change that rounding and resampling alone can make
LEVEL = 0.05
ESTIMATORS = ("debiased", "observed", "raw", "naive", "paired", "mixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workspaces", type=Path, nargs="+")
    parser.add_argument("--model", default=None, help="generator family (default: the settings')")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    intervals, tests, said, left_out = [], [], [], []
    for folder in chosen.workspaces:
        try:
            one = Finished(folder, chosen.model)
        except FileNotFoundError as error:
            left_out.append(f"{folder}: {error.filename} is missing")
            continue
        intervals += list(one.intervals())
        tests += list(one.tests())
        said += list(one.verdicts())
    summary = summarise(pd.DataFrame(intervals), pd.DataFrame(tests), pd.DataFrame(said))
    pd.set_option("display.width", 250, "display.max_columns", 30, "display.max_rows", 500)
    for title, table in summary.items():
        print(f"\n{title}\n{table.round(3).to_string(index=False)}")
    print(*(f"left out: {line}" for line in left_out), sep="\n")
    if chosen.json:
        content = {title: table.to_dict("records") for title, table in summary.items()}
        chosen.json.write_text(json.dumps(content, indent=2, default=float))


class Finished:
    """One analysed workspace whose truth is known.  FileNotFoundError where a table is missing."""

    def __init__(self, folder: Path, model: str | None) -> None:
        self.ws, self.settings = Workspace(folder), load_settings(folder / "dgmvlc.toml")
        self.cohort: Cohort = load_cohort(self.ws, self.settings)
        self.contrast = study_contrast(self.settings, self.cohort, None, None, None)
        self.model = model or self.settings.train.model
        analysis = self.ws.analysis(self.model, contrast_name(self.contrast))
        self.effects = read_table(analysis / "effects.tsv")
        self.said = read_table(analysis / "verdicts.tsv")
        self.truth = read_table(analysis / "truth.tsv").set_index(["measure", "region"])["truth"]
        self.readings = Readings.of(
            read_table(analysis / "measures.tsv", dtype={"subject": str, "reason": str})
        )
        self.adjusted = covariates(self.settings, self.cohort, self.contrast)
        trained = json.loads((self.ws.fold(self.model, 0) / "train.json").read_text())["inputs"]
        self.group = {"model": self.model, "fusion": str(trained.get("fusion", ""))}
        null = all(abs(self.truth[MEASURE, region]) < NOTHING_HU for region in REGIONS)
        self.group["cohort"] = "null" if null else "planted"

    def intervals(self) -> Iterator[dict[str, Any]]:
        """Estimate and interval of every estimator in every region, beside the truth."""
        found = {**self._own(), **self._traps()}
        for (estimator, region), (effect, low, high, ratio) in found.items():
            true = float(self.truth[MEASURE, region])
            yield {
                **self.group,
                "workspace": self.ws.root.name,
                "estimator": estimator,
                "region": region,
                "truth": true,
                "effect": effect,
                "error": effect - true,
                "covers": low <= true <= high,
                "se_ratio": ratio,
            }

    def _own(self) -> dict[tuple[str, str], tuple[float, float, float, float]]:
        """What effects.tsv says of the studied contrast."""
        kinds = {"debiased": "debiased", "observed": "observed", "model_implied": "paired"}
        rows = self.effects[self.effects["kind"].isin([*kinds, "mixed"])]
        found = {}
        for row in rows[rows["measure"] == MEASURE].to_dict("records"):
            if row["region"] in REGIONS:
                said = re.search(r"SE ([\d.]+) of regression's", str(row["method"]))
                ratio = float(said[1]) if said else np.nan
                key = kinds.get(row["kind"], row["kind"]), row["region"]
                found[key] = row["effect"], row["ci_low"], row["ci_high"], ratio
        return found

    def _traps(self) -> dict[tuple[str, str], tuple[float, float, float, float]]:
        """The naive estimate and the raw difference."""
        found = {}
        for region in REGIONS:
            for name, estimate in (("naive", self.naive), ("raw", self.raw)):
                effect, se = estimate(self.contrast, region)
                half = stats.norm.ppf(0.975) * se
                found[name, region] = effect, effect - half, effect + half, np.nan
        return found

    def naive(self, contrast: Contrast, region: str) -> tuple[float, float]:
        """Augmented weighting with the generator's draw alone as outcome model, and its error."""
        m_0, m_1 = self.readings.predictions(contrast)
        scans = self.readings.scans()[[(MEASURE, region)]]
        scans = scans.where(m_0[[(MEASURE, region)]].reindex(scans.index).notna())
        (cohort,) = (
            one
            for one in cohorts(scans, self.cohort.rows, contrast, self.adjusted)
            if one.outcomes and one.y.notna().all().all() and one.n
        )
        a, y = cohort.a.to_numpy(), cohort.y.iloc[:, 0].to_numpy()
        zero, one = (m.loc[cohort.y.index, (MEASURE, region)].to_numpy() for m in (m_0, m_1))
        rng = generator(self.settings.seed, contrast.text, "cross-fitting")
        e = debias.cross_splits(a, cohort.x.to_numpy(), rng, splits=1)[0].propensity
        psi = one - zero + a / e * (y - one) - (1 - a) / (1 - e) * (y - zero)
        return float(psi.mean()), float(stats.sem(psi))

    def raw(self, contrast: Contrast, region: str) -> tuple[float, float]:
        """Difference of the two groups' means, and its standard error."""
        y = self.readings.scans()[(MEASURE, region)]
        levels = self.cohort.rows[contrast.attribute].reindex(y.index)
        low, high = (y[levels == level].dropna() for level in (contrast.reference, contrast.target))
        return float(high.mean() - low.mean()), float(np.hypot(stats.sem(low), stats.sem(high)))

    def tests(self) -> Iterator[dict[str, Any]]:
        """p of every test of something that is not there."""
        own = self.effects[self.effects["kind"] == "debiased"]
        calibrated = placebo_calibration(self.effects).set_index(["measure", "region"])["p"]
        for row in own[own["measure"] == MEASURE].to_dict("records"):
            region = row["region"]
            if region in REGIONS and abs(self.truth[MEASURE, region]) < NOTHING_HU:
                yield self._test("studied", "debiased", region, row["p"])
                yield self._test(
                    "studied", "placebo-calibrated", region, calibrated[MEASURE, region]
                )
                yield self._test("studied", "naive", region, self._p_naive(self.contrast, region))
                paired = self.effects.query(
                    "kind == 'model_implied' and measure == @MEASURE and region == @region"
                )
                yield self._test("studied", "paired", region, paired["p"].item())
        for kind, name in (("placebo_debiased", "debiased"), ("placebo", "paired")):
            rows = self.effects[(self.effects["kind"] == kind)]
            for row in rows[rows["measure"] == MEASURE].to_dict("records"):
                if row["region"] in REGIONS:
                    yield self._test("placebo", name, row["region"], row["p"])
        yield from self._placebos_among_themselves()
        for placebo in placebo_contrasts(self.contrast, self.cohort):
            for region in REGIONS:
                yield self._test("placebo", "naive", region, self._p_naive(placebo, region))

    def verdicts(self) -> Iterator[dict[str, Any]]:
        """The verdict on mean HU in every region, and whether anything was there."""
        for row in self.said[self.said["measure"] == MEASURE].to_dict("records"):
            if row["region"] in REGIONS:
                true = abs(self.truth[MEASURE, row["region"]])
                there = "planted" if true >= NOTHING_HU else "nothing"
                yield {**self.group, "there": there, "verdict": row["verdict"]}

    def _placebos_among_themselves(self) -> Iterator[dict[str, Any]]:
        """Each placebo taken for the studied effect, calibrated by the other ones."""
        rows = self.effects[self.effects["kind"] == "placebo"]
        for name in rows["contrast"].unique():
            own = rows["contrast"] == name
            studied = rows[own].assign(kind="model_implied")
            real = self.effects.query("kind == 'placebo_debiased' and contrast == @name")
            real = real.assign(kind="debiased")
            table = placebo_calibration(pd.concat([studied, real, rows[~own]]))
            for row in table[table["measure"] == MEASURE].to_dict("records"):
                if row["region"] in REGIONS:
                    yield self._test("placebo", "placebo-calibrated", row["region"], row["p"])

    def _p_naive(self, contrast: Contrast, region: str) -> float:
        effect, se = self.naive(contrast, region)
        return float(2 * stats.norm.sf(abs(effect) / se))

    def _test(self, what: str, test: str, region: str, p: float) -> dict[str, Any]:
        named = {"workspace": self.ws.root.name, "what": what, "test": test, "region": region}
        return {**self.group, **named, "p": p}


def summarise(
    intervals: pd.DataFrame, tests: pd.DataFrame, said: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The tables that are printed."""
    if intervals.empty:
        raise SystemExit("no finished workspace was found")
    by = ["model", "fusion", "estimator", "region"]
    cover = intervals.groupby(by, sort=False).agg(
        cohorts=("covers", "size"),
        covered=("covers", "sum"),
        mean_error=("error", "mean"),
        rms_error=("error", lambda e: np.sqrt(np.mean(e**2))),
        se_ratio=("se_ratio", "mean"),
        largest_se_ratio=("se_ratio", "max"),
    )
    planted = intervals[intervals["truth"].abs() >= NOTHING_HU]
    recovered = planted.groupby(["model", "fusion", "estimator", "region"], sort=False).apply(
        lambda part: pd.Series(
            {
                "cohorts": len(part),
                "slope": (part["effect"] * part["truth"]).sum() / (part["truth"] ** 2).sum(),
            }
        ),
        include_groups=False,
    )
    known = tests.dropna(subset=["p"])
    positives = known.assign(positive=known["p"] < LEVEL).groupby(
        ["model", "fusion", "test", "what", "cohort"], sort=False
    )
    rates = positives["positive"].agg(tests="size", false_positives="sum", rate="mean")
    whole = known.assign(positive=known["p"] < LEVEL).groupby(["model", "fusion", "test"])
    all_rates = whole["positive"].agg(tests="size", false_positives="sum", rate="mean")
    covered = cover.reset_index()
    covered["estimator"] = pd.Categorical(covered["estimator"], ESTIMATORS, ordered=True)
    covered = covered.sort_values(["model", "fusion", "estimator"], kind="stable")
    return {
        "95 % intervals": covered,
        "recovery slope where something was planted": recovered.reset_index(),
        "false positives at 5 %": rates.reset_index(),
        "false positives at 5 %, studied and placebo together": all_rates.reset_index(),
        "verdicts": said.value_counts(["model", "fusion", "cohort", "there", "verdict"])
        .sort_index()
        .reset_index(),
    }


if __name__ == "__main__":
    main()
