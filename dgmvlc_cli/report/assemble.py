"""From the workspace's tables and volumes to the contents of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli import mapping, workspace
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.maps import SMOOTHING_MM
from dgmvlc_cli.analysis.readings import OBSERVED
from dgmvlc_cli.cohort import (
    Cohort,
    model_grid,
    read_folds,
    subjects_with_lobes,
    trained_inputs,
)
from dgmvlc_cli.config import Settings
from dgmvlc_cli.pairs import sampler_of
from dgmvlc_cli.report.words import encoder_label
from dgmvlc_cli.validating import DEAF, Validation
from dgmvlc_cli.workspace import Workspace

FIT_REGIONS = ("lungs", "upper", "middle", "lower", "airway", "body")


def fit_table(
    measures: pd.DataFrame, levels: pd.Series, contrast: Contrast
) -> list[dict[str, Any]]:
    """Generated against real HU per fold and region, in each subject's own arm.

    measures: as measures.tsv.  levels: subject -> recorded level.  The first draw of the arm that
    says what the subject's row says is compared with the subject's real scan: means, SD between
    subjects, and mean SD within the region.  Empty for a numeric contrast, whose arms are nobody's
    own.
    """
    if contrast.numeric:
        return []
    chosen = measures["region"].isin(FIT_REGIONS) & measures["measure"].isin(("mean_hu", "sd_hu"))
    table = measures[chosen]
    level = table["subject"].map(levels)
    own = dict(zip((contrast.reference, contrast.target), contrast.arms, strict=True))
    first = pd.to_numeric(table["seed"]) == 0
    keys = ["fold", "subject", "region", "measure"]
    real = table[table["arm"] == OBSERVED].set_index(keys)["value"]
    made = table[(table["arm"] == level.map(own)) & first].set_index(keys)["value"]
    both = pd.DataFrame({"real": real, "generated": made}).dropna().unstack("measure").dropna()
    if both.empty:
        return []
    flat = pd.DataFrame(
        {
            "real": both["real", "mean_hu"],
            "generated": both["generated", "mean_hu"],
            "real_within": both["real", "sd_hu"],
            "generated_within": both["generated", "sd_hu"],
        }
    ).reset_index()
    return [_fit_row(part) for _, part in flat.groupby(["fold", "region"])]


def _fit_row(part: pd.DataFrame) -> dict[str, Any]:
    """Means over the subjects of one fold and region."""
    return {
        "fold": int(part["fold"].iloc[0]),
        "region": str(part["region"].iloc[0]),
        "real_mean_hu": float(part["real"].mean()),
        "generated_mean_hu": float(part["generated"].mean()),
        "real_sd_between": float(part["real"].std()),
        "generated_sd_between": float(part["generated"].std()),
        "real_sd_within": float(part["real_within"].mean()),
        "generated_sd_within": float(part["generated_within"].mean()),
    }


def cohort_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Attribute, coverage and levels, from the summary that `describe` wrote."""
    rows = []
    for name, facts in record["summary"].items():
        levels = facts.get("levels") or _range(facts)
        coverage = facts["present"] / max(facts["n"], 1)
        rows.append({"attribute": name, "coverage": coverage, "levels": levels})
    return rows


def _range(facts: Mapping[str, Any]) -> str:
    if "median" not in facts:
        return ""
    low, middle, high = (f"{facts[key]:g}" for key in ("min", "median", "max"))
    return f"median {middle}, {low} to {high} {facts['unit']}".strip()


def counts(subjects: pd.DataFrame, cohort: Cohort, used: int) -> dict[str, int]:
    """The flow of subjects through the study."""
    return {
        "found": len(subjects),
        "ok": int((subjects["status"] == "ok").sum()),
        "failed": int((subjects["status"] == "failed").sum()),
        "excluded": int((subjects["status"] == "ok").sum()) - len(cohort.rows),
        "used": used,
    }


def failures(subjects: pd.DataFrame) -> list[dict[str, str]]:
    failed = subjects[subjects["status"] == "failed"]
    return [{"subject": str(r.subject), "reason": str(r.reason)} for r in failed.itertuples()]


def trained_folds(ws: Workspace, model: str) -> list[int]:
    """The folds that were trained, whatever the settings say now."""
    return sorted(map(int, read_folds(ws, model).unique()))


def training_logs(ws: Workspace, model: str) -> dict[int, pd.DataFrame]:
    paths = {fold: ws.fold(model, fold) / "train.tsv" for fold in trained_folds(ws, model)}
    return {fold: workspace.read_table(path) for fold, path in paths.items() if path.exists()}


