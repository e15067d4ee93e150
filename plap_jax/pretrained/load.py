"""Load a diffusers folder as ``Pretrained``: every piece checked, read once, and put together."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax.numpy as jnp

from plap_jax.diffusion import Diffusion
from plap_jax.pretrained.extra import bridge
from plap_jax.pretrained.folder import Folder, read_folder
from plap_jax.pretrained.kinds import PIXELS
from plap_jax.pretrained.lora import refuse_forgotten
from plap_jax.pretrained.model import LatentDecoder, LatentEncoder, PixelNetwork, Pretrained, TextEncoder, TextNetwork
from plap_jax.pretrained.schedules import read_scheduler
from plap_jax.pretrained.weights import sha256
from plap_jax.typing import require

log = logging.getLogger(__name__)
Dtype = Literal["float32", "float16", "bfloat16"]


def load_diffusers(
    folder: str | Path,
    *,
    prompts: Sequence[str] = (),
    n_prompts: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    dtype: Dtype = "float32",
    base: str | Path | None = None,
    variant: str | None = None,
    ema: bool = False,
    allow_pickle: bool = False,
) -> Pretrained:
    """Load a diffusers pipeline from disk as a pure JAX model.

    x_t = α(t) x₀ + σ(t) ε. Unconditional pipelines (DDPM, DDIM: ``UNet2DModel``) work in pixels, Stable Diffusion type
    pipelines (``UNet2DConditionModel``, VAE, CLIP text encoder) in latents. The schedule and the prediction (epsilon,
    sample, v_prediction) are those of the folder. Nothing is downloaded, and no code of the folder is run.

    Args:
        folder: as written by a pipeline's ``save_pretrained``; or with config and weights of the only network at its
            root; or a trainer's ``checkpoint-500`` with ``unet/``, which needs a base.
        prompts: the texts of conditions 0, 1, …; see ``Pretrained.with_prompts``.
        n_prompts: capacity of the table of prompts; None: the number given.
        image_size: height and width of images in pixels; None: the size the model was trained on.
        dtype: of the U-Net. VAE and text encoder, which run once for each image or prompt, stay in float32, and so does
            everything outside of the networks.
        base: the folder of a pipeline, for the pieces that ``folder`` does not hold.
        variant: "fp16" for files such as ``diffusion_pytorch_model.fp16.safetensors``; pieces that have no such file
            are taken as they are.
        ema: take the averaged weights of ``unet_ema/``, as trainers write them beside ``unet/``.
        allow_pickle: load pickled weights if there are no safetensors. Loading a pickle runs its code.

    Returns:
        ``Pretrained``: points are channels last, pixels in [−1, 1], latents scaled to about unit variance.

    Raises:
        ValueError: an argument out of range, a folder with pieces missing, broken or not supported, or the extra not
            installed or in other versions.

    Example:
        >>> model = load_diffusers("ddpm-cat-256")  # a folder on disk
        >>> points = model.encode(images)  # (n, h, w, c) in [−1, 1]
        >>> FluxDensity(0.1).scores(model.diffusion, Query(jnp.asarray(points)), key=jax.random.key(0))
    """
    require(dtype in get_args(Dtype), "dtype", dtype, f"must be one of {', '.join(get_args(Dtype))}")
    enough = n_prompts is None or n_prompts >= len(prompts)
    require(enough, "n_prompts", n_prompts, f"must be at least {len(prompts)}, the number of prompts")
    content = read_folder(folder, base=base, variant=variant, ema=ema, allow_pickle=allow_pickle)
    places = [Path(place).expanduser() for place in (folder, base) if place is not None]
    refuse_forgotten(places, tuple(content.models), None)
    for note in content.notes:
        log.info("  %s", note)
    schedule, prediction = read_scheduler(content.scheduler)
    if content.pipeline is PIXELS:
        require(not prompts, "prompts", tuple(prompts), "must be empty: this model has no prompts")
        loaded = _pixels(content, schedule, prediction, image_size, dtype)
    else:
        loaded = _latents(content, schedule, prediction, image_size, dtype).with_prompts(prompts, size=n_prompts)
    sources = tuple((name, sha256(path)) for name, path in content.files)
    return dataclasses.replace(loaded, sources=sources, notes=content.notes)


def _pixels(folder: Folder, schedule: Any, prediction: Any, image_size: Any, dtype: str) -> Pretrained:
    (unet,), config = bridge().load_model(folder.models["unet"], methods=["noise"], dtype=dtype)
    classes = config.get("num_class_embeds") or config.get("class_embed_type")
    require(classes is None, "unet: class embedding", classes, "must be null: models of classes are not supported")
    channels, predicted = config["in_channels"], config["out_channels"]
    learned = str(folder.scheduler.get("variance_type", "")).startswith("learned")
    allowed = channels * (2 if learned else 1)
    require(predicted == allowed, "unet: out_channels", predicted, f"must be {allowed}")
    shape = (*_size(image_size, config, 1), channels)
    return Pretrained(Diffusion(PixelNetwork(unet), schedule, prediction), "pixels", shape, shape)


def _latents(folder: Folder, schedule: Any, prediction: Any, image_size: Any, dtype: str) -> Pretrained:
    load, models = bridge().load_model, folder.models
    (unet,), config = load(models["unet"], methods=["noise_given_text"], dtype=dtype)
    float32 = {"dtype": "float32"}
    (encode, decode), vae = load(models["vae"], methods=["mean_latent", "image"], **float32)
    (clip,), text = load(models["text_encoder"], methods=["hidden_states"], **float32)
    for key in ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim", "time_cond_proj_dim"):
        require(config.get(key) is None, f"unet: {key}", config.get(key), "must be null: not supported")
    masked = text.get("use_attention_mask", False)
    require(not masked, "text_encoder: use_attention_mask", masked, "must be false: not supported")
    channels = vae["latent_channels"]
    for key in ("in_channels", "out_channels"):
        require(
            config[key] == channels, f"unet: {key}", config[key], f"must be {channels}, the channels of the latents"
        )
    width, states = text["hidden_size"], config["cross_attention_dim"]
    require(states == width, "unet: cross_attention_dim", states, f"must be {width}, the width of the text encoder")
    require(
        vae.get("shift_factor") is None, "vae: shift_factor", vae.get("shift_factor"), "must be null: not supported"
    )
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    height, width = _size(image_size, config, factor)
    tokenizer = bridge().load_tokenizer(folder.tokenizers["tokenizer"], text["max_position_embeddings"])
    nothing = jnp.zeros((1, 1, states), dtype)  # until prompts are set
    scaling = float(vae["scaling_factor"])
    return Pretrained(
        Diffusion(TextNetwork(unet, nothing), schedule, prediction),
        "latents",
        (height // factor, width // factor, channels),
        (height, width, vae["in_channels"]),
        encoder=LatentEncoder(encode, scaling),
        decoder=LatentDecoder(decode, scaling),
        text=TextEncoder(clip, tokenizer),
    )


def _size(image_size: Any, config: Mapping[str, Any], factor: int) -> tuple[int, int]:
    """Height and width of images, which every level of VAE and U-Net must halve evenly."""
    if image_size is None:
        trained = config.get("sample_size")
        require(trained is not None, "image_size", None, "must be given: the folder names no size (unet: sample_size)")
        sides = [factor * side for side in _pair(trained)]
    else:
        sides = _pair(image_size)
    step = factor * 2 ** (len(config["block_out_channels"]) - 1)
    good = len(sides) == 2 and all(isinstance(side, int) and side > 0 and side % step == 0 for side in sides)
    require(good, "image_size", tuple(sides), f"must be height and width, both multiples of {step}")
    return sides[0], sides[1]


def _pair(size: Any) -> list[Any]:
    return list(size) if isinstance(size, list | tuple) else [size, size]
