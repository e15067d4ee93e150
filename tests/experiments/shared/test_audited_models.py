"""The models that an audit of the experiments is told: each is used, or refused in one line."""

import numpy as np
import pytest
from flax import nnx

from experiments.core.catalogue import CONF
from experiments.core.files import write_json, write_text
from experiments.core.schema import Target
from experiments.shared.audited_models import checkpoint, diffusers, load
from plap_jax.checkpoints import CheckpointError, save_tree
from plap_jax.diffusion import Diffusion, VPCosine
from plap_jax.networks import ResidualMLP
from plap_jax.training import save_diffusion
from plap_jax.training.finished import describe_static


def target_of(name, **arguments):
    return Target({"_target_": f"experiments.shared.audited_models.{name}", "_partial_": True, **arguments})


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("no_such_module:factory", "cannot be imported (No module named 'no_such_module')"),
        ("tests.helpers.memorizing_model:nothing", "cannot be imported ("),
        ("tests.helpers.memorizing_model", "must be package.module:factory"),
        ("tests.helpers.memorizing_model:SHAPE", "must be package.module:factory"),
        ("tests.helpers.memorizing_model:no_model", "must return a UserModel"),
        ("tests.helpers.memorizing_model:wrong_shape", "must return the shape of its input"),
        ("tests.helpers.memorizing_model:not_traceable", "must be a function of (x, t, condition) that JAX can trace"),
        ("tests.helpers.memorizing_model:of_batches", "that JAX can trace, x one image (4, 4, 1): "),
        (None, "model.target=None: must be package.module:factory"),
    ],
)
def test_a_function_that_is_no_model_is_one_line(target, line):
    with pytest.raises(ValueError) as refused:
        load("model", target_of("user_function", target=target))
    assert str(refused.value).startswith("model") and line in str(refused.value) and "\n" not in str(refused.value)


def test_without_the_extra_a_diffusers_folder_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="^model.folder=None: must be a folder of diffusers"):
        diffusers(None)
    with pytest.raises(ValueError) as refused:
        load("model", target_of("diffusers", folder=str(tmp_path)))
    assert str(refused.value).startswith("model: folder=") and "\n" not in str(refused.value)
    with pytest.raises(
        ValueError, match="^model='plap_jax.networks.mlp.ResidualMLP': must be checkpoint, callable, torch or"
    ):
        load("model", Target({"_target_": "plap_jax.networks.mlp.ResidualMLP", "_partial_": True}))


def save_older(place, made):
    """As they were before they told how their network is made."""
    save_tree(place, made, describe_static(made))


@pytest.fixture(params=[save_diffusion, save_older])
def run_directory(request, tmp_path):
    """What a run leaves of a network that knows three captions."""
    model = "{_target_: plap_jax.networks.mlp.ResidualMLP, _partial_: true, width: '${width}', depth: 1, embed_dim: 8}"
    diffusion = "{_target_: plap_jax.diffusion.VPCosine, s: 0.01}"
    config = f"name: some\nwidth: 16\nprediction: x0\nmodel: {model}\ndiffusion: {diffusion}\n"
    write_text(tmp_path / ".hydra" / "config.yaml", config)
    network = ResidualMLP((4, 4, 1), width=16, depth=1, embed_dim=8, n_conditions=3, rngs=nnx.Rngs(1))
    made = Diffusion(network, VPCosine(0.01), "x0", 0.7, "log_snr")
    request.param(tmp_path / "checkpoints" / "a_b", made)
    write_json(tmp_path / "manifest.json", {"data_shapes": {"train/a/b": [[50, 4, 4, 1], [50]]}})
    return tmp_path, made


def test_a_checkpoint_is_read_with_what_its_run_says(run_directory):
    directory, made = run_directory
    for path in (directory, directory / "checkpoints" / "a_b"):
        found = checkpoint(str(path))
        assert found.model.n_conditions == 3 and found.takes_prompts and not found.takes_text
        assert found.model.shape == found.model.image_shape == (4, 4, 1)
        model = found.model.diffusion
        assert model.schedule == VPCosine(0.01) and model.prediction == "x0" and float(model.data_std) == 0.7
        x = np.random.default_rng(0).normal(size=(4, 4, 1)).astype(np.float32)
        assert np.array_equal(model.score(x, 0.3, 2), made.score(x, 0.3, 2))
    assert "checkpoint a_b of some, ResidualMLP" in found.words


@pytest.mark.parametrize("run_directory", [save_older], indirect=True)
def test_an_older_checkpoint_that_cannot_be_read_is_one_line(run_directory):
    directory, made = run_directory
    place = directory / "checkpoints" / "a_b"
    lines = []

    def refused(path):
        with pytest.raises((ValueError, CheckpointError)) as found:
            checkpoint(path)
        assert "\n" not in str(found.value)
        lines.append(str(found.value))

    refused(None)
    refused(str(directory / "nothing"))
    write_json(directory / "manifest.json", {})
    refused(str(place))
    assert checkpoint(str(place), [4, 4, 1]).model.n_conditions == 3
    write_json(directory / "manifest.json", {"data_shapes": {"train/a/b": [[50, 16]]}})
    refused(str(place))
    save_diffusion(directory / "checkpoints" / "other", made)
    refused(str(directory))
    victim = next(path for path in (place / "arrays").rglob("*") if path.is_file() and path.stat().st_size > 64)
    content = bytearray(victim.read_bytes())
    content[40] ^= 1
    victim.write_bytes(content)
    refused(str(place))
    expected = [
        "must be RUN_DIR",
        "no such directory",
        "tells the shape",
        "one of points",
        "a_b, other",
    ]
    assert all(text in line for text, line in zip(expected, lines, strict=False))
    assert "damaged" in lines[-1]


def test_the_config_files_of_models_name_what_is_there():
    for name in ("checkpoint", "callable", "torch", "diffusers"):
        assert "experiments.shared.audited_models." in (CONF / "model" / f"{name}.yaml").read_text()