def methods_facts(
    ws: Workspace,
    settings: Settings,
    cohort: Cohort,
    subjects: pd.DataFrame,
    pairs: pd.DataFrame,
    contrast: Contrast,
    covariates: Sequence[str],
    left_out: Sequence[str],
    maps: mapping.Maps,
) -> dict[str, dict[str, Any]]:
    """What each stage that ran did, for the methods prose.

    covariates, left_out: see `contrasts.usable`.
    """
    plan = trained_inputs(ws, settings.train.model, 0)
    grid, spacing_mm = model_grid(ws, settings.train.model)
    facts: dict[str, dict[str, Any]] = {
        "preprocess": {
            "subjects": int((subjects["status"] == "ok").sum()),
            "spacing_mm": spacing_mm,
            "shape": list(grid),
            "mask": _mask_source(prepared_inputs(ws, cohort)),
            **lobe_facts(subjects, cohort),
        },
        "describe": {
            "encoder": encoder_label(plan["encoder"]),
            "attributes": cohort.schema.names("condition", "covariate"),
            "placebos": len(cohort.words),
        },
        "train": {
            "model": settings.train.model,
            **{key: plan[key] for key in ("fusion", "steps", "batch_size", "wavelet_levels")},
            "level": plan["fusion"] != "none" and not plan["paper"],
            "folds": len(trained_folds(ws, settings.train.model)),
            "text_dropout": plan["text_dropout"],
        },
        "counterfactual": {
            "mode": f"from the {settings.counterfactual.source}",
            "steps": int(pairs["steps"].iloc[0]),
            "sampler": sampler_of(pairs),
            "seeds": int(pairs["seed"].nunique()),
            "guidance_scale": float(pairs["guidance_scale"].iloc[0]),
            "pairs": len(pairs),
        },
        "analyze": {
            "covariates": list(covariates),
            "left_out": list(left_out),
            "estimand": _estimand(contrast),
            "helped": settings.counterfactual.source == "mask",
            "standard_errors": "HC3",
            "adjustment": "Benjamini-Hochberg",
            **map_facts(maps),
        },
    }
    return {**_known_truth(ws, settings), **facts}


def map_facts(maps: mapping.Maps) -> dict[str, Any]:
    """How the maps that could be made were tested; few subjects have fewer flips than asked for."""
    model, observed = (maps.group.get(name) for name in (mapping.MODEL, mapping.OBSERVED))
    facts: dict[str, Any] = {"map_smoothing_mm": SMOOTHING_MM}
    if model is not None:
        facts |= {"map_flips": model.flips, "map_tfce_flips": model.tfce_flips or None}
    if observed is not None:
        facts["map_permutations"] = observed.flips
    return facts


def _estimand(contrast: Contrast) -> str:
    """What the debiased effect is an average of: see `debias.debias`."""
    if contrast.joint:
        return "none"
    return "slope" if contrast.numeric else "overlap"


def prepared_inputs(ws: Workspace, cohort: Cohort) -> dict[str, Any]:
    """How the scans were prepared, as their sidecars hold it: all in the same way."""
    return (workspace.read_json(ws.sidecar_path(cohort.subjects[0])) or {}).get("inputs", {})


def _mask_source(prepared: Mapping[str, Any]) -> str | None:
    if prepared.get("mask_sha256"):
        return "given"
    return str(prepared["segmenter"]).replace("builtin", "built-in") if prepared else None


def lobe_facts(subjects: pd.DataFrame, cohort: Cohort) -> dict[str, int]:
    """How many subjects of the cohort have lobes, and of how many; empty where none has."""
    told = len(set(subjects_with_lobes(subjects)) & set(cohort.subjects))
    return {"lobes": told, "lobes_of": len(cohort.subjects)} if told else {}


def phantom_record(ws: Workspace, settings: Settings) -> dict[str, Any] | None:
    """What phantom.json beside the scans says; None where the scans are no synthetic cohort."""
    beside: Path = (ws.root / settings.scans.path).resolve().parent / "phantom.json"
    return workspace.read_json(beside)


def _known_truth(ws: Workspace, settings: Settings) -> dict[str, dict[str, Any]]:
    """What was planted in the scans, or the settings of the synthetic cohort that they are."""
    if planted := workspace.read_json(ws.plant_path):
        facts: dict[str, Any] = {key: planted["inputs"][key] for key in ("effect_hu", "region")}
        return {"plant": {**facts, "carriers": len(planted["carriers"])}}
    if record := phantom_record(ws, settings):
        facts = {key: record["settings"][key] for key in ("subjects", "spacing_mm", "null")}
        return {"phantom": facts}
    return {}


