"""Whether the pairs are sound interventions, as a table with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dgmvlc_cli import parallel, workspace
from dgmvlc_cli.cohort import Question
from dgmvlc_cli.config import Settings
from dgmvlc_cli.counting import counted
from dgmvlc_cli.stages.base import Run, StageResult, dry_run
from dgmvlc_cli.workspace import Stopwatch, Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.analysis.contrasts import Contrast
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.measuring import Look
    from dgmvlc_cli.pairs import ReturnTask


def evaluate(
    ws: Workspace,
    settings: Settings,
    run: Run,
    question: Question,
) -> StageResult:
    """Pairs and real scans -> effectiveness, specificity, minimality and reversibility.

    Attributes are read off by predictors trained on real scans only, of other subjects.
    """
    from dgmvlc_cli.analysis.axioms import in_words, minimality, readouts
    from dgmvlc_cli.analysis.contrasts import informing
    from dgmvlc_cli.cohort import asked_contrasts, load_cohort, require_scans
    from dgmvlc_cli.measuring import measures_table
    from dgmvlc_cli.stages.analyze import evaluation_sidecar, look_at_arms, read_pairs

    cohort = load_cohort(ws, settings)
    contrast = asked_contrasts(settings, cohort, question)[-1]
    pairs = read_pairs(ws, settings, cohort, [contrast], question)[contrast]
    pairs = pairs[pairs["subject"].isin(informing(cohort.rows, contrast))]
    sidecar = evaluation_sidecar(ws, settings, contrast)
    (path,) = sidecar.outputs
    current = sidecar.is_current() and not run.force
    if run.dry_run:
        kept = "current, kept: " if current else ""
        return dry_run("evaluate", [f"{kept}{counted(len(pairs), 'pair')} -> {path}"])
    if not current:
        require_scans(ws, cohort.subjects)
        clock = Stopwatch()
        sidecar.invalidate()
        looks = look_at_arms(ws, settings, run, cohort, {contrast: pairs}, [contrast])
        measures = measures_table(looks)
        others = _others(cohort, contrast)
        parts = [
            readouts(measures, cohort.rows, contrast, others, settings.seed),
            minimality(_moved(looks)),
            *_composition(pairs),
            _reversibility(cohort, contrast, pairs),
            *_images_back(ws, settings, run, pairs),
            *_truth(ws, settings, measures, contrast),
        ]
        table = pd.concat(parts, ignore_index=True)
        table["in_words"] = [in_words(row) for row in table.to_dict("records")]
        workspace.write_table(path, table)
        sidecar.write(seconds=clock.seconds)
    table = workspace.read_table(path)
    from_scan = " --source scan" if settings.counterfactual.source == "scan" else ""
    return StageResult(
        stage="evaluate",
        summary=[f"{contrast.text}:", *_words(table), f"table: {path}"],
        facts={"contrast": contrast.text, "evaluation": str(path)},
        next_command=f"dgmvlc analyze {question.options}{from_scan}".rstrip(),
    )


def _others(cohort: Cohort, contrast: Contrast) -> list[str]:
    """Attributes of the sentence that the edit should leave alone; placebos cannot be read."""
    edited = {name for name, _ in contrast.edits} or {contrast.attribute}
    entailed = {name for one in edited for name in cohort.schema.followers(one)}
    leads = {
        follows.attribute
        for name in edited
        if (follows := cohort.schema.attributes[name].follows) is not None
    }
    names = cohort.schema.names("condition", "covariate")
    return [name for name in names if name not in edited | entailed | leads]


def _moved(looks: list[Look]) -> pd.DataFrame:
    """Subject x region: mean absolute difference of the arms in HU, averaged over seeds."""
    return pd.DataFrame.from_dict(
        {look.subject: look.moved_hu for look in looks if look.moved_hu}, orient="index"
    )


def _reversibility(cohort: Cohort, contrast: Contrast, pairs: pd.DataFrame) -> pd.DataFrame:
    """Share of subjects whose row, edited there and back, says what the reference arm said."""
    from dgmvlc_cli.analysis.axioms import COLUMNS, interval_row
    from dgmvlc_cli.pairs import sentence_there_and_back

    if contrast.joint:
        return pd.DataFrame(columns=list(COLUMNS))
    said = pairs.drop_duplicates("subject").set_index("subject")["reference_sentence"]
    same = [
        sentence_there_and_back(cohort, str(subject), contrast) == text
        for subject, text in said.items()
    ]
    row = interval_row(
        "reversibility",
        "sentence",
        np.array(same, dtype=float),
        "share",
        1.0,
        "the row edited to the target and back says what the reference arm said",
    )
    return pd.DataFrame([row], columns=list(COLUMNS))


def _composition(pairs: pd.DataFrame) -> list[pd.DataFrame]:
    """What no edit makes of the scan; only pairs from the scan have a scan to return to."""
    from dgmvlc_cli.analysis.axioms import returned

    if pairs.get("source", pd.Series(["mask"])).iloc[0] != "scan":
        return []
    errors = pairs.groupby("subject")["reconstruction_error_hu"].mean()
    said = "mean absolute difference in the lungs, scan and reconstruction without an edit"
    return [returned("composition", "image", errors, said)]


def _images_back(
    ws: Workspace, settings: Settings, run: Run, pairs: pd.DataFrame
) -> list[pd.DataFrame]:
    """The first draw's target arms led back to the reference sentence."""
    from dgmvlc_cli.analysis.axioms import returned
    from dgmvlc_cli.pairs import return_task

    rows: list[dict[str, Any]] = []
    for outcome in parallel.run(return_task, _return_tasks(ws, settings, pairs), run.workers):
        if outcome.error is not None:
            raise outcome.error
        rows += outcome.result or []
    found = pd.DataFrame(rows).set_index("subject").sort_index()
    said = "target arm led back to the reference sentence, {} in the lungs"
    absolute, signed = said.format("mean absolute difference"), said.format("mean difference")
    return [
        returned("reversibility", "image", found["error_hu"], absolute),
        returned("reversibility", "level", found["shift_hu"], signed),
    ]


