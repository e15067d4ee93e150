"""Normal bundle: dimension of the space that noised scores leave out (Stanczuk et al., ICML 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.memory import NUMBERS, evaluations_at_once
from plap_jax.typing import Array, ArrayLike, PRNGKey, accumulation_dtype, at_least_float32, require, require_point

# Numbers of the n × d and d × d matrices of several images that the host holds at a time: 256 MiB in float32.
HOST_NUMBERS = 2**26
# The largest d, whose matrix alone is 1 GiB in float32.
LARGEST = 2**14


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NormalBundle(Detector):
    """−( d − #{i : ς_i large} ), ς_i singular values of the n × d matrix of σ s(αx₀ + σε_j)/√n, ε_j ~ N(0, I).

    Scores around a point of a manifold span its normal space; the rest is its dimension (Stanczuk et al., ICML 2024;
    for memorization Ross et al., ICLR 2025). σs = −ε̂ is the noise predicted, so that the ς have a scale of their own:
    where noise is removed completely they lie in 1 ± √(d/n), that is [½, 3/2] for n = 4d, and along the manifold
    near 0. Large is ς > threshold, by default halfway to the lower edge.

    The rule as published, ``threshold=None``, cuts at the largest drop ς_i − ς_{i+1}, i < d. It ignores the scale: it
    never finds dimension 0, that of a memorized image, for which it cuts somewhere within the noise; and where s has a
    mean, as off the centre, the drop after the first value is the largest and the answer is d − 1.

    An integer: ties are many, and an AUC must count them half.

    Args:
        sigma: noise level, > 0, within the schedule.
        n_samples: noised points, one evaluation each, ≥ d; None takes 4d. Where they are more than
            ``plap_jax.memory`` allows at a time, rounded up to whole chunks.
        threshold: smallest large singular value, > 0, no unit; None for the largest drop.
    """

    sigma: float
    n_samples: int | None = field(default=None, metadata={"static": True})
    threshold: float | None = 0.25
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus the dimension, an integer as a float; no unit. Under ``jit`` on several CPU devices use ``scores``.

        Raises:
            ValueError: d² above 2²⁰, more numbers than a device is to hold at a time; ``scores`` holds them on the
                host.
        """
        require_point(query.image)
        dim = query.image.size
        require(dim**2 <= NUMBERS, "d", dim, f"must be <= {math.isqrt(NUMBERS)} within one program; use scores")

        def add(moment: Array, chunk: Array) -> tuple[Array, None]:
            rows = self.rows(chunk).statistic(model, query, key)
            return moment + rows.T @ rows, None

        dtype = accumulation_dtype(query.image.dtype)
        chunks = jnp.arange(_chunks(self.n_samples, dim)[0])
        moment, _ = jax.lax.scan(add, jnp.zeros((dim, dim), dtype), chunks)
        found = self._rule(jnp.linalg.eigvalsh(moment)).astype(dtype)
        return jnp.where(jnp.all(jnp.isfinite(moment)), found, jnp.nan)

    def scores(
        self,
        model: Diffusion,
        queries: Query,
        *,
        key: PRNGKey,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | bool = False,
    ) -> np.ndarray:
        """As of every detector. Devices hold a chunk of the noised points; the d × d matrix is summed on the host.

        Raises:
            ValueError: as of every detector; d above 16,384, whose matrix would exceed 1 GiB.
        """
        # Also since, within the program that evaluates the network, LAPACK and matrix products of two CPU devices can
        # wait for each other for ever.
        queries, n = self._checked(queries)
        dim = math.prod(np.shape(queries.image)[1:])
        allowed = f"must be <= {LARGEST}: singular values of d coordinates take a matrix of d × d numbers"
        require(dim <= LARGEST, "d", dim, allowed)
        n_chunks, size = _chunks(self.n_samples, dim)
        block = max(1, HOST_NUMBERS // (dim * max(dim, size)))
        found = np.full(n, np.nan, np.float32)
        for start in range(0, n, block):
            rows = slice(start, min(start + block, n))
            part = jax.tree.map(lambda a, rows=rows: a[rows], queries)
            report = partial(_report, progress, start, n) if callable(progress) else progress
            moments = 0
            for i in range(n_chunks):
                how = {"batch_size": batch_size, "progress": report if i == n_chunks - 1 else False}
                noise = self.rows(np.int32(i)).scores(model, part, key=key, **how)
                moments += noise.mT @ noise
            finite = np.isfinite(moments).all(axis=(1, 2))
            found[rows][finite] = self._rule(np.linalg.eigvalsh(moments[finite]))
        return self._finite(found)

    def nfe(self, dim: int) -> int:
        """One per noised point."""
        return math.prod(_chunks(self.n_samples, dim))

    def rows(self, chunk: ArrayLike) -> Detector:
        """Rows of the n × d matrix, one chunk of them: what ``scores`` evaluates at a time."""
        return _Rows(self.sigma, chunk, self.n_samples)

    def _rule(self, eigenvalues: Any) -> Any:
        """#large − d from ascending eigenvalues ``(..., d)``, of NumPy or JAX: negated, as a point is dimension 0."""
        # Squared, small values lose digits, but only those below 1e-3: far from where the decision is.
        values = eigenvalues.clip(0)[..., ::-1] ** 0.5
        dim = values.shape[-1]
        if self.threshold is not None:
            return (values > self.threshold).sum(axis=-1) - dim
        # One value has no drop, and is then all there is.
        drops = values[..., :-1] - values[..., 1:] if dim > 1 else values
        return drops.argmax(axis=-1) + 1 - dim


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Rows(Detector):
    """One chunk of the n × d matrix, ``(size, d)``: in the form of a detector, to be evaluated like one."""

    sigma: float
    chunk: ArrayLike
    n_samples: int | None = field(metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = NormalBundle.needs
    takes_prompt: ClassVar[bool] = NormalBundle.takes_prompt

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        require_point(query.image)
        t = model.schedule.time_at(self.sigma)
        image = at_least_float32(query.image)
        n_chunks, size = _chunks(self.n_samples, image.size)
        own = key if n_chunks == 1 else jax.random.fold_in(key, self.chunk)

        def predicted(eps: Array) -> Array:
            return model.eps(model.noised(image, t, eps), t, query.prompt).reshape(-1)

        noise = jax.random.normal(own, (size, *image.shape), image.dtype)
        return jax.vmap(predicted)(noise) / math.sqrt(n_chunks * size)

    def nfe(self, dim: int) -> int:
        return _chunks(self.n_samples, dim)[1]

    def _finite(self, found: np.ndarray) -> np.ndarray:
        return found  # judged by image, in NormalBundle


def _chunks(n_samples: int | None, dim: int) -> tuple[int, int]:
    """How many chunks of how many noised points."""
    n = 4 * dim if n_samples is None else n_samples
    require(n >= dim, "n_samples", n_samples, f"must be None or at least d={dim}: fewer do not span the space")
    n_chunks = -(-n // evaluations_at_once(dim))
    return n_chunks, -(-n // n_chunks)


def _report(progress: Callable[[int, int], None], start: int, n: int, done: int, _: int) -> None:
    progress(start + done, n)
