"""Every kind of pipeline, held against one step of diffusers' own, from the same latent."""

import jax
import numpy as np
import pytest

from plap_jax.pretrained import load_diffusers

pipelines = pytest.importorskip("tests.helpers.tiny_pipelines", reason="needs the extra torch: make test-torch")
pytestmark = pytest.mark.torch
torch, diffusers = pipelines.torch, pipelines.diffusers

PARITY = 1e-4  # float32 against float32, of numbers about 1
PROMPT = "a cat"
# Name → how it is made, whether time is t of flow matching, and how its pipeline is asked.
KINDS = {
    "stable_diffusion": (pipelines.stable_diffusion, False, {"guidance_scale": 3.0}),
    "sdxl": (pipelines.sdxl, False, {"guidance_scale": 3.0, "height": 16, "width": 24}),
    "sdxl_empty_prompt": (
        lambda: pipelines.sdxl(force_zeros_for_empty_prompt=False),
        False,
        {"guidance_scale": 3.0},
    ),
    "sd3": (pipelines.sd3, True, {"guidance_scale": 3.0}),
    "sd3_without_t5": (lambda: pipelines.sd3(with_t5=False), True, {"guidance_scale": 3.0, "height": 16, "width": 8}),
    "flux": (pipelines.flux, True, {"guidance_scale": 5.0, "height": 16, "width": 24}),
    "flux_without_guidance": (lambda: pipelines.flux(guidance_embeds=False), True, {"height": 16, "width": 16}),
    "pixart_sigma": (pipelines.pixart, False, {"guidance_scale": 3.0, "use_resolution_binning": False}),
}


def refused(match, call, *args, **kwargs):
    """In one line."""
    with pytest.raises(ValueError, match=match) as raised:
        call(*args, **kwargs)
    assert "\n" not in str(raised.value)


def from_torch(x):
    return np.moveaxis(x.detach().float().numpy(), 1, -1)


def recorded(pipe, *arguments, **how):
    """What the network gave at the second of three steps: (prediction, timestep, latents), after guidance."""
    calls, original = [], pipe.scheduler.step

    def step(output, t, sample, *rest, **more):
        calls.append((output, float(t), sample))
        return original(output, t, sample, *rest, **more)

    pipe.scheduler.step = step
    try:
        pipe.set_progress_bar_config(disable=True)
        made = pipe(*arguments, num_inference_steps=3, generator=torch.Generator().manual_seed(0), **how)
    finally:
        pipe.scheduler.step = original
    return calls[1], made


def ask(model, x, t, condition):
    return np.asarray(jax.jit(lambda network: network(x, t, condition))(model.diffusion.network))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("kinds")


@pytest.mark.parametrize("name", KINDS)
def test_one_step(name, places):
    make, flows, how = KINDS[name]
    torch.manual_seed(0)
    pipe = make()
    pipe.save_pretrained(places / name)
    size = (how.get("height", 16), how.get("width", 16))
    packed = "flux" in name
    told = {"guidance": how["guidance_scale"]} if "guidance_scale" in how and packed else {}
    model = load_diffusers(places / name, prompts=[PROMPT], image_size=size, **told)
    assert model.kind == "latents" and model.shape == (size[0] // 2, size[1] // 2, 4)
    (output, t, latents), made = recorded(pipe, PROMPT, **how, output_type="latent")
    if packed:
        output, latents = (pipe._unpack_latents(x, *size, pipe.vae_scale_factor) for x in (output, latents))
    x, level = from_torch(latents)[0], t / 1000 if flows else int(t)
    given, without = (ask(model, x, level, condition) for condition in (0, -1))
    scale = 1.0 if packed else how["guidance_scale"]
    wanted = from_torch(output)[0][..., :4]
    assert wanted.std() > 0.1 and np.abs(given - without).max() > 100 * PARITY, "the prompt must matter"
    np.testing.assert_allclose(without + scale * (given - without), wanted, atol=PARITY * scale)
    if not packed:
        images = pipe.vae.decode(
            made.images / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0)
        ).sample
        np.testing.assert_allclose(model.decode(from_torch(made.images)), from_torch(images), atol=PARITY)
    assert model.diffusion.prediction == ("flow" if flows else "eps")


