"""From the workspace's tables and volumes to the contents of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.analysis.contrasts import Contrast
from dgmvlc_cli.analysis.zones import regions
from dgmvlc_cli.cohort import Cohort, model_grid
from dgmvlc_cli.config import Settings
from dgmvlc_cli.generators.grid import place
from dgmvlc_cli.imaging.volume import read_labels, read_volume
from dgmvlc_cli.report.contents import Pair
from dgmvlc_cli.workspace import Workspace

FIT_REGIONS = ("lungs", "upper", "middle", "lower", "airway", "body")


def load_pairs(ws: Workspace, settings: Settings, pairs: pd.DataFrame) -> list[Pair]:
    """The first draw of every pair, with the real scan, on the generator's grid."""
    grid, spacing_mm = model_grid(ws, settings.train.model)
    loaded = []
    for row in pairs[pairs["seed"] == 0].itertuples(index=False):
        subject = str(row.subject)
        scan, mask = read_volume(ws.ct_path(subject)), read_labels(ws.mask_path(subject))
        real, labels = place(scan, mask, grid, spacing_mm)
        loaded.append(
            Pair(
                subject=subject,
                reference_hu=read_volume(ws.root / str(row.reference_path)).hu,
                target_hu=read_volume(ws.root / str(row.target_path)).hu,
                real_hu=real.hu,
                labels=labels,
                spacing_mm=real.spacing_mm,
                reference_sentence=str(row.reference_sentence),
                target_sentence=str(row.target_sentence),
            )
        )
    return loaded


def fit_table(
    pairs: list[Pair], folds: pd.Series, levels: pd.Series, contrast: Contrast
) -> list[dict[str, Any]]:
    """Generated against real HU per fold and region, in each subject's own arm.

    The arm that says what the subject's row says is compared with the subject's real scan:
    means, SD between subjects, and mean SD within the region.  Empty for a numeric contrast,
    whose arms are nobody's own.
    """
    rows = []
    for pair in pairs:
        level = levels.get(pair.subject)
        generated = {contrast.reference: pair.reference_hu, contrast.target: pair.target_hu}
        if level not in generated or pair.real_hu is None:
            continue
        for region, mask in regions(pair.labels, pair.spacing_mm, FIT_REGIONS).items():
            if mask.any():
                real, made = pair.real_hu[mask], generated[level][mask]
                rows.append(
                    {
                        "fold": int(folds[pair.subject]), "region": region,
                        "real": real.mean(), "generated": made.mean(),
                        "real_within": real.std(), "generated_within": made.std(),
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    if table.empty or contrast.numeric:
        return []
    return [_fit_row(part) for _, part in table.groupby(["fold", "region"])]


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


def training_logs(ws: Workspace, model: str, folds: int) -> dict[int, pd.DataFrame]:
    paths = {fold: ws.fold(model, fold) / "train.tsv" for fold in range(folds)}
    return {fold: workspace.read_table(path) for fold, path in paths.items() if path.exists()}


def methods_facts(
    ws: Workspace,
    settings: Settings,
    cohort: Cohort,
    subjects: pd.DataFrame,
    pairs: pd.DataFrame,
    covariates: list[str],
) -> dict[str, dict[str, Any]]:
    """What each stage that ran did, for the methods prose."""
    plan = (workspace.read_json(ws.fold(settings.train.model, 0) / "train.json") or {})["inputs"]
    grid, spacing_mm = model_grid(ws, settings.train.model)
    facts = {
        "preprocess": {
            "subjects": int((subjects["status"] == "ok").sum()),
            "spacing_mm": spacing_mm,
            "shape": list(grid),
            "mask": "given" if settings.scans.masks else "built-in",
        },
        "describe": {
            "encoder": plan["encoder"],
            "attributes": cohort.schema.names("condition", "covariate"),
            "placebos": len(cohort.words),
        },
        "train": {
            "model": settings.train.model,
            **{key: plan[key] for key in ("fusion", "steps", "batch_size", "wavelet_levels")},
            "folds": settings.train.folds,
            "text_dropout": plan["text_dropout"],
        },
        "counterfactual": {
            "mode": f"from the {settings.counterfactual.source}",
            "steps": int(pairs["steps"].iloc[0]),
            "seeds": int(pairs["seed"].nunique()),
            "guidance_scale": float(pairs["guidance_scale"].iloc[0]),
            "pairs": len(pairs),
        },
        "analyze": {
            "covariates": covariates,
            "estimand": "overlap",
            "standard_errors": "HC3",
            "adjustment": "Benjamini-Hochberg",
        },
    }
    phantom = _phantom_facts(ws, settings)
    return {**({"phantom": phantom} if phantom else {}), **facts}


def _phantom_facts(ws: Workspace, settings: Settings) -> dict[str, Any] | None:
    """Settings of the synthetic cohort, where the scans are one."""
    beside: Path = (ws.root / settings.scans.path).resolve().parent / "phantom.json"
    record = workspace.read_json(beside)
    if not record:
        return None
    return {key: record["settings"][key] for key in ("subjects", "spacing_mm", "null")}


def calibration_sentence(fit: list[dict[str, Any]]) -> list[str]:
    """How well the generated lungs are calibrated, in one sentence; none without a fit."""
    lungs = [row for row in fit if row["region"] == "lungs"]
    if not lungs:
        return []
    made, real = (
        np.mean([row[f"{kind}_mean_hu"] for row in lungs]) for kind in ("generated", "real")
    )
    within, between = (
        np.mean([row[f"generated_sd_{kind}"] / row[f"real_sd_{kind}"] for row in lungs])
        for kind in ("within", "between")
    )
    return [
        f"In the arm of their own level, generated lungs have a mean of {made:.0f} HU (real scans "
        f"{real:.0f} HU); they vary {within:.2f} times as much within a lung, and {between:.2f} "
        "times as much between subjects, as real ones."
    ]


def provenance(settings: Settings, pairs: pd.DataFrame, seconds: float) -> dict[str, Any]:
    """Versions, seeds, hashes and settings: what is needed to do it again."""
    models = pairs.groupby("fold")["model_sha256"].first()
    return {
        "versions": workspace.versions(),
        "command": workspace.command_line(),
        "seed": settings.seed,
        "model_sha256": {f"fold {fold}": sha256 for fold, sha256 in models.items()},
        "seconds": round(seconds, 1),
        "settings": settings.model_dump(mode="json", by_alias=True, exclude={"table_schema"}),
    }
