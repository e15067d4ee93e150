"""Tiny diffusers pipelines with random weights, written to disk as ``save_pretrained`` does. Needs the extra."""

import json
import tempfile
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, PNDMScheduler, UNet2DConditionModel, UNet2DModel

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 12  # tokens of a prompt


def pixel_unet(**changes):
    """8×8 grey, with attention on the lower level."""
    config = dict(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return UNet2DModel(**config | changes)


def save_pixels(folder, *, unet=None, scheduler=None, seed=0):
    """A DDPM pipeline; returns its U-Net, for the other side of a comparison."""
    torch.manual_seed(seed)
    unet = (unet or pixel_unet()).eval()
    pipeline = DDPMPipeline(unet, scheduler or DDPMScheduler())
    pipeline.save_pretrained(folder)
    return unet


def tokenizer():
    """One token for a letter, as CLIP's where no merges apply, and one merge."""
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "ca", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    with tempfile.TemporaryDirectory() as folder:  # constructors differ between versions of transformers, files don't
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\nc a\n")
        return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)


def text_encoder():
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(LETTERS) * 2 + 3,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=len(LETTERS) * 2 + 1,
            eos_token_id=len(LETTERS) * 2 + 2,
            pad_token_id=len(LETTERS) * 2 + 2,
        )
    )


def latent_unet(**changes):
    """4 channels of 8×8, attending to text on the lower level."""
    config = dict(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return UNet2DConditionModel(**config | changes)


def vae(**changes):
    """3×16×16 → 4×8×8."""
    config = dict(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
    )
    return AutoencoderKL(**config | changes)


def stable_diffusion_scheduler(**changes):
    """Stable Diffusion 1.4's."""
    config = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    )
    return PNDMScheduler(**config | changes)


def save_latents(folder, *, scheduler=None, seed=0, **modules):
    """A pipeline of Stable Diffusion's type, without a safety checker; returns its modules."""
    torch.manual_seed(seed)
    made = {"unet": latent_unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
    made = {name: modules.get(name) or make() for name, make in made.items()}
    for name in ("unet", "vae", "text_encoder"):
        made[name].eval()
    made["scheduler"] = scheduler or stable_diffusion_scheduler()
    for name, module in made.items():
        module.save_pretrained(folder / name)
    library = {"text_encoder": "transformers", "tokenizer": "transformers"}
    index = {name: [library.get(name, "diffusers"), type(module).__name__] for name, module in made.items()}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    index |= {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__}
    (folder / "model_index.json").write_text(json.dumps(index))
    return made
