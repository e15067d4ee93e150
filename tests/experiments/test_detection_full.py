"""The benchmark at scale=full: data of that size, shapes, and one step; nothing that takes an accelerator."""

import datasets
import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.core.tracker import Tracker
from experiments.shared.captions import prepare
from experiments.shared.networks import untrained
from plap_jax.data import caption, plant
from plap_jax.training.steps import Task, initial_state, one_step
from tests.helpers.fashion import needs_fashion_mnist

pytestmark = pytest.mark.slow
ONE_STEP = ("train.n_steps=1", "train.warmup_steps=0", "train.batch_size=2", "train.checkpoint_every=1")


def composed(exp, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", [f"+exp={exp}", "scale=full", *overrides]))[0]


def traced(config, points, conditions):
    """The shapes of one step of the full network on a full batch."""
    train_config = config.train.make()
    network = untrained(config, points, name="captioned", conditions=conditions)
    state = initial_state(network, train_config)
    task = Task(network, jax.numpy.asarray(points[:4]), jax.numpy.asarray(conditions[:4]), jax.random.key(0))
    batch = np.zeros(train_config.batch_size, np.int32)
    after, loss = jax.eval_shape(lambda s: one_step(s, task, train_config.recipe, 0, batch), state)
    assert loss.shape == () and after.weights.shape == state.weights.shape
    return state.weights.size


@needs_fashion_mnist
@pytest.mark.parametrize("exp", ["detection_benchmark_fashion", "detection_benchmark_fashion_dit"])
def test_sixty_thousand_clothes_are_trained_on(exp):
    config = composed(exp)
    data, part = config.data.make(seed=0), config.planting
    n_single = part.n_unique_single + part.n_grouped + part.n_class
    images = plant(data.train, doses=part.doses, n_single=n_single, heldout=data.heldout)
    assert (images.copies > 0).sum() == 60_000 and images.is_heldout.sum() == 9_000
    labels = np.concatenate([data.train_labels, data.heldout_labels])
    how = {"n_unique": part.n_unique_single, "n_grouped": part.n_grouped, "group_size": part.group_size}
    captions = caption(images, classes=labels, **how)
    conditions = captions.of_training(images)
    assert len(conditions) == images.train.shape[0] == sum(k * n for k, n in part.doses.items()) + n_single
    assert traced(config, images.points, conditions) > 2e6


@needs_fashion_mnist
def test_one_step_of_the_full_network_on_clothes(tmp_path):
    few = "scales.full={pool: 60, images: [4, 4, 4, 4, 4, 12], grouped: 16, class: 12, heldout: 20}"
    one_step_of("detection_benchmark_fashion", tmp_path, (28, 28, 1), few)


def test_one_step_on_cifar10_through_the_hub(tmp_path, monkeypatch):
    """A data set of its format in the place of the download; a narrow network, the full one is traced."""
    rng = np.random.default_rng(0)
    columns = {
        "img": [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(90)],
        "label": [i % 10 for i in range(90)],
    }
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(num_classes=10))
    rows, asked = datasets.Dataset.from_dict(columns, features=features), []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append(args) or rows)
    few = "scales.full={width: 8, pool: 60, images: [4, 4, 4, 4, 4, 12], grouped: 16, class: 12, heldout: 20}"
    one_step_of("detection_benchmark_cifar10", tmp_path, (32, 32, 3), few)
    assert asked[0][0] == "uoft-cs/cifar10"
    points = rng.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    assert traced(composed("detection_benchmark_cifar10"), points, np.arange(4)) > 4e6


def one_step_of(exp, tmp_path, shape, *overrides):
    """Both networks after one step, with the captions that they were told."""
    config = composed(exp, *overrides, *ONE_STEP)
    how = {"report": Report(tmp_path / "run", {}), "cache": Cache(tmp_path / "cache"), "tracker": Tracker()}
    study = prepare(config, with_control=True, **how)
    for trained in (study.network, study.baseline):
        network = trained.network
        found = network.output(np.zeros(shape, np.float32), network.schedule.time_at(0.5), 0)
        assert found.shape == shape and np.isfinite(found).all()
