"""A conditional GAN on wavelet bands: pix2pix with a shared latent, as in the paper.

The generator turns noise, mask and sentence into an image in one pass; a 3-D patch critic
judges image and mask together.  The loss is the L1 distance to the real scan, the adversarial
term (least squares) and the distance of the critic's features.  Generator and critic learn at
the same time, from one backward pass.
Sources: Isola et al. 2017, arXiv 1611.07004 (pix2pix); Mao et al. 2017, arXiv 1611.04076
(least squares); Wang et al. 2018, arXiv 1711.11585 (feature matching); MONAI's critic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import functional_call

from dgmvlc_cli.generators.conditions import Conditions
from dgmvlc_cli.generators.draws import Draws
from dgmvlc_cli.generators.family import Batch, Family, Step, guided

CRITIC_CHANNELS = 32
CRITIC_LAYERS = 2


@dataclass(frozen=True, kw_only=True)
class Gan(Family):
    """pix2pix.

    l1_weight, feature_weight: beside the adversarial term's 1.  A large l1_weight makes the
    generator deaf to its noise, so that subjects differ too little.
    """

    l1_weight: float = 10.0
    feature_weight: float = 5.0
    critic: nn.Module | None = field(default=None, compare=False, repr=False)

    def loss(self, network: nn.Module, batch: Batch, draws: Draws) -> torch.Tensor:
        """The generator's loss, against a critic held still, plus the critic's own."""
        assert self.critic is not None
        of = batch.conditions
        real = batch.bands / of.sigma
        noise = draws.normal(real.shape).to(real.device)
        fake = self._generate(network, noise, of)
        still = {name: value.detach() for name, value in self.critic.named_parameters()}
        of_real = self.critic(torch.cat((real, of.context), dim=1))
        of_fake = functional_call(self.critic, still, torch.cat((fake, of.context), dim=1))
        detached = self.critic(torch.cat((fake.detach(), of.context), dim=1))
        l1 = (batch.weight * (fake - real).abs()).sum() / batch.total_weight
        matched = [
            (a - b.detach()).abs().mean() for a, b in zip(of_fake[:-1], of_real[:-1], strict=True)
        ]
        generator = (
            (of_fake[-1] - 1).square().mean()
            + self.l1_weight * l1
            + self.feature_weight * torch.stack(matched).mean()
        )
        return generator + (of_real[-1] - 1).square().mean() + detached[-1].square().mean()

    def walk(
        self,
        network: nn.Module,
        noise: torch.Tensor,
        conditions: Conditions,
        steps: int,
        guidance_scale: float,
    ) -> Iterator[Step]:
        """One pass, whatever the steps."""

        def step(noise: torch.Tensor) -> torch.Tensor:
            made = guided(
                lambda given: self._generate(network, noise, given), conditions, guidance_scale
            )
            return made * conditions.sigma

        yield step

    def path(
        self, bands: torch.Tensor, noise: torch.Tensor, conditions: Conditions, steps: int
    ) -> list[torch.Tensor]:
        """From the noise to the bands at once."""
        return [noise, bands]

    def _generate(
        self, network: nn.Module, noise: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        time = torch.ones(len(noise), device=noise.device)
        return network(noise, time, conditions.context, conditions.text)


def build_critic(bands: int, context: int) -> nn.Module:
    """MONAI's 3-D patch critic over image bands and mask."""
    from monai.networks.nets import PatchDiscriminator  # seconds, which only a GAN should wait

    return PatchDiscriminator(
        spatial_dims=3,
        channels=CRITIC_CHANNELS,
        in_channels=bands + context,
        num_layers_d=CRITIC_LAYERS,
        kernel_size=3,
        norm=("group", {"num_groups": 8}),
    )
