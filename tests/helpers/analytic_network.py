"""Networks that are exact: what a perfectly trained model of a Gaussian mixture would predict, as pytrees."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from plap_jax import GaussianMixture
from plap_jax.diffusion import Diffusion, Schedule, convert

traces = {"count": 0}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MixtureNetwork:
    """The mixture noised to time t, seen through any prediction; condition k leaves component k alone, −1 all."""

    mixture: GaussianMixture
    schedule: Schedule = field(metadata={"static": True})
    prediction: str = field(default="score", metadata={"static": True})

    def __call__(self, x, t, condition=None):
        traces["count"] += 1
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        mixture = self.mixture.noised(alpha, sigma)
        if condition is not None:
            chosen = (jnp.arange(mixture.n_components) == condition) | (condition == -1)
            weights = jnp.where(chosen, mixture.weights, 0)
            mixture = mixture._with(weights / weights.sum(), mixture.means, mixture.eigenvalues, mixture.eigenvectors)
        return convert(mixture.score(x), x, alpha, sigma, "score", self.prediction).astype(x.dtype)


def exact_diffusion(mixture, schedule, prediction="score"):
    return Diffusion(MixtureNetwork(mixture, schedule, prediction), schedule, prediction)
