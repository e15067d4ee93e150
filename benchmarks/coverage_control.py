"""What the control variate saves and what its intervals are worth: ``python -m benchmarks.coverage_control``.

Two isotropic components on the first axis in d dimensions, κ_p in balls about points x e₁. Prints four tables.
N(±3 e₁, I), balls of radius 1, p = 1: the middle (x = 0), before it (x = −0.5: in many dimensions few directions reach
the half of the other component), and 1 and 2.5 beyond a mode (x = 4, 5.5); the same where intervals are hardest; other
scenes and orders; and ``adaptive_flux``. ``--repetitions N`` for another number than 4,000.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from scipy import special
from tabulate import tabulate

from benchmarks.coverage import asked_keys, share_covered
from plap_jax import Estimate, GaussianMixture, flux
from plap_jax.adaptive import adaptive_flux
from plap_jax.typing import PRNGKey


class Scene(NamedTuple):
    """Two components of equal weight at ``means`` on the first axis, with ``variances``; balls of one radius."""

    means: tuple[float, float]
    variances: tuple[float, float]
    radius: float


FIRST = Scene((-3.0, 3.0), (1.0, 1.0), 1.0)
WHERE = {f"x = {x:g}": x for x in (0.0, -0.5, 4.0, 5.5)}
FIXED = [(d, n) for d in (2, 16, 64) for n in (8, 16, 32, 64)]
# Where one to five directions in m are unlike the others.
RARE = [(d, n) for d in (3, 4, 6, 8, 12) for n in (16, 64)]
RARE_WHERE = {f"x = {x}": x for x in (-0.5, -0.6, -0.7, -0.8)}
# Beside a saddle, and between a wide component and a narrow one, whose field is several times as large.
OTHERS = {
    "saddle": (Scene((-2.0, 2.0), (0.3, 0.3), 0.5), (-0.5, -0.35, -0.25)),
    "narrow": (Scene((-3.0, 3.0), (1.0, 0.2), 1.0), (0.0, 0.5, 1.5)),
}
# dimension, directions per round
ADAPTIVE = [(2, 8), (2, 16), (2, 32), (16, 16), (16, 32)]
TARGETS = (0.1, 0.05, 0.02)


def score(scene: Scene, d: int) -> Partial:
    """∇ log of the two components."""
    means = np.zeros((2, d))
    means[:, 0] = scene.means
    return Partial(GaussianMixture.score, GaussianMixture([0.5, 0.5], means, list(scene.variances), "spherical"))


def truth(scene: Scene, d: int, x: float, p: float) -> float:
    """κ_p about x e₁: the integrand depends on the cosine t with the axis alone; quadrature in t."""
    if d == 2:
        t, weight = np.cos(np.pi * (np.arange(20_000) + 0.5) / 20_000), np.ones(20_000)
    else:
        t, weight = special.roots_jacobi(2000, (d - 3) / 2, (d - 3) / 2)
    out = np.stack([t, np.sqrt(1 - t**2)])
    towards = np.array(scene.means)[:, None, None] * [[1.0], [0.0]] - (scene.radius * out + [[x], [0.0]])
    variances = np.array(scene.variances)[:, None]
    logits = -np.sum(towards**2, axis=1) / (2 * variances) - d / 2 * np.log(variances)
    s = np.einsum("kt,kct->ct", special.softmax(logits, axis=0) / variances, towards)
    inward = -(np.hypot(*s) ** (p - 2)) * np.sum(s * out, axis=0)
    return float(weight @ inward / weight.sum())


@partial(jax.jit, static_argnames=("estimator", "options"))
def repeated(estimator, score_fn, centre, keys: PRNGKey, options: tuple, **traced) -> Estimate:
    """Independent estimates about a point."""

    def one(key: PRNGKey) -> Estimate:
        return jax.tree.map(jnp.asarray, estimator(score_fn, centre, key=key, **dict(options), **traced))

    return lax.map(one, keys, batch_size=500)


def measured(scene: Scene, d: int, x: float, n: int, keys: PRNGKey, p: float = 1.0) -> str:
    """Variance relative to the plain mean; percent covered with the control variate, and without."""
    centre, expected = jnp.zeros(d).at[0].set(x), truth(scene, d, x, p)
    found = [
        repeated(flux, score(scene, d), centre, keys, (("n_samples", n), ("control", c)), radius=scene.radius, p=p)
        for c in (True, False)
    ]
    ratio = np.divide(*(np.var(estimates.value, ddof=1) for estimates in found))
    with_control, without = (share_covered(estimates, expected) for estimates in found)
    return f"{ratio:.2g}; {with_control:.1f}, {without:.1f}"


def fixed_table(cases: list[tuple[int, int]], where: dict[str, float], keys: PRNGKey) -> str:
    """The first scene: rows are dimensions and numbers of directions, columns are points."""
    rows = [[d, n, *(measured(FIRST, d, x, n, keys) for x in where.values())] for d, n in cases]
    return tabulate(rows, ["d", "directions", *where], "github")


def others_table(keys: PRNGKey) -> str:
    """The other scenes: rows are points, columns are orders and numbers of directions."""
    columns = [(p, n) for p in (1.0, 2.0, 3.0) for n in (16, 64)]
    rows = [
        [name, d, x, *(measured(scene, d, x, n, keys, p) for p, n in columns)]
        for name, (scene, points) in OTHERS.items()
        for d in (2, 4, 8, 16)
        for x in points
    ]
    return tabulate(rows, ["scene", "d", "x", *(f"p = {p:g}, {n}" for p, n in columns)], "github")


def adaptive_table(keys: PRNGKey) -> str:
    """For every target: percent covered, and the directions spent on average."""
    rows = []
    for d, n in ADAPTIVE:
        for name, x in WHERE.items():
            centre, expected = jnp.zeros(d).at[0].set(x), truth(FIRST, d, x, 1.0)
            for control in (False, True):
                options = (("n_samples", n), ("max_samples", 4096), ("control", control))
                how = {"radius": FIRST.radius, "options": options}
                cells = []
                for target in TARGETS:
                    found = repeated(adaptive_flux, score(FIRST, d), centre, keys, target_stderr=target, **how)
                    cells.append(f"{share_covered(found, expected):.1f} ({np.mean(found.nfe):.0f})")
                rows.append([d, n, name, "yes" if control else "no", *cells])
    return tabulate(
        rows, ["d", "per round", "point", "control", *(f"target {target:g}" for target in TARGETS)], "github"
    )


def main() -> None:
    """Print the tables."""
    keys = asked_keys(__doc__, 4000)
    print(f"variance; percent covered with control, without; {len(keys)} repetitions\n")
    print(f"{fixed_table(FIXED, WHERE, keys)}\n\n{fixed_table(RARE, RARE_WHERE, keys)}\n\n{others_table(keys)}\n")
    print(f"adaptive: percent covered (directions)\n\n{adaptive_table(keys)}")


if __name__ == "__main__":
    main()
