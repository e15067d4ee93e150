"""The U-Net of ``plap_jax.networks.unet`` in PyTorch: channels first, pixels folded by its own ``pixel_unshuffle``."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pytorch.network import Predictor

EPSILON = 1e-5


class UNetPredictor(Predictor):
    """ε̂ of images ``(batch, channels, h, w)``.

    Args:
        channels: of an image.
        widths: channels of each level.
        n_blocks: residual blocks per level, down and up each.
        attention: levels with self-attention, counted from 0.
        embed_dim, groups, patch: as for the JAX network.
        alphas, sigmas, data_std: as for ``Predictor``.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        n_blocks: int,
        attention: Sequence[int],
        embed_dim: int,
        groups: int,
        patch: int,
        alphas: np.ndarray,
        sigmas: np.ndarray,
        data_std: float,
    ) -> None:
        super().__init__(embed_dim, alphas, sigmas, data_std)
        levels, self.patch, folded = range(len(widths)), patch, channels * patch**2

        def block(n_in: int, level: int) -> ConvBlock:
            return ConvBlock(n_in, widths[level], embed_dim, groups, level in attention)

        self.first = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.ModuleList(block(widths[i], i) for _ in range(n_blocks)) for i in levels)
        self.middle = block(widths[-1], levels[-1])
        self.up = nn.ModuleList(nn.ModuleList(block(2 * widths[i], i) for _ in range(n_blocks)) for i in levels)
        steps = list(zip(widths[:-1], widths[1:], strict=True))
        self.coarser = nn.ModuleList(nn.Conv2d(4 * fine, coarse, 1) for fine, coarse in steps)
        self.finer = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in steps)
        self.norm = nn.GroupNorm(groups, widths[0], EPSILON)
        self.last = nn.Conv2d(widths[0], folded, 3, padding=1)

    def trunk(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(batch, channels, h, w)`` in and out."""
        h, skipped = self.first(functional.pixel_unshuffle(x, self.patch)), []
        for i, blocks in enumerate(self.down):
            if i > 0:
                h = self.coarser[i - 1](functional.pixel_unshuffle(h, 2))
            for block in blocks:
                h = block(h, embedding)
                skipped.append(h)
        h = self.middle(h, embedding)
        for i in reversed(range(len(self.up))):
            for block in self.up[i]:
                h = block(torch.cat([h, skipped.pop()], dim=1), embedding)
            if i > 0:
                h = functional.pixel_shuffle(self.finer[i - 1](h), 2)
        return functional.pixel_shuffle(self.last(functional.silu(self.norm(h))), self.patch)


class ConvBlock(nn.Module):
    """h ← h + W₂ silu((1 + a) norm(W₁ silu(norm(h))) + b), then self-attention where it is asked for."""

    def __init__(self, n_in: int, n_out: int, embed_dim: int, groups: int, attends: bool) -> None:
        super().__init__()
        self.before = nn.GroupNorm(groups, n_in, EPSILON)
        self.inner = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.between = nn.GroupNorm(groups, n_out, EPSILON, affine=False)
        self.told = nn.Linear(embed_dim, 2 * n_out)
        self.outer = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)
        self.attention = Attention(n_out, groups) if attends else None

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.told(embedding)[:, :, None, None].chunk(2, dim=1)
        update = self.between(self.inner(functional.silu(self.before(h)))) * (1 + scale) + shift
        h = self.shortcut(h) + self.outer(functional.silu(update))
        return h if self.attention is None else h + self.attention(h)


class Attention(nn.Module):
    """W softmax(q kᵀ/√width) v over all pixels."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, EPSILON)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        query, key, value = self.project(tokens).chunk(3, dim=2)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed).transpose(1, 2).reshape(h.shape)
