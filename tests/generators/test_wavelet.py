import pytest
import torch

from dgmvlc_cli.generators import wavelet


@pytest.mark.parametrize("levels", [1, 2])
def test_inverse_undoes_forward(levels):
    x = torch.randn(2, 3, 8, 12, 16, dtype=torch.float64)
    assert torch.allclose(wavelet.inverse(wavelet.forward(x, levels), levels), x, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 2])
def test_the_transform_keeps_the_squared_norm(levels):
    x = torch.randn(2, 1, 8, 8, 8, dtype=torch.float64)
    bands = wavelet.forward(x, levels)
    assert bands.shape == (2, 8**levels, *(8 // 2**levels,) * 3)
    assert torch.allclose((bands**2).sum(), (x**2).sum())


@pytest.mark.parametrize("levels", [1, 2])
def test_the_low_pass_band_holds_block_means(levels):
    x = torch.randn(1, 2, 8, 8, 8, dtype=torch.float64)
    low = wavelet.forward(x, levels)[:, wavelet.low_pass(2, levels)]
    means = torch.nn.functional.avg_pool3d(x, 2**levels)
    assert torch.allclose(low, means * 8 ** (levels / 2))


def test_a_constant_image_has_no_detail():
    bands = wavelet.forward(torch.full((1, 1, 4, 4, 4), 3.0))
    assert torch.all(bands[:, 1:] == 0)


def test_an_odd_side_is_refused():
    with pytest.raises(ValueError, match="even sides"):
        wavelet.forward(torch.zeros(1, 1, 3, 4, 4))
