"""The cohort as later stages see it: subjects with a scan and a sentence, joined and loaded."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from dgmvlc_cli import workspace
from dgmvlc_cli.analysis.contrasts import Contrast, joint_edit
from dgmvlc_cli.config import Settings
from dgmvlc_cli.counting import counted
from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.imaging.acquisition import acquisition
from dgmvlc_cli.text.describe import rows_of_prompts
from dgmvlc_cli.text.edits import edit_value
from dgmvlc_cli.text.schema import Schema
from dgmvlc_cli.workspace import Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.imaging.identity import Identity
    from dgmvlc_cli.text.encoders import Encoder

LEAST_SUBJECTS_PER_FOLD = 4


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Subjects that have both a usable scan and a sentence.

    schema: with the placebos as attributes.  rows: cleaned values by subject, placebo columns
    included.  sentences: by subject.  scans: how each was made, see `imaging.acquisition`.
    words: placebo -> level of the studied attribute -> word.
    """

    schema: Schema
    rows: pd.DataFrame
    sentences: pd.Series
    scans: pd.DataFrame
    studied: str
    words: dict[str, dict[str, str]]

    @property
    def subjects(self) -> list[str]:
        return list(self.rows.index)

    def row(self, subject: str) -> dict[str, Any]:
        """Attribute -> cleaned value of one subject."""
        return {str(name): value for name, value in self.rows.loc[subject].items()}

    @property
    def design(self) -> pd.DataFrame:
        """What an effect can be adjusted for: the rows, and how the scans were made."""
        return self.rows.join(self.scans.drop(columns=self.rows.columns, errors="ignore"))

    def without(self, subjects: Collection[str]) -> Cohort:
        """The cohort less some subjects."""
        kept = self.rows.index[~self.rows.index.isin(list(subjects))]
        return replace(self, rows=self.rows.loc[kept], sentences=self.sentences.loc[kept])


def load_cohort(ws: Workspace, settings: Settings) -> Cohort:
    """What `describe` wrote, cut down to the subjects that `preprocess` made ready.

    In order of subject, whatever the order of the table.  Raises DgmvlcError where the table or
    its schema changed since `describe`, or prepared scans are gone (see `require_scans`, too).
    """
    ws.require(ws.prompts_path, "sentences", "dgmvlc describe")
    made_from = (workspace.read_json(ws.text / "describe.json") or {}).get("inputs", {})
    if as_of_now(made_from) != workspace.plain(described_inputs(ws, settings)):
        raise DgmvlcError(
            "The table, its [schema] or the [study] attribute changed since `dgmvlc describe`.",
            "Run `dgmvlc describe` again.",
        )
    scans = scans_table(ws)
    ready = scans.loc[scans["status"] == "ok", "subject"]
    record = workspace.read_json(ws.attributes_path)
    if record is None:
        raise DgmvlcError(f"Cannot read {ws.attributes_path}.", "Run `dgmvlc describe --force`.")
    prompts = workspace.read_table(ws.prompts_path, dtype=str)
    schema = _in_order(Schema.model_validate(record["schema"]), list(prompts.columns))
    prompts = prompts[prompts["subject"].isin(ready)].sort_values("subject", ignore_index=True)
    if prompts.empty:
        raise DgmvlcError(
            "No subject has both a usable scan and a sentence.",
            "Compare the ids in subjects.tsv and text/prompts.tsv; run `dgmvlc describe` again.",
        )
    _require_files(ws.sidecar_path(one) for one in prompts["subject"])
    return Cohort(
        schema=schema,
        rows=rows_of_prompts(prompts, schema),
        sentences=prompts.set_index("subject")["sentence"],
        scans=acquisition(scans).reindex(prompts["subject"]),
        studied=record["studied"],
        words={name: placebo["words"] for name, placebo in record["placebos"].items()},
    )


