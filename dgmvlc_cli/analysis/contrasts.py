"""What is compared with what: a contrast, who stands on each side, and their covariates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import cast

import numpy as np
import pandas as pd

from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError, UsageError

# A level (or a missing value) seen in fewer subjects gets no coefficient of its own: one or two
# subjects would each have a leverage near 1, where robust standard errors are undefined.
MIN_SUBJECTS = 5
SUBJECTS_PER_COEFFICIENT = 3
# What the covariates leave of the attribute is what an effect is estimated from.  Below this share
# of its variance there is nothing; above this share in one subject, it is that subject's effect.
LEAST_LEFT, MOST_OF_ONE = 1e-6, 0.4

# The logarithm of lung volume, a covariate beside those of the table.
LOG_VOLUME = "log lung volume"
VOLUME = "volume_ml"
LUNG_VOLUME = (VOLUME, "lungs")

# The reference arm of a joint edit: every subject's row as it is.
FACTUAL = "as recorded"

# An outcome is a (measure, region).
Outcome = tuple[str, str]


def is_number(value: object) -> bool:
    """True for an int or float, numpy's included; not for a bool."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def arm_name(attribute: str, level: str | float) -> str:
    """How an arm is called in tables and files: `smoking=current smoker`, `age=45`."""
    return f"{attribute}={level_text(level)}"


def level_text(level: str | float) -> str:
    """A level as the names of arms and contrasts have it.

    An arrow in it becomes another one, so that a contrast's text has one to part it at.
    """
    return f"{level:g}" if is_number(level) else str(level).replace("->", "→")


@dataclass(frozen=True)
class Contrast:
    """One attribute set from a reference level to a target level.

    Levels are texts for a categorical attribute and numbers for a numeric one.
    edits: of a joint edit, (attribute, value) of all that the target arm sets; see `joint_edit`.
    """

    attribute: str
    reference: str | float
    target: str | float
    edits: tuple[tuple[str, str | float], ...] = ()

    def __post_init__(self) -> None:
        if self.reference == self.target:
            raise UsageError(
                f"the contrast sets {self.attribute!r} from {self.reference!r} to itself",
                "Choose two different levels.",
            )

    @property
    def text(self) -> str:
        """`smoking: never smoker -> current smoker`."""
        return f"{self.attribute}: {' -> '.join(self.levels)}"

    @property
    def levels(self) -> tuple[str, str]:
        """The two levels as texts."""
        return level_text(self.reference), level_text(self.target)

    @property
    def arms(self) -> tuple[str, str]:
        """Names of the reference and the target arm."""
        return arm_name(self.attribute, self.reference), arm_name(self.attribute, self.target)

    @property
    def numeric(self) -> bool:
        return is_number(self.reference) and is_number(self.target)

    @property
    def settings(self) -> tuple[tuple[str, str | float], ...]:
        """(attribute, value) of all that its arms set."""
        both = ((self.attribute, self.reference), (self.attribute, self.target))
        return self.edits or both

    @property
    def joint(self) -> bool:
        """True where several attributes (or one, from whatever it is) are set at once."""
        return bool(self.edits)


def joint_edit(edits: Mapping[str, str | float]) -> Contrast:
    """From every subject's own row to the same row with all edits made.

    Nobody in the table stands for such an arm as a group, so real scans cannot be compared.
    """
    name, target = " + ".join(edits), " + ".join(map(level_text, edits.values()))
    return Contrast(name, FACTUAL, target, tuple(edits.items()))


def dose(design: pd.DataFrame, contrast: Contrast) -> pd.Series:
    """The attribute on the scale of the contrast, for the subjects that can inform it.

    Returns subject -> float, sorted by subject.  Categorical: 0 at the reference and 1 at the
    target; subjects at other levels or without a value are left out.  Numeric: (value - reference)
    / (target - reference), so that a slope is the effect of the whole step.
    A joint edit has none.  Raises UsageError where the design lacks the attribute.
    """
    if contrast.joint:
        return pd.Series(dtype=float, index=design.index[:0])
    column = _column(design, contrast.attribute, "attribute")
    if contrast.numeric:
        value = pd.to_numeric(column, errors="coerce").astype(float)
        scaled = (value - contrast.reference) / (contrast.target - contrast.reference)  # type: ignore[operator]
    else:
        scaled = column.map({contrast.reference: 0.0, contrast.target: 1.0}).astype(float)
    return scaled.dropna().sort_index()


def informing(design: pd.DataFrame, contrast: Contrast) -> list[str]:
    """Subjects whose own value informs the contrast: at either level, or any number.

    All four numbers, the maps, the statistics and the pictures are of these subjects, so that they
    describe one population.  Arms may exist of others too, who stand at a level that was studied
    along with these two.  A joint edit is informed by everybody.
    """
    return list(design.index if contrast.joint else dose(design, contrast).index)


