"""Guard and its band: a planted point is left, everything else stays as it is, and every evaluation is counted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax.diffusion import VE, Diffusion, DiscreteVP, RectifiedFlow, VPLinear
from plap_jax.mitigation import Band, Guard, Unmitigated, fewest_images, generate, load_band
from plap_jax.sampling import DDIM, ProbabilityFlow, ReverseSDE, guided, sample
from tests.helpers.counting_network import COUNTING, CountingNetwork, counts
from tests.helpers.planted_mixture import DIM, is_copy, planted_diffusion

N, STEPS, KEY = 160, 20, jax.random.key(0)
SHAPE = (DIM,)


PLAIN = DDIM(STEPS)


def watching(sampler=PLAIN, n_nodes=STEPS, **more):
    band = Band.watching(n_nodes=n_nodes, sigma=0.3, n_directions=8, **({"n_checks": 4, "first": 0.4} | more))
    return Guard(sampler, band, restart=8.0, growth=1.0, renoisings=3, nodes=n_nodes)


@pytest.fixture(scope="module")
def fitted():
    """A guard whose band comes from generations that are no copies."""
    watch, model = watching(), planted_diffusion()
    seen = generate(model, KEY, N, shape=SHAPE, method=watch)
    copies = is_copy(seen.image)
    assert 0.1 < copies.mean() < 0.4, "there is something to turn away from"
    return dataclasses.replace(watch, band=watch.band.fitted(seen.notes["kappa"][~copies], level=0.01))


@pytest.fixture(scope="module")
def both(fitted):
    """The same generations with and without limits: (open, guarded)."""
    key, model = jax.random.key(1), planted_diffusion()
    return tuple(generate(model, key, N, shape=SHAPE, method=method) for method in (watching(), fitted))


def test_generations_turn_away_from_a_planted_point(both):
    opened, guarded = both
    copies = is_copy(opened.image)
    left = is_copy(guarded.image)
    assert copies.mean() > 0.1 and left.sum() <= copies.sum() / 5
    assert (guarded.notes["renoised"][copies] >= 1).all()
    assert (guarded.notes["caught_kappa"][copies] > 0.8).all()
    assert guarded.notes["outside"][left].all(), "what is still a copy is said to be outside"
    assert (guarded.notes["renoised"][guarded.notes["outside"]] == 3).all()


def test_what_is_no_copy_stays_to_the_last_bit(both, fitted):
    opened, guarded = both
    stayed = guarded.notes["renoised"] == 0
    assert stayed[~is_copy(opened.image)].mean() > 1 - 3 * fitted.band.false_alarms
    np.testing.assert_array_equal(guarded.image[stayed], opened.image[stayed])
    assert not (guarded.image[~stayed] == opened.image[~stayed]).all(axis=1).any()
    assert (guarded.notes["caught_at"][stayed] == -1).all() and np.isnan(guarded.notes["caught_kappa"][stayed]).all()


def test_it_is_a_sampler_and_without_limits_the_one_it_is_around(both):
    model, key = planted_diffusion(), jax.random.key(1)
    plain = sample(model, key, N, shape=SHAPE, sampler=DDIM(STEPS))
    np.testing.assert_allclose(both[0].image, plain, atol=2e-5)  # compiled as one program and as another
    counted = generate(model, key, N, shape=SHAPE, method=Unmitigated(DDIM(STEPS)))
    np.testing.assert_array_equal(counted.image, plain)
    assert (counted.nfe == STEPS).all()


def test_as_a_sampler_it_makes_what_generate_makes(both, fitted):
    """There all wait for the slowest, here none; one by one they take the same way."""
    made = sample(planted_diffusion(), jax.random.key(1), 40, shape=SHAPE, sampler=fitted)
    np.testing.assert_allclose(made, both[1].image[:40], atol=2e-5)


def test_the_number_of_the_first_sample_and_the_size_of_batches_do_not_matter(both, fitted):
    made = generate(planted_diffusion(), jax.random.key(1), 24, shape=SHAPE, method=fitted, first=10, batch_size=16)
    np.testing.assert_allclose(made.image, both[1].image[10:34], atol=2e-5)
    np.testing.assert_array_equal(made.notes["renoised"], both[1].notes["renoised"][10:34])
    np.testing.assert_array_equal(made.nfe, both[1].nfe[10:34])


def test_it_walks_as_its_sampler_does_within_bounds():
    model, bounded = planted_diffusion(), DDIM(STEPS, clip=0.5)
    made = generate(model, KEY, 12, shape=SHAPE, method=watching(bounded))
    plain = generate(model, KEY, 12, shape=SHAPE, method=Unmitigated(bounded))
    np.testing.assert_allclose(made.image, plain.image, atol=1e-5)
    assert np.abs(made.image).max() == 0.5


def test_it_stops_after_r_times_and_says_so():
    """A limit that nothing keeps."""
    watch = watching()
    never = dataclasses.replace(watch.band, limits=(-1.0,) * 4, inner=None)
    for renoisings in (0, 2):
        method = dataclasses.replace(watch, band=never, renoisings=renoisings)
        found = generate(planted_diffusion(), KEY, 5, shape=SHAPE, method=method)
        assert (found.notes["renoised"] == renoisings).all() and found.notes["outside"].all()
        assert (found.notes["caught_at"] == 0).all() and np.isfinite(found.notes["kappa"]).all()


# --- what it costs


def asked(method, diffusion=COUNTING, condition=None):
    """Evaluations of the network for one sample, as counted within it; and as the method says."""
    counts.update(evaluations=0, products=0)
    found = jax.jit(method.sampled)(diffusion, KEY, jnp.ones(3), condition)
    jax.block_until_ready(found)
    jax.effects_barrier()
    return counts["evaluations"] + 2 * counts["products"], int(found.nfe), found


SOLVERS = [ProbabilityFlow(1e-2, 1e-2), ReverseSDE(0.1, 0.1)]


@pytest.mark.parametrize("sampler", [DDIM(10), *(pytest.param(solver, marks=pytest.mark.slow) for solver in SOLVERS)])
def test_every_evaluation_is_counted(sampler):
    watch = watching(sampler, 10)
    open_cost, told, _ = asked(watch)
    assert open_cost == told
    if sampler == DDIM(10):
        assert told == 10 + 4 * 8
    never = dataclasses.replace(
        watch, band=dataclasses.replace(watch.band, limits=(-1.0,) * 4, inner=None), renoisings=2
    )
    cost, told, found = asked(never)
    assert cost == told and int(found.notes["renoised"]) == 2
    if sampler == DDIM(10):
        first, middle = watch.band.checks[0], int(watch.middle(COUNTING.schedule))
        assert told == open_cost + (first + 1 + 8) + (first + 1 - middle + 8) - middle


def test_guidance_doubles_the_steps_and_not_the_checks():
    cost, told, _ = asked(watching(DDIM(10), 10), guided(COUNTING, 3.0), jnp.asarray(2))
    assert cost == told == 2 * 10 + 4 * 8


def test_without_the_prompt_a_step_costs_one_evaluation():
    watch = watching(DDIM(10), 10)
    never = dataclasses.replace(watch.band, limits=(-1.0,) * 4, inner=None)
    method = dataclasses.replace(watch, band=never, renoisings=2, after=0.0)
    cost, told, _ = asked(method, guided(COUNTING, 3.0), jnp.asarray(2))
    first, middle = never.checks[0], int(method.middle(COUNTING.schedule))
    assert cost == told == (2 * (first + 1) + 8) + (first + 1 - middle + 8) + (10 - middle + 4 * 8)


def test_a_prompt_that_leads_to_a_copy_is_let_go(fitted):
    """Condition 1 is the planted point alone; without it every fourth generation is a copy."""
    left = []
    for after in (None, 1.0, 0.0):
        method, told = dataclasses.replace(fitted, after=after), np.ones(60, np.int32)
        made = generate(planted_diffusion(), KEY, 60, shape=SHAPE, method=method, conditions=told)
        assert (made.notes["renoised"] >= 1).all()
        left.append(is_copy(made.image).mean())
    assert left[0] == left[1] == 1.0 and left[2] < 0.2


@pytest.mark.parametrize("schedule", [VPLinear(), RectifiedFlow()])
def test_it_goes_on_at_the_last_node_with_as_much_noise(schedule):
    times = DDIM(STEPS).times(schedule)
    ratios = np.exp(-0.5 * np.asarray(schedule.log_snr(times)))
    for restart, growth, attempt in ((7.0, 1.0, 0), (7.0, 1.5, 1), (7.0, 1.5, 2), (np.inf, 1.0, 3)):
        guard = dataclasses.replace(watching(), restart=restart, growth=growth)
        node, wanted = int(guard.middle(schedule, attempt)), restart * growth**attempt
        assert node == 0 or ratios[node] >= wanted
        assert ratios[node + 1] < wanted


@pytest.mark.slow
def test_plain_samplers_are_counted():
    for sampler in (DDIM(7), *SOLVERS):
        cost, told, _ = asked(Unmitigated(sampler))
        assert cost == told
    assert asked(Unmitigated(DDIM(7)), guided(COUNTING, 3.0), jnp.asarray(2))[:2] == (14, 14)


# --- the band


def test_a_band_is_the_conformal_quantile():
    band = Band.watching(n_nodes=8, n_checks=2, first=0.5)
    assert band.checks == (4, 7)
    kappas = np.stack([np.arange(99) / 100, -np.arange(99) / 100], axis=1)
    fitted = band.fitted(kappas, level=0.05, about="a model")
    assert fitted.limits == (0.94, -0.04)  # the 95th smallest of 99
    assert (fitted.n_images, fitted.level, fitted.about) == (99, 0.05, "a model")
    assert fitted.false_alarms == pytest.approx(0.1)
    assert fitted.inner == fitted.limits
    assert band.fitted(kappas, level=0.05, release=0.5).inner == (0.49, -0.49)  # the 50th smallest
    for release in (0.04, 1.0):
        with pytest.raises(ValueError, match=r"^release=.*: must lie in \[level, 1\), and level is 0.05$"):
            band.fitted(kappas, level=0.05, release=release)


def test_checks_are_three_near_the_end_or_as_many_as_there_are_nodes():
    assert [Band.watching(n_nodes=n).checks for n in (50, 20, 9)] == [(45, 47, 49), (18, 19), (8,)]
    assert [Band.watching(n_nodes=9, given=given).sigma for given in (False, True)] == [0.32, 0.58]


def test_a_caught_one_is_let_go_below_the_inner_limits_alone(both, fitted):
    """Who is caught does not depend on these; whoever is not outside afterwards is below them at each check."""
    usual = both[0].notes["kappa"][~is_copy(both[0].image)]
    inner = tuple(np.quantile(usual, 0.7, axis=0).tolist())
    strict = dataclasses.replace(fitted, band=dataclasses.replace(fitted.band, inner=inner))
    found = generate(planted_diffusion(), jax.random.key(1), N, shape=SHAPE, method=strict)
    caught, guarded = found.notes["renoised"] > 0, both[1]
    np.testing.assert_array_equal(caught, guarded.notes["renoised"] > 0)
    np.testing.assert_array_equal(found.image[~caught], guarded.image[~caught])
    free = caught & ~found.notes["outside"]
    assert free.any() and (found.notes["kappa"][free] <= inner).all()
    assert (guarded.notes["kappa"][caught] > inner).any(), "the limits alone do not see to it"
    assert found.notes["renoised"].sum() > guarded.notes["renoised"].sum()


def test_its_level_holds_for_further_generations():
    rng, band = np.random.default_rng(0), Band.watching(n_nodes=8, n_checks=1)
    outside = []
    for _ in range(400):
        kappas = rng.normal(size=(30, 1))
        outside.append((kappas[1:] > band.fitted(kappas[:19], level=0.1).limits[0])[19:].mean())
    assert 0.07 < np.mean(outside) < 0.13


def test_a_band_is_saved(tmp_path):
    band = Band.watching(n_nodes=40).fitted(np.random.default_rng(0).normal(size=(60, 3)), level=0.05, about="ü")
    band.save(tmp_path / "band.npz")
    assert load_band(tmp_path / "band.npz") == band
    (tmp_path / "other.npz").write_bytes(b"PK")
    np.savez(tmp_path / "strange.npz", a=1)
    wrong = {"none.npz": "must be an .npz that is there", "other.npz": "is not", "strange.npz": "is not"}
    for name, reason in wrong.items():
        with pytest.raises(ValueError, match=f"^band='.*{name}': .*{reason}") as refused:
            load_band(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_how_many_images_a_level_needs():
    assert [fewest_images(level) for level in (0.5, 0.05, 0.02, 0.01)] == [1, 19, 49, 99]
    kappas = np.zeros((48, 1))
    with pytest.raises(ValueError) as refused:
        Band.watching(n_nodes=8).fitted(kappas, level=0.02)
    assert str(refused.value) == "level=0.02: needs at least 49 generations that are no copies, and there are 48"


# --- other schedules, models and bad input


@pytest.mark.slow
def test_what_the_middle_node_keeps_of_an_image_comes_back_and_is_said():
    """A schedule that ends far from noise, α = 0.36: x̂₀ shows through, all are caught, and fewer get away."""
    schedule = DiscreteVP.linear(200)
    watch, model = watching(), planted_diffusion(schedule)
    seen = generate(model, KEY, N, shape=SHAPE, method=watch)
    copies = is_copy(seen.image)
    band = watch.band.fitted(seen.notes["kappa"][~copies], level=0.02)
    guarded = generate(model, KEY, N, shape=SHAPE, method=dataclasses.replace(watch, band=band))
    left = is_copy(guarded.image)
    assert left.any() and guarded.notes["outside"][left].all()
    assert (guarded.notes["renoised"][copies] >= 1).all()


@pytest.mark.parametrize(
    ("schedule", "sampler"),
    [
        (RectifiedFlow(), DDIM(STEPS)),
        pytest.param(DiscreteVP.linear(1000), DDIM(STEPS), marks=pytest.mark.slow),
        pytest.param(RectifiedFlow(), ProbabilityFlow(), marks=pytest.mark.slow),
    ],
    ids=["flow", "steps", "ode"],
)
def test_it_works_under_other_schedules_and_samplers(schedule, sampler):
    watch, model = watching(sampler), planted_diffusion(schedule)
    seen = generate(model, KEY, 80, shape=SHAPE, method=watch)
    copies = is_copy(seen.image)
    assert copies.sum() >= 5
    band = watch.band.fitted(seen.notes["kappa"][~copies], level=0.02)
    guarded = generate(model, KEY, 80, shape=SHAPE, method=dataclasses.replace(watch, band=band))
    left = is_copy(guarded.image)
    assert left.sum() <= copies.sum() / 3 and guarded.notes["outside"][left].all()


def test_bands_with_and_without_limits_are_of_one_structure(fitted):
    """What is the same to the last bit with and without limits must be one program."""
    assert jax.tree.structure(watching()) == jax.tree.structure(fitted)


def test_strengths_compile_nothing(fitted):
    model = planted_diffusion()
    made = []
    for limit in (0.9, 0.99):
        band = dataclasses.replace(fitted.band, limits=(limit,) * 4, inner=None)
        method = dataclasses.replace(fitted, band=band, renoisings=int(10 * limit) - 8)
        found = generate(model, KEY, N, shape=SHAPE, method=method)
        made.append(found.notes["renoised"].sum())
    assert made[0] != made[1]
    assert hash(fitted) == hash(dataclasses.replace(fitted)) and fitted == dataclasses.replace(fitted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: watching(first=0.0), "first=0.0: must lie in (0, 1)"),
        (lambda: watching(n_checks=0), "n_checks=0: must be an integer >= 1"),
        (lambda: watching(n_checks=13), "n_checks=13: must be at most 12, the nodes from first=0.4 on"),
        (lambda: Band.watching(n_nodes=1), "n_nodes=1: must be an integer >= 2"),
        (
            lambda: dataclasses.replace(Band.watching(n_nodes=9, n_checks=1), limits=(0.5,), inner=(0.6,)),
            "inner=(0.6,): must not be above limits, (0.5,)",
        ),
        (lambda: Band.watching(n_nodes=9, sigma=1.0), "sigma=1.0: must lie in (0, 1)"),
        (lambda: Band.watching(n_nodes=9, n_directions=1), "n_directions=1: must be an integer >= 2"),
        (
            lambda: Guard(DDIM(9), Band.watching(n_nodes=9), restart=0.0),
            "restart=0.0: must be a noise-to-signal ratio > 0",
        ),
        (lambda: Guard(DDIM(9), Band.watching(n_nodes=9), growth=0.5), "growth=0.5: must be finite and >= 1"),
        (
            lambda: Guard(DDIM(9), Band.watching(n_nodes=9), after=float("nan")),
            "after=nan: must be a finite number, or be None",
        ),
        (lambda: Guard(DDIM(9), Band.watching(n_nodes=9), renoisings=-1), "renoisings=-1: must be an integer >= 0"),
        (lambda: fewest_images(0.0), "level=0.0: must lie in (0, 1)"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError) as refused:
        make()
    assert str(refused.value) == message


NINE = Band.watching(n_nodes=9, first=0.4, sigma=0.16)
AT_FIRST = DDIM(9).times(VPLinear())[NINE.checks[0]]
FIRST = float(VPLinear().sigma(AT_FIRST) / VPLinear().alpha(AT_FIRST))


@pytest.mark.parametrize(
    ("method", "schedule", "message"),
    [
        (
            Guard(DDIM(8), NINE),
            VPLinear(),
            "band='Band': must be a band of 8 nodes, the steps of the sampler, and has 9",
        ),
        (
            Guard(ProbabilityFlow(denoise=False), NINE, nodes=9),
            VPLinear(),
            "sampler.denoise=False: must be true for guard, which looks at denoised images",
        ),
        (
            Guard(DDIM(9), Band.watching(n_nodes=9, given=True)),
            VPLinear(),
            "conditions=None: a band with given=True needs prompts",
        ),
        (
            Guard(DDIM(9), NINE, restart=2.0),
            VPLinear(),
            f"restart=2.0: must be at least {FIRST:.3g}, the σ/α of the first check",
        ),
        (Guard(DDIM(9), NINE), VE(0.5, 50.0), "sigma=0.16: must be a noise level that VE reaches"),
        (
            Guard(ProbabilityFlow(), NINE, nodes=9),
            DiscreteVP.linear(20),
            "schedule='DiscreteVP': must be continuous in time: a table of steps has no derivative; sample with DDIM",
        ),
        (
            Guard(planted_diffusion, NINE),
            VPLinear(),
            "sampler='function': must be a DDIM, ProbabilityFlow or ReverseSDE",
        ),
    ],
)
def test_what_does_not_fit_is_refused(method, schedule, message):
    with pytest.raises(ValueError) as refused:
        generate(Diffusion(CountingNetwork(), schedule), KEY, 2, shape=(3,), method=method)
    assert str(refused.value) == message
