"""Detectors of the geometry around an image: closed forms, plain NumPy twins, counted cost, refusals."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import special

from plap_jax import GaussianMixture
from plap_jax.curvature_map import curvature_difference
from plap_jax.detectors import normal_bundle
from plap_jax.detectors.ball_average import BallAverage
from plap_jax.detectors.base import Query, gap_at
from plap_jax.detectors.curvature_difference import CurvatureDifference
from plap_jax.detectors.flipd import FLIPD
from plap_jax.detectors.flux_density import FluxDensity
from plap_jax.detectors.flux_gap import FluxGap
from plap_jax.detectors.lhsd import LHSD, quadrature
from plap_jax.detectors.manifold_bias import ManifoldBias
from plap_jax.detectors.normal_bundle import NormalBundle
from plap_jax.detectors.p_laplacian_at import PLaplacianAt
from plap_jax.diffusion import EDM, Diffusion, DiscreteVP, VPLinear
from plap_jax.directions import sample_directions, uniform_in_ball
from tests.helpers import numpy_twin
from tests.helpers.analytic_network import exact_diffusion, traces
from tests.helpers.counting_network import cost

D, KEY, SIGMA, MANY = 6, jax.random.key(3), 0.3, 600
RNG = np.random.default_rng(5)
# One shape for all models, three components of full covariance, so that each detector is compiled once.
MEANS = RNG.normal(size=(3, D))
FACTORS = RNG.normal(size=(3, D, D)) / 2
MIXED = ([0.2, 0.3, 0.5], MEANS, FACTORS @ FACTORS.transpose(0, 2, 1))
POINTS = ([1 / 3] * 3, 5 * MEANS, np.zeros((3, D, D)))
BASIS = np.linalg.qr(RNG.normal(size=(D, D)))[0]
K, SPREAD = 2, 20.0
FLAT = BASIS[:, :K] @ BASIS[:, :K].T * SPREAD**2
SUBSPACE = ([1 / 3] * 3, np.zeros((3, D)), np.stack([FLAT] * 3))
IMAGES = np.concatenate([MEANS, RNG.normal(size=(2, D))])
PROMPTS, CAPTIONS = np.array([-1, 0, 1, 2, -1]), np.array([0, 1, 2, 0, 1])


def embedding(x):
    return jnp.stack([x[0] + x[1] ** 2, jnp.sin(x[2]), x[0] * x[2]])


DETECTORS = {
    "flipd": FLIPD(SIGMA),
    "flipd, probes": FLIPD(SIGMA, n_probes=3),
    "normal bundle": NormalBundle(SIGMA),
    "normal bundle, drop": NormalBundle(SIGMA, n_samples=30, threshold=None),
    "p-laplacian": PLaplacianAt(SIGMA, smoothing=0.3),
    "ball average": BallAverage(SIGMA, p=1.5, n_samples=3),
    "manifold bias": ManifoldBias(SIGMA, n_samples=5, curvature=0.7, gradient=1.5, bias=0.4),
    "manifold bias, embedded": ManifoldBias(SIGMA, n_samples=3, curvature=0.7, embed=Partial(embedding)),
    "lhsd": LHSD(SIGMA, n_probes=3, n_steps=9, threshold=0.5, width=0.3),
    "curvature difference": CurvatureDifference(SIGMA, n_probes=3),
    "flux density": FluxDensity(SIGMA, p=1.5, n_samples=4),
    "flux gap": FluxGap(SIGMA, p=1.5, n_samples=4),
}


@pytest.fixture(autouse=True)
def double(x64):
    """Twins are held to rounding."""


def model(mixture):
    return exact_diffusion(GaussianMixture(*mixture), VPLinear())


def query(detector, images=IMAGES):
    return Query(image=images, prompt=CAPTIONS if "prompt" in detector.needs else PROMPTS)


def scores(detector, mixture, images=IMAGES):
    """With no prompt, and through the same shapes as all others."""
    padded = np.concatenate([images, IMAGES])[:5]
    queries = Query(image=padded, prompt=np.full(5, -1))
    return detector.scores(model(mixture), queries, key=KEY)[: len(images)]


# Twins: one image, float64, from textbook scores and Hessians; only the random draws are shared.


def single(mixture, k):
    weights, means, covariances = mixture
    return mixture if k == -1 else ([1.0], means[k : k + 1], covariances[k : k + 1])


class Level:
    """The mixture that a prompt leaves, noised to σ, α = √(1 − σ²)."""

    def __init__(self, mixture, sigma, prompt):
        self.sigma, self.alpha = sigma, math.sqrt(1 - sigma**2)
        self.law = numpy_twin.Mixture(*single(mixture, prompt)).noised(self.alpha, sigma)

    def score(self, x):
        return self.law.score(x[None])[0]

    def hessian(self, x):
        return self.law.hessian(x[None])[0]

    def smoothed(self, x, p, eps):
        s, hessian = self.score(x), self.hessian(x)
        size = math.sqrt(s @ s + eps**2)
        return size ** (p - 2) * (np.trace(hessian) + (p - 2) * s @ hessian @ s / size**2)


def directions(n):
    return np.asarray(sample_directions(KEY, n, (D,), "iid", jnp.float64))[:, 0]


def twin_flipd(detector, level, x):
    x = level.alpha * x
    hessian, s = level.hessian(x), level.score(x)
    trace = sum(hessian[i, i] for i in range(D))
    if detector.n_probes is not None:
        probes = np.asarray(jax.random.rademacher(KEY, (detector.n_probes, D), jnp.float64))
        trace = np.mean([v @ hessian @ v for v in probes])
    return -(D + level.sigma**2 * trace + level.sigma**2 * sum(s_i**2 for s_i in s))


def twin_normal_bundle(detector, level, x):
    n = detector.n_samples or 4 * D
    noise = np.asarray(jax.random.normal(KEY, (n, D), jnp.float64))
    rows = np.stack([-level.sigma * level.score(level.alpha * x + level.sigma * eps) for eps in noise])
    values = np.linalg.svd(rows, compute_uv=False) / math.sqrt(n)
    if detector.threshold is not None:
        assert np.min(np.abs(values - detector.threshold)) > 1e-3, "a tie would test rounding"
        return -sum(1 for v in values if v <= detector.threshold)
    drops = [values[i] - values[i + 1] for i in range(D - 1)]
    return -(D - (1 + int(np.argmax(drops))))


def twin_p_laplacian(detector, level, x):
    return -level.smoothed(level.alpha * x, detector.p, detector.smoothing * math.sqrt(D) / level.sigma)


def twin_ball_average(detector, level, x):
    points = np.asarray(uniform_in_ball(KEY, detector.n_samples, (D,), jnp.float64))
    points = level.alpha * x + level.sigma * math.sqrt(D) * points
    return -np.mean([level.smoothed(point, detector.p, 0) for point in points])


def twin_manifold_bias(detector, level, x):
    total = 0
    for n in directions(detector.n_samples):
        u = math.sqrt(D) * n
        eps = -level.sigma * level.score(level.alpha * x + level.sigma * u)
        other = detector.curvature * u - detector.gradient * eps
        other = other + detector.bias * math.sqrt(D) * x / np.linalg.norm(x)
        total += eps @ other / np.linalg.norm(eps)
    return total / detector.n_samples / math.sqrt(D)


def twin_embedded_bias(detector, level, x):
    total, e = 0, lambda a: np.array([a[0] + a[1] ** 2, math.sin(a[2]), a[0] * a[2]])
    for n in directions(detector.n_samples):
        u = math.sqrt(D) * n
        eps, noise, image = (e(a) for a in (-level.sigma * level.score(level.alpha * x + level.sigma * u), u, x))
        other = detector.curvature * noise / np.linalg.norm(noise) - detector.gradient * eps / math.sqrt(3)
        total += eps @ (other + detector.bias * image / np.linalg.norm(image)) / np.linalg.norm(eps)
    return total / detector.n_samples


def soft(detector, eigenvalues):
    """f(λ) of the paper, λ in units of 1/σ²."""
    threshold = detector.threshold
    return 1 / (1 + np.exp((eigenvalues - threshold) / (detector.width * threshold)))


def rademacher(n):
    return np.asarray(jax.random.rademacher(KEY, (n, D), jnp.float64))


def twin_lhsd(detector, level, x):
    eigenvalues, vectors = np.linalg.eigh(-(level.sigma**2) * level.hessian(level.alpha * x))
    filtered = vectors @ np.diag(soft(detector, eigenvalues)) @ vectors.T
    return -np.mean([v @ filtered @ v for v in rademacher(detector.n_probes)])


def twin_curvature_difference(detector, level, x):
    hessian = level.hessian(level.alpha * x)
    return -np.mean([v @ hessian @ v for v in rademacher(detector.n_probes)])


def twin_flux(detector, level, x):
    total = 0
    for n in directions(detector.n_samples):
        s = level.score(level.alpha * x + level.sigma * math.sqrt(D) * n)
        total -= np.linalg.norm(s) ** (detector.p - 2) * s @ n
    return total / detector.n_samples


TWINS = {
    FLIPD: twin_flipd,
    NormalBundle: twin_normal_bundle,
    PLaplacianAt: twin_p_laplacian,
    BallAverage: twin_ball_average,
    ManifoldBias: twin_manifold_bias,
    LHSD: twin_lhsd,
    CurvatureDifference: twin_curvature_difference,
    FluxDensity: twin_flux,
    FluxGap: twin_flux,
}


class Gap(Level):
    """The score given the prompt minus that without."""

    def __init__(self, mixture, sigma, prompt):
        super().__init__(mixture, sigma, prompt)
        self.without = Level(mixture, sigma, -1)

    def score(self, x):
        return super().score(x) - self.without.score(x)

    def hessian(self, x):
        return super().hessian(x) - self.without.hessian(x)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_twin_agrees_and_another_level_compiles_nothing(name):
    detector = DETECTORS[name]
    asked, level = query(detector), Gap if "prompt" in detector.needs else Level
    twin = TWINS[type(detector)] if name != "manifold bias, embedded" else twin_embedded_bias
    exact = model(MIXED)
    first = detector.scores(exact, asked, key=KEY)
    compiled = traces["count"]
    other = replace(detector, sigma=0.6)
    found = {SIGMA: first, 0.6: other.scores(exact, asked, key=KEY)}
    assert traces["count"] == compiled
    for sigma, values in found.items():
        expected = [
            twin(replace(detector, sigma=sigma), level(MIXED, sigma, c), x)
            for x, c in zip(asked.image, asked.prompt, strict=True)
        ]
        np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=f"sigma={sigma}")


@pytest.mark.parametrize("name", DETECTORS)
def test_cost_is_what_is_claimed_and_sums_are_in_float32(name):
    # Half precision: sums must not be taken in it.
    image = jnp.asarray([0.5, -1.0, 0.3], jnp.float16)
    detector = DETECTORS[name]
    spent, value = cost(detector, Query(image=image, prompt=jnp.asarray(0)), KEY)
    assert spent == detector.nfe(3)
    assert value.dtype == jnp.float32 and value.shape == ()


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_missing_or_out_of_range_is_refused(name):
    detector, exact = DETECTORS[name], model(MIXED)
    assert "image" in detector.needs and (detector.takes_prompt or "prompt" in detector.needs)
    with pytest.raises(ValueError, match="queries.image=None: is needed by"):
        detector.scores(exact, Query(prompt=CAPTIONS), key=KEY)
    for sigma in (1e-4, 1.5):
        with pytest.raises(ValueError, match="sigma=.* must lie in"):
            replace(detector, sigma=sigma).scores(exact, query(detector), key=KEY)


def test_a_memorized_image_is_a_point():
    images, sigma = POINTS[1], 0.1
    levels = {"sigma": sigma}
    for name in ("flipd", "flipd, probes", "normal bundle"):
        np.testing.assert_allclose(scores(replace(DETECTORS[name], **levels), POINTS, images), 0, atol=1e-6)
    lhsd = LHSD(sigma)  # −σ²H is the identity, of which Lanczos' first vector tells all
    np.testing.assert_allclose(scores(lhsd, POINTS, images), -D * soft(lhsd, 1.0), rtol=1e-5)
    assert D * soft(lhsd, 1.0) < 1e-4
    curvature = replace(DETECTORS["manifold bias"], curvature=1.0, gradient=0.0, bias=0.0, **levels)
    for detector in (replace(DETECTORS["flux density"], p=1.0, **levels), curvature):
        np.testing.assert_allclose(scores(detector, POINTS, images), 1, rtol=1e-6)
    # s = 0 and J = −I/σ² there: (√d · smoothing / σ)^{p−2} d/σ².
    for p, smoothing in ((1.0, 1e-3), (1.5, 0.1), (2.0, 0.1)):
        expected = (smoothing * math.sqrt(D) / sigma) ** (p - 2) * D / sigma**2
        found = scores(PLaplacianAt(sigma, p=p, smoothing=smoothing), POINTS, images)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Where nothing smooths, it is infinite, and said to be.
    with pytest.raises(ValueError, match="PLaplacianAt.statistic=.*must be finite"):
        scores(PLaplacianAt(sigma, smoothing=0.0), ([1 / 3] * 3, 0 * MEANS, POINTS[2]), 0 * MEANS)
    # An image of no one: far from a point in units of σ, nothing is higher than at the memorized ones.
    away = images + 0.2 * np.sign(images)
    for detector in (replace(DETECTORS["flipd"], **levels), replace(DETECTORS["flux density"], p=1.0, **levels)):
        assert scores(detector, POINTS, away).max() < scores(detector, POINTS, images).min() - 0.1


def test_the_published_drop_never_finds_dimension_zero():
    found = scores(replace(DETECTORS["normal bundle, drop"], sigma=0.1), POINTS, POINTS[1])
    assert np.all(found <= -1)


def test_a_subspace_has_its_dimension():
    sigma, alpha = 0.2, math.sqrt(1 - 0.04)
    images = (BASIS[:, :K] @ np.random.default_rng(6).normal(size=(K, 3))).T
    # Along the subspace the variance is α²τ² + σ²: a share of it remains, and s is small there.
    kept = alpha**2 * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    size = sigma * alpha * np.linalg.norm(images, axis=1) / (alpha**2 * SPREAD**2 + sigma**2)
    exact = scores(replace(DETECTORS["flipd"], sigma=sigma), SUBSPACE, images)
    np.testing.assert_allclose(exact, -(K * kept + size**2), rtol=1e-9)
    assert np.all(np.abs(exact + K) < 1e-3)
    for name in ("normal bundle", "normal bundle, drop"):
        np.testing.assert_array_equal(scores(replace(DETECTORS[name], sigma=sigma), SUBSPACE, images), -K)
    # A full space that is wide against the noise has dimension d, as only the rule with a scale can tell.
    full = ([1 / 3] * 3, np.zeros((3, D)), np.stack([SPREAD**2 * np.eye(D)] * 3))
    np.testing.assert_array_equal(scores(replace(DETECTORS["normal bundle"], sigma=sigma), full, images), -D)


def test_kappa_1_of_a_subspace_and_the_manifold_bias_of_it():
    n = MANY
    images = (BASIS[:, :K] @ np.random.default_rng(7).normal(size=(K, 1))).T
    logs = special.gammaln([(D - K + 1) / 2, D / 2, (D - K) / 2, (D + 1) / 2])
    expected = math.exp(logs[0] + logs[1] - logs[2] - logs[3])
    kappa = scores(FluxDensity(0.2, n_samples=n), SUBSPACE, images)
    # |n_⊥|, whose second moment is 1 − k/d, is what each direction gives.
    stderr = math.sqrt((1 - K / D - expected**2) / n)
    np.testing.assert_allclose(kappa, expected, atol=4 * stderr + 1e-3)
    # The same directions: the curvature term is κ_1 and no other number.
    curvature, all_terms = (
        scores(ManifoldBias(0.2, n_samples=n, gradient=g, bias=0.0), SUBSPACE, images) for g in (0.0, 1.0)
    )
    np.testing.assert_allclose(curvature, kappa, rtol=1e-9)
    np.testing.assert_allclose(all_terms, 0, atol=1e-3)


def test_the_ball_average_has_the_expectation_of_the_flux():
    n, sigma, p = MANY, 0.5, 1.5
    level = Level(MIXED, sigma, -1)
    flux, average = (scores(kind(sigma, p=p, n_samples=n), MIXED) for kind in (FluxDensity, BallAverage))
    for x, kappa, mean in zip(IMAGES, flux, average, strict=True):
        centre, radius = level.alpha * x, sigma * math.sqrt(D)
        inward = numpy_twin.inward(level.law.score, centre, radius, p, directions(n))
        inside = np.asarray(uniform_in_ball(KEY, n, (D,), jnp.float64))
        divergences = level.law.p_laplacian(centre + radius * inside, p)
        stderr = math.hypot(D / radius * np.std(inward), np.std(divergences)) / math.sqrt(n)
        assert abs(mean - D / radius * kappa) < 4 * stderr
        assert abs(mean) > 6 * stderr  # or a wrong sign would pass


def test_the_gap_of_captions():
    # Two captions of one covariance v: the gap is (1 − w_c) α (μ_c − μ_o)/(α²v + σ²), of one direction everywhere.
    variance, sigma, n = 0.25, 0.4, 4
    mixture = ([0.3, 0.7, 0.0], MEANS, np.stack([variance * np.eye(D)] * 3))
    images, captions = (
        np.stack([MEANS[0], MEANS[1], MEANS.mean(axis=0), IMAGES[3], IMAGES[4]]),
        np.array([0, 1, 0, 1, 0]),
    )
    alpha = math.sqrt(1 - sigma**2)
    total = alpha**2 * variance + sigma**2
    for p in (1.0, 2.0):
        found = FluxGap(sigma, p=p, n_samples=n).scores(model(mixture), Query(images, captions), key=KEY)
        for x, caption, value in zip(images, captions, found, strict=True):
            own, other = alpha * MEANS[caption], alpha * MEANS[1 - caption]
            expected = 0
            for u in directions(n):
                point = alpha * x + sigma * math.sqrt(D) * u
                near, far = (-np.sum((point - m) ** 2) / 2 / total for m in (own, other))
                odds = mixture[0][caption] / mixture[0][1 - caption] * math.exp(near - far)
                gap = (own - other) / total / (1 + odds)
                expected -= np.linalg.norm(gap) ** (p - 2) * gap @ u / n
            np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_a_caption_with_one_image_behind_it_points_home():
    wide = np.stack([np.zeros((D, D)), 4 * np.eye(D), 4 * np.eye(D)])
    exact = model(([1 / 3] * 3, MEANS, wide))
    images = MEANS[[0, 1, 2, 0, 1]]
    found = FluxGap(0.1, n_samples=4).scores(exact, Query(images, np.array([0, 1, 2, 0, 1])), key=KEY)
    assert found[[0, 3]].min() > 0.9 and np.abs(found[[1, 2, 4]]).max() < 0.5


def test_levels_of_a_table_are_those_of_its_steps():
    # σ between two steps: with its own σ² instead of that of the nearest, a memorized image had another dimension.
    table = DiscreteVP.linear(20, 1e-3, 0.2)
    step = int(table.time_at(0.5))
    between = float(table.sigma(step) + 0.4 * (table.sigma(step + 1) - table.sigma(step)))
    exact = exact_diffusion(GaussianMixture(*POINTS), table)
    found = FLIPD(between).scores(exact, Query(image=5 * IMAGES, prompt=np.full(5, -1)), key=KEY)
    np.testing.assert_allclose(found[:3], 0, atol=1e-6)


def test_normal_bundle_by_blocks(monkeypatch):
    detector, exact, seen = DETECTORS["normal bundle"], model(MIXED), []
    asked = query(detector)
    expected = detector.scores(exact, asked, key=KEY)
    monkeypatch.setattr(normal_bundle, "HOST_NUMBERS", 2 * D * 4 * D)
    found = detector.scores(exact, asked, key=KEY, progress=lambda done, n: seen.append((done, n)))
    np.testing.assert_array_equal(found, expected)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    one = Query(image=jnp.asarray(IMAGES[1]), prompt=jnp.asarray(0))
    assert detector.statistic(exact, one, KEY) == expected[1]


def test_normal_bundle_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="NormalBundle.statistic=.*must be finite; 1 of 5 are not, the first are .3."):
        # Its square leaves the range of a float64.
        images = IMAGES * np.where(np.arange(5) == 3, 1e200, 1)[:, None]
        DETECTORS["normal bundle"].scores(model(MIXED), Query(images, PROMPTS), key=KEY)


def test_too_few_noised_points_are_refused():
    with pytest.raises(ValueError, match="n_samples=5: must be None or at least d=6"):
        NormalBundle(SIGMA, n_samples=5).scores(model(MIXED), Query(image=IMAGES), key=KEY)


def test_the_soft_dimension_of_a_subspace_along_the_axes():
    # f(−H) is diagonal there, so that every probe is exact.
    sigma, detector = 0.2, LHSD(0.2, n_probes=2, n_steps=4)
    flat = np.stack([np.diag([SPREAD**2] * K + [0.0] * (D - K))] * 3)
    along = sigma**2 / ((1 - sigma**2) * SPREAD**2 + sigma**2)
    expected = -(K * soft(detector, along) + (D - K) * soft(detector, 1.0))
    found = scores(detector, ([1 / 3] * 3, np.zeros((3, D)), flat), IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(expected + K) < 1e-2


def test_a_jacobian_that_is_not_symmetric_has_its_symmetric_part_taken():
    skew = np.random.default_rng(8).normal(size=(D, D)) / 3
    model = Diffusion(Partial(lambda matrix, x, t, condition=None: matrix @ x, jnp.asarray(skew)), VPLinear())
    detector = LHSD(SIGMA, n_probes=2, n_steps=D, width=1.0)
    found = detector.statistic(model, Query(image=jnp.asarray(IMAGES[0])), KEY)
    eigenvalues, vectors = np.linalg.eigh(SIGMA * (skew + skew.T) / 2)
    filtered = vectors @ np.diag(soft(detector, eigenvalues)) @ vectors.T
    np.testing.assert_allclose(found, -np.mean([v @ filtered @ v for v in rademacher(2)]), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanczos_stops_where_nothing_is_left_and_is_exact_with_a_step_for_each_eigenvalue(dtype):
    run = jax.jit(lambda a, n_steps: quadrature(lambda x: a @ x, v, lambda e: jnp.exp(-e), n_steps), static_argnums=1)

    def found(matrix, n_steps):
        return float(run(jnp.asarray(matrix, dtype), n_steps))

    v = jnp.asarray(rademacher(1)[0], dtype)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    for scale in (0.0, 1 / 3, 3.0):
        for n_steps in (1, 3, D):
            np.testing.assert_allclose(found(scale * np.eye(D), n_steps), D * math.exp(-scale), rtol=rtol)
    three = np.array([0.1, 0.1, 0.5, 0.5, 2.0, 2.0])
    exact = v @ (BASIS @ np.diag(np.exp(-three)) @ BASIS.T) @ v
    for n_steps in (3, D):
        np.testing.assert_allclose(found(BASIS @ np.diag(three) @ BASIS.T, n_steps), exact, rtol=rtol)
    assert abs(found(BASIS @ np.diag(three) @ BASIS.T, 1) / exact - 1) > 1e-3
    assert math.isnan(found(np.where(np.eye(D) > 0, np.nan, 1.0), 3))


@pytest.mark.parametrize("name", ["lhsd", "curvature difference"])
def test_the_standard_error_over_probes_is_that_of_the_estimate(name):
    detector, exact = replace(DETECTORS[name], n_probes=6), model(MIXED)
    asked = Query(image=jnp.asarray(IMAGES[3]), prompt=jnp.asarray(0))
    keys = jax.random.split(jax.random.key(1), MANY)
    found = jax.jit(jax.vmap(lambda key: detector.estimate(exact, asked, key)))(keys)
    level = (Gap if name == "curvature difference" else Level)(MIXED, SIGMA, 0)
    hessian = level.hessian(level.alpha * IMAGES[3])
    truth = -np.trace(hessian)
    if name == "lhsd":
        truth = -soft(detector, np.linalg.eigvalsh(-(SIGMA**2) * hessian)).sum()
    spread = np.std(found.value)
    assert abs(np.mean(found.value) - truth) < 4 * spread / math.sqrt(MANY)
    assert abs(np.mean(np.asarray(found.stderr) ** 2) / spread**2 - 1) < 0.2
    assert found.n_units[0] == 6 and found.nfe[0] == detector.nfe(D)


def test_the_curvature_difference_is_the_sum_of_its_map_and_takes_another_model():
    detector, exact = DETECTORS["curvature difference"], model(MIXED)
    image, prompt, t = jnp.asarray(IMAGES[3]), jnp.asarray(CAPTIONS[3]), VPLinear().time_at(SIGMA)
    centre, _ = exact.ball(image, t)
    drawn = jax.jit(partial(curvature_difference, key=KEY, n_probes=3))
    of_prompt = drawn(gap_at(exact, t, prompt), centre)
    found = detector.scores(exact, query(detector), key=KEY)[3]
    np.testing.assert_allclose(found, of_prompt.value.sum(), rtol=1e-6)
    other = model(([0.6, 0.2, 0.2], MEANS, 2 * MIXED[2]))
    found = replace(detector, baseline=other).scores(exact, query(detector), key=KEY)[3]
    of_other = drawn(exact.score_at(t, prompt), centre, baseline=other.score_at(t, prompt))
    np.testing.assert_allclose(found, of_other.value.sum(), rtol=1e-6)
    assert abs(found / of_prompt.value.sum() - 1) > 0.01
    with pytest.raises(ValueError, match="^baseline.schedule=EDM.*must be the model's, VPLinear"):
        replace(detector, baseline=replace(other, schedule=EDM())).scores(exact, query(detector), key=KEY)


def test_a_single_image_behind_a_prompt_has_its_curvature_and_that_of_wide_data_taken_away():
    # d (1/σ² − 1/(α²v + σ²)); diagonal Hessians, so that every probe is exact. Of the two, the wide one has all weight.
    sigma, v = 0.1, 4.0
    wide = ([1e-30, 1 - 1e-30, 0.0], np.stack([MEANS[0]] * 3), np.stack([0 * np.eye(D), v * np.eye(D), np.eye(D)]))
    expected = D * (1 / sigma**2 - 1 / ((1 - sigma**2) * v + sigma**2))
    found = CurvatureDifference(sigma, n_probes=2).scores(
        model(wide), Query(image=np.stack([MEANS[0]] * 5), prompt=np.array([0, 1, 0, 1, 0])), key=KEY
    )
    np.testing.assert_allclose(found, np.array([1, 0, 1, 0, 1]) * expected, rtol=1e-6, atol=1e-6)


def test_too_few_probes_and_steps_are_refused():
    for kind in (LHSD, CurvatureDifference):
        for n in (1, 2.5):
            with pytest.raises(ValueError, match="^n_probes=.*must be an integer >= 2: one probe has no"):
                kind(SIGMA, n_probes=n)
    with pytest.raises(ValueError, match="^n_steps=0: must be an integer >= 1$"):
        LHSD(SIGMA, n_steps=0)
    assert LHSD(SIGMA).nfe(10**4) == 1 + 4 * 4 * 10 and LHSD(SIGMA).nfe(3) == 1 + 4 * 4 * 3
