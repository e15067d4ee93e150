"""Evidence at several noise levels: against the estimators it is made of and closed forms, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import EDM, VE, DiscreteVP, GaussianMixture, RectifiedFlow, VPLinear, flux
from plap_jax.evidence import NOISE_LEVELS, EvidenceAt, evidence, noise_to_signal, times_of
from plap_jax.parallel import map_points
from tests.helpers.analytic_network import exact_diffusion, traces
from tests.helpers.counting_network import COUNTING, counts

KEY = jax.random.key(3)
SHAPE = (2, 2, 1)
MIXTURE = GaussianMixture(
    jnp.ones(2) / 2, jnp.stack([jnp.zeros(SHAPE), jnp.ones(SHAPE)]), jnp.array([0.1, 0.3]), "spherical"
)
LEVELS = (0.05, 0.3)
IMAGES = np.random.default_rng(0).normal(0.5, 0.5, (5, *SHAPE)).astype(np.float32)


def test_evidence_is_the_flux_and_the_norm_at_every_level():
    model = exact_diffusion(MIXTURE, VPLinear())
    found = evidence(model, IMAGES, key=KEY, levels=LEVELS)
    assert found.kappa.shape == found.stderr.shape == found.log_norm.shape == (5, 2)
    eps = jax.jit(model.eps)
    for column, level in enumerate(LEVELS):
        t = VPLinear().time_at(level)
        for i in (0, 4):
            centre, radius = model.ball(IMAGES[i], t)
            alone = flux(model.score_at(t), centre, radius=radius, key=KEY, n_samples=4)
            assert found.kappa[i, column] == pytest.approx(float(alone.value), abs=1e-5)
            assert found.stderr[i, column] == pytest.approx(float(alone.stderr), abs=1e-5)
            expected = -np.log(np.linalg.norm(eps(centre, t)))
            assert found.log_norm[i, column] == pytest.approx(expected, abs=1e-4)
            around = [np.roll(centre, step, axis) for axis in (0, 1) for step in (1, -1)]
            for moved, axis, edge in zip(around, (0, 0, 1, 1), (0, -1, 0, -1), strict=True):  # the edge is repeated
                moved[(slice(None),) * axis + (edge,)] = np.asarray(centre)[(slice(None),) * axis + (edge,)]
            beside = np.mean([np.log(np.linalg.norm(eps(moved, t))) for moved in around])
            assert found.contrast[i, column] == pytest.approx(beside + expected, abs=1e-4)
    np.testing.assert_array_equal(found.columns, np.concatenate([found.kappa, found.contrast], axis=1))


def test_a_gaussian_image_has_the_closed_form():
    """ε̂(αx₀) = σα(x₀ − μ)/(α²τ² + σ²), and κ₁ = 1 at the mean, at every level of every schedule."""
    gaussian = GaussianMixture(jnp.ones(1), jnp.zeros((1, *SHAPE)), jnp.array([0.2]), "spherical")
    image = np.full((1, *SHAPE), 0.7, np.float32)
    for schedule in (VPLinear(), VE(), EDM(), DiscreteVP.linear(1000), RectifiedFlow()):
        model = exact_diffusion(gaussian, schedule)
        found = evidence(model, np.concatenate([image, 0 * image]), key=KEY, levels=(0.22,))
        (t,) = times_of(schedule, (0.22,)).values()
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        expected = np.log((alpha**2 * 0.2 + sigma**2) / (sigma * alpha * np.linalg.norm(image)))
        assert found.log_norm[0, 0] == pytest.approx(expected, rel=1e-4)
        assert found.kappa[1, 0] == pytest.approx(1, abs=1e-5)
        assert np.isfinite(found.log_norm[1, 0])


def test_levels_of_other_schedules_have_the_same_noise_to_signal():
    for schedule in (VE(), EDM(), DiscreteVP.linear(1000), VPLinear(), RectifiedFlow()):
        for level, t in times_of(schedule).items():
            ratio = float(schedule.sigma(t)) / float(schedule.alpha(t))
            assert ratio == pytest.approx(noise_to_signal(level), rel=0.02 if schedule.discrete else 1e-5)
    assert list(times_of(VPLinear())) == list(times_of(RectifiedFlow())) == list(NOISE_LEVELS)
    (t,) = times_of(RectifiedFlow(), (0.6,)).values()
    assert float(t) == pytest.approx(0.75 / 1.75, rel=1e-6)  # ς/(1 + ς)


def test_levels_out_of_reach_and_steps_named_twice_are_left_out():
    assert list(times_of(VE(sigma_min=0.1, sigma_max=0.3))) == [0.16, 0.22]
    assert list(times_of(DiscreteVP.linear(1000), (0.0500, 0.0501))) == [0.05]
    coarse = DiscreteVP.linear(10, 1e-4, 0.2)  # steps at .01 and .15: nothing near .05
    assert 0.05 not in times_of(coarse) and len(times_of(coarse)) >= 1
    with pytest.raises(ValueError, match="levels=.*must hold a level that the schedule reaches"):
        evidence(exact_diffusion(MIXTURE, VE(sigma_min=10)), IMAGES, key=KEY)
    with pytest.raises(ValueError, match="sigma=1.5: must lie in"):
        times_of(VPLinear(), (1.5,))


def test_all_levels_and_images_share_their_directions():
    model = exact_diffusion(MIXTURE, VPLinear())
    same = np.repeat(IMAGES[:1], 3, axis=0)
    found = evidence(model, same, key=KEY, levels=LEVELS)
    np.testing.assert_array_equal(found.kappa[0], found.kappa[2])
    alone = evidence(model, same[:1], key=KEY, levels=LEVELS[1:])
    np.testing.assert_allclose(alone.kappa[:, 0], found.kappa[:1, 1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["kappa_given", "kappa_gap"])
def test_with_prompts_it_is_of_the_conditional_score_or_the_gap(kind):
    model = exact_diffusion(MIXTURE, VPLinear())
    prompts = np.array([0, 1, 0, 1, 0], np.int32)
    found = evidence(model, IMAGES, key=KEY, levels=LEVELS[:1], prompts=prompts, kind=kind)
    t = VPLinear().time_at(LEVELS[0])
    centre, radius = model.ball(IMAGES[1], t)

    def score(x):
        without = model.score(x, t) if kind == "kappa_gap" else 0
        return model.score(x, t, jnp.asarray(1)) - without

    expected = flux(score, centre, radius=radius, key=KEY, n_samples=4)
    assert found.kappa[1, 0] == pytest.approx(float(expected.value), abs=1e-4)
    assert found.nfe == (13 if kind == "kappa_gap" else 9)


def test_what_it_costs_is_what_the_network_counts():
    counts["evaluations"] = 0
    found = evidence(COUNTING, IMAGES, key=KEY, batch_size=5)
    assert found.nfe == 63
    assert counts["evaluations"] == 63 * len(IMAGES)


def test_prompts_are_needed_where_they_are_asked_for():
    with pytest.raises(ValueError, match="kind='kappa_given': needs prompts"):
        evidence(COUNTING, IMAGES, key=KEY, kind="kappa_given")


def test_another_level_compiles_nothing():
    model = exact_diffusion(MIXTURE, VPLinear())
    times = list(times_of(VPLinear()).values())
    map_points(EvidenceAt(model, times[0], KEY), IMAGES)
    before = traces["count"]
    map_points(EvidenceAt(model, times[1], KEY), IMAGES)
    assert traces["count"] == before


@pytest.mark.parametrize(("kind", "calls"), [("kappa", 1), ("kappa_given", 1), ("kappa_gap", 2)])
def test_a_level_is_one_call_of_the_network_but_for_the_gap(kind, calls):
    model = exact_diffusion(MIXTURE, VPLinear())
    before = traces["count"]
    jax.eval_shape(EvidenceAt(model, 0.5, KEY, kind), IMAGES[0], jnp.asarray(1))
    assert traces["count"] - before == calls


def test_constant_images_have_no_contrast_and_points_are_no_images():
    found = evidence(exact_diffusion(MIXTURE, VPLinear()), 0 * IMAGES + 0.3, key=KEY, levels=LEVELS)
    np.testing.assert_allclose(found.contrast, 0, atol=1e-6)
    with pytest.raises(ValueError, match="^image=.*it is compared with itself shifted"):
        evidence(COUNTING, IMAGES.reshape(5, 4), key=KEY)
