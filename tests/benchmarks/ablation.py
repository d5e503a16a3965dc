"""What each part of the generator is worth: one switched off at a time, on phantom cohorts.

python tests/benchmarks/recovery.py OUT --planted 2 --null 0     # makes the cohorts
python tests/benchmarks/ablation.py OUT --cohorts 2 --jobs 2

Run by hand: trains every variant on both folds of the first planted cohorts of OUT, generates the
held-out subjects in memory, prints a table and writes OUT/ablation.tsv.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

CONTRAST = ("smoking", "never smoker", "current smoker")
FITTING, TRAINING = "dgmvlc_cli.generators.fitting", "dgmvlc_cli.generators.training"
SAMPLER_STEPS = (4, 8, 12, 20, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cohorts", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(name, seed) for name in chosen.variants for seed in range(chosen.cohorts)]
    with ProcessPoolExecutor(chosen.jobs) as pool:
        rows = [row for part in pool.map(partial(measured, chosen.out), jobs) for row in part]
    table = pd.DataFrame(rows).groupby(["variant", "sampler_steps"], sort=False)
    summary = table.agg(
        cohorts=("seed", "nunique"),
        upper=("upper", "mean"),
        of_truth=("of_truth", "mean"),
        lower=("lower", "mean"),
        placebo_rms=("placebo_ms", lambda ms: ms.mean() ** 0.5),
        mean_error=("mean_error", "mean"),
        sd_between=("sd_between", "mean"),
        sd_within=("sd_within", "mean"),
    ).reset_index()
    summary.to_csv(chosen.out / "ablation.tsv", sep="\t", index=False)
    print(summary.round(2).to_string(index=False))


@dataclass
class Prepared:
    """A cohort in memory."""

    settings: Any
    cohort: Any
    images: tuple[np.ndarray, np.ndarray]
    texts: Any
    encoder: Any
    folds: pd.Series
    arms: list[tuple[list[str], np.ndarray]]
    truth: float


def measured(out: Path, job: tuple[str, int]) -> list[dict[str, Any]]:
    """Numbers of one variant on one cohort, averaged over its folds."""
    import torch

    from dgmvlc_cli.generators.training import train_fold
    from dgmvlc_cli.stages.train import training_plan, training_set

    torch.set_num_threads(1)
    name, seed = job
    changes, context = VARIANTS[name]
    data = prepared(out / f"seed{seed}", changes.get("rewordings", 0))
    rows = []
    for fold in range(2):
        use = (data.folds != fold).to_numpy()
        plan = training_plan(data.settings, fold, data.encoder.name, data.encoder.sha256)
        with tempfile.TemporaryDirectory() as folder, context():
            generator = train_fold(
                training_set(data.images, data.texts, use),
                replace(plan, **changes),
                Path(folder),
            )
            for steps in SAMPLER_STEPS if name == "default" else SAMPLER_STEPS[1:2]:
                numbers = held_out(data, generator, fold, steps)
                rows.append({"variant": name, "seed": seed, "sampler_steps": steps, **numbers})
    return rows


def prepared(base: Path, rewordings: int) -> Prepared:
    from dgmvlc_cli import stages
    from dgmvlc_cli.cohort import (
        assign_folds,
        choose_contrast,
        load_cohort,
        placebo_contrasts,
    )
    from dgmvlc_cli.config import load_settings, override
    from dgmvlc_cli.pairs import arm_sentences, subjects_of
    from dgmvlc_cli.stages.base import Run
    from dgmvlc_cli.stages.train import load_images, read_texts
    from dgmvlc_cli.text.encoders import encode_cached, load_encoder
    from dgmvlc_cli.workspace import Workspace

    folder = Path(tempfile.mkdtemp())
    shutil.copytree(base / "workspace", folder, dirs_exist_ok=True)
    ws = Workspace(folder)
    changes = {"train": {"rewordings": rewordings}}
    settings = override(load_settings(ws.settings_path), changes)
    stages.describe(ws, settings, Run())
    cohort = load_cohort(ws, settings)
    encoder, cache = load_encoder("minilm"), ws.text / "embeddings.npz"
    images, _ = load_images(ws, cohort.subjects, settings)
    contrast = choose_contrast(cohort.schema, *CONTRAST)
    arms = []
    for one in (contrast, *placebo_contrasts(contrast, cohort)):
        subjects = subjects_of(one, cohort)
        said = [
            text
            for subject in subjects
            for text in arm_sentences(
                {str(k): v for k, v in cohort.rows.loc[subject].items()},
                one,
                cohort.schema,
                cohort.rows,
            )
        ]
        arms.append((subjects, encode_cached(encoder, said, cache).reshape(len(subjects), 2, -1)))
    truth = pd.read_csv(base / "phantom" / "truth.tsv", sep="\t")
    asked = (
        (truth["from"] == CONTRAST[1])
        & (truth["to"] == CONTRAST[2])
        & (truth["measure"] == "mean_hu")
        & (truth["region"] == "upper")
    )
    return Prepared(
        settings=settings,
        cohort=cohort,
        images=images,
        texts=read_texts(cohort, settings, encoder, cache),
        encoder=encoder,
        folds=assign_folds(cohort.rows, cohort.studied, 2, settings.seed),
        arms=arms,
        truth=float(truth.loc[asked, "change"].mean()),
    )


def held_out(data: Prepared, generator: Any, fold: int, steps: int) -> dict[str, float]:
    """Effects and calibration on the fold's held-out subjects."""
    from dgmvlc_cli.analysis.zones import regions
    from dgmvlc_cli.pairs import noise

    names = data.cohort.subjects
    index = {name: i for i, name in enumerate(names) if data.folds[name] == fold}
    spacing = (generator.conditioning.spacing_mm,) * 3
    places = {
        i: regions(data.images[1][i], spacing, ("lungs", "upper", "lower")) for i in index.values()
    }

    def made(subjects: list[str], text: np.ndarray) -> np.ndarray:
        shape, out = generator.noise_shape(), []
        for start in range(0, len(subjects), 16):
            part = subjects[start : start + 16]
            noises = np.stack([noise(0, one, 0, shape) for one in part])
            labels = data.images[1][[index[one] for one in part]]
            out.append(generator.generate(noises, labels, text[start : start + 16], steps=steps))
        return np.concatenate(out)

    def means(subjects: list[str], hu: np.ndarray, region: str) -> np.ndarray:
        return np.array(
            [hu[k][places[index[one]][region]].mean() for k, one in enumerate(subjects)]
        )

    changes = []
    for subjects, text in data.arms:
        chosen = [k for k, one in enumerate(subjects) if one in index]
        held = [subjects[k] for k in chosen]
        low, high = (made(held, text[chosen, side]) for side in (0, 1))
        changes.append(
            [float((means(held, high, r) - means(held, low, r)).mean()) for r in ("upper", "lower")]
        )
    held = list(index)
    where = [index[one] for one in held]
    own, real = made(held, data.texts.embeddings[where]), data.images[0][where]
    level, true = means(held, own, "lungs"), means(held, real, "lungs")
    spread = [[hu[k][places[i]["lungs"]].std() for k, i in enumerate(where)] for hu in (own, real)]
    return {
        "upper": changes[0][0],
        "of_truth": changes[0][0] / data.truth,
        "lower": changes[0][1],
        "placebo_ms": float(np.square(changes[1:]).mean()),
        "mean_error": float(level.mean() - true.mean()),
        "sd_between": float(level.std() / true.std()),
        "sd_within": float(np.mean(spread[0]) / np.mean(spread[1])),
    }


