"""Networks of a run: trained once for what decides them, and found again after a kill at any moment."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import experiments.shared.networks
from experiments.core.cache import Cache, target_modules
from experiments.core.catalogue import CONF
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.core.tracker import Tracker
from experiments.shared.networks import trained
from plap_jax.training import load_diffusion
from tests.helpers.places import HELPERS

SMALL = (
    "train=default",
    "train.n_steps=6",
    "train.batch_size=4",
    "train.warmup_steps=0",
    "train.chunk_steps=2",
    "train.checkpoint_every=2",
    "model.width=4",
    "model.depth=1",
)
DATA = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)


@pytest.fixture
def network(tmp_path, monkeypatch):
    """``network(*overrides)`` as a run with an empty folder has it; ``network.trainings`` says how often it trained."""

    def get(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            search = f"hydra.searchpath=[file://{HELPERS / 'conf'}]"
            config, _ = check(compose("config", [search, "+exp=tiny", *SMALL, *overrides]))
        report, cache = Report(tmp_path / "run", {}), Cache(tmp_path / "cache")
        return trained(config, DATA, name="plane", report=report, cache=cache, tracker=Tracker()).network

    def counted(*args, **kwargs):
        get.trainings += 1
        return train(*args, **kwargs)

    get.trainings, train = 0, experiments.shared.networks.train
    monkeypatch.setattr(experiments.shared.networks, "train", counted)
    return get


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_checkpoint_of_a_run_tells_itself_what_it_is(network, tmp_path):
    first, found = network(), load_diffusion(tmp_path / "run" / "checkpoints" / "plane")
    assert_same(found, first)
    assert found.schedule == first.schedule and found.prediction == first.prediction and found.data_std is not None


def test_what_does_not_decide_the_result_does_not_train_again(network):
    first = network()
    assert_same(network(), first)
    assert_same(network("train.chunk_steps=3", "train.checkpoint_every=null"), first)
    assert network.trainings == 1
    network("train.loop=python")
    network("train.learning_rate=0.1")
    network("seed=1")
    assert network.trainings == 4


def test_changed_code_trains_again(network, tmp_path, monkeypatch):
    source = "from plap_jax.networks import ResidualMLP\n\n\nclass Own(ResidualMLP):\n    pass\n"
    (tmp_path / "own_model.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    own = "model._target_=own_model.Own"
    network(own)
    network(own)
    assert network.trainings == 1
    (tmp_path / "own_model.py").write_text(source + "# changed\n")
    experiments.core.cache._digest.cache_clear()  # as in a process that starts now
    network(own)
    assert network.trainings == 2

    here = tmp_path / "networks.py"
    here.write_bytes(Path(experiments.shared.networks.__file__).read_bytes() + b"# changed\n")
    monkeypatch.setattr(experiments.shared.networks, "__file__", str(here))
    network(own)
    assert network.trainings == 3


def test_modules_of_targets_are_those_of_the_definitions():
    spec = {
        "a": {
            "_target_": "plap_jax.networks.ResidualMLP",
            "inner": [{"_target_": "plap_jax.diffusion.DiscreteVP.linear"}],
        },
        "b": 3,
    }
    names = [module.__name__ for module in target_modules(spec)]
    assert names[0] == "plap_jax.networks.mlp" and names[1].startswith("plap_jax.diffusion") and len(names) == 2


class Killed(BaseException):
    pass


def test_killed_while_it_cleans_up(network, tmp_path, monkeypatch):
    """Deleting goes file by file; whatever is left of it, the next run ends well and leaves nothing of it."""

    def dies_within(path, **_):
        if sorted(Path(path).rglob("step_00000006/sha256")):
            next(Path(path).rglob("step_00000006/sha256")).unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", dies_within)
        with pytest.raises(Killed):
            network()
    network()
    assert network.trainings == 1
    (entry,) = filter(Path.is_dir, (tmp_path / "cache" / "train" / "plane").iterdir())
    assert sorted(path.name for path in entry.iterdir()) == ["entry.json", "losses.npy", "network"]


def test_killed_between_the_results_of_training(network, monkeypatch):
    """Losses without a network: training goes on from its last checkpoint and the result is the same."""

    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(experiments.shared.networks, "save_diffusion", dies)
        with pytest.raises(Killed):
            network()
    resumed = network()
    assert network.trainings == 2
    assert_same(resumed, network())
    assert network.trainings == 2
