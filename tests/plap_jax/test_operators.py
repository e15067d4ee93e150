"""Δ_p u at a point: closed forms, brute force, critical points, derivatives, stochastic traces."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.tree_util import Partial

from plap_jax import GaussianMixture, p_laplacian, p_laplacian_estimate
from plap_jax.operators import p_field
from tests.helpers.numpy_twin import Mixture

ORDERS = np.array([1.0, 1.5, 2.0, 3.0, 4.0])
MEANS = np.array([[0.0, 0.0], [2.0, 0.5], [-0.5, 1.5]])
COVARIANCES = np.array([[[0.5, 0.2], [0.2, 0.7]], [[1.0, 0.0], [0.0, 0.3]], [[0.4, -0.1], [-0.1, 0.4]]])
WEIGHTS = np.array([0.5, 0.3, 0.2])


KEY = jax.random.key(0)
exact = jax.jit(p_laplacian, static_argnames="chunk")
estimated = jax.jit(p_laplacian_estimate, static_argnames="n_probes")
field = jax.jit(p_field)


def plane():
    """A mixture in the plane as a score function, in the floating dtype of the moment."""
    return Partial(GaussianMixture.score, GaussianMixture(WEIGHTS, MEANS, COVARIANCES))


def linear(matrix, x):
    """A score with constant Jacobian."""
    return (matrix @ x.reshape(-1)).reshape(x.shape)


def wavy(scale, x):
    """A score of an image with a dense Jacobian that changes from place to place."""
    flat = x.reshape(-1)
    return (jnp.sin(scale * flat) * jnp.sum(jnp.cos(flat)) - flat**3).reshape(x.shape)


@partial(jax.jit, static_argnames="chunk")
def over_orders(score_fn, points, orders, chunk=None, eps=0.0):
    """Δ_p u for every point and order: ``(n_orders, n_points)``."""
    return jax.vmap(lambda p: jax.vmap(lambda x: p_laplacian(score_fn, x, p, chunk=chunk, eps=eps))(points))(orders)


# --- closed forms


@pytest.mark.parametrize("d", [1, 2, 16, 256])
def test_isotropic_gaussian(d, x64):
    """−σ^{−2(p−1)} ρ^{p−2} (d+p−2)."""
    rng, variance = np.random.default_rng(d), 0.7
    points = rng.normal(size=(3, d))
    rho = np.linalg.norm(points, axis=1)
    values = over_orders(Partial(linear, -jnp.eye(d) / variance), points, ORDERS)
    p = ORDERS[:, None]
    expected = -(variance ** (1 - p)) * rho ** (p - 2) * (d + p - 2)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 16, 256])
def test_power_whose_p_laplacian_is_constant(d, x64):
    """u = |x|^{p/(p−1)}: Δ_p u = d (p/(p−1))^{p−1}."""
    points, orders = np.random.default_rng(d).normal(size=(3, d)), ORDERS[1:]

    @jax.jit
    def evaluate(points, orders):
        def one(p, x):
            q = p / (p - 1)
            return p_laplacian(lambda y: q * jnp.sum(y**2) ** (q / 2 - 1) * y, x, p)

        return jax.vmap(lambda p: jax.vmap(lambda x: one(p, x))(points))(orders)

    expected = d * (orders / (orders - 1)) ** (orders - 1)
    np.testing.assert_allclose(evaluate(points, orders), np.broadcast_to(expected[:, None], (4, 3)), rtol=1e-6)


def test_laplacian_of_any_gaussian_is_minus_the_trace_of_its_precision(x64):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(16, 16))
    covariance = factor @ factor.T + 0.1 * np.eye(16)
    score_fn = Partial(GaussianMixture.score, GaussianMixture([1.0], rng.normal(size=(1, 16)), covariance[None]))
    values = over_orders(score_fn, 5 * rng.normal(size=(3, 16)), np.array([2.0]))
    np.testing.assert_allclose(values, np.full((1, 3), -np.trace(np.linalg.inv(covariance))), rtol=1e-8)


def test_mixture_against_numpy(x64):
    points = 2 * np.random.default_rng(1).normal(size=(40, 2))
    twin = Mixture(WEIGHTS, MEANS, COVARIANCES)
    expected = np.stack([twin.p_laplacian(points, p) for p in ORDERS])
    np.testing.assert_allclose(over_orders(plane(), points, ORDERS), expected, rtol=1e-7, atol=1e-9)


# --- the divergence by brute force


def brute_force(score_fn, x, p, eps=0.0):
    """tr ∂F/∂x of F = (|s|² + eps²)^{(p−2)/2} s, by ``jacfwd``."""

    def field(flat):
        s = score_fn(flat.reshape(x.shape)).reshape(-1)
        return (jnp.sum(s**2) + eps**2) ** ((p - 2) / 2) * s

    return jnp.trace(jax.jacfwd(field)(x.reshape(-1)))


@pytest.mark.parametrize("chunk", [None, 1, 5, 12, 100])
def test_chunks_change_nothing(chunk, x64):
    """Chunks that divide d = 12, that do not, and that exceed it; images, both dtypes."""
    image = jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 3, 2)))
    score_fn = Partial(wavy, jnp.linspace(0.5, 2, 12))
    expected = [brute_force(score_fn, image[0], p) for p in ORDERS]
    np.testing.assert_allclose(over_orders(score_fn, image, ORDERS, chunk)[:, 0], expected, rtol=1e-9)
    single = over_orders(Partial(wavy, jnp.linspace(0.5, 2, 12, dtype=jnp.float32)), jnp.float32(image), ORDERS, chunk)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single[:, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("eps", [1e-3, 0.5, 10.0])
def test_eps_smooths_the_norm(eps, x64):
    image = jnp.asarray(np.random.default_rng(3).normal(size=(1, 2, 3, 2)))
    score_fn = Partial(wavy, jnp.linspace(0.5, 2, 12))
    expected = [brute_force(score_fn, image[0], p, eps) for p in ORDERS]
    np.testing.assert_allclose(over_orders(score_fn, image, ORDERS, None, eps)[:, 0], expected, rtol=1e-9)


def test_scalar_points_and_python_numbers():
    """d = 1 without an axis: Δ_p u = (p−1)|u'|^{p−2} u''."""
    value = p_laplacian(lambda x: -(x**3), 2.0, 3)
    np.testing.assert_allclose(value, 2 * 8.0 * -12.0, rtol=1e-6)
    assert value.shape == () and exact(Partial(jnp.negative), jnp.float32(2.0), 1) == 0


