"""Counterfactual pairs: edited rows, shared noise, both arms through one held-out model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.analysis.contrasts import Contrast, informing
from dgmvlc_cli.cohort import Cohort, read_folds, training_inputs
from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import made_by
from dgmvlc_cli.generators.grid import place
from dgmvlc_cli.generators.model import Generator
from dgmvlc_cli.imaging.files import read_labels, read_volume, write_volume
from dgmvlc_cli.imaging.volume import LUNGS, Volume
from dgmvlc_cli.text.describe import sentence
from dgmvlc_cli.text.edits import ContradictionError, bundle_values, edit_row
from dgmvlc_cli.text.schema import Schema
from dgmvlc_cli.workspace import Sidecar, Stopwatch, Workspace, slug

ARMS = ("reference", "target")


def contrast_name(contrast: Contrast) -> str:
    """The contrast's folder: `smoking_never-smoker_current-smoker`."""
    parts: list[str | float] = [contrast.attribute, contrast.reference, contrast.target]
    if contrast.joint:
        names, values = zip(*contrast.edits, strict=True)
        parts = ["-".join(map(slug, names)), contrast.reference, "-".join(map(slug, values))]
    return "_".join(slug(part) for part in parts)


def folder_name(settings: Settings, contrast: Contrast) -> str:
    """The contrast's folder, told apart by where its pairs come from."""
    return contrast_name(contrast) + _source_suffix(settings)


def analysis_name(settings: Settings, series: Sequence[Contrast]) -> str:
    """The folder of what is analysed together: a contrast's, or with every value of a series."""
    if len(series) == 1:
        return folder_name(settings, series[0])
    values = [series[0].reference, *(one.target for one in series)]
    return "_".join(map(slug, (series[0].attribute, *values))) + _source_suffix(settings)


def _source_suffix(settings: Settings) -> str:
    return "_from-scan" if settings.counterfactual.source == "scan" else ""


def pairs_inputs(ws: Workspace, settings: Settings, cohort: Cohort) -> dict[str, str]:
    """What the pairs of every contrast hang on: fingerprints of models, scans and sentences."""
    name = settings.train.model
    folds = read_folds(ws, name)
    weights = [path for fold in sorted(folds.unique()) for path in ws.weights(name, int(fold))]
    return {
        "models": workspace.sha256_files(weights),
        **training_inputs(ws, cohort, [one for one in folds.index if one in cohort.rows.index]),
    }


