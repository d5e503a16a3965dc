from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dgmvlc_cli.generators.conditions import Conditions
from dgmvlc_cli.generators.diffusion import SAMPLERS, Diffusion
from dgmvlc_cli.generators.draws import Draws
from dgmvlc_cli.generators.families import FAMILIES, build_family, describe_family
from dgmvlc_cli.generators.family import Batch
from dgmvlc_cli.generators.model import Generator
from dgmvlc_cli.generators.training import train_fold

SIGMA = torch.tensor([2.0, 0.5])[None, :, None, None, None]


def conditions(n: int) -> Conditions:
    return Conditions(
        context=torch.zeros(n, 1, 2, 2, 2),
        text=torch.zeros(n, 3),
        sigma=SIGMA.expand(n, 2, 2, 2, 2),
    )


def noise_of(generator: Generator, n: int) -> np.ndarray:
    shape = (n, *generator.noise_shape())
    return np.random.default_rng(1).standard_normal(shape, np.float32)


@pytest.mark.parametrize("name", FAMILIES)
def test_settings_are_saved_and_read_back(name):
    assert describe_family(build_family(**describe_family(FAMILIES[name]()))) == describe_family(
        FAMILIES[name]()
    )


@pytest.mark.parametrize("model", FAMILIES)
def test_a_family_trains_saves_and_generates_the_same_again(tmp_path, training_set, plan, model):
    generator = train_fold(training_set, replace(plan, model=model), tmp_path)
    loaded = Generator.from_pretrained(tmp_path)
    assert describe_family(loaded.family)["name"] == model
    args = (noise_of(generator, 2), training_set.labels[:2], training_set.embeddings[:2])
    one, other = (each.generate(*args, steps=4) for each in (generator, loaded))
    assert np.allclose(one, other, atol=1e-3)
    assert one[training_set.labels[:2] > 1].std() > 1


@pytest.mark.parametrize("model", FAMILIES)
def test_what_is_inverted_and_sampled_again_is_the_scan_itself(tmp_path, training_set, plan, model):
    generator = train_fold(training_set, replace(plan, model=model), tmp_path)
    hu, labels = training_set.hu[:2].clip(-1000, 2000), training_set.labels[:2]
    text, noise = training_set.embeddings[:2], noise_of(generator, 2)
    residuals = generator.invert(hu, noise, labels, text, steps=5)
    again = generator.generate(noise, labels, text, steps=5, residuals=residuals)
    assert np.abs(again - hu).max() < 0.5
    edited = generator.generate(noise, labels, text + 1, steps=5, residuals=residuals)
    assert np.abs(edited - hu)[labels > 1].mean() > 1


def test_the_critic_learns_and_is_not_kept(tmp_path, training_set, plan):
    generator = train_fold(training_set, replace(plan, model="gan"), tmp_path)
    assert Generator.from_pretrained(tmp_path).family.critic is None
    assert not any("critic" in name for name in generator.network.state_dict())


@pytest.mark.parametrize("model", ["diffusion", "gan"])
def test_a_run_stopped_half_way_ends_with_the_same_weights(tmp_path, training_set, plan, model):
    class StoppedError(Exception):
        pass

    def stop_at_7(step: int, loss: float) -> None:
        if step == 7:
            raise StoppedError

    plan = replace(plan, model=model)
    whole = train_fold(training_set, plan, tmp_path / "whole").network.state_dict()
    with pytest.raises(StoppedError):
        train_fold(training_set, plan, tmp_path / "b", checkpoint_seconds=1e-9, on_step=stop_at_7)
    resumed = train_fold(training_set, plan, tmp_path / "b").network.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_diffusion_has_no_loss_and_samples_its_image(prediction, sampler):
    clean = torch.randn(3, 2, 2, 2, 2, generator=torch.Generator().manual_seed(0)) * SIGMA
    family = Diffusion(
        prediction=prediction,
        sampler=sampler,
        zero_terminal_snr=prediction == "v_prediction",
    )
    alphas = family._schedule.alphas_cumprod

    class Oracle(nn.Module):
        def forward(self, x, t, context, text):
            index = (t * family.timesteps).round().long().clamp(1, family.timesteps) - 1
            a = alphas[index][:, None, None, None, None]
            noise = (x - a.sqrt() * clean / SIGMA) / (1 - a).sqrt()
            v = a.sqrt() * noise - (1 - a).sqrt() * clean / SIGMA
            return v if prediction == "v_prediction" else noise

    weight = torch.ones_like(clean)
    batch = Batch(bands=clean, weight=weight, conditions=conditions(3), total_weight=weight.sum())
    loss = family.loss(Oracle(), batch, Draws(0))
    assert float(loss) == pytest.approx(0, abs=1e-4)
    noise = torch.randn_like(clean)
    made = family.sample(Oracle(), noise, conditions(3), steps=20)
    assert (made - clean).abs().mean() < 0.05
    other = clean + 1
    residuals = family.invert(Oracle(), other, noise, conditions(3), steps=20)
    back = family.sample(Oracle(), noise, conditions(3), steps=20, residuals=residuals)
    assert torch.allclose(back, other, atol=1e-3)


def test_fresh_noise_is_the_same_for_both_arms_and_other_for_another_image():
    class Deaf(nn.Module):
        def forward(self, x, t, context, text):
            return torch.zeros_like(x)

    family = Diffusion(sampler="ddpm")
    first = torch.randn(1, 2, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    arms = family.sample(Deaf(), first.expand(2, -1, -1, -1, -1), conditions(2), steps=20)
    assert torch.equal(arms[0], arms[1])
    alone = family.sample(Deaf(), first, conditions(1), steps=20)
    assert torch.equal(alone[0], arms[0])
    # The image moved by as little as a rounding draws other noise all along the way.
    other = family.sample(Deaf(), first * (1 + 1e-6), conditions(1), steps=20)
    assert (other - alone).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("sampler", "steps", "least"),
    [("dpm-solver", 8, 0.95), ("dpm-solver", 20, 0.99), ("ddim", 200, 0.99), ("ddpm", 200, 0.98)],
)
def test_samplers_give_gaussian_data_their_spread_back(sampler, steps, least):
    """Where the data are white noise, the best prediction of v is 0: all that is left to err is
    the sampler."""

    class Ideal(nn.Module):
        def forward(self, x, t, context, text):
            return torch.zeros_like(x)

    noise = torch.randn(4, 2, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    scaled = Conditions(
        context=torch.zeros(4, 3, 8, 8, 8), text=torch.zeros(4, 2), sigma=torch.full((), 0.5)
    )
    made = Diffusion(sampler=sampler).sample(Ideal(), noise, scaled, steps=steps)
    assert least < float(made.std() / noise.std() / 0.5) < 1.02


def test_the_papers_own_configuration_trains_and_samples(tmp_path, training_set, plan):
    paper = replace(plan, model="diffusion", paper=True, wavelet_levels=0, widths=(16, 32), steps=4)
    generator = train_fold(training_set, paper, tmp_path)
    family = describe_family(generator.family)
    assert (family["timesteps"], family["prediction"], family["loss_power"]) == (250, "epsilon", 1)
    loaded = Generator.from_pretrained(tmp_path)
    assert loaded.family.sampler == "dpm-solver"
    loaded = Generator.from_pretrained(tmp_path, sampler="ddpm")
    assert loaded.family.sampler == "ddpm"
    made = loaded.generate(
        noise_of(loaded, 1), training_set.labels[:1], training_set.embeddings[:1], steps=5
    )
    assert made.shape == (1, *plan.grid) and np.isfinite(made).all()
