"""`dgmvlc demo`: the phantom cohort through every stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dgmvlc_cli import stages, workspace
from dgmvlc_cli.config import PRESETS, load_settings
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.phantom import PhantomSettings, write_cohort
from dgmvlc_cli.stages.base import Run, StageResult
from dgmvlc_cli.stages.initialise import init
from dgmvlc_cli.workspace import Stopwatch, Workspace

PRESETS_SHOWN = ("tiny", "micro")  # the first is the default
QUESTION = stages.Question(attribute="smoking", reference="never smoker", target="current smoker")


def phantom(out: Path, settings: PhantomSettings, run: Run) -> StageResult:
    """Write a synthetic cohort, unless the same one is there already.

    Raises DgmvlcError where another one is there, and what may have been trained on it.
    """
    from dgmvlc_cli.phantom.cohort import description

    there = workspace.read_json(out / "phantom.json")
    current = there == workspace.plain(description(settings)) and not run.force
    if there is not None and not current and not run.force:
        raise DgmvlcError(
            f"{out} holds another synthetic cohort.",
            "Give this one a folder of its own, or replace the other with --force.",
        )
    summary = [
        f"{settings.subjects} subjects: {out / 'scans'}, {out / 'clinical.csv'}",
        f"exact counterfactual truth: {out / 'truth.tsv'}",
    ]
    if current:
        summary.insert(0, "current, kept")
    elif run.dry_run:
        summary = ["would write:", *summary]
    else:
        with run.reporter.track("phantom", settings.subjects) as advance:
            write_cohort(out, settings, progress=lambda done, total: advance(), workers=run.workers)
    return StageResult(
        stage="phantom",
        summary=summary,
        facts={"scans": str(out / "scans"), "table": str(out / "clinical.csv")},
        next_command=f"dgmvlc init {out / 'scans'} {out / 'clinical.csv'}",
    )


def demo(
    out: Path, cohort: PhantomSettings, run: Run, preset: str = PRESETS_SHOWN[0]
) -> StageResult:
    """The phantom, then init and the five stages, in one folder; resumable like them."""
    clock = Stopwatch()
    ws = Workspace(out)
    folder = out / "phantom"
    if ws.settings_path.exists() and not (folder / "phantom.json").exists():
        raise DgmvlcError(
            f"{out} is a workspace of your own ({ws.settings_path.name} is there).",
            "Give the demo a folder of its own: `dgmvlc demo my-demo`.",
        )
    # The truth is measured on the grid that everything else is measured on.
    cohort = replace(cohort, truth_spacing_mm=PRESETS[preset].spacing_mm)
    made = phantom(folder, cohort, run)
    if run.dry_run:
        return made
    init(
        ws,
        folder / "scans",
        folder / "clinical.csv",
        replace(run, force=True),
        seed=cohort.seed,
        truth=folder / "truth.tsv",
        preset=preset,
    )
    settings = load_settings(ws.settings_path)
    stages.preprocess(ws, settings, run)
    stages.describe(ws, settings, run)
    stages.train(ws, settings, run)
    stages.counterfactual(ws, settings, run, QUESTION)
    result = stages.analyze(ws, settings, run, QUESTION)
    minutes = clock.seconds / 60
    return replace(
        result,
        stage="demo",
        summary=[*result.summary, f"{cohort.subjects} subjects, {minutes:.1f} minutes in all"],
        facts={**result.facts, "minutes": round(minutes, 2)},
    )