def pairs_sidecar(
    ws: Workspace,
    settings: Settings,
    contrast: Contrast,
    inputs: Mapping[str, str],
    only: Collection[str] | None = None,
) -> Sidecar:
    """The sidecar of one contrast's pairs.

    inputs: from `pairs_inputs`.  only: the subjects asked for, where not all were.
    """
    chosen = {} if only is None else {"only": sorted(only)}
    folder = ws.contrast(settings.train.model, folder_name(settings, contrast))
    return Sidecar(
        path=folder / "pairs.json", inputs={**inputs, **chosen}, outputs=(folder / "pairs.tsv",)
    )


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """One subject's pair in one contrast: two sentences, and where the volumes go.

    factual: the subject's own sentence and its embedding (E,), where the pair starts from the scan.
    """

    subject: str
    contrast: Contrast
    folder: Path
    sentences: tuple[str, str]
    embeddings: np.ndarray  # (2, E)
    factual: tuple[str, np.ndarray] | None = None

    def volume_path(self, level: str | float, seed: int) -> Path:
        name = f"sub-{slug(self.subject)}_arm-{slug(level)}_seed-{seed}_ct.nii.gz"
        return self.folder / f"sub-{slug(self.subject)}" / name

    def reconstruction_path(self, seed: int) -> Path:
        """The real scan as the model gives it back under its own sentence."""
        name = f"sub-{slug(self.subject)}_reconstruction_seed-{seed}_ct.nii.gz"
        return self.folder / f"sub-{slug(self.subject)}" / name

    def difference_path(self, seed: int) -> Path:
        """Target less reference arm, HU."""
        name = f"sub-{slug(self.subject)}_seed-{seed}_difference.nii.gz"
        return self.folder / f"sub-{slug(self.subject)}" / name

    @property
    def levels(self) -> tuple[str | float, str | float]:
        return self.contrast.reference, self.contrast.target

    @property
    def sidecar_path(self) -> Path:
        return self.folder / f"sub-{slug(self.subject)}" / f"sub-{slug(self.subject)}.json"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What decides a generated volume besides model, mask and sentence.

    sampler: of a diffusion, else None.
    """

    seed: int
    seeds: int
    steps: int
    guidance_scale: float
    batch_size: int
    sampler: str | None = None
    differences: bool = False


@dataclass(frozen=True, kw_only=True)
class SubjectTask:
    """All pairs of a few subjects of one fold, for one worker."""

    fold: int
    model_folder: Path
    model_sha256: str
    workspace: Workspace
    pairs: tuple[PairPlan, ...]
    sampling: Sampling
    force: bool


def arm_sentences(
    row: dict[str, Any], contrast: Contrast, schema: Schema, rows: pd.DataFrame
) -> tuple[str, str]:
    """The sentences of the reference and of the target arm of one subject.

    The edit acts on the row and carries its bundle along; the sentence is written anew.  What
    comes with a level (pack-years with smoking) is set to that level's typical value for every
    subject, also for those who have one of their own: else an arm would depend on the subject's
    own attribute, and the debiased effect needs predictions that do not.  A joint edit starts
    from the subject's own row instead, and only what it names and entails is set.
    """
    if contrast.joint:
        return sentence(row, schema), sentence(
            edit_row(row, dict(contrast.edits), schema, rows), schema
        )
    edited = (
        edit_row(row, arm_edits(contrast, level, schema, rows), schema, rows)
        for level in (contrast.reference, contrast.target)
    )
    reference, target = (sentence(one, schema) for one in edited)
    return reference, target


def possible_arms(cohort: Cohort, subject: str, contrast: Contrast) -> tuple[str, str] | None:
    """The `arm_sentences` of a subject; None where its row forbids one.

    Pack-years of a never smoker are not asked for.
    """
    try:
        return arm_sentences(cohort.row(subject), contrast, cohort.schema, cohort.rows)
    except ContradictionError:
        return None


def sentence_there_and_back(cohort: Cohort, subject: str, contrast: Contrast) -> str:
    """The reference arm's sentence after the row was edited to the target and back again."""
    row = cohort.row(subject)
    for level in (contrast.target, contrast.reference):
        edits = arm_edits(contrast, level, cohort.schema, cohort.rows)
        row = edit_row(row, edits, cohort.schema, cohort.rows)
    return sentence(row, cohort.schema)


def arm_edits(
    contrast: Contrast, level: str | float, schema: Schema, rows: pd.DataFrame
) -> dict[str, str | float | None]:
    """The level, and the cohort's typical value of everything that comes with it, None included."""
    edits: dict[str, str | float | None] = {contrast.attribute: level}
    if contrast.numeric:
        return edits
    return edits | bundle_values(schema, contrast.attribute, str(level), rows)


def sampler_of(pairs: pd.DataFrame) -> str | None:
    """The sampler named in pairs.tsv, which is a diffusion's."""
    names = [] if "sampler" not in pairs else pairs["sampler"].dropna().tolist()
    return str(names[0]) if names else None


def unlike(pairs: pd.DataFrame, sampling: Sampling) -> str:
    """How other pairs were sampled, where that differs: `seeds 1, not 2`; else nothing."""
    seed, _, _ = str(pairs["noise_key"].iloc[0]).partition("/")
    compared = {
        "seeds": (pairs["seed"].nunique(), sampling.seeds),
        "steps": (int(pairs["steps"].iloc[0]), sampling.steps),
        "guidance": (float(pairs["guidance_scale"].iloc[0]), sampling.guidance_scale),
        "sampler": (sampler_of(pairs), sampling.sampler),
        "seed": (int(seed), sampling.seed),
    }
    differ = (f"{name} {a}, not {b}" for name, (a, b) in compared.items() if a != b)
    return ", ".join(differ)


