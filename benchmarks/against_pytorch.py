"""κ_p with a learned score in the plane, beside PyTorch with the same weights: in its best batches, and ball by ball.

PyTorch takes the fastest of eager and compiled code on one or all threads, and both sides the fastest batch of balls.
What is compiled is compiled before the clock starts. Rates count directions or points of the ball; for the boundary
that is network evaluations.
"""

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.tree_util import Partial

from benchmarks.pytorch.fluxes import Score, in_batches
from benchmarks.pytorch.twin import require_agreement, twin
from benchmarks.settings import part_1
from benchmarks.table import Row
from benchmarks.timing import fastest, fastest_way, ratios
from benchmarks.topic import publish
from experiments.shared.random_networks import random_diffusion
from experiments.shared.timing import take_turns
from plap_jax import flux, volume
from plap_jax.balls import flux_density
from plap_jax.parallel import map_points
from plap_jax.typing import Array

GOAL = 10
DEFAULT_DIRECTIONS = inspect.signature(flux).parameters["n_samples"].default
BALLS_AT_ONCE = (14, 28, 56, 112, 224, 448, 896)


def boundary_value(score_fn: Partial, key: Array, radius: float, p: float, x: Array, i: Array, *, n: int) -> Array:
    """κ_p by the boundary, directions drawn for ball ``i`` alone."""
    return flux(score_fn, x, radius=radius, p=p, key=jax.random.fold_in(key, i), n_samples=n).value


def volume_value(score_fn: Partial, key: Array, radius: float, p: float, x: Array, i: Array, *, n: int) -> Array:
    """κ_p from the volume with the exact divergence, points drawn for ball ``i`` alone."""
    average = volume(score_fn, x, radius=radius, p=p, key=jax.random.fold_in(key, i), n_samples=n)
    return flux_density(average, radius, x.size).value


VALUES = {"boundary": boundary_value, "volume": volume_value}


@dataclass(frozen=True)
class Balls:
    """What both sides compute: κ_p of every ball, each with directions or points of its own, drawn as part of it."""

    estimator: str
    n_samples: int
    radius: float
    p: float
    centres: np.ndarray

    def compiled(self, score_fn: Partial, batch: int) -> Callable[[], np.ndarray]:
        """By ``map_points``, as a user of the library would."""
        estimate = partial(VALUES[self.estimator], n=self.n_samples)
        fn = Partial(estimate, score_fn, jax.random.key(0), jnp.float32(self.radius), jnp.float32(self.p))
        balls = np.arange(len(self.centres))
        return lambda: map_points(fn, self.centres, balls, batch_size=batch)

    def in_pytorch(self, score: Score, threads: int, batch: int) -> Callable[[], torch.Tensor]:
        """With one network call for ``batch`` balls."""
        centres = torch.tensor(self.centres)

        def run() -> torch.Tensor:
            torch.set_num_threads(threads)
            return in_batches(self.estimator, score, centres, self.n_samples, self.radius, self.p, batch)

        return run


def of_balls(balls: Balls, score_fn: Partial, scores: dict[str, Score], runs: int, goal: float | None) -> list[Row]:
    """Rates and ratios; batch size, number of threads and, for PyTorch, eager or compiled are the best for each."""
    batch = fastest({b: balls.compiled(score_fn, b) for b in BALLS_AT_ONCE})
    style, threads, their_batch = fastest_way(balls.in_pytorch, scores, BALLS_AT_ONCE)
    contestants = {
        "ours": balls.compiled(score_fn, batch),
        "batches": balls.in_pytorch(scores[style], threads, their_batch),
        "balls": balls.in_pytorch(scores["eager"], 1, 1),
    }
    seconds = take_turns(contestants, runs)
    worked = take_turns(contestants, runs, clock=time.process_time)
    evaluations = len(balls.centres) * balls.n_samples
    rates = {name: [evaluations / s for s in values] for name, values in seconds.items()}
    what = f"{balls.estimator}, {balls.n_samples} per ball"
    way = f"{style}, {their_batch} balls at once, best number of threads: {threads}"
    return [
        Row(f"{what}: this library", rates["ours"], "/s", note=f"{batch} balls at once"),
        Row(f"{what}: PyTorch", rates["batches"], "/s", note=way),
        Row(f"{what}: PyTorch, one call per ball", rates["balls"], "/s", note="eager, one thread"),
        Row(f"{what}: speed-up", ratios(seconds["batches"], seconds["ours"]), "×", at_least=goal),
        Row(f"{what}: processor time, PyTorch / this library", ratios(worked["batches"], worked["ours"]), "×"),
        Row(f"{what}: speed-up over one call per ball", ratios(seconds["balls"], seconds["ours"]), "×"),
    ]


def measure(runs: int) -> list[Row]:
    """Part 1's boundary and volume, then the boundary with the library's default number of directions."""
    setting = part_1()
    sizes = {"width": setting.width, "depth": setting.depth, "embed_dim": setting.embed_dim}
    diffusion = random_diffusion(2, **sizes, betas=setting.betas)
    network, t = twin(diffusion), torch.tensor([setting.t])
    require_agreement(diffusion, network, setting.t)
    eager = {"eager": partial(network.score, t=t)}
    # The volume differentiates several times by one graph, which compiled code gives back after the first.
    both = eager | {"compiled": partial(torch.compile(network.score), t=t)}
    centres = np.random.default_rng(0).standard_normal((setting.n_balls, 2)).astype(np.float32)
    rows = []
    for estimator, n, scores, goal in (
        ("boundary", setting.n_samples, both, GOAL),
        ("volume", setting.n_samples, eager, None),
        ("boundary", DEFAULT_DIRECTIONS, both, GOAL),
    ):
        balls = Balls(estimator, n, setting.radius, setting.p, centres)
        rows += of_balls(balls, diffusion.score_at(setting.t), scores, runs, goal)
    return rows


if __name__ == "__main__":
    publish(measure)
