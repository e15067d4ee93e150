"""The manifold-bias criterion, in pixel space or of embeddings (Brokman et al., ICLR 2025)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp

from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.directions import on_sphere, sample_directions
from plap_jax.typing import Array, PRNGKey, at_least_float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ManifoldBias(Detector):
    """The manifold-bias criterion for generated images: curvature, gradient and bias terms.

    E_u ⟨ε̂/‖ε̂‖, a u − b ε̂ + c √d x₀/‖x₀‖⟩ / √d at αx₀ + σu, u uniform on the sphere of radius √d.

    = a κ_1 − b E‖ε̂‖/√d + c E cos(ε̂, x₀): curvature, gradient and bias (Brokman, Giloni, Hofman, Vainshtein, Kojima,
    Gilboa, ICLR 2025, arXiv 2504.15470). They use it to detect generated images, at 1 % of the time and with a caption
    written for the image; here everything is in the space of the data unless ``embed`` is given.

    **The whole criterion** compares embeddings (theirs: CLIP's of decoded latents). With ``embed``, e(ε̂), e(u) and
    e(x₀) take the place of ε̂, u and x₀, and d is the length of an embedding:
    (a √d cos(e(ε̂), e(u)) − b ‖e(ε̂)‖ + c √d cos(e(ε̂), e(x₀))) / √d. Their released code has a = 1/√d, b = c = 1 and
    d = 512, and reports 1 + √d/(√d + 2) times that, which orders images alike.

    **The curvature term is κ_1 itself.** Their −(1/|B|) ∫_B ∇·(s/|s|) over the ball of radius σ√d is (√d/σ) κ_1, and
    the estimator, ⟨ε̂/‖ε̂‖, u⟩ over spherical noise, is √d κ_1 on our shell: for images of one size a multiple of
    ``FluxDensity(p=1)``, direction for direction. So (a, b, c) = (1, 0, 0) is not a new detector; the default is their
    full criterion, a = b = c = 1.

    The sign is theirs, high on a model's own images. Nothing guarantees that it suits
    memorization: with the exact score of a k-dimensional subspace the first two terms cancel, both √(1−k/d) for large
    d, and around a perfectly memorized image both are 1.

    Args:
        sigma: noise level, > 0, within the schedule.
        n_samples: directions, ≥ 2, one evaluation each.
        curvature, gradient, bias: a, b and c; no unit.
        embed: a callable pytree of one point of the shape of the image, such as "decode, then embed" of a latent; None
            for the point itself. It costs no evaluation of the network, but 2 n_samples + 1 embeddings.
    """

    sigma: float
    n_samples: int = field(default=8, metadata={"static": True})
    curvature: float = 1.0
    gradient: float = 1.0
    bias: float = 1.0
    embed: Callable[[Array], Array] | None = None
    needs: ClassVar[frozenset[Need]] = frozenset({"image"})
    takes_prompt: ClassVar[bool] = True

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The criterion divided by √d, no unit."""
        t = model.schedule.time_at(self.sigma)
        centre, radius = model.ball(query.image, t)
        directions = sample_directions(key, self.n_samples, centre.shape, "iid", centre.dtype)[:, 0]
        noise = jax.vmap(model.eps, in_axes=(0, None, None))(on_sphere(centre, radius, directions), t, query.prompt)
        # The cosine of u and of n is the same, unless u is embedded.
        spherical = directions if self.embed is None else math.sqrt(centre.size) * directions
        noise, spherical = (self._embedded(a) for a in (noise, spherical))
        image = self._embedded(at_least_float32(query.image)[None])
        root = math.sqrt(noise.shape[-1])
        terms = (
            self.curvature * _cosine(noise, spherical)
            - self.gradient * jnp.linalg.norm(noise, axis=-1) / root
            + self.bias * _cosine(noise, image)
        )
        return jnp.mean(terms)

    def _embedded(self, points: Array) -> Array:
        """Embeddings ``(n, d)`` of n points, in float32 at least."""
        if self.embed is not None:
            points = at_least_float32(jax.vmap(self.embed)(points))
        return points.reshape(len(points), -1)

    def nfe(self, dim: int) -> int:
        """One per direction."""
        return self.n_samples


def _cosine(a: Array, b: Array) -> Array:
    """Cosine of rows; 0 where one of them is exactly 0, as in ``plap_jax.flux``."""
    size = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.sum(a * b, axis=-1) / jnp.where(size == 0, 1, size)