# --- critical points


@pytest.mark.parametrize(
    ("jacobian", "expected"),
    [
        ([-1.0, -2.0], {1.0: -np.inf, 1.5: -np.inf, 2.0: -3.0, 3.0: 0.0}),  # a maximum
        ([1.0, 2.0], {1.0: np.inf, 1.5: np.inf, 2.0: 3.0, 3.0: 0.0}),  # a minimum
        ([1.0, -1.0], {1.0: np.nan, 2.0: 0.0, 3.0: 0.0}),  # a saddle whose curvatures cancel
        ([-1.0, 0.0], {1.0: -np.inf, 1.999: -np.inf, 2.001: 0.0}),
        ([-1.0], {1.0: np.nan, 1.5: -np.inf, 2.0: -1.0, 3.0: 0.0}),  # on a line Δ_1 has no sign
        ([0.0, 0.0], {1.0: np.nan, 2.0: 0.0, 4.0: 0.0}),  # flat
    ],
)
def test_critical_points_are_never_silently_zero(jacobian, expected):
    score_fn = Partial(linear, jnp.diag(jnp.array(jacobian)))
    points = jnp.zeros((1, len(jacobian)))
    values = over_orders(score_fn, points, jnp.array(list(expected)))[:, 0]
    np.testing.assert_array_equal(values, np.array(list(expected.values()), np.float32))


def test_eps_makes_critical_points_finite():
    """eps^{p−2} tr J."""
    score_fn = Partial(linear, jnp.diag(jnp.array([-1.0, -2.0])))
    values = over_orders(score_fn, jnp.zeros((1, 2)), jnp.array([1.0, 1.5, 2.0, 3.0]), None, 0.1)[:, 0]
    np.testing.assert_allclose(values, -3 * 0.1 ** np.array([-1, -0.5, 0, 1]), rtol=1e-6)


def test_beside_a_maximum_the_value_grows_like_the_power_of_the_distance():
    """Down to the smallest normal numbers, without a threshold below which something else is returned."""
    distances = jnp.asarray(10.0 ** np.arange(-30.0, 1, 5), jnp.float32)
    points = distances[:, None] * jnp.array([0.6, 0.8])
    values = over_orders(Partial(linear, -jnp.eye(2)), points, jnp.array([1.0, 1.5]))
    np.testing.assert_allclose(values, [-1 / distances, -1.5 * distances**-0.5], rtol=1e-5)