def require_scans(ws: Workspace, subjects: list[str]) -> None:
    """Raise DgmvlcError where voxels of a prepared scan are gone."""
    _require_files(path for one in subjects for path in (ws.ct_path(one), ws.mask_path(one)))


def _require_files(paths: Iterable[Path]) -> None:
    gone = [path for path in paths if not path.exists()]
    if gone:
        more = f", and {counted(len(gone) - 1, 'other file')}" if len(gone) > 1 else ""
        raise DgmvlcError(
            f"{gone[0]}{more} of the prepared scans {'are' if more else 'is'} gone.",
            "Run `dgmvlc preprocess` again: it makes what is missing.",
        )


def _in_order(schema: Schema, columns: list[str]) -> Schema:
    """The schema with its attributes in the order of the sentences, which JSON does not keep.

    An edited sentence whose clauses stood elsewhere than in training would differ by more than the
    edit.
    """
    said = [name for name in columns if name in schema.attributes]
    unsaid = [name for name in schema.attributes if name not in said]
    ordered = {name: schema.attributes[name] for name in [*said, *unsaid]}
    return schema.model_copy(update={"attributes": ordered})


def described_inputs(ws: Workspace, settings: Settings) -> dict[str, Any]:
    """What the sentences are made from, besides the seed and the number of placebos."""
    schema = settings.require_schema()
    assert settings.table is not None
    identity = identity_of(ws, settings)
    return {
        "table_sha256": workspace.sha256_file(ws.root / settings.table.path),
        "names": identity.series("names") if identity.pseudonymous else "as they are",
        **({"sheet": settings.table.sheet} if settings.table.sheet else {}),
        "schema": schema.model_dump(mode="json"),
        "studied": studied_attribute(settings, schema),
    }


def clinical_table(ws: Workspace, settings: Settings) -> pd.DataFrame:
    """The clinical table as it is, every cell text."""
    from dgmvlc_cli.text.table import read_table

    assert settings.table is not None
    return read_table(ws.root / settings.table.path, settings.table.sheet)


def clinical_ids(ws: Workspace, settings: Settings, table: pd.DataFrame) -> pd.Series:
    """The id of every row, as the workspace names its subjects."""
    from dgmvlc_cli.text.cleaning import check_column, table_ids

    column = settings.require_schema().id_column
    check_column(column, table)
    return table_ids(table, column).map(identity_of(ws, settings).subject)


def key_path(ws: Workspace, settings: Settings) -> Path:
    """The file that says who is behind the pseudonyms."""
    from dgmvlc_cli.imaging.identity import default_key

    return ws.root / settings.scans.key if settings.scans.key else default_key(ws.root)


def identity_of(ws: Workspace, settings: Settings) -> Identity:
    """How the workspace names its subjects."""
    from dgmvlc_cli.imaging.identity import workspace_identity

    return workspace_identity(key_path(ws, settings), settings.scans.pseudonyms)


def as_of_now(made_from: dict[str, Any]) -> dict[str, Any]:
    """Recorded inputs with today's keys: a schema that says the same counts as the same."""
    try:
        schema = Schema.model_validate(made_from.get("schema"))
    except ValidationError:
        return made_from
    return {**made_from, "schema": workspace.plain(schema.model_dump(mode="json"))}


def training_inputs(ws: Workspace, cohort: Cohort, subjects: list[str]) -> dict[str, str]:
    """Fingerprints of the scans and sentences that a model is trained on."""
    return {
        "scans": scans_fingerprint(ws, subjects),
        "sentences": workspace.fingerprint({"said": list(cohort.sentences[subjects])}),
    }


def scans_fingerprint(ws: Workspace, subjects: list[str]) -> str:
    """Fingerprint of the preprocessed scans of some subjects."""
    records = [workspace.read_json(ws.sidecar_path(one)) or {} for one in subjects]
    return workspace.fingerprint(
        {one: r.get("fingerprint") for one, r in zip(subjects, records, strict=True)}
    )


