"""Flux of many points against the bare network evaluations that it needs, each in its best batches."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Row
from benchmarks.timing import fastest, ratios
from benchmarks.topic import publish
from experiments.shared.random_networks import MLPS, evaluate, random_diffusion
from experiments.shared.timing import take_turns
from plap_jax._flux import FluxEstimator
from plap_jax.parallel import map_points
from plap_jax.typing import ScoreFn

GOAL = 1.05
N_POINTS, DIM, N_DIRECTIONS, TIME = 4096, 64, 16, 30
EVALUATIONS_AT_ONCE = (512, 1024, 2048, 4096, 8192)


def bare(score_fn: ScoreFn, points: np.ndarray, batch: int) -> Callable[[], None]:
    """Scores of ``points``, which already are on the device in batches."""
    batches = [jax.device_put(points[i : i + batch]) for i in range(0, len(points), batch)]
    return lambda: jax.block_until_ready([evaluate(score_fn, points) for points in batches])


def fluxes(score_fn: ScoreFn, points: np.ndarray, batch: int | None) -> Callable[[], None]:
    """κ_1 of ``points`` as a user asks for it, from and to the host; None: the batch size that is the default."""
    radius = jnp.float32(np.sqrt(DIM))
    estimator = FluxEstimator(score_fn, radius, jax.random.key(0), jnp.float32(1), N_DIRECTIONS)
    size = {} if batch is None else {"batch_size": batch}
    return lambda: map_points(estimator, points, **size)


def of_network(name: str, sizes: Mapping[str, int], runs: int) -> list[Row]:
    """Rows for one network: batch sizes are chosen first, then the best two and the default take turns."""
    score_fn = random_diffusion(DIM, **sizes).score_at(TIME)
    points = np.random.default_rng(0).standard_normal((N_POINTS, DIM)).astype(np.float32)
    evaluated = np.repeat(points, N_DIRECTIONS, axis=0)
    bares = {batch: bare(score_fn, evaluated, batch) for batch in EVALUATIONS_AT_ONCE}
    flux_batches = [batch // N_DIRECTIONS for batch in EVALUATIONS_AT_ONCE]
    all_fluxes = {batch: fluxes(score_fn, points, batch) for batch in flux_batches}
    best_bare, best_flux = fastest(bares), fastest(all_fluxes)
    contestants = {
        "bare": bares[best_bare],
        "flux": all_fluxes[best_flux],
        "default": fluxes(score_fn, points, None),
    }
    seconds = take_turns(contestants, runs)
    rates = [len(evaluated) / s for s in seconds["flux"]]
    return [
        Row(f"{name}: bare evaluations", _ms(seconds["bare"]), "ms", note=f"best batch: {best_bare} evaluations"),
        Row(f"{name}: flux", _ms(seconds["flux"]), "ms", note=f"best batch: {best_flux} points"),
        Row(f"{name}: flux, default batch size", _ms(seconds["default"]), "ms"),
        Row(f"{name}: evaluations of flux", rates, "/s"),
        Row(f"{name}: flux / bare", ratios(seconds["flux"], seconds["bare"]), "×", at_most=GOAL),
        Row(f"{name}: flux, default batch size / bare", ratios(seconds["default"], seconds["bare"]), "×"),
    ]


def measure(runs: int) -> list[Row]:
    """All networks."""
    return [row for name, sizes in MLPS.items() for row in of_network(name, sizes, runs)]


def _ms(seconds: list[float]) -> list[float]:
    return [1e3 * s for s in seconds]


if __name__ == "__main__":
    publish(measure)