def calibration_sentence(fit: list[dict[str, Any]]) -> list[str]:
    """How well the generated lungs are calibrated, in one sentence; none without a fit.

    A fold with one subject in its own arm has no SD between subjects, and does not count there.
    """
    lungs = pd.DataFrame([row for row in fit if row["region"] == "lungs"])
    if lungs.empty:
        return []
    made, real = lungs["generated_mean_hu"].mean(), lungs["real_mean_hu"].mean()
    spread = [
        f"{ratio:.2f} times as much {where}"
        for kind, where in (("within", "within a lung"), ("between", "between subjects"))
        if np.isfinite(ratio := (lungs[f"generated_sd_{kind}"] / lungs[f"real_sd_{kind}"]).mean())
    ]
    vary = f"; they vary {' and '.join(spread)} as real ones" if spread else ""
    return [
        f"In the arm of their own level, generated lungs have a mean of {made:.0f} HU (real scans "
        f"{real:.0f} HU){vary}."
    ]


def scan_rows(subjects: pd.DataFrame, used: list[str]) -> list[dict[str, Any]]:
    """What preprocessing found in each scan of the cohort, for `ReportContents.scans`.

    subjects: subjects.tsv as text.  slice_mm: the scan's own spacing along z.
    """
    known = subjects.set_index("subject").reindex(used)
    spacing = known["source_spacing_mm"].str.partition("x")[0]
    numbers = {
        "slice_mm": spacing,
        "lung_volume_ml": known["lung_volume_ml"],
        "mean_lung_hu": known["mean_lung_hu"],
    }
    table = pd.DataFrame({name: pd.to_numeric(values) for name, values in numbers.items()})
    table.insert(0, "flags", known["warnings"].fillna(""))
    return [dict(zip(("subject", *table), row, strict=True)) for row in table.itertuples()]


def obedience_sentence(ws: Workspace, model: str) -> list[str]:
    """How much of the observed association the models reproduce on subjects they never saw.

    Of the study's own contrast; none where no fold was checked.
    """
    paths = [ws.validation_path(model, fold) for fold in trained_folds(ws, model)]
    records = [workspace.read_json(path) for path in paths]
    found = [Validation(**one["validation"]) for one in records if one]
    if not found:
        return []
    if not any(one.detectable for one in found):
        return [
            "On held-out subjects there was no clear association in the real scans that the models "
            "could have reproduced."
        ]
    shares = " and ".join(f"{100 * one.obedience:.0f} %" for one in found)
    said = f"On held-out subjects the models reproduce {shares} of what the real scans show"
    if any(one.detectable and one.obedience < DEAF for one in found):
        said += ": they ignore their sentence, and the model-implied effects mean little"
    return [f"{said}."]


TRAINED = (
    "model", "fusion", "steps", "batch_size", "learning_rate", "text_dropout", "rewordings",
    "seed", "grid", "spacing_mm", "wavelet_levels", "widths", "encoder",
)  # fmt: skip
SAMPLED = ("steps", "sampler", "guidance_scale", "source")


def chosen_settings(settings: Settings) -> dict[str, Any]:
    """The settings as JSON, without the schema, and without paths and ids, which name people."""
    private: Any = {
        "scans": {"path", "masks", "key", "choose"},
        "table": {"path"},
        "study": {"text_encoder"},
        "analyze": {"truth"},
    }
    return settings.model_dump(
        mode="json", by_alias=True, exclude={"table_schema": True, **private}
    )


def provenance(
    ws: Workspace,
    settings: Settings,
    cohort: Cohort,
    pairs: pd.DataFrame,
    seconds: float,
    lobes: Mapping[str, int],
) -> dict[str, Any]:
    """Versions, seeds, hashes and settings: what is needed to do it again.

    Scans, models and pairs are told as they were made, whatever dgmvlc.toml or the options say by
    now.  lobes: as `lobe_facts`.
    """
    plan = trained_inputs(ws, settings.train.model, 0)
    chosen = chosen_settings(settings)
    prepared = prepared_inputs(ws, cohort)
    chosen["scans"] |= {name: prepared[name] for name in chosen["scans"] if name in prepared}
    chosen["train"] = {name: plan[name] for name in TRAINED}
    chosen["train"] |= {
        "folds": len(trained_folds(ws, settings.train.model)),
        "encoder": encoder_label(plan["encoder"]),
    }
    (first,) = pairs.head(1).dropna(axis=1).to_dict("records")
    chosen["counterfactual"] = {name: first[name] for name in SAMPLED if name in first}
    chosen["counterfactual"]["seeds"] = int(pairs["seed"].nunique())
    models = pairs.groupby("fold")["model_sha256"].first()
    return {
        "versions": workspace.versions(),
        "command": workspace.command_line(),
        "seed": settings.seed,
        "model_sha256": {f"fold {fold}": sha256 for fold, sha256 in models.items()},
        "seconds": round(seconds, 1),
        **({"lobes": "{lobes} of {lobes_of} subjects".format(**lobes)} if lobes else {}),
        "settings": chosen,
    }
