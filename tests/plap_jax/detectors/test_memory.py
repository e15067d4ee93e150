"""Memory of the detectors: XLA's figures at d = 16,384, one cap for batches and products."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.detector_memory import DETECTORS, DIM, FLUX, MOST, temp_bytes
from plap_jax import GaussianMixture, detectors, memory
from plap_jax.detectors import Detector, NormalBundle, Query
from plap_jax.diffusion import VPLinear
from tests.helpers.analytic_network import exact_diffusion

KEY, MEAN = jax.random.key(3), np.full((1, 6), 0.5, np.float32)
of_flux = cache(lambda n: temp_bytes(FLUX, n))


def test_every_detector_is_measured():
    exported = {value for value in vars(detectors).values() if isinstance(value, type) and issubclass(value, Detector)}
    assert exported - {Detector, detectors.CopyRatio} == {type(detector) for detector in DETECTORS.values()}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_large_image_takes_at_most_four_times_the_memory_of_the_flux(name):
    for n in (None, 1):
        assert temp_bytes(DETECTORS[name], n) <= MOST * of_flux(n)


def test_the_oracle_holds_part_of_the_training_set_at_a_time():
    # As an argument, 64 MiB; their differences from one image would be as large.
    reference = jnp.zeros((1024, DIM))
    assert temp_bytes(detectors.CopyRatio(reference), 1) <= MOST * of_flux(1)


def test_one_cap():
    assert [memory.evaluations_at_once(d) for d in (1, 64, 256, 1024, DIM, 10**7)] == [4096, 4096, 4096, 1024, 64, 1]
    assert memory.points_at_once(64, 132) == 31 and memory.points_at_once(DIM, 10**6) == 1
    assert memory.products_at_once(724) == 724 and memory.products_at_once(DIM) == 32
    assert memory.products_at_once(DIM, 4) == 8


@pytest.fixture
def bundle():
    wide = GaussianMixture([1.0], MEAN, np.diag([25.0, 25.0, 0, 0, 0, 0])[None])
    return exact_diffusion(wide, VPLinear()), NormalBundle(0.3, n_samples=23)


def test_the_normal_bundle_by_chunks_is_the_rule_on_their_rows(bundle, monkeypatch):
    model, detector = bundle
    images = MEAN + np.linspace(0, 0.5, 3, dtype=np.float32)[:, None]
    monkeypatch.setattr(memory, "NUMBERS", 4 * 6)  # four evaluations at a time: 6 chunks
    assert detector.nfe(6) == 24
    rows = np.stack([detector.rows(i).scores(model, Query(image=images), key=KEY) for i in range(6)], axis=1)
    assert rows.shape == (3, 6, 4, 6) and len(np.unique(rows[0].reshape(24, 6), axis=0)) == 24
    values = np.linalg.svd(rows.reshape(3, 24, 6), compute_uv=False)
    found = detector.scores(model, Query(image=images), key=KEY)
    np.testing.assert_array_equal(found, np.sum(values > 0.25, axis=1) - 6)
    assert found[0] == -2
    one = [detector.statistic(model, Query(image=jnp.asarray(image)), KEY) for image in images]
    np.testing.assert_array_equal(one, found)


def test_the_normal_bundle_refuses_a_matrix_that_is_too_large(bundle):
    model, detector = bundle
    with pytest.raises(ValueError, match=r"^d=1025: must be <= 1024 within one program; use scores$"):
        detector.statistic(model, Query(image=jnp.zeros(1025)), KEY)
    with pytest.raises(ValueError, match=r"^d=16385: must be <= 16384: singular values of d coordinates take a matrix"):
        detector.scores(model, Query(image=np.zeros((1, 16385), np.float32)), key=KEY)
