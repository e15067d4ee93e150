"""Gaussian mixtures against automatic differentiation, against SciPy, and far away in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

from plap_jax import GaussianMixture
from tests.helpers.numpy_twin import Mixture

KINDS = ("full", "diag", "spherical")
WEIGHTS = np.array([0.5, 0.3, 0.2])


def random_parts(kind, shape, seed=0, k=3):
    """Weights, means and covariances of a mixture, and the covariances as full matrices for the twin."""
    rng, d = np.random.default_rng(seed), int(np.prod(shape))
    weights = WEIGHTS if k == 3 else np.full(k, 1 / k)
    means = 1.5 * rng.normal(size=(k, *shape))
    axes = np.linalg.qr(rng.normal(size=(k, d, d)))[0]
    full = axes * rng.uniform(0.2, 2, size=(k, 1, d)) @ axes.mT
    if kind == "diag":
        covariances = rng.uniform(0.2, 2, size=(k, *shape))
        full = np.stack([np.diag(c.ravel()) for c in covariances])
    elif kind == "spherical":
        covariances = rng.uniform(0.2, 2, size=k)
        full = covariances[:, None, None] * np.eye(d)
    else:
        covariances = full
    return weights, means, covariances, full


def pair(kind, shape, seed=0, k=3):
    """A mixture and its twin in NumPy."""
    weights, means, covariances, full = random_parts(kind, shape, seed, k)
    return GaussianMixture(weights, means, covariances, kind), Mixture(weights, means.reshape(k, -1), full)


@jax.jit
def everything(mixture, points):
    """log q, its first two derivatives by formula, and the same by automatic differentiation."""

    def one(x):
        value, gradient = jax.value_and_grad(mixture.log_prob)(x)
        return value, mixture.score(x), mixture.hessian(x), gradient, jax.jacfwd(mixture.score)(x)

    return jax.vmap(one)(points)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("full", (2,)), ("full", (2, 3, 1)), ("diag", (2, 3, 1)), ("spherical", (1,)), ("spherical", (2, 2))],
    ids=str,
)
def test_formulae_automatic_differentiation_and_scipy_agree(kind, shape, x64):
    mixture, twin = pair(kind, shape)
    d = mixture.dim
    points = 2 * np.random.default_rng(1).normal(size=(50, *shape))
    flat = points.reshape(50, -1)
    value, score, hessian, gradient, jacobian = map(np.asarray, everything(mixture, points))
    assert score.shape == points.shape and hessian.shape == (50, d, d) and score.dtype == np.float64
    np.testing.assert_allclose(value, twin.log_prob(flat), rtol=1e-11)
    np.testing.assert_allclose(score.reshape(50, -1), twin.score(flat), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(hessian, twin.hessian(flat), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(gradient, score, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jacobian.reshape(50, d, d), hessian, rtol=1e-9, atol=1e-11)


floats = st.floats(-3, 3)


@given(
    hnp.arrays(np.float64, (3, 2), elements=floats),
    hnp.arrays(np.float64, (3, 2, 2), elements=floats),
    hnp.arrays(np.float64, 3, elements=st.floats(0.01, 1)),
    hnp.arrays(np.float64, (50, 2), elements=st.floats(-10, 10)),
)
def test_any_mixture_agrees_with_scipy(x64, means, factors, weights, points):
    covariances, weights = factors @ factors.mT + 0.1 * np.eye(2), weights / weights.sum()
    twin = Mixture(weights, means, covariances)
    value, score, hessian, gradient, jacobian = everything(GaussianMixture(weights, means, covariances), points)
    np.testing.assert_allclose(value, twin.log_prob(points), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(score, twin.score(points), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(hessian, twin.hessian(points), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(hessian, np.asarray(hessian).mT, atol=1e-9)
    np.testing.assert_allclose(gradient, score, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(jacobian, hessian, rtol=1e-6, atol=1e-6)


def test_density_integrates_to_one(x64):
    mixture, _ = pair("diag", (2,))
    line = np.linspace(-12, 12, 401)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    density = np.exp(everything(mixture, grid)[0])
    np.testing.assert_allclose(density.sum() * (line[1] - line[0]) ** 2, 1, rtol=1e-9)


# Unoptimized code misses the tolerance of the score for full covariances at one of these distances.
@pytest.mark.usefixtures("compiled_well")
@pytest.mark.parametrize("kind", KINDS)
def test_float32_at_any_distance(kind):
    """Log-density, score and curvature in float32 against double precision, 1 to 1e20 away, also of equal shapes."""
    weights, means, covariances, _ = random_parts(kind, (3,))
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for same in (False, True):
        used = np.broadcast_to(covariances[:1], covariances.shape) if same else covariances
        single = GaussianMixture(*(jnp.asarray(a, jnp.float32) for a in (weights, means, used)), kind)
        for distance in 10.0 ** np.arange(0, 21, 2):
            points = (distance * directions).astype(np.float32)
            value, score, hessian, gradient, jacobian = map(np.asarray, everything(single, points))
            with jax.enable_x64(True):
                parts = (np.asarray(a, np.float64) for a in (single.weights, single.means, used.astype(np.float32)))
                double = GaussianMixture(*parts, kind)
                exact = [np.asarray(a) for a in everything(double, points.astype(np.float64))]
            size = np.linalg.norm(exact[1], axis=1, keepdims=True)
            assert np.all(np.abs(score - exact[1]) <= 2e-5 * (1 + size))
            # Where two components of unequal covariance balance far away, curvature amplifies the rounding of weights.
            largest = np.abs(exact[2]).max(axis=(1, 2), keepdims=True)
            for ours in (hessian, jacobian):
                assert np.all(np.abs(ours - exact[2]) <= 5e-3 * largest)
            representable = np.abs(exact[0]) < 1e38
            np.testing.assert_allclose(value[representable], exact[0][representable], rtol=2e-5)
            assert np.all((np.abs(gradient - exact[1]) <= 2e-5 * (1 + size))[representable])
            assert np.all(value[~representable] == -np.inf)


def test_float32_between_two_equal_components_far_away():
    """On the bisector both components pull alike, whatever the distance: neither takes over by rounding."""
    mixture = GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [0.25, 0.25], "spherical")
    heights = jnp.asarray(10.0 ** np.arange(0, 19, 3), jnp.float32)
    points = jnp.stack([jnp.zeros_like(heights), heights], axis=-1)
    _, score, hessian, _, _ = everything(mixture, points)
    np.testing.assert_allclose(score, -4 * points, rtol=1e-6)
    np.testing.assert_allclose(hessian, np.broadcast_to(np.diag([12.0, -4.0]), hessian.shape), rtol=1e-5)


# --- noising


@pytest.mark.parametrize("kind", KINDS)
def test_noised_is_the_mixture_of_the_formula(kind, x64):
    mixture, twin = pair(kind, (3,), seed=3)
    points = np.random.default_rng(4).normal(size=(50, 3))
    _, score, hessian, _, _ = everything(mixture.noised(0.8, 0.6), points)
    np.testing.assert_allclose(score, twin.noised(0.8, 0.6).score(points), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(hessian, twin.noised(0.8, 0.6).hessian(points), rtol=1e-8, atol=1e-9)
    twice = mixture.noised(0.8, 0.3).noised(0.5, 0.4)
    once = mixture.noised(0.4, np.hypot(0.5 * 0.3, 0.4))
    np.testing.assert_allclose(twice.eigenvalues, once.eigenvalues)
    np.testing.assert_allclose(twice.means, once.means)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_mixture(kind):
    """Of the mixture itself, and of α x₀ + σ ε against ``noised``: mean, covariance, component shares."""
    weights, means, _, full = random_parts(kind, (2, 1), seed=5)
    mixture, n = pair(kind, (2, 1), seed=5)[0], 40_000
    alpha, sigma = 0.7, 0.9
    x0 = mixture.sample(jax.random.key(0), n)
    x_t = alpha * x0 + sigma * jax.random.normal(jax.random.key(1), x0.shape)
    noised = mixture.noised(alpha, sigma).sample(jax.random.key(2), n)
    means = means.reshape(3, 2)
    mean = weights @ means
    second = np.einsum("k,kij->ij", weights, full + np.einsum("ki,kj->kij", means, means))
    noised_second = alpha**2 * second + sigma**2 * np.eye(2)
    for samples, first, moment in ((x0, mean, second), *((s, alpha * mean, noised_second) for s in (x_t, noised))):
        assert samples.shape == (n, 2, 1) and samples.dtype == jnp.float32
        flat = np.asarray(samples, np.float64).reshape(n, 2)
        products = np.einsum("ni,nj->nij", flat, flat)
        assert np.all(np.abs(flat.mean(0) - first) < 4.5 * flat.std(0) / n**0.5)
        assert np.all(np.abs(products.mean(0) - moment) < 4.5 * products.std(0) / n**0.5)


def test_samples_of_a_point_mass_are_its_points():
    points = np.arange(6.0).reshape(3, 2)
    samples = np.asarray(GaussianMixture.empirical(points, [0.6, 0.4, 0.0]).sample(jax.random.key(0), 2000))
    matches = np.all(samples[:, None] == points, axis=-1)
    assert np.all(matches.sum(axis=1) == 1) and matches[:, 2].sum() == 0
    assert abs(matches[:, 0].mean() - 0.6) < 0.05


def test_score_of_the_empirical_distribution_is_the_memorizing_denoiser(x64):
    """s = (α E[x₀|x_t] − x_t)/σ² and J = (Cov[x₀|x_t] α²/σ² − I)/σ², the posterior written out by hand."""
    rng = np.random.default_rng(6)
    data, alpha, sigma = rng.normal(size=(20, 4)), 0.8, 0.6
    x = alpha * data[3] + sigma * rng.normal(size=4)
    posterior = special.softmax(-np.sum((x - alpha * data) ** 2, axis=1) / (2 * sigma**2))
    mean = posterior @ data
    covariance = np.einsum("k,ki,kj->ij", posterior, data - mean, data - mean)
    expected = (covariance * alpha**2 / sigma**2 - np.eye(4)) / sigma**2
    full = GaussianMixture(np.full(20, 1 / 20), data, np.zeros((20, 4, 4)))
    for mixture in (GaussianMixture.empirical(data), full):
        _, score, hessian, _, jacobian = everything(mixture.noised(alpha, sigma), x[None])
        np.testing.assert_allclose(score[0], (alpha * mean - x) / sigma**2, rtol=1e-9)
        np.testing.assert_allclose(hessian[0], expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(jacobian[0], expected, rtol=1e-8, atol=1e-10)


def test_covariance_of_deficient_rank_is_taken_and_noised():
    """A Gaussian on a subspace: semi-definite to rounding in float32, and its noised score is finite."""
    rng = np.random.default_rng(7)
    basis = rng.normal(size=(64, 5)).astype(np.float32)
    mixture = GaussianMixture([1.0], np.zeros((1, 64)), (basis @ basis.T)[None])
    assert float(mixture.eigenvalues.min()) == 0.0
    score = jax.jit(GaussianMixture.score)(mixture.noised(1.0, 0.1), jnp.asarray(rng.normal(size=64), jnp.float32))
    assert np.all(np.isfinite(score))
    with pytest.raises(ValueError, match="covariances='singular': log_prob and score need a density: call noised"):
        mixture.score(jnp.zeros(64))


def test_components_without_weight_do_not_count(x64):
    weights, means, covariances, _ = random_parts("full", (2,))
    mixture = GaussianMixture(weights, means, covariances)
    extended = GaussianMixture([*weights, 0.0], [*means, [0.1, 0.1]], [*covariances, np.eye(2)])
    points = np.array([[0.1, 0.1], [3.0, -2.0]])
    for ours, theirs in zip(everything(extended, points), everything(mixture, points), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_mixture_is_a_pytree_and_its_numbers_are_data():
    compiled = jax.jit(lambda mixture, x: mixture.score(x))
    for seed in range(3):
        mixture = pair("full", (2,), seed=seed)[0]
        for sigma in (0.1, 1, jnp.float32(2.0)):
            compiled(mixture.noised(0.5, sigma), jnp.ones(2))
    assert compiled._cache_size() == 1
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(mixture)]
    assert names == [".weights", ".means", ".eigenvalues", ".eigenvectors"]


def test_gradient_in_the_noise_level(x64):
    mixture, h = pair("full", (2,))[0], 1e-6
    at_level = jax.jit(jax.value_and_grad(lambda sigma: mixture.noised(0.8, sigma).log_prob(jnp.array([0.3, -0.4]))))
    np.testing.assert_allclose(at_level(0.5)[1], (at_level(0.5 + h)[0] - at_level(0.5 - h)[0]) / (2 * h), rtol=1e-7)


# --- bad input

I2 = np.eye(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.5], np.zeros(2), [1.0, 1.0]), r"means=\(2,\): must be \(K, \*shape\) with K >= 1 and d >= 1"),
        (([], np.zeros((0, 2)), np.zeros((0, 2, 2))), r"means=\(0, 2\): must be \(K, \*shape\)"),
        (([1.0], np.zeros((2, 2)), [I2, I2]), r"weights=\(1,\): must have shape \(2,\), one per mean"),
        (
            ([1.0], np.zeros((1, 2)), I2),
            r"covariances=\(2, 2\): must have shape \(1, 2, 2\) for covariance_type='full'",
        ),
        (([1.0], np.zeros((1, 2)), [[1.0]], "diag"), r"covariances=\(1, 1\): must have shape \(1, 2\)"),
        (([1.0], np.zeros((1, 2)), 1.0, "spherical"), r"covariances=\(\): must have shape \(1,\)"),
        (([1.0], np.zeros((1, 2)), [1.0], "tied"), "covariance_type='tied': must be one of full, diag, spherical"),
        (([0.6, 0.6], np.zeros((2, 2)), [I2, I2]), r"weights=array\(.*\): must sum to 1; they sum to 1\.2"),
        (([1.5, -0.5], np.zeros((2, 2)), [I2, I2]), r"weights=array\(.*\): must be nonnegative"),
        (([1.0], [[np.nan, 0.0]], [I2]), r"means=array\(.*nan.*\): must be finite"),
        (([np.nan], np.zeros((1, 2)), [I2]), r"weights=array\(\[nan\].*\): must be finite"),
        (([1.0], np.zeros((1, 2)), [np.inf * np.ones((2, 2))]), r"covariances=array\(.*: must be finite"),
        (([1.0], np.zeros((1, 2)), [[[1.0, 0.5], [0.4, 1.0]]]), "covariances=.*: must be symmetric; .* up to 0.1"),
        (([1.0], np.zeros((1, 2)), [[[1.0, 2.0], [2.0, 1.0]]]), "covariances=-1.0.*: must be positive semi-definite"),
        (([1.0], np.zeros((1, 2)), [[1.0, -0.1]], "diag"), "covariances=-0.1.*: must be positive semi-definite"),
        (([1.0], np.zeros((1, 2)), [-1.0], "spherical"), "covariances=-1.0: must be positive semi-definite"),
        # A bad component is not excused by a large one beside it.
        (([0.5, 0.5], np.zeros((2, 2)), [1e6 * I2, -0.5 * I2]), "covariances=-0.5: must be positive semi-definite"),
        (([0.5, 0.5], np.zeros((2, 2)), [1e6 * I2, [[1, 0.9], [0, 1]]]), "covariances=.*: must be symmetric"),
    ],
)
def test_bad_parts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        GaussianMixture(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: q.score(jnp.ones(3)), r"x=\(3,\): must have the shape of a point, \(2,\)"),
        (lambda q: q.log_prob(jnp.ones((1, 2))), r"x=\(1, 2\): must have the shape of a point, \(2,\)"),
        (lambda q: q.hessian(jnp.ones(())), r"x=\(\): must have the shape of a point, \(2,\)"),
        (lambda q: q.noised(1.0, -0.1), "sigma=-0.1: must be a single finite number >= 0"),
        (lambda q: q.noised(float("nan"), 0.1), "alpha=nan: must be a single finite number >= 0"),
        (lambda q: q.noised(1.0, jnp.ones(2)), "sigma=.*: must be a single finite number >= 0"),
        (lambda q: GaussianMixture.empirical(jnp.ones(3)), r"points=\(3,\): must be \(K, \*shape\) with K >= 1"),
        (lambda q: GaussianMixture.empirical(q.means).score(jnp.ones(2)), "covariances='singular': .*call noised"),
    ],
)
def test_bad_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(GaussianMixture([0.4, 0.6], [[0.0, 0.0], [1.0, 1.0]], [1.0, 2.0], "spherical"))


def test_integer_parts_become_floating():
    mixture = GaussianMixture([1], [[0, 0]], [[1, 4]], "diag")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(mixture))
    assert GaussianMixture.empirical([[1, 2], [3, 4]]).weights.dtype == jnp.float32


def test_log_density_is_finite_as_long_as_it_can_be_represented():
    """|x|²/2σ² = 2e38 is a float32, its double is not."""
    mixture = GaussianMixture([1.0], jnp.zeros((1, 4)), [0.01], "spherical")
    np.testing.assert_allclose(mixture.log_prob(jnp.full(4, 1e18)), -2e38, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(mixture.log_prob)(jnp.full(4, 1e18)), -2e38, rtol=1e-5)


@pytest.mark.parametrize("n", [-1, 0, 2.5, "3", None])
def test_no_points_cannot_be_sampled(n):
    with pytest.raises(ValueError, match="^n=.*: must be an integer >= 1$"):
        GaussianMixture.empirical(jnp.ones((1, 2))).sample(jax.random.key(0), n)


def test_sampling_compiles_once_for_a_number_of_any_type():
    mixture = GaussianMixture.empirical(jnp.ones((2, 3)))
    before = GaussianMixture._sample._cache_size()
    for n in (5, np.int64(5)):
        assert mixture.sample(jax.random.key(0), n).shape == (5, 3)
    assert GaussianMixture._sample._cache_size() <= before + 1
