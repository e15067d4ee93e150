"""A U-Net trained in PyTorch on digits with planted copies, saved, and audited through JAX."""

import numpy as np
import pytest

from plap_jax.pretrained import load_diffusers

digits = pytest.importorskip("benchmarks.pytorch.train_diffusers_digits", reason="needs PyTorch: make test-torch")
pytestmark = pytest.mark.torch

SETTINGS = digits.DigitsTraining(
    channels=(16, 32), n_steps=400, batch_size=64, learning_rate=4e-3, n_single=100, n_heldout=150
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(planted digits, the network in PyTorch, the same through JAX)."""
    threads = digits.torch.get_num_threads()
    digits.torch.set_num_threads(1)  # with more, small layers wait for each other when the machine is busy
    folder = tmp_path_factory.mktemp("digits")
    planted = digits.planted_digits(SETTINGS)
    network = digits.trained(planted, SETTINGS)
    digits.save(network, folder)
    yield planted, network, load_diffusers(folder)
    digits.torch.set_num_threads(threads)


def test_planted_training_images_are_found(trained):
    planted, _, model = trained
    assert planted.is_planted.sum() == 30 and planted.is_heldout.sum() == 150
    assert digits.found(model, planted, SETTINGS)["auc_planted"] >= 0.95


def test_kappa_is_that_of_pytorch(trained):
    planted, network, model = trained
    points = np.concatenate([planted.points[:2], planted.points[-2:]])
    agreement = digits.agreement(model, network, points, SETTINGS)
    assert agreement.largest_difference_same_directions <= 1e-4
    assert agreement.largest_standard_errors_fresh_directions <= 3
