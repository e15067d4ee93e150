"""Gaussian mixtures with exact density, score and Hessian: ground truth for experiments, and the perfect memorizer.

A mixture noised by x_t = α x₀ + σ ε is a mixture again; with zero covariances it is the empirical distribution of its
means, and its score is that of a denoiser that has memorized its training data.
"""

from __future__ import annotations

import math
from functools import partial
from numbers import Integral
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from plap_jax.typing import Array, ArrayLike, PRNGKey, concrete, require, require_key, require_scalar

CovarianceType = Literal["full", "diag", "spherical"]

# Eigenvalues of a positive semi-definite matrix may come out this much below zero, relative to the largest.
_PSD_TOLERANCE = 1e-6


@jax.tree_util.register_pytree_with_keys_class
class GaussianMixture:
    """A Gaussian mixture with exact log-density, score and Hessian, for points of any shape.

    q(x) = Σ_k w_k N(x; μ_k, Σ_k), Σ_k = U_k diag(λ_k) U_kᵀ; noising, α²Σ + σ²I, changes the eigenvalues alone.

    Args:
        weights: ``(K,)``, nonnegative, sum 1.
        means: ``(K, *shape)``; d = prod(shape).
        covariances: "full" ``(K, d, d)`` symmetric positive semi-definite; "diag" ``(K, *shape)``; "spherical" ``(K,)``
            variances. Zero is allowed; density and score then exist only after ``noised``.
        covariance_type: which of the three.

    Raises:
        ValueError: shapes that do not agree, weights that are negative or do not sum to one, covariances that are not
            symmetric positive semi-definite, anything not finite.

    Example:
        >>> q = GaussianMixture(jnp.ones(2) / 2, jnp.array([[-1.0], [1.0]]), jnp.ones(2) / 4, "spherical")
        >>> q.log_prob(jnp.zeros(1)), q.score(jnp.zeros(1))
        >>> GaussianMixture.empirical(jnp.eye(3)).noised(0.8, 0.6).score(jnp.zeros(3))  # the perfect memorizer
    """

    weights: Array
    means: Array
    eigenvalues: Array  # (K, d), or (K, 1) when spherical
    eigenvectors: Array | None  # (K, d, d), columns; None when the axes are the coordinates

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        covariance_type: CovarianceType = "full",
    ) -> None:
        allowed = get_args(CovarianceType)
        require(
            covariance_type in allowed,
            "covariance_type",
            covariance_type,
            f"must be one of {', '.join(allowed)}",
        )
        weights, means, covariances = (_floating(a) for a in (weights, means, covariances))
        _check_shapes(weights, means, covariances, covariance_type)
        _check_values(weights, means, covariances)
        k, d = means.shape[0], math.prod(means.shape[1:])
        self.weights, self.means, self.eigenvectors = weights, means, None
        if covariance_type == "full":
            symmetric = (covariances + covariances.mT) / 2
            self.eigenvalues, self.eigenvectors = jnp.linalg.eigh(symmetric)
            _check_symmetric(covariances)
        else:
            self.eigenvalues = covariances.reshape(k, d if covariance_type == "diag" else 1)
        _check_semidefinite(self.eigenvalues)
        self.eigenvalues = jnp.maximum(self.eigenvalues, 0)

    @classmethod
    def empirical(cls, points: ArrayLike, weights: ArrayLike | None = None) -> GaussianMixture:
        """The perfect memorizer of the given points: q = Σ_k w_k δ(x − x_k), means with zero covariance.

        Args:
            points: ``(K, *shape)``, K ≥ 1; real, integers become the default float dtype.
            weights: ``(K,)``, nonnegative, sum 1; None for 1/K each.

        Returns:
            The mixture, in the units and dtype of the points; density and score exist only after ``noised``.

        Raises:
            ValueError: no points or points without an axis of coordinates, a coordinate that is not finite,
                weights that do not fit, are negative or do not sum to one.
        """
        points = _floating(points)
        require(
            points.ndim >= 2 and points.shape[0] >= 1,
            "points",
            points.shape,
            "must be (K, *shape) with K >= 1",
        )
        k = points.shape[0]
        weights = jnp.full(k, 1 / k, points.dtype) if weights is None else weights
        return cls(weights, points, jnp.zeros(k, points.dtype), "spherical")

    @property
    def dim(self) -> int:
        """Number of coordinates of a point, d."""
        return math.prod(self.means.shape[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a point."""
        return self.means.shape[1:]

    @property
    def n_components(self) -> int:
        """Number of components, K."""
        return self.means.shape[0]

    def noised(self, alpha: ArrayLike, sigma: ArrayLike) -> GaussianMixture:
        """The noised mixture, law of α x₀ + σ ε: means αμ_k, covariances α²Σ_k + σ²I; α, σ scalars."""
        for name, value in (("alpha", alpha), ("sigma", sigma)):
            require_scalar(name, value, lambda v: math.isfinite(v) and v >= 0, "must be a single finite number >= 0")
        alpha, sigma = (jnp.asarray(a, self.means.dtype) for a in (alpha, sigma))
        eigenvalues = alpha**2 * self.eigenvalues + sigma**2
        return self._with(self.weights, alpha * self.means, eigenvalues, self.eigenvectors)

    def sample(self, key: PRNGKey, n: int) -> Array:
        """``n`` independent points ``(n, *shape)``: x = μ_k + U_k diag(√λ_k) z, k ~ w, z ~ N(0, I).

        Raises:
            ValueError: n not an integer ≥ 1, or what is no key.
        """
        require_key(key)
        require(isinstance(n, Integral) and n >= 1, "n", n, "must be an integer >= 1")
        return self._sample(key, int(n))

    @partial(jax.jit, static_argnames="n")
    def _sample(self, key: PRNGKey, n: int) -> Array:
        key_k, key_z = jax.random.split(key)
        k = jax.random.choice(key_k, self.n_components, (n,), p=self.weights)
        z = jax.random.normal(key_z, (n, self.dim), self.means.dtype) * jnp.sqrt(self.eigenvalues)[k]
        if self.eigenvectors is not None:
            z = jnp.einsum("nij,nj->ni", self.eigenvectors[k], z)
        return self.means[k] + z.reshape(n, *self.shape)

    def log_prob(self, x: Array) -> Array:
        """Log-density of one point ``(*shape)``: log Σ_k w_k N(x; μ_k, Σ_k), a scalar in nats.

        Finite in float32 whenever the value itself can be represented.

        Raises:
            ValueError: x of another shape; a covariance is singular (``noised`` first). Traced values give NaN instead.
        """
        relative, reference, _, _ = self._against_nearest(x)
        return jax.nn.logsumexp(relative) + reference

    def score(self, x: Array) -> Array:
        """Score of one point, same shape: ∇ log q = Σ_k w_k(x) s_k(x), s_k = −Σ_k⁻¹(x − μ_k), w_k(x) the posterior.

        Raises:
            ValueError: as ``log_prob``.
        """
        relative, _, differences, nearest = self._against_nearest(x)
        return (nearest + jax.nn.softmax(relative) @ differences).reshape(self.shape)

    def hessian(self, x: Array) -> Array:
        """Hessian of log q at one point: Σ_k w_k(x)(−Σ_k⁻¹) + Cov_w[s_k], ``(d, d)``, symmetric.

        Raises:
            ValueError: as ``log_prob``.
        """
        relative, _, differences, _ = self._against_nearest(x)
        posterior = jax.nn.softmax(relative)
        centred = differences - posterior @ differences
        precision = jnp.broadcast_to(1 / self.eigenvalues, differences.shape)
        if self.eigenvectors is None:
            mean_precision = jnp.diag(posterior @ precision)
        else:
            mean_precision = jnp.einsum("k,kij,kj,klj->il", posterior, self.eigenvectors, precision, self.eigenvectors)
        return jnp.einsum("k,ki,kj->ij", posterior, centred, centred) - mean_precision

    def _against_nearest(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """Components against the nearest, r: ln(w_k N_k / N_r) ``(K,)``, ln N_r, s_k − s_r ``(K, d)`` and s_r ``(d,)``.

        Far from the data log-densities and scores are huge and nearly equal; subtracting them would cancel. With
        z_k = W_k(x − μ_k), W = Λ^{−1/2}Uᵀ, and g_k = z_k − z_r = (W_k − W_r)(x − μ_r) + W_k(μ_r − μ_k), in which
        components of equal covariance cancel exactly: z_k² − z_r² = g_k·(z_k + z_r), computed in units of c so that
        squares cannot overflow, and s_k − s_r = −W_kᵀg_k − (W_k − W_r)ᵀz_r.
        """
        require(jnp.shape(x) == self.shape, "x", jnp.shape(x), f"must have the shape of a point, {self.shape}")
        known = concrete(self.eigenvalues)
        require(
            known is None or bool(np.all(known > 0)),
            "covariances",
            "singular",
            "log_prob and score need a density: call noised(alpha, sigma) with sigma > 0 first",
        )
        means = self.means.reshape(self.n_components, self.dim)
        x = jnp.reshape(x, self.dim)
        root = 1 / jnp.sqrt(self.eigenvalues)
        z = root * self._to_axes(x - means)
        c = jnp.maximum(lax.stop_gradient(jnp.max(jnp.abs(z))), 1)
        r = jnp.argmin(jnp.sum(lax.stop_gradient(z / c) ** 2, axis=-1))

        change = root - root[r]
        if self.eigenvectors is None:
            turned, tilted, nearest = change * (x - means[r]), change * z[r], -root[r] * z[r]
        else:
            along, back = jnp.einsum("kij,i->kj", self.eigenvectors, x - means[r]), self._from_axes(root * z[r])
            turned, tilted, nearest = root * (along - along[r]) + change * along[r], back - back[r], -back[r]
        gap = turned + root * self._to_axes(means[r] - means)
        differences = -self._from_axes(root * gap) - tilted
        quadratic = c * jnp.sum((gap / c) * ((z + z[r]) / c), axis=-1) * c
        log_det = jnp.sum(jnp.broadcast_to(jnp.log(self.eigenvalues), z.shape), axis=-1)
        relative = -0.5 * (quadratic + log_det - log_det[r]) + jnp.log(self.weights)
        # Halved before the square: |z|²/2 may be in range where |z|² is not.
        reference = -jnp.sum((z[r] / 2) * z[r]) - 0.5 * (log_det[r] + self.dim * math.log(2 * math.pi))
        return relative, reference, differences, nearest

    def _to_axes(self, vectors: Array) -> Array:
        """U_kᵀ v_k for ``(K, d)`` vectors."""
        return vectors if self.eigenvectors is None else jnp.einsum("kij,ki->kj", self.eigenvectors, vectors)

    def _from_axes(self, vectors: Array) -> Array:
        """U_k v_k for ``(K, d)`` vectors."""
        return vectors if self.eigenvectors is None else jnp.einsum("kij,kj->ki", self.eigenvectors, vectors)

    @classmethod
    def _with(cls, weights: Array, means: Array, eigenvalues: Array, eigenvectors: Array | None) -> GaussianMixture:
        """A mixture from its parts, unchecked: what ``jit`` and ``noised`` rebuild."""
        self = object.__new__(cls)
        self.weights, self.means, self.eigenvalues, self.eigenvectors = (
            weights,
            means,
            eigenvalues,
            eigenvectors,
        )
        return self

    def tree_flatten_with_keys(self) -> tuple[tuple, None]:
        """Named leaves, for JAX."""
        names = ("weights", "means", "eigenvalues", "eigenvectors")
        return tuple((jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple) -> GaussianMixture:
        """Rebuild from leaves, for JAX."""
        return cls._with(*leaves)


def _floating(a: ArrayLike) -> Array:
    a = jnp.asarray(a)
    return a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(jnp.result_type(float))


def _check_shapes(weights: Array, means: Array, covariances: Array, covariance_type: str) -> None:
    require(means.ndim >= 2 and means.size > 0, "means", means.shape, "must be (K, *shape) with K >= 1 and d >= 1")
    k, shape, d = means.shape[0], means.shape[1:], math.prod(means.shape[1:])
    require(weights.shape == (k,), "weights", weights.shape, f"must have shape ({k},), one per mean")
    expected = {"full": (k, d, d), "diag": (k, *shape), "spherical": (k,)}[covariance_type]
    allowed = f"must have shape {expected} for covariance_type={covariance_type!r}"
    require(covariances.shape == expected, "covariances", covariances.shape, allowed)


def _check_values(weights: Array, means: Array, covariances: Array) -> None:
    for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
        known = concrete(value)
        require(
            known is None or bool(np.all(np.isfinite(known))),
            name,
            known,
            "must be finite (no NaN, no infinity)",
        )
    known = concrete(weights)
    if known is not None:
        total = float(known.astype(np.float64).sum())
        require(bool(np.all(known >= 0)), "weights", known, "must be nonnegative")
        require(abs(total - 1) <= 1e-5, "weights", known, f"must sum to 1; they sum to {total:.6g}")


def _check_symmetric(covariances: Array) -> None:
    known = concrete(covariances)
    if known is not None:
        asymmetry, largest = (np.abs(a).max(axis=(1, 2)) for a in (known - known.mT, known))
        allowed = f"must be symmetric; entries differ from their mirror by up to {asymmetry.max():.3g}"
        require(bool(np.all(asymmetry <= 1e-5 * largest)), "covariances", known, allowed)


def _check_semidefinite(eigenvalues: Array) -> None:
    known = concrete(eigenvalues)
    if known is not None:
        lowest, highest = known.min(axis=1), np.maximum(known.max(axis=1), 0)
        allowed = "must be positive semi-definite; this is the smallest eigenvalue"
        fits = bool(np.all(lowest >= -_PSD_TOLERANCE * highest))
        require(fits, "covariances", float(lowest.min()), allowed)
