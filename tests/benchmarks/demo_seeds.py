"""The demo over several seeds, against its truth: run by hand, prints a table, writes JSON.

python tests/benchmarks/demo_seeds.py OUT --seeds 0 1 2 3 --null 0 1

Demos that are in OUT already are kept.  One demo takes about ten minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

CONTRAST = "smoking_never-smoker_current-smoker"
REGIONS = ("upper", "lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--null", type=int, nargs="*", default=[0, 1])
    chosen = parser.parse_args()
    wanted = [(seed, False) for seed in chosen.seeds] + [(seed, True) for seed in chosen.null]
    results = [result(chosen.out, seed, null) for seed, null in wanted]
    table = pd.DataFrame([{k: v for k, v in one.items() if k != "regions"} for one in results])
    regions = pd.DataFrame([row for one in results for row in one["regions"]])
    pd.set_option("display.width", 250, "display.max_columns", 30)
    print(regions.round(1).to_string(index=False))
    print(table.round(2).to_string(index=False))
    for null in (False, True):
        part = table[table["null"] == null]
        if len(part):
            covered, total = part["placebo_covered"].sum(), part["placebo_intervals"].sum()
            print(f"null={null}: debiased placebo intervals that cover 0: {covered} of {total}")
    (chosen.out / "demo_seeds.json").write_text(json.dumps(results, indent=2, default=float))


def result(out: Path, seed: int, null: bool) -> dict[str, Any]:
    """One demo's numbers for mean lung HU; the demo is run if it is not there."""
    folder = out / f"{'null' if null else 'seed'}{seed}"
    analysis = folder / "analysis" / "flow" / CONTRAST
    if not (analysis / "report.html").exists():
        command = [sys.executable, "-m", "dgmvlc_cli", "demo", str(folder), "--seed", str(seed)]
        subprocess.run(command + (["--null"] if null else []), check=True)
    effects = pd.read_csv(analysis / "effects.tsv", sep="\t").query("measure == 'mean_hu'")
    truth = pd.read_csv(analysis / "truth.tsv", sep="\t").query("measure == 'mean_hu'")
    lung = effects[effects["region"].isin(["lungs", "upper", "middle", "lower"])]
    placebo = lung[lung["kind"] == "placebo_debiased"]
    covers = (placebo["ci_low"] <= 0) & (placebo["ci_high"] >= 0)
    supported = pd.read_csv(analysis / "verdicts.tsv", sep="\t")["verdict"] == "supported"
    report = json.loads((analysis / "report.json").read_text())
    fit = [row for row in report["fit"] if row["region"] == "lungs"]
    return {
        "seed": seed,
        "null": null,
        "generated_minus_real": max(
            (row["generated_mean_hu"] - row["real_mean_hu"] for row in fit), key=abs
        ),
        "sd_between": pd.Series(
            [row["generated_sd_between"] / row["real_sd_between"] for row in fit]
        ).mean(),
        "sd_within": pd.Series(
            [row["generated_sd_within"] / row["real_sd_within"] for row in fit]
        ).mean(),
        "supported": int(supported.sum()),
        "placebo_covered": int(covers.sum()),
        "placebo_intervals": len(placebo),
        "regions": [_region(seed, null, region, lung, truth) for region in REGIONS],
    }


def _region(
    seed: int, null: bool, region: str, effects: pd.DataFrame, truth: pd.DataFrame
) -> dict[str, Any]:
    here = effects[effects["region"] == region]
    model = here.query("kind == 'model_implied'").iloc[0]
    observed = here.query("kind == 'observed'").iloc[0]
    debiased = here.query("kind == 'debiased'").iloc[0]
    true = truth[truth["region"] == region].iloc[0]
    return {
        "seed": f"{'null ' if null else ''}{seed}",
        "region": region,
        "truth": true["truth"],
        "model_implied": model["effect"],
        "percent": 100 * true["ratio"],
        "largest_placebo": here.query("kind == 'placebo'")["effect"].abs().max(),
        "observed": observed["effect"],
        "debiased": debiased["effect"],
        "low": debiased["ci_low"],
        "high": debiased["ci_high"],
        "covers": bool(true["debiased_covers"]),
    }


if __name__ == "__main__":
    main()
