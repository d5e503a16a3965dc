"""What the cohort can show, before a model is trained."""

from __future__ import annotations

import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.cohort import Question
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Workspace

HEADLINES = ("lungs", "upper", "middle", "lower")
EXAMPLES_HU = (5.0, 10.0, 20.0)


def plan(
    ws: Workspace,
    settings: Settings,
    run: Run,
    question: Question,
) -> StageResult:
    """Real scans and table -> the smallest effect of each measure that 80 % power would show."""
    from dgmvlc_cli.analysis.power import plan_table
    from dgmvlc_cli.cohort import asked_contrasts, covariates, load_cohort
    from dgmvlc_cli.measuring import MeasureTask, measures_table
    from dgmvlc_cli.pairs import contrast_name
    from dgmvlc_cli.stages.analyze import look_at_all

    cohort = load_cohort(ws, settings)
    if question.edits:
        raise UsageError(
            "A joint edit has no group of real scans, so nothing can be planned for it.",
            "Plan one attribute: `dgmvlc analyze --plan --attribute smoking`.",
        )
    contrast = asked_contrasts(settings, cohort, question)[-1]
    path = ws.root / "analysis" / "plan" / contrast_name(contrast) / "plan.tsv"
    if run.dry_run:
        return dry_run("plan", [f"{len(cohort.subjects)} scans -> {path}"])
    preset = settings.preset
    tasks = [
        MeasureTask(
            workspace=ws,
            subject=one,
            fold=None,
            arms=(),
            grid=preset.grid,
            spacing_mm=preset.spacing_mm,
        )
        for one in cohort.subjects
    ]
    adjusted = covariates(settings, cohort, contrast)
    table = plan_table(measures_table(look_at_all(tasks, run)), cohort.design, contrast, adjusted)
    workspace.write_table(path, table)
    return StageResult(
        stage="plan",
        summary=[*_words(table), f"table: {path}"],
        facts={"contrast": contrast.text, "plan": str(path)},
        next_command="dgmvlc train",
    )


def _words(table: pd.DataFrame) -> list[str]:
    """The primary measure in the main regions, in sentences."""
    from dgmvlc_cli.analysis.measures import PRIMARY_MEASURE
    from dgmvlc_cli.analysis.outcomes import outcome_label
    from dgmvlc_cli.analysis.power import subjects_needed

    rows = table[(table["measure"] == PRIMARY_MEASURE) & table["region"].isin(HEADLINES)]
    lines = [f"{table['contrast'].iloc[0]}, in {rows['n'].max()} subjects:"]
    for _, row in rows.iterrows():
        label = outcome_label((row["measure"], row["region"]))
        if pd.isna(row["detectable"]):
            lines.append(f"{label}: {row['method']}")
            continue
        lines.append(
            f"{label}: SD {row['sd']:.1f} HU between subjects, {row['sd_adjusted']:.1f} HU "
            f"adjusted; {row['detectable']:.1f} HU is found with 80 % power "
            f"({row['detectable_family']:.1f} HU after the strictest adjustment)"
        )
    known = rows.dropna(subset=["detectable"])
    if len(known):
        first = known.iloc[0]
        needed = [f"{subjects_needed(first, hu)} for {hu:g} HU" for hu in EXAMPLES_HU]
        label = outcome_label((first["measure"], first["region"]))
        lines.append(f"subjects in these proportions for {label}: {', '.join(needed)}")
    lines.append("seeds, slices and voxels add nothing to this: the subject is the unit")
    return lines
