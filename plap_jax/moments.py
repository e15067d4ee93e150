"""Means and spreads of independent units, with a control variate or without, that merge as one sample."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from plap_jax.typing import Array, max_abs, safe_sqrt

# Variance that directions like none of those drawn may add, in units of the mean square of what was subtracted, over m:
# 3/m is the highest rate at which m directions would still miss them in 5 % of all samples, and each of them is off by
# twice what was subtracted from it where its field is the reverse of the others'.
MISSED = 3 * 2.0**2


class Moments(NamedTuple):
    """m units fᵢ as drawn, of which eᵢ = fᵢ − zᵢ is left once a control variate zᵢ is subtracted.

    Spreads are roots of sums of squares, since squares of large or small fields leave the range of a float.

    Attributes:
        n: m, the number of units, floating.
        mean: ē, the estimate.
        spread: √(Σ (eᵢ − ē)² + what the eᵢ share).
        drawn_mean: f̄.
        drawn_spread: √Σ (fᵢ − f̄)².
        taken_spread: √Σ (zᵢ − z̄)².
    """

    n: Array
    mean: Array
    spread: Array
    drawn_mean: Array
    drawn_spread: Array
    taken_spread: Array

    @property
    def stderr(self) -> Array:
        """√( max( S_e, min(S_e + 12 s_z², S_f) ) / m(m−1) ); S squares of the spreads, s_z² = S_z/(m−1).

        Where few directions differ from all others and none of them was drawn, nothing that is left tells of them. They
        are counted as if they came at the highest rate that a sample without them leaves likely, 3/m, with a field the
        reverse of the others'; up to the standard error of the plain mean, of which as much is claimed and no more.
        Where the control leaves less than 12/m of the variance this is larger than the error: with 13 units or fewer
        hardly less than that of the plain mean, with 16 at best 0.9 of it, with 64 at best 0.44, with 512 0.15. With
        nothing subtracted it is (sample standard deviation)/√m.
        """
        missed = (MISSED / (self.n - 1)) ** 0.5 * self.taken_spread
        counted = jnp.maximum(self.spread, jnp.minimum(jnp.hypot(self.spread, missed), self.drawn_spread))
        return counted / (self.n * (self.n - 1)) ** 0.5

    def merged(self, other: Moments) -> Moments:
        """Both as a single sample: means weighted by n, S = S_a + S_b + (difference of the means)² n_a n_b/n.

        Source: Chan, Golub and LeVeque 1983.
        """
        n = self.n + other.n
        apart, drawn_apart = other.mean - self.mean, other.drawn_mean - self.drawn_mean

        def together(a: Array, b: Array, difference: Array) -> Array:
            return jnp.hypot(jnp.hypot(a, b), (self.n * other.n / n) ** 0.5 * difference)

        return Moments(
            n,
            self.mean + apart * (other.n / n),
            together(self.spread, other.spread, apart),
            self.drawn_mean + drawn_apart * (other.n / n),
            together(self.drawn_spread, other.drawn_spread, drawn_apart),
            together(self.taken_spread, other.taken_spread, drawn_apart - apart),
        )


def moments(drawn: Array, left: Array, shared: Array | float = 0.0) -> Moments:
    """Of m units as drawn, and of what is left of each: both ``(m,)``, the same where nothing was subtracted.

    Args:
        drawn, left: fᵢ and eᵢ.
        shared: ≥ 0, its square is added to the squares of e: what its units have in common and their spread hides.
    """
    scale = max_abs(drawn, left)
    values = jnp.stack([left, drawn, drawn - left]) / scale
    means = jnp.mean(values, axis=1)
    spreads = safe_sqrt(jnp.sum((values - means[:, None]) ** 2, axis=1))
    mean, drawn_mean = scale * means[:2]
    spread, drawn_spread, taken_spread = scale * spreads
    return Moments(
        jnp.asarray(len(drawn), drawn.dtype), mean, jnp.hypot(spread, shared), drawn_mean, drawn_spread, taken_spread
    )
