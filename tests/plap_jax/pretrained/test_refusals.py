"""Folders whose weights are broken or do not fit, and arguments that do: one line each."""

import json
import shutil

import numpy as np
import pytest

from plap_jax.pretrained import load_diffusers

tiny = pytest.importorskip("tests.helpers.tiny_diffusers", reason="needs PyTorch: make test-torch")
pytestmark = pytest.mark.torch
torch, diffusers = tiny.torch, tiny.diffusers
safetensors = pytest.importorskip("safetensors.torch")

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    tiny.save_pixels(folder / "pixels")
    tiny.save_latents(folder / "latents")
    return folder


@pytest.fixture
def pixels(originals, tmp_path):
    return shutil.copytree(originals / "pixels", tmp_path / "pixels")


@pytest.fixture
def latents(originals, tmp_path):
    return shutil.copytree(originals / "latents", tmp_path / "latents")


def refused(match, call, *args, **kwargs):
    """In one line."""
    with pytest.raises(ValueError, match=match) as raised:
        call(*args, **kwargs)
    assert "\n" not in str(raised.value)


def change_weights(path, change):
    weights = safetensors.load_file(path)
    change(weights)
    safetensors.save_file(weights, path, metadata={"format": "pt"})


def change_config(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestWeights:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, pixels, value):
        change_weights(pixels / "unet" / WEIGHTS, lambda weights: weights["conv_in.bias"].fill_(value))
        refused("^unet: weight conv_in.bias holds NaN or infinity in float32$", load_diffusers, pixels)

    def test_beyond_half_precision(self, pixels):
        change_weights(pixels / "unet" / WEIGHTS, lambda weights: weights["conv_in.bias"].fill_(1e6))
        load_diffusers(pixels)
        refused("^unet: weight conv_in.bias holds NaN or infinity in float16$", load_diffusers, pixels, dtype="float16")

    @pytest.mark.parametrize(
        ("piece", "file", "name"),
        [
            ("unet", WEIGHTS, "conv_in.weight"),
            ("vae", WEIGHTS, "quant_conv.weight"),
            ("text_encoder", "model.safetensors", "final_layer_norm.weight"),
        ],
    )
    def test_missing(self, latents, piece, file, name):
        """The loaders would fill the gap with random numbers."""
        change_weights(latents / piece / file, lambda weights: weights.pop(name))
        refused(f"^{piece}: 1 weights are missing or of another shape, first {name}$", load_diffusers, latents)

    def test_another_shape(self, pixels):
        change_config(pixels / "unet/config.json", block_out_channels=[8, 32])
        refused("^unet: cannot be loaded: .*shape", load_diffusers, pixels)

    def test_cut_short(self, pixels):
        path = pixels / "unet" / WEIGHTS
        path.write_bytes(path.read_bytes()[:-100])
        refused("^unet: cannot be loaded: ", load_diffusers, pixels)

    def test_a_config_that_makes_no_module(self, pixels):
        change_config(pixels / "unet/config.json", down_block_types=["NoBlock", "DownBlock2D"])
        refused("^unet: cannot be loaded: .*NoBlock", load_diffusers, pixels)

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
    def test_a_wrapper_left_its_name(self, latents, prefix):
        x = np.ones((8, 8, 4), np.float32)
        plain = load_diffusers(latents, prompts=["a"]).diffusion.eps(x, 20, 0)  # before its files change
        for path in (latents / "unet" / WEIGHTS, latents / "text_encoder/model.safetensors"):
            change_weights(path, lambda w: [w.update({prefix + key: w.pop(key)}) for key in list(w)])
        found = load_diffusers(latents, prompts=["a"]).diffusion.eps(x, 20, 0)
        np.testing.assert_array_equal(found, plain)

    @pytest.mark.parametrize("inside", [True, False])
    def test_a_text_encoder_by_older_names(self, latents, inside):
        """Within ``text_model``, as transformers named it for years, or without."""
        plain = load_diffusers(latents, prompts=["a"]).diffusion.network.embeddings[0]

        def rename(weights):
            for key in list(weights):
                short = key.removeprefix("text_model.")
                weights[f"text_model.{short}" if inside else short] = weights.pop(key)

        change_weights(latents / "text_encoder/model.safetensors", rename)
        found = load_diffusers(latents, prompts=["a"]).diffusion.network.embeddings[0]
        np.testing.assert_array_equal(found, plain)

    def test_of_eight_bits(self, pixels):
        def change(weights):
            weights["conv_in.bias"] = weights["conv_in.bias"].to(torch.float8_e4m3fn)

        change_weights(pixels / "unet" / WEIGHTS, change)
        refused("^unet: weight conv_in.bias is F8_E4M3, which is not supported", load_diffusers, pixels)

    def test_a_tokenizer_that_is_none(self, latents):
        (latents / "tokenizer/tokenizer.json").write_text("{}")
        refused("^tokenizer: cannot be loaded: ", load_diffusers, latents)


