"""What the analysis writes besides: overlap of the groups, and tables of more than two levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from dgmvlc_cli.analysis.contrasts import Contrast
    from dgmvlc_cli.cohort import Cohort

SEVERAL = ("dose.tsv", "levels.tsv", "overlap.tsv")


def tables_of_several(
    measures: pd.DataFrame,
    cohort: Cohort,
    series: list[Contrast],
    covariates: list[str],
    seed: int,
    helped: bool,
) -> dict[str, pd.DataFrame]:
    """File name -> table: dose.tsv of a numeric attribute; levels.tsv of levels; overlap.tsv.

    series: contrasts of one attribute, each from the same first value.
    """
    from dgmvlc_cli.analysis.effects import overlap as overlap_of_two
    from dgmvlc_cli.analysis.several import dose_response, level_effects

    if len(series) < 2:
        table = overlap_of_two(cohort.rows, series[0], covariates, seed)
        return {} if table.empty else {"overlap.tsv": table}
    attribute = series[0].attribute
    values = [series[0].reference, *(one.target for one in series)]
    if series[0].numeric:
        doses = [float(one) for one in values]
        table = dose_response(
            measures, cohort.rows, attribute, doses, covariates, seed, helped=helped
        )
        return {"dose.tsv": table}
    names = [str(one) for one in values]
    effects, overlap = level_effects(
        measures, cohort.rows, attribute, names, covariates, seed, helped=helped
    )
    return {"levels.tsv": effects, "overlap.tsv": overlap}
