"""The model card: what a saved generator is, what it was trained on, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dgmvlc_cli.report.words import encoder_label

if TYPE_CHECKING:
    from dgmvlc_cli.validating import Validation

NAMES = {"flow": "wavelet flow matching", "diffusion": "denoising diffusion", "gan": "pix2pix GAN"}


def model_card(plan: Mapping[str, Any], found: Validation, subjects: int, contrast: str) -> str:
    """Markdown with the metadata that the Hugging Face hub reads.

    plan: what decided the weights, as train.json holds it.  subjects: trained on.
    """
    grid = " x ".join(map(str, plan["grid"]))
    thirds = "\n".join(
        f"| {third} | {found.model_hu[third]:+.1f} | {found.observed_hu[third]:+.1f} |"
        for third in found.model_hu
    )
    return f"""---
library_name: dgmvlc
tags: [medical-imaging, chest-ct, counterfactual]
---
# Chest CT from anatomical mask and sentence, fold {plan["fold"]}

{NAMES[plan["model"]]}, fusion {plan["fusion"]}, {plan["steps"]} steps on {subjects} subjects;
grid {grid} at {plan["spacing_mm"]:g} mm; text encoder {encoder_label(plan["encoder"])}
(sha256 {plan["encoder_sha256"][:12]}); seed {plan["seed"]}. Written by dgmvlc {plan["version"]}.

## On {found.subjects} subjects that it never saw

Generated less real lung mean {found.mean_error_hu:+.1f} HU; SD between subjects
{found.sd_between:.2f} and within a lung {found.sd_within:.2f} of the real ones.

{contrast}, mean HU:

| third of the lungs | model | real scans, adjusted |
|---|---|---|
{thirds}

{found.words()[-1]}

![Held-out subjects: the scan, generated under its own sentence, and the two arms](preview.png)

## Use

To look for patterns in the cohort that it was trained on, together with the observed, debiased and
placebo effects of `dgmvlc analyze`. It has learned the accidents of its cohort: its own p-values
mean nothing. Not for diagnosis, not for any decision about a person, not as training data that is
passed for real. It may reproduce features of its training subjects: share it as you would share
their scans.

Load it with `dgmvlc_cli.generators.model.Generator.from_pretrained(FOLDER)`.
"""
