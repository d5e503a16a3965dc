"""Wavelet flow matching with EDM-style preconditioning: loss, sampler and inversion.

x_t = (1 - t) z + t n, with z the wavelet bands of the standardised image and n white noise.
The network's output F gives the image as x_0 = c_skip x_t + c_out F, so that at high noise
the network predicts the image itself and the condition is what the loss is about.
Sources: Lipman et al. 2023, arXiv 2210.02747 (flow matching); Karras et al. 2022,
arXiv 2206.00364 (preconditioning); Esser et al. 2024, arXiv 2403.03206 (time shift);
Lu et al. 2022, arXiv 2211.01095 (DPM-Solver++, the sampler).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import nn

from dgmvlc_cli.generators.conditions import Conditions
from dgmvlc_cli.generators.draws import Draws
from dgmvlc_cli.generators.family import Batch, Denoiser, Step, guided

TRAINED_TIMES = (1e-3, 1 - 1e-4)


def shift_time(u: torch.Tensor, shift: torch.Tensor | float) -> torch.Tensor:
    """t = s u / (1 + (s - 1) u): moves uniform times towards t = 1 (pure noise) for s > 1.

    The mean of a lung over 10^4 coefficients is already fixed near t = 0.98, so a uniform
    time would hardly ever train what the sentence decides.
    """
    return shift * u / (1 + (shift - 1) * u)


def precondition(
    t: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """c_in, c_skip, c_out for x_t = (1 - t) z + t n and data SD sigma.

    The EDM coefficients (Karras et al. 2022, table 1) written for the flow's interpolation:
    each keeps the network's input and target at unit variance.
    t: (N, 1, 1, 1, 1); sigma: (N, B, d, h, w).
    """
    a = 1 - t
    variance = (a * sigma) ** 2 + t**2
    return variance**-0.5, a * sigma**2 / variance, t * sigma * variance**-0.5


@dataclass(frozen=True, kw_only=True)
class Flow(Denoiser):
    """Flow matching.

    train_shift: range of the time shift, drawn per sample, log-uniform: the level is decided
    near t = 1, texture below, and both must be trained.  sample_logits: after a first one at
    t = 1, the sampler's times lie evenly in log(t / (1 - t)) between these.
    """

    train_shift: tuple[float, float] = (1.0, 40.0)
    sample_logits: tuple[float, float] = (4.0, -2.0)

    def noised(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Times, c_in x_t, and the unit-variance target of F."""
        t = self.draw_times(len(batch.bands), draws).to(batch.bands.device)
        noise = draws.normal(batch.bands.shape).to(batch.bands.device)
        time = t[:, None, None, None, None]
        x_t = (1 - time) * batch.bands + time * noise
        c_in, c_skip, c_out = precondition(time, batch.conditions.sigma)
        return t, c_in * x_t, (batch.bands - c_skip * x_t) / c_out

    def draw_times(self, count: int, draws: Draws) -> torch.Tensor:
        """Times of one batch: (count,) in (0, 1)."""
        low, high = (math.log(bound) for bound in self.train_shift)
        shift = torch.exp(low + (high - low) * draws.uniform((count,)))
        return shift_time(draws.uniform((count,)).clamp(*TRAINED_TIMES), shift)

    def walk(
        self,
        network: nn.Module,
        noise: torch.Tensor,
        conditions: Conditions,
        steps: int,
        guidance_scale: float,
    ) -> Iterator[Step]:
        """Second-order steps along dx/dt = (x_t - x_0) / t, from t = 1 to 0."""
        scheduler = self._scheduler(steps)

        def step(t: float, now: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
            time = torch.full((len(x_t),), t, device=x_t.device)
            clean = guided(
                lambda given: predict_clean(network, x_t, time, given), conditions, guidance_scale
            )
            moved: torch.Tensor = scheduler.step((x_t - clean) / t, now, x_t, return_dict=False)[0]
            return moved

        for t, now in zip(scheduler.sigmas[:-1].tolist(), scheduler.timesteps, strict=True):
            yield partial(step, t, now)

    def path(
        self, bands: torch.Tensor, noise: torch.Tensor, conditions: Conditions, steps: int
    ) -> list[torch.Tensor]:
        """x_t = (1 - t) z + t n at the sampler's times."""
        return [(1 - t) * bands + t * noise for t in self._scheduler(steps).sigmas.tolist()]

    def _scheduler(self, steps: int) -> DPMSolverMultistepScheduler:
        scheduler = DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, final_sigmas_type="zero"
        )
        scheduler.set_timesteps(steps)
        # The scheduler's own times spend too few steps on texture.
        times = torch.sigmoid(torch.linspace(*self.sample_logits, steps - 1))
        scheduler.sigmas = torch.cat((torch.ones(1), times, torch.zeros(1)))
        scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
        return scheduler


def predict_clean(
    network: nn.Module, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions
) -> torch.Tensor:
    """x_0, the clean bands as the network sees them at time t: (N, B, d, h, w)."""
    c_in, c_skip, c_out = precondition(t[:, None, None, None, None], conditions.sigma)
    return c_skip * x_t + c_out * network(c_in * x_t, t, conditions.context, conditions.text)
