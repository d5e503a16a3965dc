import numpy as np
import pytest
import torch

from dgmvlc_cli.generators.conditions import (
    Block,
    blocks,
    coefficient_scale,
    fit_band_scale,
    lung_coordinates,
    lung_fraction,
    mask_context,
)


def test_coordinates_span_the_lungs_box():
    labels = torch.zeros(8, 8, 8, dtype=torch.uint8)
    labels[2:6, 0:8, 1:5] = 2
    height, depth, side = lung_coordinates(labels, 0)
    assert height[2, 0, 0] == -1 and height[5, 0, 0] == 1
    assert depth[0, 0, 0] == -1 and depth[0, 7, 0] == 1
    assert side[0, 0, 1] == -1 and side[0, 0, 4] == 1


def test_the_context_keeps_the_mask_at_full_resolution():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 5, (1, 4, 4, 4)).astype(np.uint8))
    context = mask_context(labels, 1)
    assert context.shape == (1, 35, 2, 2, 2)
    other = labels.clone()
    other[0, 0, 0, 0] = (other[0, 0, 0, 0] + 1) % 5
    assert not torch.equal(mask_context(other, 1), context)


def test_the_context_tells_how_much_lung_a_block_holds():
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    labels[0, :2, :2, :2] = 2
    labels[0, 2:, 2:, 2] = 3
    fraction = lung_fraction(mask_context(labels, 1))[0]
    assert fraction[0, 0, 0] == pytest.approx(1) and fraction[1, 1, 1] == pytest.approx(0.5)


def test_blocks_are_told_apart_by_what_they_hold():
    labels = torch.ones(1, 4, 4, 12, dtype=torch.uint8)
    labels[0, :, :, 0:2] = 0
    labels[0, :, :, 2] = 0  # half outside, half body
    labels[0, :, :, 6:8] = 2
    labels[0, :, :, 8] = 3  # half lung, half body
    labels[0, 0, 0, 10] = 4
    kinds = blocks(labels, 1)[0, 0, 0].tolist()
    expected = [Block.OUTSIDE, Block.SKIN, Block.BODY, Block.LUNG, Block.EDGE, Block.AIRWAY]
    assert kinds == [int(kind) for kind in expected]


def test_every_kind_of_block_has_the_scale_of_its_own_coefficients():
    torch.manual_seed(0)
    kinds = torch.tensor([Block.LUNG, Block.EDGE]).repeat(4000)[None, :, None, None]
    bands = torch.randn(1, 2, 8000, 1, 1) * torch.where(kinds == Block.EDGE, 3.0, 0.5)[:, None]
    scale = fit_band_scale(bands, kinds)
    assert scale[Block.EDGE] == pytest.approx([3, 3], rel=0.05)
    assert scale[Block.LUNG] == pytest.approx([0.5, 0.5], rel=0.05)
    sigma = coefficient_scale(scale, kinds)
    assert sigma.shape == bands.shape
    assert (bands / sigma).std().item() == pytest.approx(1, rel=0.05)
