"""Every detector, sampler and likelihood on every path: what a formula that takes α² + σ² = 1 or α = 1 would get wrong.

Two paths with the same σ/α at the same time differ by the scale of x_t alone, and so must everything computed on them.
"""

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import plap_jax.detectors
from plap_jax import GaussianMixture
from plap_jax.detectors import (
    FLIPD,
    LHSD,
    PIA,
    Anisotropy,
    BallAverage,
    CLiD,
    CopyRatio,
    CurvatureDifference,
    DenoisingLoss,
    Detector,
    DSMGap,
    FluxDensity,
    FluxGap,
    ManifoldBias,
    NoiseGapNorm,
    NormalBundle,
    PLaplacianAt,
    QuantileRegression,
    Query,
    ScoreNorm,
    SecMI,
    Sharpness,
    SimA,
    UpdateNorm,
)
from plap_jax.diffusion import EDM, VE, DiscreteVP, RectifiedFlow, VPCosine, VPLinear
from plap_jax.sampling import DDIM, ProbabilityFlow, ReverseSDE, log_likelihood
from plap_jax.trajectories import flux_along
from tests.helpers import numpy_twin
from tests.helpers.analytic_network import exact_diffusion

D, KEY = 4, jax.random.key(3)
RNG = np.random.default_rng(8)
MEANS = RNG.normal(size=(3, D))
MIXTURE = ([0.2, 0.3, 0.5], MEANS, np.array([0.3, 0.1, 0.6]), "spherical")
IMAGES, NOISE, PROMPTS = RNG.normal(size=(5, D)), RNG.normal(size=(5, D)), np.array([0, 1, 2, 0, 1])
SIGMA = 0.45  # of a variance-preserving schedule


@jax.tree_util.register_static
@dataclass(frozen=True)
class Straight(VPLinear):
    """The path of flow matching at the clock of VPLinear: at every time the same σ/α, and α + σ = 1."""

    def alpha(self, t):
        return super().alpha(t) / (super().alpha(t) + super().sigma(t))

    def sigma(self, t):
        return super().sigma(t) / (super().alpha(t) + super().sigma(t))

    def _time(self, sigma):
        return super()._time(sigma / jnp.hypot(sigma, 1 - sigma))


# Detector, and the power of α by which its score must be multiplied to be free of the scale of x_t: a score is 1/unit.
EVERYWHERE = [
    (BallAverage(SIGMA, n_samples=2), 1),
    (CLiD(SIGMA, n_samples=3), 0),
    (CopyRatio(MEANS), 0),
    (CurvatureDifference(SIGMA, n_probes=2), 2),
    (DenoisingLoss(SIGMA, n_samples=3), 0),
    (FLIPD(SIGMA), 0),
    (FLIPD(SIGMA, n_probes=2), 0),
    (FluxDensity(SIGMA, n_samples=4), 0),
    (FluxDensity(SIGMA, p=2.5, n_samples=4), 1.5),
    (FluxGap(SIGMA, n_samples=4), 0),
    (LHSD(SIGMA, n_probes=2, n_steps=3), 0),
    (ManifoldBias(SIGMA, n_samples=4), 0),
    (NormalBundle(SIGMA), 0),
    (PLaplacianAt(SIGMA), 1),
    (PLaplacianAt(SIGMA, p=2.0), 2),
    (QuantileRegression(SIGMA, np.full(17, 0.1), np.zeros(17), np.ones(17), 0.3, n_samples=3), 0),
    (ScoreNorm(SIGMA), 1),
]
# These depend on the schedule's clock or ends too, or take the image itself for x_t.
WITH_THE_CLOCK = [
    (Anisotropy(SIGMA), 0),
    (DSMGap(n_steps=6), 0),
    (NoiseGapNorm(n_steps=6, first=3), 0),
    (PIA(SIGMA), 0),
    (SecMI(SIGMA, n_steps=3), -2),
    (Sharpness(), 3),
    (SimA(SIGMA), 0),
    (UpdateNorm(n_steps=6, first=3), 0),
    (UpdateNorm(n_steps=6), 0),
]


@pytest.fixture(autouse=True)
def double(x64):
    """Closed forms are held to rounding."""


def name(thing):
    return type(thing).__name__


