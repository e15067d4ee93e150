"""All weights in one file, with a folder that holds the configs."""

import numpy as np
import pytest

from plap_jax.pretrained import load_diffusers

pipelines = pytest.importorskip("tests.helpers.tiny_pipelines", reason="needs the extra torch: make test-torch")
single = pytest.importorskip("tests.helpers.single_file")
pytestmark = pytest.mark.torch
torch = pipelines.torch
PARITY = 1e-4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder, the same model as one file, and a folder with the configs alone."""
    folder = tmp_path_factory.mktemp("single")
    torch.manual_seed(0)
    pipe = pipelines.stable_diffusion()
    pipe.save_pretrained(folder / "whole")
    single.save_single(pipe, folder / "model.safetensors")
    single.save_file({k: v.contiguous() for k, v in pipe.unet.state_dict().items()}, folder / "unet.safetensors")
    pipe.save_pretrained(folder / "configs")
    for file in (folder / "configs").rglob("*.safetensors"):
        file.unlink()
    return folder


def answers(model):
    x, images = np.ones((8, 8, 4), np.float32), np.full((1, 16, 16, 3), 0.3, np.float32)
    return model.diffusion.eps(x, 20, 0), model.encode(images), model.decode(x[None])


@pytest.mark.parametrize(("file", "base"), [("model", "configs"), ("unet", "whole")])
def test_as_the_folder(place, file, base):
    told = {"prompts": ["a cat"]}
    model = load_diffusers(place / f"{file}.safetensors", base=place / base, **told)
    for found, expected in zip(answers(model), answers(load_diffusers(place / "whole", **told)), strict=True):
        np.testing.assert_allclose(found, expected, atol=PARITY)
    assert f"{file}.safetensors" in dict(model.sources)


def test_of_another_architecture(place, tmp_path):
    weights = {k: v for k, v in single.load_file(place / "model.safetensors").items() if "input_blocks.1." not in k}
    single.save_file(weights, tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match="^unet: (cannot be loaded|.* weights are missing)") as raised:
        load_diffusers(tmp_path / "short.safetensors", base=place / "configs")
    assert "\n" not in str(raised.value)
