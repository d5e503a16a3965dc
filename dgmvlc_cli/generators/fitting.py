"""What a fold's model is given before it learns: plan, data as tensors, and what is fitted first.

Standardisation, the reading of the text, the level that a sentence implies and the scales of the
wavelet bands are all estimated on the training subjects alone, in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dgmvlc_cli import workspace
from dgmvlc_cli.generators import wavelet
from dgmvlc_cli.generators.conditions import (
    Block,
    Conditions,
    blocks,
    coefficient_scale,
    context_channels,
    fit_band_scale,
    mask_context,
)
from dgmvlc_cli.generators.family import Batch
from dgmvlc_cli.generators.level import (
    HEIGHTS,
    Level,
    Residuals,
    fit_level,
    height_profiles,
    no_level,
)
from dgmvlc_cli.generators.model import Conditioning
from dgmvlc_cli.generators.networks import TextUNet
from dgmvlc_cli.imaging.intensity import fit_standardiser, plain_standardiser
from dgmvlc_cli.imaging.volume import LUNGS
from dgmvlc_cli.text.projection import Practice, fit_projection

LOW_PASS_WEIGHT = 4.0
SUBJECTS_AT_ONCE = 16
TISSUE_WEIGHT = (0.1, 0.3, 1.0, 1.0, 0.3)  # per Tissue: the lungs are what is asked about


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The scans and sentences of one fold's training subjects.

    hu: (n, D, H, W) float32.  labels: (n, D, H, W) uint8.  embeddings: (n, E) float32, of the
    sentences; rewordings: (n, V, E), of the same rows in other words.
    practice: sentences without images, from which the text is learned to be read.
    """

    hu: np.ndarray
    labels: np.ndarray
    embeddings: np.ndarray
    rewordings: np.ndarray
    practice: Practice


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything that decides the weights, besides the data.

    paper: the configuration of the paper (arXiv 2410.13823) instead of ours: HU over a thousand
    as they are, no level fitted first, the sentence at the bottleneck alone.
    """

    seed: int
    fold: int
    steps: int
    batch_size: int
    learning_rate: float
    text_dropout: float
    widths: tuple[int, ...]
    model: str
    fusion: str
    grid: tuple[int, int, int]
    spacing_mm: float
    wavelet_levels: int
    encoder: str
    encoder_sha256: str
    paper: bool = False
    rewordings: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a step draws for its N rows.

    index, donors: (N,) subjects, and whose residual level they are given.  wordings: (N,) which
    wording of the sentence, 0 its own.  kept: (N, 1), 0 where the sentence is dropped.
    """

    index: torch.Tensor
    donors: torch.Tensor
    wordings: torch.Tensor
    kept: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Network inputs of the whole training set; every field has one row per subject.

    context, sigma: as in `Conditions`.  wordings: (n, 1 + V, K), the projected sentence and its
    other wordings.  lung: (n, D, H, W) bool; heights: (n, P, D) height profiles; own, left_out:
    (n, P) residual levels.
    """

    bands: torch.Tensor
    weight: torch.Tensor
    context: torch.Tensor
    sigma: torch.Tensor
    wordings: torch.Tensor
    lung: torch.Tensor
    heights: torch.Tensor
    own: torch.Tensor
    left_out: torch.Tensor

    def batch(self, drawn: Drawn, device: torch.device) -> Batch:
        """The rows of one step, each with the residual level of another subject, its donor.

        What the sentence does not say about a subject's level must come from the noise.  Left
        with its own, the network would learn by heart whose mask has which level, and then make
        new subjects too much alike.
        """
        index = drawn.index
        change = self.left_out[drawn.donors] - self.own[index]  # (N, P)
        along = torch.einsum("np,npd->nd", change, self.heights[index])
        z = along[:, :, None, None] * self.lung[index]
        levels = wavelet.levels_of(self.bands.shape[1])
        chosen = Conditions(
            context=self.context[index],
            text=self.wordings[index, drawn.wordings] * drawn.kept,
            sigma=self.sigma[index],
        )
        weight = self.weight[index].to(device)
        return Batch(
            bands=(self.bands[index] + wavelet.forward(z[:, None], levels)).to(device),
            weight=weight,
            conditions=chosen.to(device),
            total_weight=weight.sum(),
        )


def fit_conditioning(data: TrainingSet, plan: TrainingPlan) -> tuple[Conditioning, Residuals]:
    """Standardisation, text reading, level and band scales of the training subjects."""
    levels = plan.wavelet_levels
    scans = zip(data.hu, data.labels, strict=True)
    standardiser = plain_standardiser() if plan.paper else fit_standardiser(scans)
    projection = fit_projection(data.practice, data.embeddings)
    text = projection(data.embeddings)
    z = by_parts(
        lambda part: torch.from_numpy(standardiser.to_z(data.hu[part], data.labels[part])),
        len(data.hu),
    ).numpy()
    level, residuals = _level(z, data.labels, text, plan)
    conditioning = Conditioning(
        standardiser=standardiser,
        projection=projection,
        level=level,
        band_scale=_band_scale(z - level(text, data.labels), data.labels, plan),
        grid=plan.grid,
        spacing_mm=plan.spacing_mm,
        wavelet_levels=levels,
        encoder=plan.encoder,
        encoder_sha256=plan.encoder_sha256,
    )
    return conditioning, residuals


def _level(
    z: np.ndarray, labels: np.ndarray, text: np.ndarray, plan: TrainingPlan
) -> tuple[Level, Residuals]:
    if plan.paper:
        nothing = np.zeros((len(z), HEIGHTS))
        return no_level(text.shape[1]), Residuals(own=nothing, left_out=nothing)
    return fit_level(z, labels, text if plan.fusion != "none" else 0 * text)


def _band_scale(z: np.ndarray, labels: np.ndarray, plan: TrainingPlan) -> np.ndarray:
    """(6, B) scales of what is left of the images (n, D, H, W) for the network to learn."""
    levels = plan.wavelet_levels
    if plan.paper:
        return np.ones((len(Block), wavelet.BANDS_PER_LEVEL**levels), np.float32)
    bands = wavelet.forward(torch.from_numpy(z)[:, None], levels)
    return fit_band_scale(bands, blocks(torch.from_numpy(labels), levels))


def loss_weight(labels: np.ndarray, levels: int) -> torch.Tensor:
    """Weight of every wavelet coefficient: (n, D, H, W) labels -> (n, B, d, h, w)."""
    per_voxel = torch.tensor(TISSUE_WEIGHT)[torch.from_numpy(labels).long()]
    block = 2**levels
    coarse = torch.nn.functional.avg_pool3d(per_voxel[:, None], block)
    weight = coarse.repeat(1, wavelet.BANDS_PER_LEVEL**levels, 1, 1, 1)
    weight[:, wavelet.low_pass(1, levels)] *= LOW_PASS_WEIGHT
    return weight


def to_tensors(data: TrainingSet, conditioning: Conditioning, residuals: Residuals) -> Tensors:
    levels, count = conditioning.wavelet_levels, len(data.hu)
    labels = torch.from_numpy(data.labels)
    text = conditioning.projection(data.embeddings)
    said = np.concatenate((data.embeddings[:, None], data.rewordings), axis=1)
    heights = np.stack([height_profiles(one) for one in data.labels])
    return Tensors(
        bands=by_parts(
            lambda part: conditioning.to_bands(data.hu[part], data.labels[part], text[part]), count
        ),
        weight=by_parts(lambda part: loss_weight(data.labels[part], levels), count),
        context=by_parts(lambda part: mask_context(labels[part], levels), count),
        sigma=by_parts(
            lambda part: coefficient_scale(conditioning.band_scale, blocks(labels[part], levels)),
            count,
        ),
        wordings=torch.from_numpy(conditioning.projection(said)),
        lung=torch.from_numpy(np.isin(data.labels, LUNGS)),
        heights=torch.from_numpy(heights).float(),
        own=torch.from_numpy(residuals.own).float(),
        left_out=torch.from_numpy(residuals.left_out).float(),
    )


def by_parts(make: Callable[[slice], torch.Tensor], count: int) -> torch.Tensor:
    """What `make` makes of `count` subjects, a few at a time: steps on the way take much memory."""
    whole = torch.empty(0)
    for start in range(0, count, SUBJECTS_AT_ONCE):
        part = make(slice(start, start + SUBJECTS_AT_ONCE))
        if start == 0:
            whole = part.new_empty((count, *part.shape[1:]))
        whole[start : start + len(part)] = part
    return whole


def build_network(conditioning: Conditioning, plan: TrainingPlan) -> TextUNet:
    """A freshly initialised network, its weights keyed by (seed, fold)."""
    bands = wavelet.BANDS_PER_LEVEL**plan.wavelet_levels
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(plan.seed, plan.fold, "initialise"))
        return TextUNet(
            bands=bands,
            context=context_channels(plan.wavelet_levels),
            text_dim=conditioning.projection.dim,
            widths=plan.widths,
            fusion=plan.fusion,
            bottleneck_only=plan.paper,
        ).to(memory_format=torch.channels_last_3d)


def torch_seed(*keys: int | str) -> int:
    """A seed for torch that depends on the keys alone."""
    return int(workspace.generator(0, *keys).integers(2**62))