def test_a_score_that_is_nan_stays_nan():
    values = over_orders(Partial(linear, jnp.full((2, 2), jnp.nan)), jnp.ones((1, 2)), jnp.array([1.0, 2.0, 3.0]))
    assert np.all(np.isnan(values))


def test_scores_whose_squares_leave_float32():
    for scale in (1e-25, 1e25):
        value = exact(Partial(linear, -scale * jnp.eye(3)), jnp.array([1.0, 2.0, 2.0]), 1.0)
        np.testing.assert_allclose(value, -2 / 3, rtol=1e-5)


def test_field_where_the_score_vanishes():
    s = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1e-30]])
    for p, expected, counted in (
        (1.0, [0.6, 0.8], True),
        (1.5, np.array([3, 4]) / 5**0.5, True),
        (3.0, [15, 20], False),
    ):
        values, vanishes = field(s, p)
        np.testing.assert_allclose(values[:2], [[0, 0], expected], rtol=1e-6)
        # Zero in one coordinate only is no critical point.
        np.testing.assert_array_equal(vanishes, [counted, False, False])
    np.testing.assert_allclose(field(s, 1.0)[0][2], [0, 1])
    values, vanishes = field(s, 1.0, 12.0)
    np.testing.assert_allclose(values, [[0, 0], [3 / 13, 4 / 13], [0, 1e-30 / 12]], rtol=1e-6)
    assert not vanishes.any()
    assert np.all(np.isfinite(jax.jit(jax.jacrev(lambda v: p_field(v, 1.0)[0]))(jnp.zeros(2))))


# --- derivatives


@jax.jit
def derivatives(score_fn, points, orders, eps):
    """Δ_p u at each point, and its gradients in the score's parameters, the point, p and eps; one chunk at a time."""

    def one(score_fn, x, p, eps):
        return p_laplacian(score_fn, x, p, chunk=1, eps=eps)

    return jax.vmap(jax.value_and_grad(one, (0, 1, 2, 3)), (None, 0, 0, 0))(score_fn, points, orders, eps)


