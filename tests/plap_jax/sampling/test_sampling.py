"""Samplers against models that are exact: what a Gaussian or a mixture must turn into is known."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from plap_jax import GaussianMixture
from plap_jax.diffusion import EDM, VE, Diffusion, DiscreteVP, RectifiedFlow, VPCosine, VPLinear
from plap_jax.parallel import map_points
from plap_jax.sampling import (
    DDIM,
    NonFiniteSampleError,
    ProbabilityFlow,
    ReverseSDE,
    guided,
    initial_point,
    sample,
    starting_points,
)
from plap_jax.sampling.clock import ends, level, time_at_log_snr
from tests.helpers.analytic_network import exact_diffusion, traces
from tests.helpers.places import ROOT

CONTINUOUS = [VPLinear(), VPCosine(), VE(), EDM(), RectifiedFlow()]
KEY = jax.random.key(0)
TWO = ([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.04, 0.09], "spherical")
GAUSSIAN = ([1.0], [[0.7, -0.4]], [[0.25, 0.01]], "diag")
START = [0.8, -1.1]


denoised = jax.jit(lambda diffusion, x, t: diffusion.denoise(x, t))


def name(schedule):
    return schedule.name


def flow_of_a_gaussian(gaussian, schedule, start, t):
    """x_t = α_t μ + (x_T − α_T μ) √((α_t² λ + σ_t²)/(α_T² λ + σ_T²)): the affine map that carries the law along."""
    first, last = (gaussian.noised(schedule.alpha(u), schedule.sigma(u)) for u in (schedule.t_max, t))
    return last.means[0] + (start - first.means[0]) * jnp.sqrt(last.eigenvalues[0] / first.eigenvalues[0])


# --- the clock


@pytest.mark.parametrize(
    ("schedule", "double"),
    [(VPLinear(), True), (VPCosine(), False), (VE(), False), (EDM(1e-4, 200.0), False), (RectifiedFlow(), False)],
)
def test_time_at_log_snr_inverts_it(schedule, double):
    with jax.enable_x64(double):
        t = jnp.geomspace(max(schedule.t_min, 1e-3), schedule.t_max, 7)
        back = time_at_log_snr(schedule, schedule.log_snr(t))
        np.testing.assert_allclose(back, t, rtol=1e-12 if double else 1e-5, atol=1e-15 if double else 1e-7)
        first, last = ends(schedule, t.dtype)
        assert first < last
        outside = time_at_log_snr(schedule, jnp.array([first - 1, last + 1]))
        np.testing.assert_allclose(outside, [schedule.t_max, schedule.t_min], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=name)
def test_the_clock_gives_f_and_g_of_song(schedule, x64):
    """f dt = a dℓ and g² dt = −σ² dℓ, with f and g² by finite differences of α and σ."""
    t, h = 0.3 * schedule.t_max, 1e-6

    def slope(f):
        return (f(t + h) - f(t - h)) / (2 * h)

    f = slope(lambda t: np.log(schedule.alpha(t)))
    g_squared = slope(lambda t: schedule.sigma(t) ** 2) - 2 * f * schedule.sigma(t) ** 2
    dt = 1 / slope(schedule.log_snr)
    time, growth, sigma = level(schedule, schedule.log_snr(jnp.asarray(t)))
    np.testing.assert_allclose([time, growth, sigma**2], [t, f * dt, -g_squared * dt], rtol=1e-6, atol=1e-9)


# --- DDIM


def plain_ddim(diffusion, start, times, eta, noises, clip=np.inf):
    """Song et al., eq. 12 and 16, with ᾱ = α², step by step; variance-preserving schedules only."""
    x, bars = np.asarray(start), [float(diffusion.schedule.alpha(t)) ** 2 for t in times] + [1.0]
    for i, t in enumerate(times):
        eps, now, then = np.asarray(diffusion.eps(x, t)), bars[i], bars[i + 1]
        c = eta * np.sqrt((1 - then) / (1 - now)) * np.sqrt(1 - now / then)
        x0 = np.clip((x - np.sqrt(1 - now) * eps) / np.sqrt(now), -clip, clip)
        eps = (x - np.sqrt(now) * x0) / np.sqrt(1 - now)
        x = np.sqrt(then) * x0 + np.sqrt(1 - then - c**2) * eps + c * noises[i]
    return x


@pytest.mark.parametrize(
    ("schedule", "eta"), [(VPLinear(), 0.0), (VPLinear(), 1.0), (DiscreteVP.linear(20, 1e-3, 0.4), 0.6)]
)
def test_ddim_is_the_plain_recursion(schedule, eta, x64):
    sampler, diffusion, start = DDIM(7, eta), exact_diffusion(GaussianMixture(*TWO), schedule, "eps"), jnp.array(START)
    times = sampler.times(schedule)
    noises = [jax.random.normal(jax.random.fold_in(KEY, i), (2,)) for i in range(7)]
    expected = plain_ddim(diffusion, start, times.tolist(), eta, noises)
    np.testing.assert_allclose(sampler(diffusion, KEY, start), expected, rtol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_clipped_ddim_is_the_plain_recursion(eta, x64):
    """At 0.4 each step is clipped in one coordinate or both, and the noise that is left leads to the same x_t."""
    sampler, diffusion = DDIM(7, eta, clip=0.4), exact_diffusion(GaussianMixture(*TWO), VPLinear(), "eps")
    way = sampler.trajectory(diffusion, KEY, jnp.array(START))
    noises = [jax.random.normal(jax.random.fold_in(KEY, i), (2,)) for i in range(7)]
    expected = plain_ddim(diffusion, jnp.array(START), sampler.times(VPLinear()).tolist(), eta, noises, clip=0.4)
    np.testing.assert_allclose(way.states[-1], expected, rtol=1e-10)
    assert np.abs(way.denoised).max() == 0.4 and np.abs(DDIM(7, eta)(diffusion, KEY, jnp.array(START))).max() > 0.5


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlow(), DiscreteVP.linear(20, 1e-3, 0.4)], ids=name)
def test_clipped_steps_lead_on_from_what_was_clipped(schedule, guidance, x64):
    """x_s = α_s x̂₀ + σ_s (x_t − α_t x̂₀)/σ_t, on every schedule, with guidance too."""
    diffusion = guided(exact_diffusion(GaussianMixture(*TWO), schedule), guidance)
    start = schedule.sigma(schedule.t_max) * jnp.array(START)
    way = DDIM(6, clip=0.4).trajectory(diffusion, KEY, start)
    assert np.abs(way.denoised).max() == pytest.approx(0.4), "it acts"
    noise = (way.states[:-1] - way.alphas[:, None] * way.denoised) / way.sigmas[:, None]
    onwards = way.alphas[1:, None] * way.denoised[:-1] + way.sigmas[1:, None] * noise[:-1]
    np.testing.assert_allclose(way.states[1:-1], onwards, rtol=1e-6, atol=1e-9)


def test_bounds_that_hold_anyway_change_nothing(x64):
    diffusion = exact_diffusion(GaussianMixture(*TWO), VPLinear(), "eps")
    plain, clipped = (DDIM(7, clip=clip)(diffusion, KEY, jnp.array(START)) for clip in (None, 50.0))
    np.testing.assert_allclose(clipped, plain, rtol=1e-10)


@pytest.mark.parametrize(
    ("schedule", "spacing"),
    [(VPLinear(), "log_snr"), (VPCosine(), None), (EDM(), None), (RectifiedFlow(), None)],
)
def test_ddim_converges_to_the_flow_at_first_order(schedule, spacing, x64):
    gaussian, start = GaussianMixture(*GAUSSIAN), schedule.sigma(schedule.t_max) * jnp.array(START)
    diffusion = exact_diffusion(gaussian, schedule)
    # The last step denoises; to compare with the flow at t_min take the state before it.
    expected = flow_of_a_gaussian(gaussian, schedule, start, schedule.t_min)
    numbers = (100, 300)
    errors = [
        np.linalg.norm(DDIM(n, spacing=spacing).trajectory(diffusion, KEY, start).states[-2] - expected)
        for n in numbers
    ]
    order = np.log(errors[0] / errors[1]) / np.log(numbers[1] / numbers[0])
    assert 0.9 < order < 1.15, (order, errors)


@pytest.mark.parametrize("prediction", ["x0", "v", "flow"])
def test_what_the_network_predicts_does_not_matter(prediction, x64):
    mixture, start = GaussianMixture(*TWO), jnp.array(START)
    by_score = DDIM(5)(exact_diffusion(mixture, VPLinear()), KEY, start)
    np.testing.assert_allclose(DDIM(5)(exact_diffusion(mixture, VPLinear(), prediction), KEY, start), by_score)


@pytest.mark.parametrize("schedule", [EDM(), DiscreteVP.linear(50)], ids=name)
def test_trajectory_holds_the_way(schedule):
    n, start = 6, schedule.sigma(schedule.t_max) * jnp.array(START)
    diffusion = exact_diffusion(GaussianMixture(*TWO), schedule)
    way = DDIM(n).trajectory(diffusion, KEY, start)
    assert (way.states.shape, way.denoised.shape) == ((n + 1, 2), (n, 2))
    assert way.times.shape == way.alphas.shape == way.sigmas.shape == (n,)
    assert np.all(np.diff(way.times) < 0) and (way.times[0], way.times[-1]) == (schedule.t_max, schedule.t_min)
    np.testing.assert_allclose(way.sigmas, schedule.sigma(way.times), rtol=1e-6)
    np.testing.assert_allclose(way.alphas, schedule.alpha(way.times), rtol=1e-6)
    np.testing.assert_array_equal(way.states[0], start)
    np.testing.assert_array_equal(way.states[-1], way.denoised[-1])
    np.testing.assert_array_equal(way.states[-1], DDIM(n)(diffusion, KEY, start))
    expected = jax.vmap(denoised, (None, 0, 0))(diffusion, way.states[:-1], way.times)
    np.testing.assert_allclose(way.denoised, expected, rtol=1e-4, atol=1e-4)


def test_spacings():
    log_snr = VPLinear().log_snr(jnp.asarray(DDIM(9, spacing="log_snr").times(VPLinear())))
    np.testing.assert_allclose(np.diff(log_snr), np.diff(log_snr)[0], rtol=1e-3)
    np.testing.assert_allclose(DDIM(9).times(VPLinear()), np.linspace(1, 1e-3, 9))
    np.testing.assert_allclose(DDIM(9).times(EDM()), np.geomspace(80, 0.002, 9), rtol=1e-4)
    np.testing.assert_array_equal(DDIM(4).times(DiscreteVP.linear(10)), [9, 6, 3, 0])
    np.testing.assert_array_equal(DDIM(10).times(DiscreteVP.linear(10)), np.arange(10)[::-1])
    np.testing.assert_allclose(DDIM(9).times(RectifiedFlow()), np.linspace(0.999, 1e-3, 9))
    for schedule in (VPLinear(), EDM(), DiscreteVP.linear(10), RectifiedFlow()):
        np.testing.assert_array_equal(DDIM(1).times(schedule), [schedule.t_max])


def test_shifted_steps_have_their_noise_to_signal_multiplied():
    """t' = s t/(1 + (s − 1) t): σ/α is s times what it was, between the same ends."""
    schedule = RectifiedFlow()
    plain, shifted = (DDIM(9, shift=shift).times(schedule) for shift in (1.0, 3.0))
    assert (shifted[0], shifted[-1]) == (schedule.t_max, schedule.t_min) and np.all(np.diff(shifted) < 0)
    np.testing.assert_allclose((shifted / (1 - shifted))[1:-1], 3 * (plain / (1 - plain))[1:-1], rtol=1e-6)
    np.testing.assert_allclose(plain, np.linspace(schedule.t_max, schedule.t_min, 9))
    with pytest.raises(ValueError, match="^shift=3.0: must be 1 for VPLinear, whose steps are not those of a flow$"):
        DDIM(9, shift=3.0).times(VPLinear())
    with pytest.raises(ValueError, match="^shift=3.0: must be 1 where the spacing is 'log_snr'$"):
        DDIM(9, spacing="log_snr", shift=3.0)
    with pytest.raises(ValueError, match="^shift=0.0: must be finite and > 0$"):
        DDIM(9, shift=0.0)


