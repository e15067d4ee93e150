"""The contests of ``benchmarks.gpu_check`` in PyTorch, eager, on a device of its own name: "cuda", or "cpu" for trials.

As PyTorch's users set it up: TF32 for float32 on cards that have it, autocast for bfloat16, and images with channels
last in memory, which its convolutions prefer on a card.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_check.speed import N_TRAIN, TIME, Contest
from benchmarks.pytorch.fluxes import boundary, unit_directions
from benchmarks.pytorch.network import Predictor
from benchmarks.pytorch.training import SETTINGS, train
from benchmarks.pytorch.twin import images_first, twin


def fluxes(contest: Contest, device: str) -> Callable[[], None]:
    """κ_1 of all balls by one network call, ``calls`` times."""
    with torch.device(device):
        network, predict = _prepared(contest, device)
        points, t = _channels_last(images_first(contest.points(contest.balls))), torch.tensor([TIME])
    radius, n = float(np.sqrt(points[0].numel())), contest.sizes.n_directions

    def score(x: Tensor) -> Tensor:
        return -predict(_channels_last(x), t) / network.at(network.sigmas, t, x)

    def run() -> None:
        with torch.device(device):
            for _ in range(contest.sizes.calls):
                directions = unit_directions(1, n, points[0].numel()).unflatten(2, points.shape[1:])
                boundary(score, points, directions, radius, 1.0)
        _wait(device)

    return run


def training_steps(contest: Contest, device: str) -> Callable[[], None]:
    """``calls`` steps; every run goes on training the same network."""
    with torch.device(device):
        network, predict = _prepared(contest, device)
        points = images_first(contest.points(N_TRAIN))
    settings = {name: getattr(contest.config, name) for name in SETTINGS}

    def run() -> None:
        with torch.device(device):
            train(network, points, predict=lambda x, t: predict(_channels_last(x), t), **settings)
        _wait(device)

    return run


def _prepared(contest: Contest, device: str) -> tuple[Predictor, Callable[[Tensor, Tensor], Tensor]]:
    torch.set_float32_matmul_precision("high")
    network = twin(contest.diffusion)
    if len(contest.diffusion.network.shape) == 3:
        network = network.to(memory_format=torch.channels_last)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=contest.dtype == "bfloat16"):
            return network(x, t).float()

    return network, predict


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