def test_gradients_against_finite_differences(x64):
    score_fn, points, h = plane(), np.random.default_rng(4).normal(size=(5, 2)), 1e-5
    base = (
        points,
        np.maximum(ORDERS, 1 + 2 * h),
        np.full(5, 0.3),
    )  # below p = 1, where a step back would lead, there is only NaN

    def shifted(step, x=0.0, p=0.0, eps=0.0):
        return derivatives(score_fn, base[0] + step * x, base[1] + step * p, base[2] + step * eps)[0]

    in_score, in_x, in_p, in_eps = derivatives(score_fn, *base)[1]
    for i, e in enumerate(np.eye(2)):
        np.testing.assert_allclose(in_x[:, i], (shifted(h, x=e) - shifted(-h, x=e)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(in_p, (shifted(h, p=1) - shifted(-h, p=1)) / (2 * h), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(in_eps, (shifted(h, eps=1) - shifted(-h, eps=1)) / (2 * h), rtol=1e-6)
    direction = jax.tree.map(lambda a: np.linspace(-1, 1, a.size).reshape(a.shape), score_fn)
    pairs = zip(jax.tree.leaves(in_score), jax.tree.leaves(direction), strict=True)
    slope = sum(np.sum(a * b, axis=tuple(range(1, a.ndim))) for a, b in pairs)
    moved = [jax.tree.map(lambda a, b, h=h: a + h * b, score_fn, direction) for h in (1e-6, -1e-6)]
    ahead, behind = (derivatives(fn, *base)[0] for fn in moved)
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-5)


def test_no_nan_gradient_away_from_critical_points(x64):
    directions, score_fn = np.random.default_rng(4).normal(size=(10, 2)), plane()
    for scale in np.logspace(-3, 4, 8):
        for direction in directions:
            results = derivatives(score_fn, np.tile(scale * direction, (5, 1)), ORDERS, np.zeros(5))
            assert all(np.all(np.isfinite(part)) for part in jax.tree.leaves(results))


# --- identities


@jax.jit
def transformed(parts, points, orders, scale, angle, shift):
    """Δ_p of u, of u(Q⁻¹(x − shift)/scale) at the transformed points, and p."""
    weights, means, eigenvalues, turn = parts
    c, s = jnp.cos(angle), jnp.sin(angle)
    q = jnp.array([[c, -s], [s, c]])
    before = GaussianMixture._with(weights, means, eigenvalues, turn)
    after = GaussianMixture._with(weights, scale * means @ q.T + shift, scale**2 * eigenvalues, q @ turn)

    def both(p, x):
        moved = scale * q @ x + shift
        return p_laplacian(before.score, x, p), p_laplacian(after.score, moved, p), jnp.linalg.norm(before.score(x))

    return jax.vmap(both, (0, 0))(orders, points)


small = st.floats(-2, 2)


@given(
    hnp.arrays(np.float64, (3, 2), elements=small),
    hnp.arrays(np.float64, (3, 2, 2), elements=small),
    hnp.arrays(np.float64, (16, 2), elements=st.floats(-5, 5)),
    hnp.arrays(np.float64, 16, elements=st.floats(1, 4)),
    st.floats(0.1, 10),
    st.floats(-4, 4),
    hnp.arrays(np.float64, 2, elements=small),
)
def test_scaling_rotation_and_translation(x64, means, factors, points, orders, scale, angle, shift):
    """Δ_p of u((x − b)/a, turned) is a^{−p} Δ_p u."""
    eigenvalues, turn = np.linalg.eigh(factors @ factors.mT + 0.2 * np.eye(2))
    parts = (WEIGHTS, means, eigenvalues, turn)
    before, after, norm = map(np.asarray, transformed(parts, points, orders, scale, angle, shift))
    regular = norm > 1e-3  # at critical points both are infinite, or 0 to rounding
    before, after, norm, p = (a[regular] for a in (before, after, norm, orders))
    assert np.all(np.abs(after * scale**p - before) <= 1e-6 * np.maximum(np.abs(before), norm ** (p - 2)))


# --- compilation and dtypes


def test_nothing_compiles_twice():
    count = 0

    @jax.jit
    def compiled(score_fn, x, p, eps):
        nonlocal count
        count += 1
        return p_laplacian(score_fn, x, p, eps=eps)

    mixture = GaussianMixture(WEIGHTS, MEANS, COVARIANCES)
    for sigma in (0.1, 0.5, jnp.float32(1)):
        for p, x in ((1.0, jnp.ones(2)), (2.5, jnp.zeros(2))):
            compiled(Partial(GaussianMixture.score, mixture.noised(0.9, sigma)), x, p, 0.0)
    assert count == 1


def test_float32_points_stay_float32_while_double_precision_is_on(x64):
    x = jnp.ones(3, jnp.float32)
    score_fn = Partial(linear, -jnp.eye(3, dtype=jnp.float32))
    assert jax.eval_shape(p_laplacian, score_fn, x, 1.0).dtype == jnp.float32
    estimate = partial(p_laplacian_estimate, key=jax.random.key(0), n_probes=4)
    shapes = jax.eval_shape(estimate, score_fn, x, 1.5)
    assert shapes.value.dtype == shapes.stderr.dtype == jnp.float32


def test_bfloat16_scores_are_summed_in_float32():
    """tr J of 4096 entries of 1 is exact; summed in bfloat16 it would stall at 256."""
    x, score_fn = jnp.full(4096, 0.5, jnp.bfloat16), Partial(jnp.negative)
    value = exact(score_fn, x, 1.0, chunk=512)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, -4095 / 32, rtol=1e-6)
    estimate = estimated(score_fn, x, 1.0, key=jax.random.key(0), n_probes=4)
    np.testing.assert_allclose(estimate.value, -4095 / 32, rtol=1e-6)


# --- stochastic traces

DIM = 8
JACOBIAN = np.random.default_rng(5).normal(size=(DIM, DIM)) / 2
JACOBIAN = (JACOBIAN + JACOBIAN.T) / 2 - np.diag(np.arange(DIM))


@pytest.fixture(scope="module")
def replicated():
    """4,000 estimates at one point, p = 1.5, and the exact value."""
    score_fn, x = Partial(linear, jnp.asarray(JACOBIAN, jnp.float32)), jnp.ones(DIM)
    keys = jax.random.split(jax.random.key(0), 4000)
    return jax.vmap(lambda k: estimated(score_fn, x, 1.5, key=k, n_probes=16))(keys), float(exact(score_fn, x, 1.5))


def test_stochastic_trace_is_unbiased_and_its_error_calibrated(replicated):
    estimates, truth = replicated
    spread = estimates.value.std(ddof=1)
    assert abs(estimates.value.mean() - truth) < 4 * spread / len(estimates.value) ** 0.5
    np.testing.assert_allclose(np.sqrt(np.mean(estimates.stderr**2)), spread, rtol=0.05)
    assert np.all(estimates.n_units == 16) and np.all(estimates.nfe == 18)


def test_variance_of_the_trace_is_that_of_the_formula(replicated):
    """Var vᵀJv = 2 Σ_{i≠j} J_ij² for Rademacher v, times (|s|^{p−2})²."""
    norm = np.linalg.norm(JACOBIAN @ np.ones(DIM))
    off_diagonal = np.sum(JACOBIAN**2) - np.sum(np.diag(JACOBIAN) ** 2)
    expected = norm**-0.5 * (2 * off_diagonal / 16) ** 0.5
    np.testing.assert_allclose(replicated[0].value.std(), expected, rtol=0.05)


def test_stochastic_trace_of_any_magnitude():
    """float32, curvatures whose squares under- and overflow: the same relative error."""
    probing = partial(estimated, key=KEY, n_probes=48)
    jacobians = [-scale * jnp.asarray(JACOBIAN) for scale in (1e-22, 1.0, 1e18)]
    relative = [probing(Partial(linear, jacobian), jnp.ones(DIM), 1.0) for jacobian in jacobians]
    for estimate in relative[::2]:
        np.testing.assert_allclose(estimate.value, relative[1].value, rtol=1e-4)
        np.testing.assert_allclose(estimate.stderr, relative[1].stderr, rtol=1e-3)


def test_stochastic_trace_of_an_image_under_eps():
    """A diagonal Jacobian has no variance under Rademacher probes; eps and shapes as for the exact operator."""
    x = jnp.linspace(0.5, 1.5, 6).reshape(2, 3)
    score_fn = Partial(lambda x: -(x**2))
    estimate = estimated(score_fn, x, 1.0, key=jax.random.key(2), n_probes=3, eps=0.2)
    np.testing.assert_allclose(estimate.value, exact(score_fn, x, 1.0, eps=0.2), rtol=1e-5)
    assert estimate.stderr < 1e-5


# --- bad input

POINT = jnp.ones(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: p_laplacian(s, POINT, 0.5), "p=0.5: must be a single finite number >= 1; for p < 1 the flux"),
        (lambda s: p_laplacian(s, POINT, float("nan")), "p=nan: must be a single finite number >= 1"),
        (lambda s: p_laplacian(s, POINT, jnp.ones(2)), "p=Array.*: must be a single finite number >= 1"),
        (lambda s: p_laplacian(s, jnp.array([1.0, jnp.nan])), "x=array.*nan.*: must be finite"),
        (lambda s: p_laplacian(s, jnp.array([1, 2])), "x=dtype.*int32.*: must be of a floating dtype"),
        (lambda s: p_laplacian(s, jnp.ones(0)), r"x=\(0,\): must have at least one coordinate"),
        (lambda s: p_laplacian(s, POINT, chunk=0), "chunk=0: must be None or an integer >= 1"),
        (lambda s: p_laplacian(s, POINT, chunk=1.5), "chunk=1.5: must be None or an integer >= 1"),
        (lambda s: p_laplacian(s, POINT, eps=-1e-3), "eps=-0.001: must be a single finite number >= 0"),
        (lambda s: p_laplacian(lambda x: x[:1], POINT), r"score_fn=\(1,\): must return the shape of x, \(2,\)"),
        (lambda s: p_laplacian(lambda x: x[0], POINT), r"score_fn=\(\): must return the shape of x, \(2,\)"),
        (lambda s: p_laplacian(lambda x: x[None], POINT), r"score_fn=\(1, 2\): must return the shape of x"),
        (lambda s: p_laplacian_estimate(s, POINT, 0.9, key=KEY, n_probes=8), "p=0.9: must be"),
        (lambda s: p_laplacian_estimate(s, POINT, key=KEY, n_probes=1), "n_probes=1: must be an integer >= 2"),
        (lambda s: p_laplacian_estimate(s, POINT, key=KEY, n_probes=2.0), "n_probes=2.0: must be an integer >= 2"),
        (lambda s: p_laplacian_estimate(s, POINT, key=KEY, n_probes=8, eps=-1), "eps=-1: must be"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        call(lambda x: -x)
    assert "\n" not in str(caught.value)


def test_bad_points_under_jit_give_nan():
    assert np.isnan(jax.jit(lambda x: p_laplacian(lambda y: -y, x))(jnp.array([1.0, jnp.nan])))


def test_a_traced_order_below_one_gives_nan_and_no_plausible_number():
    mixture = GaussianMixture([1.0], [[0.0, 0.0]], [1.0], "spherical")
    orders = jnp.array([0.5, jnp.nan, 1.0])
    values = jax.jit(jax.vmap(lambda p: p_laplacian(mixture.score, jnp.ones(2), p)))(orders)
    assert list(np.isnan(values)) == [True, True, False]