# --- solvers


@pytest.mark.parametrize("schedule", [VPCosine(), VE(), RectifiedFlow()], ids=name)
def test_probability_flow_of_a_gaussian_is_its_affine_map(schedule, x64):
    gaussian, start = GaussianMixture(*GAUSSIAN), schedule.sigma(schedule.t_max) * jnp.array(START)
    diffusion = exact_diffusion(gaussian, schedule)
    x = ProbabilityFlow(1e-8, 1e-8, denoise=False)(diffusion, KEY, start)
    expected = flow_of_a_gaussian(gaussian, schedule, start, schedule.t_min)
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-7)


def test_a_solver_denoises_at_its_end():
    diffusion, start = exact_diffusion(GaussianMixture(*TWO), VE(0.3, 50.0)), 50 * jnp.array(START)
    noisy = ProbabilityFlow(denoise=False)(diffusion, KEY, start)
    np.testing.assert_allclose(ProbabilityFlow()(diffusion, KEY, start), denoised(diffusion, noisy, 0.0), rtol=1e-4)


def has_the_law_of(points, mixture):
    """Shares, means and standard deviations of the components, nearest mean each, within 4 standard errors."""
    means, deviations = np.asarray(mixture.means), np.sqrt(np.asarray(mixture.eigenvalues)[:, 0])
    nearest = np.linalg.norm(points[:, None] - means, axis=-1).argmin(axis=1)
    for k, weight in enumerate(np.asarray(mixture.weights)):
        own = points[nearest == k]
        n = len(own)
        assert abs(n / len(points) - weight) < 4 * np.sqrt(weight * (1 - weight) / len(points)), (k, n)
        assert np.all(abs(own.mean(axis=0) - means[k]) < 4 * deviations[k] / np.sqrt(n)), (k, own.mean(axis=0))
        assert np.all(abs(own.std(axis=0) / deviations[k] - 1) < 4 / np.sqrt(2 * n)), (k, own.std(axis=0))


