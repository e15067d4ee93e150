"""Load a diffusers folder as ``Pretrained``: every piece checked, read once, and put together."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from plap_jax.pretrained.assembly import Choices, assemble
from plap_jax.pretrained.extra import bridge as load_torchax
from plap_jax.pretrained.extra import pieces
from plap_jax.pretrained.folder import Folder, read_folder
from plap_jax.pretrained.lora import NONE, Given, Lora, Scale, asked_loras, refuse_forgotten
from plap_jax.pretrained.model import Pretrained
from plap_jax.pretrained.networks import Module
from plap_jax.pretrained.schedules import read_scheduler
from plap_jax.pretrained.weights import sha256
from plap_jax.typing import require

log = logging.getLogger(__name__)
Dtype = Literal["float32", "float16", "bfloat16"]
Bridge = Literal["callback", "torchax"]


def load_diffusers(
    folder: str | Path,
    *,
    prompts: Sequence[str] = (),
    n_prompts: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    dtype: Dtype = "float32",
    base: str | Path | None = None,
    lora: Given = None,
    lora_scale: Scale = 1.0,
    variant: str | None = None,
    ema: bool = False,
    guidance: float | None = None,
    null_class: int | None = None,
    allow_pickle: bool = False,
    bridge: Bridge = "callback",
) -> Pretrained:
    """Load a diffusers pipeline from disk.

    x_t = α(t) x₀ + σ(t) ε. Pipelines of a ``UNet2DModel`` (DDPM, DDIM) work in pixels, those with a VAE (Stable
    Diffusion, SDXL, SD3, FLUX, PixArt, DiT) in latents. The schedule and the prediction (epsilon, sample, v_prediction,
    flow matching) are those of the folder. Nothing is downloaded, and no code of the folder is run.

    Args:
        folder: as written by a pipeline's ``save_pretrained``; or with config and weights of the only network at its
            root; or a trainer's ``checkpoint-500`` with ``unet/``, which needs a base; or a single safetensors file by
            the names of the first authors' code, which needs a base too.
        prompts: the texts of conditions 0, 1, …; see ``Pretrained.with_prompts``.
        n_prompts: capacity of the table of prompts; None: the number given.
        image_size: height and width of images in pixels; None: the size the model was trained on.
        dtype: of the network, and of T5. All else, which runs once for each image or prompt, stays in float32, and so
            does everything outside of the networks.
        base: the folder of a pipeline, for the pieces that ``folder`` does not hold; of a single file for its configs.
        lora: safetensors files of LoRAs, with the names of diffusers, kohya or peft, one or several; "none": leave out
            one that lies in the folder, which is refused otherwise.
        lora_scale: factor of what they add, one for all or one for each.
        variant: "fp16" for files such as ``diffusion_pytorch_model.fp16.safetensors``; pieces that have no such file
            are taken as they are.
        ema: take the averaged weights of ``unet_ema/``, as trainers write them beside ``unet/``.
        guidance: what a network that is told its guidance (FLUX-dev) is told; None: 3.5.
        null_class: the class that training of a ``UNet2DModel`` of classes used for no class; None: there is none.
        allow_pickle: load pickled weights if there are no safetensors. Loading a pickle runs its code.
        bridge: "callback": PyTorch evaluates, called from JAX, which gives no derivatives; or "torchax": JAX evaluates,
            with derivatives, which some detectors need, and only in exact versions of the packages.

    Returns:
        ``Pretrained``: points are channels last, pixels in [−1, 1], latents shifted and scaled to about unit variance.

    Raises:
        ValueError: an argument out of range, a folder with pieces missing, broken or not supported, a LoRA that does
            not fit, or packages that are not installed.

    Example:
        >>> model = load_diffusers("ddpm-cat-256")  # a folder on disk
        >>> points = model.encode(images)  # (n, h, w, c) in [−1, 1]
        >>> FluxDensity(0.1).scores(model.diffusion, Query(jnp.asarray(points)), key=jax.random.key(0))
    """
    require(dtype in get_args(Dtype), "dtype", dtype, f"must be one of {', '.join(get_args(Dtype))}")
    require(bridge in get_args(Bridge), "bridge", bridge, f"must be one of {', '.join(get_args(Bridge))}")
    enough = n_prompts is None or n_prompts >= len(prompts)
    require(enough, "n_prompts", n_prompts, f"must be at least {len(prompts)}, the number of prompts")
    places = [Path(place).expanduser() for place in (folder, base) if place is not None]
    refuse_forgotten(places, lora)
    content = read_folder(folder, base=base, variant=variant, ema=ema, allow_pickle=allow_pickle)
    added = asked_loras(lora, lora_scale)
    told = content.pipeline.told == "texts"
    require(told or not prompts, "prompts", tuple(prompts), "must be empty: this model has no prompts")
    read_scheduler(content.scheduler)  # before gigabytes are read
    for note in content.notes:
        log.info("  %s", note)
    loaded = _loaded(content, dtype, added, Choices(image_size, guidance, null_class), bridge)
    loaded = dataclasses.replace(loaded, sources=_sources(content, added), notes=(*content.notes, *_notes(added)))
    if added:
        again = partial(load_diffusers, folder, image_size=image_size, dtype=dtype, base=base, lora=NONE)
        more = {"variant": variant, "ema": ema, "guidance": guidance, "null_class": null_class, "bridge": bridge}
        loaded = dataclasses.replace(loaded, base=partial(again, **more, allow_pickle=allow_pickle))
    return loaded.with_prompts(prompts, size=n_prompts) if told else loaded


def _loaded(content: Folder, dtype: str, loras: Sequence[Lora], choices: Choices, bridge: Bridge) -> Pretrained:
    to_jax = load_torchax() if bridge == "torchax" else pieces("calls")  # exact versions are told first
    parts = pieces("parts").Parts(content, dtype, loras)

    def functions(name: str, methods: list[str]) -> list[Module]:
        return to_jax.as_functions(parts.model(name), parts.modules[name], methods, parts.dtype(name))

    return assemble(parts, choices, functions)


def _sources(content: Folder, loras: Sequence[Lora]) -> tuple[tuple[str, str], ...]:
    files = (*content.files, *((lora.path.name, lora.path) for lora in loras))
    return tuple((name, sha256(path)) for name, path in files)


def _notes(loras: Sequence[Lora]) -> tuple[str, ...]:
    return tuple(f"with the LoRA {lora.path.name}, scale {lora.scale:g}" for lora in loras)
