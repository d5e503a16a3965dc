"""The regional level, trained alone before the rest: it decides how much subjects differ, and has
little weight in the loss of the whole.

It reads and moves nothing but weighted means over the lungs.  So the noisy image is needed in its
low-pass band alone, the error in the few means, and no convolution at all: seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup

from dgmvlc_cli.generators import wavelet
from dgmvlc_cli.generators.conditions import COORDINATES, Conditions, lung_fraction
from dgmvlc_cli.generators.draws import Draws
from dgmvlc_cli.generators.family import Batch, Denoiser
from dgmvlc_cli.generators.fitting import Tensors, TrainingPlan, torch_seed
from dgmvlc_cli.generators.fusion import RegionalLevel, profile_norms, regional_means
from dgmvlc_cli.generators.networks import TextUNet, time_features

STEPS, BATCH, RATE = 400, 32, 3e-3


def warm_up_level(
    network: TextUNet, family: Denoiser, tensors: Tensors, plan: TrainingPlan
) -> None:
    """Train network.level and network.time on all that they can see."""
    assert network.level is not None
    seen = see_levels(network.level, tensors)
    learned = [*network.level.parameters(), *network.time.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=RATE)
    schedule = get_cosine_schedule_with_warmup(optimizer, 10, STEPS)
    for step in range(STEPS):
        draws = Draws(torch_seed(plan.seed, plan.fold, "level", step))
        index, donors = draws.integers(len(tensors.bands), (2, BATCH))
        level_loss(network, family, seen, index, donors, draws).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True, kw_only=True)
class SeenLevels:
    """All subjects as the level sees them, in the low-pass band.

    bands, sigma: (n, 1, d, h, w).  profiles: (n, P, d, h, w) regional profiles within the lung;
    products: (n, P, P) of theirs with each other.  heights: (n, H, d, h, w), what a unit of each
    residual level adds.  own, left_out: (n, H) residual levels.
    """

    bands: torch.Tensor
    sigma: torch.Tensor
    profiles: torch.Tensor
    products: torch.Tensor
    heights: torch.Tensor
    own: torch.Tensor
    left_out: torch.Tensor


def see_levels(level: RegionalLevel, tensors: Tensors) -> SeenLevels:
    context = tensors.context
    levels = wavelet.levels_of(tensors.bands.shape[1])
    profiles = level.profiles(context[:, -COORDINATES:]) * lung_fraction(context)[:, None]
    heights = [
        wavelet.forward((height[:, :, None, None] * lung)[:, None], levels)[:, 0].clone()
        for height, lung in zip(tensors.heights, tensors.lung, strict=True)
    ]
    return SeenLevels(
        bands=tensors.bands[:, :1],
        sigma=tensors.sigma[:, :1],
        profiles=profiles,
        products=torch.einsum("npdhw,nqdhw->npq", profiles, profiles),
        heights=torch.stack(heights),
        own=tensors.own,
        left_out=tensors.left_out,
    )


def level_loss(
    network: TextUNet,
    family: Denoiser,
    seen: SeenLevels,
    index: torch.Tensor,
    donors: torch.Tensor,
    draws: Draws,
) -> torch.Tensor:
    """Mean squared error of the regional means, with the residual levels of the donors.

    index, donors: (N,).  What the level adds is a sum of profiles, so its own means follow from
    the profiles' products.
    """
    assert network.level is not None
    change = seen.left_out[donors] - seen.own[index]  # (N, H)
    exchanged = torch.einsum("nk,nkdhw->ndhw", change, seen.heights[index])
    profiles = seen.profiles[index]
    batch = Batch(
        bands=seen.bands[index] + exchanged[:, None],
        weight=torch.ones(()),
        conditions=Conditions(
            context=profiles, text=torch.zeros(len(index), 0), sigma=seen.sigma[index]
        ),
        total_weight=torch.ones(()),
    )
    t, x_t, target = family.noised(batch, draws)
    weights = network.level.weights(
        regional_means(x_t[:, 0], profiles), network.time(time_features(t))
    )
    added = torch.einsum("npq,nq->np", seen.products[index], weights) / profile_norms(profiles)
    return (added - regional_means(target[:, 0], profiles)).square().mean()
