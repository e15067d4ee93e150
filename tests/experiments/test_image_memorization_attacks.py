"""Membership attacks on images that stand in the training set once, against held-out ones."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from sklearn.metrics import roc_auc_score

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.image_memorization import attacks
from experiments.image_memorization.study import Study
from experiments.shared.networks import MAIN, Trained
from plap_jax.data import Planted
from plap_jax.data.planting import alternate
from plap_jax.diffusion import VPLinear
from plap_jax.mixtures import GaussianMixture
from tests.helpers.analytic_network import exact_diffusion

WORDS = ("+exp=image_memorization", "scale=smoke")
SHAPE = (2, 2, 1)


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", [*WORDS, *overrides]))[0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Attacks on the exact score of a mixture with one narrow component at every training image."""
    rng = np.random.default_rng(0)
    copies = np.repeat([8, 1, 0], [4, 20, 30])
    points = rng.uniform(-1, 1, (len(copies), *SHAPE)).astype(np.float32)
    seen = points[copies > 0]
    mixture = GaussianMixture(np.ones(len(seen)) / len(seen), seen, np.full(len(seen), 0.02), "spherical")
    network = exact_diffusion(mixture, VPLinear(), "eps")
    directory = tmp_path_factory.mktemp("attacks")
    study = Study(Planted(points, copies, alternate(copies)), {MAIN: Trained(network, directory)}, 8, (1, 8), 1)
    config, report = composed("noise_levels=[0.9,0.1]"), Report(directory, {"name": "x"})
    attacks.run(config, study, report=report, cache=Cache(directory / "cache"))
    with np.load(directory / "arrays" / "attacks.npz") as stored:
        return config, study, report.metrics, dict(stored)


def test_what_was_memorized_is_a_member_for_every_attack(ran):
    config, _, found, _ = ran
    assert set(config.attacks) == {"denoising_loss", "secmi", "pia", "sima"}
    for name in config.attacks:
        assert found[f"attacks/{name}/auc"]["value"] > 0.9, name


def test_the_level_is_chosen_on_one_half_and_measured_on_the_other(ran):
    config, study, found, stored = ran
    images = study.images
    expected = [*np.flatnonzero(images.copies == 1), *np.flatnonzero(images.copies == 0)[:20]]
    np.testing.assert_array_equal(stored["image"], expected)
    single, validation = stored["single"], stored["validation"]
    for name, method in config.attacks.items():
        of_half = [
            [roc_auc_score(single[half], values[half]) for values in stored[name]] for half in (validation, ~validation)
        ]
        best = int(np.argmax(of_half[0]))
        assert found[f"attacks/{name}/sigma"] == method.grid["sigma"][best]
        assert found[f"attacks/{name}/validation_auc"] == pytest.approx(max(of_half[0]))
        assert found[f"attacks/{name}/auc"]["value"] == pytest.approx(of_half[1][best])
    costs = {name: found[f"attacks/{name}/evaluations"] for name in config.attacks}
    assert costs == {"denoising_loss": 16, "secmi": 12, "pia": 2, "sima": 1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attacks.pia.grid.sigma=[9.0]", "attacks.pia.grid="),
        ("detector@attacks=[copy_ratio]", "attacks.copy_ratio='CopyRatio': must look at the image alone"),
    ],
)
def test_attacks_that_cannot_run_are_refused_before_training(override, message):
    with pytest.raises(UserError) as caught:
        composed(override)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
