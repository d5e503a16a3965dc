"""How a sentence acts on an image: the text-visual fusion units.

`AffineFusion` is the paper's affine unit (arXiv 2410.13823): text through a small MLP gives
a scale and a shift per channel, applied twice around convolutions, with a residual.  The
noise level enters the same way.  `CrossAttention` lets every position of the image look up
what the sentence says.  `RegionalLevel` is a short path from the level of the lung
in the noisy image to its level in the clean one, region by region.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Affine(nn.Module):
    """Per-channel scale and shift of normalised features from a condition vector."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(8, channels // 4), channels, affine=False)
        self.project = nn.Linear(condition_dim, 2 * channels)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: (N, C, D, H, W); condition: (N, K) -> (N, C, D, H, W)."""
        scale, shift = self.project(condition)[:, :, None, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class AffineFusion(nn.Module):
    """Affine, convolution, affine, convolution, plus the input: one residual block."""

    def __init__(self, inputs: int, outputs: int, condition_dim: int) -> None:
        super().__init__()
        self.affine1 = Affine(inputs, condition_dim)
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.affine2 = Affine(outputs, condition_dim)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x: (N, inputs, D, H, W); condition: (N, K) -> (N, outputs, D, H, W)."""
        h = self.conv1(functional.silu(self.affine1(x, condition)))
        h = self.conv2(functional.silu(self.affine2(h, condition)))
        return self.skip(x) + h


class CrossAttention(nn.Module):
    """Image positions ask, what the sentence says answers (Vaswani et al. 2017).

    Queries are image features with their position in the lungs.  Keys and values are one token
    per column of the projected sentence: which clause it is, times what it says.  A hundred
    scans cannot teach a network to read word pieces; a thousand practice sentences have taught
    the projection to read clauses.
    """

    heads = 4

    def __init__(self, channels: int, text_dim: int, token_dim: int = 64) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(8, channels // 4), channels)
        self.position = nn.Linear(3, channels)
        self.clause = nn.Parameter(torch.randn(text_dim, token_dim) * token_dim**-0.5)
        self.said = nn.Parameter(torch.randn(text_dim, token_dim) * token_dim**-0.5)
        self.attend = nn.MultiheadAttention(
            channels, self.heads, kdim=token_dim, vdim=token_dim, batch_first=True
        )
        nn.init.zeros_(self.attend.out_proj.weight)

    def forward(self, x: torch.Tensor, text: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """x: (N, C, D, H, W); text: (N, K); position: (N, 3, D, H, W) -> (N, C, D, H, W)."""
        features = self.norm(x).flatten(2).transpose(1, 2)  # (N, D H W, C)
        query = features + self.position(position.flatten(2).transpose(1, 2))
        tokens = self.clause + text[:, :, None] * self.said  # (N, K, token_dim)
        answer, _ = self.attend(query, tokens, tokens, need_weights=False)
        return x + answer.transpose(1, 2).reshape(x.shape)


class RegionalLevel(nn.Module):
    """The level of the lung by region: read off the noisy image, then moved.

    How dense a whole region is hides in the mean of many noisy coefficients, which convolutions
    with normalised features hardly see.  Here it is one weighted mean per regional profile (hat
    functions along the height, each alone and times depth and side), and a small gated
    perceptron turns these means and the noise level into a smooth change of the low-pass band:
    without it subjects differ too little.  It starts at zero.
    """

    knots = 5
    hidden = 64

    def __init__(self, time_dim: int) -> None:
        super().__init__()
        profiles = 3 * self.knots
        self.enter = nn.Linear(profiles, self.hidden)
        self.enter_gate = nn.Linear(time_dim, self.hidden)
        self.leave = nn.Linear(self.hidden, profiles)
        self.direct = nn.Linear(profiles, profiles)
        self.direct_gate = nn.Linear(time_dim, profiles)
        for layer in (self.leave, self.direct, self.enter_gate, self.direct_gate):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        low_pass: torch.Tensor,
        time: torch.Tensor,
        lung: torch.Tensor,
        position: torch.Tensor,
    ) -> torch.Tensor:
        """low_pass: (N, D, H, W) of the network's input; time: (N, T); lung: (N, D, H, W)
        fraction in [0, 1]; position: (N, 3, D, H, W) height, depth and side in [-1, 1]
        -> (N, D, H, W)."""
        profiles = self.profiles(position) * lung[:, None]  # (N, P, D, H, W)
        weights = self.weights(regional_means(low_pass, profiles), time)
        return torch.einsum("np,npdhw->ndhw", weights, profiles)

    def weights(self, means: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """How much of each profile is added: (N, P) regional means, (N, T) time -> (N, P)."""
        gated = functional.silu(self.enter(means)) * (1 + self.enter_gate(time))
        added: torch.Tensor = self.leave(gated) + self.direct(means) * (1 + self.direct_gate(time))
        return added

    def profiles(self, position: torch.Tensor) -> torch.Tensor:
        """(N, 3, D, H, W) -> (N, P, D, H, W)."""
        height, depth, side = position.unbind(dim=1)
        centres = torch.linspace(-1, 1, self.knots, device=position.device)
        distance = (height[:, None] - centres[None, :, None, None, None]).abs()
        hats = (1 - distance * (self.knots - 1) / 2).clamp_min(0)  # (N, knots, D, H, W)
        return torch.cat((hats, hats * depth[:, None], hats * side[:, None]), dim=1)


def regional_means(low_pass: torch.Tensor, profiles: torch.Tensor) -> torch.Tensor:
    """Weighted means, scaled so that white noise gives N(0, 1): (N, D, H, W), (N, P, D, H, W)
    -> (N, P)."""
    return torch.einsum("npdhw,ndhw->np", profiles, low_pass) / profile_norms(profiles)


def profile_norms(profiles: torch.Tensor) -> torch.Tensor:
    """Root sums of squares: (N, P, D, H, W) -> (N, P)."""
    return (profiles**2).sum(dim=(2, 3, 4)).clamp_min(1e-6).sqrt()
