"""Normal bundle: intrinsic dimension from the rank of nearby scores (Stanczuk et al., ICML 2024)."""

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

# Entries of the n × d and d × d matrices that the host holds at a time, over several images: 256 MiB in float32.
HOST_NUMBERS = 2**26
# The largest d, whose matrix alone is 1 GiB in float32.
LARGEST = 2**14


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NormalBundle(Detector):
    """Minus the local intrinsic dimension at the image, from the rank of the scores around it.

    −( d − #{i : ς_i large} ), ς_i singular values of the n × d matrix of σ s(αx₀ + σε_j)/√n, ε_j ~ N(0, I).

    Scores around a point of a manifold span its normal space; the remaining dimensions are the manifold's (Stanczuk et
    al., ICML 2024; for memorization Ross et al., ICLR 2025). σs = −ε̂ is the predicted noise, so ς has an absolute
    scale: 1 ± √(d/n), that is [½, 3/2] for n = 4d, in directions where noise is removed completely, and near 0 along
    the manifold. Large means ς > threshold, by default halfway to the lower edge.

    The published rule, ``threshold=None``, cuts at the largest drop ς_i − ς_{i+1}, i < d. It ignores the scale: it
    never finds dimension 0, that of a memorized image, but cuts somewhere within the noise; and where s has a nonzero
    mean, as off the centre, the first drop is the largest and the answer is d − 1.

    The result is an integer, so ties are frequent and an AUC must count them half.

    Args:
        sigma: noise level, > 0, within the schedule.
        n_samples: noised points, one evaluation each, ≥ d; None: 4d. Rounded up to whole chunks if there are more than
            ``plap_jax.memory`` allows at a time.
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
            ValueError: d² above 2²⁰, more than a device should hold at a time; ``scores`` holds the matrix on the
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
        """As ``Detector.scores``. Devices hold a chunk of the noised points; the host sums the d × d matrix.

        Raises:
            ValueError: as ``Detector.scores``, or d above 16,384, whose matrix would exceed 1 GiB.
        """
        # On the host also because LAPACK and matrix products of two CPU devices can deadlock within the program that
        # evaluates the network.
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
        """One chunk of rows of the n × d matrix, which ``scores`` evaluates at a time."""
        return _Rows(self.sigma, chunk, self.n_samples)

    def _rule(self, eigenvalues: Any) -> Any:
        """#large − d from ascending eigenvalues ``(..., d)``, NumPy or JAX; negated: a point has dimension 0."""
        # Squaring costs digits only below 1e-3, far from the threshold.
        values = eigenvalues.clip(0)[..., ::-1] ** 0.5
        dim = values.shape[-1]
        if self.threshold is not None:
            return (values > self.threshold).sum(axis=-1) - dim
        # A single value has no drop and counts as large.
        drops = values[..., :-1] - values[..., 1:] if dim > 1 else values
        return drops.argmax(axis=-1) + 1 - dim


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Rows(Detector):
    """One chunk of the n × d matrix, ``(size, d)``, in the form of a detector so that it is evaluated like one."""

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
        return found  # checked per image, in NormalBundle


def _chunks(n_samples: int | None, dim: int) -> tuple[int, int]:
    """Number of chunks, and noised points per chunk."""
    n = 4 * dim if n_samples is None else n_samples
    require(n >= dim, "n_samples", n_samples, f"must be None or at least d={dim}: fewer do not span the space")
    n_chunks = -(-n // evaluations_at_once(dim))
    return n_chunks, -(-n // n_chunks)


def _report(progress: Callable[[int, int], None], start: int, n: int, done: int, _: int) -> None:
    progress(start + done, n)
