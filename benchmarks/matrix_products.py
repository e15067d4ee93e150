"""Bare evaluations of the MLPs against the rate at which this machine multiplies matrices of the same shapes.

Floating-point operations of a network are XLA's own count, in which an exponential counts for nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.many_points import DIM, EVALUATIONS_AT_ONCE, TIME, bare
from benchmarks.table import Row
from benchmarks.timing import fastest, ratios
from benchmarks.topic import publish
from experiments.shared.random_networks import MLPS, evaluate, random_diffusion
from experiments.shared.timing import take_turns
from plap_jax.typing import Array, ScoreFn

GOAL = 0.75
GOAL_NETWORKS = ("images network", "larger network")
N_EVALUATIONS = 16384
SQUARE = 2048


@jax.jit
def product(a: Array, b: Array) -> Array:
    """One matrix product."""
    return a @ b


@jax.jit
def products(kernels: list[Array], points: Array) -> Array:
    """The network's chain of matrix products, with nothing in between."""
    for kernel in kernels:
        points = points @ kernel
    return points


def kernels_of(score_fn: ScoreFn) -> list[Array]:
    """The matrices that every point meets, in their order."""
    network = score_fn.args[0].network
    hidden = [kernel for block in network.blocks for kernel in (block.inner.kernel, block.outer.kernel)]
    return [kernel[...] for kernel in (network.first.kernel, *hidden, network.last.kernel)]


def of_network(name: str, sizes: Mapping[str, int], runs: int) -> list[Row]:
    """Rates of the best hidden product, of the network, and of its products alone, at the best batch of each."""
    score_fn = random_diffusion(DIM, **sizes).score_at(TIME)
    kernels = kernels_of(score_fn)
    points = np.random.default_rng(0).standard_normal((N_EVALUATIONS, DIM)).astype(np.float32)
    batches = {b: jax.device_put(points[:b]) for b in EVALUATIONS_AT_ONCE}
    hidden = {b: jax.device_put(np.resize(points, (b, sizes["width"]))) for b in EVALUATIONS_AT_ONCE}
    square = jax.device_put(np.resize(points, (SQUARE, SQUARE)))
    # As much work for each, so that a short one does not profit from luck.
    per_product = {b: _repeated(lambda b=b: product(hidden[b], kernels[1]), N_EVALUATIONS // b) for b in batches}
    alone = {b: _repeated(lambda b=b: products(kernels, batches[b]), N_EVALUATIONS // b) for b in batches}
    evaluated = {b: bare(score_fn, points, b) for b in batches}
    best, best_product, best_alone = (fastest(candidates) for candidates in (evaluated, per_product, alone))
    seconds = take_turns(
        {
            "network": evaluated[best],
            "product": per_product[best_product],
            "alone": alone[best_alone],
            "square": lambda: jax.block_until_ready(product(square, square)),
        },
        runs,
    )
    counted = evaluate.lower(score_fn, batches[best]).compile().cost_analysis()["flops"] * (N_EVALUATIONS // best)
    rate = [counted / s for s in seconds["network"]]
    peak = [2 * N_EVALUATIONS * sizes["width"] ** 2 / s for s in seconds["product"]]
    largest = [2 * SQUARE**3 / s for s in seconds["square"]]
    rest = [1 - share for share in ratios(seconds["alone"], seconds["network"])]
    shape = f"({best_product} × {sizes['width']}) · ({sizes['width']} × {sizes['width']})"
    goal = GOAL if name in GOAL_NETWORKS else None
    return [
        Row(f"{name}: matrix product of its shape", _giga(peak), "Gflop/s", note=f"the best of several: {shape}"),
        Row(f"{name}: evaluations", _giga(rate), "Gflop/s", note=f"best batch: {best} evaluations"),
        Row(f"{name}: evaluations / matrix product", ratios(rate, peak), "×", at_least=goal),
        Row(f"{name}: evaluations / product of {SQUARE}² matrices", ratios(rate, largest), "×"),
        Row(f"{name}: share of the time that is not matrix products", rest, "×", note="activations, biases, sums"),
    ]


def measure(runs: int) -> list[Row]:
    """All networks."""
    return [row for name, sizes in MLPS.items() for row in of_network(name, sizes, runs)]


def _repeated(call: Callable[[], Array], times: int) -> Callable[[], Any]:
    return lambda: jax.block_until_ready([call() for _ in range(times)])


def _giga(values: list[float]) -> list[float]:
    return [value / 1e9 for value in values]


if __name__ == "__main__":
    publish(measure)
