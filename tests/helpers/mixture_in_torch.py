"""The exact model of ``memorizing_model`` in PyTorch, told everything in its own way. Needs torch."""

import numpy as np
import torch

from plap_jax.diffusion import VPLinear
from plap_jax.pretrained import load_torch
from tests.helpers import memorizing_model

SCHEDULE = memorizing_model.SCHEDULE


class MixtureNoise(torch.nn.Module):
    """ε̂ of a mixture of one wide Gaussian and narrow ones, ``(batch, c, h, w)`` at σ/α ``(batch,)``.

    Data are scale · x + shift of those of ``memorizing_model``.
    """

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        mixture = memorizing_model.mixture()
        means = np.moveaxis(np.asarray(mixture.means), -1, 1).reshape(len(mixture.means), -1)
        self.register_buffer("means", torch.tensor(scale * means + shift))
        self.register_buffer("variances", torch.tensor(scale**2 * np.asarray(mixture.eigenvalues)[:, 0]))
        self.register_buffer("log_weights", torch.tensor(np.asarray(mixture.weights)).log())
        self.dropout = torch.nn.Dropout(0.5)
        self.rows = []

    def forward(self, x, ratio):
        self.rows.append(tuple(x.shape))
        alpha = (1 + ratio**2).rsqrt()[:, None]
        variances = alpha**2 * self.variances + 1 - alpha**2  # (batch, k)
        offsets = alpha[..., None] * self.means - x.flatten(1)[:, None]
        d = x[0].numel()
        logits = self.log_weights - (offsets**2).sum(2) / (2 * variances) - d / 2 * variances.log()
        shares = torch.softmax(logits, 1) / variances
        score = (shares[..., None] * offsets).sum(1).reshape(x.shape)
        return self.dropout(-((1 - alpha**2).sqrt()[..., None, None] * score))


def factory():
    """As others hand theirs over."""
    return load_torch(MixtureNoise(), SCHEDULE, "eps", memorizing_model.SHAPE, time="sigma")


def unit_interval():
    """The same of images in [0, 1]."""
    units = {"scale": 0.5, "shift": 0.5}
    return load_torch(MixtureNoise(**units), VPLinear(), "eps", memorizing_model.SHAPE, time="sigma", **units)


def no_tensor():
    """A module whose output has to be taken apart first."""
    return load_torch(lambda x, t: {"sample": x}, SCHEDULE, "eps", memorizing_model.SHAPE)
