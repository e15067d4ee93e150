"""The networks of ``plap_jax`` told a noise level, and the MLP among them, in PyTorch: batched, as its networks are.

Imports nothing of JAX, so that a process that runs the baseline alone does not pay for it.
"""

import numpy as np
import torch
from torch import Tensor, nn


class DenseBlock(nn.Module):
    """h ← h + W₂ silu(W₁ silu(h) + V e)."""

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.told = nn.Linear(embed_dim, width, bias=False)
        self.outer = nn.Linear(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """``(batch, width)`` in and out; embedding ``(batch or 1, embed_dim)``."""
        return h + self.outer(nn.functional.silu(self.inner(nn.functional.silu(h)) + self.told(embedding)))


class Predictor(nn.Module):
    """ε̂(x, t) with its schedule as tables: scaled input and embedded log-SNR, which a subclass makes a prediction of.

    Args:
        embed_dim: of the embedding.
        alphas, sigmas: ``(T,)``, the schedule.
        data_std: the network sees x / √(α² data_std² + σ²).
    """

    def __init__(self, embed_dim: int, alphas: np.ndarray, sigmas: np.ndarray, data_std: float) -> None:
        super().__init__()
        self.embed = nn.Linear(embed_dim, embed_dim)
        alphas, sigmas = (torch.tensor(np.asarray(a), dtype=torch.float32) for a in (alphas, sigmas))
        self.register_buffer("alphas", alphas)
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("scales", torch.rsqrt((alphas * data_std) ** 2 + sigmas**2))
        self.register_buffer("log_snr", 2 * torch.log(alphas / sigmas))
        self.register_buffer("frequencies", torch.tensor(2 * np.pi / np.geomspace(4.0, 40.0, embed_dim // 2)).float())

    def trunk(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The prediction from scaled points ``(batch, *shape)`` and the embedding ``(batch or 1, embed_dim)``."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """ε̂ for ``(batch, *shape)`` points at times ``(batch,)``, or ``(1,)``: one time and one embedding for all."""
        angle = self.log_snr[t][:, None] * self.frequencies
        embedding = nn.functional.silu(self.embed(torch.cat([angle.cos(), angle.sin()], dim=1)))
        return self.trunk(x * self.at(self.scales, t, x), embedding)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """s = −ε̂/σ, as ``forward``."""
        return -self(x, t) / self.at(self.sigmas, t, x)

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """α x₀ + σ ε."""
        return self.at(self.alphas, t, x0) * x0 + self.at(self.sigmas, t, x0) * noise

    @staticmethod
    def at(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """Entries of a table, ready to be multiplied with ``x``."""
        return table[t].reshape(-1, *(1 for _ in x.shape[1:]))


class NoisePredictor(Predictor):
    """The residual MLP.

    Args:
        dim: of a point.
        width, depth, embed_dim: as for the JAX network.
        alphas, sigmas, data_std: as for ``Predictor``.
    """

    def __init__(
        self, dim: int, width: int, depth: int, embed_dim: int, alphas: np.ndarray, sigmas: np.ndarray, data_std: float
    ) -> None:
        super().__init__(embed_dim, alphas, sigmas, data_std)
        self.first = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(DenseBlock(width, embed_dim) for _ in range(depth))
        self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)

    def trunk(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(batch, dim)`` in and out."""
        h = self.first(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(nn.functional.silu(h))
