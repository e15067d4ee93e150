"""The calibrated score of an audit: exchangeable, against a slow twin, with a baseline, and with odd inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import adjustment, audit_images
from plap_jax.adjustment import adjust
from plap_jax.audit import auditing, calibrated
from plap_jax.audit.images import digests_of
from plap_jax.audit.subject import Held
from plap_jax.difficulty import difficulty
from plap_jax.diffusion import VE, VPCosine
from plap_jax.evidence import evidence
from plap_jax.pretrained import UserModel, as_pretrained
from tests.helpers import memorizing_model
from tests.helpers.counting_network import counted, counts

KEY = jax.random.key(0)
MEMORIZED, images = memorizing_model.MEMORIZED, memorizing_model.images
LEVELS = (0.08, 0.22, 0.58)
QUICK = {"noise_levels": LEVELS, "evaluations": 1024, "key": KEY}
OWN = memorizing_model.factory()
MODEL = as_pretrained(OWN)  # once: a model compiles once


def unaware(schedule=OWN.schedule, shape=OWN.shape, spread=memorizing_model.SPREAD, n_conditions=None):
    """A model of the same kind that has memorized nothing, of N(0, spread²): one line, which is soon compiled."""

    def eps(x, t, condition=None):
        sigma = schedule.sigma(t)
        return sigma * x / ((schedule.alpha(t) * spread) ** 2 + sigma**2)

    return UserModel(eps, schedule, shape, n_conditions=n_conditions)


UNAWARE = as_pretrained(unaware())


@pytest.fixture(scope="module")
def audited():
    everything = np.concatenate([images(20, 1), MEMORIZED])
    return audit_images(MODEL, everything, reference=images(100, 2), **QUICK)


def test_memorized_images_are_flagged_and_evidence_is_told(audited):
    assert audited.flagged[20:].all() and audited.flagged[:20].sum() <= 2
    assert audited.kappa.shape == (32, 3) and audited.evidence.shape == (32, 6)
    assert audited.sigma is None and audited.score_name == "calibrated score"
    assert (audited.measured[20:] > audited.expected[20:]).all()
    inside = np.clip(audited.evidence, -5, 5)
    plain = np.abs(audited.evidence).max(axis=1) <= 5
    np.testing.assert_allclose(audited.score[plain], inside[plain].mean(axis=1))
    row = audited.to_rows()[0]
    assert {"calibrated", "same_as", "measured", "expected", "kappa_0.08", "kappa_0.58", "contrast_0.58"} <= set(row)


def test_the_score_is_that_of_its_parts(audited):
    """A slow twin, put together by hand from the library's parts."""
    pool = np.concatenate([images(20, 1), MEMORIZED, images(100, 2)])
    found = evidence(MODEL.diffusion, pool, key=KEY, levels=LEVELS)
    expected = adjust(found.columns, difficulty(pool), digests_of(pool))
    np.testing.assert_allclose(audited.score, expected.score[:32], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(audited.reference_score, expected.score[32:], rtol=1e-3, atol=1e-3)


def test_the_standard_error_is_that_of_the_score_also_where_evidence_counts_by_its_logarithm(audited):
    """One image's κ₁ moved at all levels by a tenth of its error moves its score by a tenth of the score's error."""
    rng = np.random.default_rng(0)
    n, step, image = 400, 0.1, 7
    evidence, z = rng.normal(size=(n, 6)), rng.normal(size=(n, 4))
    evidence[image] = [3, 12, 40, 0, 1, 20]
    stderr, digests = np.full((n, 3), 0.2), rng.integers(0, 2**63, n, np.uint64)
    fitted = np.arange(n) != image  # so that the rule does not move along
    one = adjust(evidence, z, digests, fitted)
    moved = evidence.copy()
    moved[image, :3] += step * stderr[image]
    moves = adjust(moved, z, digests, fitted).score - one.score
    told = calibrated._stderr(one, stderr)
    assert moves[image] == pytest.approx(step * told[image], rel=0.01)
    plain = (stderr / one.spread[:, :3]).sum(axis=1) / 6
    inside = np.abs(one.residuals[:, :3]).max(axis=1) <= 5
    np.testing.assert_allclose(told[inside], plain[inside])
    assert told[image] < plain[image] / 2 and not inside[image]
    assert (audited.stderr > 0).all()


def test_exchanged_images_have_exchanged_scores(monkeypatch):
    """The rule does not know which images are the reference: p-values rest on that.

    With difficulty fitted to, or spreads taken over, the reference alone, memorized images that change sides change
    every score.
    """
    pool = np.concatenate([images(30, 1), MEMORIZED, images(30, 2)])
    audited, reference = np.arange(36), np.arange(36, 72)  # half of the memorized ones in each
    few, many = [3, 10, 31], [37, 50, 60]
    swapped = audited.copy(), reference.copy()
    swapped[0][few], swapped[1][np.subtract(many, 36)] = many, few
    # more images than are fitted: which ones are must not depend on sides either
    monkeypatch.setattr(adjustment, "MOST_FITTED", 50)
    found = []
    for mine, theirs in ((audited, reference), swapped):
        one = audit_images(MODEL, pool[mine], reference=pool[theirs], **QUICK)
        scores = np.full(72, np.nan)
        scores[mine], scores[theirs] = one.score, one.verdict.reference
        found.append(scores)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-3)
    assert np.isfinite(found[0]).all()