Context = Callable[[], AbstractContextManager]


# The variants: what of the plan changes, and what is patched while training and sampling. --------


def _patched(
    *patches: Context,
) -> Context:
    def enter() -> ExitStack:
        stack = ExitStack()
        for one in patches:
            stack.enter_context(one())
        return stack

    return enter


def _no_level(z: np.ndarray, labels: np.ndarray, text: np.ndarray) -> Any:
    from dgmvlc_cli.generators.level import fit_level

    return fit_level(z, labels, 0 * text)


def _own_level() -> AbstractContextManager:
    from dgmvlc_cli.generators.fitting import Tensors

    batch = Tensors.batch

    def keep(self: Any, drawn: Any, device: Any) -> Any:
        return batch(replace(self, left_out=self.own), replace(drawn, donors=drawn.index), device)

    return patch(f"{FITTING}.Tensors.batch", keep)


def _one_scale(bands: Any, kinds: Any) -> np.ndarray:
    from dgmvlc_cli.generators.conditions import Block

    lung = bands.movedim(1, -1)[(kinds == Block.LUNG) | (kinds == Block.EDGE)]
    return np.tile(lung.std(dim=0).clamp_min(0.05).numpy(), (len(Block), 1)).astype(np.float32)


def _edges_alike(scans: Any) -> Any:
    """One location per tissue, that of all its voxels."""
    from dgmvlc_cli.imaging.intensity import EXPOSURES, fit_standardiser
    from dgmvlc_cli.imaging.volume import LUNGS, Tissue

    pairs = list(scans)
    fitted = fit_standardiser(pairs)
    groups = {int(t): LUNGS if int(t) in LUNGS else (int(t),) for t in Tissue}
    overall = [
        float(np.median(np.concatenate([hu[np.isin(labels, group)] for hu, labels in pairs])))
        for group in groups.values()
    ]
    return replace(fitted, location_hu=tuple((one,) * EXPOSURES for one in overall))


