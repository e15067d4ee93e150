"""Checkpoints tell themselves what they hold, and nothing else is ever made from what they tell."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from plap_jax import load_checkpoint
from plap_jax.checkpoints import CheckpointError, read_about, save_tree
from plap_jax.diffusion import EDM, VE, Diffusion, DiscreteVP, RectifiedFlow, VPCosine, VPLinear
from plap_jax.networks import ResidualMLP, UNet
from plap_jax.training import load_diffusion, save_diffusion
from plap_jax.training.constructors import constructors_of
from plap_jax.training.finished import describe_static

SHAPE = (4, 4, 1)


def mlp(shape=SHAPE, **how):
    return ResidualMLP(shape, width=8, depth=1, embed_dim=8, rngs=nnx.Rngs(1), **how)


def unet():
    sizes = {"width": 4, "multipliers": [1, 2], "attention": [0, -1], "groups": 2, "patch": 2, "embed_dim": 8}
    return UNet((8, 8, 3), **sizes, n_conditions=np.int64(3), dtype="bfloat16", rngs=nnx.Rngs(1))


@pytest.mark.parametrize(
    ("network", "schedule", "how"),
    [
        (mlp(), VPLinear(0.1, 19.0), {"prediction": "x0", "data_std": 0.7, "conditioning": "log_snr"}),
        (mlp(n_conditions=5), DiscreteVP.linear(20), {"prediction": "v"}),
        (unet(), VPCosine(0.01), {"data_std": np.float32(0.5), "conditioning": "log_snr"}),
        (mlp(), VE(0.02, 30.0), {}),
        (mlp(), EDM(p_mean=-1.0), {"prediction": "score"}),
        (mlp(), EDM(), {"prediction": "edm", "data_std": 0.5, "conditioning": "edm"}),
        (mlp(), RectifiedFlow(1e-4, training_times="logit_normal"), {"prediction": "flow"}),
    ],
)
def test_a_checkpoint_alone_is_enough(tmp_path, network, schedule, how):
    saved = Diffusion(network, schedule, **how)
    save_diffusion(tmp_path / "checkpoints" / "a", saved)
    for path in (tmp_path, str(tmp_path / "checkpoints" / "a")):
        found = load_checkpoint(path)
        assert jax.tree.structure(found.diffusion) == jax.tree.structure(saved)  # schedule and prediction, too
        jax.tree.map(np.testing.assert_array_equal, found.diffusion, saved)
        assert found.shape == found.image_shape == network.shape and found.kind == "pixels"
        assert found.n_conditions == network.arguments["n_conditions"]
        told = f"Pretrained({type(network).__name__} for images {network.shape}, {schedule.name}, predicts "
        assert repr(found) == f"{told}{saved.prediction})", "and not the weights"
    jax.tree.map(np.testing.assert_array_equal, load_diffusion(tmp_path / "checkpoints" / "a", saved), saved)


def test_older_checkpoints_are_read_by_likeness_alone(tmp_path):
    made = Diffusion(mlp(), VPLinear())
    save_tree(tmp_path / "old", made, describe_static(made))
    jax.tree.map(np.testing.assert_array_equal, load_diffusion(tmp_path / "old", made), made)
    with pytest.raises(CheckpointError, match="does not tell how its network is made, older ones did not$"):
        load_checkpoint(tmp_path / "old")


def test_a_network_of_ones_own_is_saved_without_such_notes(tmp_path):
    made = Diffusion(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), VPLinear())
    save_diffusion(tmp_path / "own", made)
    assert "constructors" not in read_about(tmp_path / "own")["notes"]
    jax.tree.map(np.testing.assert_array_equal, load_diffusion(tmp_path / "own", made), made)


@pytest.mark.parametrize(
    ("kind", "change", "line"),
    [
        ("network", {"class": "os.system"}, "network is os.system there, must be DiT or ResidualMLP or UNet"),
        ("network", {"class": "Sequential"}, "network is Sequential there, must be"),
        (
            "schedule",
            {"class": "Schedule"},
            "schedule is Schedule there, must be DiscreteVP or EDM or RectifiedFlow or VE",
        ),
        ("network", {"arguments": {"shape": [4, 4, 1], "command": "ls"}}, "its notes make no network: "),
        ("network", {"arguments": {"shape": [4, 4, 1], "width": 0}}, "its notes make no network: width=0: must be"),
        ("network", {"arguments": {"shape": [4, 4, 1], "width": 16}}, "is expected"),
        ("network", {"arguments": {"shape": [4, 4, 1], "width": 10**9}}, "float32(1000000000,) is expected"),
        ("network", {"arguments": {"shape": [4, 4, 1], "width": 10**30}}, "is expected"),
        ("network", {"arguments": {"shape": [float("inf")]}}, "its notes make no network: "),
        ("network", {"class": "UNet", "arguments": {"shape": [8, 8, 3], "multipliers": []}}, "its notes make no"),
        ("network", {"class": "UNet", "arguments": {"shape": [8, 8, 3], "groups": 0}}, "its notes make no network: "),
        ("schedule", {"arguments": {"beta_min": {}}}, "its notes make no network: "),
        ("schedule", {"arguments": {"beta_min": 10**400}}, "its notes make no network: "),
        ("schedule", {"class": "DiscreteVP", "arguments": {"betas": 5}}, "its notes make no network: "),
        ("schedule", {"arguments": {"beta_min": -1}}, "its notes make no network: beta_min=-1: must be > 0"),
        ("schedule", {"arguments": {"beta_min": 0.2}}, "schedule is VPLinear(beta_min=0.1"),
        ("schedule", {"class": ["VE"]}, "its notes make no network: "),
    ],
)
def test_nothing_else_is_made_of_a_checkpoint(tmp_path, kind, change, line):
    made = Diffusion(mlp(), VPLinear())
    notes = describe_static(made) | {"constructors": constructors_of(made)}
    notes["constructors"][kind].update(change)
    save_tree(tmp_path / "a", made, notes)
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(tmp_path / "a")
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_no_checkpoint_of_images_is_one_line(tmp_path):
    save_diffusion(tmp_path / "checkpoints" / "plane", Diffusion(mlp((2,)), VPLinear()))
    with pytest.raises(ValueError, match=r"must be a network of images \(h, w, c\), and is one of \(2,\)$"):
        load_checkpoint(tmp_path)
    save_diffusion(tmp_path / "checkpoints" / "a", Diffusion(mlp(), VPLinear()))
    with pytest.raises(ValueError, match=r"holds the checkpoints a, plane: name one as .*/checkpoints/NAME$"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such directory"):
        load_checkpoint(tmp_path / "nothing")
    about = tmp_path / "checkpoints" / "a" / "about.json"
    changed = json.loads(about.read_text())
    changed["notes"]["constructors"]["network"]["class"] = "UNet"
    about.write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="damaged, the checksum of 'about.json' does not match"):
        load_checkpoint(tmp_path / "checkpoints" / "a")