def test_all_that_is_spent_is_in_the_total_and_below_64():
    """Of the images, the reference and the baseline: counted in the networks."""

    def counting(made):
        return UserModel(lambda x, t, condition: counted(made.function(x, t, condition)), made.schedule, made.shape)

    counts.update(evaluations=0)
    found = audit_images(counting(unaware(spread=0.5)), MEMORIZED, reference=images(20, 2), key=KEY, evaluations=288)
    jax.effects_barrier()
    assert found.nfe_total == counts["evaluations"]
    assert (found.nfe == 63).all()
    how = {"reference": images(20, 2), "baseline": counting(unaware()), **QUICK}
    counts.update(evaluations=0)
    found = audit_images(counting(unaware(spread=0.5)), MEMORIZED, **how)
    jax.effects_barrier()
    probes = 2 * 9  # that tell one model from another
    assert found.nfe_total == counts["evaluations"] - probes >= 2 * 27 * 32


def test_a_baseline_is_asked_in_the_same_directions_and_taken_off():
    everything = np.concatenate([images(20, 1), MEMORIZED])
    found = audit_images(MODEL, everything, reference=images(100, 2), baseline=UNAWARE, **QUICK)
    assert found.flagged[20:].all()
    apart = found.calibration.kappa - found.calibration.baseline_kappa
    np.testing.assert_allclose(found.calibration.measured, apart.mean(axis=1))
    assert found.words["baseline"] == "images (4, 4, 1) scored as pixels"
    alone = audit_images(UNAWARE, everything, **QUICK)
    np.testing.assert_allclose(found.calibration.baseline_kappa[:32], alone.kappa, atol=1e-5)  # the same directions


def test_a_baseline_that_does_not_fit_is_refused_in_one_line():
    for baseline, line in (
        (unaware(shape=(5, 4, 1)), r"baseline='a model of images \(5, 4, 1\)': must be of images \(4, 4, 1\)"),
        (unaware(VE(sigma_min=5.0)), "baseline='a function.*must have a noise level in common with the model"),
        (memorizing_model.factory(), "baseline='a function.*must be another model than the audited one"),
    ):
        with pytest.raises(ValueError, match=f"^{line}"):
            audit_images(MODEL, MEMORIZED, baseline=baseline, **QUICK)
    with pytest.raises(ValueError, match="^baseline='given': needs the calibrated score"):
        audit_images(MODEL, MEMORIZED, baseline=UNAWARE, sigma=0.22, **QUICK)


def test_a_baseline_of_another_schedule_is_asked_at_the_same_noise_to_signal():
    found = audit_images(MODEL, MEMORIZED, reference=images(60, 2), baseline=unaware(VPCosine()), **QUICK)
    assert found.flagged.all() and len(found.calibration.levels) == 3
    few = audit_images(MODEL, MEMORIZED, baseline=unaware(VE(0.2, 50.0)), **QUICK)
    assert few.calibration.levels.tolist() == [0.22, 0.58] and few.calibration.not_reached == (0.08,)
    assert "not on the schedule: 0.08" in few.words["noise levels"]
    assert few.lines[-1] == "the schedule does not reach σ = 0.08, which is left out"


