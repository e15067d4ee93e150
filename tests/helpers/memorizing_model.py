"""Models to audit whose answer is known: an exact score that has memorized a few images among Gaussian ones."""

import jax.numpy as jnp
import numpy as np

from plap_jax import GaussianMixture
from plap_jax.diffusion import VPLinear
from plap_jax.pretrained import UserModel
from tests.helpers.analytic_network import MixtureNetwork

SHAPE, N_MEMORIZED, SPREAD = (4, 4, 1), 12, 0.3
SCHEDULE = VPLinear()


def images(n, seed, shape=SHAPE):
    """What the model takes for ordinary images."""
    return np.clip(np.random.default_rng(seed).normal(0, SPREAD, (n, *shape)), -1, 1).astype(np.float32)


MEMORIZED = images(N_MEMORIZED, seed=0)


def mixture():
    """One wide Gaussian, and a narrow one around each memorized image."""
    means = jnp.concatenate([jnp.zeros((1, *SHAPE)), MEMORIZED])
    variances = jnp.concatenate([jnp.full(1, SPREAD**2), jnp.full(N_MEMORIZED, 1e-6)])
    weights = jnp.concatenate([jnp.full(1, 0.5), jnp.full(N_MEMORIZED, 0.5 / N_MEMORIZED)])
    return GaussianMixture(weights, means, variances, "spherical")


def factory():
    """Without prompts."""
    return UserModel(MixtureNetwork(mixture(), SCHEDULE, "eps"), SCHEDULE, SHAPE)


def mistaken():
    """The same, taken for a network of x₀."""
    return UserModel(MixtureNetwork(mixture(), SCHEDULE, "eps"), SCHEDULE, SHAPE, "x0")


def prompted():
    """Prompt k ≥ 1 stands for the memorized image k − 1, prompt 0 for the Gaussian."""
    return UserModel(MixtureNetwork(mixture(), SCHEDULE, "score"), SCHEDULE, SHAPE, "score", N_MEMORIZED + 1)


def other():
    """Another training run: the same, but for what is memorized by a little."""
    found = mixture()
    moved = found._with(found.weights, found.means * 1.01, found.eigenvalues, found.eigenvectors)
    return UserModel(MixtureNetwork(moved, SCHEDULE, "eps"), SCHEDULE, SHAPE)


def unaware():
    """A model of prompts, too, that has memorized nothing, and takes no heed of them."""

    def eps(x, t, condition):
        sigma = SCHEDULE.sigma(t)
        return sigma * x / ((SCHEDULE.alpha(t) * SPREAD) ** 2 + sigma**2)

    return UserModel(eps, SCHEDULE, SHAPE, n_conditions=N_MEMORIZED + 1)


def wrong_shape():
    """Returns another shape than it was given."""
    return UserModel(lambda x, t, condition: x[0], SCHEDULE, SHAPE)


def not_traceable():
    """Asks for values while it is traced."""
    return UserModel(lambda x, t, condition: np.asarray(x) * 2, SCHEDULE, SHAPE)


def of_batches():
    """Takes many images at a time, with an axis more."""
    return UserModel(lambda x, t, condition: jnp.einsum("bhwc,c->bhwc", x, jnp.ones(SHAPE[-1])), SCHEDULE, SHAPE)


def no_model():
    """Something else."""
    return 3
