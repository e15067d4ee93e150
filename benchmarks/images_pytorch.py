"""The networks of the image experiments, trained and asked for κ_1, beside PyTorch with the same weights.

PyTorch takes the fastest of eager and compiled code (``torch.compile``) on one or all threads, and both sides the
fastest batch of balls; so does this library. What is compiled is compiled before the clock starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from benchmarks.pytorch.fluxes import boundary, unit_directions
from benchmarks.pytorch.network import Predictor
from benchmarks.pytorch.training import SETTINGS
from benchmarks.pytorch.training import train as train_torch
from benchmarks.pytorch.twin import images_first, require_agreement, twin
from benchmarks.table import Row
from benchmarks.timing import fastest, fastest_way, ratios, thread_numbers
from benchmarks.topic import publish
from experiments.shared.random_networks import IMAGES, PATCH_SHAPE, PATCHES, random_diffusion, random_unet
from experiments.shared.timing import take_turns
from plap_jax._flux import FluxEstimator
from plap_jax.diffusion import Diffusion
from plap_jax.parallel import map_points
from plap_jax.training import TrainConfig, train

GOAL = 1.2
TIME, N_DIRECTIONS, N_TRAIN = 30, 16, 1200


@dataclass(frozen=True)
class NetworkCase:
    """A network and how much of each is timed.

    Attributes:
        name: of the network.
        diffusion: with random weights.
        config: of the training.
        n_points: balls.
        batches: numbers of balls at once to choose from.
        goal: the least speed-up, or None.
    """

    name: str
    diffusion: Diffusion
    config: TrainConfig
    n_points: int
    batches: Sequence[int]
    goal: float | None


def cases() -> list[NetworkCase]:
    """The MLP on digits and the U-Net on natural patches, trained as the experiments do, for a few steps."""
    recipe = {"learning_rate": 2e-3, "warmup_steps": 10, "grad_clip": 1.0}
    mlp = TrainConfig(n_steps=200, batch_size=256, **recipe)
    unet = TrainConfig(n_steps=12, batch_size=64, loop="python", **recipe)
    return [
        NetworkCase("MLP", random_diffusion(64, **IMAGES), mlp, 1024, (32, 128, 512), GOAL),
        NetworkCase("U-Net", random_unet(PATCH_SHAPE, **PATCHES), unet, 32, (2, 8, 32), None),
    ]


def data(case: NetworkCase, n: int) -> np.ndarray:
    """Points of the network's shape; values do not matter to the clock."""
    return np.random.default_rng(0).standard_normal((n, *case.diffusion.network.shape)).astype(np.float32)


def our_training(case: NetworkCase) -> Callable[[], Any]:
    """By ``plap_jax.training.train``."""
    return partial(train, case.diffusion, data(case, N_TRAIN), key=jax.random.key(0), config=case.config)


def torch_training(case: NetworkCase, network: Predictor, predict: Callable, threads: int) -> Callable[[], Any]:
    """By the same steps in PyTorch; every call goes on training the same network."""
    settings = {name: getattr(case.config, name) for name in SETTINGS}
    return _on(threads, partial(train_torch, network, images_first(data(case, N_TRAIN)), predict=predict, **settings))


def our_fluxes(case: NetworkCase) -> dict[Any, Callable[[], Any]]:
    """κ_1 by ``map_points``, for each number of balls at once."""
    points, radius = data(case, case.n_points), jnp.float32(np.sqrt(data(case, 1).size))
    estimator = FluxEstimator(case.diffusion.score_at(TIME), radius, jax.random.key(0), jnp.float32(1), N_DIRECTIONS)
    return {batch: partial(map_points, estimator, points, batch_size=batch) for batch in case.batches}


def torch_flux(case: NetworkCase, network: Predictor, predict: Callable, threads: int, batch: int) -> Callable[[], Any]:
    """κ_1 with one network call for ``batch`` balls."""
    points, t = images_first(data(case, case.n_points)), torch.tensor([TIME])
    radius, shape = float(np.sqrt(points[0].numel())), points.shape[1:]

    def score(x: Tensor) -> Tensor:
        return -predict(x, t) / network.at(network.sigmas, t, x)

    def run() -> list[Tensor]:
        directions = unit_directions(1, N_DIRECTIONS, points[0].numel()).unflatten(2, shape)
        return [boundary(score, centres, directions, radius, 1.0) for centres in points.split(batch)]

    return _on(threads, run)


def of_case(case: NetworkCase, runs: int) -> list[Row]:
    """Rates of training and of flux on both sides, and their ratios."""
    network = twin(case.diffusion)
    require_agreement(case.diffusion, network, TIME)
    predicts = {"eager": network, "compiled": torch.compile(network)}
    flux, training = partial(torch_flux, case, network), partial(torch_training, case, network)
    ours = our_fluxes(case)
    batch = fastest(ours)
    style, threads, their_batch = fastest_way(flux, predicts, case.batches)
    flux_way = f"{style}, {their_batch} balls at once, best number of threads: {threads}"
    theirs = flux(predicts[style], threads, their_batch)
    work = case.n_points * N_DIRECTIONS
    contest = partial(_rows, case.goal, runs)
    rows = contest(f"{case.name}, evaluations of flux", work, ours[batch], theirs, f"{batch} balls at once", flux_way)
    ways = {way: training(predicts[way[0]], way[1]) for way in product(predicts, thread_numbers())}
    style, threads = best = fastest(ways)
    same = f"batch {case.config.batch_size}"
    training_way = f"{style}, {same}, best number of threads: {threads}"
    what, work = f"{case.name}, training steps", case.config.n_steps
    return rows + contest(what, work, our_training(case), ways[best], same, training_way)


def _rows(
    goal: float | None,
    runs: int,
    what: str,
    work: int,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    our_way: str,
    their_way: str,
) -> list[Row]:
    seconds = take_turns({"ours": ours, "theirs": theirs}, runs)
    rates = {side: [work / s for s in values] for side, values in seconds.items()}
    return [
        Row(f"{what}: this library", rates["ours"], "/s", note=our_way),
        Row(f"{what}: PyTorch", rates["theirs"], "/s", note=their_way),
        Row(f"{what}: speed-up", ratios(seconds["theirs"], seconds["ours"]), "×", at_least=goal),
    ]


def _on(threads: int, call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        torch.set_num_threads(threads)
        return call()

    return run


def measure(runs: int) -> list[Row]:
    """Both networks."""
    return [row for case in cases() for row in of_case(case, runs)]


if __name__ == "__main__":
    publish(measure)