@dataclass(frozen=True)
class Cohort:
    """Subjects of a contrast, and the outcomes that are known in exactly these subjects.

    a: (n,) from `dose`.  x: n rows from `encode`.  y: n rows, one column per outcome.  All have
    the same index, sorted by subject.  covariates: those in x.  left_out: see `usable`.
    everyone: as a, of all that the contrast has, whether the outcomes are known in them or not.
    """

    contrast: Contrast
    a: pd.Series
    x: pd.DataFrame
    y: pd.DataFrame
    covariates: tuple[str, ...]
    left_out: tuple[str, ...]
    everyone: pd.Series

    @property
    def n(self) -> int:
        return len(self.a)

    @property
    def outcomes(self) -> list[Outcome]:
        return cast(list[Outcome], self.y.columns.tolist())

    @cached_property
    def problem(self) -> str:
        """Why nothing can be estimated here; empty when all is well."""
        if self.contrast.numeric:
            if self.a.nunique() < 3:
                where = "" if self.n == len(self.everyone) else " where this measure is"
                return (
                    f"fewer than 3 different values of {self.contrast.attribute} are known{where}"
                )
            if (off := _off_mode(self.a)) < MIN_SUBJECTS:
                others = counted(off, "subject")
                return (
                    f"all but {others} have one value of {self.contrast.attribute}, "
                    f"at least {MIN_SUBJECTS} others are needed"
                )
        else:
            sides = (self.contrast.reference, self.contrast.target)
            found = too_few_at(self.a, sides, self.everyone)
            if found:
                return found
        return too_few(self.n, self.x.shape[1] + 2) or entangled(
            self.a.to_numpy(), self.x.to_numpy(), self.contrast.attribute
        )

    @property
    def description(self) -> str:
        """`52 vs 44 subjects, adjusted for age, sex`."""
        sizes = f"{int((self.a == 0).sum())} vs {int((self.a == 1).sum())}"
        count = str(self.n) if self.contrast.numeric else sizes
        adjusted = f"adjusted for {', '.join(self.covariates)}" if self.covariates else "unadjusted"
        return ", ".join([f"{count} subjects", adjusted, *not_adjusted(self.left_out)])


def cohorts(
    scans: pd.DataFrame, design: pd.DataFrame, contrast: Contrast, covariates: Iterable[str]
) -> Iterator[Cohort]:
    """The subjects of a contrast, outcomes with the same missing subjects together.

    scans: subject x outcome.  design: index subject.  covariates: the contrast's own attribute is
    left out of them.
    """
    a = dose(design, contrast)
    names = tuple(name for name in covariates if name != contrast.attribute)
    for y in by_known(scans.reindex(a.index)):
        here = design.loc[y.index]
        yield Cohort(contrast, a[y.index], encode(here, names), y, *usable(here, names), a)


def usable(
    design: pd.DataFrame, covariates: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The covariates of which values enter `encode`, and those of which none does."""
    names = list(covariates)
    values = {name: set(_encode_one(_column(design, name, "covariate"))) for name in names}
    entered = tuple(name for name in names if values[name] - {_missing(name)})
    return entered, tuple(name for name in names if name not in entered)


def not_adjusted(left_out: Iterable[str]) -> list[str]:
    """Which covariates could not be adjusted for, and why, in words; none where all could."""
    if not (names := ", ".join(left_out)):
        return []
    why = f"fewer than {MIN_SUBJECTS} subjects have another value than the rest"
    return [f"could not be adjusted for {names}: {why}"]


def by_known(y: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The outcomes (columns) that are known in the same subjects, with just these subjects."""
    known = y.notna().to_numpy()
    for pattern in np.unique(known, axis=1).T:
        yield y.loc[pattern, (known == pattern[:, None]).all(axis=0)]


def too_few_at(
    codes: pd.Series, names: Sequence[str | float], everyone: pd.Series | None = None
) -> str:
    """Which level has too few subjects, in words; empty where none has.

    codes: places in names, of the subjects who have the measure.  everyone: of all subjects.
    """
    for code, name in enumerate(names):
        if (count := int((codes == code).sum())) < MIN_SUBJECTS:
            there = count if everyone is None else int((everyone == code).sum())
            few = f"{counted(count, 'subject')} at {name!r}"
            if there > count:
                few = f"{count} of {counted(there, 'subject')} at {name!r} have this measure"
            return f"{few}, at least {MIN_SUBJECTS} are needed"
    return ""


def too_few(subjects: int, coefficients: int) -> str:
    """Why a regression cannot be fitted to so few subjects; empty where it can."""
    if subjects < SUBJECTS_PER_COEFFICIENT * coefficients:
        return f"{subjects} subjects are too few for {coefficients} coefficients"
    return ""


def entangled(a: np.ndarray, x: np.ndarray, name: str) -> str:
    """Why covariates leave too little of an attribute to estimate from; empty where they do not.

    a: (n,).  x: (n, p).  A site where everybody smokes and one where nobody does leave nothing: an
    effect of smoking and one of the site cannot be told apart, whatever the estimator.
    """
    design = np.column_stack([np.ones(len(a)), x])
    left = (a - design @ np.linalg.lstsq(design, a, rcond=None)[0]) ** 2
    if left.sum() <= LEAST_LEFT * np.sum((a - a.mean()) ** 2):
        return f"the covariates determine {name}: nobody is comparable at another value of it"
    if (share := left.max() / left.sum()) > MOST_OF_ONE:
        return f"{100 * share:.0f} % of what the covariates leave of {name} is one subject's"
    return ""


def at_one_volume(
    scans: pd.DataFrame,
    volume: pd.Series | None,
    design: pd.DataFrame,
    covariates: Iterable[str],
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]]:
    """Outcomes with the design and covariates by which their effect is that of one lung volume.

    The arms of a pair share the mask, so their difference is not by way of lung volume; what real
    scans are to say of the same effect must hold it fixed too.  Volume itself cannot be, so it goes
    without.  scans: subject x outcome.  volume: of the lungs, mL; None adds nothing.
    """
    is_volume = scans.columns.get_level_values(0) == VOLUME
    for chosen, held in ((is_volume, None), (~is_volume, volume)):
        if chosen.any():
            yield scans.loc[:, chosen], *with_log_volume(design, held, covariates)