def scans_table(ws: Workspace) -> pd.DataFrame:
    """subjects.tsv as text: a row for every scan that preprocessing was given."""
    ws.require(ws.subjects_path, "preprocessed scans", "dgmvlc preprocess")
    return workspace.read_table(ws.subjects_path, ("subject", "status"), dtype=str)


def ready_subjects(ws: Workspace) -> list[str]:
    """Subjects whose scan was preprocessed, in order."""
    table = scans_table(ws)
    return list(table.loc[table["status"] == "ok", "subject"])


def subjects_with_lobes(table: pd.DataFrame) -> list[str]:
    """Subjects whose mask tells lobes.  table: as subjects.tsv."""
    return list(table.loc[table["lobes"].notna(), "subject"]) if "lobes" in table else []


def studied_attribute(settings: Settings, schema: Schema) -> str:
    """The attribute of the study: as set, else smoking, else the first that can be edited."""
    if settings.study.attribute:
        if not schema.attribute(settings.study.attribute).in_sentence:
            raise UsageError(
                f"[study] attribute {settings.study.attribute} is not part of the sentence.",
                "Give it the role `condition` under [schema], or study another.",
            )
        return settings.study.attribute
    editable = schema.names("condition")
    if not editable:
        raise UsageError(
            "No attribute of role `condition` in dgmvlc.toml, so nothing can be studied.",
            f"Give one of these the role `condition`: {', '.join(schema.names())}.",
        )
    return "smoking" if "smoking" in editable else editable[0]


def choose_contrast(
    schema: Schema, attribute: str, reference: str | float | None, target: str | float | None
) -> Contrast:
    """The contrast asked for; unnamed levels are the schema's first and last.

    Raises UsageError for an unknown attribute or level, with the nearest known one.
    """
    declared = schema.attribute(attribute)
    if declared.levels:
        reference = declared.levels[0] if reference is None else reference
        target = declared.levels[-1] if target is None else target
    elif reference is None or target is None:
        raise UsageError(
            f"{attribute} is a number, so the contrast needs two values.",
            f"Say for example `--attribute {attribute} --from 45 --to 75`.",
        )
    low, high = (edit_value(schema, attribute, value) for value in (reference, target))
    return Contrast(attribute, low, high)


def study_contrast(
    settings: Settings,
    cohort: Cohort,
    attribute: str | None,
    reference: str | float | None,
    target: str | float | None,
) -> Contrast:
    """The contrast asked for; what was not named is the study's."""
    study = settings.study
    if attribute is None or attribute == study.attribute:
        reference = study.reference if reference is None else reference
        target = study.target if target is None else target
    contrast = choose_contrast(cohort.schema, attribute or cohort.studied, reference, target)
    for level in (contrast.reference, contrast.target):
        _require_heard(cohort, contrast.attribute, level)
    return contrast


