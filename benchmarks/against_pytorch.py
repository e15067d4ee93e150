"""κ_p with a learned score in the plane, compiled beside eager PyTorch, by ball and by point; same weights.

Rates count directions or points of the ball; for the boundary that is network evaluations.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.tree_util import Partial

from benchmarks.pytorch.fluxes import DRAWS, STYLES, Score
from benchmarks.pytorch.twin import require_agreement, twin
from benchmarks.settings import part_1
from benchmarks.table import Row
from benchmarks.timing import fastest, ratios, thread_numbers
from benchmarks.topic import publish
from experiments.shared.random_networks import random_diffusion
from experiments.shared.timing import take_turns
from plap_jax import flux, volume
from plap_jax.balls import flux_density
from plap_jax.parallel import map_points
from plap_jax.typing import Array

GOAL = 10
# The part of the balls that are computed point by point; their time is scaled up.
SHARE = 0.05
DEFAULT_DIRECTIONS = inspect.signature(flux).parameters["n_samples"].default
BALLS_AT_ONCE = (14, 28, 56, 112, 224)


def boundary_value(score_fn: Partial, key: Array, radius: float, p: float, x: Array, i: Array, *, n: int) -> Array:
    """κ_p by the boundary, directions drawn for ball ``i`` alone."""
    return flux(score_fn, x, radius=radius, p=p, key=jax.random.fold_in(key, i), n_samples=n).value


def volume_value(score_fn: Partial, key: Array, radius: float, p: float, x: Array, i: Array, *, n: int) -> Array:
    """κ_p from the volume with the exact divergence, points drawn for ball ``i`` alone."""
    average = volume(score_fn, x, radius=radius, p=p, key=jax.random.fold_in(key, i), n_samples=n)
    return flux_density(average, radius, x.size).value


VALUES = {"boundary": boundary_value, "volume": volume_value}


@dataclass(frozen=True)
class Case:
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

    def eager(self, score: Score, style: str, threads: int, n_balls: int) -> Callable[[], list[float]]:
        """By a loop over the first ``n_balls`` balls."""
        estimate, draw = STYLES[style][self.estimator], DRAWS[self.estimator]
        centres = torch.tensor(self.centres[:n_balls])

        def loop() -> list[float]:
            torch.set_num_threads(threads)
            drawn = draw(n_balls, self.n_samples, centres.shape[1])
            return [estimate(score, x, n, self.radius, self.p) for x, n in zip(centres, drawn, strict=True)]

        return loop


def of_case(case: Case, score_fn: Partial, score: Score, runs: int, goal: float | None) -> list[Row]:
    """Rates of the three contestants and two ratios; batch size and number of threads are the best for each."""
    n_balls = len(case.centres)
    n_few = round(SHARE * n_balls)
    batch = fastest({b: case.compiled(score_fn, b) for b in BALLS_AT_ONCE})
    threads = fastest({n: case.eager(score, "ball", n, n_few) for n in thread_numbers()})
    contestants = {
        "compiled": case.compiled(score_fn, batch),
        "ball": case.eager(score, "ball", threads, n_balls),
        "point": case.eager(score, "point", threads, n_few),
    }
    seconds = take_turns(contestants, runs)
    seconds["point"] = [s * n_balls / n_few for s in seconds["point"]]
    rates = {name: [n_balls * case.n_samples / s for s in values] for name, values in seconds.items()}
    what = f"{case.estimator}, {case.n_samples} per ball"
    over_balls, over_points = (ratios(seconds[name], seconds["compiled"]) for name in ("ball", "point"))
    scaled = f"{SHARE:.0%} of the balls computed, and their time scaled up"
    return [
        Row(f"{what}: this library", rates["compiled"], "/s", note=f"{batch} balls at once"),
        Row(f"{what}: PyTorch, one call per ball", rates["ball"], "/s", note=f"best number of threads: {threads}"),
        Row(f"{what}: PyTorch, one call per point", rates["point"], "/s", note=scaled),
        Row(f"{what}: speed-up over one call per ball", over_balls, "×", at_least=goal),
        Row(f"{what}: speed-up over one call per point", over_points, "×"),
    ]


def measure(runs: int) -> list[Row]:
    """Part 1's boundary and volume, then the boundary with the library's default number of directions."""
    setting = part_1()
    sizes = {"width": setting.width, "depth": setting.depth, "embed_dim": setting.embed_dim}
    diffusion = random_diffusion(2, **sizes, betas=setting.betas)
    network = twin(diffusion)
    require_agreement(diffusion, network, setting.t)
    centres = np.random.default_rng(0).standard_normal((setting.n_balls, 2)).astype(np.float32)
    rows = []
    for estimator, n, goal in (
        ("boundary", setting.n_samples, GOAL),
        ("volume", setting.n_samples, None),
        ("boundary", DEFAULT_DIRECTIONS, GOAL),
    ):
        case = Case(estimator, n, setting.radius, setting.p, centres)
        score = partial(network.score, t=torch.tensor([setting.t]))
        rows += of_case(case, diffusion.score_at(setting.t), score, runs, goal)
    return rows


if __name__ == "__main__":
    publish(measure)
