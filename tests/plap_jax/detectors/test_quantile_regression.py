"""Quantile regression: the rule by hand, the quantile that is kept, difficulty taken out, cost, refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import GaussianMixture
from plap_jax.detectors import DenoisingLoss, QuantileRegression, Query
from plap_jax.difficulty import NAMES, difficulty
from plap_jax.diffusion import VPLinear
from tests.helpers.analytic_network import exact_diffusion
from tests.helpers.counting_network import cost

SHAPE, KEY, SIGMA, N = (4, 4, 1), jax.random.key(2), 0.4, 200
RNG = np.random.default_rng(3)


def of_contrast(contrast):
    return (contrast[:, None, None, None] * RNG.normal(size=(len(contrast), *SHAPE))).astype(np.float32)


# The larger the contrast, the farther from the mean of the model's data, and the larger the loss.
HELD_OUT, OTHERS = (of_contrast(RNG.uniform(0.1, 2, N)) for _ in range(2))


@pytest.fixture(scope="module")
def model():
    return exact_diffusion(GaussianMixture([1.0], np.zeros((1, 16)), np.ones(1), "spherical"), VPLinear(), "score")


@jax.tree_util.register_pytree_node_class
class OfPictures:
    def __init__(self, network):
        self.network = network

    def __call__(self, x, t, condition=None):
        return self.network(x.reshape(-1), t, condition).reshape(x.shape)

    def tree_flatten(self):
        return (self.network,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@pytest.fixture(scope="module")
def pictures(model):
    return replace(model, network=OfPictures(model.network))


@pytest.fixture(scope="module")
def fitted(pictures):
    return QuantileRegression.fit(pictures, Query(image=HELD_OUT), SIGMA, key=KEY, max_fpr=0.1)


def losses(pictures, images):
    return -DenoisingLoss(SIGMA).scores(pictures, Query(image=images), key=KEY)


def test_the_rule_by_hand_in_a_program_and_for_many(pictures, fitted):
    found = fitted.scores(pictures, Query(image=OTHERS), key=KEY)
    z = (difficulty(OTHERS) - np.asarray(fitted.centre)) / np.asarray(fitted.scale)
    for i in (0, 7, 100):
        terms = [w * min(max(value, -5), 5) for w, value in zip(fitted.coefficients, z[i], strict=True)]
        assert found[i] == pytest.approx(fitted.intercept + sum(terms) - losses(pictures, OTHERS)[i], abs=1e-5)
    traced = jax.jit(jax.vmap(lambda image: fitted.statistic(pictures, Query(image=image), KEY)))(OTHERS[:3])
    np.testing.assert_allclose(traced, found[:3], atol=1e-5)
    assert found.dtype == traced.dtype == np.float32


def test_the_share_above_zero_is_kept_on_the_fitted_and_about_kept_on_others(pictures, fitted):
    own = fitted.scores(pictures, Query(image=HELD_OUT), key=KEY)
    # An optimum of the pinball loss: at most so many on either side, and those on the plane are at most 18.
    assert np.sum(own > 1e-6) <= 0.1 * N <= np.sum(own > -1e-6)
    assert np.sum(own > 1e-6) >= 0.1 * N - 18
    share = np.mean(fitted.scores(pictures, Query(image=OTHERS), key=KEY) > 0)
    assert 0.03 < share < 0.25  # binomial, and the fit's own error
    # The loss alone flags simple images; against images as hard as themselves they are flagged no more than others.
    contrast = OTHERS.std(axis=(1, 2, 3))
    assert np.corrcoef(losses(pictures, OTHERS), contrast)[0, 1] > 0.7
    assert abs(np.corrcoef(own, HELD_OUT.std(axis=(1, 2, 3)))[0, 1]) < 0.7


def test_images_alike_have_the_empirical_quantile(pictures):
    # Statistics that do not vary say nothing: q̂ is the quantile of the losses, and a larger loss is the less memorized.
    alike = np.stack([HELD_OUT[0]] * 20)
    fitted = QuantileRegression.fit(pictures, Query(image=alike), SIGMA, key=KEY, max_fpr=0.5)
    np.testing.assert_allclose(fitted.coefficients, 0, atol=1e-9)
    np.testing.assert_allclose(fitted.intercept, losses(pictures, alike)[0], rtol=1e-5)
    both = np.stack([HELD_OUT[0] - HELD_OUT[0].mean(), HELD_OUT[0] + 3])
    expected = losses(pictures, alike)[0] - losses(pictures, both)
    np.testing.assert_allclose(fitted.scores(pictures, Query(image=both), key=KEY), expected, atol=1e-5)
    assert expected[1] < -0.1


def test_cost_and_refusals(pictures, fitted):
    spent, _ = cost(fitted, Query(image=jnp.zeros(3)), KEY)  # a vector is one row of pixels
    assert spent == fitted.nfe(3) == 16
    few = Query(image=HELD_OUT[:9])
    with pytest.raises(ValueError, match="^queries=9: must be at least 10 images for max_fpr=0.1$"):
        QuantileRegression.fit(pictures, few, SIGMA, key=KEY, max_fpr=0.1)
    for name, value in {"max_fpr": 1.0, "penalty": -1.0}.items():
        with pytest.raises(ValueError, match=f"^{name}={value}: must"):
            QuantileRegression.fit(pictures, few, SIGMA, key=KEY, **{name: value})
    with pytest.raises(ValueError, match="^queries.image=.*must be \\(n, h, w, c\\)"):
        fitted.scores(pictures, Query(image=HELD_OUT[None]), key=KEY)
    with pytest.raises(ValueError, match="sigma=.* must lie in"):
        replace(fitted, sigma=1.5).scores(pictures, few, key=KEY)
    assert len(fitted.coefficients) == len(NAMES) and fitted.needs == {"image"} and fitted.takes_prompt