def model(schedule, prediction="score"):
    return exact_diffusion(GaussianMixture(*MIXTURE), schedule, prediction)


@cache
def scores(schedule, with_the_clock=False):
    """Scores of the images by every detector at one σ/α, free of the scale of x_t: one program, or it takes minutes."""
    t = schedule.time_at_ratio(SIGMA / np.sqrt(1 - SIGMA**2))
    detectors, powers = zip(*(WITH_THE_CLOCK if with_the_clock else EVERYWHERE), strict=True)
    noise = NOISE * float(schedule.sigma(schedule.t_max))  # as of ``initial_point``
    asked = Query(image=IMAGES, prompt=PROMPTS, noise=noise, guidance=np.full(len(IMAGES), 2.0))
    found = at_once(detectors, MIXTURE, schedule, float(schedule.sigma(t)), asked)
    alphas = [float(schedule.alpha(schedule.t_max if isinstance(each, Sharpness) else t)) for each in detectors]
    return {each: v * a**k for each, v, a, k in zip(detectors, found, alphas, powers, strict=True)}


def at_once(detectors, mixture, schedule, sigma, asked):
    """The scores by each detector at this σ, as one program."""
    exact = exact_diffusion(GaussianMixture(*mixture), schedule)
    fields = [{name: sigma for name in ("sigma", "sigma_low") if getattr(each, name, None)} for each in detectors]
    there = [replace(each, **field) for each, field in zip(detectors, fields, strict=True)]
    found = jax.jit(jax.vmap(lambda one: [each.statistic(exact, one, KEY) for each in there]))(asked)
    return [np.asarray(values) for values in found]


def test_no_detector_is_left_out():
    known = {getattr(plap_jax.detectors, each) for each in plap_jax.detectors.__all__}
    kinds = {each for each in known if isinstance(each, type) and issubclass(each, Detector)} - {Detector}
    assert kinds == {type(detector) for detector, _ in EVERYWHERE + WITH_THE_CLOCK}


@pytest.mark.parametrize("schedule", [RectifiedFlow(), pytest.param(EDM(), marks=pytest.mark.slow)], ids=name)
def test_detectors_are_the_same_at_the_same_noise_to_signal(schedule):
    found, expected = scores(schedule), scores(VPLinear())
    for detector, _ in EVERYWHERE:
        np.testing.assert_allclose(found[detector], expected[detector], rtol=1e-5, err_msg=str(detector))


def test_detectors_that_follow_the_clock_are_the_same_on_the_straight_path():
    found, expected = scores(Straight(), True), scores(VPLinear(), True)
    for detector, _ in WITH_THE_CLOCK:
        # The noise of the largest level, taken at a low one, is not free of α there, which is 0.0066.
        rtol = 0.05 if isinstance(detector, Anisotropy) else 1e-6
        np.testing.assert_allclose(found[detector], expected[detector], rtol=rtol, err_msg=str(detector))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [VPCosine(), VE(), EDM(), DiscreteVP.linear(1000), RectifiedFlow()], ids=name)
def test_every_detector_gives_numbers_on_every_schedule(schedule):
    for values in (scores(schedule) | scores(schedule, True)).values():
        assert np.isfinite(values).all()


def twin_score(x, t):
    """Of the straight path x_t = (1 − t) x₀ + t ε, by textbook formulae."""
    covariances = np.stack([v * np.eye(D) for v in MIXTURE[2]])
    return numpy_twin.Mixture(MIXTURE[0], MEANS, covariances).noised(1 - t, t).score(x[None])[0]