@pytest.mark.parametrize(
    ("schedule", "sampler"),
    [
        (VPLinear(), DDIM(400, eta=1.0)),
        (RectifiedFlow(), DDIM(200)),
        (VPCosine(), ProbabilityFlow()),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (EDM(), DDIM(400)),
                (VPLinear(), ReverseSDE()),
                (RectifiedFlow(), DDIM(400, eta=1.0)),
                (RectifiedFlow(), ProbabilityFlow()),
                (RectifiedFlow(), ReverseSDE()),
            )
        ),
    ],
    ids=lambda a: a.name if hasattr(a, "name") else f"{type(a).__name__}-{getattr(a, 'eta', 0):g}",
)
def test_samples_have_the_law_of_the_data(schedule, sampler):
    mixture = GaussianMixture(*TWO)
    points = sample(exact_diffusion(mixture, schedule), KEY, 2000, shape=(2,), sampler=sampler, batch_size=1000)
    has_the_law_of(points, mixture)


@pytest.mark.slow
def test_the_brownian_path_is_that_of_the_key():
    diffusion, start = exact_diffusion(GaussianMixture(*GAUSSIAN), VPLinear()), jnp.array(START)
    keys = jax.random.split(KEY, 8)
    coarse, fine = (jax.vmap(ReverseSDE(rtol, rtol), (None, 0, None))(diffusion, keys, start) for rtol in (2e-2, 2e-3))
    assert np.linalg.norm(coarse - fine, axis=-1).max() < 0.02
    assert np.linalg.norm(fine[1:] - fine[0], axis=-1).min() > 0.1


