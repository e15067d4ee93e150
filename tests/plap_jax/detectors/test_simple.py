"""Denoising loss and score norm: closed forms, plain NumPy twins, counted cost, refusals."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import GaussianMixture
from plap_jax.detectors.base import Query
from plap_jax.detectors.denoising_loss import DenoisingLoss
from plap_jax.detectors.score_norm import ScoreNorm
from plap_jax.diffusion import EDM, Diffusion, VPLinear
from tests.helpers import numpy_twin
from tests.helpers.analytic_network import exact_diffusion, traces
from tests.helpers.counting_network import cost

D, KEY, SIGMA, MANY = 4, jax.random.key(4), 0.3, 800
SCHEDULE = VPLinear()
RNG = np.random.default_rng(6)
# One shape for all models, so that each detector is compiled once.
MEANS = RNG.normal(size=(3, D))
FACTORS = RNG.normal(size=(3, D, D)) / 2
MIXED = ([0.2, 0.3, 0.5], MEANS, FACTORS @ FACTORS.transpose(0, 2, 1))
POINTS = ([1 / 3] * 3, 5 * MEANS, np.zeros((3, D, D)))
IMAGES = np.concatenate([MEANS, RNG.normal(size=(2, D))])
PROMPTS = np.array([-1, 0, 1, 2, -1])
DETECTORS = {"denoising loss": DenoisingLoss(SIGMA, n_samples=3), "score norm": ScoreNorm(SIGMA)}


@pytest.fixture(autouse=True)
def double(x64):
    """Twins are held to rounding."""


def scores(detector, mixture, images, prompts=-1, schedule=SCHEDULE):
    exact = exact_diffusion(GaussianMixture(*mixture), schedule)
    return detector.scores(exact, Query(image=images, prompt=np.broadcast_to(prompts, len(images))), key=KEY)


# Twins: one image, float64, from textbook scores; only the random draws are shared.


def score(mixture, prompt, x, alpha, sigma):
    weights, means, covariances = mixture
    if prompt >= 0:
        weights, means, covariances = [1.0], means[[prompt]], covariances[[prompt]]
    return numpy_twin.Mixture(weights, means, covariances).noised(alpha, sigma).score(x[None])[0]


def twin_denoising_loss(detector, mixture, prompt, image, alpha):
    sigma, total = detector.sigma, 0
    for noise in np.asarray(jax.random.normal(KEY, (detector.n_samples, D), jnp.float64)):
        found = -sigma * score(mixture, prompt, alpha * image + sigma * noise, alpha, sigma)
        total += sum((noise - found) ** 2)
    return -total / detector.n_samples / D


def twin_score_norm(detector, mixture, prompt, image, alpha):
    return -math.sqrt(sum(score(mixture, prompt, alpha * image, alpha, detector.sigma) ** 2))


TWINS = {DenoisingLoss: twin_denoising_loss, ScoreNorm: twin_score_norm}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_twin_agrees_and_another_level_compiles_nothing(name):
    detector = DETECTORS[name]
    first = scores(detector, MIXED, IMAGES, PROMPTS)
    compiled = traces["count"]
    found = {SIGMA: first, 0.8: scores(replace(detector, sigma=0.8), MIXED, IMAGES, PROMPTS)}
    assert traces["count"] == compiled
    for sigma, values in found.items():
        twin, at, alpha = TWINS[type(detector)], replace(detector, sigma=sigma), math.sqrt(1 - sigma**2)
        expected = [twin(at, MIXED, c, x, alpha) for x, c in zip(IMAGES, PROMPTS, strict=True)]
        np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=f"sigma={sigma}")
    # α = 1, σ far above 1.
    found = scores(replace(detector, sigma=3.0), MIXED, IMAGES, PROMPTS, EDM())
    at = replace(detector, sigma=3.0)
    expected = [TWINS[type(detector)](at, MIXED, c, x, 1.0) for x, c in zip(IMAGES, PROMPTS, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
def test_cost_is_what_is_claimed(name):
    image = jnp.asarray([0.5, -1.0, 0.3], jnp.float16)
    spent, value = cost(DETECTORS[name], Query(image=image, prompt=jnp.asarray(0)), KEY)
    assert spent == DETECTORS[name].nfe(3)
    assert value.dtype == jnp.float32 and value.shape == ()
    assert DenoisingLoss(SIGMA).nfe(9) == 16 and ScoreNorm(SIGMA).nfe(9) == 1


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_missing_or_out_of_range_is_refused(name):
    detector = DETECTORS[name]
    exact = exact_diffusion(GaussianMixture(*MIXED), SCHEDULE)
    assert detector.needs == {"image"} and detector.takes_prompt
    with pytest.raises(ValueError, match="^queries.image=None: is needed by [A-Za-z]+$"):
        detector.scores(exact, Query(prompt=PROMPTS, noise=IMAGES), key=KEY)
    with pytest.raises(ValueError, match="must be of a floating dtype"):
        detector.scores(exact, Query(image=np.zeros((2, D), np.uint8)), key=KEY)
    for sigma in (1e-4, 1.5):
        with pytest.raises(ValueError, match="sigma=.* must lie in"):
            scores(replace(detector, sigma=sigma), MIXED, IMAGES)
    for n in (0, 2.5):
        with pytest.raises(ValueError, match="n_samples=.*must be an integer >= 1"):
            DenoisingLoss(SIGMA, n_samples=n)


def test_a_gaussian_in_closed_form():
    sigma, alpha = 0.6, 0.8
    covariance = MIXED[2][1]
    inverse = np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(D))
    off = (IMAGES - MEANS[1]) @ inverse
    steep = alpha * np.linalg.norm(off, axis=1)
    np.testing.assert_allclose(scores(ScoreNorm(sigma), MIXED, IMAGES, 1), -steep, rtol=1e-6)
    kept = alpha**2 * covariance @ inverse
    expected = (np.trace(kept @ kept) + (alpha * sigma) ** 2 * np.sum(off**2, axis=1)) / D
    # Variance of ‖Aε − b‖²: 2 tr (AᵀA)² + 4 ‖Aᵀb‖².
    square = kept @ kept.T
    variance = 2 * np.trace(square @ square) + 4 * (alpha * sigma) ** 2 * np.sum((off @ kept) ** 2, axis=1)
    found = scores(DenoisingLoss(sigma, n_samples=MANY), MIXED, IMAGES, 1)
    stderr = np.sqrt(variance / MANY) / D
    assert np.all(np.abs(found + expected) < 4 * stderr)
    assert np.all(expected > 8 * stderr)  # or a wrong sign would pass


@pytest.mark.parametrize("name", DETECTORS)
def test_a_memorized_image_has_nothing_left_to_remove(name):
    detector, sigma = replace(DETECTORS[name], sigma=0.1), 0.1
    # Images whose own point is by far the nearest: the distance to it is all that is left.
    far = POINTS[1] + 0.05 * np.random.default_rng(7).normal(size=(3, D))
    images = np.concatenate([POINTS[1], far])[:5]
    found, alpha = scores(detector, POINTS, images), math.sqrt(1 - sigma**2)
    away = np.linalg.norm(images - np.concatenate([POINTS[1]] * 2)[:5], axis=1)
    expected = (alpha * away / sigma) ** 2 / D if name == "denoising loss" else alpha * away / sigma**2
    np.testing.assert_allclose(found, -expected, rtol=1e-6, atol=1e-9)
    assert found[:3].min() > found[3:].max()


def test_one_image_is_the_same_alone():
    # The same draws for every image: its statistic does not depend on the others.
    for detector in DETECTORS.values():
        both, alone = scores(detector, MIXED, IMAGES, PROMPTS), scores(detector, MIXED, IMAGES[[3] * 5], 2)
        np.testing.assert_allclose(alone, both[3], rtol=1e-12)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loud:
    """ε̂ = 3,000 everywhere."""

    def __call__(self, x, t, condition=None):
        return jnp.full_like(x, 3000)


def test_half_precision_does_not_overflow():
    loud, n = Diffusion(Loud(), SCHEDULE), 128**2
    query = Query(image=jnp.ones((128, 128), jnp.float16))
    found = ScoreNorm(0.02).statistic(loud, query, KEY)
    np.testing.assert_allclose(found, -3000 * math.sqrt(n) / 0.02, rtol=1e-3)
    noise = np.asarray(jax.random.normal(KEY, (2, 128, 128), jnp.float32), np.float64)
    found = DenoisingLoss(SIGMA, n_samples=2).statistic(loud, query, KEY)
    np.testing.assert_allclose(found, -np.mean((noise - 3000) ** 2), rtol=1e-5)
