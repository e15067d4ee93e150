"""Diffusers folders, audited, and the text-to-image experiment on one: tiny pipelines with random weights."""

import csv
import hashlib
import json

import jax
import numpy as np
import pytest
from PIL import Image

from plap_jax import audit_images, load_diffusers
from plap_jax.audit.command_line import main
from tests.helpers import experiment_run

pipelines = pytest.importorskip("tests.helpers.tiny_pipelines", reason="needs PyTorch: make test-torch")
peft = pytest.importorskip("peft")
tiny, torch = pipelines.tiny, pipelines.torch
pytestmark = pytest.mark.torch
SMALL = {"noise_levels": (0.16, 0.32), "key": jax.random.key(0)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    tiny.save_pixels(base / "pixels")
    tiny.save_latents(base / "latents")
    return base


def rows(directory, name):
    with (directory / "tables" / f"{name}.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_pipeline_of_pixels_is_audited(folders, tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)))
    np.save(tmp_path / "others.npy", np.random.default_rng(1).uniform(-1, 1, (9, 8, 8, 1)))
    paths = (f"model.folder={folders}/pixels", f"images={tmp_path}/images.npy", f"reference={tmp_path}/others.npy")
    report = experiment_run.here("audit", tmp_path / "run", "model=diffusers", "sigma=0.3", *paths)
    assert report.metrics["audit/reference_images"] == 9 and len(rows(tmp_path / "run", "audit")) == 6
    page = (tmp_path / "run" / "report.html").read_text()
    weights = folders / "pixels/unet/diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "scored as pixels" in page and f"unet/{weights.name} {digest}" in page
    report.write_manifest()
    noted = json.loads((tmp_path / "run" / "manifest.json").read_text())["files_sha256"]["model"]
    assert noted[f"unet/{weights.name}"] == digest and "unet/config.json" in noted


def test_a_pipeline_of_latents_is_audited_with_prompts(folders, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "prompts.csv").write_text("file,prompt\n" + "".join(f"{i}.png,a cat {'ab' * i}\n" for i in range(5)))
    paths = (f"model.folder={folders}/latents", f"images={tmp_path}/images", f"prompts={tmp_path}/prompts.csv")
    experiment_run.here("audit", tmp_path / "run", "model=diffusers", "sigma=0.3", "chunk=3", *paths)
    found = rows(tmp_path / "run", "audit")
    assert len(found) == 5
    scores = [float(row["kappa_given"]) for row in found]
    assert all(-1 <= score <= 1 for score in scores) and scores == sorted(scores, reverse=True)
    assert all(float(row["kappa_given_stderr"]) > 0 for row in found)


def test_the_text_to_image_experiment_runs_end_to_end(folders, tmp_path):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    lines = ["a cat,1,a.png", "a dog,1,", "no cat,0,", "no dog,0,"]
    (tmp_path / "prompts.csv").write_text("prompt,memorized,image\n" + "\n".join(lines) + "\n")
    words = (f"model.folder={folders}/latents", f"prompts={tmp_path}/prompts.csv", "per_prompt=2", "sigma=0.3")
    experiment_run.here("text_to_image_memorization", tmp_path / "run", *words, "generation.guidance=2.0")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data/images"] == 8
    assert {f"by_prompt/{name}/auc" for name in ("kappa", "kappa_given", "kappa_gap")} <= set(metrics)
    assert len(rows(tmp_path / "run", "images")) == 8


def images(n, shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


def test_the_base_of_a_lora_is_the_baseline(tmp_path, caplog):
    """From a terminal, with prompts from Hugging Face's metadata.csv; one prompt is longer than CLIP takes."""
    torch.manual_seed(0)
    pipe = pipelines.stable_diffusion()
    pipe.save_pretrained(tmp_path / "base")
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]), adapter_name="a")
    for name, weight in pipe.unet.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.3)
    weights = peft.utils.get_peft_model_state_dict(pipe.unet, adapter_name="a")
    pipe.save_lora_weights(tmp_path / "lora", unet_lora_layers=weights)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    lines = [f"{i}.png,a cat {'and more cats' * (i == 3)}" for i in range(6)]
    (tmp_path / "photos/metadata.csv").write_text("file_name,text\n" + "\n".join(lines) + "\n")
    command = f"--model {tmp_path}/base --lora {tmp_path}/lora --images {tmp_path}/photos --out {tmp_path}/out"
    command += f" --prompts {tmp_path}/photos/metadata.csv --noise-levels 0.16 0.32"
    assert main(command.split()) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "without its LoRA" in page and "with the LoRA pytorch_lora_weights.safetensors, scale 1" in page
    assert "1 of 2 prompts are cut at 12 tokens" in page
    with (tmp_path / "out/audit.csv").open(newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 6
    assert main([*command.split()[:-3], "0.16", "--lora-scale", "nan"]) == 2


def test_classes_are_prompts(tmp_path):
    unet = pipelines.stirred(tiny.pixel_unet(num_class_embeds=3), 0)
    tiny.save_pixels(tmp_path / "classes", unet=unet)
    model = load_diffusers(tmp_path / "classes")
    given = images(7, (8, 8, 1))
    result = audit_images(model, given, prompts=[0, 1, 2, 0, 1, 2, 0], **SMALL)
    assert np.isfinite(result.score).all() and result.meaning == "κ₁ given the prompt"
    with pytest.raises(ValueError, match="^prompts=None: must be given, .* needs one for every image$"):
        audit_images(model, given, **SMALL)
    with pytest.raises(ValueError, match="^score='kappa_gap': compares the prompt with none"):
        audit_images(model, given, prompts=[0] * 7, score="kappa_gap", **SMALL)
    with pytest.raises(ValueError, match="^prompts=3: must be an integer from 0 to 2"):
        audit_images(model, given, prompts=3, **SMALL)


@pytest.mark.parametrize(("kind", "size"), [("sd3", (16, 8)), ("flux", (16, 24)), ("sdxl", (24, 16)), ("dit", 16)])
def test_other_kinds_and_shapes(kind, size, tmp_path):
    """Files of any proportions become the model's rectangle."""
    torch.manual_seed(0)
    getattr(pipelines, kind)().save_pretrained(tmp_path / kind)
    model = load_diffusers(tmp_path / kind, image_size=size)
    (tmp_path / "photos").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (30, 31, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    told = 7 if kind == "dit" else "a cat"
    result = audit_images(model, tmp_path / "photos", prompts=told, reference=images(9, model.image_shape), **SMALL)
    assert np.isfinite(result.score).all() and len(result.score) == 5 and len(result.calibration.levels) == 2
    result.save_report(tmp_path / "report.html")
    if kind == "flux":
        with pytest.raises(ValueError, match="^score='kappa_gap': compares the prompt with none"):
            audit_images(model, tmp_path / "photos", prompts=told, score="kappa_gap", **SMALL)
        assert np.isfinite(audit_images(model, tmp_path / "photos", **SMALL).score).all()
