"""What XLA compiles anew when only data change, counted: it should be nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks.table import Row
from benchmarks.topic import publish
from experiments.shared.random_networks import random_diffusion
from plap_jax import p_laplacian
from plap_jax._flux import FluxEstimator
from plap_jax.diffusion import Diffusion
from plap_jax.parallel import map_points
from plap_jax.typing import Array, ScoreFn

COMPILED = "/jax/core/compile/backend_compile_duration"
DIM, N_POINTS, BATCH = 16, 24, 8


@contextmanager
def counted() -> Iterator[list[str]]:
    """A list that grows by an entry whenever XLA compiles a program."""
    seen: list[str] = []

    def listen(event: str, duration: float, **labels: Any) -> None:
        if event == COMPILED:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def flux_of(diffusion: Diffusion, *, t: int = 30, seed: int = 0, radius: float = 1.0, p: float = 1.0) -> FluxEstimator:
    """κ_p as an experiment asks for it."""
    key, radius, p = jax.random.key(seed), jnp.float32(radius), jnp.float32(p)
    return FluxEstimator(diffusion.score_at(t), radius, key, p)


def operator_of(diffusion: Diffusion, *, t: int = 30, seed: int = 0, radius: float = 1.0, p: float = 1.0) -> Partial:
    """Δ_p u, which has neither directions nor a ball."""
    return Partial(_exact, diffusion.score_at(t), jnp.float32(p))


def _exact(score_fn: ScoreFn, p: Array, x: Array) -> Array:
    return p_laplacian(score_fn, x, p)


ESTIMATORS = {"flux": flux_of, "exact p-Laplacian": operator_of}


def changes(estimator: Callable[..., Any]) -> dict[str, tuple[Any, np.ndarray]]:
    """What may differ from the first call, as (function, points); made beforehand, as making data compiles too."""
    points = np.random.default_rng(0).standard_normal((2, N_POINTS, DIM)).astype(np.float32)
    diffusion, other = (random_diffusion(DIM, width=16, depth=1, seed=seed) for seed in (0, 1))
    same = estimator(diffusion)
    return {
        "the first call": (same, points[0]),
        "other points": (same, points[1]),
        "fewer batches of the same shape": (same, points[0, : 2 * BATCH]),
        "a last batch that is not full": (same, points[0, : N_POINTS - 1]),
        "repeats": (estimator(diffusion, seed=1), points[0]),
        "another noise level": (estimator(diffusion, t=60), points[0]),
        "another radius and p": (estimator(diffusion, radius=2.0, p=3.0), points[0]),
        "other weights": (estimator(other), points[0]),
    }


def compilations(estimator: Callable[..., Any]) -> dict[str, int]:
    """Programs that each call compiled, in the order of ``changes``."""
    counts = {}
    for name, (fn, points) in changes(estimator).items():
        with counted() as seen:
            map_points(fn, points, batch_size=BATCH)
        counts[name] = len(seen)
    return counts


def measure(runs: int) -> list[Row]:
    """One count for each change: what was compiled once stays compiled, so that runs could only repeat it."""
    rows = []
    for estimator, make in ESTIMATORS.items():
        for i, (name, count) in enumerate(compilations(make).items()):
            rows.append(Row(f"{estimator}: {name}", [count], "programs", at_most=0 if i else None))
    return rows


if __name__ == "__main__":
    publish(measure)
