"""The command line: resolve settings, call one stage, print its result.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgmvlc_cli import __version__
from dgmvlc_cli.options import (
    AttributeOption,
    DryRunOption,
    EditOption,
    ForceOption,
    FromOption,
    JsonOption,
    NewSeedOption,
    SeedOption,
    SourceOption,
    ToOption,
    ValuesOption,
    WorkersOption,
    WorkspaceOption,
    one_of,
    read_edits,
    read_list,
    read_question,
    read_spacing,
    require_only_names,
)
from dgmvlc_cli.terminal import finish, guarded, is_first_process

if TYPE_CHECKING:
    from dgmvlc_cli.config import Settings
    from dgmvlc_cli.stages.base import Run
    from dgmvlc_cli.workspace import Workspace

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
    table: Annotated[
        Path | None, typer.Argument(help="Clinical table: csv, tsv, xlsx or parquet.")
    ] = None,
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
    finish(init(_workspace(workspace), scans, table, run, seed=seed), as_json, workspace)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write the cohort to.")],
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="Number of subjects.")] = 192,
    spacing: Annotated[float, typer.Option("--spacing", help="Voxel size in mm.")] = 4.0,
    null: Annotated[bool, typer.Option("--null", help="Plant no effect at all.")] = False,
    effect_hu: Annotated[
        float, typer.Option("--effect-hu", help="What current smoking does to the upper third.")
    ] = -30.0,
    confounding: Annotated[
        float,
        typer.Option(
            "--confounding", min=0, help="How much denser women and the young are: 0 not, 1 usual."
        ),
    ] = 1.0,
    truth_spacing: Annotated[
        float | None,
        typer.Option(
            "--truth-spacing", help="Grid of the truth in mm.", show_default="the scans' own"
        ),
    ] = None,
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

    usual = PhantomSettings()
    settings = PhantomSettings(
        subjects=subjects,
        spacing_mm=spacing,
        null=null,
        seed=seed,
        current_upper_hu=effect_hu,
        age_hu_per_year=confounding * usual.age_hu_per_year,
        female_hu=confounding * usual.female_hu,
        truth_spacing_mm=truth_spacing,
    )
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    finish(phantom(out, settings, run), as_json)


@app.command()
def preprocess(
    workspace: WorkspaceOption = Path(),
    spacing: Annotated[
        str | None,
        typer.Option(
            "--spacing", help="Isotropic spacing in mm, or native (default: dgmvlc.toml's)."
        ),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            "--segmenter",
            help="builtin, or lungmask, lungmask-lobes, totalsegmentator if installed.",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            help="Folder of masks instead of a segmenter; lobes become regions.",
        ),
    ] = None,
    allow_lossy: Annotated[
        bool, typer.Option("--allow-lossy", help="Read scans that were compressed with loss.")
    ] = False,
    allow_not_hu: Annotated[
        bool, typer.Option("--allow-not-hu", help="Go on where values do not look like HU.")
    ] = False,
    workers: WorkersOption = None,
    dask: Annotated[
        str | None,
        typer.Option("--dask", help="Address of a Dask scheduler to work on, if installed."),
    ] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read the scans, find the lungs, resample to an isotropic grid in HU, draw QC pictures.

    Example: [green]dgmvlc preprocess --workers 2[/green]
    """
    from dgmvlc_cli import stages

    chosen = None if spacing is None else read_spacing(spacing)
    values = {
        "spacing_mm": chosen,
        "segmenter": segmenter,
        "masks": masks.resolve() if masks else None,
        "allow_lossy": allow_lossy or None,
        "allow_not_hu": allow_not_hu or None,
    }
    ws, settings = _settings(workspace, scans=values)
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json, cluster=dask)
    finish(stages.preprocess(ws, settings, run), as_json, workspace)


