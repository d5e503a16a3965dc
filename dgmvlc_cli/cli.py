"""The command line: resolve settings, call one stage, print its result.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgmvlc_cli import __version__
from dgmvlc_cli.errors import DgmvlcError

if TYPE_CHECKING:
    from dgmvlc_cli.config import Settings
    from dgmvlc_cli.stages.base import Run, StageResult
    from dgmvlc_cli.workspace import Workspace

INTERRUPTED = 130

app = typer.Typer(
    name="dgmvlc",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pattern discovery in chest CT by counterfactual synthesis, with honest effects.\n\n"
    "Start with [bold]dgmvlc demo[/bold], or with your own cohort: init, preprocess, describe, "
    "train, counterfactual, analyze. Research software, not for diagnosis.",
)

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", "-w", help="Folder that holds dgmvlc.toml.", show_default="current folder"
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of everything random (default: dgmvlc.toml's)."),
]
NewSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Compute again what is current.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, for machines.")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes.", show_default="cores")
]
AttributeOption = Annotated[
    str | None, typer.Option("--attribute", help="Attribute to change (default: the study's).")
]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Reference level (default: the study's).")
]
ToOption = Annotated[str | None, typer.Option("--to", help="Target level (default: the study's).")]


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"dgmvlc {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    if debug:
        os.environ["DGMVLC_DEBUG"] = "1"


@app.command()
def init(
    scans: Annotated[Path, typer.Argument(help="Folder (or file) with DICOM, NIfTI, NRRD or MHA.")],
    table: Annotated[Path | None, typer.Argument(help="Clinical table, csv or tsv.")] = None,
    workspace: WorkspaceOption = Path(),
    seed: NewSeedOption = 0,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look at scans and table, and write a commented [bold]dgmvlc.toml[/bold].

    Without a table, preprocessing and measuring still work.

    Example: [green]dgmvlc init scans/ clinical.csv -w study[/green]
    """
    from dgmvlc_cli.stages.initialise import init

    run = _run(force=force, dry_run=dry_run, as_json=as_json)
    _finish(init(_workspace(workspace), scans, table, run, seed=seed), as_json, workspace)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write the cohort to.")],
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="Number of subjects.")] = 192,
    spacing: Annotated[float, typer.Option("--spacing", help="Voxel size in mm.")] = 4.0,
    null: Annotated[bool, typer.Option("--null", help="Plant no effect at all.")] = False,
    seed: NewSeedOption = 0,
    workers: WorkersOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a synthetic cohort: chest CT, clinical table, and the exact effect of smoking.

    Example: [green]dgmvlc phantom cohort --subjects 96 --spacing 4 --seed 1[/green]
    """
    from dgmvlc_cli.phantom import PhantomSettings
    from dgmvlc_cli.stages.demo import phantom

    settings = PhantomSettings(subjects=subjects, spacing_mm=spacing, null=null, seed=seed)
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    _finish(phantom(out, settings, run), as_json)


@app.command()
def preprocess(
    workspace: WorkspaceOption = Path(),
    spacing: Annotated[
        str | None,
        typer.Option(
            "--spacing", help="Isotropic spacing in mm, or native (default: dgmvlc.toml's)."
        ),
    ] = None,
    workers: WorkersOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read the scans, find the lungs, resample to an isotropic grid in HU, draw QC pictures.

    Example: [green]dgmvlc preprocess --workers 2[/green]
    """
    from dgmvlc_cli import stages

    chosen = None if spacing is None else _spacing(spacing)
    ws, settings = _settings(workspace, scans={"spacing_mm": chosen})
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    _finish(stages.preprocess(ws, settings, run), as_json, workspace)