@pytest.mark.parametrize(
    "sampler", [ProbabilityFlow(max_steps=3), pytest.param(ReverseSDE(max_steps=3), marks=pytest.mark.slow)]
)
def test_a_solver_that_does_not_arrive_is_never_silent(sampler):
    diffusion = exact_diffusion(GaussianMixture(*TWO), VPLinear())
    with pytest.raises(NonFiniteSampleError, match=r"^2 of 2 samples are not finite, the first is sample 0: the netw"):
        sample(diffusion, KEY, 2, shape=(2,), sampler=sampler)


# --- many samples


def test_a_sample_depends_on_key_and_number_alone():
    diffusion = exact_diffusion(GaussianMixture(*TWO), VPLinear())
    reference = sample(diffusion, KEY, 10, shape=(2,), sampler=DDIM(5, eta=1.0))
    assert (reference.shape, reference.dtype) == ((10, 2), np.float32)
    assert len(np.unique(reference[:, 0])) == 10
    for n, batch_size in ((10, 3), (4, 256)):
        again = sample(diffusion, KEY, n, shape=(2,), sampler=DDIM(5, eta=1.0), batch_size=batch_size)
        np.testing.assert_allclose(again, reference[:n], rtol=1e-5, atol=1e-6)
    other = sample(diffusion, jax.random.key(1), 4, shape=(2,), sampler=DDIM(5, eta=1.0))
    assert not np.any(np.isclose(other, reference[:4]))


