import pytest
import torch
from torch import nn

from dgmvlc_cli.generators.conditions import Conditions
from dgmvlc_cli.generators.draws import Draws
from dgmvlc_cli.generators.family import Batch
from dgmvlc_cli.generators.flow import Flow, precondition, predict_clean, shift_time

SIGMA = torch.tensor([2.0, 0.5])[None, :, None, None, None]


class Oracle(nn.Module):
    """Answers with the F of the one image it knows."""

    def __init__(self, clean: torch.Tensor) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, x, t, context, text):
        c_in, c_skip, c_out = precondition(t[:, None, None, None, None], SIGMA)
        return (self.clean - c_skip * x / c_in) / c_out


def conditions(n: int) -> Conditions:
    return Conditions(
        context=torch.zeros(n, 1, 2, 2, 2),
        text=torch.zeros(n, 3),
        sigma=SIGMA.expand(n, 2, 2, 2, 2),
    )


def test_preconditioning_gives_unit_variance_input_and_target():
    torch.manual_seed(0)
    z = torch.randn(4000, 2, 2, 2, 2) * SIGMA
    for time in (0.05, 0.5, 0.98):
        t = torch.full((4000, 1, 1, 1, 1), time)
        x_t = (1 - t) * z + t * torch.randn_like(z)
        c_in, c_skip, c_out = precondition(t, SIGMA)
        assert (c_in * x_t).var(dim=(0, 2, 3, 4)).numpy() == pytest.approx([1, 1], rel=0.05)
        target = (z - c_skip * x_t) / c_out
        assert target.var(dim=(0, 2, 3, 4)).numpy() == pytest.approx([1, 1], rel=0.05)


def test_at_pure_noise_the_network_predicts_the_image_itself():
    _, c_skip, c_out = precondition(torch.ones(1, 1, 1, 1, 1), SIGMA)
    assert torch.all(c_skip == 0)
    assert torch.allclose(c_out, SIGMA)


def test_a_perfect_network_has_no_loss_and_samples_its_image():
    torch.manual_seed(0)
    clean = torch.randn(3, 2, 2, 2, 2) * SIGMA
    weight = torch.ones_like(clean)
    batch = Batch(bands=clean, weight=weight, conditions=conditions(3), total_weight=weight.sum())
    loss = Flow().loss(Oracle(clean), batch, Draws(0))
    assert float(loss) == pytest.approx(0, abs=1e-8)
    made = Flow().sample(Oracle(clean), torch.randn_like(clean), conditions(3), steps=5)
    assert torch.allclose(made, clean, atol=1e-3)


def test_a_gaussian_is_sampled_with_its_own_spread():
    """For z ~ N(0, sigma^2) the best F is 0, whatever x_t: the noise is only rescaled."""

    class Nothing(nn.Module):
        def forward(self, x, t, context, text):
            return torch.zeros_like(x)

    torch.manual_seed(0)
    noise = torch.randn(4000, 2, 2, 2, 2)
    wide = Conditions(
        context=torch.zeros(4000, 1, 2, 2, 2),
        text=torch.zeros(4000, 3),
        sigma=SIGMA.expand(4000, 2, 2, 2, 2),
    )
    made = Flow().sample(Nothing(), noise, wide, steps=12)
    spread = made.std(dim=(0, 2, 3, 4)) / SIGMA.flatten()
    assert spread.numpy() == pytest.approx([1, 1], abs=0.1)


def test_predict_clean_inverts_the_preconditioning():
    clean = torch.randn(2, 2, 2, 2, 2)
    x_t, t = torch.randn_like(clean), torch.tensor([0.3, 0.9])
    assert torch.allclose(predict_clean(Oracle(clean), x_t, t, conditions(2)), clean, atol=1e-5)


def test_guidance_of_one_is_the_model_itself_and_two_doubles_the_text():
    class Text(nn.Module):
        def forward(self, x, t, context, text):
            return text[:, :1, None, None, None].expand_as(x)

    one = Conditions(
        context=torch.zeros(1, 1, 2, 2, 2),
        text=torch.ones(1, 3),
        sigma=SIGMA.expand(1, 2, 2, 2, 2),
    )
    noise = torch.randn(1, 2, 2, 2, 2)
    plain = Flow().sample(Text(), noise, one, steps=1)
    doubled = Flow().sample(Text(), noise, one, steps=1, guidance_scale=2.0)
    assert torch.allclose(doubled, 2 * plain, atol=1e-5)


def test_shift_keeps_the_ends_and_moves_times_towards_noise():
    u = torch.tensor([0.0, 0.5, 1.0])
    assert shift_time(u, 12.0).tolist() == pytest.approx([0, 12 / 13, 1])