def subjects_of(contrast: Contrast, cohort: Cohort, series: Collection[Contrast] = ()) -> list[str]:
    """Subjects that get the pairs of a contrast: those that inform it (see `informing`).

    series: the contrasts of one attribute that are studied together; subjects that inform any of
    them get every arm.  A joint edit is made in everybody whose value of each edited attribute is
    known, or is led by another one.
    """
    rows = cohort.rows
    if contrast.joint:
        free = [one for one, _ in contrast.edits if cohort.schema.attributes[one].follows is None]
        return list(rows.index[rows[free].notna().all(axis=1)])
    wanted = {subject for one in (contrast, *series) for subject in informing(rows, one)}
    return [subject for subject in rows.index if subject in wanted]


def noise(seed: int, subject: str, draw: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise of one subject and draw, whatever the batch or worker."""
    stream = workspace.generator(seed, "noise", subject, draw)
    return stream.standard_normal(shape, dtype=np.float32)


def stale_pairs(task: SubjectTask) -> list[PairPlan]:
    """Those to be generated."""
    return [plan for plan in task.pairs if task.force or not _sidecar(plan, task).is_current()]


def generate_task(task: SubjectTask) -> list[dict[str, Any]]:
    """Generate what is not current; returns one row of pairs.tsv per pair and seed."""
    if stale := stale_pairs(task):
        generator = Generator.from_pretrained(task.model_folder, task.sampling.sampler)
        masks = {plan.subject: _placed(task.workspace, plan.subject, generator) for plan in stale}
        clock = Stopwatch()
        for plan in stale:
            _sidecar(plan, task).invalidate()
        for plan in _generate(stale, masks, generator, task):
            errors = _reconstruction_errors(plan, masks[plan.subject], task.sampling)
            _sidecar(plan, task).write(
                seconds=clock.seconds, subject=plan.subject, reconstruction_error_hu=errors
            )
    return [row for plan in task.pairs for row in _rows(plan, task)]


@dataclass(frozen=True, kw_only=True)
class ReturnTask:
    """Pairs of one fold to be led back from the target to the reference sentence.

    rows: of pairs.tsv.  embeddings: sentence -> (E,).
    """

    workspace: Workspace
    model_folder: Path
    rows: tuple[dict[str, Any], ...]
    embeddings: dict[str, np.ndarray]
    sampling: Sampling


def return_task(task: ReturnTask) -> list[dict[str, Any]]:
    """There and back: the target arm is inverted under its sentence and sampled under the other's.

    Returns subject, error_hu and shift_hu: mean absolute and mean signed difference in the lungs
    between what came back and the reference arm.  The noise is another one than the arms were
    sampled with.  Source: reversibility of Monteiro et al. 2023, arXiv:2303.01274.
    """
    generator = Generator.from_pretrained(task.model_folder, task.sampling.sampler)
    found = []
    for start in range(0, len(task.rows), task.sampling.batch_size):
        rows = task.rows[start : start + task.sampling.batch_size]
        paths = [[task.workspace.root / row[f"{a}_path"] for row in rows] for a in ARMS]
        with made_by("dgmvlc counterfactual"):
            reference, target = (np.stack([read_volume(one).hu for one in arm]) for arm in paths)
        labels = np.stack([_placed(task.workspace, row["subject"], generator)[1] for row in rows])
        said = [np.stack([task.embeddings[row[f"{a}_sentence"]] for row in rows]) for a in ARMS]
        shape = generator.noise_shape()
        noises = np.stack(
            [noise(task.sampling.seed, f"back {row['subject']}", 0, shape) for row in rows]
        )
        how = _how(task.sampling)
        steps = task.sampling.steps
        how["residuals"] = generator.invert(target, noises, labels, said[1], steps=steps)
        back = generator.generate(noises, labels, said[0], **how)
        lungs = np.isin(labels, LUNGS)
        for k, row in enumerate(rows):
            missed = (back[k] - reference[k])[lungs[k]]
            found.append(
                {
                    "subject": row["subject"],
                    "error_hu": float(np.abs(missed).mean()),
                    "shift_hu": float(missed.mean()),
                }
            )
    return found


def _how(sampling: Sampling) -> dict[str, Any]:
    """Options of the sampler."""
    return {"steps": sampling.steps, "guidance_scale": sampling.guidance_scale}


def _placed(ws: Workspace, subject: str, generator: Generator) -> tuple[Volume, np.ndarray]:
    """The subject's scan and mask on the generator's grid."""
    with made_by("dgmvlc preprocess"):
        volume, labels = read_volume(ws.ct_path(subject)), read_labels(ws.mask_path(subject))
    conditioning = generator.conditioning
    return place(volume, labels, conditioning.grid, conditioning.spacing_mm)


def _generate(
    plans: list[PairPlan],
    masks: dict[str, tuple[Volume, np.ndarray]],
    generator: Generator,
    task: SubjectTask,
) -> Iterator[PairPlan]:
    """Sample arms batch by batch, write their volumes, yield each plan once it is whole.

    An arm that several contrasts share (the reference of a series of levels) is sampled once.
    Batches are those of all plans of a subject, whichever are wanted: rounding depends on them.
    """
    sampling = task.sampling
    wanted = {path for plan in plans for path in _volumes(plan, sampling)}
    batches = [
        batch
        for batch in _batches(task.pairs, sampling)
        if not wanted.isdisjoint(path for one in batch for path in one.paths)
    ]
    waiting = list(plans)
    for done, batch in enumerate(batches, start=1):
        hu = _sample(generator, batch, masks, sampling)
        for one, voxels in zip(batch, hu, strict=True):
            for path in one.paths:
                write_volume(path, replace(masks[one.subject][0], hu=voxels))
        unwritten = {path for later in batches[done:] for one in later for path in one.paths}
        whole = [plan for plan in waiting if unwritten.isdisjoint(_volumes(plan, sampling))]
        waiting = [plan for plan in waiting if plan not in whole]
        for plan in whole:
            _write_differences(plan, sampling)
            yield plan


def _sample(
    generator: Generator,
    batch: list[Arm],
    masks: dict[str, tuple[Volume, np.ndarray]],
    sampling: Sampling,
) -> np.ndarray:
    """The arms of a batch: (N, D, H, W) HU.

    From the mask: noise and sentence alone decide.  From the scan: abduction finds what the model
    misses of the real scan under its own sentence, action edits the sentence, prediction samples
    under it with what was found (Pearl's three steps).
    """
    shape = generator.noise_shape()
    noises = np.stack([noise(sampling.seed, one.subject, one.draw, shape) for one in batch])
    labels = np.stack([masks[one.subject][1] for one in batch])
    how = _how(sampling)
    if batch[0].factual is not None:
        first = {(one.subject, one.draw): k for k, one in reversed(list(enumerate(batch)))}
        found = generator.invert(
            np.stack([masks[batch[k].subject][0].hu for k in first.values()]),
            noises[list(first.values())],
            labels[list(first.values())],
            np.stack([batch[k].factual for k in first.values()]),  # type: ignore[misc]
            steps=sampling.steps,
        )
        place_of = {key: k for k, key in enumerate(first)}
        how["residuals"] = found[:, [place_of[one.subject, one.draw] for one in batch]]
    return generator.generate(noises, labels, np.stack([one.embedding for one in batch]), **how)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One volume to sample, and every file that it is for.

    factual: (E,) embedding of the subject's own sentence, where it starts from the scan.
    """

    subject: str
    draw: int
    embedding: np.ndarray
    factual: np.ndarray | None
    paths: tuple[Path, ...]


def _batches(plans: Sequence[PairPlan], sampling: Sampling) -> Iterator[list[Arm]]:
    """The arms of each subject, a batch at a time."""
    for subject in dict.fromkeys(plan.subject for plan in plans):
        arms = _distinct_arms([one for one in plans if one.subject == subject], sampling.seeds)
        for start in range(0, len(arms), sampling.batch_size):
            yield arms[start : start + sampling.batch_size]


def _distinct_arms(plans: list[PairPlan], seeds: int) -> list[Arm]:
    """Every (subject, draw, sentence) once, in the order of the plans."""
    paths: dict[tuple[str, int, str], list[Path]] = {}
    embeddings: dict[tuple[str, int, str], np.ndarray] = {}
    factual: dict[str, np.ndarray | None] = {}
    for plan in plans:
        factual[plan.subject] = plan.factual[1] if plan.factual else None
        for draw in range(seeds):
            for said, embedding, path in _said(plan, draw):
                key = plan.subject, draw, said
                paths.setdefault(key, []).append(path)
                embeddings[key] = embedding
    return [
        Arm(
            subject=key[0],
            draw=key[1],
            embedding=embeddings[key],
            factual=factual[key[0]],
            paths=tuple(where),
        )
        for key, where in paths.items()
    ]


def _said(plan: PairPlan, draw: int) -> Iterator[tuple[str, np.ndarray, Path]]:
    """Sentence, embedding and file of every image of one draw."""
    for said, embedding, level in zip(plan.sentences, plan.embeddings, plan.levels, strict=True):
        yield said, embedding, plan.volume_path(level, draw)
    if plan.factual is not None:
        yield *plan.factual, plan.reconstruction_path(draw)


def _volumes(plan: PairPlan, sampling: Sampling) -> list[Path]:
    return [path for draw in range(sampling.seeds) for *_, path in _said(plan, draw)]


def _reconstruction_errors(
    plan: PairPlan, real: tuple[Volume, np.ndarray], sampling: Sampling
) -> list[float]:
    """Mean absolute difference between scan and reconstruction in the lungs, HU, by draw."""
    if plan.factual is None:
        return []
    scan, labels = real
    lungs = np.isin(labels, LUNGS)
    paths = [plan.reconstruction_path(draw) for draw in range(sampling.seeds)]
    return [float(np.abs(read_volume(one).hu - scan.hu)[lungs].mean()) for one in paths]


def _write_differences(plan: PairPlan, sampling: Sampling) -> None:
    for draw in range(sampling.seeds) if sampling.differences else ():
        reference, target = (read_volume(plan.volume_path(one, draw)) for one in plan.levels)
        write_volume(plan.difference_path(draw), replace(target, hu=target.hu - reference.hu))


def _sidecar(plan: PairPlan, task: SubjectTask) -> Sidecar:
    sampling = task.sampling
    mask_facts = workspace.read_json(task.workspace.sidecar_path(plan.subject)) or {}
    inputs = {
        "model_sha256": task.model_sha256,
        "mask": mask_facts.get("fingerprint"),
        "sentences": plan.sentences,
        "seed": sampling.seed,
        "seeds": sampling.seeds,
        "steps": sampling.steps,
        "sampler": sampling.sampler,
        "guidance_scale": sampling.guidance_scale,
        "from_scan": plan.factual[0] if plan.factual else None,
    }
    outputs = _volumes(plan, sampling)
    if sampling.differences:
        outputs += [plan.difference_path(draw) for draw in range(sampling.seeds)]
    return Sidecar(path=plan.sidecar_path, inputs=inputs, outputs=tuple(outputs))


def _rows(plan: PairPlan, task: SubjectTask) -> Iterator[dict[str, Any]]:
    root = task.workspace.root
    made = _sidecar(plan, task).previous() or {}
    errors = made.get("reconstruction_error_hu") or [None] * task.sampling.seeds
    for draw in range(task.sampling.seeds):
        reference, target = (plan.volume_path(level, draw) for level in plan.levels)
        yield {
            "subject": plan.subject,
            "fold": task.fold,
            "seed": draw,
            "attribute": plan.contrast.attribute,
            "reference": plan.contrast.reference,
            "target": plan.contrast.target,
            "reference_path": str(reference.relative_to(root)),
            "target_path": str(target.relative_to(root)),
            "reference_sentence": plan.sentences[0],
            "target_sentence": plan.sentences[1],
            "noise_key": f"{task.sampling.seed}/noise/{plan.subject}/{draw}",
            "model_sha256": task.model_sha256,
            "steps": task.sampling.steps,
            "sampler": task.sampling.sampler,
            "guidance_scale": task.sampling.guidance_scale,
            "source": "scan" if plan.factual else "mask",
            "reconstruction_error_hu": errors[draw],
        }
