"""What a report is made of: plain values and tables, computed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dgmvlc_cli.analysis.effects import EFFECT_COLUMNS
from dgmvlc_cli.analysis.looks import Pair, PairSummary
from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
from dgmvlc_cli.analysis.outcomes import levels
from dgmvlc_cli.analysis.readings import MEASURE_COLUMNS
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.mapping import Maps

VERDICT_COLUMNS = ("measure", "region", "verdict", "sentence")


@dataclass(frozen=True, kw_only=True)
class ReportContents:
    """Everything a report shows.  Only the first seven fields are needed.

    title:      one line.
    contrast:   "smoking: never smoker -> current smoker", as in the table of effects.
    attribute:  "smoking".
    verdict:    paragraphs in plain words, shown first.
    verdicts:   measure, region, verdict (supported | not supported | undecided), sentence.
    effects:    the table of effects, placebos included (EFFECT_COLUMNS).
    measures:   the table of measures (MEASURE_COLUMNS); arm is "observed" or "attribute=level".
    balance:    covariate, smd_raw, smd_weighted.
    acquisition: how the scans of both sides were made (see `balance.scanned_alike`).
    evaluation: whether the pairs are sound, where `evaluate` asked: `axioms.COLUMNS` and in_words.
    cohort:     rows of attribute, coverage (0..1) and levels (text, or level -> count).
    counts:     found, ok, failed, excluded, used: subjects, in the order of the flow.
    exclusions: any columns, usually subject (or attribute) and reason.
    failures:   rows of subject and reason.
    qc:         (subject, path of a PNG).
    scans:      rows of subject, flags, slice_mm, lung_volume_ml, mean_lung_hu.
    training:   fold -> table with step, loss and optionally lr, seconds, val_* columns.
    fit:        rows of fold, region, real_mean_hu, generated_mean_hu, real_sd_between,
                generated_sd_between, real_sd_within, generated_sd_within.
    pairs:      those to look at; the viewer takes the first ones.
    summaries:  of every pair, for the group figures.
    maps:       group maps with inference.
    statistics: further statistics of the pairs and the scans (paired.STATISTIC_COLUMNS).
    truth:      measure, region, truth, model_implied, ratio, debiased_covers, ... (of a phantom or
                a planted control only).
    placebo_words: placebo -> {level of the studied attribute: neutral word}.
    methods:    stage -> settings, for the stages that ran (see `methods.describe_methods`).
    provenance: versions, command, seeds, device, hashes, seconds; nested mappings are fine.
    intended_use: further notes, after the standing ones.
    """

    title: str
    contrast: str
    attribute: str
    verdict: Sequence[str]
    verdicts: pd.DataFrame
    effects: pd.DataFrame
    measures: pd.DataFrame
    balance: pd.DataFrame | None = None
    acquisition: pd.DataFrame | None = None
    evaluation: pd.DataFrame | None = None
    cohort: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    exclusions: pd.DataFrame | None = None
    failures: Sequence[Mapping[str, str]] = ()
    qc: Sequence[tuple[str, Path]] = ()
    scans: Sequence[Mapping[str, Any]] = ()
    training: Mapping[int, pd.DataFrame] = field(default_factory=dict)
    fit: Sequence[Mapping[str, Any]] = ()
    pairs: Sequence[Pair] = ()
    summaries: Sequence[PairSummary] = ()
    maps: Maps | None = None
    statistics: pd.DataFrame | None = None
    truth: pd.DataFrame | None = None
    placebo_words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    intended_use: Sequence[str] = ()
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        require_columns(self.effects, EFFECT_COLUMNS, "effects")
        require_columns(self.measures, MEASURE_COLUMNS, "measures")
        require_columns(self.verdicts, VERDICT_COLUMNS, "verdicts")
        if "->" not in self.contrast:
            raise DgmvlcError(
                f"Got the contrast {self.contrast!r}, expected 'attribute: from -> to'.",
                "Name the contrast as the table of effects does.",
            )

        studied = self.effects[~self.effects["kind"].str.startswith("placebo")]["contrast"]
        if len(studied) and self.contrast not in set(studied):
            raise DgmvlcError(
                f"The table of effects has no contrast {self.contrast!r}; "
                f"it has {', '.join(sorted(set(studied)))}.",
                "Analyse this contrast first.",
            )

    @property
    def levels(self) -> tuple[str, str]:
        """Reference and target level, ("never smoker", "current smoker")."""
        return levels(self.contrast)

    @property
    def arms(self) -> tuple[str, str]:
        """Reference and target arm as the table of measures names them."""
        reference, target = self.levels
        return f"{self.attribute}={reference}", f"{self.attribute}={target}"

    @property
    def truths(self) -> dict[str, float]:
        """Region -> true change of the primary measure, where it is known."""
        if self.truth is None:
            return {}
        rows = self.truth[self.truth["measure"] == PRIMARY_MEASURE].dropna(subset=["truth"])
        return dict(zip(rows["region"], rows["truth"].astype(float), strict=True))

    @property
    def truth_label(self) -> str:
        """How figures call the truth: by where it is known from."""
        sources = {"plant": "planted", "phantom": "phantom"}
        source = next((word for stage, word in sources.items() if stage in self.methods), "")
        return f"Truth ({source})" if source else "Truth"

    def effects_of(self, kind: str, measure: str | None = None) -> pd.DataFrame:
        """Rows of one kind; of the studied contrast alone unless the kind is a placebo."""
        rows = self.effects[self.effects["kind"] == kind]
        if not kind.startswith("placebo"):
            rows = rows[rows["contrast"] == self.contrast]
        return rows if measure is None else rows[rows["measure"] == measure]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, column -> value."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def require_columns(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raise DgmvlcError naming the columns that a table of the report lacks."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DgmvlcError(
            f"The table of {name} lacks {', '.join(missing)}; it has {', '.join(table.columns)}.",
            "Run the analysis again with --force.",
        )