@pytest.mark.parametrize("schedule", [VPLinear(), VE(2e-2, 50.0), DiscreteVP.linear(10)], ids=name)
def test_generation_starts_from_noise_of_the_largest_level(schedule):
    diffusion = exact_diffusion(GaussianMixture(*GAUSSIAN), schedule)
    start = initial_point(diffusion, KEY, (100, 100))
    np.testing.assert_allclose(start.std(), schedule.sigma(schedule.t_max), rtol=0.03)
    np.testing.assert_allclose(start, start.std() * jax.random.normal(KEY, (100, 100)), rtol=0.03, atol=1e-6)


def test_progress_counts_samples():
    calls = []
    sample(
        exact_diffusion(GaussianMixture(*TWO), VPLinear()),
        KEY,
        5,
        shape=(2,),
        sampler=DDIM(2),
        batch_size=3,
        progress=lambda done, n: calls.append((done, n)),
    )
    assert calls == [(3, 5), (5, 5)]


@pytest.mark.slow
def test_nothing_compiles_twice():
    mixture = GaussianMixture(*TWO)
    for sampler in (DDIM(3, eta=0.5), ProbabilityFlow(0.1, 0.1)):
        for seed, guidance in enumerate((1, 2.5, jnp.float32(0))):
            diffusion = guided(exact_diffusion(mixture.noised(1.0, 0.1 * (seed + 1)), VPLinear()), guidance)
            conditions = np.full(3, seed % 2)
            sample(diffusion, jax.random.key(seed), 3, shape=(2,), sampler=sampler, conditions=conditions)
            if seed == 0:
                traced = traces["count"]
        assert traces["count"] == traced, sampler


def test_trajectories_may_be_mapped(x64):
    diffusion, starts = exact_diffusion(GaussianMixture(*TWO), VPLinear()), np.asarray([START, START[::-1]])
    way = map_points(jax.tree_util.Partial(DDIM(3).trajectory, diffusion, KEY), starts)
    np.testing.assert_allclose(way.states[1], DDIM(3).trajectory(diffusion, KEY, starts[1]).states, rtol=1e-9)


# --- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(0), "n_steps=0: must be an integer >= 1"),
        (lambda: DDIM(2.5), "n_steps=2.5: must be an integer >= 1"),
        (lambda: DDIM(eta=1.5), "eta=1.5: must lie in [0, 1]"),
        (lambda: DDIM(eta=float("nan")), "eta=nan: must lie in [0, 1]"),
        (lambda: DDIM(spacing="sigma"), "spacing='sigma': must be one of time, log_snr, or None"),
        (lambda: DDIM(clip=0.0), "clip=0.0: must be finite and > 0, or None"),
        (lambda: DDIM(clip=float("inf")), "clip=inf: must be finite and > 0, or None"),
        (lambda: ProbabilityFlow(rtol=0.0), "rtol=0.0: must be finite and > 0"),
        (lambda: ProbabilityFlow(atol=-1.0), "atol=-1.0: must be finite and > 0"),
        (lambda: ReverseSDE(rtol=float("inf")), "rtol=inf: must be finite and > 0"),
        (lambda: ReverseSDE(max_steps=0), "max_steps=0: must be an integer >= 1"),
    ],
)
def test_samplers_refuse_impossible_numbers(make, message):
    with pytest.raises(ValueError) as refused:
        make()
    assert str(refused.value) == message


