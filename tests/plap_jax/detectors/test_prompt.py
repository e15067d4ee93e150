"""Detectors that take a prompt and the initial noise: closed forms, plain NumPy twins, counted cost, refusals."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import GaussianMixture
from plap_jax.detectors.anisotropy import Anisotropy
from plap_jax.detectors.base import Query
from plap_jax.detectors.dsm_gap import DSMGap
from plap_jax.detectors.noise_gap import NoiseGapNorm
from plap_jax.detectors.sharpness import Sharpness
from plap_jax.detectors.update_norm import UpdateNorm
from plap_jax.diffusion import EDM, Diffusion, DiscreteVP, VPLinear
from plap_jax.sampling import DDIM, guided
from tests.helpers import numpy_twin
from tests.helpers.analytic_network import exact_diffusion, traces
from tests.helpers.counting_network import cost

D, KEY, SCHEDULE = 4, jax.random.key(0), VPLinear()
RNG = np.random.default_rng(3)
# One shape for all models, so that each detector is compiled once.
MEANS = RNG.normal(size=(3, D))
MIXED = ([0.2, 0.3, 0.5], MEANS, np.array([0.3, 0.1, 0.6]))
NOISE = RNG.normal(size=(5, D))
CAPTIONS, GUIDANCE = np.array([0, 1, 2, 0, 1]), np.array([1.0, 3.0, 0.0, 7.5, 1.0])
DETECTORS = {
    "noise gap": NoiseGapNorm(n_steps=4),
    "noise gap, first": NoiseGapNorm(n_steps=6, first=2),
    "sharpness": Sharpness(),
    "sharpness, level": Sharpness(0.7),
    "anisotropy": Anisotropy(0.4, weight=0.6),
    "dsm gap": DSMGap(n_steps=5),
    "update norm": UpdateNorm(n_steps=4),
    "update norm, region": UpdateNorm(6, 3, mean=np.array([1.0, 2.0, 3.0]), std=np.array([0.5, 0.1, 0.2])),
}


@pytest.fixture(autouse=True)
def double(x64):
    """Twins are held to rounding."""


def model(mixture):
    return exact_diffusion(GaussianMixture(*mixture, "spherical"), SCHEDULE)


def scores(name, mixture, prompts=CAPTIONS, guidance=GUIDANCE):
    """Always of five queries of the same noise."""
    query = Query(prompt=np.broadcast_to(prompts, 5), noise=NOISE, guidance=guidance)
    return DETECTORS[name].scores(model(mixture), query, key=KEY)


# Twins: one query, float64, the schedule and the law by their own formulae.


def alpha_of(t):
    return math.exp(-(t**2) * 19.9 / 4 - t * 0.1 / 2)


def sigma_of(t):
    return math.sqrt(1 - alpha_of(t) ** 2)


def law(mixture, prompt, alpha, sigma):
    weights, means, variances = mixture
    chosen = [k for k in range(3) if prompt in (-1, k) and weights[k] > 0]
    weights = np.array([weights[k] for k in chosen])
    covariances = np.stack([variances[k] * np.eye(D) for k in chosen])
    return numpy_twin.Mixture(weights / weights.sum(), means[chosen], covariances).noised(alpha, sigma)


def predicted(mixture, prompt, x, alpha, sigma):
    return -sigma * law(mixture, prompt, alpha, sigma).score(x[None])[0]


def gap_norm(mixture, prompt, x, alpha, sigma):
    return math.sqrt(sum((predicted(mixture, prompt, x, alpha, sigma) - predicted(mixture, -1, x, alpha, sigma)) ** 2))


def path(mixture, prompt, x, guidance, n_steps):
    """(x, α, σ, ε̂) at each step."""
    for i in range(n_steps):
        t = 1 - 0.999 * i / (n_steps - 1)
        alpha, sigma = alpha_of(t), sigma_of(t)
        eps = predicted(mixture, -1, x, alpha, sigma) * (1 - guidance)
        eps = eps + guidance * predicted(mixture, prompt, x, alpha, sigma)
        yield x, alpha, sigma, eps
        t -= 0.999 / (n_steps - 1)
        if i + 1 < n_steps:
            x = alpha_of(t) * (x - sigma * eps) / alpha + sigma_of(t) * eps


def twin_noise_gap(detector, mixture, prompt, x, guidance):
    norms = [
        gap_norm(mixture, prompt, x, alpha, sigma)
        for x, alpha, sigma, _ in path(mixture, prompt, x, guidance, detector.n_steps)
    ]
    norms = norms[: detector.first]
    return sum(norms) / len(norms)


def twin_sharpness(detector, mixture, prompt, x, guidance):
    sigma = sigma_of(1.0) if detector.sigma is None else detector.sigma
    both = [law(mixture, k, math.sqrt(1 - sigma**2), sigma) for k in (-1, prompt)]
    unconditional, conditional = (density.score(x[None])[0] for density in both)
    flat, sharp = (density.hessian(x[None])[0] for density in both)
    return np.linalg.norm((sharp - flat) @ (conditional - unconditional))


def twin_anisotropy(detector, mixture, prompt, x, guidance):
    sigma = detector.sigma_low
    alpha = math.sqrt(1 - sigma**2)
    size = gap_norm(mixture, prompt, x, alpha_of(1.0), sigma_of(1.0)) / math.sqrt(D)
    unconditional, conditional = (predicted(mixture, k, x, alpha, sigma) for k in (-1, prompt))
    gap = conditional - unconditional
    return size + detector.weight * unconditional @ gap / math.sqrt(unconditional @ unconditional) / math.sqrt(
        gap @ gap
    )


def twin_dsm_gap(detector, mixture, prompt, x, guidance):
    (*_, first), (*_, second), *_ = path(mixture, prompt, x, 1.0, detector.n_steps)
    return sum((second - first) ** 2)


def twin_updates(mixture, prompt, x, guidance, n_steps):
    steps = list(path(mixture, prompt, x, guidance, n_steps))
    _, alpha, sigma, eps = steps[-1]
    states = [x for x, *_ in steps] + [(steps[-1][0] - sigma * eps) / alpha]
    return [math.sqrt(sum((b - a) ** 2)) for a, b in zip(states, states[1:], strict=False)]


def twin_update_norm(detector, mixture, prompt, x, guidance):
    norms = twin_updates(mixture, prompt, x, guidance, detector.n_steps)[: detector.first]
    if detector.mean is None:
        return sum(norms) / len(norms)
    return max((u - m) / s for u, m, s in zip(norms, detector.mean, detector.std, strict=True))


TWINS = {
    UpdateNorm: twin_update_norm,
    NoiseGapNorm: twin_noise_gap,
    Sharpness: twin_sharpness,
    Anisotropy: twin_anisotropy,
    DSMGap: twin_dsm_gap,
}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_twin_agrees(name):
    detector = DETECTORS[name]
    twin = TWINS[type(detector)]
    expected = [twin(detector, MIXED, *asked) for asked in zip(CAPTIONS, NOISE, GUIDANCE, strict=True)]
    np.testing.assert_allclose(scores(name, MIXED), expected, rtol=1e-6)
    assert np.ptp(expected) > 1e-8  # or all would agree with anything


@pytest.mark.parametrize("name", DETECTORS)
def test_another_level_prompt_or_guidance_compiles_nothing(name):
    detector, asked = DETECTORS[name], Query(prompt=CAPTIONS, noise=NOISE, guidance=2.0)
    detector.scores(model(MIXED), asked, key=KEY)
    compiled = traces["count"]
    region = {"mean": np.array([0.5, 1.0, 1.5]), "std": np.array([0.3, 0.2, 0.1])}
    others = {
        "update norm, region": region,
        "sharpness, level": {"sigma": 0.5},
        "anisotropy": {"sigma_low": 0.6, "weight": 2.0},
    }
    other = replace(detector, **others.get(name, {}))
    found = other.scores(model(MIXED), replace(asked, prompt=CAPTIONS[::-1], guidance=3.0), key=KEY)
    assert traces["count"] == compiled
    queries = zip(CAPTIONS[::-1], NOISE, [3.0] * 5, strict=True)
    expected = [TWINS[type(detector)](other, MIXED, *asked) for asked in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
def test_cost_is_what_is_claimed(name):
    noise = jnp.asarray([0.5, -1.0, 0.3], jnp.float16)
    spent, value = cost(DETECTORS[name], Query(prompt=jnp.asarray(0), noise=noise), KEY)
    assert spent == DETECTORS[name].nfe(3)
    assert value.dtype == jnp.float32 and value.shape == ()


def test_claimed_costs_are_those_of_the_protocols():
    found = [DETECTORS[name].nfe(100) for name in DETECTORS]
    assert found == [2 * 4, 2 * 2, 6, 6, 4, 2, 2 * 4, 2 * 3]


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_missing_is_refused(name):
    detector, exact = DETECTORS[name], model(MIXED)
    assert detector.needs == {"prompt", "noise"}
    for field in ("prompt", "noise"):
        with pytest.raises(ValueError, match=f"^queries.{field}=None: is needed by [A-Za-z]+$"):
            detector.scores(exact, replace(Query(prompt=CAPTIONS, noise=NOISE), **{field: None}), key=KEY)
    with pytest.raises(ValueError, match="queries.prompt=-1: a prompt is needed"):
        detector.scores(exact, Query(prompt=np.array([0, -1, 1, 2, 0]), noise=NOISE), key=KEY)
    with pytest.raises(ValueError, match="must be of a floating dtype"):
        detector.statistic(exact, Query(prompt=0, noise=np.zeros(D, np.uint8)), KEY)


def test_what_is_out_of_range_is_refused():
    asked = Query(prompt=CAPTIONS, noise=NOISE)
    for sigma in (1e-4, 1.5):
        for detector in (Sharpness(sigma), Anisotropy(sigma)):
            with pytest.raises(ValueError, match="sigma=.* must lie in"):
                detector.scores(model(MIXED), asked, key=KEY)
    for steps in (1, 2.5):
        with pytest.raises(ValueError, match="n_steps=.*must be an integer >= 2"):
            DSMGap(steps)
    with pytest.raises(ValueError, match="n_steps=0: must be an integer >= 1"):
        NoiseGapNorm(0)
    for first in (0, 5, 1.5):
        with pytest.raises(ValueError, match="first=.*must be an integer in \\[1, n_steps=4\\]"):
            NoiseGapNorm(4, first=first)


@pytest.mark.parametrize("schedule", [DiscreteVP.linear(50), EDM()], ids=["table", "edm"])
def test_the_steps_are_those_of_ddim(schedule):
    exact = exact_diffusion(GaussianMixture(*MIXED, "spherical"), schedule, "x0")
    start, prompt, guidance = jnp.asarray(schedule.sigma(schedule.t_max) * NOISE[0]), jnp.asarray(1), 3.0
    way = DDIM(6).trajectory(guided(exact, guidance), KEY, start, prompt)
    levels = zip(np.asarray(way.states[:-1]), np.asarray(way.alphas), np.asarray(way.sigmas), strict=True)
    norms = [gap_norm(MIXED, 1, x, alpha, sigma) for x, alpha, sigma in levels]
    # Far more would differ by a step than by the rounding of α(t_max).
    found = NoiseGapNorm(6).statistic(exact, Query(prompt=prompt, noise=start, guidance=guidance), KEY)
    np.testing.assert_allclose(found, np.mean(norms), rtol=1e-6)
    way = DDIM(6).trajectory(exact, KEY, start, prompt)
    first, second = ((way.states[i] - way.alphas[i] * way.denoised[i]) / way.sigmas[i] for i in (0, 1))
    found = DSMGap(6).statistic(exact, Query(prompt=prompt, noise=start, guidance=guidance), KEY)
    np.testing.assert_allclose(found, np.sum((second - first) ** 2), rtol=1e-6)


def test_two_captions_of_one_width_in_closed_form():
    # a = α(μ_c − μ_o)/V, w = P(c | x): Δ = (1 − w) a and ∇w = w(1 − w) a, so J_Δ Δ = −w (1 − w)² |a|² a.
    v, share = 0.25, np.array([0.3, 0.7])
    mixture, captions = ([*share, 0.0], MEANS, np.full(3, v)), np.array([0, 1, 0, 1, 0])

    def parts(sigma):
        alpha = math.sqrt(1 - sigma**2)
        total = alpha**2 * v + sigma**2
        a = alpha * (MEANS[captions] - MEANS[1 - captions]) / total
        logs = -np.sum((NOISE[:, None] - alpha * MEANS[:2]) ** 2, axis=2) / (2 * total)
        joint = share * np.exp(logs)
        w = joint[np.arange(5), captions] / joint.sum(axis=1)
        s = np.einsum("nk,nki->ni", joint / joint.sum(axis=1)[:, None], alpha * MEANS[:2] - NOISE[:, None]) / total
        return a, np.linalg.norm(a, axis=1), w, s

    for name, sigma in (("sharpness", sigma_of(1.0)), ("sharpness, level", 0.7)):
        _, size, w, _ = parts(sigma)
        np.testing.assert_allclose(scores(name, mixture, captions), w * (1 - w) ** 2 * size**3, rtol=1e-6)
    _, size, w, _ = parts(sigma_of(1.0))
    gap = sigma_of(1.0) * (1 - w) * size
    a, small, _, s = parts(0.4)
    cosine = np.sum(a * s, axis=1) / small / np.linalg.norm(s, axis=1)
    np.testing.assert_allclose(scores("anisotropy", mixture, captions), gap / math.sqrt(D) + 0.6 * cosine, rtol=1e-6)


def test_a_prompt_that_tells_nothing_is_lowest():
    # All data behind the prompt: the gap is 0 on the whole way, and so is the cosine, rather than 0/0.
    nothing = ([1.0, 0.0, 0.0], MEANS, MIXED[2])
    for name in DETECTORS:
        if name not in ("dsm gap", "update norm", "update norm, region"):
            np.testing.assert_array_equal(scores(name, nothing, 0), 0)
            assert np.all(np.isfinite(scores(name, MIXED, 0)))


def test_the_change_over_the_first_step_of_a_gaussian():
    first, second = 1.0, 1 - 0.999 / 4
    levels = [(alpha_of(t), sigma_of(t)) for t in (first, second)]
    (alpha, sigma), (alpha_2, sigma_2) = levels
    for v in (0.0, 0.5, 2.0):
        total, total_2 = (a**2 * v + s**2 for a, s in levels)
        change = (NOISE - alpha * MEANS[1]) * alpha_2 * v * (alpha * sigma_2 - alpha_2 * sigma) / (total * total_2)
        found = scores("dsm gap", ([0.2, 0.3, 0.5], MEANS, np.array([0.3, v, 0.6])), 1)
        # One image, v = 0, is the lowest of all, against what is published of trained networks.
        np.testing.assert_allclose(found, np.sum(change**2, axis=1), rtol=1e-6, atol=1e-20)


def test_the_updates_towards_a_single_image_are_along_a_straight_line():
    # x_t = αμ + σn for the n of the start; the last update ends in μ.
    times = [1 - 0.999 * i / 3 for i in range(4)]
    alphas, sigmas = ([level(t) for t in times] + [end] for level, end in ((alpha_of, 1.0), (sigma_of, 0.0)))
    image = ([0.2, 0.3, 0.5], MEANS, np.zeros(3))
    n = (NOISE - alphas[0] * MEANS[1]) / sigmas[0]
    expected = [
        np.linalg.norm((alphas[i + 1] - alphas[i]) * MEANS[1] + (sigmas[i + 1] - sigmas[i]) * n, axis=1)
        for i in range(4)
    ]
    np.testing.assert_allclose(scores("update norm", image, 1, 1.0), np.mean(expected, axis=0), rtol=1e-6)


def test_the_region_is_that_of_the_generations_that_it_is_fitted_to():
    plain = UpdateNorm(6, 3)
    others = Query(prompt=CAPTIONS, noise=2 * NOISE, guidance=GUIDANCE)
    fitted = plain.fit(model(MIXED), others)
    asked = zip(CAPTIONS, 2 * NOISE, GUIDANCE, strict=True)
    norms = np.array([twin_updates(MIXED, *one, 6)[:3] for one in asked])
    np.testing.assert_allclose(fitted.mean, norms.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(fitted.std, norms.std(axis=0, ddof=1), rtol=1e-6)
    found = fitted.scores(model(MIXED), others, key=KEY)
    np.testing.assert_allclose(found, ((norms - norms.mean(axis=0)) / norms.std(axis=0, ddof=1)).max(axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match="^queries=1: must be at least 2"):
        plain.fit(model(MIXED), Query(prompt=CAPTIONS[:1], noise=NOISE[:1]))
    with pytest.raises(ValueError, match="^std=None: must be given if and only if mean is$"):
        UpdateNorm(6, mean=np.ones(6))
    with pytest.raises(ValueError, match=r"^mean=\(2,\): must be \(3,\), one for each step"):
        replace(plain, mean=np.ones(2), std=np.ones(2)).scores(model(MIXED), others, key=KEY)
    with pytest.raises(ValueError, match=r"first=7: must be an integer in \[1, n_steps=6\]"):
        UpdateNorm(6, first=7)


def test_the_fewer_images_behind_a_prompt_the_higher():
    # Captions of one mean and different widths: the narrower one is, the more it pulls home, and along the score.
    centre = np.broadcast_to(MEANS[0], (3, D))
    for c in range(3):
        share = np.where(np.arange(3) == c, 0.1, 0.45)
        for name in ("noise gap", "noise gap, first", "sharpness", "sharpness, level", "anisotropy"):
            widths = (np.where(np.arange(3) == c, v, 1.0) for v in (0.0, 0.2, 0.6, 1.0))
            found = [scores(name, (share, centre, v), c, 1.0) for v in widths]
            assert np.all(np.diff(found, axis=0) < 0) and np.all(np.abs(found[-1]) < 1e-12), (name, c)
    # One wider than the rest pulls away from it.
    wider = ([0.1, 0.45, 0.45], centre, np.array([2.0, 1.0, 1.0]))
    assert np.all(scores("anisotropy", wider, 0) < -0.5)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loud:
    """ε̂ = g (c + 1) x + 1000 t."""

    gap: float

    def __call__(self, x, t, condition=None):
        return self.gap * (jnp.asarray(condition, x.dtype) + 1) * x + 1000 * t.astype(x.dtype)


@pytest.mark.parametrize("gap", [100.0, 0.1])
def test_half_precision_neither_overflows_nor_swallows_the_gap(gap):
    # 128² squares of 100 are too many for float16, and 1000.1 is 1000 in it.
    loud, n = Diffusion(Loud(gap), SCHEDULE), 128**2
    query = Query(prompt=jnp.asarray(0), noise=jnp.ones((128, 128), jnp.float16))
    sigma, alpha = sigma_of(1.0), alpha_of(1.0)
    moved = alpha_of(1e-3) * (1 - sigma * (gap + 1000)) / alpha + sigma_of(1e-3) * (gap + 1000)
    expected = {
        NoiseGapNorm(3, first=1): gap * math.sqrt(n),
        Sharpness(): (gap / sigma) ** 2 * math.sqrt(n),
        Anisotropy(0.4, weight=3.0): gap + 3,
        DSMGap(2): n * (gap * moved + 1 - (gap + 1000)) ** 2,
    }
    for detector, value in expected.items():
        found = half(detector, loud, query)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, value, rtol=2e-3)


@jax.jit
def half(detector, diffusion, query):
    return detector.statistic(diffusion, query, KEY)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WholeSteps:
    """ε̂ = x, for integer levels."""

    def __call__(self, x, t, condition=None):
        assert jnp.issubdtype(t.dtype, jnp.integer)
        return x


@pytest.mark.parametrize("name", DETECTORS)
def test_a_table_is_asked_at_whole_steps(name):
    query = Query(prompt=jnp.asarray(0), noise=jnp.ones(D))
    statistic = DETECTORS[name].statistic
    assert jax.eval_shape(statistic, Diffusion(WholeSteps(), DiscreteVP.linear(200)), query, KEY).shape == ()
