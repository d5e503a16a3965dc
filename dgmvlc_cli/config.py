"""Settings: frozen, checked on creation, read from dgmvlc.toml; presets and names of choices.

No torch here: the command line reads this module for its help texts.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dgmvlc_cli.errors import DgmvlcError, UsageError
from dgmvlc_cli.text.schema import OWN_NAMES, Schema, schema_toml, toml_value

MODELS = ("flow", "diffusion", "gan")
FUSIONS = ("affine", "cross-attention", "both", "none")
MaskStructure = Literal[
    "lung",
    "right_lung",
    "left_lung",
    "right_upper_lobe",
    "right_middle_lobe",
    "right_lower_lobe",
    "left_upper_lobe",
    "left_lower_lobe",
    "airway",
    "body",
]
Acquisition = Literal[
    "slice spacing",
    "slice thickness",
    "pixel spacing",
    "tube voltage",
    "reconstruction kernel",
    "contrast medium",
    "scanner maker",
]
OPEN_CLIP = "open_clip:"
DEFAULT_SEED = 0
SETTINGS_HEADER = (
    "# Settings of this workspace, written by `dgmvlc init`.  Paths are relative to this file.\n"
    "# A misspelt key is an error; what is left out takes its default."
)


class Preset(BaseModel):
    """A grid and the network that fits it.

    grid: voxels (D, H, W).  spacing_mm: isotropic.  widths: channels per resolution of the
    U-Net over wavelet coefficients.  fixed_gb: memory that training takes on a CPU in fp32, apart
    from the subjects; of `large` and `paper` an estimate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: tuple[int, int, int]
    spacing_mm: float
    wavelet_levels: int
    widths: tuple[int, ...]
    batch_size: int
    steps: int
    fixed_gb: float


PRESETS: dict[str, Preset] = {
    "micro": Preset(
        grid=(28, 20, 28),
        spacing_mm=12.0,
        wavelet_levels=1,
        widths=(16, 32),
        batch_size=8,
        steps=400,
        fixed_gb=0.8,
    ),
    "tiny": Preset(
        grid=(40, 32, 40),
        spacing_mm=8.0,
        wavelet_levels=1,
        widths=(32, 64, 96),
        batch_size=8,
        steps=450,
        fixed_gb=1.1,
    ),
    "small": Preset(
        grid=(80, 64, 80),
        spacing_mm=4.0,
        wavelet_levels=1,
        widths=(32, 64, 96, 128),
        batch_size=4,
        steps=4000,
        fixed_gb=2.0,
    ),
    "base": Preset(
        grid=(160, 128, 160),
        spacing_mm=2.0,
        wavelet_levels=2,
        widths=(64, 128, 192, 256),
        batch_size=4,
        steps=6000,
        fixed_gb=3.6,
    ),
    "large": Preset(
        grid=(256, 208, 256),
        spacing_mm=1.25,
        wavelet_levels=2,
        widths=(64, 128, 192, 256),
        batch_size=2,
        steps=10000,
        fixed_gb=7.0,
    ),
    "paper": Preset(
        grid=(128, 128, 128),
        spacing_mm=3.0,
        wavelet_levels=0,
        widths=(64, 128, 192, 256),
        batch_size=1,
        steps=50000,
        fixed_gb=36.0,
    ),
}