def with_log_volume(
    design: pd.DataFrame, volume: pd.Series | None, covariates: Iterable[str]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Design and covariates with `LOG_VOLUME` among them, or as they are without a volume.

    volume: of the lungs, mL, index subject.
    """
    if volume is None:
        return design, tuple(covariates)
    known = np.log(volume.where(volume > 0).reindex(design.index))
    return design.assign(**{LOG_VOLUME: known}), (*covariates, LOG_VOLUME)


def encode(design: pd.DataFrame, covariates: Iterable[str]) -> pd.DataFrame:
    """Covariates as regression columns, standardised: index as the design's, no missing values.

    Numeric: missing values become the mean; where fewer than `MIN_SUBJECTS` subjects have another
    value than the most frequent one, it is left out.  Categorical: one column for each level but
    the most frequent; missing values count as the most frequent level, and levels with fewer than
    `MIN_SUBJECTS` subjects are pooled.  Either way a column `<name> missing` marks the subjects
    that lack the value, if there are `MIN_SUBJECTS` of them.  Constant and linearly dependent
    columns are left out.
    Raises UsageError for an unknown covariate.
    """
    columns: dict[str, np.ndarray] = {}
    for name in covariates:
        columns |= _encode_one(_column(design, name, "covariate"))
    kept = _independent({name: _standardise(values) for name, values in columns.items()})
    return pd.DataFrame(kept, index=design.index, dtype=float)


def unique_subjects(design: pd.DataFrame) -> pd.DataFrame:
    """The design with subjects as text; DgmvlcError where one occurs twice."""
    named = design.set_axis(design.index.astype(str), axis=0)
    if not named.index.is_unique:
        twice = named.index[named.index.duplicated()][0]
        raise DgmvlcError(
            f"subject {twice!r} occurs more than once in the clinical table",
            "Keep one row per subject.",
        )
    return named


def _column(design: pd.DataFrame, name: str, kind: str) -> pd.Series:
    if name not in design.columns:
        known = ", ".join(map(str, design.columns))
        raise UsageError(f"unknown {kind} {name!r}", f"The clinical table has: {known}.")
    return design[name]


def _encode_one(column: pd.Series) -> dict[str, np.ndarray]:
    missing = column.isna().to_numpy()
    if missing.all():
        return {}
    numeric = all(map(is_number, column[~missing]))
    encoded = _numeric_columns(column) if numeric else _level_columns(column)
    if missing.sum() >= MIN_SUBJECTS:
        encoded[_missing(column.name)] = missing.astype(float)
    return encoded


def _missing(name: object) -> str:
    """The column that marks who lacks a covariate."""
    return f"{name} missing"


def _numeric_columns(column: pd.Series) -> dict[str, np.ndarray]:
    values = column.astype(float)
    if _off_mode(values.dropna()) < MIN_SUBJECTS:
        return {}
    return {str(column.name): values.fillna(values.mean()).to_numpy()}


def _level_columns(column: pd.Series) -> dict[str, np.ndarray]:
    text = column.dropna().astype(str)
    counts = text.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    rare = {level for level in counts.index[1:] if counts[level] < MIN_SUBJECTS}
    pooled = text.where(~text.isin(rare), "(other)").reindex(column.index)
    levels = [level for level in counts.index[1:] if level not in rare]
    if counts[list(rare)].sum() >= MIN_SUBJECTS:
        levels.append("(other)")
    return {f"{column.name}={level}": (pooled == level).to_numpy(float) for level in levels}


def _off_mode(values: pd.Series) -> int:
    """How many values are not the most frequent one."""
    return len(values) - int(values.value_counts().iloc[0])


def _standardise(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)


def _independent(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns that add to the rank of the ones before them, a constant included."""
    kept: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        stacked = np.column_stack([np.ones_like(values), *kept.values(), values])
        if np.linalg.matrix_rank(stacked) == stacked.shape[1]:
            kept[name] = values
    return kept
