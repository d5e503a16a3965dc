"""Train one generator on one cross-fitting fold; killed and restarted, it ends the same.

Batches, times and noise are keyed by (seed, fold, step), so that a run resumed from a
checkpoint sees what an undisturbed run would have seen, and several processes together what one
with their summed batch would have seen.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from dgmvlc_cli import workspace
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.generators import wavelet
from dgmvlc_cli.generators.conditions import context_channels
from dgmvlc_cli.generators.draws import Draws
from dgmvlc_cli.generators.families import PAPER, build_family
from dgmvlc_cli.generators.family import Denoiser, Family
from dgmvlc_cli.generators.fitting import (
    Drawn,
    Tensors,
    TrainingPlan,
    TrainingSet,
    build_network,
    fit_conditioning,
    to_tensors,
    torch_seed,
)
from dgmvlc_cli.generators.gan import Gan, build_critic
from dgmvlc_cli.generators.model import Generator
from dgmvlc_cli.generators.networks import TextUNet
from dgmvlc_cli.generators.processes import build_accelerator
from dgmvlc_cli.generators.warmup import warm_up_level

WARMUP_SHARE = 0.05
GRADIENT_NORM = 1.0
EMA_DECAY = 0.995
MAXIMUM_SKIPPED_STEPS = 20
LOG_EVERY = 10
CRITIC_RATE, CRITIC_BETAS = 4e-4, (0.5, 0.9)


@dataclass
class Progress:
    """What has been done so far: the log of train.tsv, and how many steps were skipped."""

    step: int = 0
    skipped: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


def train_fold(
    data: TrainingSet,
    plan: TrainingPlan,
    folder: Path,
    *,
    precision: str = "auto",
    compiled: bool = False,
    checkpoint_seconds: float = 30.0,
    deadline: float = math.inf,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Generator:
    """Train to the end (from the last checkpoint in folder/state if there is one) and save.

    Writes config.json, weights, conditioning and train.tsv; of several processes the first does.
    precision: as in `build_accelerator`.  compiled: steps go through torch.compile.
    on_step(step, loss) is called after every step.
    deadline: of time.monotonic(); past it the state is saved and DgmvlcError raised, and the same
    call goes on from there.  Raises DgmvlcError where loss or gradients stay non-finite, too.
    """
    accelerator = build_accelerator(precision, folder)
    conditioning, residuals = fit_conditioning(data, plan)
    tensors = to_tensors(data, conditioning, residuals)
    network, family = build_network(conditioning, plan), build_plan_family(plan)
    if isinstance(family, Denoiser) and network.level is not None:
        warm_up_level(network, family, tensors, plan)
    trainer = Trainer(network, family, plan, accelerator, compiled=compiled)
    trainer.restore(folder / "state" / "last.pt")
    saved = time.monotonic()
    started = saved - trainer.progress.seconds
    step = _compiling_step if compiled else Trainer.step
    while trainer.progress.step < plan.steps:
        rate = trainer.schedule.get_last_lr()[0]
        loss, step = step(trainer, tensors), Trainer.step
        trainer.note(loss, rate, time.monotonic() - started)
        on_step(trainer.progress.step, loss)
        late = trainer.progress.step < plan.steps and trainer.is_past(deadline)
        if late or time.monotonic() - saved > checkpoint_seconds:
            trainer.save(folder / "state" / "last.pt")
            saved = time.monotonic()
        if late:
            raise DgmvlcError(
                f"Time is up: fold {plan.fold} is at step {trainer.progress.step} of {plan.steps}.",
                "Run the same command again to go on from there.",
            )
    generator = Generator(
        network=trainer.averaged_network(), family=family, conditioning=conditioning
    )
    if accelerator.is_main_process:
        generator.save(folder)
        workspace.write_table(folder / "train.tsv", pd.DataFrame(trainer.progress.log))
    for tracker in accelerator.trackers:
        tracker.finish()
    return generator


def _compiling_step(trainer: Trainer, tensors: Tensors) -> float:
    """The first step, in which torch.compile compiles; DgmvlcError where it cannot."""
    try:
        return trainer.step(tensors)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = getattr(error, "inner_exception", None) or error
        first = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
        raise DgmvlcError(
            f"torch.compile failed: {first}",
            "Set compile = false under [train] to do without (on a CPU it needs a C++ compiler).",
        ) from error


def build_plan_family(plan: TrainingPlan) -> Family:
    """The family of the plan, with a fresh critic where it needs one."""
    if plan.paper:
        return build_family(plan.model, **PAPER)
    if plan.model != "gan":
        return build_family(plan.model)
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(plan.seed, plan.fold, "critic"))
        bands = wavelet.BANDS_PER_LEVEL**plan.wavelet_levels
        return Gan(critic=build_critic(bands, context_channels(plan.wavelet_levels)))


class Trainer:
    """Network, optimiser, schedule and moving average, and how they are saved and restored."""

    def __init__(
        self,
        network: TextUNet,
        family: Family,
        plan: TrainingPlan,
        accelerator: Accelerator,
        *,
        compiled: bool = False,
    ) -> None:
        self.plan = plan
        self.family = family
        self.accelerator = accelerator
        groups = [{"params": list(network.parameters()), "lr": plan.learning_rate}]
        if family.critic is not None:
            critic = list(family.critic.parameters())
            groups.append({"params": critic, "lr": CRITIC_RATE, "betas": CRITIC_BETAS})
        optimizer = torch.optim.AdamW(groups)
        schedule = get_cosine_schedule_with_warmup(
            optimizer, max(1, int(WARMUP_SHARE * plan.steps)), plan.steps
        )
        self.schedule = schedule  # not prepared: it would move once per process
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        # Beside the network, whose weights it shares: what is saved has the names it always has.
        self.stepped: Any = torch.compile(self.network) if compiled else self.network
        if family.critic is not None:
            family.critic.to(accelerator.device)
        self.average = EMAModel(
            network.parameters(), decay=EMA_DECAY, use_ema_warmup=True, power=0.75
        )
        self.progress = Progress()

    def step(self, tensors: Tensors) -> float:
        """One optimiser step on the batch of this step number; returns the loss.

        A step whose loss or gradient is not finite leaves the weights alone and is counted.
        """
        self.network.train()
        loss = self._loss(tensors)
        self.accelerator.backward(loss)
        loss = self.accelerator.reduce(loss.detach(), "mean")  # no process decides alone
        if bool(torch.isfinite(loss)) and self._clip():
            self.optimizer.step()
            self.average.step(self.network.parameters())
        else:
            self._count_skipped()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return float(loss)

    def is_past(self, deadline: float) -> bool:
        """Whether the time of any process is up, so that all stop at the same step."""
        if math.isinf(deadline):
            return False
        late = torch.tensor(float(time.monotonic() > deadline), device=self.accelerator.device)
        return bool(self.accelerator.reduce(late, "sum") > 0)

    def _clip(self) -> bool:
        """Clip the gradients of network and critic; False where one is not finite."""
        modules = [one for one in (self.network, self.family.critic) if one is not None]
        if self.family.critic is not None and self.accelerator.num_processes > 1:
            for parameter in self.family.critic.parameters():
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        norms = [
            self.accelerator.clip_grad_norm_(one.parameters(), GRADIENT_NORM) for one in modules
        ]
        return all(bool(torch.isfinite(torch.as_tensor(norm))) for norm in norms)

    def _loss(self, tensors: Tensors) -> torch.Tensor:
        plan, step, of = self.plan, self.progress.step, self.accelerator
        n, wordings = tensors.wordings.shape[:2]
        draws = self._draws("cpu", step)
        index = draws.mine(batch_index(n, plan, step, of.num_processes))
        drawn = Drawn(
            index=index,
            donors=draws.integers(n, index.shape),
            kept=draws.uniform((len(index), 1)) >= plan.text_dropout,
            wordings=self._draws("cpu", step, "wording").integers(wordings, index.shape),
        )
        batch = tensors.batch(drawn, of.device)
        total = of.reduce(batch.total_weight, "mean")
        there = draws if of.device.type == "cpu" else self._draws(of.device, step)
        return self.family.loss(self.stepped, replace(batch, total_weight=total), there)

    def _draws(self, device: torch.device | str, *keys: int | str) -> Draws:
        """This process's share of the random numbers of (seed, fold, *keys)."""
        seed = torch_seed(self.plan.seed, self.plan.fold, *keys)
        of = self.accelerator
        return Draws(seed, device, rank=of.process_index, processes=of.num_processes)

    def _count_skipped(self) -> None:
        self.progress.skipped += 1
        if self.progress.skipped > MAXIMUM_SKIPPED_STEPS:
            raise DgmvlcError(
                f"Loss or gradient was not finite in {self.progress.skipped} steps.",
                "Train again with a smaller learning rate ([train] learning_rate).",
            )

    def note(self, loss: float, rate: float, seconds: float) -> None:
        """A row of train.tsv, every few steps and at the last; seconds: since the first step."""
        step, self.progress.seconds = self.progress.step, seconds
        if step % LOG_EVERY == 0 or step == self.plan.steps:
            row = {"step": step, "loss": loss, "lr": rate}
            self.progress.log.append({**row, "seconds": round(seconds, 2)})
            self.accelerator.log({"loss": loss, "learning rate": row["lr"]}, step=step)

    def averaged_network(self) -> TextUNet:
        """The network with the moving average of its weights, for inference."""
        network = self.accelerator.unwrap_model(self.network)
        self.average.copy_to(network.parameters())
        return network.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """A checkpoint from which `restore` goes on to the same weights, bit for bit."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "network": self.accelerator.unwrap_model(self.network).state_dict(),
            "critic": self.family.critic.state_dict() if self.family.critic else None,
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
        if self.family.critic is not None:
            self.family.critic.load_state_dict(state["critic"])
        self.average.load_state_dict(state["average"])
        self.average.to(self.accelerator.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])


def batch_index(n: int, plan: TrainingPlan, step: int, processes: int = 1) -> torch.Tensor:
    """Subjects of one step of all processes: shuffled epochs laid end to end, cut into batches."""
    size = plan.batch_size * processes
    positions = range(step * size, (step + 1) * size)
    order = {epoch: _epoch_order(n, plan, epoch) for epoch in {p // n for p in positions}}
    return torch.tensor([int(order[p // n][p % n]) for p in positions])


def _epoch_order(n: int, plan: TrainingPlan, epoch: int) -> np.ndarray:
    return workspace.generator(plan.seed, plan.fold, "epoch", epoch).permutation(n)
