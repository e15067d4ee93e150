"""The pieces of a folder, put together as ``Pretrained``: sizes and channels checked, conditions in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from plap_jax.diffusion import Diffusion
from plap_jax.pretrained.kinds import FLUX, PIXART_ALPHA, SD3, SDXL
from plap_jax.pretrained.model import Pretrained, TextEncoder
from plap_jax.pretrained.networks import (
    ClassNetwork,
    LatentDecoder,
    LatentEncoder,
    Module,
    PixelNetwork,
    TextNetwork,
)
from plap_jax.pretrained.schedules import FLOWS, read_scheduler
from plap_jax.typing import require

USUAL_GUIDANCE = 3.5  # of FLUX, where its pipeline is told none
_FLUX_SAMPLE = 128  # latents, where nothing else is said: its config names no size


@dataclass(frozen=True)
class Choices:
    """What is chosen for a folder.

    Attributes:
        image_size: height and width of images, or None for the size in training.
        guidance: for networks that are told it.
        null_class: the class that stands for no condition.
    """

    image_size: int | tuple[int, int] | None = None
    guidance: float | None = None
    null_class: int | None = None


def assemble(parts: Any, choices: Choices, functions: Callable[[str, list[str]], list[Module]]) -> Pretrained:
    """The model.

    Args:
        parts: ``pytorch.parts.Parts``.
        choices: of the user.
        functions: (piece, methods) → its methods as JAX functions.

    Raises:
        ValueError: a config that is not supported, or pieces that do not fit each other.
    """
    kind = parts.folder.pipeline
    config = parts.config(kind.network)
    told_guidance = kind is FLUX and config.get("guidance_embeds")
    allowed = "must be null: this network is not told a guidance"
    require(choices.guidance is None or bool(told_guidance), "guidance", choices.guidance, allowed)
    classes = config.get("num_class_embeds") if kind.kind == "pixels" else config.get("num_embeds_ada_norm")
    known = kind.told == "classes" or (kind.kind == "pixels" and classes is not None)
    allowed = "must be null: this network is not told a class"
    require(choices.null_class is None or known, "null_class", choices.null_class, allowed)
    if kind.kind == "pixels":
        return _pixels(parts, config, choices, functions)
    return _latents(parts, config, choices, functions)


def _pixels(parts: Any, config: Mapping[str, Any], choices: Choices, functions: Any) -> Pretrained:
    schedule, prediction = read_scheduler(parts.folder.scheduler)
    embedding = config.get("class_embed_type")
    require(embedding is None, "unet: class_embed_type", embedding, "must be null: not supported")
    channels, predicted = config["in_channels"], config["out_channels"]
    allowed = channels * (2 if _learned(parts) else 1)
    require(predicted == allowed, "unet: out_channels", predicted, f"must be {allowed}")
    shape = (*_size(choices.image_size, config, 1, 2 ** (len(config["block_out_channels"]) - 1)), channels)
    classes = config.get("num_class_embeds")
    (function,) = functions("unet", ["noise" if classes is None else "noise_of_class"])
    network = PixelNetwork(function) if classes is None else _of_classes(function, classes, choices.null_class)
    diffusion = Diffusion(network, schedule, prediction)
    without = "refused" if classes is not None and network.nothing is None else "unconditional"
    return Pretrained(
        diffusion, "pixels", shape, shape, n_conditions=None if classes is None else network.n_classes, without=without
    )


def _of_classes(function: Module, classes: int, null: int | None) -> ClassNetwork:
    """A null class that is the last one is no condition of its own."""
    allowed = f"must be a class of the network, 0 to {classes - 1}"
    require(null is None or (isinstance(null, int) and 0 <= null < classes), "null_class", null, allowed)
    return ClassNetwork(function, classes - 1 if null == classes - 1 else classes, null)


def _learned(parts: Any) -> bool:
    return str(parts.folder.scheduler.get("variance_type", "")).startswith("learned")


def _latents(parts: Any, config: Mapping[str, Any], choices: Choices, functions: Any) -> Pretrained:
    kind, name = parts.folder.pipeline, parts.folder.pipeline.network
    schedule, prediction = read_scheduler(parts.folder.scheduler)
    flows = parts.folder.scheduler["_class_name"] in FLOWS
    wanted = kind in (SD3, FLUX)
    allowed = f"must be one of {', '.join(FLOWS)}, as this network is of flow matching"
    other = "must not be of flow matching, as this network is not"
    key = "scheduler_config.json: _class_name"
    require(flows == wanted, key, parts.folder.scheduler["_class_name"], allowed if wanted else other)
    vae = parts.config("vae")
    _check_vae(vae)
    _check_network(parts, config, vae)
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    step = _step(kind, config)
    height, width = _size(choices.image_size, _sampled(kind, config), factor, step)
    if kind.told == "classes":
        square = (height, width) == (factor * config["sample_size"],) * 2
        allowed = f"must be {factor * config['sample_size']}, what this transformer was trained on"
        require(square, "image_size", (height, width), allowed)
    encode, decode = functions("vae", ["mean_latent", "image"])
    scaling, shift = float(vae["scaling_factor"]), float(vae.get("shift_factor") or 0)
    space = {
        "kind": "latents",
        "shape": (height // factor, width // factor, vae["latent_channels"]),
        "image_shape": (height, width, vae["in_channels"]),
        "encoder": LatentEncoder(encode, scaling, shift),
        "decoder": LatentDecoder(decode, scaling, shift),
    }
    if kind.told == "classes":
        (function,) = functions(name, [kind.method])
        classes = config["num_embeds_ada_norm"]
        # The row behind the last class, as the pipeline takes it for guidance.
        network = ClassNetwork(function, classes, classes if choices.null_class is None else choices.null_class)
        return Pretrained(Diffusion(network, schedule, prediction), n_conditions=classes, **space)
    # Texts first: with what leaves the module without its weights, the pipeline could not tell its dtype any more.
    texts = parts.texts(_constants(kind, config, choices, (height, width)))
    nothing = texts.nothing()
    (function,) = functions(name, [kind.method])
    blank = tuple(jnp.zeros(row.shape, parts.dtype(name)) for row in nothing)
    scale = float(parts.folder.scheduler.get("num_train_timesteps", 1000)) if flows else 1.0
    network = TextNetwork(function, blank, scale / 1000 if kind is FLUX else scale)
    text = TextEncoder(texts.rows, lambda: nothing, texts.cut)
    without = "empty prompt" if kind is FLUX else "unconditional"
    return Pretrained(Diffusion(network, schedule, prediction), text=text, without=without, **space)


def _check_vae(vae: Mapping[str, Any]) -> None:
    for key in ("latents_mean", "latents_std"):
        require(vae.get(key) is None, f"vae: {key}", vae.get(key), "must be null: not supported")


def _check_network(parts: Any, config: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Channels as those of the latents, and no inputs that nothing here gives."""
    kind, name, channels = parts.folder.pipeline, parts.folder.pipeline.network, vae["latent_channels"]
    packed = 4 if kind is FLUX else 1
    require(
        config["in_channels"] == packed * channels,
        f"{name}: in_channels",
        config["in_channels"],
        f"must be {packed * channels}, the channels of the latents",
    )
    predicted = config.get("out_channels") or config["in_channels"]
    allowed = (
        {packed * channels, 2 * channels} if kind.method.startswith("noise") and name != "unet" else {packed * channels}
    )
    told = " or ".join(str(n) for n in sorted(allowed))
    require(predicted in allowed, f"{name}: out_channels", predicted, f"must be {told}, the channels of the latents")
    if name != "unet":
        return
    added = config.get("addition_embed_type")
    wanted = "text_time" if kind is SDXL else None
    require(
        added == wanted, "unet: addition_embed_type", added, f"must be {wanted or 'null'}: others are not supported"
    )
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim", "time_cond_proj_dim"):
        require(config.get(key) is None, f"unet: {key}", config.get(key), "must be null: not supported")
    encoders = [encoder for encoder in parts.folder.models if encoder.startswith("text_encoder")]
    width, states = sum(parts.config(one)["hidden_size"] for one in encoders), config["cross_attention_dim"]
    told = "the width of the text encoder" if len(encoders) == 1 else "the widths of the text encoders"
    require(states == width, "unet: cross_attention_dim", states, f"must be {width}, {told}")


