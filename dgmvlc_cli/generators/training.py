"""Train one generator on one cross-fitting fold; killed and restarted, it ends the same.

Batches, times and noise are keyed by (seed, fold, step), so that a run resumed from a
checkpoint sees what an undisturbed run would have seen.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from dgmvlc_cli import workspace
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.generators import wavelet
from dgmvlc_cli.generators.flow import Conditions, flow_loss, mask_context, shift_time
from dgmvlc_cli.generators.model import Conditioning, Generator
from dgmvlc_cli.generators.networks import TextUNet
from dgmvlc_cli.imaging.intensity import fit_standardiser
from dgmvlc_cli.text.projection import Practice, fit_projection

TIME_SHIFT_RANGE = (1.0, 40.0)  # level is decided near t = 1, texture below: train both
LOW_PASS_WEIGHT = 4.0
TISSUE_WEIGHT = (0.1, 0.3, 1.0, 1.0, 0.3)  # per Tissue: the lungs are what is asked about
WARMUP_SHARE = 0.05
GRADIENT_NORM = 1.0
EMA_DECAY = 0.995
MAXIMUM_SKIPPED_STEPS = 20
LOG_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The scans and sentences of one fold's training subjects.

    hu: (n, D, H, W) float32.  labels: (n, D, H, W) uint8.  embeddings: (n, E) float32.
    practice: sentences without images, from which the text is learned to be read.
    """

    hu: np.ndarray
    labels: np.ndarray
    embeddings: np.ndarray
    practice: Practice


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything that decides the weights, besides the data."""

    seed: int
    fold: int
    steps: int
    batch_size: int
    learning_rate: float
    text_dropout: float
    widths: tuple[int, ...]
    fusion: str
    grid: tuple[int, int, int]
    spacing_mm: float
    wavelet_levels: int
    encoder: str
    encoder_sha256: str


@dataclass
class Progress:
    """What has been done so far: the log of train.tsv, and how many steps were skipped."""

    step: int = 0
    skipped: int = 0
    log: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Network inputs of the whole training set.

    bands, weight: (n, B, d, h, w); context: (n, C, d, h, w); text: (n, K).
    """

    bands: torch.Tensor
    weight: torch.Tensor
    context: torch.Tensor
    text: torch.Tensor


def train_fold(
    data: TrainingSet,
    plan: TrainingPlan,
    folder: Path,
    *,
    checkpoint_seconds: float = 30.0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Generator:
    """Train to the end (from the last checkpoint in folder/state if there is one) and save.

    Writes config.json, weights, conditioning and train.tsv.  on_step(step, loss) is called
    after every step.  Raises DgmvlcError where loss or gradients stay non-finite.
    """
    accelerator = Accelerator()
    conditioning = fit_conditioning(data, plan)
    tensors = to_tensors(data, conditioning)
    trainer = Trainer(build_network(conditioning, plan), plan, accelerator)
    trainer.restore(folder / "state" / "last.pt")
    sigma = torch.from_numpy(conditioning.band_scale)[None, :, None, None, None]
    saved = started = time.monotonic()
    while trainer.progress.step < plan.steps:
        loss = trainer.step(tensors, sigma)
        trainer.note(loss, time.monotonic() - started)
        on_step(trainer.progress.step, loss)
        if time.monotonic() - saved > checkpoint_seconds:
            trainer.save(folder / "state" / "last.pt")
            saved = time.monotonic()
    generator = Generator(network=trainer.averaged_network(), conditioning=conditioning)
    generator.save(folder)
    workspace.write_table(folder / "train.tsv", pd.DataFrame(trainer.progress.log))
    return generator


def fit_conditioning(data: TrainingSet, plan: TrainingPlan) -> Conditioning:
    """Standardisation, text reading and band scales of the training subjects."""
    standardiser = fit_standardiser(zip(data.hu, data.labels, strict=True))
    bands = image_bands(data, standardiser, plan.wavelet_levels)
    return Conditioning(
        standardiser=standardiser,
        projection=fit_projection(data.practice, data.embeddings),
        band_scale=band_scale(bands, data.labels, plan.wavelet_levels),
        grid=plan.grid,
        spacing_mm=plan.spacing_mm,
        wavelet_levels=plan.wavelet_levels,
        encoder=plan.encoder,
        encoder_sha256=plan.encoder_sha256,
    )


def image_bands(data: TrainingSet, standardiser, levels: int) -> torch.Tensor:
    """Wavelet bands of the standardised scans: (n, B, d, h, w)."""
    z = torch.from_numpy(standardiser.to_z(data.hu, data.labels))
    return wavelet.forward(z[:, None], levels)


def band_scale(bands: torch.Tensor, labels: np.ndarray, levels: int) -> np.ndarray:
    """SD of each band over the lungs, where the network's attention should be: (B,)."""
    weight = loss_weight(labels, levels)[:, :1]
    mean = (bands * weight).sum(dim=(0, 2, 3, 4)) / weight.sum()
    spread = (bands - mean[None, :, None, None, None]) ** 2 * weight
    return (spread.sum(dim=(0, 2, 3, 4)) / weight.sum()).sqrt().clamp_min(0.05).numpy()


def loss_weight(labels: np.ndarray, levels: int) -> torch.Tensor:
    """Weight of every wavelet coefficient: (n, D, H, W) labels -> (n, B, d, h, w)."""
    per_voxel = torch.tensor(TISSUE_WEIGHT)[torch.from_numpy(labels).long()]
    block = 2**levels
    coarse = torch.nn.functional.avg_pool3d(per_voxel[:, None], block)
    weight = coarse.repeat(1, wavelet.BANDS_PER_LEVEL**levels, 1, 1, 1)
    weight[:, wavelet.low_pass(1, levels)] *= LOW_PASS_WEIGHT
    return weight


def to_tensors(data: TrainingSet, conditioning: Conditioning) -> Tensors:
    levels = conditioning.wavelet_levels
    return Tensors(
        bands=image_bands(data, conditioning.standardiser, levels),
        weight=loss_weight(data.labels, levels),
        context=mask_context(torch.from_numpy(data.labels), levels),
        text=torch.from_numpy(conditioning.projection(data.embeddings)),
    )


def build_network(conditioning: Conditioning, plan: TrainingPlan) -> TextUNet:
    """A freshly initialised network, its weights keyed by (seed, fold)."""
    bands = wavelet.BANDS_PER_LEVEL**plan.wavelet_levels
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(plan.seed, plan.fold, "initialise"))
        return TextUNet(
            bands=bands,
            context=4 * bands + 3,
            text_dim=conditioning.projection.dim,
            widths=plan.widths,
            fusion=plan.fusion,
        ).to(memory_format=torch.channels_last_3d)


