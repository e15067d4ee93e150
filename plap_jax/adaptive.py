"""As many directions as a point needs: the flux until its standard error is small enough."""

from __future__ import annotations

import math
from numbers import Integral

import jax
import jax.numpy as jnp

from plap_jax.directions import Directions, unit_size
from plap_jax.flux import flux
from plap_jax.typing import Array, ArrayLike, Estimate, PRNGKey, ScoreFn, require, require_scalar


def adaptive_flux(
    score_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    p: ArrayLike = 1.0,
    key: PRNGKey,
    until_stderr: ArrayLike,
    n_samples: int = 16,
    max_samples: int = 512,
    directions: Directions = "iid",
    control: bool = True,
) -> Estimate:
    """κ_p(x, r) from rounds of ``n_samples`` directions, until the standard error is ≤ ``until_stderr``.

    The rounds are independent, and are merged as one sample. Near a sharp mode, where all directions agree, the first
    round is enough. Under ``jit`` nothing compiles again for another target; under ``vmap`` a batch takes as many
    rounds as its hardest point, of which each point keeps only those that it asked for, so that its result and
    ``n_evals`` do not depend on the batch.

    A rule that stops when the standard error looks small stops a little too early: intervals cover less than their
    level, and the less the fewer units there are in a round (docs/estimators.md).

    Args:
        score_fn, x, radius, p, key, directions, control: as for ``plap_jax.flux.flux``.
        until_stderr: > 0, in the units of κ_p; may be traced.
        n_samples: directions per round, at least eight independent units.
        max_samples: the budget, ≥ n_samples; the last round is the one that reaches it.

    Returns:
        ``Estimate``; n_evals, n_units and n_zero are those of this point, arrays. Where the budget did not suffice,
        stderr is above the target.

    Raises:
        ValueError: as ``flux``, a target that is not positive, fewer than eight units per round, or a budget below one
            round.
    """
    allowed = "must be a single finite number > 0"
    require_scalar("until_stderr", until_stderr, lambda v: math.isfinite(v) and v > 0, allowed)
    x = jnp.asarray(x)
    units = n_samples // unit_size(directions, n_samples, x.size)
    require(units >= FEWEST, "n_samples", n_samples, f"must hold at least {FEWEST} independent units; it holds {units}")
    enough = isinstance(max_samples, Integral) and max_samples >= n_samples
    require(enough, "max_samples", max_samples, f"must be an integer >= n_samples={n_samples}")
    most = -(-max_samples // n_samples)

    def one_round(i: Array) -> Estimate:
        how = {"n_samples": n_samples, "directions": directions, "control": control}
        found = flux(score_fn, x, radius=radius, p=p, key=jax.random.fold_in(key, i), **how)
        return jax.tree.map(jnp.asarray, found)

    def unfinished(state: tuple[Array, Estimate]) -> Array:
        i, found = state
        return (i < most) & (found.stderr > until_stderr)

    def another(state: tuple[Array, Estimate]) -> tuple[Array, Estimate]:
        i, found = state
        return i + 1, merged(found, one_round(i))

    return jax.lax.while_loop(unfinished, another, (jnp.asarray(1), one_round(jnp.asarray(0))))[1]


# Units of a round: from fewer the standard error itself is too uncertain to stop by.
FEWEST = 8


def merged(a: Estimate, b: Estimate) -> Estimate:
    """Two independent estimates of one quantity as a single sample: the mean of all units and its standard error.

    With n_a, n_b units and s² = n (n−1) stderr², for plain means the sums of squares about them (Chan et al. 1983):
    value = (n_a v_a + n_b v_b)/n, s² = s_a² + s_b² + (v_a − v_b)² n_a n_b/n, n = n_a + n_b.

    Args:
        a, b: from units of the same kind; at least two units each.
    """
    n_a, n_b = (jnp.asarray(e.n_units, jnp.result_type(e.value)) for e in (a, b))
    n = n_a + n_b
    value = a.value + (b.value - a.value) * (n_b / n)
    squares = sum(m * (m - 1) * e.stderr**2 for m, e in ((n_a, a), (n_b, b)))
    squares += (a.value - b.value) ** 2 * (n_a * n_b / n)
    stderr = jnp.sqrt(squares / (n * (n - 1)))
    plain_mean = a.plain_mean and b.plain_mean
    return Estimate(value, stderr, a.n_evals + b.n_evals, a.n_units + b.n_units, a.n_zero + b.n_zero, plain_mean)