@app.command()
def describe(
    subject: Annotated[
        str | None,
        typer.Argument(help="With --edit: whose row.", show_default="all"),
    ] = None,
    edits: Annotated[
        list[str] | None,
        typer.Option("--edit", help="ATTRIBUTE=LEVEL: show the sentence before and after."),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", help="ATTRIBUTE=VALUE of what appears with an edit."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure what can be read from the embeddings.")
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Text encoder to probe (default: the study's)."),
    ] = None,
    placebos: Annotated[
        int | None,
        typer.Option("--placebos", min=0, max=8, help="Attributes of no meaning to add."),
    ] = None,
    workspace: WorkspaceOption = Path(),
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a sentence for every subject from its row of the clinical table.

    Example: [green]dgmvlc describe[/green], or to try an edit without writing anything,
    [green]dgmvlc describe --edit smoking="current smoker" --set pack_years=20 SUBJECT[/green];
    what the generator can hear of each attribute: [green]dgmvlc describe --probe[/green]
    """
    from dgmvlc_cli import stages

    ws, settings = _settings(workspace, seed, study={"placebos": placebos})
    if edits or given or subject:
        changes = {
            name: str(value) for name, value in read_edits([*(edits or []), *(given or [])]).items()
        }
        if not changes:
            raise typer.BadParameter("name what to change: --edit ATTRIBUTE=LEVEL")
        return finish(stages.edit(ws, settings, subject, changes), as_json, workspace)
    run = _run(force=force, dry_run=dry_run, as_json=as_json)
    if probe or encoder:
        return finish(stages.probe(ws, settings, run, encoder), as_json, workspace)
    finish(stages.describe(ws, settings, run), as_json, workspace)


@app.command()
def train(
    workspace: WorkspaceOption = Path(),
    model: Annotated[
        str | None, typer.Option("--model", help="Generator family: flow, diffusion or gan.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", help="micro, tiny, small, base, large or paper; see `dgmvlc info`."
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            "--fusion",
            help="How the text enters: affine, cross-attention, both, or none (ignored).",
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Cross-fitting folds.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps per fold.")] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            "--max-minutes", help="Stop at a checkpoint after so long; run again to go on."
        ),
    ] = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one generator per cross-fitting fold; interrupted, it goes on where it was.

    Example: [green]dgmvlc train --preset tiny --folds 2[/green]
    """
    from dgmvlc_cli import stages

    values: dict[str, Any] = {
        "model": model,
        "preset": preset,
        "fusion": fusion,
        "folds": folds,
        "steps": steps,
        "max_minutes": max_minutes,
    }
    ws, settings = _settings(workspace, seed, train=values)
    run = _run(force=force, dry_run=dry_run, as_json=as_json)
    finish(stages.train(ws, settings, run), as_json, workspace)


@app.command()
def counterfactual(
    attribute: AttributeOption = None,
    reference: FromOption = None,
    target: ToOption = None,
    values: ValuesOption = None,
    edit: EditOption = None,
    source: SourceOption = None,
    subjects: Annotated[
        str | None, typer.Option("--subjects", help="Only these held-out subjects: a,b,c.")
    ] = None,
    differences: Annotated[
        bool | None,
        typer.Option("--differences", help="Also write target less reference as volumes."),
    ] = None,
    workspace: WorkspaceOption = Path(),
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Noise draws per subject.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="Of a diffusion: dpm-solver, or ddim or ddpm (many steps)."),
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

    Several levels or a dose: --attribute age --values 45,55,65,75.  Several attributes together,
    against each subject's own row: --edit smoking="current smoker" --edit pack_years=40.

    Example: [green]dgmvlc counterfactual --attribute smoking
    --from "never smoker" --to "current smoker"[/green]
    """
    from dgmvlc_cli import stages

    chosen = {
        "seeds": seeds,
        "steps": steps,
        "sampler": sampler,
        "guidance_scale": guidance,
        "differences": differences,
        "source": source,
    }
    ws, settings = _settings(workspace, seed, counterfactual=chosen)
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    question = read_question(attribute, reference, target, values, edit)
    only = read_list(subjects) or None
    result = stages.counterfactual(ws, settings, run, question, subjects=only)
    finish(result, as_json, workspace)


@app.command()
def analyze(
    attribute: AttributeOption = None,
    reference: FromOption = None,
    target: ToOption = None,
    values: ValuesOption = None,
    edit: EditOption = None,
    source: SourceOption = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Before training: which effect could this cohort show?"),
    ] = False,
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

    With --plan no model is needed: it tells which effect the cohort's own spread would let you see.

    Example: [green]dgmvlc analyze --attribute smoking --pdf[/green]

    Example: [green]dgmvlc analyze --compare flow/smoking_never-smoker_former-smoker
    flow/smoking_never-smoker_current-smoker[/green]
    """
    from dgmvlc_cli import stages
    from dgmvlc_cli.stages.plan import plan as plan_stage

    ws, settings = _settings(workspace, seed, counterfactual={"source": source})
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    if compare or analyses:
        require_only_names(compare, analyses, attribute, reference, target, pdf)
        return finish(stages.compare(ws, settings, run, analyses or []), as_json)
    question = read_question(attribute, reference, target, values, edit)
    if plan:
        return finish(plan_stage(ws, settings, run, question), as_json, workspace)
    finish(stages.analyze(ws, settings, run, question, pdf=pdf), as_json, workspace)


@app.command()
def evaluate(
    attribute: AttributeOption = None,
    reference: FromOption = None,
    target: ToOption = None,
    values: ValuesOption = None,
    edit: EditOption = None,
    source: SourceOption = None,
    workspace: WorkspaceOption = Path(),
    workers: WorkersOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Are the pairs sound: does the edit show, are other attributes and tissues left alone?

    Attributes are read off by predictors that were trained on other subjects' real scans only.

    Example: [green]dgmvlc evaluate --attribute smoking[/green]
    """
    from dgmvlc_cli.stages.evaluate import evaluate

    ws, settings = _settings(workspace, seed, counterfactual={"source": source})
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    question = read_question(attribute, reference, target, values, edit)
    finish(evaluate(ws, settings, run, question), as_json, workspace)


@app.command()
def plant(
    workspace: WorkspaceOption = Path(),
    effect_hu: Annotated[
        float, typer.Option("--effect-hu", help="Change in HU, for example 10 or -20.")
    ] = 10.0,
    region: Annotated[
        str,
        typer.Option(
            "--region", help="Where: lungs, upper, middle, lower, core, rind, a lobe, ..."
        ),
    ] = "upper",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the planted control.", show_default="beside"),
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Sum up the controls that were analysed so far.")
    ] = False,
    workers: WorkersOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Plant a known change in a random half of your own scans, in a workspace beside yours.

    The same commands must then find it there.  Plant several sizes and --collect them to see the
    smallest effect that this cohort can reveal.

    Example: [green]dgmvlc plant --effect-hu 10 --region upper[/green]
    """
    from dgmvlc_cli.stages.plant import plant, recovery

    ws, settings = _settings(workspace, seed)
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    if collect:
        return finish(recovery(ws, settings, run), as_json)
    finish(plant(ws, settings, run, effect_hu=effect_hu, region=region, out=out), as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for cohort, workspace and report.")] = Path(
        "dgmvlc-demo"
    ),
    subjects: Annotated[int, typer.Option("--subjects", min=24, help="Size of the cohort.")] = 192,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="tiny (8 mm), or micro (12 mm) for a quick look."),
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="A cohort without any effect.")] = False,
    seed: NewSeedOption = 0,
    workers: WorkersOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run everything on a synthetic cohort whose true effect is known.

    About ten minutes on two quick cores, up to an hour on slow ones.

    Example: [green]dgmvlc demo my-demo --seed 1[/green]

    A quicker look: [green]dgmvlc demo quick --preset micro --subjects 96[/green]
    """
    from dgmvlc_cli.phantom import PhantomSettings
    from dgmvlc_cli.stages.demo import PRESETS_SHOWN, demo

    chosen = one_of(preset, PRESETS_SHOWN, "--preset") or PRESETS_SHOWN[0]
    settings = PhantomSettings(subjects=subjects, null=null, seed=seed)
    run = _run(force=force, dry_run=dry_run, workers=workers, as_json=as_json)
    finish(demo(out, settings, run, chosen), as_json)


@app.command()
def restore(
    files: Annotated[list[Path], typer.Argument(help="Volumes or masks that this workspace made.")],
    workspace: WorkspaceOption = Path(),
    subject: Annotated[
        str | None, typer.Option("--subject", help="Whose they are (default: from the path).")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="hu, difference or mask (default: from name and type)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to (default: below restored/).")
    ] = None,
    dicom: Annotated[
        bool,
        typer.Option("--dicom", help="Write HU and differences as DICOM Parametric Maps too."),
    ] = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring results back onto the voxels of the original scan, for any viewer.

    Example: [green]dgmvlc restore counterfactuals/flow/*/sub-ph-0001/*.nii.gz[/green]
    """
    from dgmvlc_cli.stages.restore import restore

    run = _run(force=force, dry_run=dry_run, as_json=as_json)
    chosen: Any = one_of(kind, ("hu", "difference", "mask"), "--kind")
    result = restore(
        _workspace(workspace), run, files, subject=subject, kind=chosen, out=out, dicom=dicom
    )
    finish(result, as_json, workspace)


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


def _run(
    *,
    force: bool,
    dry_run: bool,
    as_json: bool,
    workers: int | None = None,
    cluster: str | None = None,
) -> Run:
    from dgmvlc_cli.parallel import available_cores
    from dgmvlc_cli.progress import Reporter, RichReporter
    from dgmvlc_cli.stages import Run

    return Run(
        force=force,
        dry_run=dry_run,
        workers=workers or available_cores(),
        cluster=cluster,
        reporter=Reporter() if as_json or not is_first_process() else RichReporter(),
    )


def main() -> None:
    """Run a command."""
    guarded(app)


if __name__ == "__main__":
    main()
