"""LHSD: local intrinsic dimension from the spectrum of the Hessian, softly cut (Osada, ICML 2026)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from matfree import decomp

from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.memory import points_at_once
from plap_jax.typing import Array, Estimate, PRNGKey, require, standard_error


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LHSD(Detector):
    """Minus the local intrinsic dimension at the image, from the eigenvalues of the Hessian, softly cut.

    −tr f(−H), f(λ) = 1/(1 + exp((λ − κ)/w)), H = (J + Jᵀ)/2, J = ∇s at αx₀, κ = 0.4/σ², w = 0.12 κ.

    Osada (ICML 2026, arXiv 2605.01221), local Hessian spectral dimension. Normal to the data −H is 1/σ², along it
    near 0: f counts the directions along it, of which a memorized image has none. Unlike in FLIPD's trace, thousands of
    normal directions do not add up their errors. The trace is taken by stochastic Lanczos quadrature with Rademacher
    probes; that of a probe is exact once it has as many steps as H has distinct eigenvalues.

    The Jacobian of a network is not symmetric, and the method needs it to be: its symmetric part is used, to which
    forward and reverse mode contribute one product each. Where Lanczos has nothing left to add, as at a memorized
    image, where −σ²H = I, it stops there, without rounding errors in the place of eigenvalues.

    Args:
        sigma: noise level, > 0, within the schedule.
        n_probes: ≥ 2.
        n_steps: Lanczos steps per probe, ≥ 1; at most d are taken.
        threshold: κσ², > 0, no unit.
        width: w/κ, > 0, no unit.
    """

    sigma: float
    n_probes: int = field(default=4, metadata={"static": True})
    n_steps: int = field(default=10, metadata={"static": True})
    threshold: float = 0.4
    width: float = 0.12
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True
    needs_derivatives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = isinstance(self.n_probes, Integral) and self.n_probes >= 2
        require(whole, "n_probes", self.n_probes, "must be an integer >= 2: one probe has no standard error")
        whole = isinstance(self.n_steps, Integral) and self.n_steps >= 1
        require(whole, "n_steps", self.n_steps, "must be an integer >= 1")

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus the dimension, no unit."""
        return self.estimate(model, query, key).value

    def estimate(self, model: Diffusion, query: Query, key: PRNGKey) -> Estimate:
        """The statistic with its standard error over probes."""
        t = model.schedule.time_at(self.sigma)
        centre, _ = model.ball(query.image, t)
        # Of ε̂ = −σs the product is −σJv: in units of 1/σ² nothing is large or small at any noise level.
        _, forward = jax.linearize(model.eps_at(t, query.prompt), centre)
        reverse = jax.linear_transpose(forward, centre)
        sigma = model.schedule.sigma(t).astype(centre.dtype)

        def hessian(v: Array) -> Array:
            v = v.reshape(centre.shape)
            return (sigma / 2 * (forward(v) + reverse(v)[0])).reshape(-1)

        def tangent(eigenvalue: Array) -> Array:
            return jax.nn.sigmoid((self.threshold - eigenvalue) / (self.width * self.threshold))

        steps = self._steps(centre.size)
        probes = jax.random.rademacher(key, (self.n_probes, centre.size), centre.dtype)
        at_once = min(self.n_probes, points_at_once(centre.size, 4 * steps))
        units = lax.map(lambda v: quadrature(hessian, v, tangent, steps), probes, batch_size=at_once)
        # Negated: a memorized image is a point, of dimension 0.
        return Estimate(-jnp.mean(units), standard_error(units), self.nfe(centre.size), self.n_probes)

    def nfe(self, dim: int) -> int:
        """The score, and for each step of each probe two products of two evaluations."""
        return 1 + 4 * self.n_probes * self._steps(dim)

    def _steps(self, dim: int) -> int:
        return min(self.n_steps, dim)


def quadrature(matvec: Callable[[Array], Array], v: Array, f: Callable[[Array], Array], n_steps: int) -> Array:
    """vᵀ f(A) v by Lanczos quadrature, A symmetric: |v|² Σ_k w_k f(θ_k), θ_k and w_k of the tridiagonal matrix.

    Args:
        matvec: x ↦ Ax on flat vectors.
        v: ``(d,)``, no coordinate 0.
        f: of eigenvalues ``(n_steps,)``.
        n_steps: products, 1 to d.

    Returns:
        A scalar; NaN where A holds NaN.
    """
    square = v @ v
    # For symmetric A, Arnoldi's iteration with full reorthogonalization is Lanczos'. Of its two sides the lower one,
    # not their mean as in matfree's ``tridiag_sym``: where nothing is left of Av, the next vector consists of rounding
    # errors and the upper side may be as large as A, but the lower side is 0, which keeps that vector out. Where
    # nothing at all is left, the next vector is 0/0.
    found = decomp.hessenberg(n_steps, reortho="full", custom_vjp=False)(matvec, v / jnp.sqrt(square)).J_small
    diagonal, below = jnp.diagonal(found), jnp.diagonal(found, -1)
    # A NaN of A itself is already in the first entry, which stays.
    diagonal = diagonal.at[1:].set(jnp.where(jnp.isnan(diagonal[1:]), 0, diagonal[1:]))
    below = jnp.where(jnp.isnan(below), 0, below)
    tridiagonal = jnp.diag(diagonal) + jnp.diag(below, 1) + jnp.diag(below, -1)
    eigenvalues, vectors = jnp.linalg.eigh(tridiagonal)
    return square * jnp.sum(vectors[0] ** 2 * f(eigenvalues))
