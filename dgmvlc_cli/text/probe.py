"""How well each attribute can be read from the embeddings of the sentences.

What a linear reading cannot find, cross-validated, in what the generator is given, the generator
can hardly learn.  Numbers are read by ridge regression (R2), levels by the same regression on
their indicators, one against the rest (AUC).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dgmvlc_cli import workspace
from dgmvlc_cli.text.schema import WITH_LEVELS, Schema

FOLDS = 5
RESAMPLES = 1000
FEWEST = 10  # subjects per level, or with a number
PENALTIES = np.logspace(-6, 2, 17)  # times the mean squared singular value
# Below these the generator hears too little of an attribute.
LOW_R2, LOW_AUC = 0.5, 0.8

COLUMNS = ("attribute", "level", "metric", "read_from", "n", "estimate", "low", "high")


class Estimate(NamedTuple):
    """R2 or AUC out of fold, and its 95 % interval over subjects (percentile bootstrap)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """table: a row per attribute, level and input, in COLUMNS; the level `all` is the mean of an
    attribute's levels, an empty level is a number.  untold: attribute -> levels (or the number)
    that too few subjects have.
    """

    table: pd.DataFrame
    untold: dict[str, list[str]]

    def of(self, read_from: str) -> dict[str, dict[str, Any]]:
        """Attribute -> its row for one input: of the number, or of the mean of its levels."""
        table = self.table
        rows = table[(table["read_from"] == read_from) & table["level"].isin(["", "all"])]
        records = (dict(zip(COLUMNS, row, strict=True)) for row in rows.itertuples(index=False))
        return {record["attribute"]: record for record in records}

    def unheard(self, read_from: str) -> dict[str, dict[str, Any]]:
        """The attributes that can hardly be read from an input, with their rows."""
        low = {"R2": LOW_R2, "AUC": LOW_AUC}
        rows = self.of(read_from)
        return {name: row for name, row in rows.items() if row["estimate"] < low[row["metric"]]}


def probe(
    rows: pd.DataFrame, schema: Schema, inputs: dict[str, dict[str, np.ndarray]], seed: int
) -> Probe:
    """Read every attribute of the sentence from each input.

    rows: cleaned rows by subject.  inputs: name -> attribute -> (n, E) features of all subjects;
    a subject without the attribute is not used for it.
    """
    found, untold = [], {}
    for name, attribute in schema.attributes.items():
        if not attribute.in_sentence:
            continue
        column = rows[name]
        targets, few = _targets(column, attribute.levels if attribute.kind in WITH_LEVELS else ())
        if few:
            untold[name] = few
        for read_from, features in inputs.items() if targets else ():
            stream = workspace.generator(seed, "probe", name)
            known = column.notna().to_numpy()
            estimates = _read(features[name][known], targets, stream)
            found += [
                (name, level, "AUC" if level else "R2", read_from, int(known.sum()), *estimate)
                for level, estimate in estimates.items()
            ]
    return Probe(table=pd.DataFrame(found, columns=list(COLUMNS)), untold=untold)


def _targets(column: pd.Series, levels: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """What is to be read of the subjects that have it: level -> indicator, or "" -> the number.

    The second are the levels, with their counts, that too few subjects have or lack.
    """
    present = column.dropna()
    if not levels:
        numeric = pd.api.types.is_numeric_dtype(present.dtype)
        if numeric and len(present) >= FEWEST and present.std() > 0:
            return {"": present.to_numpy(float)}, []
        return {}, [f"{len(present)} values"]
    counts = {level: int((present == level).sum()) for level in levels}
    told = [level for level, n in counts.items() if FEWEST <= n <= len(present) - FEWEST]
    few = [f"{level} {n}" for level, n in counts.items() if level not in told]
    return {level: (present == level).to_numpy(float) for level in told}, few


def _read(
    x: np.ndarray, targets: dict[str, np.ndarray], stream: np.random.Generator
) -> dict[str, Estimate]:
    """Estimates by level, and their mean as `all`; one for a number."""
    y = np.stack(list(targets.values()), axis=1)  # (n, T)
    scores = out_of_fold(x, y, _folds(y, stream))
    drawn = stream.integers(len(y), size=(RESAMPLES, len(y)))
    if "" in targets:
        return {"": estimate(r2, y[:, 0], scores[:, 0], drawn)}
    each = [_both(auc, y[:, t], scores[:, t], drawn) for t in range(y.shape[1])]
    mean = np.mean([value for value, _ in each]), np.nanmean([many for _, many in each], axis=0)
    return {
        **{level: _estimate(*one) for level, one in zip(targets, each, strict=True)},
        "all": _estimate(float(mean[0]), mean[1]),
    }


def _folds(y: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Subject -> fold, every kind of subject dealt out over the folds in turn."""
    order = stream.permutation(len(y))
    dealt = order[np.lexsort(y[order].T)]
    folds = np.empty(len(y), int)
    folds[dealt] = np.arange(len(y)) % FOLDS
    return folds


def out_of_fold(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(n, T) predictions of y (n, T) from x (n, E), each by a ridge regression on other folds."""
    scores = np.empty_like(y)
    for fold in np.unique(folds):
        out = folds == fold
        scores[out] = _ridge(x[~out].astype(float), y[~out], x[out].astype(float))
    return scores


def _ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Ridge predictions; each target's penalty has the least error with one subject left out.

    Source of the left-out residuals r / (1 - h): Allen 1974, doi:10.1080/00401706.1974.10489157
    """
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    u, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
    rotated = u.T @ (y - y_mean)  # (r, T)
    power = s**2
    shrink = power / (power + PENALTIES[:, None] * power.mean() + 1e-300)  # (P, r)
    leverage = 1 / len(x) + (u**2) @ shrink.T  # (n, P)
    fitted = np.einsum("ir,pr,rt->pit", u, shrink, rotated, optimize=True)  # (P, n, T)
    left_out = (y - y_mean - fitted) / (1 - leverage.T[:, :, None] + 1e-12)
    best = np.argmin((left_out**2).sum(axis=1), axis=0)  # (T,)
    inverse = shrink[best].T / np.where(s > 1e-9 * s.max(), s, np.inf)[:, None]  # (r, T)
    weights = vt.T @ (inverse * rotated)  # (E, T)
    return np.asarray((new - x_mean) @ weights + y_mean)


def r2(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """1 - residual / total sum of squares, over the last axis."""
    total = ((y - y.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - ((y - predicted) ** 2).sum(axis=-1) / total)


def auc(y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Area under the ROC curve over the last axis: the Mann-Whitney statistic, ties count half."""
    ranks = rankdata(score, axis=-1)
    positive = y.sum(axis=-1)
    negative = y.shape[-1] - positive
    with np.errstate(invalid="ignore", divide="ignore"):
        above = (ranks * y).sum(axis=-1) - positive * (positive + 1) / 2
        return np.asarray(above / (positive * negative))


def estimate(statistic: Any, y: np.ndarray, score: np.ndarray, drawn: np.ndarray) -> Estimate:
    """The statistic and its percentile interval; drawn: (R, n) indices of resampled subjects."""
    return _estimate(*_both(statistic, y, score, drawn))


def _both(
    statistic: Any, y: np.ndarray, score: np.ndarray, drawn: np.ndarray
) -> tuple[float, np.ndarray]:
    return float(statistic(y, score)), statistic(y[drawn], score[drawn])


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