def _require_heard(cohort: Cohort, attribute: str, value: str | float) -> None:
    """Raise UsageError for a level that no subject has: no model ever heard of it."""
    if isinstance(value, str) and value not in set(cohort.rows[attribute]):
        raise UsageError(
            f"No subject has the level {value!r} of {attribute}.",
            "Choose levels that occur in text/prompts.tsv.",
        )


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the command line asks about: a contrast, several levels of an attribute, or edits.

    values: two or more levels or numbers; the first is the reference.  edits: attribute -> value,
    made together in every subject's own row.  Unset: the study's own contrast.
    """

    attribute: str | None = None
    reference: str | float | None = None
    target: str | float | None = None
    values: tuple[str | float, ...] = ()
    edits: tuple[tuple[str, str | float], ...] = ()

    @property
    def options(self) -> str:
        """The same as command-line options, for the message that names the next command."""
        if self.edits:
            said = [f"--edit {shlex.quote(f'{name}={_said(one)}')}" for name, one in self.edits]
            return " ".join(said)
        parts = [f"--attribute {shlex.quote(self.attribute)}"] if self.attribute else []
        if self.values:
            parts.append(f"--values {shlex.quote(','.join(map(_said, self.values)))}")
        for side, level in (("from", self.reference), ("to", self.target)):
            if level is not None:
                parts.append(f"--{side} {shlex.quote(_said(level))}")
        return " ".join(parts)


def _said(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def asked_contrasts(settings: Settings, cohort: Cohort, question: Question) -> list[Contrast]:
    """The contrasts of a question: its main one last.

    Several values give one contrast from the first value to each other one, in the order given.
    Raises UsageError for a mixture of ways to ask, and for unknown attributes and levels.
    """
    if question.edits:
        asked = (question.attribute, question.reference, question.target)
        if question.values or any(one is not None for one in asked):
            raise UsageError(
                "--edit says all of the target arm; --attribute, --from, --to and --values do not "
                "go with it.",
                "Give every change as one more --edit.",
            )
        edits = {name: edit_value(cohort.schema, name, value) for name, value in question.edits}
        for name, value in edits.items():
            _require_heard(cohort, name, value)
        return [joint_edit(edits)]
    if not question.values:
        asked = (question.attribute, question.reference, question.target)
        return [study_contrast(settings, cohort, *asked)]
    if len(question.values) < 2 or question.reference is not None or question.target is not None:
        raise UsageError(
            "--values needs two values or more, and stands for --from and --to.",
            "Say for example `--attribute age --values 45,55,65,75`.",
        )
    first, *others = question.values
    attribute = question.attribute or cohort.studied
    values = [_said(edit_value(cohort.schema, attribute, one)) for one in question.values]
    for place, value in enumerate(values):
        if value in values[:place]:
            raise UsageError(
                f"{value!r} is given twice in --values.", "Give every level or number once."
            )
    return [study_contrast(settings, cohort, attribute, first, one) for one in others]


def placebo_contrasts(contrast: Contrast, cohort: Cohort) -> list[Contrast]:
    """The same step in every placebo: the words that stand for the contrast's levels."""
    if contrast.joint:
        return _joint_placebos(contrast, cohort)
    if contrast.attribute != cohort.studied:
        return []
    # A numeric attribute has no words: its placebos hold the numbers themselves.
    return [
        Contrast(
            name,
            words.get(str(contrast.reference), contrast.reference),
            words.get(str(contrast.target), contrast.target),
        )
        for name, words in cohort.words.items()
    ]


def _joint_placebos(contrast: Contrast, cohort: Cohort) -> list[Contrast]:
    """The studied attribute's part of a joint edit in every placebo; none where it has no part."""
    level = dict(contrast.edits).get(cohort.studied)
    if level is None:
        return []
    return [
        joint_edit({name: words.get(str(level), level)}) for name, words in cohort.words.items()
    ]


def assign_folds(rows: pd.DataFrame, studied: str, folds: int, seed: int) -> pd.Series:
    """Subject -> fold 0 .. folds-1, balanced within each level of the studied attribute.

    Raises DgmvlcError where a fold would be too small to hold anything out.
    """
    if len(rows) < folds * LEAST_SUBJECTS_PER_FOLD:
        raise DgmvlcError(
            f"{len(rows)} subjects are too few for {folds} folds of at least "
            f"{LEAST_SUBJECTS_PER_FOLD}.",
            "Add scans, or use fewer folds ([train] folds).",
        )
    order = workspace.generator(seed, "folds").permutation(len(rows))
    level = rows[studied].sort_index()  # so that the order of the table does not matter
    if pd.api.types.is_numeric_dtype(level.dtype):
        level = pd.qcut(level, 4, labels=False, duplicates="drop")
    shuffled = level.index[order]
    # A stable sort by level deals every level out over the folds in turn.
    dealt = level.loc[shuffled].astype(str).sort_values(kind="stable").index
    return pd.Series(np.arange(len(dealt)) % folds, index=dealt, name="fold").loc[rows.index]


