"""LoRAs on diffusers folders, as diffusers, kohya's scripts and peft save them."""

import json

import jax
import numpy as np
import pytest

from plap_jax.pretrained import load_diffusers

pipelines = pytest.importorskip("tests.helpers.tiny_pipelines", reason="needs the extra torch: make test-torch")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")]
torch, diffusers, tiny = pipelines.torch, pipelines.diffusers, pipelines.tiny

PARITY = 1e-4
FILE = "pytorch_lora_weights.safetensors"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def refused(match, call, *args, **kwargs):
    """In one line."""
    with pytest.raises(ValueError, match=match) as raised:
        call(*args, **kwargs)
    assert "\n" not in str(raised.value)


def adapted(network, seed, *, rank=2, alpha=4, targets=TARGETS):
    """A LoRA with random weights, added to a network in place; alpha is another number than the rank."""
    network.add_adapter(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), adapter_name=f"a{seed}")
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if "lora" in name and f".a{seed}." in name:
            weight.data = 0.2 * torch.randn(weight.shape, generator=generator)
    return network


def saved(network, seed, place):
    """By diffusers, with alpha in the file's metadata."""
    weights = peft.utils.get_peft_model_state_dict(network, adapter_name=f"a{seed}")
    metadata = {"unet_lora_adapter_metadata": network.peft_config[f"a{seed}"].to_dict()}
    diffusers.StableDiffusionPipeline.save_lora_weights(place, unet_lora_layers=weights, **metadata)
    return weights


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a base, LoRAs of its U-Net, and the U-Net with both in PyTorch."""
    base = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    pipe = pipelines.stable_diffusion()
    pipe.save_pretrained(base / "base")
    unet = adapted(adapted(pipe.unet, 1), 2)
    saved(unet, 2, base / "two")
    weights = saved(unet, 1, base / "one")
    kohya = {}
    for name, weight in weights.items():
        module, _, end = name.partition(".lora_")
        stem = "lora_unet_" + module.replace(".", "_")
        kohya[f"{stem}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = weight.contiguous()
        kohya[f"{stem}.alpha"] = torch.tensor(4.0)
    safetensors.save_file(kohya, base / "kohya.safetensors")
    return base, pipe


X = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)


def ask(model):
    return np.asarray(jax.jit(lambda network: network(X, 20, 0))(model.diffusion.network))


def expected(pipe, **scales):
    """By diffusers, what it adds not merged into the weights."""
    pipe.unet.set_adapters(list(scales) or ["a1"], list(scales.values()) or [0.0])
    text, _ = pipe.encode_prompt(["a cat"], "cpu", 1, False)
    with torch.inference_mode():
        x = torch.from_numpy(np.moveaxis(X, -1, 0)[None].copy())
        return np.moveaxis(pipe.unet(x, 20, encoder_hidden_states=text).sample[0].numpy(), 0, -1)


def load(base, **how):
    return load_diffusers(base / "base", prompts=["a cat"], **how)


def test_names_of_diffusers_and_of_kohya(made):
    base, pipe = made
    plain, wanted = expected(pipe), expected(pipe, a1=1.0)
    assert np.abs(wanted - plain).max() > 100 * PARITY
    model = load(base, lora=base / "one")
    np.testing.assert_allclose(ask(model), wanted, atol=PARITY)
    np.testing.assert_allclose(ask(load(base, lora=base / "kohya.safetensors")), wanted, atol=PARITY)
    np.testing.assert_allclose(ask(model.base().with_prompts(["a cat"])), plain, atol=PARITY)
    assert model.base().base is None and FILE in dict(model.sources) and FILE not in dict(model.base().sources)
    assert model.notes == (f"with the LoRA {FILE}, scale 1",)


def test_scale_and_several(made):
    base, pipe = made
    both = f"{base}/one/{FILE},{base}/two"
    np.testing.assert_allclose(ask(load(base, lora=both, lora_scale=0.5)), expected(pipe, a1=0.5, a2=0.5), atol=PARITY)
    model = load(base, lora=[base / "one", base / "two"], lora_scale=[0.3, 2.0])
    np.testing.assert_allclose(ask(model), expected(pipe, a1=0.3, a2=2.0), atol=PARITY)


def test_half_precision_rounds_the_sum(made):
    base, pipe = made
    model = load(base, lora=base / "one", dtype="bfloat16")
    np.testing.assert_allclose(ask(model), expected(pipe, a1=1.0), atol=0.2)


def test_with_derivatives(made):
    base, pipe = made
    model = load(base, lora=base / "one", bridge="torchax")
    np.testing.assert_allclose(ask(model), expected(pipe, a1=1.0), atol=PARITY)


def test_what_does_not_fit(made, tmp_path):
    base, _ = made
    weights = safetensors.load_file(base / "one" / FILE)
    name = next(iter(weights))

    def file(change):
        changed = dict(weights)
        change(changed)
        safetensors.save_file(changed, tmp_path / "changed.safetensors")
        return tmp_path / "changed.safetensors"

    other = file(lambda w: [w.update({key.replace("unet.", "transformer."): w.pop(key)}) for key in list(w)])
    refused(
        "^lora changed.safetensors: matches nothing in this model; it was made for another base$",
        load,
        base,
        lora=other,
    )
    wide = file(lambda w: w.update({key: value.repeat(1, 2) for key, value in w.items() if "lora_A" in key}))
    refused("^lora changed.safetensors: does not fit this model: .*size mismatch", load, base, lora=wide)
    more = file(lambda w: w.update({name.replace("down_blocks.1", "down_blocks.7"): w[name].clone()}))
    refused("^lora changed.safetensors: (only .* match this model; it was|does not fit)", load, base, lora=more)


def test_an_alpha_that_an_old_diffusers_would_pass_over(made, monkeypatch):
    base, _ = made
    monkeypatch.delattr("diffusers.loaders.lora_base.LORA_ADAPTER_METADATA_KEY")
    refused(f"^lora {FILE}: says its alpha in a way that this version of diffusers", load, base, lora=base / "one")


def test_in_the_folder_of_the_base(made, tmp_path):
    base, pipe = made
    for path in (base / "base").rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(base / "base")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (tmp_path / FILE).write_bytes((base / "one" / FILE).read_bytes())
    refused(f"^lora=None: .* holds the LoRA {FILE}; give lora=", load_diffusers, tmp_path)
    assert load_diffusers(tmp_path, lora="none").base is None
    assert load_diffusers(tmp_path, lora=tmp_path).base is not None


def test_of_peft_on_pixels(tmp_path):
    """Pipelines that load no LoRA of their own take what peft saves, of classes too."""
    unet = pipelines.stirred(tiny.pixel_unet(num_class_embeds=3), 0)
    tiny.save_pixels(tmp_path / "base", unet=unet)
    wrapped = peft.get_peft_model(unet, peft.LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_v", "conv1"]))
    generator = torch.Generator().manual_seed(0)
    for name, weight in wrapped.named_parameters():
        if "lora" in name:
            weight.data = 0.2 * torch.randn(weight.shape, generator=generator)
    wrapped.save_pretrained(tmp_path / "lora")
    x = X[..., :1]
    with torch.inference_mode():
        tensor = torch.from_numpy(x[None, ..., 0])[None]
        wanted = wrapped.eval()(tensor, 20, class_labels=torch.tensor([1])).sample[0].numpy()
    model = load_diffusers(tmp_path / "base", lora=tmp_path / "lora")
    found = np.asarray(model.diffusion.network(x, 20, 1))
    np.testing.assert_allclose(found, np.moveaxis(wanted, 0, -1), atol=PARITY)
    assert np.abs(found - np.asarray(model.base().diffusion.network(x, 20, 1))).max() > 100 * PARITY
    config = tmp_path / "lora/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["nothing"]}))
    refused(
        "^lora adapter_model.safetensors: does not fit this model: ",
        load_diffusers,
        tmp_path / "base",
        lora=tmp_path / "lora",
    )
    config.unlink()
    refused("this kind of pipeline takes LoRAs that peft", load_diffusers, tmp_path / "base", lora=tmp_path / "lora")
