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

from plap_jax.detectors.base import EVALUATIONS, Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, PRNGKey, accumulation_dtype, require, require_point

# Entries of d × d matrices held at a time: 256 MiB in float32.
MOMENT_NUMBERS = 2**26


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
        n_samples: noised points, one evaluation each, ≥ d; None takes 4d.
        threshold: smallest large singular value, > 0, no unit; None for the largest drop.
    """

    sigma: float
    n_samples: int | None = field(default=None, metadata={"static": True})
    threshold: float | None = 0.25
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """Minus the dimension, an integer as a float; no unit. Under ``jit`` on several CPU devices use ``scores``."""
        moment = self._moment.statistic(model, query, key)
        found = self._rule(jnp.linalg.eigvalsh(moment)).astype(moment.dtype)
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
        """As of every detector; eigenvalues are taken on the host, by blocks of images."""
        # Within the program that evaluates the network, LAPACK and matrix products of two CPU devices can wait for each
        # other for ever.
        queries, n = self._checked(queries)
        block = max(1, MOMENT_NUMBERS // math.prod(np.shape(queries.image)[1:]) ** 2)
        found = np.full(n, np.nan, np.float32)
        for start in range(0, n, block):
            rows = slice(start, min(start + block, n))
            part = jax.tree.map(lambda a, rows=rows: a[rows], queries)
            report = partial(_report, progress, start, n) if callable(progress) else progress
            moments = self._moment.scores(model, part, key=key, batch_size=batch_size, progress=report)
            finite = np.isfinite(moments).all(axis=(1, 2))
            found[rows][finite] = self._rule(np.linalg.eigvalsh(moments[finite]))
        return self._finite(found)

    def nfe(self, dim: int) -> int:
        """One per noised point."""
        return self._moment.nfe(dim)

    @property
    def _moment(self) -> _SecondMoment:
        return _SecondMoment(self.sigma, self.n_samples)

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
class _SecondMoment(Detector):
    """E ε̂ε̂ᵀ, the mean over noised points, ``(d, d)``: in the form of a detector, to be evaluated like one."""

    sigma: float
    n_samples: int | None = field(metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = NormalBundle.needs
    takes_prompt: ClassVar[bool] = NormalBundle.takes_prompt

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        require_point(query.image)
        t = model.schedule.time_at(self.sigma)
        shape, dim, n = query.image.shape, query.image.size, self.nfe(query.image.size)
        require(n >= dim, "n_samples", self.n_samples, f"must be None or at least d={dim}: fewer do not span the space")
        noise = jax.random.normal(key, (n, *shape), query.image.dtype)

        def predicted(eps: Array) -> Array:
            return model.eps(model.noised(query.image, t, eps), t, query.prompt).reshape(-1)

        rows = jax.lax.map(predicted, noise, batch_size=min(n, EVALUATIONS))
        rows = rows.astype(accumulation_dtype(rows.dtype)) / math.sqrt(n)
        return rows.T @ rows

    def nfe(self, dim: int) -> int:
        return 4 * dim if self.n_samples is None else self.n_samples

    def _finite(self, found: np.ndarray) -> np.ndarray:
        return found  # judged by image, in NormalBundle


def _report(progress: Callable[[int, int], None], start: int, n: int, done: int, _: int) -> None:
    progress(start + done, n)
