"""The long table of measures, read as scans and as pairs of arms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from dgmvlc_cli.analysis.contrasts import Contrast, Outcome
from dgmvlc_cli.errors import DgmvlcError

MEASURE_COLUMNS = ("subject", "fold", "seed", "arm", "region", "measure", "value", "unit", "reason")
OBSERVED = "observed"
# A generator's own level is estimated from its subjects; with fewer it would be mostly noise.
MIN_FOLD_FOR_LEVEL = 10


@dataclass(frozen=True)
class Readings:
    """Measures as a matrix with one column for each outcome, that is each (measure, region).

    table: index (arm, subject, fold, seed), sorted; NaN where a measure failed.
    units: outcome -> unit, in the order of first appearance.
    """

    table: pd.DataFrame
    units: dict[Outcome, str]

    @classmethod
    def of(cls, measures: pd.DataFrame | Readings) -> Readings:
        """Readings of a table as `measures.tsv` holds it; readings are returned as they are.

        Raises DgmvlcError for missing columns and for a reading that occurs twice.
        """
        if isinstance(measures, Readings):
            return measures
        long = _typed(measures)
        named = long.drop_duplicates(["measure", "region"])
        outcomes = list(zip(named["measure"], named["region"], strict=True))
        keys = ["arm", "subject", "fold", "seed"]
        try:
            wide = long.pivot(index=keys, columns=["measure", "region"], values="value")
        except ValueError as twice:
            raise DgmvlcError(
                "the table of measures holds two values for one subject, fold, seed, arm, region "
                "and measure",
                "Measure the images again with --force.",
            ) from twice
        units = dict(zip(outcomes, named["unit"], strict=True))
        return cls(wide.reindex(columns=pd.MultiIndex.from_tuples(outcomes)).sort_index(), units)

    @property
    def outcomes(self) -> list[Outcome]:
        return list(self.units)

    def scans(self) -> pd.DataFrame:
        """The real scans: subject x outcome."""
        return self._arm(OBSERVED).groupby(level="subject").mean()

    def pairs(self, contrast: Contrast) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Reference and target arm, (subject, fold) x outcome, averaged over seeds.

        A seed whose measure failed in one arm counts in neither.  Both are empty without pairs.
        """
        reference, target = self.arms_by_fold(contrast.arms)
        return reference, target

    def seed_spread(self, contrast: Contrast) -> pd.Series:
        """Outcome -> SD of the difference between noise seeds of one subject; NaN with one seed."""
        reference, target = (self._arm(name) for name in contrast.arms)
        by_subject = (target - reference).groupby(level=["subject", "fold"])
        return np.sqrt(by_subject.var(ddof=1).mean())

    def predictions(self, contrast: Contrast) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The generator's prediction m_0 and m_1 in either arm: subject x outcome."""
        reference, target = self.pairs(contrast)
        m_0, m_1 = _levelled([reference, target])
        return m_0, m_1

    def predictions_of(self, arms: Sequence[str]) -> list[pd.DataFrame]:
        """The generator's prediction in each of several arms: subject x outcome.

        All have the subjects that occur in every arm; [] where an arm is lacking.
        """
        tables = self.arms_by_fold(arms)
        return [] if tables[0].empty else _levelled(tables)

    def arms_by_fold(self, arms: Sequence[str]) -> list[pd.DataFrame]:
        """Several arms as (subject, fold) x outcome, averaged over seeds, rows in all of them.

        A seed whose measure failed in one arm counts in none: the arms share their noise.
        """
        tables = [self._arm(name) for name in arms]
        shared = reduce(pd.Index.intersection, [table.index for table in tables])
        tables = [table.loc[shared] for table in tables]
        complete = reduce(pd.DataFrame.__and__, [table.notna() for table in tables])
        keys = ["subject", "fold"]
        return [table.where(complete).groupby(level=keys).mean() for table in tables]

    def of_subjects(self, subjects: Collection[str]) -> Readings:
        """Generated arms of these subjects only; the real scans stay as they are."""
        index = self.table.index
        kept = index.get_level_values("subject").isin(list(subjects))
        kept |= index.get_level_values("arm") == OBSERVED
        return Readings(self.table[kept], self.units)

    def _arm(self, name: str) -> pd.DataFrame:
        """Readings of one arm: (subject, fold, seed) x outcome."""
        chosen = self.table.index.get_level_values("arm") == name
        return self.table[chosen].droplevel("arm")


def _levelled(arms: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Arms (subject, fold) x outcome, freed of the levels of their folds: subject x outcome.

    Each fold's generator has a level of its own (a few HU).  The mean of all arms over its
    subjects is moved to the common mean, which uses neither the outcome nor the attribute.
    """
    level = sum(arms[1:], start=arms[0]) / len(arms)
    by_fold = level.groupby(level="fold")
    known = by_fold.count().min() >= MIN_FOLD_FOR_LEVEL  # of a lobe there may be few values
    if len(by_fold) > 1:
        shift = (level.mean() - by_fold.transform("mean")).where(known, 0.0, axis=1)
        arms = [arm + shift for arm in arms]
    return [arm.groupby(level="subject").mean() for arm in arms]


def _typed(measures: pd.DataFrame) -> pd.DataFrame:
    """The long table with subject as text, fold and seed as integers, value as float."""
    lacking = [name for name in MEASURE_COLUMNS if name not in measures.columns]
    if lacking:
        raise DgmvlcError(
            f"the table of measures lacks {', '.join(lacking)}",
            f"It needs the columns {', '.join(MEASURE_COLUMNS)}.",
        )
    return measures.assign(
        subject=measures["subject"].astype(str),
        fold=_whole(measures["fold"]),
        seed=_whole(measures["seed"]),
        value=pd.to_numeric(measures["value"], errors="coerce").astype(np.float64),
    )


def _whole(column: pd.Series) -> pd.Series:
    """Fold or seed as integers; -1 for a real scan, which has none."""
    return pd.to_numeric(column, errors="coerce").fillna(-1).astype(np.int64)