@app.command()
def describe(
    workspace: WorkspaceOption = Path(),
    placebos: Annotated[
        int | None,
        typer.Option("--placebos", min=0, max=8, help="Attributes of no meaning to add."),
    ] = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a sentence for every subject from its row of the clinical table.

    Example: [green]dgmvlc describe[/green]
    """
    from dgmvlc_cli import stages

    ws, settings = _settings(workspace, seed, study={"placebos": placebos})
    run = _run(force=force, dry_run=dry_run, as_json=as_json)
    _finish(stages.describe(ws, settings, run), as_json, workspace)


@app.command()
def train(
    workspace: WorkspaceOption = Path(),
    model: Annotated[str | None, typer.Option("--model", help="Generator family: flow.")] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="micro, tiny or small; see `dgmvlc info`.")
    ] = None,
    fusion: Annotated[
        str | None, typer.Option("--fusion", help="affine, or none (the text is ignored).")
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Cross-fitting folds.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps per fold.")] = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one generator per cross-fitting fold; interrupted, it goes on where it was.

    Example: [green]dgmvlc train --preset tiny --folds 2[/green]
    """
    from dgmvlc_cli import stages

    values = {"model": model, "preset": preset, "fusion": fusion, "folds": folds, "steps": steps}
    ws, settings = _settings(workspace, seed, train=values)
    run = _run(force=force, dry_run=dry_run, as_json=as_json)
    _finish(stages.train(ws, settings, run), as_json, workspace)


@app.command()
def counterfactual(
    attribute: AttributeOption = None,
    reference: FromOption = None,
    target: ToOption = None,
    workspace: WorkspaceOption = Path(),
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Noise draws per subject.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", help="Guidance scale; other than 1 distorts effect sizes."),
    ] = None,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Synthesise pairs that differ in one attribute: same mask, same noise, held-out subjects.

    Example: [green]dgmvlc counterfactual --attribute smoking
    --from "never smoker" --to "current smoker"[/green]
    """
    from dgmvlc_cli import stages

    values = {"seeds": seeds, "guidance_scale": guidance}
    ws, settings = _settings(workspace, seed, counterfactual=values)
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    result = stages.counterfactual(
        ws, settings, run, attribute=attribute, reference=reference, target=target
    )
    _finish(result, as_json, workspace)


@app.command()
def analyze(
    attribute: AttributeOption = None,
    reference: FromOption = None,
    target: ToOption = None,
    workspace: WorkspaceOption = Path(),
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Print the report to report.pdf too (needs Chromium).")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare finished analyses instead: name them.")
    ] = False,
    analyses: Annotated[
        list[str] | None,
        typer.Argument(help="With --compare: folders or names below analysis/.", metavar="A B ..."),
    ] = None,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure real scans and pairs, estimate the effects four ways, write the report.

    Example: [green]dgmvlc analyze --attribute smoking --pdf[/green]

    Example: [green]dgmvlc analyze --compare flow/smoking_never-smoker_former-smoker
    flow/smoking_never-smoker_current-smoker[/green]
    """
    from dgmvlc_cli import stages

    ws, settings = _settings(workspace, seed)
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    if compare or analyses:
        _require_only_names(compare, analyses, attribute, reference, target, pdf)
        return _finish(stages.compare(ws, settings, run, analyses or []), as_json)
    result = stages.analyze(
        ws, settings, run, attribute=attribute, reference=reference, target=target, pdf=pdf
    )
    _finish(result, as_json, workspace)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for cohort, workspace and report.")] = Path(
        "dgmvlc-demo"
    ),
    subjects: Annotated[int, typer.Option("--subjects", min=24, help="Size of the cohort.")] = 192,
    null: Annotated[bool, typer.Option("--null", help="A cohort without any effect.")] = False,
    seed: NewSeedOption = 0,
    workers: WorkersOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run everything on a synthetic cohort whose true effect is known: about ten minutes.

    Example: [green]dgmvlc demo my-demo --seed 1[/green]
    """
    from dgmvlc_cli.phantom import PhantomSettings
    from dgmvlc_cli.stages.demo import demo, phantom

    settings = PhantomSettings(subjects=subjects, null=null, seed=seed)
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    if dry_run:
        return _finish(phantom(out / "phantom", settings, run), as_json)
    _finish(demo(out, settings, run), as_json)


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Versions, devices, presets, text encoders and measures.

    Example: [green]dgmvlc info --json[/green]
    """
    from dgmvlc_cli.info import facts, print_facts

    found = facts()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_facts(found)


# Plumbing -----------------------------------------------------------------------------------


def _workspace(folder: Path) -> Workspace:
    from dgmvlc_cli.workspace import Workspace

    return Workspace(folder)


def _settings(
    folder: Path, seed: int | None = None, **changes: dict[str, Any]
) -> tuple[Workspace, Settings]:
    """The workspace and its settings, with what the command line changes."""
    from dgmvlc_cli.config import load_settings, override

    ws = _workspace(folder)
    settings = load_settings(ws.settings_path)
    return ws, override(settings, {"": {"seed": seed}, **changes})


def _require_only_names(compare: bool, analyses: list[str] | None, *others: object) -> None:
    """A comparison takes names alone, and names make sense in a comparison alone."""
    if not compare:
        raise typer.BadParameter(f"{analyses} makes sense with --compare alone")
    if any(others):
        raise typer.BadParameter("--compare takes names of finished analyses and nothing else")


def _spacing(text: str) -> float | str:
    if text == "native":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number of mm nor `native`") from None


def _run(*, force: bool, dry_run: bool, as_json: bool, workers: int | None = None) -> Run:
    from dgmvlc_cli.parallel import available_cores
    from dgmvlc_cli.progress import Reporter, RichReporter
    from dgmvlc_cli.stages import Run

    return Run(
        force=force,
        dry_run=dry_run,
        workers=workers or available_cores(),
        reporter=Reporter() if as_json else RichReporter(),
    )


def _finish(result: StageResult, as_json: bool, workspace: Path = Path()) -> None:
    """Print the result and leave with the stage's exit code."""
    following = result.next_command
    if following.startswith("dgmvlc ") and workspace != Path():
        following += f" -w {shlex.quote(str(workspace))}"
    if as_json:
        record = {"stage": result.stage, "exit_code": result.exit_code, **result.facts}
        typer.echo(json.dumps({**record, "next": following}, indent=2, default=str))
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        for line in result.summary:
            console.print(line, markup=False)
        if following:
            console.print(f"[bold]Next:[/bold] [green]{following}[/green]")
    raise typer.Exit(result.exit_code)


def _explain(error: DgmvlcError) -> None:
    """One message with the next move: on stderr, and as JSON on stdout where asked for."""
    if "--json" in sys.argv:
        record = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        typer.echo(json.dumps(record, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]Error:[/bold red] {escape(error.message)}")
    if error.hint:
        console.print(f"[bold]What to do:[/bold] {escape(error.hint)}")


class InterruptedByUser(BaseException):
    """Ctrl-C.  No `except Exception` on the way may take it for a subject's failure."""


def _interrupt(signum: int, frame: object) -> None:
    raise InterruptedByUser


def main() -> None:
    """Run a command; errors a user can act on end in one message, never in a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except DgmvlcError as error:
        if "DGMVLC_DEBUG" in os.environ:
            raise
        _explain(error)
        sys.exit(error.exit_code)
    except InterruptedByUser:
        message = "Finished work is kept: the same command goes on from here."
        _explain(DgmvlcError("Interrupted.", message, INTERRUPTED))
        sys.exit(INTERRUPTED)
    except OSError as error:
        if "DGMVLC_DEBUG" in os.environ:
            raise
        from dgmvlc_cli.workspace import write_error

        _explain(write_error(Path(error.filename or "a file"), error, "read or write"))
        sys.exit(1)


if __name__ == "__main__":
    main()