def test_flow_matching_against_a_plain_twin():
    """Membership detectors of a flow, with its own formulae: x̂₀ = x − t u and ε̂ = x + (1 − t) u."""
    schedule, t, image, n = RectifiedFlow(), 0.3, IMAGES[0], 3
    exact, asked = model(schedule, "flow"), Query(image=IMAGES[:1])

    def moved(x, start, end):
        eps = -start * twin_score(x, start)
        u = (eps - x) / (1 - start)
        return (1 - end) * (x - start * u) + end * (x + (1 - start) * u)

    def as_published(t):
        return image * np.sqrt((1 - t) ** 2 + t**2)

    sima = -np.sum((t * twin_score(as_published(t), t)) ** 4)
    np.testing.assert_allclose(SimA(t).scores(exact, asked, key=KEY), sima, rtol=1e-5)
    first = -schedule.t_min * twin_score(as_published(schedule.t_min), schedule.t_min)
    again = -t * twin_score((1 - t) * image + t * first, t)
    np.testing.assert_allclose(PIA(t).scores(exact, asked, key=KEY), -np.sum((first - again) ** 4), rtol=1e-5)
    times = schedule.t_min + (t - schedule.t_min) * np.arange(n + 2) / n
    x = as_published(schedule.t_min)
    for i in range(n):
        x = moved(x, times[i], times[i + 1])
    back = moved(moved(x, times[n], times[n + 1]), times[n + 1], times[n])
    np.testing.assert_allclose(SecMI(t, n_steps=n).scores(exact, asked, key=KEY), -np.sum((back - x) ** 2), rtol=1e-5)


def test_a_perfectly_memorized_image_is_found_by_a_flow():
    """Even at 1 − α = σ a copy leaves nothing to remove, and κ₁ = 1."""
    points, asked = ([1 / 3] * 3, 5 * MEANS, np.zeros(3), "spherical"), Query(image=5 * MEANS, guidance=np.ones(3))
    detectors = (FluxDensity(0.1), DenoisingLoss(0.1), ScoreNorm(0.1), PIA(0.1), SecMI(0.1), SimA(0.1))
    kappa, *rest, sima = at_once(detectors, points, RectifiedFlow(), 0.1, asked)
    np.testing.assert_allclose(kappa, 1, rtol=1e-6)
    for detector, values in zip(detectors[1:], rest, strict=False):
        np.testing.assert_allclose(values, 0, atol=1e-8, err_msg=name(detector))
    # x₀ itself in the place of x_t: 1 − α of variance preserved is left at the same σ/α, and no more.
    alpha, sigma = 0.9 / np.hypot(0.9, 0.1), 0.1 / np.hypot(0.9, 0.1)
    np.testing.assert_allclose(sima, -np.sum(((1 - alpha) * 5 * MEANS / sigma) ** 4, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "rtol"),
    [
        (DDIM(12), 1e-9),
        (DDIM(12, eta=1.0), 1e-9),
        pytest.param(ProbabilityFlow(1e-8, 1e-8), 1e-5, marks=pytest.mark.slow),
        pytest.param(ReverseSDE(2e-3, 2e-3), 0.02, marks=pytest.mark.slow),
    ],
)
def test_samples_are_the_same_on_the_straight_path(sampler, rtol):
    start, ends = jnp.asarray(NOISE[0]), []
    for schedule in (VPLinear(), Straight()):
        factor = schedule.alpha(schedule.t_max) / VPLinear().alpha(schedule.t_max)
        ends.append(sampler(model(schedule), KEY, factor * start))
    np.testing.assert_allclose(ends[1], ends[0], rtol=rtol, atol=rtol)


@pytest.mark.slow
def test_likelihood_is_the_same_on_the_straight_path():
    found = []
    for schedule in (VPLinear(), Straight()):
        law = GaussianMixture(*MIXTURE).noised(schedule.alpha(schedule.t_max), schedule.sigma(schedule.t_max))
        prior, alpha = Partial(GaussianMixture.log_prob, law), schedule.alpha(schedule.t_min)
        value = log_likelihood(model(schedule), alpha * IMAGES[0], prior=prior, rtol=1e-7, atol=1e-7)
        found.append(value + D * jnp.log(alpha))  # the density of x_t/α
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_flux_along_the_way_is_the_same_on_the_straight_path():
    along = []
    for schedule in (VPLinear(), Straight()):
        start = schedule.alpha(schedule.t_max) / VPLinear().alpha(schedule.t_max) * NOISE[0]
        way = DDIM(4).trajectory(model(schedule), KEY, start, jnp.asarray(1))
        along.append(flux_along(model(schedule), way, 1, key=KEY, n_samples=4))
    for kind in ("unconditional", "conditional", "gap"):
        one, other = (getattr(each, kind) for each in along)
        np.testing.assert_allclose(other.value, one.value, rtol=1e-6, atol=1e-9)
