"""The check that ends the training of a fold: held-out calibration and obedience, a model card."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dgmvlc_cli import workspace
from dgmvlc_cli.config import Settings
from dgmvlc_cli.counting import counted
from dgmvlc_cli.stages.base import Run
from dgmvlc_cli.workspace import Workspace

if TYPE_CHECKING:
    from dgmvlc_cli.analysis.contrasts import Contrast
    from dgmvlc_cli.cohort import Cohort
    from dgmvlc_cli.text.encoders import Encoder
    from dgmvlc_cli.validating import HeldOut, Made, Validation


PREVIEWED = 3
LEAST_CHECKED = 4  # subjects: of fewer, spread and slope mean nothing


@dataclass
class Checks:
    """Checks the models of all folds on the subjects that each of them never saw.

    folds: subject -> fold.  images: HU and labels, (n, D, H, W).  embeddings: (n, E) of the
    subjects' own sentences.
    """

    ws: Workspace
    settings: Settings
    cohort: Cohort
    folds: pd.Series
    images: tuple[np.ndarray, np.ndarray]
    embeddings: np.ndarray
    encoder: Encoder

    def words(self, fold: int, run: Run) -> list[str]:
        """What validation found, in words; validated anew unless it was asked the same before."""
        from dgmvlc_cli.validating import Validation

        path = self.ws.validation_path(self.settings.train.model, fold)
        asked = workspace.plain(self._asked(fold))
        record: dict[str, Any] = workspace.read_json(path) or {}
        if any(record.get(name) != value for name, value in asked.items()):
            run.reporter.note(f"fold {fold}: checking it on held-out subjects")
            held = self._held_out(fold)
            if len(held.subjects) < LEAST_CHECKED:
                able = counted(len(held.subjects), "held-out subject")
                return [f"not checked: only {able} can be asked {self.contrast.text}"]
            found, made = self._validate(fold, held)
            workspace.write_json(path, {**asked, "validation": found.facts()})
            self._write_card(fold, found)
            self._write_preview(fold, held, made)
            return found.words()
        return Validation(**record["validation"]).words()

    def _asked(self, fold: int) -> dict[str, Any]:
        """What a validation depends on."""
        weights = self.ws.weights(self.settings.train.model, fold)
        return {
            "weights_sha256": workspace.sha256_files(list(weights)),
            "contrast": self.contrast.text,
            "covariates": self._covariates,
            "steps": self.settings.counterfactual.steps,
            "sampler": self.settings.sampler,
            "seed": self.settings.seed,
        }

    @cached_property
    def _covariates(self) -> list[str]:
        from dgmvlc_cli.cohort import covariates

        return covariates(self.settings, self.cohort, self.contrast)

    def _validate(self, fold: int, held: HeldOut) -> tuple[Validation, Made]:
        from dgmvlc_cli.generators.model import Generator
        from dgmvlc_cli.validating import validate

        folder = self.ws.fold(self.settings.train.model, fold)
        generator = Generator.from_pretrained(folder, self.settings.sampler)
        return validate(
            generator,
            held,
            self._scans,
            self.cohort.design,
            self.contrast,
            self._covariates,
            steps=self.settings.counterfactual.steps,
            seed=self.settings.seed,
        )

    @cached_property
    def contrast(self) -> Contrast:
        """The study's contrast; of a number without one, its lower to its upper quartile."""
        from dgmvlc_cli.cohort import study_contrast

        study, name = self.settings.study, self.cohort.studied
        unsaid = study.reference is None or study.target is None
        if unsaid and self.cohort.schema.attribute(name).is_numeric:
            low, high = self.cohort.rows[name].quantile([0.25, 0.75])
            return study_contrast(self.settings, self.cohort, name, low, high)
        return study_contrast(self.settings, self.cohort, None, None, None)

    @cached_property
    def _scans(self) -> pd.DataFrame:
        from dgmvlc_cli.validating import scan_rows

        hu, labels = self.images
        return scan_rows(self.cohort.subjects, hu, labels, self.settings.preset.spacing_mm)

    def _held_out(self, fold: int) -> HeldOut:
        from dgmvlc_cli.pairs import possible_arms
        from dgmvlc_cli.text.encoders import encode_cached
        from dgmvlc_cli.validating import MAXIMUM_SUBJECTS, HeldOut

        held = np.flatnonzero((self.folds == fold).to_numpy()).tolist()
        names = self.cohort.subjects
        able = (
            (place, arms)
            for place in held
            if (arms := possible_arms(self.cohort, names[place], self.contrast))
        )
        chosen = dict(islice(able, MAXIMUM_SUBJECTS))
        index, subjects = list(chosen), [names[place] for place in chosen]
        said = [text for arms in chosen.values() for text in arms]
        encoded = encode_cached(self.encoder, said, self.ws.text / "embeddings.npz")
        hu, labels = self.images
        return HeldOut(
            subjects=subjects,
            hu=hu[index],
            labels=labels[index],
            factual=self.embeddings[index],
            arms=encoded.reshape(len(subjects), 2, -1),
        )

    def _write_preview(self, fold: int, held: HeldOut, made: Made) -> None:
        from dgmvlc_cli.report.preview import preview

        shown = slice(PREVIEWED)
        png = preview(
            held.subjects[shown],
            held.hu[shown],
            made.factual[shown],
            made.arms[shown],
            held.labels[shown],
            self.contrast.levels,
        )
        path = self.ws.fold(self.settings.train.model, fold) / "preview.png"
        workspace.write_bytes(path, png)

    def _write_card(self, fold: int, found: Validation) -> None:
        from dgmvlc_cli.cohort import trained_inputs
        from dgmvlc_cli.report.card import model_card

        name = self.settings.train.model
        trained = trained_inputs(self.ws, name, fold)
        card = model_card(trained, found, int((self.folds != fold).sum()), self.contrast.text)
        workspace.write_text(self.ws.fold(name, fold) / "README.md", card)