class Section(BaseModel):
    """One table of dgmvlc.toml: unknown keys raise, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScanSettings(Section):
    """Where the scans lie and how they become model-ready.

    subject_from: where ids come from; "auto" is the DICOM PatientID, else folder or file name.
    subject_pattern: for "pattern", a regular expression with a group (?P<subject>...) for the path.
    subject_column: for "column", the column of the table that names each row's scan.
    choose: subject -> the series to take instead of the preferred one, as in series.tsv.
    pseudonyms: unset means yes for ids from DICOM headers.  key: file with what they stand for.
    masks: a folder with one label map per subject.  mask_labels: what its values mean, by the
    name of a ready mapping or as lists of values for lung, right_lung, left_lung, airway, body
    and the five lobes (right_upper_lobe ...), which become regions of their own.
    segmenter: who finds the lungs where there are no masks.
    spacing_mm: isotropic working spacing; unset takes the preset's; "native" keeps the scan's.
    margin_mm: kept around the lungs.
    max_missing_slices: so many lost in a row are interpolated, more are a failure.
    allow_lossy: read scans compressed with loss.  allow_not_hu: go on where values are not HU.
    """

    path: Path
    subject_from: Literal["auto", "patient-id", "folder", "file-name", "pattern", "column"] = "auto"
    subject_pattern: str | None = None
    subject_column: str | None = None
    choose: dict[str, str] = {}
    pseudonyms: bool | None = None
    key: Path | None = None
    masks: Path | None = None
    mask_labels: str | dict[MaskStructure, tuple[int, ...]] = "auto"
    segmenter: Literal["builtin", "lungmask", "lungmask-lobes", "totalsegmentator"] = "builtin"
    spacing_mm: Annotated[float, Field(gt=0, le=50)] | Literal["native"] | None = None
    margin_mm: float = Field(default=10.0, ge=0)
    max_missing_slices: int = Field(default=1, ge=0)
    allow_lossy: bool = False
    allow_not_hu: bool = False


class TableSettings(Section):
    """The clinical table: csv, tsv, xlsx or parquet.

    sheet: of an xlsx file; unset takes the first of several columns, else the first not empty.
    """

    path: Path
    sheet: str | None = None


class StudySettings(Section):
    """The question: which attribute, from which level to which.

    placebos: number of attributes of no meaning that ride along in every training sentence.
    text_encoder: `minilm` (bundled, offline), a hub id or folder, or `open_clip:` and either.
    """

    attribute: str | None = None
    reference: str | int | float | None = None
    target: str | int | float | None = None
    placebos: int = Field(default=4, ge=0, le=8)
    text_encoder: str = "minilm"


class TrainSettings(Section):
    """How the generator is trained; unset values come from the preset.

    folds: cross-fitting folds, one model each, never trained on the subjects it predicts.
    text_dropout: share of training sentences replaced by the cohort's mean sentence.
    rewordings: other wordings of every training sentence (order, phrases, clauses left out), one
        drawn per step, so that the generator hears what is said and not how.
    max_minutes: stop after so long, at a checkpoint; the same command goes on from there.
    precision: auto computes in bf16 on a GPU that has it, else in fp32.
    compile: steps through torch.compile, which takes minutes before the first one: for trainings
        of thousands of steps.
    """

    model: Literal["flow", "diffusion", "gan"] = "flow"
    preset: Literal["micro", "tiny", "small", "base", "large", "paper"] = "tiny"
    fusion: Literal["affine", "cross-attention", "both", "none"] = "affine"
    folds: int = Field(default=2, ge=2, le=20)
    steps: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    text_dropout: float = Field(default=0.1, ge=0, lt=1)
    rewordings: int = Field(default=0, ge=0, le=64)
    checkpoint_seconds: float = Field(default=30.0, gt=0)
    max_minutes: float | None = Field(default=None, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False

    @model_validator(mode="after")
    def _paper_is_a_diffusion(self) -> TrainSettings:
        if self.preset == "paper" and self.model != "diffusion":
            raise ValueError('preset "paper" is a diffusion, so model must be "diffusion"')
        return self


class CounterfactualSettings(Section):
    """How pairs are sampled: seeds per subject, sampler steps, guidance (1 is honest).

    sampler: of a diffusion; ddpm draws fresh noise at every step, the same for both arms of a pair,
        and wants many steps, as ddim does; unset takes dpm-solver, for which 8 are enough.
    source: `mask` (a new scan under the subject's mask) or `scan` (the subject's own scan, edited).
    differences: also write target less reference arm as volumes.
    """

    seeds: int = Field(default=1, ge=1)
    steps: int = Field(default=8, ge=1)
    sampler: Literal["ddim", "ddpm", "dpm-solver"] | None = None
    guidance_scale: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    source: Literal["mask", "scan"] = "mask"
    differences: bool = False


class AnalyzeSettings(Section):
    """What is measured and reported.

    covariates: adjusted for in the observed and debiased effects; unset takes every
    attribute of role `covariate`.  scan_covariates: of how the scans were made, adjusted for
    besides.  truth: the phantom's truth.tsv, where it is known.
    """

    covariates: tuple[str, ...] | None = None
    scan_covariates: tuple[Acquisition, ...] = ()
    truth: Path | None = None


class Settings(Section):
    """All of dgmvlc.toml.  Paths are relative to the workspace."""

    seed: int = DEFAULT_SEED
    scans: ScanSettings
    table: TableSettings | None = None
    study: StudySettings = StudySettings()
    # `schema` is a deprecated method of pydantic models, hence the other name inside.
    table_schema: Schema | None = Field(default=None, alias="schema")
    train: TrainSettings = TrainSettings()
    counterfactual: CounterfactualSettings = CounterfactualSettings()
    analyze: AnalyzeSettings = AnalyzeSettings()

    @field_validator("table_schema")
    @classmethod
    def _names_are_free(cls, schema: Schema | None) -> Schema | None:
        for name, attribute in schema.attributes.items() if schema else ():
            if OWN_NAMES.fullmatch(name) or attribute.role == "placebo":
                raise ValueError(
                    f"{name}: the names subject, sentence and placebo_1, ... and the role placebo "
                    "are the toolkit's own; name the attribute otherwise, or change its role"
                )
        return schema

    @model_validator(mode="after")
    def _samplers_are_of_a_diffusion(self) -> Settings:
        if self.counterfactual.sampler is not None and self.train.model != "diffusion":
            raise ValueError(
                f'sampler = "{self.counterfactual.sampler}" under [counterfactual] is of a '
                f'diffusion, and model under [train] is "{self.train.model}"'
            )
        return self

    @property
    def sampler(self) -> str | None:
        """The sampler that is used: of a diffusion only, since the others have one each."""
        its_own = "dpm-solver" if self.train.model == "diffusion" else None
        return self.counterfactual.sampler or its_own

    @property
    def preset(self) -> Preset:
        return PRESETS[self.train.preset]

    @property
    def working_spacing_mm(self) -> float | None:
        """Isotropic spacing in mm, or None to keep each scan's own."""
        chosen = self.scans.spacing_mm
        if chosen == "native":
            return None
        return self.preset.spacing_mm if chosen is None else float(chosen)

    def require_schema(self) -> Schema:
        """The schema, or an error that says how to get one."""
        if self.table_schema is None or self.table is None:
            raise DgmvlcError(
                "This workspace has no clinical table, so no sentences can be written.",
                "Run `dgmvlc init SCANS TABLE` to add one.",
            )
        return self.table_schema


