"""CLiD: how much the prompt improves the prediction of the noise (Zhai et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from plap_jax.detectors.base import Detector, Need, Query
from plap_jax.diffusion import Diffusion
from plap_jax.sampling import NO_CONDITION
from plap_jax.typing import Array, Estimate, PRNGKey, at_least_float32, require, require_point, standard_error


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CLiD(Detector):
    """How much the prompt improves the prediction of the noise: the conditional likelihood discrepancy.

    E‖ε − ε̂(x_t)‖²/d − E‖ε − ε̂(x_t | c)‖²/d, x_t = αx₀ + σε, the mean over noise levels; the same ε in both.

    Zhai et al. (NeurIPS 2024, arXiv 2405.14800): a network overfits the law of images given their captions more than
    that of images alone, so that members gain more from their caption. For exact scores the expectation over images and
    their captions is ≥ 0, and a prompt with a single image gains all that is left without it.

    This is the indicator itself, against the empty prompt. Their attacks also compare with captions that are shortened
    or noised, and feed the differences to a threshold on two statistics or to a trained classifier; both are left out.

    Args:
        sigma: noise level, or several, > 0, within the schedule.
        n_samples: draws, ≥ 2, two evaluations each at each level; the same for all images and levels.
    """

    sigma: float | Sequence[float]
    n_samples: int = field(default=8, metadata={"static": True})
    needs: ClassVar[frozenset[Need]] = frozenset({"image", "prompt"})

    def __post_init__(self) -> None:
        whole = isinstance(self.n_samples, Integral) and self.n_samples >= 2
        require(whole, "n_samples", self.n_samples, "must be an integer >= 2: one draw has no standard error")

    def statistic(self, model: Diffusion, query: Query, key: PRNGKey) -> Array:
        """The difference of two mean squares, no unit."""
        return self.estimate(model, query, key).value

    def estimate(self, model: Diffusion, query: Query, key: PRNGKey) -> Estimate:
        """The statistic with its standard error over draws, each of which is used at all levels."""
        require_point(query.image)
        image = at_least_float32(query.image)
        prompt = jnp.asarray(query.prompt)
        prompts = jnp.stack([jnp.full_like(prompt, NO_CONDITION), prompt])
        noise = jax.random.normal(key, (self.n_samples, *image.shape), image.dtype)

        def gain(t: Array, noise: Array) -> Array:
            x = model.noised(image, t, noise)
            without, given = jax.vmap(model.eps, in_axes=(None, None, 0))(x, t, prompts)
            # Of two squares that nearly agree, (ε − a)² − (ε − b)² would lose the digits that this keeps.
            return jnp.mean((given - without) * (2 * noise - without - given))

        times = jnp.stack([model.schedule.time_at(level) for level in self.levels])
        units = jnp.mean(lax.map(lambda t: jax.vmap(gain, in_axes=(None, 0))(t, noise), times), axis=0)
        return Estimate(jnp.mean(units), standard_error(units), self.nfe(image.size), self.n_samples)

    @property
    def levels(self) -> tuple[float, ...]:
        """See ``Detector``."""
        return tuple(self.sigma) if isinstance(self.sigma, Sequence) else (self.sigma,)

    def nfe(self, dim: int) -> int:
        """Two per draw and level."""
        return 2 * self.n_samples * len(self.levels)