def _return_tasks(ws: Workspace, settings: Settings, pairs: pd.DataFrame) -> list[ReturnTask]:
    from dgmvlc_cli.cohort import require_encoder
    from dgmvlc_cli.pairs import ARMS, ReturnTask, Sampling, sampler_of
    from dgmvlc_cli.text.encoders import encode_cached, load_encoder

    first = pairs[pairs["seed"] == 0]
    texts = sorted({text for arm in ARMS for text in first[f"{arm}_sentence"]})
    encoder = load_encoder(settings.study.text_encoder)
    require_encoder(ws, settings, encoder)
    encoded = encode_cached(encoder, texts, ws.text / "embeddings.npz")
    sampling = Sampling(
        seed=settings.seed,
        seeds=1,
        steps=int(pairs["steps"].iloc[0]),
        guidance_scale=float(pairs["guidance_scale"].iloc[0]),
        batch_size=settings.counterfactual.batch_size,
        sampler=sampler_of(pairs),
    )
    tasks = []
    for fold in sorted(first["fold"].unique()):
        rows: list[dict] = first[first["fold"] == fold].to_dict("records")
        tasks.append(
            ReturnTask(
                workspace=ws,
                model_folder=ws.fold(settings.train.model, int(fold)),
                rows=tuple(rows),
                embeddings=dict(zip(texts, encoded, strict=True)),
                sampling=sampling,
            )
        )
    return tasks


def _truth(
    ws: Workspace, settings: Settings, measures: pd.DataFrame, contrast: Contrast
) -> list[pd.DataFrame]:
    """Pairs beside each subject's true counterfactual, where the settings name a truth."""
    from dgmvlc_cli.analysis.axioms import against_truth

    if settings.analyze.truth is None or contrast.joint:
        return []
    truth = workspace.read_table(ws.root / settings.analyze.truth, dtype={"subject": str})
    return [against_truth(measures, truth, contrast)]


def _words(table: pd.DataFrame) -> list[str]:
    from dgmvlc_cli.analysis.axioms import in_words

    lines = []
    for row in table.to_dict("records"):
        said = [words] if (words := in_words(row)) else []
        if pd.notna(row["value"]):
            span = f"{row['value']:.3g} [{row['ci_low']:.3g}, {row['ci_high']:.3g}] {row['unit']}"
            said.insert(0, span)
        lines.append(f"{row['property']}, {row['what']}: {'; '.join(said)}")
    return lines