CONTINUOUS_ONLY = (
    "schedule='DiscreteVP': must be continuous in time: a table of steps has no derivative; sample with DDIM"
)


@pytest.mark.parametrize(
    ("sampler", "schedule", "message"),
    [
        (DDIM(11), DiscreteVP.linear(10), "n_steps=11: must be at most 10, the steps of DiscreteVP"),
        (
            DDIM(3, spacing="log_snr"),
            DiscreteVP.linear(10),
            "spacing='log_snr': must be 'time' or None for DiscreteVP, which has only whole steps",
        ),
        (ProbabilityFlow(), DiscreteVP.linear(10), CONTINUOUS_ONLY),
        (ReverseSDE(), DiscreteVP.linear(10), CONTINUOUS_ONLY),
    ],
)
def test_samplers_refuse_schedules_they_cannot_follow(sampler, schedule, message):
    with pytest.raises(ValueError) as refused:
        sampler(exact_diffusion(GaussianMixture(*TWO), schedule), KEY, jnp.array(START))
    assert str(refused.value) == message


@pytest.mark.parametrize("sampler", [DDIM(2), ProbabilityFlow(), ReverseSDE()])
def test_samplers_refuse_a_start_that_is_no_point(sampler):
    with pytest.raises(ValueError, match=r"^x=.*must be finite"):
        sampler(exact_diffusion(GaussianMixture(*TWO), VPLinear()), KEY, jnp.array([0.0, jnp.nan]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n=0: must be an integer >= 1"),
        ({"n": 2.0}, "n=2.0: must be an integer >= 1"),
        ({"shape": ()}, "shape=(): must hold positive sizes, at least one"),
        ({"shape": (2, 0)}, "shape=(2, 0): must hold positive sizes, at least one"),
        ({"conditions": [0, 1]}, "conditions=(2,): must have shape (3,), one for each sample"),
        ({"conditions": np.ones(3)}, "conditions=dtype('float64'): must be integers, -1 for no condition"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
    ],
)
def test_sample_refuses_in_one_line(change, message):
    arguments = {"n": 3, "shape": (2,), "sampler": DDIM(2), "conditions": None} | change
    with pytest.raises(ValueError) as refused:
        sample(exact_diffusion(GaussianMixture(*TWO), VPLinear()), KEY, **arguments)
    assert str(refused.value) == message


def test_samplers_share_one_signature():
    signatures = {str(inspect.signature(cls.__call__)) for cls in (DDIM, ProbabilityFlow, ReverseSDE)}
    assert len(signatures) == 1
    assert len({DDIM(), DDIM(n_steps=100), ProbabilityFlow(), ReverseSDE()}) == 3, "equal ones share compiled code"


def test_a_network_of_ours_can_be_sampled():
    from_zero = Diffusion(jax.tree_util.Partial(lambda x, t, condition=None: 0 * x), VPLinear(), "x0")
    points = sample(from_zero, KEY, 3, shape=(2, 2, 1), sampler=DDIM(3))
    np.testing.assert_array_equal(points, np.zeros((3, 2, 2, 1)))


@pytest.mark.parametrize(
    ("file", "sampler"), [("ddim", DDIM), ("probability_flow", ProbabilityFlow), ("reverse_sde", ReverseSDE)]
)
def test_the_configs_hold_the_defaults(file, sampler):
    config = OmegaConf.load(ROOT / "conf" / "sampler" / f"{file}.yaml")
    assert instantiate(config) == sampler()
    assert set(config) == {"_target_", *(field.name for field in dataclasses.fields(sampler))}


def test_starting_points_are_those_of_the_samples():
    diffusion = exact_diffusion(GaussianMixture(*GAUSSIAN), VPLinear())
    starts = starting_points(diffusion, KEY, 5, shape=(2,))
    again = map_points(lambda x: DDIM(20)(diffusion, KEY, x), starts)
    np.testing.assert_allclose(again, sample(diffusion, KEY, 5, shape=(2,), sampler=DDIM(20)), rtol=1e-5)
