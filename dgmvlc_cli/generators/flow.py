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
from dataclasses import dataclass

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import nn

from dgmvlc_cli.generators.conditions import Conditions
from dgmvlc_cli.generators.family import Batch

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
class Flow:
    """Flow matching.

    train_shift: range of the time shift, drawn per sample, log-uniform: the level is decided
    near t = 1, texture below, and both must be trained.  sample_logits: after a first one at
    t = 1, the sampler's times lie evenly in log(t / (1 - t)) between these.
    """

    train_shift: tuple[float, float] = (1.0, 40.0)
    sample_logits: tuple[float, float] = (4.0, -2.0)
    critic = None

    def loss(self, network: nn.Module, batch: Batch, rng: torch.Generator) -> torch.Tensor:
        """Weighted mean squared error of F against its unit-variance target, a scalar."""
        t, x_t, target = self.noised(batch, rng)
        output = network(x_t, t, batch.conditions.context, batch.conditions.text)
        return (batch.weight * (output - target) ** 2).sum() / batch.weight.sum()

    def noised(
        self, batch: Batch, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Times (N,), the network's input c_in x_t, and the target of F."""
        t = self.draw_times(len(batch.bands), rng).to(batch.bands.device)
        noise = torch.randn(batch.bands.shape, generator=rng).to(batch.bands.device)
        time = t[:, None, None, None, None]
        x_t = (1 - time) * batch.bands + time * noise
        c_in, c_skip, c_out = precondition(time, batch.conditions.sigma)
        return t, c_in * x_t, (batch.bands - c_skip * x_t) / c_out

    def draw_times(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """Times of one batch: (count,) in (0, 1)."""
        low, high = (math.log(bound) for bound in self.train_shift)
        shift = torch.exp(low + (high - low) * torch.rand(count, generator=rng))
        return shift_time(torch.rand(count, generator=rng).clamp(*TRAINED_TIMES), shift)

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        noise: torch.Tensor,
        conditions: Conditions,
        *,
        steps: int,
        guidance_scale: float = 1.0,
        residuals: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Wavelet bands from noise by second-order steps along the flow: (N, B, d, h, w).

        guidance_scale 1 samples the model as trained; any other value distorts effect sizes
        and is for pictures only.  residuals: what `invert` found, added after each step.
        """
        scheduler = self._scheduler(steps)
        x = noise
        for index, t in enumerate(scheduler.sigmas[:-1].tolist()):
            x = self._step(network, x, t, conditions, scheduler, guidance_scale)
            x = x if residuals is None else x + residuals[index]
        return x

    @torch.no_grad()
    def invert(
        self,
        network: nn.Module,
        bands: torch.Tensor,
        noise: torch.Tensor,
        conditions: Conditions,
        *,
        steps: int,
    ) -> torch.Tensor:
        """Abduction: what each step of `sample` misses of these very bands.

        The path x_t = (1 - t) z + t n from the given noise to the image is known; the residual
        of a step is the path less what the model makes of it.  Sampling with the residuals
        under the same sentence returns the image exactly.  -> (steps, N, B, d, h, w).
        Source: Huberman-Spiegelglas et al. 2024, arXiv 2304.06140, for stochastic paths.
        """
        scheduler = self._scheduler(steps)
        times = scheduler.sigmas.tolist()  # from 1 down to 0
        path = [(1 - t) * bands + t * noise for t in times]
        moved = [
            self._step(network, x_t, t, conditions, scheduler)
            for x_t, t in zip(path[:-1], times[:-1], strict=True)
        ]
        return torch.stack(path[1:]) - torch.stack(moved)

    def _scheduler(self, steps: int) -> DPMSolverMultistepScheduler:
        scheduler = DPMSolverMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            final_sigmas_type="zero",
        )
        scheduler.set_timesteps(steps)
        # The scheduler's own times spend too few steps on texture.
        times = torch.sigmoid(torch.linspace(*self.sample_logits, steps - 1))
        scheduler.sigmas = torch.cat((torch.ones(1), times, torch.zeros(1)))
        scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
        return scheduler

    def _step(
        self,
        network: nn.Module,
        x_t: torch.Tensor,
        t: float,
        conditions: Conditions,
        scheduler: DPMSolverMultistepScheduler,
        guidance_scale: float = 1.0,
    ) -> torch.Tensor:
        """The solver's next step along dx/dt = (x_t - x_0) / t."""
        time = torch.full((len(x_t),), t, device=x_t.device)
        clean = predict_clean(network, x_t, time, conditions)
        if guidance_scale != 1.0:
            free = predict_clean(network, x_t, time, conditions.without_text())
            clean = free + guidance_scale * (clean - free)
        now = scheduler.timesteps[scheduler.step_index or 0]
        return scheduler.step((x_t - clean) / t, now, x_t, return_dict=False)[0]


def predict_clean(
    network: nn.Module, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions
) -> torch.Tensor:
    """x_0, the clean bands as the network sees them at time t: (N, B, d, h, w)."""
    c_in, c_skip, c_out = precondition(t[:, None, None, None, None], conditions.sigma)
    return c_skip * x_t + c_out * network(c_in * x_t, t, conditions.context, conditions.text)
