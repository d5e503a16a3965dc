"""A made-up but plausible analysis: ellipsoid lungs, a planted effect, two placebos."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import ndimage

from dgmvlc_cli.analysis.axioms import COLUMNS as EVALUATION_COLUMNS
from dgmvlc_cli.analysis.balance import ACQUISITION_COLUMNS
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.effects import EFFECT_COLUMNS
from dgmvlc_cli.analysis.looks import Pair, summarise
from dgmvlc_cli.analysis.maps import Sampler
from dgmvlc_cli.analysis.paired import distance_rows, statistics_table
from dgmvlc_cli.analysis.readings import MEASURE_COLUMNS
from dgmvlc_cli.mapping import Maps, group_maps
from dgmvlc_cli.measuring import Look
from dgmvlc_cli.report.contents import VERDICT_COLUMNS, ReportContents

CONTRAST = "smoking: never smoker -> current smoker"
PLACEBOS = {"placebo_1": ("birch", "maple"), "placebo_2": ("copper", "nickel")}
PLANTED_HU = {
    "lungs": -12.4,
    "right_lung": -12.6,
    "left_lung": -12.1,
    "upper": -29.4,
    "middle": -8.1,
    "lower": 0.0,
    "anterior": -12.9,
    "posterior": -11.8,
    "core": -12.2,
    "rind": -12.7,
    "airway": 0.0,
    "body": 0.0,
    "outside": 0.0,
}
SCALES = {"mean_hu": ("HU", 1.0), "sd_hu": ("HU", 0.2), "laa950_percent": ("%", -0.04)}
METHODS = {
    "model_implied": "paired t interval, within the models; d_z -1.21",
    "placebo": "paired t interval, within the models; d_z 0.31",
    "observed": "OLS, HC3, 38 vs 25 subjects, adjusted for age, sex, bmi",
    "mixed": "mixed model over subject, fold and seed, REML; SD 1.1 between folds",
    "debiased": "cross-fitted AIPW, overlap-weighted effect; generator weight 0.61",
}
KINDS = ("model_implied", "mixed", "observed", "debiased", "placebo", "placebo_debiased")
SPREADS = {"model_implied": 1.1, "mixed": 1.9, "observed": 4.8, "debiased": 4.6, "placebo": 1.2}


def ellipsoid_thorax(
    shape: tuple[int, int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(z, y, x) HU and labels of a body with two ellipsoid lungs and a trachea."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    width, depth = rng.normal(1, 0.04, 2)
    labels = np.zeros(shape, np.uint8)
    labels[(x / 0.97) ** 2 + (y / 0.88) ** 2 < 1] = 1
    domes = z > -0.55 - 0.25 * ((np.abs(x) - 0.42) ** 2 + y**2) * 3
    for label, side, size in ((2, -1, 0.40), (3, 1, 0.36)):
        lung = ((x - side * 0.45) / (size * width)) ** 2 + (y / (0.68 * depth)) ** 2
        labels[(lung + (np.clip(z + 0.1, -1, None) / 0.98) ** 2 < 1) & domes] = label
    labels[(x**2 + (y + 0.05) ** 2 < 0.006) & (z > 0.15)] = 4
    level = np.select(
        [labels == 1, labels >= 4, labels >= 2], [40.0, -990.0, -860 + 45 * y], -1000.0
    )
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 1.2) * 150
    hu = level + np.where(labels == 0, 0.1, np.where(labels == 1, 0.4, 1.0)) * texture
    return ndimage.gaussian_filter(hu, 0.6).astype(np.float32), labels


def make_pair(
    number: int, shape: tuple[int, int, int] = (20, 14, 20), *, real: bool = True
) -> Pair:
    """A subject whose upper lung is some 30 HU less dense in the target arm."""
    rng = np.random.default_rng(number)
    hu, labels = ellipsoid_thorax(shape, rng)
    height = np.linspace(0, 1, shape[0])[:, None, None]
    change = -33 * np.clip(2 * height - 0.75, 0, 1) + 4 * rng.normal()
    ripple = ndimage.gaussian_filter(rng.normal(size=shape), 1.5) * 60
    target = hu + (change + ripple) * np.isin(labels, (2, 3)) + 0.02 * ripple
    return Pair(
        subject=f"ph-{number:04d}",
        reference_hu=hu,
        target_hu=target.astype(np.float32),
        real_hu=(hu + 12 * rng.normal(size=shape)).astype(np.float32) if real else None,
        labels=labels,
        spacing_mm=(320 / shape[0], 240 / shape[1], 320 / shape[2]),
        reference_sentence="Chest CT of a 63-year-old woman, never smoker, BMI 24.1.",
        target_sentence="Chest CT of a 63-year-old woman, current smoker, 31 pack-years, BMI 24.1.",
    )


def effect_rows(rng: np.random.Generator, n: int) -> Iterator[tuple[Any, ...]]:
    """Rows of EFFECT_COLUMNS for every measure, region, kind and placebo."""
    for measure, (unit, scale) in SCALES.items():
        for region, planted in PLANTED_HU.items():
            control = region in ("airway", "body", "outside")
            for kind in KINDS:
                contrasts = [CONTRAST]
                if kind.startswith("placebo"):
                    contrasts = [f"{key}: {a} -> {b}" for key, (a, b) in PLACEBOS.items()]
                for contrast in contrasts:
                    truth = 0.0 if kind.startswith("placebo") else planted
                    noise = {"model_implied": 2.5, "placebo": 4.5}.get(kind, 4.0)
                    spread = abs(scale) * SPREADS.get(kind, 4.7) * (0.2 if control else 1)
                    effect = scale * truth + abs(scale) * rng.normal() * noise * (
                        0.1 if control else 1
                    )
                    p = 0.0004 if abs(effect) > 2 * spread else 0.31
                    yield (
                        *(measure, region, contrast, kind, n, effect),
                        *(effect - 1.98 * spread, effect + 1.98 * spread, p, min(1, 2 * p)),
                        0.012 if kind == "model_implied" else np.nan,
                        *(unit, METHODS[kind.replace("placebo_", "")]),
                    )


def measure_rows(rng: np.random.Generator, n: int) -> Iterator[tuple[Any, ...]]:
    """Rows of MEASURE_COLUMNS: the real scan and both arms of n subjects."""
    arms = ("observed", "smoking=never smoker", "smoking=current smoker")
    for number in range(1, n + 1):
        own = rng.normal(0, 16)
        for region, planted in PLANTED_HU.items():
            base = {"airway": -985, "body": 35, "outside": -1000}.get(region, -850 + own)
            for arm in arms:
                moved = base + rng.normal(0, 4) + (planted if arm.endswith("current smoker") else 0)
                seed = "" if arm == "observed" else 0
                who = (f"ph-{number:04d}", number % 2, seed, arm)
                yield (*who, region, "mean_hu", moved, "HU", "")


def fit_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Generated against real, two folds, four regions."""
    return [
        {
            "fold": fold,
            "region": region,
            "real_mean_hu": mean,
            "generated_mean_hu": mean + rng.normal(0, 3),
            "real_sd_between": 17.3,
            "generated_sd_between": 15.1 + rng.normal(),
            "real_sd_within": 29.0,
            "generated_sd_within": 22.0 + rng.normal(),
        }
        for fold in (0, 1)
        for region, mean in {"lungs": -851, "upper": -868, "middle": -852, "lower": -834}.items()
    ]


