"""Guidance, on mixtures whose captions are their components: the conditional and the unconditional score are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from plap_jax import GaussianMixture
from plap_jax.diffusion import Diffusion, VPLinear
from plap_jax.networks.mlp import ResidualMLP
from plap_jax.sampling import DDIM, Guided, guided, sample
from tests.helpers.analytic_network import exact_diffusion

KEY = jax.random.key(0)
MIXTURE = ([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.04, 0.09], "spherical")
X, T, CAPTION = np.array([0.2, -0.3]), 0.3, 1


score_of = jax.jit(lambda diffusion, x, condition: diffusion.score(x, T, condition))
score_of_mixture = jax.jit(GaussianMixture.score)


def scores(prediction="score", guidance=1.0):
    """Guided score, and those of the component and of the mixture in closed form."""
    schedule, mixture, x = VPLinear(), GaussianMixture(*MIXTURE), jnp.asarray(X)
    level = schedule.alpha(T), schedule.sigma(T)
    component = GaussianMixture([1.0], mixture.means[1:], [0.09], "spherical")
    diffusion = guided(exact_diffusion(mixture, schedule, prediction), guidance)
    known = (score_of_mixture(one.noised(*level), x) for one in (component, mixture))
    return score_of(diffusion, x, CAPTION), *known


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow", "score"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.5])
def test_guidance_is_that_of_the_score_whatever_is_predicted(prediction, guidance, x64):
    found, conditional, unconditional = scores(prediction, guidance)
    assert np.linalg.norm(conditional - unconditional) > 0.1
    np.testing.assert_allclose(found, unconditional + guidance * (conditional - unconditional), rtol=1e-9)


def test_without_a_condition_guidance_is_idle():
    diffusion, x = exact_diffusion(GaussianMixture(*MIXTURE), VPLinear()), jnp.asarray(X)
    for condition in (None, -1):
        found, expected = (score_of(one, x, condition) for one in (guided(diffusion, 4.0), diffusion))
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=str(condition))


@pytest.fixture(scope="module")
def captioned():
    network = ResidualMLP((2,), width=8, depth=1, n_conditions=3, rngs=nnx.Rngs(0))
    network.last.kernel[...] = jax.random.normal(KEY, network.last.kernel.shape)
    return Diffusion(network, VPLinear(), conditioning="log_snr")


def test_a_network_of_ours_is_guided_by_two_calls_of_it(captioned):
    x = jnp.asarray(X)
    unconditional, conditional = captioned.eps(x, T, -1), captioned.eps(x, T, 2)
    expected = unconditional + 2.5 * (conditional - unconditional)
    np.testing.assert_allclose(guided(captioned, 2.5).eps(x, T, 2), expected, rtol=1e-5)
    np.testing.assert_allclose(guided(captioned, 1).eps(x, T, 2), conditional, rtol=1e-5)
    np.testing.assert_allclose(guided(captioned, 0).eps(x, T, 2), unconditional, rtol=1e-5)


def test_another_scale_compiles_nothing(captioned):
    compiled = jax.jit(lambda diffusion, x, condition: diffusion.eps(x, T, condition))
    for guidance in (0, 1.5, np.float32(3), jnp.asarray(7.0)):
        compiled(guided(captioned, guidance), jnp.asarray(X), 2)
    assert compiled._cache_size() == 1


def test_samples_of_a_caption_are_of_its_component():
    diffusion = exact_diffusion(GaussianMixture(*MIXTURE), VPLinear())
    captions = np.tile([0, 1, -1], 100)
    x = sample(guided(diffusion, 1.0), KEY, 300, shape=(2,), sampler=DDIM(50), conditions=captions)[:, 0]
    assert np.all(x[captions == 0] < 0) and np.all(x[captions == 1] > 0)
    assert 0.5 < np.mean(x[captions == -1] > 0) < 0.9
    # Leaning away from the other caption: beyond the mean of the own component.
    strong = sample(guided(diffusion, 4.0), KEY, 300, shape=(2,), sampler=DDIM(50), conditions=captions)[:, 0]
    assert strong[captions == 1].mean() > x[captions == 1].mean() + 0.1
    np.testing.assert_allclose(strong[captions == -1], x[captions == -1], atol=1e-5)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), [1.0, 2.0], "much"])
def test_a_scale_that_is_no_number_is_refused(guidance, captioned):
    with pytest.raises(ValueError) as refused:
        guided(captioned, guidance)
    assert str(refused.value) == f"guidance={guidance!r}: must be a single finite number"


def test_a_guided_network_is_a_pytree(captioned):
    leaves, structure = jax.tree.flatten(Guided(captioned.network, jnp.float32(2)))
    assert any(leaf is not None and jnp.shape(leaf) == () and leaf == 2 for leaf in leaves)
    assert isinstance(jax.tree.unflatten(structure, leaves), Guided)
