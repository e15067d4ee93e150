"""CLiD: a plain NumPy twin, its closed form for a caption apart from wide data, standard error, cost, refusals."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import GaussianMixture
from plap_jax.detectors import CLiD, Query
from plap_jax.diffusion import VPLinear
from tests.helpers import numpy_twin
from tests.helpers.analytic_network import exact_diffusion, traces
from tests.helpers.counting_network import cost

D, KEY, SIGMA, MANY = 4, jax.random.key(4), 0.3, 800
RNG = np.random.default_rng(6)
MEANS = RNG.normal(size=(3, D))
MIXED = ([0.2, 0.3, 0.5], MEANS, np.array([0.3, 0.1, 0.6]))
IMAGES = np.concatenate([MEANS, RNG.normal(size=(2, D))])
CAPTIONS = np.array([0, 1, 2, 0, 1])
ONE, SEVERAL = CLiD(SIGMA, n_samples=3), CLiD((SIGMA, 0.7), n_samples=3)


@pytest.fixture(autouse=True)
def double(x64):
    """Twins are held to rounding."""


def model(mixture):
    return exact_diffusion(GaussianMixture(*mixture, "spherical"), VPLinear())


def scores(detector, mixture=MIXED, images=IMAGES, prompts=CAPTIONS):
    return detector.scores(model(mixture), Query(image=images, prompt=prompts), key=KEY)


def loss(mixture, prompt, noise, x, sigma):
    weights, means, variances = mixture
    if prompt >= 0:
        weights, means, variances = [1.0], means[[prompt]], variances[[prompt]]
    alpha = math.sqrt(1 - sigma**2)
    law = numpy_twin.Mixture(weights, means, np.stack([v * np.eye(D) for v in variances])).noised(alpha, sigma)
    found = -sigma * law.score((alpha * x + sigma * noise)[None])[0]
    return sum((noise - found) ** 2) / D


def twin(levels, n_samples, prompt, x):
    draws = np.asarray(jax.random.normal(KEY, (n_samples, D), jnp.float64))
    gains = [loss(MIXED, -1, e, x, s) - loss(MIXED, prompt, e, x, s) for s in levels for e in draws]
    return sum(gains) / len(gains)


@pytest.mark.parametrize("detector", [ONE, SEVERAL], ids=["one level", "several"])
def test_the_twin_agrees_and_other_levels_compile_nothing(detector):
    scores(detector)
    compiled = traces["count"]
    others = {ONE: 0.8, SEVERAL: (0.6, 0.2)}[detector]
    for at in (detector, replace(detector, sigma=others)):
        expected = [twin(at.levels, 3, c, x) for c, x in zip(CAPTIONS, IMAGES, strict=True)]
        np.testing.assert_allclose(scores(at), expected, rtol=1e-6)
        assert np.ptp(expected) > 1e-3
    assert traces["count"] == compiled


def test_a_single_image_behind_a_caption_in_wide_data():
    # The caption leaves nothing to predict; without it E‖ε − ε̂‖² = d (α²vσ_x)² + α²σ²|x₀ − μ|² σ_x⁻², by C = α²v + σ².
    sigma, v = 0.6, 2.0
    alpha, total = math.sqrt(1 - sigma**2), (1 - sigma**2) * v + sigma**2
    # All weight is on the wide one, so that it alone is the model without a caption.
    laws = ([1e-30, 1 - 1e-30, 0.0], np.stack([IMAGES[3], MEANS[1], MEANS[1]]), np.array([0.0, v, 1.0]))
    found = CLiD(sigma, n_samples=MANY).estimate(
        model(laws), Query(image=jnp.asarray(IMAGES[3]), prompt=jnp.asarray(0)), KEY
    )
    kept, off = alpha**2 * v / total, alpha * sigma / total * np.linalg.norm(IMAGES[3] - MEANS[1])
    expected = kept**2 + off**2 / D
    # Variance of ‖kε − b‖²/d.
    stderr = math.sqrt((2 * D * kept**4 + 4 * kept**2 * off**2) / MANY) / D
    assert abs(found.value - expected) < 4 * stderr < expected / 4
    np.testing.assert_allclose(found.stderr, stderr, rtol=0.15)
    assert found.n_units == MANY and found.nfe == 2 * MANY
    np.testing.assert_allclose(scores(CLiD(sigma), laws, prompts=np.ones(5, int)), 0, atol=1e-12)


def test_cost_and_refusals():
    for detector, spent in ((ONE, 6), (SEVERAL, 12)):
        asked = Query(image=jnp.asarray([0.5, -1.0, 0.3], jnp.float16), prompt=jnp.asarray(0))
        found, value = cost(detector, asked, KEY)
        assert found == detector.nfe(3) == spent
        assert value.dtype == jnp.float32 and value.shape == ()
    with pytest.raises(ValueError, match="^queries.prompt=None: is needed by CLiD$"):
        scores(ONE, prompts=None)
    with pytest.raises(ValueError, match="^queries.prompt=-1: a prompt is needed by CLiD$"):
        scores(ONE, prompts=np.array([0, 1, -1, 0, 1]))
    for sigma in (1.5, (SIGMA, 1e-4)):
        with pytest.raises(ValueError, match="sigma=.* must lie in"):
            scores(CLiD(sigma))
    with pytest.raises(ValueError, match="^n_samples=1: must be an integer >= 2"):
        CLiD(SIGMA, n_samples=1)
