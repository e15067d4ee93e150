"""Log-likelihoods under a diffusion model, by change of variables along its probability flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.operators import p_laplacian
from plap_jax.sampling.clock import ends, require_continuous, require_tolerances
from plap_jax.sampling.flow import flow_at, solve
from plap_jax.typing import (
    Array,
    ArrayLike,
    Estimate,
    PRNGKey,
    ScoreFn,
    at_least_float32,
    require,
    require_key,
    require_point,
    standard_error,
)

Prior = Callable[[Array], Array]


def log_likelihood(
    diffusion: Diffusion,
    x: Array,
    *,
    condition: Any = None,
    prior: Prior | None = None,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    max_steps: int = 4096,
    chunk: int | None = None,
) -> Array:
    """Log-likelihood of a point under a diffusion model, exact up to the ODE solver.

    log q(x) = log q_T(x_T) + ∫ ∇·F dt along dx/dt = F = f x − ½ g² s, t_min to t_max (Song et al. 2021, eq. 39).

    This is the density at t_min, of data with noise σ(t_min): compare it with GaussianMixture.noised(α(t_min),
    σ(t_min)). The divergence is exact, d Jacobian-vector products per evaluation.

    Without a ``prior``, q_T is N(0, σ(t_max)² I), which the noised data only approximate: unless α(t_max) times the
    spread of the data is small compared with σ(t_max), the result is the density of the model's samples, not of the
    data.

    Args:
        diffusion: the model; its schedule must be continuous.
        x: the point ``(*shape)``.
        condition: passed to the network.
        prior: log q_T of one point at t_max, a callable pytree; None for the log-density of N(0, σ(t_max)² I).
        rtol, atol: error allowed per step, of x in its units and of the log-likelihood in nats.
        max_steps: after that many steps the result is NaN.
        chunk: Jacobian-vector products taken at once; None as for ``p_laplacian``.

    Returns:
        A scalar in nats, dtype of ``x``, float32 at least; NaN if the solver failed.

    Raises:
        ValueError: an invalid x, a discrete schedule, tolerances not > 0, max_steps < 1, chunk < 1.
    """
    _check(diffusion, x, rtol, atol, max_steps)
    allowed = "must be None or an integer >= 1"
    require(chunk is None or (isinstance(chunk, Integral) and chunk >= 1), "chunk", chunk, allowed)
    return _exact(diffusion, at_least_float32(x), condition, prior, rtol, atol, max_steps, chunk)


def log_likelihood_estimate(
    diffusion: Diffusion,
    x: Array,
    *,
    key: PRNGKey,
    n_probes: int,
    condition: Any = None,
    prior: Prior | None = None,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    max_steps: int = 4096,
) -> Estimate:
    """Log-likelihood of a point with a stochastic trace: for large d, where the exact one is too slow.

    ``log_likelihood`` with ∇·s = E[vᵀJv] from Rademacher probes v, each kept along the whole path.

    The path itself is exact, so each probe gives an independent unbiased estimate; these are the units of the standard
    error.

    Args:
        diffusion, x, condition, prior, rtol, atol, max_steps: as for ``log_likelihood``.
        key: randomness of the probes.
        n_probes: probes, ≥ 2; one Jacobian-vector product each per evaluation.

    Returns:
        ``Estimate`` in nats; nfe counts the score and the products, six times per step of the solver.

    Raises:
        ValueError: as ``log_likelihood``, and n_probes not an integer ≥ 2, or what is no key.
    """
    _check(diffusion, x, rtol, atol, max_steps)
    require_key(key)
    whole = isinstance(n_probes, Integral) and n_probes >= 2
    require(whole, "n_probes", n_probes, "must be an integer >= 2: one probe has no standard error")
    x = at_least_float32(x)
    units, n_fields = _by_probes(diffusion, x, key, condition, prior, rtol, atol, max_steps, int(n_probes))
    return Estimate(jnp.mean(units), standard_error(units), n_fields * (n_probes + 1), n_probes)


def _check(diffusion: Diffusion, x: Array, rtol: ArrayLike, atol: ArrayLike, max_steps: int) -> None:
    require_point(x)
    require_continuous(diffusion.schedule)
    require_tolerances(rtol, atol, max_steps)


@partial(jax.jit, static_argnames=("max_steps", "chunk"))
def _exact(
    diffusion: Diffusion,
    x: Array,
    condition: Any,
    prior: Prior | None,
    rtol: ArrayLike,
    atol: ArrayLike,
    max_steps: int,
    chunk: int | None,
) -> Array:
    def with_divergence(flow: ScoreFn, x: Array) -> tuple[Array, Array]:
        return flow(x), p_laplacian(flow, x, 2.0, chunk=chunk)  # of any field, Δ_2 is the divergence

    return _along_the_flow(with_divergence, (), diffusion, x, condition, prior, rtol, atol, max_steps)[0]


@partial(jax.jit, static_argnames=("max_steps", "n_probes"))
def _by_probes(
    diffusion: Diffusion,
    x: Array,
    key: PRNGKey,
    condition: Any,
    prior: Prior | None,
    rtol: ArrayLike,
    atol: ArrayLike,
    max_steps: int,
    n_probes: int,
) -> tuple[Array, Array]:
    probes = jax.random.rademacher(key, (n_probes, *x.shape), x.dtype)

    def with_divergences(flow: ScoreFn, x: Array) -> tuple[Array, Array]:
        value, product = jax.linearize(flow, x)
        return value, jax.vmap(lambda v: jnp.vdot(v, product(v)))(probes)

    return _along_the_flow(with_divergences, (n_probes,), diffusion, x, condition, prior, rtol, atol, max_steps)


def _along_the_flow(
    with_divergence: Callable[[ScoreFn, Array], tuple[Array, Array]],
    shape: tuple[int, ...],
    diffusion: Diffusion,
    x: Array,
    condition: Any,
    prior: Prior | None,
    rtol: ArrayLike,
    atol: ArrayLike,
    max_steps: int,
) -> tuple[Array, Array]:
    """log q_T(x_T) + ∫ ∇·F dℓ from data to noise, for divergences of this ``shape``; evaluations of F."""

    def field(log_snr: Array, state: tuple[Array, Array], args: tuple) -> tuple[Array, Array]:
        point, _ = state
        value, divergence = with_divergence(flow_at(log_snr, *args), point)
        return value, divergence.astype(point.dtype)

    noisiest, cleanest = ends(diffusion.schedule, x.dtype)
    start, span, args = (x, jnp.zeros(shape, x.dtype)), (cleanest, noisiest), (diffusion, condition)
    (noise, gained), n_fields = solve(field, start, span, args, rtol=rtol, atol=atol, max_steps=max_steps)
    if prior is None:
        sigma = diffusion.schedule.sigma(jnp.asarray(diffusion.schedule.t_max, x.dtype))
        log_prior = -jnp.sum((noise / sigma) ** 2) / 2 - noise.size * (jnp.log(sigma) + math.log(2 * math.pi) / 2)
    else:
        log_prior = prior(noise)
    return log_prior + gained, n_fields
