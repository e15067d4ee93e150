"""Ball averages: κ_p against closed forms and quadrature, the divergence theorem, orders of convergence."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.tree_util import Partial
from scipy import integrate, special

from plap_jax import Estimate, GaussianMixture, flux, p_laplacian, volume
from plap_jax._flux import FluxEstimator, circle_flux
from plap_jax._volume import InfiniteVarianceWarning
from plap_jax.balls import ball_average, flux_density, log_sphere_area, log_total_flux, total_flux
from plap_jax.directions import KINDS
from plap_jax.parallel import map_points
from tests.helpers.numpy_twin import Mixture, circle_kappa, inward, sphere_kappa

ORDERS = np.array([1.0, 1.5, 2.0, 3.0, 4.0])
WEIGHTS = np.array([0.5, 0.3, 0.2])
PLANE = (
    WEIGHTS,
    np.array([[0.0, 0.0], [2.0, 0.5], [-0.5, 1.5]]),
    np.array([[[0.5, 0.2], [0.2, 0.7]], [[1.0, 0.0], [0.0, 0.3]], [[0.4, -0.1], [-0.1, 0.4]]]),
)
SPACE = (
    WEIGHTS,
    np.array([[0.0, 0.0, 0.2], [1.5, 0.5, -1.0], [-0.5, 1.5, 0.4]]),
    np.stack([np.diag([0.5, 0.3, 1.0]) + 0.2, 0.6 * np.eye(3), np.diag([0.4, 0.9, 0.5]) - 0.1]),
)
KEY = jax.random.key(0)

kappa = jax.jit(flux, static_argnames=("n_samples", "directions"))
average = jax.jit(volume, static_argnames=("n_samples", "divergence", "chunk"))
on_circle = jax.jit(circle_flux, static_argnames="n_points")


def score_of(parts):
    """The score function of a mixture, in the floating dtype of the moment."""
    return Partial(GaussianMixture.score, GaussianMixture(*parts))


def linear(matrix, x):
    """A score with constant Jacobian."""
    return (matrix @ x.reshape(-1)).reshape(x.shape)


def of_gaussian(centre, variance, y):
    """The score of N(centre, variance I)."""
    return (centre - y) / variance


# --- closed forms


@pytest.mark.parametrize(
    ("d", "kind"), [(1, "iid"), (2, "iid"), (256, "iid"), *((16, kind) for kind in KINDS)], ids=str
)
def test_flux_at_the_mean_of_an_isotropic_gaussian(d, kind, x64):
    """(r/σ²)^{p−1}, in every direction alike."""
    score_fn, variance, radius = Partial(linear, -jnp.eye(d) / 0.7), 0.7, 0.8
    estimate = jax.vmap(lambda p: kappa(score_fn, jnp.zeros(d), radius=radius, p=p, key=KEY, directions=kind))(ORDERS)
    np.testing.assert_allclose(estimate.value, (radius / variance) ** (ORDERS - 1), rtol=1e-6)
    np.testing.assert_allclose(estimate.stderr, 0, atol=1e-12)
    assert np.all(estimate.nfe == 16) and np.all(estimate.n_zero == 0)


def test_frames_integrate_linear_scores_exactly(x64):
    """p = 2, u quadratic: κ_2 = r tr Σ⁻¹/d from complete frames at the mean."""
    precision = np.diag([1.0, 2.0, 4.0]) + 0.3
    expected = 0.7 * np.trace(precision) / 3
    score_fn = Partial(linear, -jnp.asarray(precision))
    estimate = kappa(score_fn, np.zeros(3), radius=0.7, p=2.0, key=KEY, n_samples=96, directions="orthogonal")
    np.testing.assert_allclose(estimate.value, expected, rtol=1e-12)
    assert estimate.stderr < 1e-12


@pytest.mark.parametrize(("d", "k"), [(4, 1), (16, 4), (256, 64)])
def test_linear_subspace(d, k):
    """κ_1 → E|n_⊥| = Γ((d−k+1)/2) Γ(d/2) / [Γ((d−k)/2) Γ((d+1)/2)] for wide data on a k-dimensional subspace."""
    halves = np.array([d - k + 1, d, d - k, d + 1]) / 2
    expected = np.exp(special.gammaln(halves) @ [1, 1, -1, -1])
    sigma = 0.1
    spread = jnp.where(jnp.arange(d) < k, 1e6, 0.0)
    data = GaussianMixture([1.0], jnp.zeros((1, d)), spread[None], "diag").noised(1.0, sigma)
    score_fn = Partial(GaussianMixture.score, data)
    x = jnp.where(jnp.arange(d) < k, 3.0, 0.0)  # anywhere on the subspace
    estimate = kappa(score_fn, x, radius=sigma * d**0.5, key=KEY, n_samples=4000)
    assert abs(estimate.value - expected) < 4 * estimate.stderr
    assert estimate.stderr < 3e-3
    if d == 256:
        np.testing.assert_allclose(expected, (1 - k / d) ** 0.5, rtol=2e-3)


def test_perfect_memorizer():
    """κ_1 = 1 at what was memorized, less at what was not, and 1 everywhere once the noise drowns the data."""
    d, rng = 64, np.random.default_rng(0)
    data, held_out = rng.normal(size=(50, d)).astype(np.float32), rng.normal(size=(50, d)).astype(np.float32)

    @jax.jit
    def at(points, alpha, sigma):
        score_fn = Partial(GaussianMixture.score, GaussianMixture.empirical(data).noised(alpha, sigma))
        return jax.vmap(lambda x: flux(score_fn, alpha * x, radius=sigma * d**0.5, key=KEY).value)(points)

    np.testing.assert_allclose(at(data, 0.99, 0.1), 1, rtol=1e-6)
    assert np.max(at(held_out, 0.99, 0.1)) < 0.3
    assert np.min(at(held_out, 0.01, 100.0)) > 0.999


def test_unnormalised_and_normalised_products_have_their_own_powers(x64):
    """κ_p = σ^{−(p−1)} E|ε̂|^{p−2}⟨ε̂, n⟩ = σ^{−(p−1)} E|ε̂|^{p−1} cos, ε̂ = −σ s."""
    sigma, x = 0.6, jnp.array([0.5, -0.3])
    noised = GaussianMixture(*PLANE).noised(0.8, sigma)
    eps_fn = Partial(lambda q, y: -sigma * q.score(y), noised)
    for p in (1.0, 3.0):
        from_score = kappa(Partial(GaussianMixture.score, noised), x, radius=0.9, p=p, key=KEY)
        from_noise = kappa(eps_fn, x, radius=0.9, p=p, key=KEY)
        np.testing.assert_allclose(-(sigma ** (1 - p)) * from_noise.value, from_score.value, rtol=1e-10)


# --- quadrature


def test_circle_flux_against_scipy(x64):
    twin, x = Mixture(*PLANE), np.array([0.7, 0.4])

    def integrand(angle, p):
        return inward(twin.score, x, 0.45, p, np.array([[np.cos(angle), np.sin(angle)]]))[0] / (2 * np.pi)

    expected = [integrate.quad(integrand, 0, 2 * np.pi, (p,), epsabs=1e-12, epsrel=1e-12, limit=200)[0] for p in ORDERS]
    np.testing.assert_allclose([circle_kappa(twin.score, x, 0.45, p) for p in ORDERS], expected, rtol=1e-9)
    values = jax.vmap(lambda p: on_circle(score_of(PLANE), x, radius=0.45, p=p, n_points=512))(ORDERS)
    np.testing.assert_allclose(values, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_flux_against_quadrature(kind):
    """An image of three values, full covariances, every kind of directions, 4,000 of them."""
    twin, x = Mixture(*SPACE), np.array([0.4, 0.9, -0.3])
    image = Partial(lambda q, y: q.score(y.reshape(3)).reshape(y.shape), GaussianMixture(*SPACE))
    point = jnp.asarray(x.reshape(3, 1, 1), jnp.float32)
    n = 3840
    estimates = jax.vmap(lambda p: kappa(image, point, radius=0.8, p=p, key=KEY, n_samples=n, directions=kind))(
        jnp.asarray(ORDERS, jnp.float32)
    )
    expected = np.array([sphere_kappa(twin.score, x, 0.8, p) for p in ORDERS])
    assert np.all(np.abs(estimates.value - expected) < 4 * estimates.stderr)
    assert np.all(estimates.stderr < 0.03 * expected)
    unit = {"iid": 1, "antithetic": 2, "orthogonal": 3, "quasi": 480}[kind]
    assert np.all(estimates.n_units == n // unit)


def test_pairs_halve_odd_errors_and_double_even_ones():
    """math.md, "Variance": pairs cancel the odd part of the integrand and double the variance of an even one."""
    keys = jax.random.split(KEY, 500)

    def spread(score_fn, x, kind):
        run = jax.vmap(lambda k: kappa(score_fn, x, radius=1.0, p=2.0, key=k, n_samples=32, directions=kind).value)
        return np.var(run(keys))

    even, odd = Partial(linear, jnp.diag(jnp.array([-1.0, -4.0, -1.0]))), Partial(linear, -jnp.eye(3))
    at_mode, aside = jnp.zeros(3), jnp.array([0.0, 0.0, 2.0])
    np.testing.assert_allclose(spread(even, at_mode, "antithetic") / spread(even, at_mode, "iid"), 2, rtol=0.25)
    assert spread(odd, aside, "antithetic") < 1e-9 < spread(odd, aside, "iid")
    np.testing.assert_allclose(spread(even, at_mode, "orthogonal") / spread(even, at_mode, "iid"), 0.5, rtol=0.25)


@given(
    hnp.arrays(np.float64, (3, 3), elements=st.floats(-2, 2)),
    hnp.arrays(np.float64, 3, elements=st.floats(0.01, 4)),
    hnp.arrays(np.float64, 3, elements=st.floats(-10, 10)),
    st.floats(1e-3, 1e3),
    st.sampled_from(["iid", "antithetic", "orthogonal"]),
)
def test_kappa_1_is_a_mean_cosine(means, variances, x, radius, kind):
    mixture = GaussianMixture(WEIGHTS, *(jnp.asarray(a, jnp.float32) for a in (means, variances)), "spherical")
    score_fn, x = Partial(GaussianMixture.score, mixture), jnp.asarray(x, jnp.float32)
    how = {"key": KEY, "n_samples": 32, "directions": kind}
    estimate = kappa(score_fn, x, radius=radius, **how)
    assert -1 - 1e-6 <= estimate.value <= 1 + 1e-6
    assert 0 <= estimate.stderr <= 1.01 / estimate.n_units**0.5 * (estimate.n_units / (estimate.n_units - 1)) ** 0.5
    far = kappa(score_fn, x, radius=1e6, **how)
    np.testing.assert_allclose(far.value, 1, rtol=1e-4)


# --- volume, divergence theorem, orders of convergence


@pytest.mark.parametrize("divergence", ["exact", "finite_difference"])
def test_divergence_theorem(divergence, x64):
    """Volume, flux and quadrature in space, p = 1 to 3, at a regular point; flux and volume within their errors."""
    twin, x, radius = Mixture(*SPACE), np.array([0.4, 0.9, -0.3]), 0.5
    score_fn = score_of(SPACE)
    for p in (1.0, 2.0, 3.0):
        inside = average(score_fn, x, radius=radius, p=p, key=KEY, n_samples=4000, divergence=divergence)
        boundary = ball_average(kappa(score_fn, x, radius=radius, p=p, key=KEY, n_samples=4000), radius, 3)
        truth = -3 / radius * sphere_kappa(twin.score, x, radius, p)
        assert abs(inside.value - truth) < 4 * inside.stderr
        assert abs(boundary.value - truth) < 4 * boundary.stderr
        assert abs(inside.value - boundary.value) < 4 * np.hypot(inside.stderr, boundary.stderr)
        assert inside.nfe == 4000 * (5 if divergence == "exact" else 6) and inside.n_units == 4000


def test_on_a_line_the_flux_is_two_values_and_the_volume_their_difference(x64):
    """(|s|^{p−2}s (x+r) − |s|^{p−2}s (x−r)) / 2r, for points with and without an axis."""
    radius = 0.5
    expected = -(1.7**6 - 0.7**6) / (2 * radius)

    @jax.jit
    def all_three(x):
        at = {"score_fn": lambda x: -(x**3), "x": x, "radius": radius, "p": 3.0, "key": KEY}
        boundary = ball_average(flux(**at, n_samples=4, directions="antithetic"), radius, 1)
        return boundary, [volume(**at, n_samples=4000, divergence=d) for d in ("exact", "finite_difference")]

    for x in (jnp.float64(1.2), jnp.array([1.2])):
        boundary, insides = all_three(x)
        np.testing.assert_allclose(boundary.value, expected, rtol=1e-12)
        for inside in insides:
            assert abs(inside.value - expected) < 4 * inside.stderr < 0.1 * abs(expected)


def slope(x, y):
    """Of log y against log x."""
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def test_ball_average_differs_from_the_point_by_the_square_of_the_radius(x64):
    x, radii, score_fn = jnp.array([0.7, 0.4]), np.logspace(-2.5, -1, 7), score_of(PLANE)

    @jax.jit
    def errors(p):
        averages = -2 / radii * jax.vmap(lambda r: circle_flux(score_fn, x, radius=r, p=p))(radii)
        return jnp.abs(averages - p_laplacian(score_fn, x, p))

    for p in ORDERS:
        assert abs(slope(radii, errors(p)) - 2) < 0.1


def test_finite_differences_are_of_second_order_until_rounding(x64):
    """Error O(h²), then O(ε/h), on the same points of the ball as the exact divergence.

    What rounding does at one ball and step is chance, and another compiler's is another: root mean square over balls.
    """
    centres, score_fn = jnp.array([0.7, 0.4]) + 0.02 * jnp.arange(32)[:, None], score_of(PLANE)

    @jax.jit
    def errors(steps, p):
        def at_centre(x):
            at_step = partial(volume, score_fn, x, radius=0.5, p=p, key=KEY, n_samples=64)
            differences = jax.vmap(lambda h: at_step(divergence="finite_difference", step=h).value)(steps)
            by_default, exact = at_step(divergence="finite_difference").value, at_step().value
            return differences - exact, jnp.abs(by_default / exact - 1)

        found, by_default = jax.vmap(at_centre)(centres)
        return jnp.sqrt((found**2).mean(axis=0)), by_default.max()

    large, small = np.logspace(-3, -2, 12), np.logspace(-11, -8, 12)
    for p in (1.5, 3.0):
        assert abs(slope(large, errors(large, p)[0]) - 2) < 0.1
        rounding, by_default = errors(small, p)
        assert abs(slope(small, rounding) + 1) < 0.2
        assert by_default < 1e-7


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e4])
def test_the_default_step_follows_the_scale(scale):
    """N(0, scale² I_4), float32, and the ball with it: the differences agree with the exact divergence."""
    score_fn = Partial(of_gaussian, jnp.zeros(4), scale**2)
    for offset in (0.0, 1.0, 30.0):
        at = partial(average, score_fn, jnp.full(4, offset * scale), radius=scale, p=3.0, key=KEY, n_samples=64)
        np.testing.assert_allclose(at(divergence="finite_difference").value, at().value, rtol=2e-3)


def test_the_default_step_outlives_a_centre_far_from_the_origin():
    """The points of a ball of radius 1e-4 about 1 are multiples of 6e-8: the step is large against that."""
    x = jnp.full(4, 1.0)
    at = partial(average, Partial(of_gaussian, x, 1e-8), x, radius=1e-4, p=3.0, key=KEY, n_samples=64)
    np.testing.assert_allclose(at(divergence="finite_difference").value, at().value, rtol=5e-2)


@pytest.mark.parametrize(
    ("d", "p", "infinite"),
    [
        (1, 1.0, True),
        (1, 1.5, True),
        (1, 1.51, False),
        (2, 1.0, True),
        (2, 1.01, False),
        (2, 2.0, False),
        (3, 1.0, False),
        (16, 1.0, False),
    ],
)
def test_infinite_variance_is_warned_of_exactly_where_it_is(d, p, infinite):
    """Second moment of ρ^{p−2} over a ball about a critical point: finite only if p > 2 − d/2."""
    call = partial(volume, lambda x: 1 - x, jnp.zeros(d), radius=1.0, key=KEY, n_samples=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.eval_shape(lambda: call(p=p))
        jax.eval_shape(lambda order: call(p=order), 1.0)  # traced: unknown, so silent
    messages = [str(w.message) for w in caught if w.category is InfiniteVarianceWarning]
    assert len(messages) == infinite
    assert all(f"p={p}, d={d}: its variance is infinite near critical points" in m for m in messages)


def test_infinite_variance_shows_and_finite_variance_does_not():
    """At a mode the sample variance settles for p = 1.5 in the plane and grows with the sample for p = 1."""
    score_fn, x, keys = Partial(linear, -jnp.eye(2)), jnp.zeros(2), jax.random.split(KEY, 200)

    def spread(p, n):
        run = jax.vmap(lambda k: average(score_fn, x, radius=1.0, p=p, key=k, n_samples=n).stderr ** 2 * n)
        return np.median(run(keys))

    np.testing.assert_allclose(spread(1.9, 4000) / spread(1.9, 40), 1, rtol=0.2)
    assert spread(1.0, 4000) > 1.5 * spread(1.0, 40)


# --- what derives from κ_p


@given(st.floats(-3, 3), st.floats(1e-6, 2), st.floats(1e-3, 1e3), st.integers(1, 5000), st.sampled_from([8, 64]))
def test_density_and_ball_average_are_inverse(value, stderr, radius, dim, n_units):
    estimate = Estimate(value, stderr, 64, n_units, 3)
    back = flux_density(ball_average(estimate, radius, dim), radius, dim)
    np.testing.assert_allclose([back.value, back.stderr], [value, stderr], rtol=1e-5, atol=1e-30)
    assert (back.nfe, back.n_units, back.n_zero) == (64, n_units, 3)
    np.testing.assert_allclose(ball_average(estimate, radius, dim).value, -dim / radius * value, rtol=1e-5, atol=1e-30)
    assert ball_average(estimate, radius, dim).stderr >= 0


@pytest.mark.parametrize(("d", "area"), [(1, 2.0), (2, 2 * np.pi * 3), (3, 4 * np.pi * 9), (4, 2 * np.pi**2 * 27)])
def test_total_flux_is_area_times_density(d, area):
    estimate = total_flux(Estimate(-0.5, 0.1, 16, 16), 3.0, d)
    np.testing.assert_allclose([estimate.value, estimate.stderr], [-0.5 * area, 0.1 * area], rtol=1e-5)
    sign, logarithm = log_total_flux(Estimate(-0.5, 0.1, 16, 16), 3.0, d)
    np.testing.assert_allclose(sign * np.exp(logarithm), -0.5 * area, rtol=1e-5)


def test_total_flux_in_high_dimension_is_a_logarithm():
    d = 3072
    for radius in (1.0, 55.4):
        sign, logarithm = log_total_flux(Estimate(0.25, 0.1, 16, 16), radius, d)
        expected = np.log(2) + d / 2 * np.log(np.pi) - special.gammaln(d / 2) + (d - 1) * np.log(radius) + np.log(0.25)
        assert sign == 1
        np.testing.assert_allclose(logarithm, expected, rtol=3e-7)
        assert log_sphere_area(radius, d).dtype == jnp.float32
    # By Gauss' theorem the total flux of a Gaussian at p = 2 is d |B_r| / σ²: here in logarithms, d = 3072.
    sign, logarithm = log_total_flux(Estimate(2.0 / 0.5, 0.0, 16, 16), 2.0, d)
    ball = d / 2 * np.log(np.pi) - special.gammaln(d / 2 + 1) + d * np.log(2.0)
    np.testing.assert_allclose(logarithm, np.log(d) + ball - np.log(0.5), rtol=3e-7)
    assert not np.isfinite(log_total_flux(Estimate(0.0, 0.0, 16, 16), 2.0, d)[1])


# --- behaviour


def test_vanishing_scores_contribute_nothing_and_are_counted():
    def half(x):
        return jnp.where(x[0] > 0, -x, 0.0)

    for p, counted in ((1.0, True), (1.5, True), (2.0, False), (3.0, False)):
        everywhere = kappa(Partial(jnp.zeros_like), jnp.ones(2), radius=1.0, p=p, key=KEY)
        assert everywhere.value == everywhere.stderr == 0
        assert everywhere.n_zero == (16 if counted else 0)
    estimate = kappa(Partial(half), jnp.zeros(2), radius=1.0, key=KEY, n_samples=400)
    assert 150 < estimate.n_zero < 250
    np.testing.assert_allclose(estimate.value, 1 - estimate.n_zero / 400, rtol=1e-5)


def test_same_key_gives_the_same_directions_at_every_point():
    """Common random numbers: for a linear score κ_2 differs between points by the mean direction only, so not at all
    between two centres that the same directions see alike."""
    batch = jax.vmap(lambda x: kappa(Partial(jnp.negative), x, radius=0.5, p=1.0, key=KEY))
    points = jnp.array([[0.1, 0.2], [0.1, 0.2], [3.0, -1.0]])
    together = batch(points)
    np.testing.assert_allclose(together.value[0], together.value[1], rtol=1e-6)
    assert abs(together.value[0] - together.value[2]) > 0.01
    alone = kappa(Partial(jnp.negative), points[2], radius=0.5, p=1.0, key=KEY)
    np.testing.assert_allclose(together.value[2], alone.value, rtol=1e-6)
    assert kappa(Partial(jnp.negative), points[2], radius=0.5, key=jax.random.key(1)).value != alone.value


def test_gradients_of_flux_and_volume(x64):
    score_fn, h, centre = score_of(PLANE), 1e-6, jnp.array([0.7, 0.4])

    @jax.jit
    def both(x, radius, p):
        """Value and gradients of κ_p, and of the ball average, each of a few samples."""

        def value(function, x, radius, p):
            return function(score_fn, x, radius=radius, p=p, key=KEY, n_samples=8).value

        return [jax.value_and_grad(partial(value, function), (0, 1, 2))(x, radius, p) for function in (flux, volume)]

    def difference(which, x=0.0, radius=0.0, p=0.0):
        ahead, behind = (both(centre + s * x, 0.5 + s * radius, 1.5 + s * p)[which][0] for s in (h, -h))
        return (ahead - behind) / (2 * h)

    for which, (_, (in_x, in_radius, in_p)) in enumerate(both(centre, 0.5, 1.5)):
        for i, e in enumerate(np.eye(2)):
            np.testing.assert_allclose(in_x[i], difference(which, x=e), rtol=1e-6)
        np.testing.assert_allclose(in_radius, difference(which, radius=1.0), rtol=1e-6)
        np.testing.assert_allclose(in_p, difference(which, p=1.0), rtol=1e-6)


def test_nothing_compiles_twice():
    counts = {"flux": 0, "volume": 0}

    @jax.jit
    def compiled(score_fn, x, radius, p, key):
        counts["flux"] += 1
        return flux(score_fn, x, radius=radius, p=p, key=key)

    @jax.jit
    def compiled_volume(score_fn, x, radius, p, key, step):
        counts["volume"] += 1
        return volume(score_fn, x, radius=radius, p=p, key=key, divergence="finite_difference", step=step)

    mixture = GaussianMixture(*PLANE)
    for seed, (sigma, radius, p) in enumerate(((0.1, 0.5, 1.0), (0.5, 1, 2.5), (jnp.float32(1), 2.0, 1.5))):
        score_fn = Partial(GaussianMixture.score, mixture.noised(0.9, sigma))
        arguments = (score_fn, jnp.full(2, seed, jnp.float32), float(radius), p, jax.random.key(seed))
        compiled(*arguments)
        compiled_volume(*arguments, 1e-3 * (seed + 1))
    assert counts == {"flux": 1, "volume": 1}


def test_estimator_is_flux_with_its_numbers_as_data():
    compiled = jax.jit(lambda estimator, x: estimator(x))
    mixture, x = GaussianMixture(*PLANE), jnp.array([0.7, 0.4])
    for seed, (sigma, radius, p) in enumerate(((0.1, 0.5, 1.0), (0.5, 1.0, 2.5))):
        score_fn, key = Partial(GaussianMixture.score, mixture.noised(0.9, sigma)), jax.random.key(seed)
        estimate = compiled(FluxEstimator(score_fn, radius, key, p, 32, "antithetic"), x)
        expected = kappa(score_fn, x, radius=radius, p=p, key=key, n_samples=32, directions="antithetic")
        np.testing.assert_allclose([estimate.value, estimate.stderr], [expected.value, expected.stderr], rtol=1e-5)
        assert estimate.n_units == 16
    assert compiled._cache_size() == 1


def test_dtypes(x64):
    """float32 stays float32 under double precision; bfloat16 scores are summed in float32."""
    for call in (partial(flux, lambda x: -x), partial(volume, lambda x: -x, divergence="finite_difference")):
        for dtype, expected in ((jnp.float32, jnp.float32), (jnp.float64, jnp.float64), (jnp.bfloat16, jnp.float32)):
            shapes = jax.eval_shape(partial(call, radius=1.0, key=KEY, p=2.0), jnp.ones(3, dtype))
            assert shapes.value.dtype == shapes.stderr.dtype == expected
    x = jnp.zeros(4096, jnp.bfloat16)
    estimate = kappa(Partial(lambda x: -jnp.sign(x)), x, radius=64.0, p=2.0, key=KEY)
    # κ_2 = E Σ|n_i| = √(2d/π); in bfloat16 the sum would stall at 4 (8 significant bits).
    np.testing.assert_allclose(estimate.value, (2 * 4096 / np.pi) ** 0.5, rtol=5e-3)


# --- bad input


def test_traced_radii_and_orders_out_of_range_give_nan():
    """They cannot be refused; a number would be wrong, with a negative radius of the wrong sign."""
    x = jnp.array([0.7, 0.4])

    def constant_or_not(is_constant, y):
        return jnp.where(is_constant, jnp.array([1.0, 0.0]), score_of(PLANE)(y))  # |s| = 1 hides a bad p

    for function in (flux, volume, circle_flux):
        given_key = {} if function is circle_flux else {"key": KEY}
        at = jax.jit(lambda s, r, p, f=function, k=given_key: f(s, x, radius=r, p=p, **k))
        for is_constant in (False, True):
            both = partial(at, Partial(constant_or_not, is_constant))
            for r, p in ((-0.5, 2.0), (0.0, 2.0), (jnp.inf, 2.0), (jnp.nan, 2.0), (0.5, 0.5), (0.5, jnp.nan)):
                assert np.all(np.isnan(jax.tree.leaves(both(r, p))[0])), (r, p)
            assert np.all(np.isfinite(jax.tree.leaves(both(0.5, 2.0))[0]))
        assert at._cache_size() == 1
    for derived in (ball_average, flux_density, total_flux):
        traced = jax.jit(lambda r, f=derived: f(Estimate(0.5, 0.1, 16, 16), r, 2))
        assert np.isnan(traced(-1.0).value) and np.isfinite(traced(1.0).value)
    assert np.isnan(jax.jit(lambda r: log_sphere_area(r, 3))(-1.0))
    radii = jnp.array([0.5, -0.5])
    np.testing.assert_array_equal(
        np.isnan(jax.vmap(lambda r: kappa(Partial(linear, -jnp.eye(2)), x, radius=r, key=KEY).value)(radii)), [0, 1]
    )


def test_an_estimator_refuses_what_map_points_would_hide():
    score_fn, points = score_of(PLANE), np.ones((3, 2), np.float32)
    for change, name in (
        ({"radius": -0.5}, "radius=-0.5"),
        ({"radius": jnp.zeros(())}, "radius=Array"),
        ({"p": 0.5}, "p="),
    ):
        with pytest.raises(ValueError, match=f"^{name}.*: must be"):
            FluxEstimator(**{"score_fn": score_fn, "radius": 0.5, "key": KEY} | change)
    good, value = FluxEstimator(score_fn, 0.5, KEY), jax.jit(lambda e: e(jnp.ones(2)).value)
    inverted = jax.tree.map(lambda leaf: -0.5 if isinstance(leaf, float) and leaf == 0.5 else leaf, good)
    estimates = map_points(inverted, points)
    assert inverted.radius == -0.5 and np.isnan(estimates.value).all() and np.isnan(estimates.stderr).all()
    # JAX rebuilds it of placeholders and gradients.
    assert jax.tree.map(lambda _: False, good).radius is False
    slope = jax.grad(lambda e: -value(e), allow_int=True)(good)
    assert slope.radius < 0
    radii = jnp.array([0.5, 0.8])
    values = jax.vmap(lambda r: value(FluxEstimator(score_fn, r, KEY)))(radii)
    assert values.shape == (2,) and FluxEstimator(score_fn, radii, KEY).radius is radii


POINT = jnp.ones(2)
GOOD = {"radius": 1.0, "key": KEY}


@pytest.mark.parametrize("function", [flux, volume, circle_flux])
@pytest.mark.parametrize(
    ("x", "change", "message"),
    [
        (POINT, {"p": 0.99}, "p=0.99: must be a single finite number >= 1; for p < 1 the flux"),
        (POINT, {"radius": 0.0}, "radius=0.0: must be a single finite number > 0"),
        (POINT, {"radius": -1}, "radius=-1: must be a single finite number > 0"),
        (POINT, {"radius": float("nan")}, "radius=nan: must be a single finite number > 0"),
        (POINT, {"radius": jnp.ones(2)}, "radius=Array.*: must be a single finite number > 0"),
        (jnp.array([1.0, jnp.nan]), {}, "x=array.*nan.*: must be finite"),
        (jnp.array([1, 2]), {}, r"x=dtype\('int32'\): must be of a floating dtype"),
        ([1, 2], {}, r"x=dtype\('int32'\): must be of a floating dtype"),
    ],
)
def test_bad_balls_are_refused(function, x, change, message):
    arguments = {"radius": 1.0} | ({} if function is circle_flux else {"key": KEY}) | change
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        function(lambda y: -y, x, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flux(jnp.sum, POINT, **GOOD), r"score_fn=\(\): must return the shape of x, \(2,\)"),
        (lambda: flux(lambda x: x[:1], POINT, **GOOD), r"score_fn=\(1,\): must return the shape of x, \(2,\)"),
        (lambda: circle_flux(lambda x: x[:1], POINT, radius=1.0), r"score_fn=\(1,\): must return the shape of x"),
        (lambda: volume(lambda x: x[:1], POINT, p=2, **GOOD), r"score_fn=\(1,\): must return the shape of x"),
        (
            lambda: volume(lambda x: x[:1], POINT, p=2, divergence="finite_difference", **GOOD),
            r"score_fn=\(1,\): must return the shape of x, \(2,\)",
        ),
        (lambda: flux(jnp.negative, POINT, directions="sobol", **GOOD), "directions='sobol': must be one of iid, "),
        (lambda: flux(jnp.negative, POINT, n_samples=1, **GOOD), "n_samples=1: must be an integer >= 2"),
        (lambda: flux(jnp.negative, POINT, n_samples=2.5, **GOOD), "n_samples=2.5: must be an integer >= 2"),
        (
            lambda: flux(jnp.negative, POINT, n_samples=2, directions="antithetic", **GOOD),
            "n_samples=2: must be an even number >= 4 for antithetic directions",
        ),
        (lambda: volume(jnp.negative, POINT, p=2, n_samples=1, **GOOD), "n_samples=1: must be an integer >= 2"),
        (
            lambda: volume(jnp.negative, POINT, p=2, divergence="stochastic", **GOOD),
            "divergence='stochastic': must be one of exact, finite_difference",
        ),
        (lambda: volume(jnp.negative, POINT, p=2, step=0.0, **GOOD), "step=0.0: must be None or a single finite"),
        (lambda: volume(jnp.negative, POINT, p=2, chunk=0, **GOOD), "chunk=0: must be None or an integer >= 1"),
        (lambda: circle_flux(jnp.negative, jnp.ones(3), radius=1.0), r"x=\(3,\): must be a point of the plane"),
        (lambda: circle_flux(jnp.negative, POINT, radius=1.0, n_points=0), "n=0: must be an integer >= 1"),
        (lambda: ball_average(Estimate(1.0, 1.0, 2, 2), 0.0, 2), "radius=0.0: must be finite and > 0"),
        (lambda: flux_density(Estimate(1.0, 1.0, 2, 2), -1.0, 2), "radius=-1.0: must be finite and > 0"),
        (lambda: log_sphere_area(float("inf"), 2), "radius=inf: must be finite and > 0"),
        (lambda: log_sphere_area(1.0, 0), "dim=0: must be >= 1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        jax.eval_shape(call)  # refused before anything is computed
    assert "\n" not in str(caught.value)
