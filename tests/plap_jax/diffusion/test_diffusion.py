"""Schedules, conversions, and a network paired with its schedule, against what is known exactly."""

import itertools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plap_jax.diffusion import (
    EDM,
    PREDICTIONS,
    VE,
    Diffusion,
    DiscreteVP,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    convert,
    training_target,
)

CONTINUOUS = [VPLinear(), VPLinear(1.0, 1.0), VPCosine(), VPCosine(s=0.0), VE(), EDM(), RectifiedFlow()]
DISCRETE = [DiscreteVP.linear(), DiscreteVP.scaled_linear()]
SCHEDULES = CONTINUOUS + DISCRETE


def times(schedule, n=50):
    if schedule.discrete:
        return jnp.arange(schedule.t_max + 1)
    return jnp.linspace(schedule.t_min, schedule.t_max, n)


def name(schedule):
    return schedule.name


# --- schedules


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_alpha_sigma_and_log_snr_agree(schedule, x64):
    t = times(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if isinstance(schedule, RectifiedFlow):
        np.testing.assert_allclose(alpha + sigma, 1.0, rtol=1e-15)
    else:
        expected = 1.0 if not isinstance(schedule, (VE, EDM)) else 1 + sigma**2
        np.testing.assert_allclose(alpha**2 + sigma**2, expected, rtol=1e-13)
    np.testing.assert_allclose(schedule.log_snr(t), 2 * np.log(alpha / sigma), rtol=1e-10, atol=1e-10)
    assert np.all(np.diff(sigma) > 0)
    assert np.all(alpha > 0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_float32_keeps_its_digits(schedule):
    t = times(schedule)
    single = [f(t) for f in (schedule.alpha, schedule.sigma, schedule.log_snr)]
    assert all(v.dtype == jnp.float32 for v in single)
    with jax.enable_x64(True):
        t = jnp.asarray(t, jnp.int64 if schedule.discrete else jnp.float64)
        double = [f(t) for f in (schedule.alpha, schedule.sigma, schedule.log_snr)]
        assert all(v.dtype == jnp.float64 for v in double)
    for narrow, wide in zip(single, double, strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_time_at_inverts_sigma(schedule, x64):
    t = times(schedule)
    back = schedule.time_at(schedule.sigma(t))
    if schedule.discrete:
        np.testing.assert_array_equal(back, t)
    else:
        np.testing.assert_allclose(back, t, rtol=1e-8)
        np.testing.assert_allclose(schedule.sigma(back), schedule.sigma(t), rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_time_at_refuses_levels_out_of_reach(schedule):
    known = float(schedule.sigma(schedule.t_max))
    for sigma in (known * 1.01, 0.0, float("nan")):
        with pytest.raises(ValueError, match=rf"^sigma=.*must lie in .*{schedule.name}") as caught:
            schedule.time_at(sigma)
        assert "\n" not in str(caught.value)
    assert jax.jit(schedule.time_at)(1e3).shape == ()  # a traced level cannot be checked
    # a constant within jit can
    np.testing.assert_allclose(jax.jit(lambda: schedule.time_at(known))(), schedule.time_at(known), rtol=1e-6)


def test_discrete_table_is_the_plain_product():
    schedule = DiscreteVP.linear(100, 1e-4, 0.02)
    betas = np.linspace(1e-4, 0.02, 100)
    alpha_bar = np.cumprod(1 - betas)
    t = jnp.arange(100)
    np.testing.assert_allclose(schedule.alpha(t), np.sqrt(alpha_bar), rtol=1e-6)
    np.testing.assert_allclose(schedule.sigma(t), np.sqrt(1 - alpha_bar), rtol=1e-6)
    latent = DiscreteVP.scaled_linear()
    np.testing.assert_allclose(latent.betas, np.linspace(8.5e-4**0.5, 0.012**0.5, 1000) ** 2, rtol=1e-14)
    assert np.isnan(jax.jit(schedule.alpha)(100)) and np.isnan(jax.jit(schedule.alpha)(-1))


def test_discrete_time_at_takes_the_nearest_level():
    schedule = DiscreteVP.linear()
    sigma = np.asarray(schedule.sigma(jnp.arange(100)))
    assert int(schedule.time_at(0.6 * sigma[4] + 0.4 * sigma[5])) == 4
    assert int(schedule.time_at(0.4 * sigma[4] + 0.6 * sigma[5])) == 5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_sample_times_fill_every_stratum(schedule):
    n = 100
    t = np.asarray(schedule.sample_times(jax.random.key(0), n))
    assert t.shape == (n,) and np.all(t >= schedule.t_min) and np.all(t <= schedule.t_max)
    if schedule.discrete:
        assert t.dtype == np.int32
        np.testing.assert_array_equal(t // ((schedule.t_max + 1) // 100), np.arange(n))
    elif isinstance(schedule, EDM):
        logs = np.log(t)
        assert abs(logs.mean() - schedule.p_mean) < 0.05 and abs(logs.std() - schedule.p_std) < 0.05
    else:
        share = (t - schedule.t_min) / (schedule.t_max - schedule.t_min)
        assert np.all(np.abs(share * n - np.arange(n) - 0.5) <= 0.5 + 1e-3)


def test_training_times_of_a_flow_are_uniform_or_logit_normal():
    n = 4000
    drawn = RectifiedFlow(training_times="logit_normal", logit_mean=0.5, logit_std=0.8)
    t = np.asarray(drawn.sample_times(jax.random.key(0), n), np.float64)
    logit = np.log(t / (1 - t))
    assert abs(logit.mean() - 0.5) < 0.01 and abs(logit.std() - 0.8) < 0.01 and np.all(np.diff(t) >= 0)
    wild = RectifiedFlow(training_times="logit_normal", logit_std=50.0)
    t = np.asarray(wild.sample_times(jax.random.key(0), n))
    assert t.min() == np.float32(wild.t_min) and t.max() == np.float32(wild.t_max)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_levels_of_all_schedules_compare_by_noise_to_signal(schedule):
    for ratio in (0.1, 0.7, 1.2):
        t = schedule.time_at_ratio(ratio)
        assert schedule.reaches(ratio)
        found = float(schedule.sigma(t)) / float(schedule.alpha(t))
        np.testing.assert_allclose(found, ratio, rtol=0.1 if schedule.discrete else 1e-5)
    np.testing.assert_allclose(RectifiedFlow().time_at_ratio(0.25), 0.2, rtol=1e-6)
    assert not RectifiedFlow().reaches(1e-4) and not RectifiedFlow().reaches(1e4)
    with pytest.raises(ValueError, match=r"noise_to_signal=10000.0: must lie in \[0.001001, 99\d"):
        RectifiedFlow().time_at_ratio(1e4)


def test_schedules_are_static_and_hashable():
    assert jax.tree.leaves(DiscreteVP.linear()) == []
    assert DiscreteVP.linear() == DiscreteVP([float(b) for b in np.linspace(1e-4, 0.02, 100)])
    assert len({VPLinear(), VPLinear(), VE(), DiscreteVP.linear(), DiscreteVP.linear()}) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPLinear(beta_min=0.0), "beta_min=0.0: must be > 0"),
        (lambda: VPLinear(beta_min=2.0, beta_max=1.0), "beta_max=1.0: must be finite and >= beta_min"),
        (lambda: VPLinear(t_min=0.0), "t_min=0.0: must lie in"),
        (lambda: VPCosine(s=-1.0), "s=-1.0: must be finite and >= 0"),
        (lambda: VPCosine(t_max=1.0), "t_max=1.0: must lie in"),
        (lambda: VE(sigma_min=0.0), "sigma_min=0.0: must be > 0"),
        (lambda: EDM(sigma_max=0.001), "sigma_max=0.001: must be finite and > sigma_min"),
        (lambda: EDM(p_std=0.0), "p_std=0.0: must be finite and > 0"),
        (lambda: RectifiedFlow(t_min=0.0), r"t_min=0.0: must lie in \(0, 1\)"),
        (lambda: RectifiedFlow(t_max=1.0), r"t_max=1.0: must lie in \(t_min=0.001, 1\)"),
        (lambda: RectifiedFlow(training_times="cosine"), "training_times='cosine': must be one of uniform, logit"),
        (lambda: RectifiedFlow(logit_mean=float("nan")), "logit_mean=nan: must be finite"),
        (lambda: RectifiedFlow(logit_std=0.0), "logit_std=0.0: must be finite and > 0"),
        (lambda: DiscreteVP(()), "betas=.*: must be a non-empty list"),
        (lambda: DiscreteVP((0.1, 1.0)), "betas=.*1.*: every beta must lie in"),
        (lambda: DiscreteVP.linear(n_steps=0), "n_steps=0: must be >= 1"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- conversions


def everything(x0, noise, alpha, sigma, std):
    """All kinds of prediction, of F by table 1 of Karras et al. 2022, in the units where α = 1."""
    ratio = sigma / alpha
    skip, out = std**2 / (ratio**2 + std**2), ratio * std / (ratio**2 + std**2) ** 0.5
    return {
        "eps": noise,
        "x0": x0,
        "v": alpha * noise - sigma * x0,
        "flow": noise - x0,
        "edm": (x0 - skip * (x0 + ratio * noise)) / out,
        "score": -noise / sigma,
    }


@given(
    alpha=st.floats(0.05, 3.0),
    sigma=st.floats(0.05, 3.0),
    seed=st.integers(0, 10_000),
    path=st.sampled_from(["any", "preserving", "straight"]),
)
def test_conversions_there_and_back(alpha, sigma, seed, path, x64):
    if path != "any":
        alpha, sigma = np.array([alpha, sigma]) / (np.hypot(alpha, sigma) if path == "preserving" else alpha + sigma)
    x0, noise = np.random.default_rng(seed).normal(size=(2, 5))
    x_t = alpha * x0 + sigma * noise
    truth = everything(x0, noise, alpha, sigma, STD)
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        got = convert(truth[source], x_t, alpha, sigma, source, target, STD)
        np.testing.assert_allclose(got, truth[target], rtol=1e-9, atol=1e-9, err_msg=f"{source} -> {target}")
        back = convert(got, x_t, alpha, sigma, target, source, STD)
        np.testing.assert_allclose(back, truth[source], rtol=1e-9, atol=1e-9)
    for kind in PREDICTIONS:
        wanted = training_target(x0, noise, alpha, sigma, kind, STD)
        np.testing.assert_allclose(wanted, truth[kind], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["v", "flow", "edm"])
def test_conversion_survives_vanishing_alpha_and_sigma(kind):
    x0, noise = jnp.array([0.3, -1.2]), jnp.array([0.8, 0.1])
    for alpha, sigma in ((1e-12, 1.0), (1.0, 1e-12)):
        x_t = alpha * x0 + sigma * noise
        value = training_target(x0, noise, alpha, sigma, kind, STD)
        np.testing.assert_allclose(convert(value, x_t, alpha, sigma, kind, "x0", STD), x0, rtol=1e-6)
        np.testing.assert_allclose(convert(value, x_t, alpha, sigma, kind, "eps", STD), noise, rtol=1e-6)


def test_the_flow_is_the_direction_of_the_path():
    """d x_t/dt = ε − x₀, and x̂₀ = x_t − t u, ε̂ = x_t + (1 − t) u."""
    diffusion = Diffusion(Echo(), RectifiedFlow(), "flow")
    x0, noise, t = jnp.array([0.3, -1.2]), jnp.array([0.8, 0.1]), jnp.float32(0.3)
    slope = jax.jvp(lambda t: diffusion.noised(x0, t, noise), (t,), (jnp.ones_like(t),))[1]
    np.testing.assert_allclose(diffusion.target(x0, t, noise), slope, rtol=1e-6)
    x = diffusion.noised(x0, t, noise)
    u = x + t  # the network's
    np.testing.assert_allclose(diffusion.denoise(x, t), x - t * u, rtol=1e-6)
    np.testing.assert_allclose(diffusion.eps(x, t), x + (1 - t) * u, rtol=1e-6)
    np.testing.assert_allclose(diffusion.denoise_and_eps(x, t), (x - t * u, x + (1 - t) * u), rtol=1e-6)


def test_preconditioning_is_that_of_the_paper():
    """D = c_skip x + c_out F(c_in x; ln(σ)/4), table 1 of Karras et al. 2022; to the ends of the noise levels."""
    std, x = 0.5, jnp.array([3.0, -0.2, 40.0])
    diffusion = Diffusion(Echo(), EDM(), "edm", data_std=std, conditioning="edm")
    for sigma in (0.002, 0.1, 1.0, 80.0):
        c_in = 1 / np.sqrt(sigma**2 + std**2)
        skip, out = std**2 / (sigma**2 + std**2), sigma * std / np.sqrt(sigma**2 + std**2)
        expected = skip * x + out * (c_in * x + np.log(sigma) / 4)
        np.testing.assert_allclose(diffusion.denoise(x, sigma), expected, rtol=2e-6, atol=1e-7)
    # Where there is no noise the denoised point is the point, where there is nothing else it is F: whatever F says.
    wide = Diffusion(Echo(), EDM(1e-8, 1e8), "edm", data_std=std, conditioning="edm")
    np.testing.assert_allclose(wide.denoise(x, 1e-8), x, rtol=1e-6)
    np.testing.assert_allclose(wide.denoise(x, 1e8), std * (np.log(1e8) / 4) * np.ones(3), rtol=1e-5)
    # The target has unit variance at every level: no level dominates the loss.
    x0, noise = std * jax.random.normal(jax.random.key(0), (20_000,)), jax.random.normal(jax.random.key(1), (20_000,))
    for sigma in (0.002, 0.5, 80.0):
        assert abs(float(jnp.std(wide.target(x0, sigma, noise))) - 1) < 0.02
    for schedule, t in ((VPLinear(), 0.4), (RectifiedFlow(), 0.4)):  # and the same F whatever the scale of x_t
        other = Diffusion(Echo(), schedule, "edm", data_std=std, conditioning="edm")
        ratio, alpha = float(schedule.sigma(t) / schedule.alpha(t)), schedule.alpha(t)
        np.testing.assert_allclose(other.denoise(alpha * x, t), diffusion.denoise(x, ratio), rtol=1e-5)


def test_unknown_kinds_are_refused():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="source='noise': must be one of eps, x0, v, flow, edm, score"):
        convert(x, x, 1.0, 1.0, "noise", "eps")
    with pytest.raises(ValueError, match="target='data': must be one of eps, x0, v, flow, edm, score"):
        convert(x, x, 1.0, 1.0, "eps", "data")
    with pytest.raises(ValueError, match="prediction='noise': must be one of"):
        training_target(x, x, 1.0, 1.0, "noise")


# --- a network with its schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianPredictor:
    """The exact predictor for data N(mean, std² I): x_t ~ N(α mean, (α² std² + σ²) I)."""

    mean: jax.Array
    std: float
    schedule: object = field(metadata={"static": True})
    prediction: str = field(metadata={"static": True})

    def __call__(self, x, level, condition=None):
        alpha, sigma = self.schedule.alpha(level), self.schedule.sigma(level)
        variance = (alpha * self.std) ** 2 + sigma**2
        if self.prediction == "edm":  # which sees x scaled
            x = x * jnp.sqrt((alpha * STD) ** 2 + sigma**2)
        eps = sigma * (x - alpha * self.mean) / variance
        x0 = self.mean + alpha * self.std**2 * (x - alpha * self.mean) / variance
        return everything(x0, eps, alpha, sigma, STD)[self.prediction]


MEAN, STD = jnp.array([[0.5, -1.0, 2.0]]), 0.7


@pytest.mark.parametrize("schedule", [VPLinear(), DiscreteVP.linear(), EDM(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_exact_predictor_of_a_gaussian(schedule, prediction, x64):
    mean = jnp.asarray(MEAN, jnp.float64)
    x = jnp.array([[0.1, 0.4, -0.3]])
    std = STD if prediction == "edm" else None
    diffusion = Diffusion(GaussianPredictor(mean, STD, schedule, prediction), schedule, prediction, std)
    for t in times(schedule)[1 :: len(times(schedule)) // 3]:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        score = -(x - alpha * mean) / ((alpha * STD) ** 2 + sigma**2)
        np.testing.assert_allclose(diffusion.score(x, t), score, rtol=1e-9)
        np.testing.assert_allclose(diffusion.eps(x, t), -sigma * score, rtol=1e-9)
        np.testing.assert_allclose(diffusion.denoise(x, t), (x + sigma**2 * score) / alpha, rtol=1e-9)
        v = diffusion.predict(x, t, target="v")
        np.testing.assert_allclose(v, -alpha * sigma * score - sigma * diffusion.denoise(x, t), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(diffusion.score_at(t)(x), score, rtol=1e-9)
        np.testing.assert_allclose(diffusion.eps_at(t)(x), -sigma * score, rtol=1e-9)


def exact(schedule=None, **kwargs):
    schedule = schedule or VPLinear()
    return Diffusion(GaussianPredictor(MEAN, STD, schedule, "eps"), schedule, **kwargs)


def test_ball_is_the_noise_shell():
    schedule, x0 = VPLinear(), jnp.ones((2, 8))
    diffusion = exact()
    centre, radius = diffusion.ball(x0, 0.4)
    np.testing.assert_allclose(centre, schedule.alpha(0.4) * x0)
    np.testing.assert_allclose(radius, schedule.sigma(0.4) * 4, rtol=1e-6)
    noise = jax.random.normal(jax.random.key(0), (2000, *x0.shape))
    noised = jax.vmap(diffusion.noised, (None, None, 0))(x0, 0.4, noise)
    distance = jnp.sqrt(jnp.sum((noised - centre) ** 2, axis=(1, 2)))
    assert abs(jnp.sqrt(jnp.mean(distance**2)) / radius - 1) < 0.02


def test_noise_levels_and_weights_are_data():
    compiled = jax.jit(lambda score_fn, x: score_fn(x))
    x = jnp.ones((1, 3))
    for mean in (MEAN, 2 * MEAN):
        for t in (0.01, 0.3, jnp.asarray(0.9), np.float32(0.5), 1):
            diffusion = Diffusion(GaussianPredictor(mean, STD, VPLinear(), "eps"), VPLinear(), data_std=1.0)
            compiled(diffusion.score_at(t), x)
    assert compiled._cache_size() == 1
    assert jax.vmap(lambda t: exact().score_at(t)(x))(jnp.linspace(0.1, 1, 4)).shape == (4, 1, 3)


METHODS = ("output", "predict", "eps", "score", "denoise", "noised", "target", "score_at", "eps_at", "ball")


def call_at(diffusion, method, t):
    """The result of ``method`` at time ``t``, of whatever arguments it takes."""
    x, function = jnp.ones((1, 3)), getattr(diffusion, method)
    if method.endswith("_at"):
        return function(t)(x)
    return function(x, t, x) if method in ("noised", "target") else function(x, t)


@pytest.mark.parametrize("conditioning", ["time", "log_snr"])
@pytest.mark.parametrize("method", METHODS)
def test_times_outside_the_schedule_give_no_number(method, conditioning):
    """Known ones are refused, traced ones give NaN; another time compiles nothing."""
    cases = (
        (VPLinear(), 0.5, (5.0, -1.0, 0.0, float("nan"))),
        (VPLinear(), 1.0, (1.01,)),
        (EDM(), 1.0, (81.0, 0.001)),
        (DiscreteVP.linear(), 10, (100, -1)),
        (DiscreteVP.linear(), 10.0, (10.7, 99.5, 1e3, -0.5)),
    )
    for schedule, good, bad in cases:
        diffusion = Diffusion(Echo(), schedule, data_std=1.0, conditioning=conditioning)
        traced = jax.jit(lambda t, d=diffusion: call_at(d, method, t))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(traced(good)))
        np.testing.assert_allclose(
            jax.tree.leaves(traced(good))[0], jax.tree.leaves(call_at(diffusion, method, good))[0], rtol=1e-5
        )
        for t in bad:
            with pytest.raises(ValueError, match=f"^t={t}: must "):
                call_at(diffusion, method, t)
            assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(traced(t))), (schedule, t)
        assert traced._cache_size() == 1
    ends = jax.vmap(lambda t: call_at(Diffusion(Echo(), VPLinear()), method, t))(jnp.float32([1e-3, 1.0]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ends))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Echo:
    """Returns its input, shifted by the level it is told."""

    def __call__(self, x, level, condition=None):
        return x + level if condition is None else x + condition


def test_what_the_network_is_told():
    x, schedule = jnp.ones(4), VPLinear()
    np.testing.assert_allclose(Diffusion(Echo(), schedule).output(x, 0.25), x + 0.25)
    told = Diffusion(Echo(), schedule, conditioning="log_snr").output(x, 0.25)
    np.testing.assert_allclose(told, x + schedule.log_snr(0.25), rtol=1e-6)
    alpha, sigma = schedule.alpha(0.25), schedule.sigma(0.25)
    told = Diffusion(Echo(), schedule, conditioning="edm").output(x, 0.25)
    np.testing.assert_allclose(told, x + jnp.log(sigma / alpha) / 4, rtol=1e-6)
    scaled = Diffusion(Echo(), schedule, data_std=3.0).output(x, 0.25)
    np.testing.assert_allclose(scaled, x / jnp.sqrt(9 * alpha**2 + sigma**2) + 0.25, rtol=1e-6)
    np.testing.assert_allclose(Diffusion(Echo(), schedule).eps(x, 0.25, 7), x + 7)
    np.testing.assert_allclose(Diffusion(Echo(), schedule).eps_at(0.25, 7)(x), x + 7)
    np.testing.assert_allclose(Diffusion(Echo(), DiscreteVP.linear()).output(x, 5), x + 5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_results_have_the_dtype_of_the_point_and_float32_at_least(dtype):
    wide = jnp.promote_types(dtype, jnp.float32)
    with jax.enable_x64(dtype == jnp.float64):
        diffusion, x = exact(conditioning="log_snr", data_std=2.0), jnp.ones((1, 3), dtype)
        for method in (diffusion.output, diffusion.eps, diffusion.score, diffusion.denoise):
            assert method(x, 0.3).dtype == wide
        for found in (diffusion.ball(x, 0.3)[0], diffusion.noised(x, 0.3, x), diffusion.target(x, 0.3, x)):
            assert found.dtype == wide


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact(prediction="noise"), "prediction='noise': must be one of eps, x0, v, flow, edm, score"),
        (lambda: exact(conditioning="sigma"), "conditioning='sigma': must be one of time, log_snr, edm"),
        (
            lambda: exact(prediction="edm").eps(MEAN, 0.5),
            "data_std=None: must be the σ_data of the network's training where",
        ),
        (lambda: convert(MEAN, MEAN, 1.0, 1.0, "edm", "x0"), "data_std=None: must be the σ_data"),
        (lambda: training_target(MEAN, MEAN, 1.0, 1.0, "edm"), "data_std=None: must be the σ_data"),
        (lambda: exact(data_std=0.0), "data_std=0.0: must be finite and > 0, or None"),
        (lambda: exact().score_at(0.0), r"t=0.0: must lie in \[0.001, 1\] \(VPLinear\)"),
        (lambda: exact().ball(MEAN, float("nan")), "t=nan: must lie in"),
        (lambda: exact(DiscreteVP.linear()).eps_at(100), r"t=100: must lie in \[0, 99\]"),
        (lambda: exact(DiscreteVP.linear()).eps_at(2.5), "t=2.5: must be a whole step"),
        (lambda: exact().score(jnp.ones((4, 3)), 0.5).shape, None),
        (lambda: exact().score(jnp.ones(3), 0.5), r"network=\(1, 3\): must return the shape of its input, \(3,\)"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    if message is None:
        assert call() == (4, 3)
        return
    with pytest.raises(ValueError, match=message):
        call()