def test_of_near_duplicates_one_is_tested():
    near = (MEMORIZED[:1] + 0.001).clip(-1, 1)
    everything = np.concatenate([images(20, 1), MEMORIZED[:1], near, near])
    found = audit_images(MODEL, everything, reference=images(60, 2), **QUICK)
    tested = np.isfinite(found.p_value)
    assert tested[:20].all() and tested[20:].sum() == 1
    assert found.flagged.sum() <= 1 + found.flagged[:20].sum()
    (kept,) = np.flatnonzero(tested[20:]) + 20
    assert [found.same_as[i] for i in range(20, 23)] == [None if i == kept else str(kept) for i in range(20, 23)]
    assert "2 audited images are near-duplicates of another, audited or of the reference, and not t" in found.lines[1]
    assert ("; " in found.lines[1]) == bool(found.flagged[kept])  # then both others score as high
    others = int(found.words["near-duplicates"].partition(" ")[0])
    split = f", 2 audited and {others - 2} of the reference" * (others > 2)
    assert found.words["near-duplicates"] == f"{others} set aside{split}, in chains of pairs up to 0.05 apart"
    rows = {row["file"]: row for row in found.to_rows()}
    assert sum(row["p_value"] is None for row in rows.values()) == 2


def test_an_image_on_both_sides_counts_once():
    found = audit_images(MODEL, MEMORIZED, reference=np.concatenate([images(60, 2), MEMORIZED[:6]]), **QUICK)
    tested = np.isfinite(found.p_value)
    assert tested[6:].all() and len(found.reference_score) == 66 - tested[:6].sum()
    assert all(found.same_as[i] is None or found.same_as[i].startswith("reference: ") for i in range(6))


def test_near_duplicates_of_training_images_are_told_on_both_sides():
    training = np.concatenate([MEMORIZED, images(30, 5)])
    near = [(some + 0.001).clip(-1, 1) for some in (MEMORIZED[:2], images(30, 5)[:1])]
    everything, reference = np.concatenate([images(20, 1), near[0]]), np.concatenate([images(60, 2), near[1]])
    found = audit_images(MODEL, everything, reference=reference, training=training, **QUICK)
    assert found.near_training.tolist() == 20 * [False] + 2 * [True]
    assert {row["file"]: row["near_training"] for row in found.to_rows()} == {str(i): int(i >= 20) for i in range(22)}
    assert any("2 of 22 audited images are near-duplicates of training images" in line for line in found.lines)
    assert "1 of 61 reference images is a near-duplicate of training images" in found.lines


def test_images_that_are_all_near_duplicates_end_in_one_line():
    same = np.repeat(MEMORIZED[:1], 8, axis=0)
    with pytest.raises(ValueError, match=r"^images=8: are near-duplicates of 1 image\(s\) all of them"):
        audit_images(MODEL, same, **QUICK)


def test_what_cannot_come_of_an_audit_is_told_before_it(caplog):
    nowhere = UserModel(lambda x, t, condition: jnp.nan * x, OWN.schedule, OWN.shape)
    settings = QUICK | {"n_samples": 32, "target_stderr": 0.1}
    some = UserModel(lambda x, t, condition: jnp.where(x.mean() > 0, jnp.nan, x), OWN.schedule, OWN.shape)
    with pytest.raises(ValueError, match=r"^noise_levels=\[.*\]: at each the evidence of more than 10 % of the images"):
        audit_images(some, MEMORIZED, reference=images(4, 2), **QUICK)
    with pytest.raises(ValueError, match="^model: answers NaN or infinity at every noise level, for every image$"):
        audit_images(nowhere, MEMORIZED, reference=images(4, 2), **settings)
    assert "n_samples, target_stderr: without effect, since sigma is not given" in caplog.text
    assert "the reference is too small to reject anything: it needs at least 19 images" in caplog.text
    assert "is left out" not in caplog.text
    audit_images(MODEL, images(20, 1), reference=images(30, 2), **QUICK)
    assert "with 30 reference images none is flagged unless at least 13 of 20 stand out" in caplog.text
    audit_images(MODEL, images(20, 1), reference=images(60, 2), **QUICK)
    assert "with 60 reference images" not in caplog.text, "7 of 20 are fewer than half"


