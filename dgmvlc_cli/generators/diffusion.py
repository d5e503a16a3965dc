"""Denoising diffusion on wavelet bands, as in the paper, through diffusers' schedulers.

x_t = sqrt(a_t) z + sqrt(1 - a_t) n with z at unit variance.  The network predicts v, which
stays well-posed at zero terminal SNR, or the noise, as the paper does.
Sources: Ho et al. 2020, arXiv 2006.11239 (DDPM); Nichol and Dhariwal 2021, arXiv 2102.09672
(cosine schedule); Salimans and Ho 2022, arXiv 2202.00512 (v); Song et al. 2021,
arXiv 2010.02502 (DDIM); Lu et al. 2022, arXiv 2211.01095 (DPM-Solver++); Lin et al. 2024,
arXiv 2305.08891 (zero terminal SNR).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import nn

from dgmvlc_cli.generators.conditions import Conditions
from dgmvlc_cli.generators.family import Batch

SAMPLERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm-solver": DPMSolverMultistepScheduler,
}
NETWORK_TIMES = (1e-3, 1 - 1e-3)


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Denoising diffusion.

    timesteps: of the training schedule (cosine).  prediction: `v_prediction` or `epsilon`.
    zero_terminal_snr: no signal is left at the last step; needs v_prediction.
    loss_power: 2 for the squared error, 1 for the paper's L1.  sampler: one of SAMPLERS.
    """

    timesteps: int = 1000
    prediction: str = "v_prediction"
    zero_terminal_snr: bool = True
    loss_power: int = 2
    sampler: str = "ddim"
    critic = None

    def loss(self, network: nn.Module, batch: Batch, rng: torch.Generator) -> torch.Tensor:
        """Weighted error of the prediction, at times drawn uniformly."""
        t, x_t, target = self.noised(batch, rng)
        error = network(x_t, t, batch.conditions.context, batch.conditions.text) - target
        loss = error.abs() if self.loss_power == 1 else error**2
        return (batch.weight * loss).sum() / batch.weight.sum()

    def noised(
        self, batch: Batch, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Times (N,), x_t, and what is to be predicted of it: v or the noise."""
        z = batch.bands / batch.conditions.sigma
        noise = torch.randn(z.shape, generator=rng).to(z.device)
        index = torch.randint(self.timesteps, (len(z),), generator=rng).to(z.device)
        scheduler = self._scheduler(DDPMScheduler)
        x_t = scheduler.add_noise(z, noise, index)
        v = self.prediction == "v_prediction"
        target = scheduler.get_velocity(z, noise, index) if v else noise
        return self._network_time(index), x_t, target

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
        """Wavelet bands from noise: (N, B, d, h, w).  Deterministic but for `ddpm`."""
        scheduler = self._scheduler(SAMPLERS[self.sampler])
        scheduler.set_timesteps(steps)
        x = noise
        for position, step in enumerate(scheduler.timesteps):
            x = self._step(network, x, step, conditions, scheduler, guidance_scale)
            x = x if residuals is None else x + residuals[position]
        return x * conditions.sigma

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
        """What each DDIM step misses of these bands: see Flow.invert.  (steps, N, B, d, h, w)."""
        scheduler = self._scheduler(DDIMScheduler)
        scheduler.set_timesteps(steps)
        z, residuals = bands / conditions.sigma, []
        x = noise
        for position, step in enumerate(scheduler.timesteps):
            moved = self._step(network, x, step, conditions, scheduler)
            last = position + 1 == len(scheduler.timesteps)
            x = z if last else scheduler.add_noise(z, noise, scheduler.timesteps[position + 1])
            residuals.append(x - moved)
        return torch.stack(residuals)

    def _step(
        self,
        network: nn.Module,
        x_t: torch.Tensor,
        step: torch.Tensor,
        conditions: Conditions,
        scheduler: Any,
        guidance_scale: float = 1.0,
    ) -> torch.Tensor:
        index = step.to(x_t.device).expand(len(x_t))
        output = self._predict(network, x_t, index, conditions)
        if guidance_scale != 1.0:
            free = self._predict(network, x_t, index, conditions.without_text())
            output = free + guidance_scale * (output - free)
        return scheduler.step(output, step, x_t, return_dict=False)[0]

    def _predict(
        self, network: nn.Module, x_t: torch.Tensor, index: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        return network(x_t, self._network_time(index), conditions.context, conditions.text)

    def _network_time(self, index: torch.Tensor) -> torch.Tensor:
        return ((index + 1) / self.timesteps).clamp(*NETWORK_TIMES)

    def _scheduler(self, kind: type) -> Any:
        """A scheduler of diffusers; images are not clipped, since z has no bounds."""
        bounds = {} if kind is DPMSolverMultistepScheduler else {"clip_sample": False}
        return kind(
            num_train_timesteps=self.timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=self.prediction,
            rescale_betas_zero_snr=self.zero_terminal_snr,
            timestep_spacing="trailing",
            **bounds,
        )