def covariates(settings: Settings, cohort: Cohort, contrast: Contrast) -> list[str]:
    """What the observed and debiased effects are adjusted for: columns of the cohort's design.

    As set, else every attribute of role `covariate`; never the contrast's own attribute, nor
    what comes and goes with it (pack-years with smoking).  Then the `scan_covariates`.
    """
    schema, chosen = cohort.schema, settings.analyze.covariates
    names = schema.names("covariate") if chosen is None else list(chosen)
    for name in names:
        schema.attribute(name)
    entailed = {contrast.attribute, *schema.followers(contrast.attribute)}
    for name in settings.analyze.scan_covariates:
        if cohort.scans[name].isna().all():
            told = [repr(one) for one in cohort.scans if cohort.scans[one].notna().any()]
            raise UsageError(
                f"scan_covariates names {name!r}, which no scan of the cohort tells.",
                f"Told are: {', '.join(told)}." if told else "Run `dgmvlc preprocess --force`.",
            )
    return [
        *(name for name in names if name not in entailed),
        *settings.analyze.scan_covariates,
    ]


def read_folds(ws: Workspace, model: str) -> pd.Series:
    """Subject -> the fold whose model never saw it."""
    path = ws.require(ws.model(model) / "folds.tsv", "trained model", "dgmvlc train")
    table = workspace.read_table(path, dtype={"subject": str, "fold": int})
    return table.set_index("subject")["fold"]


def trained_inputs(ws: Workspace, model: str, fold: int) -> dict[str, Any]:
    """What a fold was trained from and how, as train.json holds it; nothing where there is none."""
    return (workspace.read_json(ws.fold(model, fold) / "train.json") or {}).get("inputs", {})


def require_encoder(ws: Workspace, settings: Settings, encoder: Encoder) -> None:
    """Raise DgmvlcError where a fold hears another encoder: the embeddings would mean nothing."""
    name = settings.train.model
    for fold in sorted(read_folds(ws, name).unique()):
        made = workspace.read_json(ws.fold(name, int(fold)) / "conditioning.json") or {}
        if made.get("encoder_sha256") != encoder.sha256:
            raise DgmvlcError(
                f"The model of fold {fold} was trained with another text encoder than "
                f"{encoder.name}.",
                "Set `text_encoder` under [study] back, or run `dgmvlc train` again.",
            )


def require_current_model(ws: Workspace, model: str, fold: int, cohort: Cohort) -> None:
    """Raise DgmvlcError unless the fold's model was trained on the scans and sentences of now.

    A model that never saw today's placebo words would make nothing of them: too easy a null.
    """
    path = ws.fold(model, fold) / "train.json"
    ws.require(path, f"trained model of fold {fold}", "dgmvlc train")
    trained = trained_inputs(ws, model, fold)
    folds = read_folds(ws, model)
    missing = sorted(set(folds.index) - set(cohort.subjects))
    if missing:
        raise DgmvlcError(
            f"{counted(len(missing), 'subject')} of the model no longer ready, the first: "
            f"{missing[0]}.",
            "Run `dgmvlc preprocess` and `dgmvlc describe`, then `dgmvlc train` again.",
        )
    now = training_inputs(ws, cohort, [one for one in folds.index if folds[one] != fold])
    changed = [name for name, value in now.items() if trained.get(name) != value]
    if changed:
        raise DgmvlcError(
            f"The {' and '.join(changed)} changed since fold {fold} was trained.",
            "Run `dgmvlc train` again.",
        )


def model_grid(ws: Workspace, model: str) -> tuple[tuple[int, int, int], float]:
    """Grid (D, H, W) and spacing in mm of the trained models, whatever the settings say now."""
    path = ws.fold(model, 0) / "conditioning.json"
    facts = workspace.read_json(ws.require(path, "trained model", "dgmvlc train")) or {}
    depth, height, width = facts["grid"]
    return (depth, height, width), float(facts["spacing_mm"])