def test_too_few_images_end_in_one_line_and_constant_ones_in_a_result():
    with pytest.raises(ValueError, match="^images=2: must be at least 3 with the reference, to take"):
        audit_images(MODEL, MEMORIZED[:2], **QUICK)
    flat = np.linspace(-0.9, 0.9, 30, dtype=np.float32)[:, None, None, None] * np.ones((1, *memorizing_model.SHAPE))
    found = audit_images(MODEL, flat, **QUICK)
    assert np.isfinite(found.score).all()


def test_a_level_without_finite_evidence_is_left_out_and_told(caplog):
    def broken(x, t, condition):
        value = unaware().function(x, t)
        return jnp.where(OWN.schedule.sigma(t) > 0.5, jnp.nan, value)

    model = UserModel(broken, OWN.schedule, OWN.shape)
    found = audit_images(model, MEMORIZED, reference=images(60, 2), **QUICK)
    assert found.calibration.levels.tolist() == [0.08, 0.22] and found.calibration.left_out == (0.58,)
    assert "noise level 0.58 is left out" in caplog.text and "left out" in found.words["noise levels"]


def test_an_image_without_finite_evidence_is_skipped_and_told():
    bright = np.ones((1, *memorizing_model.SHAPE), np.float32)

    def broken(x, t, condition):
        return jnp.where(x.mean() > 0.8, jnp.nan, unaware().function(x, t))

    model = UserModel(broken, OWN.schedule, OWN.shape)
    found = audit_images(model, np.concatenate([images(40, 1), bright]), **QUICK | {"noise_levels": (0.08, 0.22)})
    assert len(found.names) == 40 and found.skipped == [("40", calibrated.NOT_FINITE)]


def test_a_reference_of_another_kind_is_warned_of():
    smooth = np.repeat(images(80, 3)[:, :1], 4, axis=1)
    found = audit_images(MODEL, images(60, 1), reference=smooth, **QUICK)
    assert found.fitness.p_value <= 0.01 and found.fitness.auc > 0.9
    assert "differs in kind" in found.lines[-1]
    alike = audit_images(MODEL, images(60, 1), reference=images(80, 2), **QUICK)
    assert alike.fitness.warning is None


def test_extreme_reference_images_are_listed_and_kept():
    reference = np.concatenate([images(60, 2), MEMORIZED[:1]])
    found = audit_images(MODEL, np.concatenate([images(20, 1), MEMORIZED[1:]]), reference=reference, **QUICK)
    assert found.extreme_reference[0][0] == "60" and len(found.extreme_reference) <= 3
    assert len(found.reference_score) == 61


def test_the_envelope_tells_how_many_are_false_at_any_threshold(audited):
    rows = audited.verdict.envelope
    assert rows[0].flagged >= 12 and rows[0].at_most_false < rows[0].flagged
    assert rows[-1].flagged == 32
    assert [row.at_least_true for row in rows] == sorted(row.at_least_true for row in rows)


def test_no_image_that_is_tested_is_said_so(audited):
    verdict = dataclasses.replace(audited.verdict, tested=np.zeros(32, bool))
    assert verdict.lines == [
        "no image is tested: each is a near-duplicate of a reference image, which stays in its place"
    ]
    assert verdict.envelope == []


def test_prompts_of_one_side_or_a_baseline_without_text_cost_nothing():
    """κ₁ without prompts is told none, whatever was given."""
    model = unaware(spread=0.5, n_conditions=4)
    found = audit_images(model, MEMORIZED, prompts=3, score="kappa", baseline=UNAWARE, reference=images(30, 2), **QUICK)
    assert np.isfinite(found.score).all()
    with pytest.raises(ValueError, match="^baseline='images.*must take the prompts that the model is given"):
        how = {"prompts": 3, "reference_prompts": 3, "reference": images(30, 2)}
        audit_images(model, MEMORIZED, baseline=UNAWARE, **how, **QUICK)


def test_only_one_of_two_models_that_can_be_loaded_is_held(monkeypatch):
    held = []

    class Watched(Held):
        @property
        def subject(self):
            found = super().subject
            if self not in held:
                held.append(self)
            assert len(held) == 1, "two models in memory"
            return found

        def release(self):
            super().release()
            held.remove(self)

    monkeypatch.setattr(auditing, "Held", Watched)
    loaders = [lambda: unaware(spread=0.5), lambda: unaware()]
    found = audit_images(loaders[0], MEMORIZED, baseline=loaders[1], **QUICK)
    assert np.isfinite(found.score).all() and found.words["baseline"] == "a function for images (4, 4, 1)"