def device_name() -> str:
    """The device that training runs on, by name."""
    device = Accelerator().device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def torch_seed(*keys: int | str) -> int:
    """A seed for torch that depends on the keys alone."""
    return int(workspace.generator(0, *keys).integers(2**62))


class Trainer:
    """Network, optimiser, schedule and moving average, and how they are saved and restored."""

    def __init__(self, network: TextUNet, plan: TrainingPlan, accelerator: Accelerator) -> None:
        self.plan = plan
        self.accelerator = accelerator
        optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate)
        schedule = get_cosine_schedule_with_warmup(
            optimizer, max(1, int(WARMUP_SHARE * plan.steps)), plan.steps
        )
        self.network, self.optimizer, self.schedule = accelerator.prepare(
            network, optimizer, schedule
        )
        self.average = EMAModel(
            network.parameters(), decay=EMA_DECAY, use_ema_warmup=True, power=0.75
        )
        self.progress = Progress()

    def step(self, tensors: Tensors, sigma: torch.Tensor) -> float:
        """One optimiser step on the batch of this step number; returns the loss.

        A step whose loss or gradient is not finite leaves the weights alone and is counted.
        """
        self.network.train()
        loss = self._loss(tensors, sigma)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(torch.as_tensor(norm))):
            self.optimizer.step()
            self.average.step(self.network.parameters())
        else:
            self._count_skipped()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return float(loss.detach())

    def _loss(self, tensors: Tensors, sigma: torch.Tensor) -> torch.Tensor:
        plan, device = self.plan, self.accelerator.device
        rng = torch.Generator().manual_seed(torch_seed(plan.seed, plan.fold, self.progress.step))
        index = batch_index(len(tensors.bands), plan, self.progress.step)
        z, text = tensors.bands[index], tensors.text[index]
        low, high = (np.log(bound) for bound in TIME_SHIFT_RANGE)
        shift = torch.exp(low + (high - low) * torch.rand(len(index), generator=rng))
        t = shift_time(torch.rand(len(index), generator=rng).clamp(1e-3, 1 - 1e-4), shift)
        kept = torch.rand(len(index), 1, generator=rng) >= plan.text_dropout
        conditions = Conditions(
            context=tensors.context[index].to(device), text=(text * kept).to(device)
        )
        noise = torch.randn(z.shape, generator=rng)
        return flow_loss(
            self.network,
            z.to(device),
            noise.to(device),
            t.to(device),
            conditions,
            sigma.to(device),
            tensors.weight[index].to(device),
        )

    def _count_skipped(self) -> None:
        self.progress.skipped += 1
        if self.progress.skipped > MAXIMUM_SKIPPED_STEPS:
            raise DgmvlcError(
                f"Loss or gradient was not finite in {self.progress.skipped} steps.",
                "Train again with a smaller learning rate ([train] learning_rate).",
            )

    def note(self, loss: float, seconds: float) -> None:
        """A row of train.tsv, every few steps and at the last."""
        step = self.progress.step
        if step % LOG_EVERY == 0 or step == self.plan.steps:
            row = {"step": step, "loss": loss, "lr": self.schedule.get_last_lr()[0]}
            self.progress.log.append({**row, "seconds": round(seconds, 2)})

    def averaged_network(self) -> TextUNet:
        """The network with the moving average of its weights, for inference."""
        network = self.accelerator.unwrap_model(self.network)
        self.average.copy_to(network.parameters())
        return network.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """A checkpoint from which `restore` goes on to the same weights, bit for bit."""
        state = {
            "network": self.accelerator.unwrap_model(self.network).state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": vars(self.progress),
        }
        buffer = io.BytesIO()  # torch hides what goes wrong when it writes to a file itself
        torch.save(state, buffer)
        with workspace.atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint if there is one."""
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.accelerator.unwrap_model(self.network).load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.average.to(self.accelerator.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])


def batch_index(n: int, plan: TrainingPlan, step: int) -> torch.Tensor:
    """Subjects of one step: shuffled epochs laid end to end, cut into batches."""
    first = step * plan.batch_size
    positions = range(first, first + plan.batch_size)
    order = {epoch: _epoch_order(n, plan, epoch) for epoch in {p // n for p in positions}}
    return torch.tensor([int(order[p // n][p % n]) for p in positions])


def _epoch_order(n: int, plan: TrainingPlan, epoch: int) -> np.ndarray:
    return workspace.generator(plan.seed, plan.fold, "epoch", epoch).permutation(n)
