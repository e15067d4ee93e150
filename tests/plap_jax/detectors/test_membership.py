"""Detectors of membership, and the oracle: closed forms, plain NumPy twins, counted cost, refusals."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import GaussianMixture
from plap_jax.detectors.base import Query
from plap_jax.detectors.copy_ratio import CopyRatio
from plap_jax.detectors.pia import PIA
from plap_jax.detectors.secmi import SecMI
from plap_jax.detectors.sima import SimA
from plap_jax.diffusion import DiscreteVP, VPLinear
from tests.helpers import numpy_twin
from tests.helpers.analytic_network import exact_diffusion, traces
from tests.helpers.counting_network import cost

D, KEY, SIGMA = 4, jax.random.key(1), 0.5
SCHEDULE = VPLinear()
RNG = np.random.default_rng(2)
MEANS = RNG.normal(size=(3, D))
MIXED = ([0.2, 0.3, 0.5], MEANS, np.array([0.3, 0.1, 0.6]))
POINTS = ([1 / 3] * 3, 5 * MEANS, np.zeros(3))
IMAGES = np.concatenate([MEANS, RNG.normal(size=(2, D))])
PROMPTS = np.array([-1, 0, 1, 2, -1])
DETECTORS = {"secmi": SecMI(SIGMA, n_steps=4), "pia": PIA(SIGMA), "sima": SimA(SIGMA)}


@pytest.fixture(autouse=True)
def double(x64):
    """Twins are held to rounding."""


def model(mixture, schedule=SCHEDULE, prediction="eps"):
    return exact_diffusion(GaussianMixture(*mixture, "spherical"), schedule, prediction)


def scores(detector, mixture, images):
    padded = np.concatenate([images, IMAGES])[:5]
    return detector.scores(model(mixture), Query(image=padded, prompt=np.full(5, -1)), key=KEY)[: len(images)]


# Twins: one image, float64, the schedule by its own formula.


def alpha_of(t):
    return math.exp(-(t**2) * 19.9 / 4 - t * 0.1 / 2)


def time_of(sigma):
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.sqrt(1 - alpha_of(middle) ** 2) < sigma else (low, middle)
    return low


def noise(mixture, prompt, x, t):
    weights, means, variances = mixture
    chosen = [prompt] if prompt >= 0 else range(3)
    weights = np.array([weights[k] for k in chosen])
    covariances = np.stack([variances[k] * np.eye(D) for k in chosen])
    alpha = alpha_of(t)
    sigma = math.sqrt(1 - alpha**2)
    law = numpy_twin.Mixture(weights / weights.sum(), means[list(chosen)], covariances).noised(alpha, sigma)
    return -sigma * law.score(x[None])[0]


def twin_sima(detector, mixture, prompt, x):
    return -sum(e**4 for e in noise(mixture, prompt, x, time_of(detector.sigma)))


def twin_pia(detector, mixture, prompt, x):
    t = time_of(detector.sigma)
    first = noise(mixture, prompt, x, 1e-3)
    again = noise(mixture, prompt, alpha_of(t) * x + detector.sigma * first, t)
    return -sum((a - b) ** 4 for a, b in zip(first, again, strict=True))


def twin_secmi(detector, mixture, prompt, x):
    t, n = time_of(detector.sigma), detector.n_steps
    times = [1e-3 + (t - 1e-3) * i / n for i in range(n + 2)]

    def moved(x, start, end):
        eps = noise(mixture, prompt, x, start)
        clean = (x - math.sqrt(1 - alpha_of(start) ** 2) * eps) / alpha_of(start)
        return alpha_of(end) * clean + math.sqrt(1 - alpha_of(end) ** 2) * eps

    for i in range(n):
        x = moved(x, times[i], times[i + 1])
    back = moved(moved(x, times[n], times[n + 1]), times[n + 1], times[n])
    return -sum((a - b) ** 2 for a, b in zip(back, x, strict=True))


TWINS = {SecMI: twin_secmi, PIA: twin_pia, SimA: twin_sima}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_twin_agrees_and_another_level_compiles_nothing(name):
    detector, exact = DETECTORS[name], model(MIXED)
    asked = Query(image=IMAGES, prompt=PROMPTS)
    first = detector.scores(exact, asked, key=KEY)
    compiled = traces["count"]
    found = {SIGMA: first, 0.2: replace(detector, sigma=0.2).scores(exact, asked, key=KEY)}
    assert traces["count"] == compiled
    for sigma, values in found.items():
        twin, at = TWINS[type(detector)], replace(detector, sigma=sigma)
        expected = [twin(at, MIXED, c, x) for x, c in zip(IMAGES, PROMPTS, strict=True)]
        np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=f"sigma={sigma}")
        assert np.ptp(expected) > 1e-4


@pytest.mark.parametrize("name", DETECTORS)
def test_cost_is_what_is_claimed_and_sums_are_in_float32(name):
    # In half precision a fourth power of 16 is already infinite.
    image = jnp.asarray([40.0, -20.0, 30.0], jnp.float16)
    detector = DETECTORS[name]
    spent, value = cost(detector, Query(image=image, prompt=jnp.asarray(0)), KEY)
    assert spent == detector.nfe(3)
    assert value.dtype == jnp.float32 and np.isfinite(value)
    assert SecMI(SIGMA).nfe(64) == 12


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_missing_or_out_of_range_is_refused(name):
    detector, exact = DETECTORS[name], model(MIXED)
    assert detector.needs == {"image"} and detector.takes_prompt
    with pytest.raises(ValueError, match="queries.image=None: is needed by"):
        detector.scores(exact, Query(prompt=PROMPTS), key=KEY)
    with pytest.raises(ValueError, match="must be of a floating dtype"):
        detector.scores(exact, Query(image=np.zeros((2, D), np.uint8)), key=KEY)
    for sigma in (1e-4, 1.5):
        with pytest.raises(ValueError, match="sigma=.* must lie in"):
            replace(detector, sigma=sigma).scores(exact, Query(image=IMAGES), key=KEY)


def test_a_memorized_image_is_found_again():
    images = POINTS[1]
    assert np.abs(scores(replace(DETECTORS["secmi"], sigma=0.2), POINTS, images)).max() < 1e-12
    assert np.abs(scores(replace(DETECTORS["pia"], sigma=0.2), POINTS, images)).max() < 1e-12
    # x₀ itself is asked about, while the mode lies at αx₀.
    alpha = math.sqrt(1 - 0.2**2)
    expected = -np.sum(((1 - alpha) * images / 0.2) ** 4, axis=1)
    np.testing.assert_allclose(scores(replace(DETECTORS["sima"], sigma=0.2), POINTS, images), expected, rtol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
def test_members_are_higher_than_others(name):
    # A narrow component around each member, as a model that has overfitted; the others lie between them.
    overfit = ([1 / 3] * 3, MEANS, np.full(3, 0.01))
    others = (MEANS + np.roll(MEANS, 1, axis=0)) / 2
    detector = replace(DETECTORS[name], sigma=0.3)
    assert scores(detector, overfit, MEANS).min() > scores(detector, overfit, others).max()


def test_detectors_of_equal_fields_are_not_taken_for_each_other():
    # JAX compares registered dataclasses by their static fields and forgets their class.
    exact, asked = model(MIXED), Query(image=IMAGES, prompt=PROMPTS)
    found = [kind(SIGMA).scores(exact, asked, key=KEY) for kind in (PIA, SimA)]
    assert np.all(np.abs(found[0] - found[1]) > 1e-3 * np.abs(found[0]))


def test_secmi_takes_whole_steps_of_a_table():
    table = DiscreteVP.linear(50)
    sigma = float(table.sigma(20))
    times, above = SecMI(sigma, n_steps=8).times(table)
    np.testing.assert_array_equal(times, np.round(np.linspace(0, 20, 9)))
    assert jnp.issubdtype(times.dtype, jnp.integer) and above == 22  # 2.5 steps, rounded to even
    # More steps than the table has: the last one is still a step.
    assert SecMI(float(table.sigma(2)), n_steps=8).times(table)[1] == 3
    exact = exact_diffusion(GaussianMixture(*MIXED, "spherical"), table)
    assert np.all(SecMI(sigma, n_steps=8).scores(exact, Query(image=IMAGES), key=KEY) < 0)


def test_secmi_needs_room_above():
    for schedule in (SCHEDULE, DiscreteVP.linear(50)):
        top = float(schedule.sigma(schedule.t_max))
        with pytest.raises(ValueError, match="sigma=.*leaves no room for the step above"):
            SecMI(top).scores(model(MIXED, schedule), Query(image=IMAGES), key=KEY)
    for steps in (0, 2.5):
        with pytest.raises(ValueError, match="n_steps=.*must be an integer >= 1"):
            SecMI(SIGMA, n_steps=steps)


def test_copy_ratio_is_that_of_plain_loops():
    rng = np.random.default_rng(3)
    reference, images = rng.normal(size=(20, 2, 2)), rng.normal(size=(6, 2, 2))
    images[0] = reference[7]
    detector, seen = CopyRatio(reference), []
    asked = Query(image=images, prompt=np.arange(6))
    found = detector.scores(None, asked, key=KEY, progress=lambda done, n: seen.append((done, n)))
    expected = []
    for image in images:
        first, second = sorted(
            math.sqrt(sum((a - b) ** 2 for a, b in zip(image.flat, r.flat, strict=True))) for r in reference
        )[:2]
        expected.append(-first / second)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0] == 0 == found.max() and seen == [(6, 6)]
    one = [detector.statistic(None, Query(image=image), KEY) for image in images]
    np.testing.assert_allclose(one, expected, rtol=1e-12)
    assert detector.nfe(4) == 0 and detector.needs == {"image", "training data"} and not detector.takes_prompt


def test_copy_ratio_refuses():
    reference = np.random.default_rng(4).normal(size=(5, D))
    with pytest.raises(ValueError, match="queries.image=None: is needed by CopyRatio"):
        CopyRatio(reference).scores(None, Query(), key=KEY)
    with pytest.raises(ValueError, match="must hold each point once"):
        CopyRatio(np.concatenate([reference, reference])).scores(None, Query(image=IMAGES), key=KEY)
    with pytest.raises(ValueError, match="points of the reference's shape"):
        CopyRatio(reference[:, :2]).scores(None, Query(image=IMAGES), key=KEY)


def test_copy_ratio_of_bytes_does_not_wrap():
    reference = np.array([[250, 0], [0, 250], [10, 10]], np.uint8)
    image = np.array([[240, 5]], np.uint8)
    apart = np.sort(np.linalg.norm(reference.astype(float) - image.astype(float), axis=1))
    detector = CopyRatio(reference)
    for found in (
        detector.scores(None, Query(image=image), key=KEY)[0],
        detector.statistic(None, Query(image=image[0]), KEY),
    ):
        np.testing.assert_allclose(found, -apart[0] / apart[1], rtol=1e-6)
