"""Stated over true errors of ``flux``: ``python -m benchmarks.stated_errors [--repetitions N]`` prints a table.

Three mixtures in 2, 12 and 64 dimensions, p = 1, 1.5, 2 and 3, every kind of directions. Stated is the root mean square
of ``stderr`` over the repetitions, true the standard deviation of ``value``; a single stated error scatters about it,
and the more the fewer independent units stand behind it.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from tabulate import tabulate

from plap_jax import Estimate, GaussianMixture, flux
from plap_jax.directions import KINDS, unit_size
from plap_jax.typing import Array, ArrayLike, PRNGKey, ScoreFn

DIMS, N_SAMPLES, ORDERS = (2, 12, 64), (64, 240), (1.0, 1.5, 2.0, 3.0)
# A true error below this share of κ_p is rounding: complete frames and pairs leave nothing else of some fields.
ROUNDING = 1e-5


class Calibration(NamedTuple):
    """One field and order.

    Attributes:
        ratio: stated / true error, or NaN where the true one is rounding.
        scatter: 5 and 95 % quantile of single stated errors over the true one.
        covered: share of 95 % intervals that hold the mean over all repetitions.
    """

    ratio: float
    scatter: tuple[float, float]
    covered: float


def fields(d: int) -> Iterator[tuple[ScoreFn, Array, float]]:
    """Score, centre, radius: beside a saddle, beside a narrow component, and amid five components of any size."""
    first = np.eye(d)[0]
    yield *_field([0.5, 0.5], [-2 * first, 2 * first], [1.0, 1.0], 0.6 * first), 1.0
    yield *_field([0.7, 0.3], [0 * first, 3 * first], [1.0, 0.2], 1.2 * first), 0.3 * d**0.5
    rng = np.random.default_rng(d)
    means, variances = rng.normal(size=(5, d)), np.exp(rng.normal(size=5))
    yield *_field(rng.dirichlet(np.ones(5)), means, variances, rng.normal(size=d)), 0.5 * d**0.5


def _field(weights: ArrayLike, means: ArrayLike, variances: ArrayLike, centre: np.ndarray) -> tuple[ScoreFn, Array]:
    mixture = GaussianMixture(weights, np.stack(means), variances, "spherical")
    return Partial(GaussianMixture.score, mixture), jnp.asarray(centre, jnp.float32)


def calibrations(d: int, kind: str, n: int, repetitions: int) -> list[Calibration]:
    """All fields at all orders."""
    keys = jax.random.split(jax.random.key(0), repetitions)
    found = []
    for score_fn, centre, radius in fields(d):
        estimates = _repeated(score_fn, centre, jnp.float32(radius), jnp.asarray(ORDERS), keys, kind=kind, n=n)
        found += [_calibration(jax.tree.map(lambda a, i=i: np.asarray(a[:, i]), estimates)) for i in range(len(ORDERS))]
    return found


@partial(jax.jit, static_argnames=("kind", "n"))
def _repeated(
    score_fn: ScoreFn, centre: Array, radius: Array, orders: Array, keys: PRNGKey, *, kind: str, n: int
) -> Estimate:
    """``(repetitions, n orders)``; all orders see the same directions."""

    def one(key: PRNGKey) -> Estimate:
        how = {"radius": radius, "key": key, "n_samples": n, "directions": kind}
        found = jax.vmap(lambda p: flux(score_fn, centre, p=p, **how))(orders)
        return jax.tree.map(lambda a: jnp.broadcast_to(a, orders.shape), found)

    return lax.map(one, keys, batch_size=100)


def _calibration(estimates: Estimate) -> Calibration:
    value, stderr = (np.asarray(a, float) for a in (estimates.value, estimates.stderr))
    true = value.std(ddof=1)
    if true < ROUNDING * abs(value.mean()):
        return Calibration(np.nan, (np.nan, np.nan), np.nan)
    low, high = estimates.interval(0.95)
    covered = float(np.mean((low <= value.mean()) & (value.mean() <= high)))
    few, many = np.quantile(stderr / true, (0.05, 0.95))
    return Calibration(float(np.sqrt(np.mean(stderr**2)) / true), (float(few), float(many)), covered)


def table(repetitions: int) -> str:
    """One row per dimension, number and kind of directions, over all fields and orders."""
    rows = []
    for d, n, kind in ((d, n, kind) for d in DIMS for n in N_SAMPLES for kind in KINDS):
        found = [one for one in calibrations(d, kind, n, repetitions) if np.isfinite(one.ratio)]
        ratios, covered = [one.ratio for one in found], [100 * one.covered for one in found]
        few, many = (float(np.median([one.scatter[i] for one in found])) for i in (0, 1))
        row = [d, n, kind, n // unit_size(kind, n, d), f"{min(ratios):.2f}–{max(ratios):.2f}", f"{few:.2f}–{many:.2f}"]
        rows.append([*row, f"{min(covered):.1f}–{max(covered):.1f}"])
        jax.clear_caches()
    heads = ["d", "directions", "kind", "units", "stated / true", "90 % of single ones", "covered (%)"]
    return tabulate(rows, heads, "github", disable_numparse=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=4000)
    print(table(parser.parse_args().repetitions))


if __name__ == "__main__":
    main()