def test_a_transformer_of_classes(places):
    """DiT: the first half of the channels, and the row behind the last class for none."""
    torch.manual_seed(0)
    pipe = pipelines.dit()
    pipe.save_pretrained(places / "dit")
    model = load_diffusers(places / "dit")
    assert model.n_conditions == 1000 and model.text is None and model.without == "unconditional"
    (output, t, latents), made = recorded(pipe, [7], guidance_scale=3.0, output_type="pt")
    x = from_torch(latents)[0]
    given, without = ask(model, x, int(t), 7), ask(model, x, int(t), None)
    wanted = from_torch(output)[0]
    assert wanted.shape == (8, 8, 4) and np.abs(given - without).max() > 100 * PARITY
    np.testing.assert_allclose(without + 3 * (given - without), wanted, atol=3 * PARITY)
    assert np.isnan(ask(model, x, int(t), 1000)).all() and np.isnan(ask(model, x, int(t), -2)).all()
    refused(
        r"^image_size=\(32, 32\): must be 16, what this transformer was trained on",
        load_diffusers,
        places / "dit",
        image_size=32,
    )


@pytest.fixture(scope="module")
def folder(places):
    """A ``UNet2DModel`` of three classes, and the module."""
    unet = pipelines.stirred(pipelines.tiny.pixel_unet(num_class_embeds=3), 6)
    pipelines.tiny.save_pixels(places / "classes", unet=unet)
    return places / "classes", unet


class TestClasses:
    def test_every_class(self, folder):
        place, unet = folder
        model, x = load_diffusers(place), np.random.default_rng(0).normal(size=(8, 8, 1)).astype(np.float32)
        assert model.n_conditions == 3 and model.without == "refused"
        with torch.inference_mode():
            expected = [
                unet(torch.from_numpy(x[None, ..., 0])[None], 20, class_labels=torch.tensor([k])).sample
                for k in range(3)
            ]
        found = jax.jit(jax.vmap(lambda k: model.diffusion.network(x, 20, k)))(np.arange(4))
        np.testing.assert_allclose(found[:3], [from_torch(one)[0] for one in expected], atol=PARITY)
        assert np.abs(found[0] - found[1]).max() > 100 * PARITY and np.isnan(found[3]).all()
        refused("^condition=None: must be a class, 0 to 2: this network knows no image", model.diffusion.eps, x, 20)
        refused("^prompts=.*must be empty: this model has no prompts", load_diffusers, place, prompts=["a"])

    def test_a_class_for_none(self, folder):
        model, plain = load_diffusers(folder[0], null_class=2), load_diffusers(folder[0])
        x = np.zeros((8, 8, 1), np.float32)
        assert model.n_conditions == 2 and model.without == "unconditional"
        np.testing.assert_array_equal(ask(model, x, 20, None), ask(plain, x, 20, 2))
        assert load_diffusers(folder[0], null_class=0).n_conditions == 3
        refused("^null_class=3: must be a class of the network, 0 to 2$", load_diffusers, folder[0], null_class=3)

    def test_none_to_tell(self, places):
        pipelines.tiny.save_pixels(places / "plain")
        refused(
            "^null_class=0: must be null: this network is not told a class$",
            load_diffusers,
            places / "plain",
            null_class=0,
        )
        refused(
            "^guidance=2.0: must be null: this network is not told a guid",
            load_diffusers,
            places / "plain",
            guidance=2.0,
        )


def test_a_pixart_that_is_told_the_size(places):
    """PixArt-α of 1,024 pixels: height, width and their ratio."""
    torch.manual_seed(0)
    pipe = pipelines.pixart(
        diffusers.PixArtAlphaPipeline, use_additional_conditions=True, num_attention_heads=3, cross_attention_dim=24
    )
    pipe.save_pretrained(places / "alpha")
    x, size = np.zeros((8, 12, 4), np.float32), (16, 24)
    model = load_diffusers(places / "alpha", prompts=[PROMPT], image_size=size)
    text, mask, _, _ = pipe.encode_prompt([PROMPT], False, max_sequence_length=120)
    told = {"resolution": torch.tensor([[16.0, 24.0]]), "aspect_ratio": torch.tensor([[16 / 24]])}
    with torch.inference_mode():
        wanted = pipe.transformer(
            torch.zeros(1, 4, 8, 12),
            text,
            timestep=torch.tensor([20]),
            encoder_attention_mask=mask,
            added_cond_kwargs=told,
        ).sample
    np.testing.assert_allclose(ask(model, x, 20, 0), from_torch(wanted)[0][..., :4], atol=PARITY)
    assert len(model.diffusion.network.embeddings[0][0]) == 120