class TestWhatIsNotSupported:
    def test_classes_that_are_no_numbers(self, tmp_path):
        tiny.save_pixels(tmp_path, unet=tiny.pixel_unet(class_embed_type="timestep"))
        refused("^unet: class_embed_type='timestep': must be null", load_diffusers, tmp_path)

    def test_channels_of_pixels(self, tmp_path):
        tiny.save_pixels(tmp_path, unet=tiny.pixel_unet(in_channels=2))
        refused("^unet: out_channels=1: must be 2$", load_diffusers, tmp_path)

    def test_channels_of_latents(self, tmp_path):
        tiny.save_latents(tmp_path, unet=tiny.latent_unet(in_channels=9))
        refused("^unet: in_channels=9: must be 4, the channels of the latents$", load_diffusers, tmp_path)

    def test_width_of_the_text(self, tmp_path):
        tiny.save_latents(tmp_path, unet=tiny.latent_unet(cross_attention_dim=24))
        refused("^unet: cross_attention_dim=24: must be 16, the width of the text", load_diffusers, tmp_path)

    def test_latents_with_statistics_of_their_own(self, tmp_path):
        tiny.save_latents(tmp_path, vae=tiny.vae(latents_mean=[0.1] * 4))
        refused(r"^vae: latents_mean=\[0.1, .*must be null", load_diffusers, tmp_path)

    def test_sizes_without_a_pipeline_that_tells_them(self, tmp_path):
        tiny.save_latents(tmp_path, unet=tiny.latent_unet(addition_embed_type="text"))
        refused("^unet: addition_embed_type='text': must be null", load_diffusers, tmp_path)

    def test_flow_matching_of_another_network(self, latents):
        scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
        (latents / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
        refused("^scheduler_config.json: _class_name='FlowMatch.*: must not be of flow", load_diffusers, latents)

    def test_guidance_as_an_input(self, tmp_path):
        tiny.save_latents(tmp_path, unet=tiny.latent_unet(time_cond_proj_dim=8))
        refused("^unet: time_cond_proj_dim=8: must be null", load_diffusers, tmp_path)


class TestArguments:
    def test_no_size_in_the_folder(self, tmp_path):
        tiny.save_pixels(tmp_path, unet=tiny.pixel_unet(sample_size=None))
        refused("^image_size=None: must be given: the folder names no size", load_diffusers, tmp_path)
        assert load_diffusers(tmp_path, image_size=(16, 8)).shape == (16, 8, 1)

    @pytest.mark.parametrize("size", [0, 7, (16,), (16, 7), 16.0, "16"])
    def test_sizes_that_cannot_be_halved(self, pixels, size):
        refused(
            r"^image_size=.*must be height and width, both multiples of 2$", load_diffusers, pixels, image_size=size
        )

    def test_size_of_images_and_of_latents(self, latents):
        model = load_diffusers(latents, image_size=32)
        assert model.image_shape == (32, 32, 3) and model.shape == (16, 16, 4)
        refused("both multiples of 4$", load_diffusers, latents, image_size=18)

    def test_prompts(self, latents):
        refused("^n_prompts=1: must be at least 2, ", load_diffusers, latents, prompts=["a", "b"], n_prompts=1)
        model = load_diffusers(latents)
        refused("^size=0: must be at least 1, the number of prompts$", model.with_prompts, ["a"], size=0)
        refused("^prompts='a cat': must be a sequence of texts$", model.with_prompts, "a cat")
        refused("^prompts=.*must be a sequence of texts$", model.with_prompts, [1])

    def test_prompts_of_a_model_without(self, pixels):
        model = load_diffusers(pixels)
        refused("^prompts=.*: must be empty: this model has no prompts$", model.with_prompts, ["a"])
        refused(
            "^condition=0: must be None: this model has no prompts$", model.diffusion.eps, np.zeros((8, 8, 1)), 5, 0
        )

    def test_shapes(self, pixels, latents):
        model = load_diffusers(latents)
        refused(r"^images=\(1, 8, 8, 3\): must have shape \(n, 16, 16, 3\)", model.encode, np.zeros((1, 8, 8, 3)))
        refused(r"^images=\(16, 16, 3\): must have shape", model.encode, np.zeros((16, 16, 3)))
        refused(r"^latents=\(0, 8, 8, 4\): .* n >= 1$", model.decode, np.zeros((0, 8, 8, 4)))
        refused(
            r"^images=\(1, 8, 8, 3\): must have shape \(n, 8, 8, 1\)",
            load_diffusers(pixels).encode,
            np.zeros((1, 8, 8, 3)),
        )
