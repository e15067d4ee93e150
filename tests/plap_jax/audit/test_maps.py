"""Curvature maps of flagged images: where they are bright, what they cost, and what they leave as it is."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from plap_jax import GaussianMixture, audit_images
from plap_jax.audit import auditing, conclusion, maps
from plap_jax.audit.evaluator import named_key
from plap_jax.audit.images import pixels
from plap_jax.audit.maps import Mapper
from plap_jax.audit.report import page_of
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.subject import Held
from plap_jax.curvature_map import curvature_map
from plap_jax.diffusion import Diffusion
from plap_jax.directions import sample_directions
from plap_jax.pretrained import Pretrained, UserModel, as_pretrained
from tests.helpers import memorizing_model
from tests.helpers.analytic_network import MixtureNetwork
from tests.helpers.counting_network import counted, counts

KEY, SHAPE, SCHEDULE = jax.random.key(0), memorizing_model.SHAPE, memorizing_model.SCHEDULE
images, SPREAD = memorizing_model.images, memorizing_model.SPREAD
LEFT = np.zeros(SHAPE, bool)
LEFT[:, :2] = True  # the part that is memorized, whatever stands beside it
PART = images(1, seed=7)[0]
PLANTED = np.where(LEFT, PART, images(4, seed=3))
EVERYTHING = np.concatenate([images(10, 1), PLANTED])
SIGMA, LEVELS = 0.08, (0.05, 0.08)
QUICK = {"evaluations": 1024, "n_samples": 16, "max_samples": 16, "target_stderr": 1.0, "key": KEY}
PLAIN = {"reference": images(60, 2), "sigma": SIGMA, "fdr": 0.1, **QUICK}


def mixture():
    """Ordinary images, and as many whose left half is always the same."""
    variances = jnp.stack([jnp.full(SHAPE, SPREAD**2), jnp.where(LEFT, 1e-6, SPREAD**2)])
    means = jnp.stack([jnp.zeros(SHAPE), jnp.where(LEFT, PART, 0)])
    return GaussianMixture(jnp.full(2, 0.5), means, variances, "diag")


def planted(count=False):
    network = MixtureNetwork(mixture(), SCHEDULE, "eps")
    told = (lambda x, t, condition: counted(network(x, t))) if count else (lambda x, t, condition: network(x, t))
    return UserModel(told, SCHEDULE, SHAPE)


def unaware():
    """Of ordinary images alone."""
    variance = SPREAD**2

    def eps(x, t, condition):
        sigma = SCHEDULE.sigma(t)
        return sigma * x / (SCHEDULE.alpha(t) ** 2 * variance + sigma**2)

    return UserModel(eps, SCHEDULE, SHAPE)


MODEL, UNAWARE = as_pretrained(planted()), as_pretrained(unaware())


@pytest.fixture(scope="module")
def audited():
    """With a model that counts; the calls are in the second place."""
    counts.update(evaluations=0)
    found = audit_images(planted(count=True), EVERYTHING, **PLAIN)
    jax.effects_barrier()
    return found, counts["evaluations"]


@pytest.fixture(scope="module")
def beside():
    """Two noise levels, and a baseline that has not seen the part."""
    with pytest.MonkeyPatch.context() as patch:
        held = []

        class Watched(Held):
            @property
            def subject(self):
                found = super().subject
                held.append(self) if self not in held else None
                assert len(held) == 1, "two models in memory"
                return found

            def release(self):
                super().release()
                held.remove(self) if self in held else None

        patch.setattr(auditing, "Held", Watched)
        how = {"reference": images(60, 2), "noise_levels": LEVELS, "fdr": 0.1, "maps": 33, **QUICK}
        return audit_images(lambda: MODEL, EVERYTHING, baseline=lambda: UNAWARE, **how)


@jax.jit
def fields_around(model, image, sigma, n):
    """Scores in directions n on the sphere that belongs to a noise level: (m, *shape)."""
    t = model.schedule.time_at(sigma)
    centre, radius = model.ball(image, t)
    return jax.vmap(model.score_at(t))(centre + radius * n)


@jax.jit
def map_of(model, image, sigma, key, prompt=None):
    t = model.schedule.time_at(sigma)
    centre, radius = model.ball(image, t)
    return curvature_map(model.score_at(t, prompt), centre, radius=radius, key=key, n_samples=64, channels=True)


def key_of(level):
    return jax.random.fold_in(named_key(KEY, "maps"), level)


def test_the_planted_part_is_bright_and_the_rest_is_dark(audited):
    found, _ = audited
    assert found.flagged[10:].all()
    for i, (value, stderr) in enumerate(zip(found.curvature_map, found.curvature_map_stderr, strict=True)):
        assert (value is not None) is (stderr is not None) is bool(found.flagged[i])
    for value in found.curvature_map[10:]:
        inside, outside = value[LEFT[..., 0]], value[~LEFT[..., 0]]
        assert inside.min() > 1 > 0.5 > np.abs(outside).max()
        assert inside.mean() == pytest.approx(2**0.5, rel=0.1)  # 1/√ρ, nearly


def test_they_are_those_of_the_library_in_directions_of_their_own(audited):
    found, _ = audited
    own = map_of(MODEL.diffusion, EVERYTHING[11], SIGMA, key_of(0))
    np.testing.assert_allclose(found.curvature_map[11], own.value, atol=1e-3)
    np.testing.assert_allclose(found.curvature_map_stderr[11], own.stderr, atol=1e-3)


def test_their_evaluations_are_those_of_the_network_and_no_part_of_the_verdict_s(audited):
    found, calls = audited
    n_flagged = int(found.flagged.sum())
    assert found.nfe_total == calls and found.nfe_maps == 64 * n_flagged == found.maps.spent
    judged = found.nfe_total - found.nfe_maps - found.denoising.spent
    assert (found.nfe == 16).all() and 16 * 74 <= judged < 16 * 80  # batches are filled up
    assert page_of(found, 2000).summary["of these for maps"] == str(64 * n_flagged)
    assert found.words["curvature maps"].startswith(f"all {n_flagged} flagged images; 64 further directions each")


def test_the_verdict_is_the_same_without_them(audited):
    found, _ = audited
    without = audit_images(MODEL, EVERYTHING, **PLAIN, maps=False)
    assert without.maps is None and without.nfe_maps == 0 and without.curvature_map == [None] * 14
    for name in ("score", "p_value", "q_value", "flagged"):
        np.testing.assert_allclose(getattr(without, name), getattr(found, name), atol=1e-6)
    assert without.lines == found.lines and without.claims == found.claims
    page = page_of(without, 2000)
    assert page.maps == () and all(row.heat is None for row in page.rows) and "of these for maps" not in page.summary


def test_beside_a_baseline_a_loop_over_levels_and_directions_gives_the_same(beside):
    """A slow twin: the difference in the same directions, levels as strata; 33 directions are 16 at each level."""
    assert beside.flagged[10:].all() and beside.maps.of_difference and beside.maps.n_directions == 32
    assert beside.maps.levels == LEVELS
    differences, squares = [], []
    for level, sigma in enumerate(LEVELS):
        unit_fields = []
        n = np.asarray(sample_directions(key_of(level), 16, SHAPE)).reshape(16, *SHAPE)
        for model in (MODEL.diffusion, UNAWARE.diffusion):
            fields = np.asarray(fields_around(model, EVERYTHING[12], sigma, n), np.float64)
            unit_fields.append(fields / np.sqrt((fields**2).sum(axis=(1, 2, 3), keepdims=True)))
        differences.append(-((unit_fields[0] - unit_fields[1]) * n).sum(axis=-1))
        squares.append((n**2).sum(axis=-1))
    total = np.sum(squares, axis=(0, 1))
    value = np.sum(differences, axis=(0, 1)) / total
    variance = sum(16 * np.var(d - value * w, axis=0, ddof=1) for d, w in zip(differences, squares, strict=True))
    np.testing.assert_allclose(beside.curvature_map[12], value, atol=1e-3)
    np.testing.assert_allclose(beside.curvature_map_stderr[12], np.sqrt(variance) / total, rtol=5e-3)
    assert value[LEFT[..., 0]].min() > 0.5 > np.abs(value[~LEFT[..., 0]]).max()
    assert beside.nfe_maps == 2 * 32 * beside.flagged.sum()
    page = page_of(beside, 2000)
    assert "the baseline’s" in page.maps[0] and "σ = 0.05, 0.08" in page.maps[1] and page.maps_of_difference


def test_they_are_saved_with_their_names(audited, tmp_path):
    found, _ = audited
    found.save_maps(tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as stored:
        assert stored["curvature_map_names"].tolist() == [str(i) for i in np.flatnonzero(found.flagged)]
        np.testing.assert_array_equal(stored["curvature_map"][-1], found.curvature_map[-1])
        assert stored["noise_levels"].tolist() == [SIGMA]


def test_where_nothing_is_flagged_there_are_none(audited, caplog):
    found, _ = audited
    none = audit_images(MODEL, EVERYTHING, **{**PLAIN, "reference": np.concatenate([images(60, 2), PLANTED])})
    assert none.flagged.sum() == 0 and none.maps is None and page_of(none, 5).maps == ()
    with pytest.raises(ValueError, match=r"^maps=None: must be there: no image is flagged, or maps were not asked"):
        none.save_maps("nowhere.npz")
    ranked = audit_images(MODEL, EVERYTHING, **{**PLAIN, "reference": None})
    assert ranked.maps is None and ranked.curvature_map == [None] * 14


def test_of_more_flagged_images_than_fit_the_highest_have_maps(audited, monkeypatch):
    monkeypatch.setattr("plap_jax.audit.maps.NUMBERS", 2 * 2 * 16)  # value and error of two images
    found = audit_images(MODEL, EVERYTHING, **PLAIN)
    highest = sorted(found.verdict.order[:2].tolist())
    assert found.maps.rows.tolist() == highest
    page = page_of(found, 2000)
    assert f"There are maps of 2 of the {int(found.flagged.sum())} flagged images." in page.maps[1]
    assert [row.heat is not None for row in page.rows][:3] == [True, True, False]


def test_an_audit_goes_on_with_finished_maps(tmp_path, monkeypatch):
    first = audit_images(MODEL, EVERYTHING, resume_dir=tmp_path, **PLAIN)
    monkeypatch.setattr(Mapper, "__call__", lambda *_: pytest.fail("they are computed again"))
    again = audit_images(MODEL, EVERYTHING, resume_dir=tmp_path, **PLAIN)
    np.testing.assert_array_equal(again.maps.value, first.maps.value)


def test_an_image_that_is_gone_after_the_verdict_has_none(tmp_path, monkeypatch):
    for i, image in enumerate(EVERYTHING):
        Image.fromarray(pixels(image)[..., 0]).save(tmp_path / f"{i:02d}.png")
    judge = conclusion.judge

    def judged(*args):
        (tmp_path / "11.png").unlink()
        return judge(*args)

    monkeypatch.setattr(conclusion, "judge", judged)
    found = audit_images(MODEL, tmp_path, **PLAIN)
    assert found.flagged[10:].all() and found.curvature_map[11] is None
    assert all(found.curvature_map[i] is not None for i in (10, 12, 13))


def test_given_the_prompt_the_map_is_of_the_score_given_it():
    model, memorized = memorizing_model.prompted(), memorizing_model.MEMORIZED[:4]
    high = 0.58  # where without the prompt other images count, too
    told = {"prompts": [1, 2, 3, 4], "reference_prompts": 0, **PLAIN, "sigma": high}
    found = audit_images(model, memorized, **told)
    given, blind = (
        map_of(as_pretrained(model).diffusion, memorized[2], high, key_of(0), prompt) for prompt in (np.int32(3), None)
    )
    np.testing.assert_allclose(found.curvature_map[2], given.value, atol=1e-3)
    assert np.abs(given.value - blind.value).max() > 1e-2


def test_of_latents_the_grid_is_theirs_and_the_page_says_so():
    """Colours, too: all channels of a cell together."""
    shape, latent = (8, 8, 3), (4, 4, 2)
    part = images(1, 7, latent)[0]
    left = np.broadcast_to(LEFT, latent)
    variances = jnp.stack([jnp.full(latent, SPREAD**2), jnp.where(left, 1e-6, SPREAD**2)])
    means = jnp.stack([jnp.zeros(latent), jnp.where(left, part, 0)])
    network = MixtureNetwork(GaussianMixture(jnp.full(2, 0.5), means, variances, "diag"), SCHEDULE, "eps")
    encoder = jax.tree_util.Partial(lambda image: image.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))[..., :2])
    model = Pretrained(Diffusion(network, SCHEDULE), "latents", latent, shape, encoder=encoder)

    def drawn(latents):
        return np.concatenate([latents, latents[..., :1]], axis=-1).repeat(2, axis=1).repeat(2, axis=2)

    everything = np.concatenate([images(6, 1, latent), np.where(left, part, images(4, 3, latent))])
    found = audit_images(model, drawn(everything), **{**PLAIN, "reference": drawn(images(60, 2, latent))})
    assert found.flagged[6:].all() and found.maps.of_latents and found.curvature_map[6].shape == (4, 4)
    assert found.curvature_map[6][:, :2].min() > 1 > 0.5 > np.abs(found.curvature_map[6][:, 2:]).max()
    page = page_of(found, 2000)
    assert "of the model’s 4×4 latents" in page.maps[1] and "2×2 pixels" in page.maps[1]
    assert page.map_cells == "latent cells" and page.rows[0].thumbnail.shape == shape


def test_levels_that_no_schedule_has_leave_none(audited, caplog):
    found, _ = audited
    settings = dataclasses.replace(found.settings, noise_levels=(1e-6,))
    held = Held(MODEL)
    asked = auditing.Asked(found.pictures, None, None, KEY, auditing.Surroundings())
    with caplog.at_level(logging.WARNING):
        made = maps.curvature_maps(held, None, settings, "kappa", (1e-6,), None, asked, found.audited, found.verdict)
    assert made is None and "no curvature maps" in caplog.text


@pytest.mark.parametrize("given", [3, -1, 1.5, "many", None])
def test_numbers_that_make_no_map_are_refused(given):
    with pytest.raises(ValueError, match="^maps=.*: must be 0 for none, or an integer >= 8"):
        AuditSettings(maps=given)


def test_true_and_false_are_taken():
    assert [AuditSettings(maps=given).maps for given in (True, False, np.int64(16))] == [64, 0, 16]
