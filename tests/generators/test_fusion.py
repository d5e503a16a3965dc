import pytest
import torch

from dgmvlc_cli.generators.fusion import CrossAttention, RegionalLevel, regional_means
from dgmvlc_cli.generators.networks import TextUNet


def inputs(n: int = 2) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    x, context = torch.randn(n, 8, 4, 4, 4), torch.randn(n, 35, 4, 4, 4)
    return x, torch.full((n,), 0.7), context, torch.randn(n, 5)


def stir(module: torch.nn.Module) -> None:
    """Zero-initialised layers would hide what they do."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("fusion", ["affine", "cross-attention", "both", "none"])
@pytest.mark.parametrize("bottleneck_only", [False, True])
def test_every_fusion_but_none_lets_the_text_change_the_image(fusion, bottleneck_only):
    network = TextUNet(text_dim=5, widths=(16, 16), fusion=fusion, bottleneck_only=bottleneck_only)
    stir(network)
    x, t, context, text = inputs()
    with torch.no_grad():
        one, other = network(x, t, context, text), network(x, t, context, -text)
    assert one.shape == x.shape
    assert torch.equal(one, other) == (fusion == "none")


def test_attention_answers_by_position():
    attention = CrossAttention(16, text_dim=5)
    stir(attention)
    x = torch.ones(1, 16, 2, 2, 2)
    position = torch.zeros(1, 3, 2, 2, 2)
    position[:, 0, 1] = 1.0
    text = torch.randn(1, 5)
    with torch.no_grad():
        change = attention(x, text, position) - attention(x, -text, position)
    assert not torch.allclose(change[..., 0, :, :], change[..., 1, :, :], atol=1e-6)
    assert torch.allclose(change[..., 0, 0, 0], change[..., 0, 1, 1], atol=1e-6)


def test_regional_means_of_white_noise_have_unit_variance():
    torch.manual_seed(0)
    level = RegionalLevel(time_dim=4)
    axes = [torch.linspace(-1, 1, 8)] * 3
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].expand(2000, -1, -1, -1, -1)
    means = regional_means(torch.randn(2000, 8, 8, 8), level.profiles(position))
    assert means.var(dim=0).numpy() == pytest.approx([1] * means.shape[1], rel=0.15)