def _linear(scans: Any) -> Any:
    from dgmvlc_cli.imaging.intensity import plain_standardiser

    return plain_standardiser()


def _velocity(t: Any, sigma: Any) -> tuple[Any, Any, Any]:
    import torch

    return torch.ones_like(t), torch.ones_like(t), -t


def _whitened(practice: Any, training: np.ndarray) -> Any:
    """Whitened principal components of the sentences instead of a reading of them."""
    from dgmvlc_cli.text.projection import Projection

    mean = training.mean(axis=0)
    _, s, vt = np.linalg.svd(training - mean, full_matrices=False)
    kept = min(24, int((s > 1e-3 * s[0]).sum()))
    matrix = vt[:kept].T / s[:kept] * len(training) ** 0.5
    return Projection(mean=mean.astype(np.float32), matrix=matrix.astype(np.float32))


def _unshifted(plan: Any) -> Any:
    from dgmvlc_cli.generators.flow import Flow

    return Flow(train_shift=(1.0, 1.0))


def _nowhere(labels: Any, levels: int) -> Any:
    import torch

    return torch.zeros(3, *(side // 2**levels for side in labels.shape))


VARIANTS: dict[str, tuple[dict[str, Any], Context]] = {
    "default": ({}, nullcontext),
    "no level fitted first": ({}, partial(patch, f"{FITTING}.fit_level", _no_level)),
    "own residual level kept": ({}, _own_level),
    "one scale per band": ({}, partial(patch, f"{FITTING}.fit_band_scale", _one_scale)),
    "edges standardised as the rest": (
        {},
        partial(patch, f"{FITTING}.fit_standardiser", _edges_alike),
    ),
    "HU over 1000, no mask-aware z": ({}, partial(patch, f"{FITTING}.fit_standardiser", _linear)),
    "whitened components, no reading": ({}, partial(patch, f"{FITTING}.fit_projection", _whitened)),
    "velocity, no preconditioning": (
        {},
        partial(patch, "dgmvlc_cli.generators.flow.precondition", _velocity),
    ),
    "no time shift in training": ({}, partial(patch, f"{TRAINING}.build_plan_family", _unshifted)),
    "low-pass weight 1": ({}, partial(patch, f"{FITTING}.LOW_PASS_WEIGHT", 1.0)),
    "no coordinates": (
        {},
        partial(patch, "dgmvlc_cli.generators.conditions.lung_coordinates", _nowhere),
    ),
    "level and its exchange off": (
        {},
        _patched(partial(patch, f"{FITTING}.fit_level", _no_level), _own_level),
    ),
    "fusion cross-attention": ({"fusion": "cross-attention"}, nullcontext),
    "fusion both": ({"fusion": "both"}, nullcontext),
    "fusion none": ({"fusion": "none"}, nullcontext),
    "four rewordings": ({"rewordings": 4}, nullcontext),
}


if __name__ == "__main__":
    main()
