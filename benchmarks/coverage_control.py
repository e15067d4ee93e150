"""What the control variate saves and what its intervals are worth: ``python -m benchmarks.coverage_control``.

Two equal components N(±3 e₁, I) in d dimensions, κ_1 in balls of radius 1 about points x e₁: the middle (x = 0), before
it (x = −0.5: in many dimensions few directions reach the half of the other component), and 1 and 2.5 beyond a mode
(x = 4, 5.5). Prints three tables: fixed numbers of directions, the same where intervals are hardest, and
``adaptive_flux``. ``--repetitions N`` for another number than 4,000.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from scipy import special
from tabulate import tabulate

from benchmarks.coverage import asked_keys, share_covered
from plap_jax import Estimate, flux
from plap_jax.adaptive import adaptive_flux
from plap_jax.typing import Array, PRNGKey

APART = 3.0
WHERE = {"middle": 0.0, "before the middle": -0.5, "1 from a mode": 4.0, "2.5 from a mode": 5.5}
FIXED = [(d, n) for d in (2, 16, 64) for n in (8, 16, 32, 64)]
# Where one to five directions in m are unlike the others.
RARE = [(d, n) for d in (3, 4, 6, 8, 12) for n in (16, 64)]
RARE_WHERE = {f"x = {x}": x for x in (-0.5, -0.6, -0.7, -0.8)}
# dimension, directions per round
ADAPTIVE = [(2, 8), (2, 16), (2, 32), (16, 16), (16, 32)]
TARGETS = (0.1, 0.05, 0.02)


def score(y: Array) -> Array:
    """∇ log of the two components: −y + 3 e₁ tanh 3y₁."""
    return -y.at[0].add(-APART * jnp.tanh(APART * y[0]))


def truth(d: int, x: float) -> float:
    """κ_1 about x e₁: the integrand depends on the cosine t with the axis alone; quadrature in t."""
    if d == 2:
        angle = np.pi * (np.arange(4000) + 0.5) / 4000
        t, weight = np.cos(angle), np.ones(4000)
    else:
        t, weight = special.roots_jacobi(1000, (d - 3) / 2, (d - 3) / 2)
    along, across = x + t, np.sqrt(1 - t**2)
    s = APART * np.tanh(APART * along) - along, -across
    inward = -(s[0] * t + s[1] * across) / np.hypot(*s)
    return float(weight @ inward / weight.sum())


@partial(jax.jit, static_argnames=("estimator", "d", "options"))
def repeated(estimator, d: int, x, keys: PRNGKey, options: tuple, **traced) -> Estimate:
    """Independent estimates about x e₁."""
    centre = jnp.zeros(d).at[0].set(x)

    def one(key: PRNGKey) -> Estimate:
        return jax.tree.map(
            jnp.asarray, estimator(Partial(score), centre, radius=1.0, key=key, **dict(options), **traced)
        )

    return lax.map(one, keys, batch_size=500)


def fixed_table(cases: list[tuple[int, int]], where: dict[str, float], keys: PRNGKey) -> str:
    """For every point: variance relative to the plain mean; percent covered with the control variate, and without."""
    rows = []
    for d, n in cases:
        cells = []
        for x in where.values():
            with_control, without = (
                repeated(flux, d, x, keys, (("n_samples", n), ("control", control))) for control in (True, False)
            )
            ratio = np.var(with_control.value, ddof=1) / np.var(without.value, ddof=1)
            covered = [share_covered(found, truth(d, x)) for found in (with_control, without)]
            cells.append(f"{ratio:.2g}; {covered[0]:.1f}, {covered[1]:.1f}")
        rows.append([d, n, *cells])
    return tabulate(rows, ["d", "directions", *where], "github")


def adaptive_table(keys: PRNGKey) -> str:
    """For every target: percent covered, and the directions spent on average."""
    rows = []
    for d, n in ADAPTIVE:
        for name, x in WHERE.items():
            for control in (False, True):
                options = (("n_samples", n), ("max_samples", 4096), ("control", control))
                cells = []
                for target in TARGETS:
                    found = repeated(adaptive_flux, d, x, keys, options, until_stderr=target)
                    cells.append(f"{share_covered(found, truth(d, x)):.1f} ({np.mean(found.n_evals):.0f})")
                rows.append([d, n, name, "yes" if control else "no", *cells])
    return tabulate(
        rows, ["d", "per round", "point", "control", *(f"target {target:g}" for target in TARGETS)], "github"
    )


def main() -> None:
    """Print the tables."""
    keys = asked_keys(__doc__, 4000)
    print(f"variance; percent covered with control, without; {len(keys)} repetitions\n")
    print(f"{fixed_table(FIXED, WHERE, keys)}\n\n{fixed_table(RARE, RARE_WHERE, keys)}\n")
    print(f"adaptive: percent covered (directions)\n\n{adaptive_table(keys)}")


if __name__ == "__main__":
    main()
