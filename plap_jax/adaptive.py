"""As many directions as a point needs: the flux until its standard error is small enough."""

from __future__ import annotations

import math
from numbers import Integral

import jax
import jax.numpy as jnp

from plap_jax._flux import flux_moments
from plap_jax.directions import Directions, unit_size
from plap_jax.moments import Moments
from plap_jax.typing import Array, ArrayLike, Estimate, PRNGKey, ScoreFn, require, require_scalar


def adaptive_flux(
    score_fn: ScoreFn,
    x: Array,
    *,
    radius: ArrayLike,
    p: ArrayLike = 1.0,
    key: PRNGKey,
    target_stderr: ArrayLike,
    n_samples: int = 16,
    max_samples: int = 512,
    directions: Directions = "iid",
    control: bool = True,
) -> Estimate:
    """κ_p(x, r) from rounds of ``n_samples`` directions, until the standard error is ≤ ``target_stderr``.

    The rounds are independent, and are merged as one sample. Near a sharp mode, where all directions agree, the first
    round is enough. Under ``jit`` nothing compiles again for another target; under ``vmap`` a batch takes as many
    rounds as its hardest point, of which each point keeps only those that it asked for, so that its result and
    ``nfe`` do not depend on the batch.

    Derivatives are forward mode only (``jax.jacfwd``), as of every loop whose length is found on the way; for
    ``jax.grad`` take ``flux``.

    A rule that stops when the standard error looks small stops a little too early: intervals cover less than their
    level, and the less the fewer units there are in a round (docs/estimators.md).

    Args:
        score_fn, x, radius, p, key, directions, control: as for ``plap_jax.flux``.
        target_stderr: > 0, in the units of κ_p; may be traced, and a traced one that is not gives NaN.
        n_samples: directions per round, at least eight independent units.
        max_samples: the budget, ≥ n_samples, rounded up to whole rounds.

    Returns:
        ``Estimate``; nfe, n_units and n_zero are those of this point, arrays, and plain_mean is False, with a
        control or without: the number of units is not fixed beforehand. Where the budget did not suffice, stderr is
        above the target.

    Raises:
        ValueError: as ``flux``, a target that is not positive, fewer than eight units per round, or a budget below one
            round.
    """
    allowed = "must be a single finite number > 0"
    require_scalar("target_stderr", target_stderr, lambda v: math.isfinite(v) and v > 0, allowed)
    x = jnp.asarray(x)
    units = n_samples // unit_size(directions, n_samples, x.size)
    require(
        units >= MIN_UNITS,
        "n_samples",
        n_samples,
        f"must hold at least {MIN_UNITS} independent units; it holds {units}",
    )
    enough = isinstance(max_samples, Integral) and max_samples >= n_samples
    require(enough, "max_samples", max_samples, f"must be an integer >= n_samples={n_samples}")
    most = -(-max_samples // n_samples)

    def one_round(i: ArrayLike) -> tuple[Moments, Array]:
        how = {"n_samples": n_samples, "directions": directions, "control": control}
        return flux_moments(score_fn, x, radius=radius, p=p, key=jax.random.fold_in(key, i), **how)[:2]

    def unfinished(state: tuple[Array, Moments, Array]) -> Array:
        i, found, _ = state
        return (i < most) & (found.stderr > target_stderr)

    def another(state: tuple[Array, Moments, Array]) -> tuple[Array, Moments, Array]:
        i, found, n_zero = state
        one, zeros = one_round(i)
        return i + 1, found.merged(one), n_zero + zeros

    n_rounds, found, n_zero = jax.lax.while_loop(unfinished, another, (jnp.asarray(1), *one_round(0)))
    good = jnp.where(jnp.isfinite(target_stderr) & jnp.greater(target_stderr, 0), 1, jnp.nan).astype(found.mean.dtype)
    value, stderr = good * found.mean, good * found.stderr
    return Estimate(value, stderr, n_rounds * n_samples, n_rounds * units, n_zero, plain_mean=False)


# Units of a round: from fewer the standard error itself is too uncertain to stop by.
MIN_UNITS = 8