def _constants(kind: Any, config: Mapping[str, Any], choices: Choices, size: tuple[int, int]) -> list[np.ndarray]:
    """What the network is told beside the text."""
    if kind is SDXL:  # nothing was cut off
        return [np.asarray((*size, 0, 0, *size), np.float32)]
    if kind is FLUX:
        return [np.asarray([USUAL_GUIDANCE if choices.guidance is None else choices.guidance], np.float32)]
    return [np.asarray(size, np.float32)] if kind.method == PIXART_ALPHA.method else []


def _sampled(kind: Any, config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**config, "sample_size": _FLUX_SAMPLE} if kind is FLUX else config


def _step(kind: Any, config: Mapping[str, Any]) -> int:
    """Latents that make one place of the network's coarsest grid."""
    if kind.network == "unet":
        return 2 ** (len(config["block_out_channels"]) - 1)
    return 2 if kind is FLUX else int(config["patch_size"])


def _size(image_size: Any, config: Mapping[str, Any], factor: int, step: int) -> tuple[int, int]:
    """Height and width of images, which every level of VAE and network must halve evenly."""
    if image_size is None:
        trained = config.get("sample_size")
        require(trained is not None, "image_size", None, "must be given: the folder names no size (sample_size)")
        sides = [factor * side for side in _pair(trained)]
    else:
        sides = _pair(image_size)
    step *= factor
    good = len(sides) == 2 and all(isinstance(side, int) and side > 0 and side % step == 0 for side in sides)
    require(good, "image_size", tuple(sides), f"must be height and width, both multiples of {step}")
    return sides[0], sides[1]


def _pair(size: Any) -> list[Any]:
    return list(size) if isinstance(size, list | tuple) else [size, size]
