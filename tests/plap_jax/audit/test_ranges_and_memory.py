"""Floats whose range is not clear, and a device that runs out of memory."""

import jax
import numpy as np
import pytest

from plap_jax.audit import AuditSettings, audit_images, evaluator
from plap_jax.audit.scores import Scorer
from plap_jax.audit.sources import open_source
from plap_jax.audit.subject import as_subject
from tests.helpers import memorizing_model

SHAPE, MEMORIZED = memorizing_model.SHAPE, memorizing_model.MEMORIZED
UNIT = (MEMORIZED + 1) / 2


def opened(images, pixel_range=None):
    return open_source("images", images, SHAPE, "center-crop", None, pixel_range)


@pytest.mark.parametrize("kind", ["array", "npy", "npz"])
def test_floats_from_0_to_1_have_to_be_told(tmp_path, kind):
    images = UNIT
    if kind != "array":
        images = tmp_path / f"images.{kind}"
        np.save(images, UNIT) if kind == "npy" else np.savez_compressed(images, UNIT)
    with pytest.raises(ValueError) as refused:
        opened(images)
    assert str(refused.value).startswith("images='floats from 0.") and "say which, as pixel_range='0..1'" in str(
        refused.value
    )
    np.testing.assert_allclose(opened(images, "0..1").read(3), MEMORIZED[3], atol=1e-6)
    np.testing.assert_allclose(opened(images, "-1..1").read(3), UNIT[3], atol=1e-6)
    assert opened(images, "0..1").identity([3]) != opened(images, "-1..1").identity([3])


def test_integers_and_signed_floats_are_clear():
    np.testing.assert_allclose(opened(np.full((1, *SHAPE), 255, np.uint8)).read(0), 1)
    np.testing.assert_array_equal(opened(MEMORIZED).read(3), MEMORIZED[3])
    result = audit_images(
        memorizing_model.factory(), UNIT, sigma=0.22, pixel_range="0..1", target_stderr=0.1, key=jax.random.key(0)
    )
    assert result.score.min() > 0.9


def small_device(room):
    """``map_points`` of a device with room for so many points at a time."""
    original = evaluator.map_points

    def map_points(fn, points, *others, batch_size):
        if batch_size > room:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes.")
        return original(fn, points, *others, batch_size=batch_size)

    return map_points


def test_less_memory_takes_smaller_batches_and_says_so(monkeypatch, caplog):
    subject, key = as_subject(memorizing_model.factory(), None), jax.random.key(0)
    scorer = Scorer(subject, AuditSettings(target_stderr=0.1, evaluations=256), key, 0.22)
    expected = scorer(MEMORIZED, None)["kappa"]
    monkeypatch.setattr(evaluator, "map_points", small_device(2))
    again = Scorer(subject, scorer.settings, key, 0.22)
    np.testing.assert_allclose(again(MEMORIZED, None)["kappa"], expected, atol=1e-6)
    assert "not enough memory for 8 images at a time: going on with 4" in caplog.text
    assert "going on with 2" in caplog.text and "going on with 1" not in caplog.text


def test_without_room_for_one_image_the_audit_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(evaluator, "map_points", small_device(0))
    subject = as_subject(memorizing_model.factory(), None)
    scorer = Scorer(subject, AuditSettings(evaluations=32), jax.random.key(0), 0.22)
    with pytest.raises(ValueError, match="^evaluations=32: not enough memory for one image at a time"):
        scorer(MEMORIZED[:4], None)
