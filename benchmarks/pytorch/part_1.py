"""The numbers of part 1 in eager PyTorch, in a process of its own: ``python -m benchmarks.pytorch.part_1 JSON``.

JSON holds the fields of ``benchmarks.settings.Part1`` and

- batch: balls by one network call;
- threads: for torch.

Writes ``{"boundary_at_means": κ_p at the modes, from the mixture and from the network}``. Intervals, AUCs, checksums
and files, which the experiment makes as well, are left out here.
"""

import json
import math
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.pytorch.fluxes import ESTIMATORS, Score, in_batches
from benchmarks.pytorch.network import NoisePredictor
from benchmarks.pytorch.training import SETTINGS, train


def triangle(side: float) -> Tensor:
    """Its corners, ``(3, 2)``."""
    angle = math.pi * (0.5 + 2 * torch.arange(3) / 3)
    return side / math.sqrt(3) * torch.stack([angle.cos(), angle.sin()], dim=1)


def mixture_score(means: Tensor, variance: float) -> Score:
    """∇ log of the equal mixture of N(μ_k, variance I), in closed form."""

    def score(x: Tensor) -> Tensor:
        difference = means - x[:, None]
        weights = torch.softmax(-difference.square().sum(dim=2) / (2 * variance), dim=1)
        return (weights[:, :, None] * difference).sum(dim=1) / variance

    return score


def critical_points(means: Tensor) -> Tensor:
    """Means, midpoints, centre: ``(7, 2)``."""
    midpoints = [(means[i] + means[j]) / 2 for i, j in ((0, 1), (0, 2), (1, 2))]
    return torch.cat([means, torch.stack(midpoints), means.mean(dim=0, keepdim=True)])


def trained(setting: dict[str, Any], means: Tensor) -> NoisePredictor:
    """The network, trained on a fresh sample."""
    sample = means[torch.randint(3, (setting["n_train"],))] + setting["variance"] ** 0.5 * torch.randn(
        setting["n_train"], 2
    )
    first, last, length = setting["betas"]
    alphas_squared = np.cumprod(1 - np.linspace(first, last, length))
    network = NoisePredictor(
        2,
        setting["width"],
        setting["depth"],
        setting["embed_dim"],
        np.sqrt(alphas_squared),
        np.sqrt(1 - alphas_squared),
        float(sample.std()),
    )
    return train(network, sample, **{name: setting[name] for name in SETTINGS})


def values(setting: dict[str, Any], scores: list[Score], centres: Tensor) -> Tensor:
    """κ_p: ``(2 scores, 2 estimators, 7 points, repeats)``."""
    repeated = centres.repeat_interleave(setting["n_repeats"], dim=0)
    sizes = [setting[name] for name in ("n_samples", "radius", "p", "batch")]
    kappa = [[in_batches(name, score, repeated, *sizes) for name in ESTIMATORS] for score in scores]
    return torch.stack([torch.stack(row) for row in kappa]).unflatten(-1, (len(centres), -1))


def main() -> None:
    """Trains, estimates, and prints one result, by which to see that it is the right one."""
    setting = json.loads(sys.argv[1])
    torch.set_num_threads(setting["threads"])
    torch.manual_seed(0)
    means = triangle(setting["side"])
    network, t = trained(setting, means), torch.tensor([setting["t"]])
    alpha, sigma = network.alphas[t], network.sigmas[t]
    analytic = mixture_score(alpha * means, (alpha**2 * setting["variance"] + sigma**2).item())
    kappa = values(setting, [analytic, lambda x: network.score(x, t)], alpha * critical_points(means))
    print(json.dumps({"boundary_at_means": kappa[:, 0, :3].mean(dim=(1, 2)).tolist()}))


if __name__ == "__main__":
    main()
