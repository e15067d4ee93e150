"""The flux with as many directions as each point needs: sampling stops when the standard error is small enough."""

from __future__ import annotations

import math
from numbers import Integral
from typing import NamedTuple

import jax
import jax.numpy as jnp

from plap_jax._flux import flux_units
from plap_jax.directions import MIN_UNITS, Directions, unit_size
from plap_jax.typing import (
    Array,
    ArrayLike,
    Estimate,
    PRNGKey,
    ScoreFn,
    require,
    require_key,
    require_scalar,
    standard_error,
)


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
) -> Estimate:
    """The flux density to a wanted precision: directions are added until the standard error is small enough.

    κ_p(x, r) from rounds of ``n_samples`` directions, until the standard error is ≤ ``target_stderr``.

    The rounds are independent and pooled as one sample. Near a sharp mode, where all directions agree, the first round
    is enough. Another target does not recompile.

    Cost in batches: under ``vmap`` (and ``map_points``) the loop runs for every point until the hardest point of the
    batch is done. Points that are finished discard the extra rounds, so a result does not depend on its batch; but the
    network is still called for them: a batch of n points spends n · max(nfe) evaluations, not Σ nfe. Sort points by
    difficulty, or use small batches, where that matters.

    Differentiable in forward mode only (``jax.jacfwd``), like every ``while_loop``; for ``jax.grad`` use ``flux``.

    Stopping when the standard error looks small means stopping slightly too early: intervals cover less than their
    nominal level, the more so the fewer units a round has (docs/estimators.md).

    Args:
        score_fn, x, radius, p, key, directions: as for ``plap_jax.flux``.
        target_stderr: > 0, in the units of κ_p; may be traced, and gives NaN if it is traced and not positive.
        n_samples: directions per round, at least eight independent units.
        max_samples: the budget, ≥ n_samples, rounded up to whole rounds.

    Returns:
        ``Estimate``; nfe, n_units and n_zero are arrays and count what this point used, not what its batch spent.
        ``fixed_n_units`` is False. If the budget ran out, stderr is above the target.

    Raises:
        ValueError: as ``flux``, a target that is not positive, fewer than eight units per round, or a budget below one
            round.

    Example:
        >>> q = GaussianMixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.ones(1), covariance_type="spherical")
        >>> kappa = adaptive_flux(q.score, jnp.ones(3), radius=0.5, key=jax.random.key(0), target_stderr=0.05)
        >>> kappa.value, kappa.stderr, kappa.nfe  # nfe: what it took
    """
    require_key(key)
    allowed = "must be a single finite number > 0"
    require_scalar("target_stderr", target_stderr, lambda v: math.isfinite(v) and v > 0, allowed)
    x = jnp.asarray(x)
    units = n_samples // unit_size(directions, n_samples, x.size)
    allowed = f"must hold at least {MIN_UNITS} independent units; it holds {units}"
    require(units >= MIN_UNITS, "n_samples", n_samples, allowed)
    enough = isinstance(max_samples, Integral) and max_samples >= n_samples
    require(enough, "max_samples", max_samples, f"must be an integer >= n_samples={n_samples}")
    most = -(-max_samples // n_samples)

    def one_round(i: ArrayLike) -> Rounds:
        how = {"radius": radius, "p": p, "n_samples": n_samples, "directions": directions}
        drawn, n_zero = flux_units(score_fn, x, key=jax.random.fold_in(key, i), **how)
        return Rounds(jnp.asarray(1), jnp.mean(drawn), standard_error(drawn) * (units * (units - 1)) ** 0.5, n_zero)

    def unfinished(found: Rounds) -> Array:
        return (found.n < most) & (found.stderr(units) > target_stderr)

    def another(found: Rounds) -> Rounds:
        return found.merged(one_round(found.n), units)

    found = jax.lax.while_loop(unfinished, another, one_round(0))
    good = jnp.where(jnp.isfinite(target_stderr) & jnp.greater(target_stderr, 0), 1, jnp.nan).astype(found.mean.dtype)
    value, stderr = good * found.mean, good * found.stderr(units)
    return Estimate(value, stderr, found.n * n_samples, found.n * units, found.n_zero, fixed_n_units=False)


class Rounds(NamedTuple):
    """Rounds with the same number of units, pooled as one sample.

    Attributes:
        n: number of rounds.
        mean: of all units.
        spread: √Σ (unit − mean)², not its square, which could overflow or underflow.
        n_zero: directions on which the score vanished.
    """

    n: Array
    mean: Array
    spread: Array
    n_zero: Array

    def stderr(self, units: int) -> Array:
        """(sample standard deviation)/√m over the m = n · ``units`` units."""
        m = (self.n * units).astype(self.spread.dtype)
        return self.spread / jnp.sqrt(m) / jnp.sqrt(m - 1)

    def merged(self, one: Rounds, units: int) -> Rounds:
        """With one more round: S = S_a + S_b + (difference of the means)² m_a m_b/(m_a + m_b) (Chan et al. 1983)."""
        n, apart = self.n + one.n, one.mean - self.mean
        weight = (one.n / n).astype(apart.dtype)
        between = jnp.sqrt(units * self.n * weight) * apart
        spread = jnp.hypot(jnp.hypot(self.spread, one.spread), between)
        return Rounds(n, self.mean + weight * apart, spread, self.n_zero + one.n_zero)
