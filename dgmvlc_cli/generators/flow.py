"""Wavelet flow matching with EDM-style preconditioning: loss and sampler.

x_t = (1 - t) z + t n, with z the wavelet bands of the standardised image and n white noise.
The network's output F gives the image as x_0 = c_skip x_t + c_out F, so that at high noise
the network predicts the image itself and the condition is what the loss is about.
Sources: Lipman et al. 2023, arXiv 2210.02747 (flow matching); Karras et al. 2022,
arXiv 2206.00364 (preconditioning); Esser et al. 2024, arXiv 2403.03206 (time shift).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from dgmvlc_cli.generators import wavelet


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What an image is generated from.

    context: (N, C, d, h, w) mask bands and coordinates.  text: (N, K) projected embedding.
    """

    context: torch.Tensor
    text: torch.Tensor


def shift_time(u: torch.Tensor, shift: torch.Tensor | float) -> torch.Tensor:
    """t = s u / (1 + (s - 1) u): moves uniform times towards t = 1 (pure noise) for s > 1.

    The mean of a lung over 10^4 coefficients is already fixed near t = 0.98, so a uniform
    time would hardly ever train what the sentence decides.
    """
    return shift * u / (1 + (shift - 1) * u)


def precondition(
    t: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """c_in, c_skip, c_out for x_t = (1 - t) z + t n and data SD sigma per band.

    The EDM coefficients (Karras et al. 2022, table 1) written for the flow's interpolation:
    each keeps the network's input and target at unit variance.
    t: (N, 1, 1, 1, 1); sigma: (1, B, 1, 1, 1).
    """
    a = 1 - t
    variance = (a * sigma) ** 2 + t**2
    return variance**-0.5, a * sigma**2 / variance, t * sigma * variance**-0.5


def predict_clean(
    network: nn.Module,
    x_t: torch.Tensor,
    t: torch.Tensor,
    conditions: Conditions,
    sigma: torch.Tensor,
) -> torch.Tensor:
    """x_0, the clean bands as the network sees them at time t: (N, B, d, h, w)."""
    c_in, c_skip, c_out = precondition(t[:, None, None, None, None], sigma)
    return c_skip * x_t + c_out * network(c_in * x_t, t, conditions.context, conditions.text)


def flow_loss(
    network: nn.Module,
    z: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    conditions: Conditions,
    sigma: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """Weighted mean squared error of F against its unit-variance target, a scalar.

    z, noise: (N, B, d, h, w); t: (N,); sigma: (1, B, 1, 1, 1); weight: (N, B, d, h, w).
    """
    time = t[:, None, None, None, None]
    x_t = (1 - time) * z + time * noise
    c_in, c_skip, c_out = precondition(time, sigma)
    target = (z - c_skip * x_t) / c_out
    output = network(c_in * x_t, t, conditions.context, conditions.text)
    return (weight * (output - target) ** 2).sum() / weight.sum()


@torch.no_grad()
def sample(
    network: nn.Module,
    noise: torch.Tensor,
    conditions: Conditions,
    sigma: torch.Tensor,
    *,
    steps: int,
    shift: float,
    guidance_scale: float = 1.0,
) -> torch.Tensor:
    """Wavelet bands from noise by Euler steps along the flow: (N, B, d, h, w).

    guidance_scale 1 samples the model as trained; any other value distorts effect sizes and
    is for pictures only.
    """
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1.0 / steps, steps).tolist())
    unconditional = Conditions(context=conditions.context, text=torch.zeros_like(conditions.text))
    x = noise
    for index, step in enumerate(scheduler.timesteps):
        t = scheduler.sigmas[index].to(x).expand(len(x))
        clean = predict_clean(network, x, t, conditions, sigma)
        if guidance_scale != 1.0:
            free = predict_clean(network, x, t, unconditional, sigma)
            clean = free + guidance_scale * (clean - free)
        velocity = (x - clean) / t[:, None, None, None, None]
        x = scheduler.step(velocity, step, x, return_dict=False)[0]
    return x


def mask_context(labels: torch.Tensor, levels: int) -> torch.Tensor:
    """Mask bands and coordinates: (N, D, H, W) int labels -> (N, 4 * 8^levels + 3, d, h, w).

    The Haar bands of the four one-hot classes keep the mask's full resolution; coordinates
    run from -1 to 1 across the lungs' box, so that a global sentence can act regionally.
    """
    classes = torch.stack([(labels == tissue).float() for tissue in range(1, 5)], dim=1)
    bands = wavelet.forward(classes, levels)
    coordinates = torch.stack([lung_coordinates(one, levels) for one in labels])
    return torch.cat((bands, coordinates.to(bands)), dim=1)


def lung_coordinates(labels: torch.Tensor, levels: int) -> torch.Tensor:
    """Height, depth and side relative to the lungs' box: (D, H, W) -> (3, d, h, w)."""
    lung = (labels == 2) | (labels == 3)
    axes = []
    for axis, size in enumerate(labels.shape):
        others = [other for other in range(3) if other != axis]
        inside = lung.any(dim=others[1]).any(dim=others[0]).nonzero().flatten()
        low, high = (int(inside[0]), int(inside[-1])) if len(inside) else (0, size - 1)
        position = (torch.arange(size) - low) / max(high - low, 1) * 2 - 1
        axes.append(position.reshape(-1, 2**levels).mean(dim=1))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))
