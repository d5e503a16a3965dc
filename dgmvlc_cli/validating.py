"""Held-out pairs right after training: is the model calibrated, and does it obey its sentence?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.effects import model_implied, observed
from dgmvlc_cli.analysis.measures import measure
from dgmvlc_cli.analysis.readings import OBSERVED
from dgmvlc_cli.analysis.verdicts import ALPHA
from dgmvlc_cli.generators.model import Generator
from dgmvlc_cli.pairs import noise

MAXIMUM_SUBJECTS = 32
BATCH = 8
THIRDS = ("upper", "middle", "lower")
MEASURES = ("mean_hu", "sd_hu")
DEAF, EAGER = 0.3, 2.0  # of the observed association: below and above, something is said
FACTUAL = "factual"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Subjects that the model never saw.

    subjects: names.  hu, labels: (n, D, H, W).  factual: (n, E) embeddings of their sentences;
    arms: (n, 2, E) of the reference and the target sentence.
    """

    subjects: list[str]
    hu: np.ndarray
    labels: np.ndarray
    factual: np.ndarray
    arms: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a fold's model does on masks that it never saw.

    mean_error_hu: generated less real lung mean.  sd_between, sd_within: SD of the lung mean
    between subjects, and of HU within a lung, generated over real.  model_hu, observed_hu: by third
    of the lungs, the contrast's effect in the pairs and in the real scans of the whole cohort
    (adjusted for the covariates).  obedience: the part of the latter that the former reproduces,
    the slope of model on observed over the thirds; NaN where nothing was observed to reproduce.
    detectable: whether the observed association differs from 0 in any third, at 5 % over the three
    (Bonferroni).
    """

    subjects: int
    mean_error_hu: float
    sd_between: float
    sd_within: float
    model_hu: dict[str, float]
    observed_hu: dict[str, float]
    obedience: float
    detectable: bool

    def words(self) -> list[str]:
        """What a user should know, in sentences."""
        said = [
            f"held out: lung mean {self.mean_error_hu:+.1f} HU of the real scans', SD between "
            f"subjects {self.sd_between:.2f} and within a lung {self.sd_within:.2f} of theirs"
        ]
        if not self.detectable:
            said.append("obedience: the real scans show no clear association to reproduce")
        elif self.obedience < DEAF:
            said.append(
                f"WARNING: the model ignores its sentence: it reproduces "
                f"{100 * self.obedience:.0f} % of the observed association. More subjects, more "
                "steps, or another `fusion` may help; its effects mean little."
            )
        else:
            much = " (much more than observed: too large, or observed in too few)"
            said.append(
                f"obedience: {100 * self.obedience:.0f} % of the observed association reproduced"
                + (much if self.obedience > EAGER else "")
            )
        return said

    def facts(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a model made of its held-out subjects: HU (n, D, H, W) under their own sentences, and
    (n, 2, D, H, W) of the two arms."""

    factual: np.ndarray
    arms: np.ndarray


def validate(
    generator: Generator,
    held: HeldOut,
    scans: pd.DataFrame,
    design: pd.DataFrame,
    contrast: Contrast,
    covariates: list[str],
    *,
    steps: int,
    seed: int,
) -> tuple[Validation, Made]:
    """Calibration and obedience on held-out masks, and the volumes they were measured in.

    scans: rows of `scan_rows` of the whole cohort.  design: cleaned rows by subject.
    """
    texts = (held.factual, held.arms[:, 0], held.arms[:, 1])
    volumes = [_generated(generator, held, text, steps, seed) for text in texts]
    spacing_mm = generator.conditioning.spacing_mm
    factual, *arms = (
        _measured(held.subjects, hu, held.labels, spacing_mm, arm, seed=0)
        for hu, arm in zip(volumes, (FACTUAL, *contrast.arms), strict=True)
    )
    real = scans[scans["subject"].isin(held.subjects)]
    model = _by_third(model_implied(pd.concat([scans, *arms]), contrast, seed))
    seen = observed(scans, design, contrast, covariates)
    found = _by_third(seen)
    error = _lungs(factual, "mean_hu").mean() - _lungs(real, "mean_hu").mean()
    between, within = (_sd_ratio(factual, real, name) for name in MEASURES)
    tests = seen[(seen["measure"] == "mean_hu") & seen["region"].isin(THIRDS)]
    validation = Validation(
        subjects=len(held.subjects),
        mean_error_hu=float(error),
        sd_between=between,
        sd_within=within,
        model_hu=model,
        observed_hu=found,
        obedience=_slope(model, found),
        detectable=bool((tests["p"] < ALPHA / len(THIRDS)).any()),
    )
    return validation, Made(factual=volumes[0], arms=np.stack(volumes[1:], axis=1))


def scan_rows(
    subjects: list[str], hu: np.ndarray, labels: np.ndarray, spacing_mm: float
) -> pd.DataFrame:
    """Measures of the real scans, as measures.tsv holds them."""
    return _measured(subjects, hu, labels, spacing_mm, OBSERVED, seed=None)


def _generated(
    generator: Generator, held: HeldOut, text: np.ndarray, steps: int, seed: int
) -> np.ndarray:
    shape = generator.noise_shape()
    made = [
        generator.generate(
            np.stack([noise(seed, one, 0, shape) for one in held.subjects[start : start + BATCH]]),
            held.labels[start : start + BATCH],
            text[start : start + BATCH],
            steps=steps,
        )
        for start in range(0, len(held.subjects), BATCH)
    ]
    return np.concatenate(made)


def _measured(
    subjects: list[str],
    hu: np.ndarray,
    labels: np.ndarray,
    spacing_mm: float,
    arm: str,
    seed: int | None,
) -> pd.DataFrame:
    return pd.DataFrame(
        {"subject": subject, "fold": 0, "seed": seed, "arm": arm, **row}
        for subject, image, mask in zip(subjects, hu, labels, strict=True)
        for row in measure(image, mask, (spacing_mm,) * 3, MEASURES, ("lungs", *THIRDS))
    )


def _lungs(table: pd.DataFrame, name: str) -> pd.Series:
    chosen = table[(table["region"] == "lungs") & (table["measure"] == name)]
    return chosen.set_index("subject")["value"]


def _sd_ratio(made: pd.DataFrame, real: pd.DataFrame, name: str) -> float:
    """Generated over real: SD of the lung means between subjects, or mean SD within a lung."""
    one, other = _lungs(made, name), _lungs(real, name)
    if name == "sd_hu":
        return float(one.mean() / other.mean())
    return float(one.std() / other.std())


def _by_third(effects: pd.DataFrame) -> dict[str, float]:
    chosen = effects[effects["measure"] == "mean_hu"].set_index("region")["effect"]
    return {third: float(chosen[third]) for third in THIRDS}


def _slope(model: dict[str, float], found: dict[str, float]) -> float:
    """Least squares through 0 of the model's thirds on the observed ones."""
    energy = sum(value**2 for value in found.values())
    return sum(model[third] * found[third] for third in THIRDS) / energy if energy else np.nan
