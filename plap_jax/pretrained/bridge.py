"""PyTorch modules as JAX functions of their weights. Imports PyTorch, so it is loaded with the first folder only."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchax
import transformers

from plap_jax.pretrained.folder import Model
from plap_jax.pretrained.weights import check_numbers
from plap_jax.typing import Array, shown

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CLASSES = {
    "UNet2DModel": diffusers.UNet2DModel,
    "UNet2DConditionModel": diffusers.UNet2DConditionModel,
    "AutoencoderKL": diffusers.AutoencoderKL,
    "CLIPTextModel": transformers.CLIPTextModel,
}
# Tracing swaps the module's weights for traced ones, and torchax keeps global state.
_TRACING = threading.RLock()


def _noise(unet: torch.nn.Module, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    return unet(x, level, return_dict=False)[0]


def _noise_given_text(unet: torch.nn.Module, x: torch.Tensor, level: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return unet(x, level, encoder_hidden_states=text, return_dict=False)[0]


def _mean_latent(vae: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    return vae.encode(image, return_dict=False)[0].mean


def _image(vae: torch.nn.Module, latent: torch.Tensor) -> torch.Tensor:
    return vae.decode(latent, return_dict=False)[0]


def _hidden_states(text_encoder: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return text_encoder(tokens, return_dict=False)[0]


# Name of a method → what it computes, and which weights it reads (by the beginning of their names; all where empty).
METHODS: dict[str, tuple[Callable[..., torch.Tensor], tuple[str, ...]]] = {
    "noise": (_noise, ()),
    "noise_given_text": (_noise_given_text, ()),
    "mean_latent": (_mean_latent, ("encoder.", "quant_conv.")),
    "image": (_image, ("decoder.", "post_quant_conv.")),
    "hidden_states": (_hidden_states, ()),
}


class _Forward(torch.nn.Module):
    """A module whose ``forward`` is any of its methods: what ``torch.func.functional_call`` can call."""

    def __init__(self, module: torch.nn.Module, method: str) -> None:
        super().__init__()
        self.module = module
        self.function = METHODS[method][0]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self.module, *inputs)


@dataclass(frozen=True)
class Skeleton:
    """A module without weights and one of its methods: the static part of ``TorchModule``.

    Equal if class, config and method are, so two folders with the same architecture share compilations.
    """

    class_name: str
    config: str
    method: str
    dtype: str
    module: torch.nn.Module = field(compare=False, repr=False)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TorchModule:
    """A PyTorch module as a pytree: y = f(weights, inputs), under ``jit``, ``vmap``, ``jvp`` and ``grad``.

    PyTorch code runs once per input signature, at tracing; the compiled function does not call it.

    Args:
        weights: name → array.
        skeleton: the module.
    """

    weights: dict[str, Array]
    skeleton: Skeleton = field(metadata={"static": True})

    def __call__(self, *inputs: Array) -> Array:
        """Inputs and output as PyTorch has them. Floats with several axes are cast to the dtype of the weights."""
        cast = [x.astype(self.skeleton.dtype) if _is_field(x) else x for x in inputs]
        return _apply(self.weights, cast, skeleton=self.skeleton)


def _is_field(x: Array) -> bool:
    """False for timesteps, which networks take in float32 whatever their dtype: float16 is exact only up to 2,048."""
    return x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating)


@partial(jax.jit, static_argnames="skeleton")
def _apply(weights: dict[str, Array], inputs: Sequence[Array], *, skeleton: Skeleton) -> Array:
    env = torchax.default_env()
    forward = _Forward(skeleton.module, skeleton.method)
    with _TRACING, warnings.catch_warnings():
        # PyTorch code asks for 64-bit integers; JAX uses 32 bits.
        warnings.filterwarnings("ignore", "Explicitly requested dtype.*int64", UserWarning)
        weights = {f"module.{name}": env.j2t_iso(weight) for name, weight in weights.items()}
        with env:
            output = torch.func.functional_call(forward, weights, tuple(env.j2t_iso(list(inputs))))
        return env.t2j_iso(output)


def load_model(model: Model, *, methods: Sequence[str], dtype: str) -> tuple[list[TorchModule], Any]:
    """Load one network of a folder: its methods as JAX functions, and its complete config.

    Args:
        model: the network's files; safetensors unless pickle was allowed.
        methods: of ``METHODS``; each keeps the weights it reads.
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        ValueError: weights that cannot be read, do not fit the config, are missing, or are not finite.
    """
    module = _from_folder(model, dtype).eval().requires_grad_(False)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{model.name}: weight {name} holds NaN or infinity in {dtype}")
    env = torchax.default_env()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype.*int64", UserWarning)
        weights = {name: env.t2j_copy(tensor) for name, tensor in tensors.items()}
    del tensors
    module.to("meta")  # frees the memory
    config = module.config if isinstance(module.config, Mapping) else module.config.to_dict()
    text = json.dumps({k: v for k, v in config.items() if k != "_name_or_path"}, sort_keys=True, default=str)
    found = []
    for method in methods:
        reads = METHODS[method][1]
        own = {name: weight for name, weight in weights.items() if not reads or name.startswith(reads)}
        found.append(TorchModule(own, Skeleton(model.class_name, text, method, dtype, module)))
    return found, config


def load_tokenizer(path: Path, length: int) -> Tokenizer:
    """The tokenizer of a folder, for prompts of at most ``length`` tokens.

    Raises:
        ValueError: files that cannot be read.
    """
    try:
        with _quiet():
            tokenizer = transformers.CLIPTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # of several packages
        raise ValueError(f"tokenizer: cannot be loaded: {_line(error)}") from error
    return Tokenizer(tokenizer, min(int(tokenizer.model_max_length), length))


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Texts → token numbers ``(n, length)``, padded or cut to one length."""

    tokenizer: Any
    length: int

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Token numbers of n prompts."""
        how = dict(padding="max_length", max_length=self.length, truncation=True, return_tensors="np")
        return self.tokenizer(list(prompts), **how)["input_ids"].astype(np.int32)


def _from_folder(model: Model, dtype: str) -> torch.nn.Module:
    """By the libraries' own loaders, which handle the weight names of older folders."""
    check_numbers(model.name, model.weights, model.config)
    how = dict(
        local_files_only=True,
        use_safetensors=model.weights.safe,
        variant=model.weights.variant,
        output_loading_info=True,
    )
    try:
        with _quiet():
            module, info = _CLASSES[model.class_name].from_pretrained(model.path, torch_dtype=DTYPES[dtype], **how)
    except Exception as error:  # of several packages: file formats, shapes, configs
        raise ValueError(f"{model.name}: cannot be loaded: {_line(error)}") from error
    # The loaders would fill missing weights with random numbers.
    gaps = sorted({str(key) for what in ("missing_keys", "mismatched_keys") for key in info.get(what) or ()})
    if gaps:
        raise ValueError(f"{model.name}: {len(gaps)} weights are missing or of another shape, first {shown(gaps[0])}")
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and logs of the loaders; real problems are raised, in one line."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bar in before:
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()


def _line(error: Exception) -> str:
    return shown(str(error).strip().partition("\n")[0] or type(error).__name__)