def load_settings(path: Path) -> Settings:
    """Settings from a TOML file.

    Raises DgmvlcError where the file is missing or not TOML, UsageError where a key or a
    value is not one of ours, with the nearest known name.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DgmvlcError(
            f"No {path.name} in {path.parent.resolve()}.",
            "Run `dgmvlc init SCANS TABLE` first, or point to a workspace with --workspace.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DgmvlcError(f"Cannot read {path}: {error}.", "Check the file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", "Mend that line.") from error
    return _encoder_beside(parse_settings(content, source=str(path)), path.parent)


def _encoder_beside(settings: Settings, folder: Path) -> Settings:
    """The settings with a text encoder's folder found from the file, as its other paths are."""
    name = settings.study.text_encoder
    library = OPEN_CLIP if name.startswith(OPEN_CLIP) else ""
    beside = (folder / name.removeprefix(library)).resolve()
    if name == StudySettings().text_encoder or not beside.is_dir():
        return settings
    study = settings.study.model_copy(update={"text_encoder": f"{library}{beside}"})
    return settings.model_copy(update={"study": study})


def settings_toml(settings: Settings) -> str:
    """dgmvlc.toml of settings made by the toolkit; reads back as the same Settings."""
    content = settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    sections = {name: part for name, part in content.items() if isinstance(part, dict)}
    schema = sections.pop("schema", None)
    lines = [SETTINGS_HEADER, f"seed = {settings.seed}"]
    for name, values in sections.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    text = "\n".join(lines) + "\n\n"
    return text + (schema_toml(settings.require_schema(), {}) if schema else "")


def parse_settings(content: dict[str, Any], source: str) -> Settings:
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise UsageError(*explain(error, source)) from error


def override(settings: Settings, changes: dict[str, dict[str, Any]]) -> Settings:
    """Settings with the values that the command line gave, checked like those of the file.

    changes: section -> key -> value; None means not given.
    """
    content = settings.model_dump(by_alias=True)
    for section, values in changes.items():
        given = {key: value for key, value in values.items() if value is not None}
        if section:
            content[section] = {**(content[section] or {}), **given}
        else:
            content.update(given)
    return parse_settings(content, source="the command line")


def explain(error: ValidationError, source: str) -> tuple[str, str]:
    """Message and hint for what is wrong; an unknown key first, since it explains a missing one.

    Of a value that could be of several types, the deepest complaint is of the one that was meant.
    """
    first = min(
        error.errors(), key=lambda one: (one["type"] != "extra_forbidden", -len(one["loc"]))
    )
    place = ".".join(part for part in map(str, first["loc"]) if not _is_type(part))
    if first["type"] == "extra_forbidden":
        known = known_keys(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(known)}."
        return f"Unknown key `{place}` in {source}.", hint
    if first["type"] == "missing":
        return f"Key `{place}` is missing in {source}.", "Add it, or run `dgmvlc init` again."
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    # A whole section is no news; the reason names what in it does not fit together.
    got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
    where = f"`{place}` in {source}" if place else source
    return f"{where}: {reason}{got}.", "Correct the value."


def _is_type(part: str) -> bool:
    """Whether pydantic added a part to a place, to tell the types that a value could be of."""
    types = ("str", "float", "int", "bool")
    return "[" in part or part.removeprefix("constrained-") in types


def known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Legal keys of the table at `location` of dgmvlc.toml."""
    model: Any = Settings
    for part in location:
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        found = _section_of(field.annotation) if field is not None else None
        if found is None:  # a free name, such as an attribute's: its value is what counts
            continue
        model = found
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `X | None` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None
