from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dgmvlc_cli.generators.conditions import COORDINATES, lung_fraction
from dgmvlc_cli.generators.draws import Draws
from dgmvlc_cli.generators.fitting import Drawn, build_network, fit_conditioning, to_tensors
from dgmvlc_cli.generators.flow import Flow
from dgmvlc_cli.generators.fusion import regional_means
from dgmvlc_cli.generators.networks import time_features
from dgmvlc_cli.generators.warmup import level_loss, see_levels, warm_up_level


@pytest.fixture
def ready(training_set, plan):
    conditioning, residuals = fit_conditioning(training_set, plan)
    tensors = to_tensors(training_set, conditioning, residuals)
    return build_network(conditioning, plan), tensors


class Given(Flow):
    """A flow whose times and noisy images are given."""

    def noised(self, batch, draws):
        t = torch.full((len(batch.bands),), 0.7)
        return t, 0.5 * batch.bands, 2.0 * batch.bands


def test_the_loss_is_that_of_the_network_with_its_level_alone(ready):
    network, tensors = ready
    warm_up_level(network, Flow(), tensors, plan_of(seed=0))
    seen = see_levels(network.level, tensors)
    index, donors = torch.tensor([0, 3, 5]), torch.tensor([1, 1, 7])
    with torch.no_grad():
        lean = level_loss(network, Given(), seen, index, donors, Draws(0))
    own = Drawn(
        index=index,
        donors=donors,
        wordings=torch.zeros(3, dtype=torch.long),
        kept=torch.ones(3, 1),
    )
    batch = tensors.batch(own, torch.device("cpu"))
    t, x_t, target = Given().noised(batch, Draws(0))
    context = batch.conditions.context
    shift = network.regional_shift(x_t, network.time(time_features(t)), context)
    profiles = network.level.profiles(context[:, -COORDINATES:]) * lung_fraction(context)[:, None]
    whole = regional_means(shift - target[:, 0], profiles).square().mean()
    assert float(lean) == pytest.approx(whole.item(), rel=1e-4)


def test_the_level_learns(ready):
    network, tensors = ready
    differing = torch.randn(tensors.own.shape, generator=torch.Generator().manual_seed(0))
    tensors = replace(tensors, left_out=tensors.own + differing)
    seen = see_levels(network.level, tensors)
    index, donors = torch.arange(24), torch.arange(24).roll(5)

    def loss() -> float:
        drawn = [level_loss(network, Flow(), seen, index, donors, Draws(k)) for k in range(20)]
        return torch.stack(drawn).mean().item()

    before = loss()
    warm_up_level(network, Flow(), tensors, plan_of(seed=0))
    assert loss() < 0.75 * before


def plan_of(seed: int):
    return SimpleNamespace(seed=seed, fold=0)