def training_table(rng: np.random.Generator, steps: int = 800) -> pd.DataFrame:
    """A loss that falls, written every fifth step."""
    step = np.arange(5, steps + 1, 5)
    loss = 0.35 + 0.6 * np.exp(-step / 120) + rng.normal(0, 0.03, step.size)
    table = pd.DataFrame({"step": step, "loss": loss, "lr": 1e-3, "seconds": 0.45 * step})
    table["val_loss"] = np.where(step % 100 == 0, 0.37 + 0.5 * np.exp(-step / 120), np.nan)
    return table


def write_qc(folder: Path, pairs: list[Pair]) -> list[tuple[str, Path]]:
    """One small picture for each subject."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for pair in pairs:
        figure = Figure(figsize=(2.4, 2))
        axes = figure.add_axes((0, 0, 1, 1))
        middle = pair.reference_hu.shape[1] // 2
        axes.imshow(pair.reference_hu[::-1, middle], cmap="gray", vmin=-1350, vmax=150)
        axes.axis("off")
        path = folder / f"sub-{pair.subject}_qc.png"
        figure.savefig(path, dpi=60)
        paths.append((pair.subject, path))
    return paths


def make_verdicts() -> pd.DataFrame:
    """A verdict of each kind."""
    return pd.DataFrame(
        [
            ("mean_hu", "lungs", "undecided", "Both lungs: the interval leaves room for 0."),
            (
                *("mean_hu", "upper", "supported"),
                "Mean HU, upper third: supported. In the real scans, current smoker differs "
                "from never smoker by -25.4 HU [-34.5, -16.3] (debiased); the model says "
                "-30.1 HU, its largest placebo 12.2 HU.",
            ),
            ("mean_hu", "middle", "undecided", "Middle third: the interval leaves room for 0."),
            ("mean_hu", "lower", "not supported", "Lower third: within the placebos' range."),
            ("sd_hu", "upper", "not supported", "Spread of HU: within the placebos' range."),
        ],
        columns=VERDICT_COLUMNS,
    )


def scan_rows(pairs: list[Pair]) -> list[dict[str, Any]]:
    """A row for each scan; the second one is flagged."""
    return [
        {
            "subject": pair.subject,
            "flags": "lungs cut off by the top of the scan" if number == 1 else "",
            "slice_mm": 2.5,
            "lung_volume_ml": 4800.0 + 10 * number,
            "mean_lung_hu": -850.0 - number,
        }
        for number, pair in enumerate(pairs)
    ]


def make_truth() -> pd.DataFrame:
    """The truth of mean HU, and estimates that shrink it."""
    return pd.DataFrame(
        {
            "measure": "mean_hu",
            "region": list(PLANTED_HU),
            "truth": list(PLANTED_HU.values()),
            "unit": "HU",
            "model_implied": [0.9 * value for value in PLANTED_HU.values()],
            "ratio": [0.9 if value else np.nan for value in PLANTED_HU.values()],
            "debiased": [0.8 * value for value in PLANTED_HU.values()],
            "ci_low": [0.8 * value - 9 for value in PLANTED_HU.values()],
            "ci_high": [0.8 * value + 9 for value in PLANTED_HU.values()],
            "debiased_covers": True,
        }
    )


def methods_facts(shape: tuple[int, int, int]) -> dict[str, dict[str, Any]]:
    """Facts of every stage."""
    return {
        "phantom": {"subjects": 98, "spacing_mm": 8.0, "null": False},
        "preprocess": {
            "spacing_mm": (8.0, 8.0, 8.0),
            "shape": shape,
            "mask": "built-in",
            "subjects": 96,
        },
        "describe": {
            "encoder": "all-MiniLM-L6-v2",
            "attributes": ["age", "sex", "smoking"],
            "placebos": 2,
        },
        "train": {
            "model": "flow",
            "fusion": "affine",
            "steps": 800,
            "folds": 2,
            "batch_size": 8,
            "parameters": 1_820_000,
            "wavelet_levels": 1,
            "low_pass_weight": 4.0,
            "time_shift": "log-uniform in 1 to 40",
            "ema_decay": 0.995,
            "text_dropout": 0.1,
        },
        "counterfactual": {
            "mode": "from the mask",
            "steps": 20,
            "seeds": 1,
            "guidance_scale": 1.0,
            "pairs": 96,
        },
        "analyze": {
            "covariates": ["age", "sex", "bmi"],
            "estimand": "overlap",
            "standard_errors": "HC3",
            "adjustment": "Benjamini-Hochberg",
            "confidence": 0.95,
            "map_flips": 10_000,
            "map_tfce_flips": 1000,
            "map_permutations": 1000,
            "map_smoothing_mm": 12.0,
        },
    }


def build_contents(
    folder: Path, *, subjects: int = 5, shape: tuple[int, int, int] = (20, 14, 20), **changes: Any
) -> ReportContents:
    """A whole report's contents; `changes` replace single fields."""
    rng = np.random.default_rng(1)
    pairs = [make_pair(number, shape) for number in range(1, subjects + 1)]
    fields: dict[str, Any] = {
        "title": "What smoking changes in the lungs of a synthetic cohort",
        "contrast": CONTRAST,
        "attribute": "smoking",
        "verdict": [
            "In the upper third of the lungs, current smokers' lung tissue is 27.9 HU less dense "
            "than never smokers' (debiased, 95 % interval 18.6 to 37.2 HU).",
            "The lower third shows no effect that can be told from what this model makes of "
            "attributes without meaning.",
        ],
        "verdicts": make_verdicts(),
        "effects": pd.DataFrame(list(effect_rows(rng, 96)), columns=EFFECT_COLUMNS),
        "measures": pd.DataFrame(list(measure_rows(rng, 40)), columns=MEASURE_COLUMNS),
        "statistics": make_statistics(),
        "balance": pd.DataFrame(
            {
                "covariate": ["age", "sex=male", "bmi"],
                "smd_raw": [0.41, 0.22, -0.13],
                "smd_weighted": [0.01, -0.004, 0.02],
            }
        ),
        "evaluation": make_evaluation(),
        "acquisition": pd.DataFrame(
            [
                (
                    "slice spacing",
                    "never smoker",
                    "1.25 mm (1 to 2)",
                    "current smoker",
                    "5 mm (2.5 to 7)",
                    0.0004,
                    0.0008,
                ),
                (
                    "reconstruction kernel",
                    "never smoker",
                    "smooth 38",
                    "current smoker",
                    "smooth 25",
                    float("nan"),
                    float("nan"),
                ),
            ],
            columns=list(ACQUISITION_COLUMNS),
        ),
        "cohort": [
            {"attribute": "age", "coverage": 1.0, "levels": "63.2 ± 9.1 (41 to 84)"},
            {"attribute": "sex", "coverage": 0.98, "levels": {"female": 51, "male": 43}},
            {
                "attribute": "smoking",
                "coverage": 0.94,
                "levels": {"never smoker": 38, "former smoker": 27, "current smoker": 25},
            },
        ],
        "counts": {"found": 98, "ok": 96, "failed": 1, "excluded": 1, "used": 96},
        "exclusions": pd.DataFrame({"subject": ["ph-0098"], "reason": ["no row in the table"]}),
        "failures": [{"subject": "ph-0097", "reason": "truncated file: 1.2 of 3.4 MB"}],
        "qc": write_qc(folder / "qc", pairs),
        "scans": scan_rows(pairs),
        "training": {0: training_table(rng), 1: training_table(rng)},
        "fit": fit_rows(rng),
        "pairs": pairs,
        "summaries": [summarise(pair) for pair in pairs],
        "maps": make_maps(subjects, shape),
        "truth": make_truth(),
        "placebo_words": {
            key: dict(zip(("never smoker", "current smoker"), words, strict=True))
            for key, words in PLACEBOS.items()
        },
        "methods": methods_facts(shape),
        "provenance": {
            "command": "dgmvlc analyze",
            "versions": {"dgmvlc": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0"},
            "seed": 1,
            "device": "cpu",
            "seconds": 8.1,
            "sha256": {"prompts.tsv": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0"},
        },
        "intended_use": ["The phantom is a simulator, not a patient."],
    }
    return ReportContents(**(fields | changes))


@functools.cache
def make_statistics() -> pd.DataFrame:
    """Further statistics of the made-up measures, and a distance between the arms."""
    contrast = Contrast("smoking", "never smoker", "current smoker")
    rows = list(measure_rows(np.random.default_rng(1), 40))
    measures = pd.DataFrame(rows, columns=MEASURE_COLUMNS)
    subjects = measures["subject"].unique()
    levels = ["never smoker", "current smoker"] * 20
    design = pd.DataFrame({"smoking": levels}, index=subjects)
    distances = pd.DataFrame({"subject": subjects, "contrast": CONTRAST, "region": "lungs"})
    distances["value"] = np.linspace(10, 20, len(subjects))
    tables = (
        statistics_table(measures, design, contrast, [], seed=0),
        distance_rows(distances, [contrast], seed=0),
    )
    return pd.concat(tables, ignore_index=True)


@functools.cache
def make_maps(subjects: int, shape: tuple[int, int, int]) -> Maps:
    """Group maps of the pairs, of two placebos that move everything a little, and of a truth."""
    looks, rng = [], np.random.default_rng(2)
    for pair in (make_pair(number, shape) for number in range(1, subjects + 1)):
        sampler = Sampler(pair.labels, pair.spacing_mm)
        real = pair.reference_hu if pair.real_hu is None else pair.real_hu
        own = sampler(pair.difference_hu)
        placebos = {
            f"{name}: {a} -> {b}": 0 * own + rng.normal(0, 2) for name, (a, b) in PLACEBOS.items()
        }
        looks.append(
            Look(
                subject=pair.subject,
                rows=[],
                real_map=sampler(real),
                difference_maps={CONTRAST: own, **placebos},
                cell_mm=sampler.cell_mm,
            )
        )
    contrasts = [
        Contrast("smoking", "never smoker", "current smoker"),
        *(Contrast(name, a, b) for name, (a, b) in PLACEBOS.items()),
    ]
    levels = ["never smoker", "current smoker"] * len(looks)
    rows = pd.DataFrame({"smoking": levels[: len(looks)]}, index=[look.subject for look in looks])
    maps = group_maps(looks, rows, contrasts, [], seed=0, tfce_flips=20)
    if not maps.group:
        return maps
    truth = 0 * maps.group["model_implied"].effect
    truth[16:] -= 30
    return dataclasses.replace(maps, truth=truth, truth_n=len(looks))


def make_evaluation() -> pd.DataFrame:
    """As evaluation.tsv holds it: one property shown, one that nothing can be said of."""
    nan = float("nan")
    rows = [
        ("effectiveness", "smoking", 40, 0.62, 0.5, 0.74, "of the step", 0.58, "read off", "shows"),
        ("specificity", "pack_years", 40, nan, nan, nan, "pack-years", nan, "not read", None),
    ]
    return pd.DataFrame(rows, columns=[*EVALUATION_COLUMNS, "in_words"])


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., ReportContents]:
    """`build(**changes)` -> ReportContents."""

    def builder(**changes: Any) -> ReportContents:
        return build_contents(tmp_path, **changes)

    return builder


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> ReportContents:
    """The made-up analysis, built once."""
    return build_contents(tmp_path_factory.mktemp("contents"))
