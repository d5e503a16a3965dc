"""The clinical table of a synthetic cohort: who the subjects are, and what was written down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from dgmvlc_cli.phantom.settings import PhantomSettings
from dgmvlc_cli.workspace import generator

SMOKING = ("never smoker", "former smoker", "current smoker")
COLUMNS = (
    "subject",
    "age",
    "sex",
    "smoking_status",
    "pack_years",
    "quit_year",
    "bmi",
    "diagnosis",
    "scan_date",
)
NOT_APPLICABLE = "N/A"
MISSING_NUMBER = ("", "99999", "Not Collected")
MISSING_WORD = ("", "Not Collected")
NUMBERS = ("age", "pack_years", "quit_year", "bmi")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is true of one subject, whether or not the clinic recorded it.

    pack_years is 0 for never smokers; quit_year is None unless a former smoker.
    """

    subject: str
    age: int
    sex: str
    smoking: str
    pack_years: float
    quit_year: int | None
    bmi: float
    diagnosis: str
    scan_date: date


def true_subjects(settings: PhantomSettings) -> list[Subject]:
    """The subjects of a cohort, each drawn from its own stream of random numbers."""
    return [_subject(settings.seed, f"ph-{n + 1:04d}") for n in range(settings.subjects)]


def recorded(subject: Subject, settings: PhantomSettings) -> dict[str, str]:
    """The table row of a subject as a clinic would keep it: some entries missing, some absurd."""
    rng = generator(settings.seed, subject.subject, "recording")
    row = _written(subject)
    for column in COLUMNS[1:]:
        rate = (
            settings.missing_smoking_rate if column == "smoking_status" else settings.missing_rate
        )
        words = MISSING_NUMBER if column in NUMBERS else MISSING_WORD
        lost, word = rng.random() < rate, words[rng.integers(len(words))]
        if lost and row[column] != NOT_APPLICABLE:
            row[column] = word
    return row


def _written(subject: Subject) -> dict[str, str]:
    never, former = subject.smoking == SMOKING[0], subject.smoking == SMOKING[1]
    return {
        "subject": subject.subject,
        "age": str(subject.age),
        "sex": subject.sex,
        "smoking_status": subject.smoking,
        "pack_years": NOT_APPLICABLE if never else f"{subject.pack_years:g}",
        "quit_year": str(subject.quit_year) if former else NOT_APPLICABLE,
        "bmi": f"{subject.bmi:.1f}",
        "diagnosis": subject.diagnosis,
        "scan_date": subject.scan_date.isoformat(),
    }


def _subject(seed: int, name: str) -> Subject:
    rng = generator(seed, name, "person")
    age = round(40 + 40 * rng.beta(2.2, 2.0))
    sex = "female" if rng.random() < 0.5 else "male"
    smoking = SMOKING[rng.choice(3, p=smoking_probabilities(age, sex))]
    scan_date = date(2015, 1, 5) + timedelta(days=int(rng.integers(0, 3200)))
    years_since, pack_years = _history(rng, age, smoking)
    return Subject(
        subject=name,
        age=age,
        sex=sex,
        smoking=smoking,
        pack_years=pack_years,
        quit_year=scan_date.year - years_since if smoking == SMOKING[1] else None,
        bmi=float(np.clip(round(rng.normal(26.3, 3.8), 1), 17.0, 42.0)),
        diagnosis=_diagnosis(rng, age, smoking),
        scan_date=scan_date,
    )


def smoking_probabilities(age: float, sex: str) -> np.ndarray:
    """Chances of never, former and current smoking: women smoke less, older people have quit."""
    decades, female = (age - 60) / 10, sex == "female"
    logits = np.array([0.12 + 0.75 * female, 0.30 * decades - 0.10, -0.25 * decades + 0.12])
    weights = np.exp(logits)
    return weights / weights.sum()


def _history(rng: np.random.Generator, age: int, smoking: str) -> tuple[int, float]:
    """Years since quitting and pack-years.  The draws are the same whatever the level is."""
    quit_share, packs_per_day = rng.uniform(0.1, 0.7), rng.gamma(6.0, 0.13)
    smoked_years = age - 19
    years_since = max(1, int(quit_share * smoked_years)) if smoking == SMOKING[1] else 0
    pack_years = round(float(packs_per_day * (smoked_years - years_since)), 1)
    return years_since, 0.0 if smoking == SMOKING[0] else max(0.5, pack_years)


def _diagnosis(rng: np.random.Generator, age: int, smoking: str) -> str:
    """A diagnosis that depends mildly on age and smoking and changes nothing in the scan."""
    copd = 0.04 + 0.10 * (smoking != SMOKING[0]) + 0.0015 * (age - 40)
    ild = 0.03 + 0.0015 * (age - 40)
    return str(rng.choice(["COPD", "ILD", "none"], p=[copd, ild, 1 - copd - ild]))
