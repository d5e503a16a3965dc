"""Methods prose from the stages that ran; `references` holds what it cites.

Every sentence names a fact of `ReportContents.methods`; what a stage did not record is not
claimed.  Known facts, all optional:

phantom         subjects, spacing_mm, null
plant           effect_hu, region, carriers (their number)
preprocess      subjects, spacing_mm (z, y, x) or one number, shape (z, y, x), mask,
                lobes (subjects that have them), lobes_of (subjects in all)
describe        encoder, attributes, placebos (their number)
train           model (flow | diffusion | gan), fusion, steps, folds, batch_size, parameters,
                wavelet_levels, low_pass_weight, time_shift, ema_decay, text_dropout
counterfactual  mode (from the mask | from the scan), steps, sampler, seeds, guidance_scale, pairs
analyze         covariates, left_out (those that could not be adjusted for),
                estimand (overlap | slope, of a number | none, of a joint edit), standard_errors,
                adjustment, confidence, map_flips, map_tfce_flips,
                map_permutations, map_smoothing_mm
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dgmvlc_cli.analysis.contrasts import MIN_SUBJECTS, not_adjusted
from dgmvlc_cli.analysis.debias import CLIP, FOLDS, SPLITS
from dgmvlc_cli.analysis.mixed import FEW_FOLDS
from dgmvlc_cli.analysis.placebos import calibration_words
from dgmvlc_cli.report.contents import ReportContents
from dgmvlc_cli.report.references import REFERENCES, cite, cited
from dgmvlc_cli.report.words import FOLDER, attribute_label, number, region_label

Facts = Mapping[str, Any]


TFCE = "threshold-free cluster enhancement [smith2009]"

GENERATORS = {
    "flow": "a flow-matching model [lipman2023] with EDM-style preconditioning [karras2022]",
    "diffusion": "a denoising diffusion model [xing2024]",
    "gan": "a conditional generative adversarial network [xing2024]",
}


def describe_methods(contents: ReportContents) -> list[tuple[str, str]]:
    """(heading, paragraph) of each stage that ran, in the order of the pipeline.

    Citations stand as [key] or [key, key] of REFERENCES; `cited` and `cite` resolve them.
    """
    return [
        (heading, " ".join(sentences))
        for stage, (heading, describe) in STAGES.items()
        if stage in contents.methods
        and (sentences := list(describe(contents.methods[stage], contents)))
    ]


def methods_markdown(contents: ReportContents) -> str:
    """The methods section to paste into a paper, with its references."""
    paragraphs = describe_methods(contents)
    lines = ["# Methods", ""]
    for heading, text in paragraphs:
        lines += [f"## {heading}", "", cite(text, _by_name), ""]
    lines += ["## References", ""]
    lines += [f"- {REFERENCES[key].full} <{REFERENCES[key].url}>" for key in cited(paragraphs)]
    return "\n".join(lines) + "\n"


def _by_name(keys: list[str]) -> str:
    return f"({'; '.join(REFERENCES[key].short for key in keys)})"


def _phantom(facts: Facts, contents: ReportContents) -> Iterable[str]:
    yield (
        f"The cohort is synthetic{_of(facts, 'subjects', ': {} subjects')}, rendered by the "
        "toolkit's phantom from a random thorax and a clinical table with confounding and missing "
        "values."
    )
    if facts.get("null"):
        yield "No effect was planted: whatever is claimed here would be false."
    else:
        yield "The exact change of every measure is known from rendering each subject twice."


def _plant(facts: Facts, contents: ReportContents) -> Iterable[str]:
    yield (
        f"A known change of {facts['effect_hu']:+g} HU was planted into every voxel of one region "
        f"({region_label(facts['region']).lower()}) in the scans of a random half of the subjects"
        f"{_of(facts, 'carriers', ' ({})')}, who are told apart by an attribute without any other "
        "meaning. The exact change of every measure is known from measuring each scan with and "
        "without it."
    )


def _preprocess(facts: Facts, contents: ReportContents) -> Iterable[str]:
    yield (
        f"CT scans{_of(facts, 'subjects', ' of {} subjects')} were oriented to left, posterior, "
        f"superior{_of(facts, 'spacing_mm', ', resampled to {} mm')} and cropped to the lungs"
        f"{_of(facts, 'shape', ' ({} voxels)')}; Hounsfield units were kept."
    )
    if facts.get("mask"):
        yield f"The mask of right lung, left lung, airway and body was {_mask(facts['mask'])}."
    if facts.get("lobes"):
        yield _lobes(facts)


def _mask(kind: str) -> str:
    built_in = "found by the toolkit's built-in thresholding and region growing"
    return {"built-in": built_in, "builtin": built_in, "given": "given with the scans"}.get(
        kind, f"taken from {kind}"
    )


def _lobes(facts: Facts) -> str:
    lobes, of = facts["lobes"], facts.get("lobes_of")
    if of in (None, lobes):
        return "It tells lobes too, which are regions of their own."
    return (
        f"It tells lobes of {_written(lobes)} of {_written(of)} subjects; the others have "
        "no value in these regions."
    )


def _describe(facts: Facts, contents: ReportContents) -> Iterable[str]:
    yield (
        "Each row of the clinical table was written as a sentence"
        f"{_of(facts, 'attributes', ' of {}')} [xing2024]; missing and implausible entries were "
        "left out of it."
    )
    if "encoder" in facts:
        source = " [wang2020]" if "minilm" in str(facts["encoder"]).lower() else ""
        yield (
            f"The sentences were embedded by {_encoder(str(facts['encoder']))}{source}; "
            "a linear reading of the embedding, learned on practice sentences recombined from the "
            "table without any image, conditions the generator."
        )
    if facts.get("placebos"):
        yield (
            f"{_count(facts['placebos'])} placebo attributes without meaning rode along in every "
            f"sentence: shuffled copies of {attribute_label(contents.attribute)}, their levels "
            "renamed by neutral words."
        )


def _encoder(name: str) -> str:
    if name.endswith(FOLDER):
        return "a frozen text encoder of the user's own"
    return f"the frozen text encoder {name}"


def _train(facts: Facts, contents: ReportContents) -> Iterable[str]:
    model = str(facts.get("model", "flow"))
    yield (
        f"The generator is {GENERATORS.get(model, model)}{_of(facts, 'parameters', ', {} weights')}"
        ", conditioned on the mask, which is stacked with the noisy image, and on the sentence"
        f"{_fusion(facts)}."
    )
    yield "HU were standardised within each class of the mask, which can be undone exactly."
    if facts.get("level"):
        yield (
            "What the sentence implies for the density of the lungs, by height, was fitted first, "
            "by regression with automatic relevance determination [mackay1992]; the network "
            "generates what is left, and takes differences between subjects that no sentence "
            "explains from the noise."
        )
    if facts.get("wavelet_levels"):
        yield (
            f"It works on Haar wavelet coefficients ({_count(facts['wavelet_levels']).lower()} "
            f"level) [friedrich2024]{_of(facts, 'low_pass_weight', ', low-pass weight {}')}."
        )
    if "time_shift" in facts:
        yield f"Training times were shifted towards noise ({facts['time_shift']})."
    if "folds" in facts:
        yield (
            f"{_count(facts['folds'])} models were trained, each on the other folds' subjects"
            f"{_of(facts, 'steps', ', {} steps each')}{_of(facts, 'batch_size', ', batch size {}')}"
            f"{_of(facts, 'ema_decay', ', with averaged weights (decay {})')}"
            f"{_dropout(facts)}."
        )


def _dropout(facts: Facts) -> str:
    share = facts.get("text_dropout")
    return f", the sentence dropped in {100 * share:g} % of the steps" if share else ""


def _fusion(facts: Facts) -> str:
    ways = {
        "affine": " by per-channel scale and shift [perez2018]",
        "cross-attention": " by cross-attention [vaswani2017]",
        "both": " by per-channel scale and shift [perez2018] and by cross-attention [vaswani2017]",
        "none": " not at all",
    }
    return ways.get(str(facts.get("fusion")), "")


def _counterfactual(facts: Facts, contents: ReportContents) -> Iterable[str]:
    reference, target = contents.levels
    yield (
        f"For every held-out subject{_whose(contents)} two images were made"
        f"{_of(facts, 'mode', ' {}')}, under the "
        f"sentence with {attribute_label(contents.attribute)} set to {reference} and to {target}, "
        "entries that depend on it changed by rule, with the same mask and the same noise."
    )
    yield (
        f"Sampling took {facts.get('steps', 'the set number of')} steps{_sampler(facts)}"
        f"{_of(facts, 'seeds', ', noise seeds per subject: {}')}, guidance scale "
        f"{number(contents.guidance_scale)}{_of(facts, 'pairs', ', {} pairs in all')}."
    )


def _whose(contents: ReportContents) -> str:
    """Whose pairs are counted: see `contrasts.informing`."""
    known = f" whose {attribute_label(contents.attribute)} is known"
    ways = {"overlap": " at either level", "slope": known}
    return ways.get(contents.methods.get("analyze", {}).get("estimand", ""), "")


def _sampler(facts: Facts) -> str:
    names = {
        "ddim": " of DDIM [song2021]",
        "ddpm": " of DDPM [ho2020], whose fresh noise the two images share",
        "dpm-solver": " of DPM-Solver++ [lu2022]",
    }
    return names.get(str(facts.get("sampler")), "")


def _analyze(facts: Facts, contents: ReportContents) -> Iterable[str]:
    yield (
        "Every measure was taken in both arms and in the real scans, region by region. The "
        "model-implied effect is the mean paired difference over subjects, with a t interval; "
        "beside it stands a mixed model (REML) in which the trainings are a sample too."
    )
    if contents.methods.get("train", {}).get("folds") == FEW_FOLDS:
        yield (
            "With two trainings the mixed model's 95 % interval is too narrow (in simulation it "
            "holds the truth in about 88 % of samples): it is shown for the spread between the "
            "trainings only."
        )
    if facts.get("estimand") == "none":
        yield (
            "Nobody in the table stands for these edits as a group, so that there is no observed "
            "and no debiased effect."
        )
    else:
        yield from _real_scans(facts)
        yield (
            "For every placebo attribute the model-implied and the debiased effect were estimated "
            "in the same way, from the same models; the observed association and the mixed model "
            "were not."
        )
    if contents.placebo_words:
        how = calibration_words(len(contents.placebo_words))
        yield f"The model-implied effect was judged {how}."
    if "adjustment" in facts:
        source = " [benjamini1995]" if "Benjamini" in str(facts["adjustment"]) else ""
        yield (
            f"p-values were adjusted ({facts['adjustment']}{source}) over all measures and lung "
            "regions of one kind of effect and one contrast; control regions make a family of "
            "their own, and so does each of the further statistics of the pairs."
        )
    if "map_flips" in facts:
        yield from _map_sentences(facts)


def _real_scans(facts: Facts) -> Iterable[str]:
    """The observed association and the debiased effect."""
    covariates = facts.get("covariates", ())
    errors = " [mackinnon1985]" if "HC3" in str(facts.get("standard_errors", "")) else ""
    yield (
        "The observed association is a linear regression on the real scans"
        f"{' adjusted for ' + _listed(covariates) if covariates else ''}"
        f"{_of(facts, 'standard_errors', ', {} standard errors')}{errors}."
    )
    yield from (
        f"The real scans {why}."
        for why in not_adjusted(map(attribute_label, facts.get("left_out", ())))
    )
    if covariates:
        yield (
            "A missing covariate became the mean (of a number) or the most frequent level, with an "
            f"indicator column where at least {MIN_SUBJECTS} subjects lack it; the adjustment is "
            "incomplete for them."
        )
    numeric = facts.get("estimand") == "slope"
    yield f"The debiased effect is {_estimator(facts)}; {_help(facts)}."
    yield (
        "For all measures but volume it is adjusted for the logarithm of lung volume too, which "
        "the images of a pair share; the observed association is not, and is a total one."
    )
    propensity = (
        "the attribute's mean given the covariates a ridge-penalised linear regression"
        if numeric
        else "the propensity a ridge-penalised logistic regression (multinomial for several "
        f"levels) clipped at {CLIP:g}"
    )
    yield (
        f"The outcome model is linear in the covariates, {propensity}, both cross-fitted "
        f"{FOLDS}-fold; the median over {_count(SPLITS).lower()} random divisions is reported. "
        "Confounding that is curved in a covariate is not fully removed."
    )


def _estimator(facts: Facts) -> str:
    if facts.get("estimand") == "slope":
        return (
            "the slope of a partially linear model, by cross-fitted regression of residual on "
            "residual [robinson1988, chernozhukov2018]"
        )
    weights = ", with overlap weights [li2018]" if facts.get("estimand") == "overlap" else ""
    return (
        "cross-fitted augmented inverse-probability weighting "
        f"[robins1994, chernozhukov2018]{weights}"
    )


def _help(facts: Facts) -> str:
    if facts.get("helped", True):
        return (
            "the generator's out-of-fold prediction helps the outcome regression and never "
            "replaces it"
        )
    return "the generator has no part in it, since its arms were made from the scan itself"


def _map_sentences(facts: Facts) -> Iterable[str]:
    yield (
        "For the maps each subject's images were read in lung-relative coordinates (fractions of "
        "the lungs' height and depth, and across each lung)"
        f"{_of(facts, 'map_smoothing_mm', ', smoothed within the lung by {} mm')}; no image was "
        "registered to another."
    )
    yield (
        f"Over the pairs, {_written(facts['map_flips'])} sign flips of whole subjects gave "
        "p-values that hold over all cells together, by the maximum statistic [nichols2002]"
        f"{_of(facts, 'map_tfce_flips', ' and, with {} flips, by ' + TFCE)}."
    )
    if facts.get("map_permutations"):
        yield (
            "The map of the real scans is a regression in every cell adjusted for the same "
            f"covariates, with {_written(facts['map_permutations'])} permutations of its residuals "
            "[winkler2014] and, since groups may differ in size and spread, a t with HC3 standard "
            "errors in each of them [diciccio2017]."
        )


STAGES: dict[str, tuple[str, Callable[[Facts, ReportContents], Iterable[str]]]] = {
    "phantom": ("Phantom", _phantom),
    "plant": ("Planted control", _plant),
    "preprocess": ("Scans", _preprocess),
    "describe": ("Sentences", _describe),
    "train": ("Generator", _train),
    "counterfactual": ("Counterfactual pairs", _counterfactual),
    "analyze": ("Effects", _analyze),
}


def _of(facts: Facts, key: str, template: str) -> str:
    """The template with the fact in it, or nothing where the fact is not known."""
    value = facts.get(key)
    return "" if value in (None, [], ()) else template.format(_written(value))


def _written(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        same = len(set(value)) == 1 and isinstance(value[0], float)
        return _written(value[0]) if same else " × ".join(_written(v) for v in value)
    return _listed(value) if isinstance(value, (list, tuple)) else str(value)


def _listed(values: Iterable[Any]) -> str:
    *first, last = [attribute_label(str(value)) for value in values]
    return f"{', '.join(first)} and {last}" if first else last


def _count(value: Any) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return words[int(value)] if 0 <= int(value) < len(words) else str(value)
