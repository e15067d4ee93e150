"""Where 95 % intervals can be trusted: ``python -m benchmarks.coverage [--repetitions N]`` prints three tables.

How often the Student interval of ``flux``, ``adaptive_flux`` and ``volume`` contains the truth, outside the cases that
``tests/plap_jax/test_coverage.py`` holds to 93–97 %: few units, integrands that are nearly constant, volumes whose
variance is infinite. The density is N(0, I) in d dimensions, the ball has radius r and lies at distance D from the
mode.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from scipy import special
from tabulate import tabulate

from plap_jax import Estimate, flux, volume
from plap_jax.adaptive import adaptive_flux
from plap_jax.directions import KINDS, unit_size

# d, D/r, p, number of directions
FLUX = [
    *((2, 1.0, 1.0, n) for n in (4, 8, 16, 32, 64)),
    *((16, 1.0, 1.0, n) for n in (4, 8, 16, 32, 64, 272)),
    *((2, 0.1, 1.0, n) for n in (16, 64, 256)),
    *((16, 0.1, 1.0, n) for n in (16, 64, 272)),
    *((16, 1.0, 3.0, n) for n in (16, 64, 272)),
]
# d, D/r, directions per round; p = 1
ADAPTIVE = [(2, 3.0, 8), (2, 3.0, 16), (2, 3.0, 32), (16, 3.0, 16), (16, 3.0, 32)]
TARGETS, BUDGET = (0.1, 0.05, 0.02), 4096
# d, D/r, p, number of points
VOLUME = [
    *((2, 0.0, 1.0, n) for n in (16, 64, 1024)),
    *((2, 0.5, 1.0, n) for n in (16, 64, 1024)),
    *((1, 0.0, 1.5, n) for n in (16, 64, 1024)),
    *((2, 0.0, 1.5, n) for n in (16, 64, 1024)),
    *((3, 0.0, 1.0, n) for n in (16, 64, 1024)),
    *((2, 2.0, 1.0, n) for n in (16, 64, 1024)),
]


def truth(d: int, distance: float, p: float) -> float:
    """κ_p at r = 1: E[|v|^{p−2} (1 + D t)], |v|² = 1 + D² + 2Dt, t the cosine with the axis; Gauss–Jacobi in t."""
    if d == 1:
        t, weight = np.array([-1.0, 1.0]), np.ones(2)
    else:
        t, weight = special.roots_jacobi(400, (d - 3) / 2, (d - 3) / 2)
    squared = 1 + distance**2 + 2 * distance * t
    return float(weight @ (squared ** (p / 2 - 1) * (1 + distance * t)) / weight.sum())


def share_covered(estimates: Estimate, expected: float) -> float:
    """Of the repetitions, in percent."""
    low, high = Estimate(*map(np.asarray, jax.tree.leaves(estimates))).interval(0.95)
    return 100 * float(np.mean((low <= expected) & (expected <= high)))


@partial(jax.jit, static_argnames=("estimator", "d", "n_samples", "options"))
def repeated(estimator, d: int, distance, p, n_samples: int, keys, options: tuple = ()) -> Estimate:
    """Independent estimates at a point at ``distance`` from the mode, r = 1."""
    x = jnp.zeros(d).at[0].set(distance)
    one = partial(estimator, Partial(jnp.negative), x, radius=1.0, p=p, n_samples=n_samples, **dict(options))
    return jax.vmap(lambda key: one(key=key))(keys)


def flux_table(keys: jax.Array) -> str:
    """Percent covered, and the units behind each interval, for every kind of directions."""
    rows = []
    for d, distance, p, n in FLUX:
        expected, cells = truth(d, distance, p), []
        for kind in KINDS:
            estimates = repeated(flux, d, distance, p, n, keys, (("directions", kind),))
            cells.append(f"{share_covered(estimates, expected):.1f} ({n // unit_size(kind, n, d)})")
        rows.append([d, distance, p, n, *cells])
    return tabulate(rows, ["d", "D/r", "p", "directions", *KINDS], "github")


def adaptive_table(keys: jax.Array) -> str:
    """Percent covered, and the directions spent on average, for every target."""
    rows = []
    for d, distance, n in ADAPTIVE:
        expected, cells = truth(d, distance, 1.0), []
        for target in TARGETS:
            options = (("target_stderr", target), ("max_samples", BUDGET))
            estimates = repeated(adaptive_flux, d, distance, 1.0, n, keys, options)
            cells.append(f"{share_covered(estimates, expected):.1f} ({np.mean(estimates.nfe):.0f})")
        rows.append([d, distance, n, *cells])
    return tabulate(rows, ["d", "D/r", "per round", *(f"target {target:g}" for target in TARGETS)], "github")


def volume_table(keys: jax.Array) -> str:
    """Percent covered by intervals of the ball average, and whether its variance is finite."""
    rows = []
    for d, distance, p, n in VOLUME:
        estimates = repeated(volume, d, distance, p, n, keys)
        finite = distance > 1 or p > 2 - d / 2
        covered = share_covered(estimates, -d * truth(d, distance, p))
        rows.append([d, distance, p, n, "finite" if finite else "infinite", f"{covered:.1f}"])
    return tabulate(rows, ["d", "D/r", "p", "points", "variance", "covered (%)"], "github")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=10_000)
    keys = jax.random.split(jax.random.key(0), parser.parse_args().repetitions)
    print(f"flux: percent covered (units), {len(keys)} repetitions\n\n{flux_table(keys)}\n")
    print(f"adaptive_flux: percent covered (directions)\n\n{adaptive_table(keys)}\n")
    print(f"volume, exact divergence\n\n{volume_table(keys)}")


if __name__ == "__main__":
    main()
