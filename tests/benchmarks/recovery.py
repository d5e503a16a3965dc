"""Does the generator obey its text?  Phantom cohorts whose truth is known, cross-fitted.

python tests/benchmarks/recovery.py OUT --planted 8 --null 8 --jobs 2
python tests/benchmarks/recovery.py OUT --planted 2 --null 10 --effect-hu -5 -10 -20 -30
python tests/benchmarks/recovery.py OUT --planted 3 --null 0 --model diffusion
python tests/benchmarks/recovery.py OUT --planted 3 --null 0 --fusion none

Run by hand: prints a table and writes OUT/recovery-MODEL-FUSION.json.  Every cohort is a
workspace of 96 subjects at preset micro in OUT, made once and shared by all models and fusions;
what is there already is kept.  A cohort takes 3 to 12 minutes on one core.
"""

import argparse
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CONTRAST = {"attribute": "smoking", "reference": "never smoker", "target": "current smoker"}
REGIONS = ("upper", "lower")
PLANTED_HU = -30.0
ESTIMATES = {"model": "model_implied", "observed": "observed", "debiased": "debiased"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--planted", type=int, default=8, help="cohorts of each planted effect")
    parser.add_argument("--null", type=int, default=8, help="cohorts without any")
    parser.add_argument("--first-seed", type=int, default=0, help="of the cohorts, both kinds")
    parser.add_argument("--effect-hu", type=float, nargs="+", default=[PLANTED_HU])
    parser.add_argument("--model", default="flow")
    parser.add_argument("--fusion", default="affine")
    parser.add_argument("--subjects", type=int, default=96)
    parser.add_argument("--steps", type=int, default=None, help="training steps per fold")
    parser.add_argument("--placebos", type=int, default=None, help="other than the default number")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    first = chosen.first_seed
    wanted = [(s, hu) for hu in chosen.effect_hu for s in range(first, first + chosen.planted)]
    wanted += [(seed, 0.0) for seed in range(first, first + chosen.null)]
    with ProcessPoolExecutor(chosen.jobs) as pool:
        results = list(pool.map(partial(result, chosen), wanted))
    name = f"recovery-{variant(chosen)}"
    (chosen.out / f"{name}.json").write_text(json.dumps(results, indent=2, default=float))
    show(results)


def variant(chosen: argparse.Namespace) -> str:
    """What is varied, as a name for folders and files."""
    placebos = "" if chosen.placebos is None else f"-{chosen.placebos}placebos"
    return f"{chosen.model}-{chosen.fusion}{placebos}"


def result(chosen: argparse.Namespace, cohort: tuple[int, float]) -> dict[str, Any]:
    """One cohort's numbers for mean lung HU; what is not there yet is computed."""
    seed, effect_hu = cohort
    base = chosen.out / (f"seed{seed}" if effect_hu else f"null{seed}")
    if effect_hu not in (0.0, PLANTED_HU):
        base = chosen.out / f"seed{seed}_{-effect_hu:g}hu"
    prepare(base, seed, effect_hu, chosen.subjects)
    folder = base / variant(chosen)
    analysis = run_model(base, folder, chosen)
    effects = pd.read_csv(analysis / "effects.tsv", sep="\t").query("measure == 'mean_hu'")
    truth = pd.read_csv(analysis / "truth.tsv", sep="\t").query("measure == 'mean_hu'")
    report = json.loads((analysis / "report.json").read_text())
    fit = [row for row in report["fit"] if row["region"] == "lungs"]
    numbers: dict[str, Any] = {"seed": seed, "effect_hu": effect_hu}
    for region in REGIONS:
        here = effects[effects["region"] == region]
        true = truth[truth["region"] == region]
        numbers[f"truth_{region}"] = float(true["truth"].iloc[0])
        for kind, column in ESTIMATES.items():
            row = here[here["kind"] == column].iloc[0]
            numbers[f"{kind}_{region}"] = float(row["effect"])
            numbers[f"{kind}_{region}_ci"] = [float(row["ci_low"]), float(row["ci_high"])]
        placebos = here.loc[here["kind"] == "placebo", "effect"]
        numbers[f"placebo_model_{region}"] = placebos.tolist()
    lung = effects[effects["region"].isin(["lungs", "upper", "middle", "lower"])]
    placebo = lung[lung["kind"] == "placebo_debiased"]
    numbers["placebo_significant"] = int(((placebo["ci_low"] > 0) | (placebo["ci_high"] < 0)).sum())
    numbers["placebo_intervals"] = len(placebo)
    of = {key: np.array([row[key] for row in fit]) for key in fit[0] if key != "region"}
    numbers["mean_error"] = float((of["generated_mean_hu"] - of["real_mean_hu"]).mean())
    numbers["sd_between"] = float((of["generated_sd_between"] / of["real_sd_between"]).mean())
    numbers["sd_within"] = float((of["generated_sd_within"] / of["real_sd_within"]).mean())
    return numbers | effect_maps(analysis / "maps")


def cohort_settings(seed: int, effect_hu: float, subjects: int):
    from dgmvlc_cli.config import PRESETS
    from dgmvlc_cli.phantom import PhantomSettings

    return PhantomSettings(
        subjects=subjects,
        seed=seed,
        null=effect_hu == 0.0,
        current_upper_hu=effect_hu or PLANTED_HU,
        truth_spacing_mm=PRESETS["micro"].spacing_mm,
    )


def prepare(base: Path, seed: int, effect_hu: float, subjects: int) -> None:
    """Phantom cohort -> preprocessed workspace with sentences in base/workspace."""
    import torch

    from dgmvlc_cli import stages
    from dgmvlc_cli.config import load_settings
    from dgmvlc_cli.phantom import write_cohort
    from dgmvlc_cli.stages.base import Run
    from dgmvlc_cli.stages.initialise import init
    from dgmvlc_cli.workspace import Workspace

    torch.set_num_threads(1)
    if (base / "ready").exists():
        return
    phantom, ws = base / "phantom", Workspace(base / "workspace")
    write_cohort(phantom, cohort_settings(seed, effect_hu, subjects))
    init(
        ws,
        (phantom / "scans").resolve(),
        (phantom / "clinical.csv").resolve(),
        Run(force=True),
        seed=seed,
        truth=(phantom / "truth.tsv").resolve(),
        preset="micro",
    )
    settings = load_settings(ws.settings_path)
    stages.preprocess(ws, settings, Run())
    stages.describe(ws, settings, Run())
    (base / "ready").touch()


def run_model(base: Path, folder: Path, chosen: argparse.Namespace) -> Path:
    """Train, pair and analyse one model in a workspace of its own; returns the analysis."""
    from dgmvlc_cli import stages
    from dgmvlc_cli.config import load_settings, override
    from dgmvlc_cli.stages.base import Run
    from dgmvlc_cli.workspace import Workspace

    if not folder.exists():
        shutil.copytree(base / "workspace", folder)
    ws = Workspace(folder)
    changes = {"model": chosen.model, "fusion": chosen.fusion, "steps": chosen.steps}
    study = {"placebos": chosen.placebos}
    settings = override(load_settings(ws.settings_path), {"train": changes, "study": study})
    if chosen.placebos is not None:
        stages.describe(ws, settings, Run())
    stages.train(ws, settings, Run())
    question = stages.Question(**CONTRAST)
    stages.counterfactual(ws, settings, Run(), question)
    stages.analyze(ws, settings, Run(), question)
    return next((folder / "analysis" / chosen.model).glob("smoking_*"))


def effect_maps(folder: Path) -> dict[str, list]:
    """The model's map and the true one in lung-relative cells, HU; NaN where no lung falls."""
    import SimpleITK as sitk

    def read(name: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz")))

    inside = read("model_implied_mask") > 0
    made, true = (
        np.where(inside, read(f"{name}_effect"), np.nan) for name in ("model_implied", "truth")
    )
    return {"map": made.tolist(), "true_map": true.tolist()}


def show(results: list[dict[str, Any]]) -> None:
    """The table, and what issue 'generators' asks of it."""
    table = pd.DataFrame(
        [{k: v for k, v in one.items() if not isinstance(v, list)} for one in results]
    )
    pd.set_option("display.width", 250, "display.max_columns", 40)
    print(table.round(2).to_string(index=False))
    for planted, part in table.groupby(table["effect_hu"] != 0):
        chosen = [one for one in results if (one["effect_hu"] != 0) == planted]
        print(f"\n{'planted' if planted else 'null'}: {len(part)} cohorts")
        placebos = np.concatenate(
            [one[f"placebo_model_{region}"] for one in chosen for region in REGIONS]
        )
        significant, total = part["placebo_significant"].sum(), part["placebo_intervals"].sum()
        if planted:
            made, true = part["model_upper"], part["truth_upper"]
            slope = (made * true).sum() / (true**2).sum()
            print(f"recovery slope, upper, through 0: {slope:.2f} (SD {(made / true).std():.2f})")
            print(f"map correlation: {map_correlation(chosen):.3f}")
        for kind in ESTIMATES:
            for region in REGIONS:
                error = part[f"{kind}_{region}"] - part[f"truth_{region}"]
                inside = sum(
                    one[f"{kind}_{region}_ci"][0]
                    <= one[f"truth_{region}"]
                    <= one[f"{kind}_{region}_ci"][1]
                    for one in chosen
                )
                print(
                    f"{kind} {region}: mean error {error.mean():+.1f} HU, "
                    f"RMS {(error**2).mean() ** 0.5:.1f}, "
                    f"interval holds the truth {inside} of {len(chosen)}"
                )
        print(
            f"placebos in the model: mean {placebos.mean():+.1f}, "
            f"RMS {(placebos**2).mean() ** 0.5:.1f} HU"
        )
        print(
            f"debiased placebos significant: {significant} of {total} "
            f"({100 * significant / max(total, 1):.1f} %)"
        )
        print(
            f"generated less real lung mean: {part['mean_error'].mean():+.1f} HU; between-subject "
            f"SD ratio {part['sd_between'].mean():.2f}; within-lung {part['sd_within'].mean():.2f}"
        )


def map_correlation(results: list[dict[str, Any]]) -> float:
    """Correlation of the effect map with the true one, each averaged over the cohorts."""
    made, true = (np.nanmean([one[key] for one in results], axis=0) for key in ("map", "true_map"))
    both = np.isfinite(made) & np.isfinite(true)
    return float(np.corrcoef(made[both], true[both])[0, 1])


if __name__ == "__main__":
    main()
