"""Networks and tokenizers of a folder, by the libraries' own loaders: no download, no code of the folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import (
    create_diffusers_clip_model_from_ldm,
    create_diffusers_t5_model_from_checkpoint,
)
from safetensors import safe_open
from safetensors.torch import load_file

from plap_jax.pretrained.folder import Model
from plap_jax.pretrained.weights import INSIDE, check_numbers
from plap_jax.typing import shown

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_OTHER_NAMES = {"Transformer2DModel": "DiTTransformer2DModel"}  # as older folders call it


def load_module(model: Model, dtype: str) -> torch.nn.Module:
    """One network of a folder, to be evaluated.

    Args:
        model: the network's files; safetensors unless pickle was allowed.
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        ValueError: weights that cannot be read, do not fit the config, are missing, quantized or not finite.
    """
    prefix = check_numbers(model.name, model.weights, model.config)
    try:
        with quiet():
            if model.single:
                module = _of_single_file(model, dtype)
            else:
                module = _without_prefix(model, prefix).to(DTYPES[dtype]) if prefix else _loaded(model, dtype)
    except _Gaps:
        raise
    except Exception as error:  # of several packages: file formats, shapes, configs
        raise ValueError(f"{model.name}: cannot be loaded: {line(error)}") from error
    check_finite(model.name, module.eval().requires_grad_(False), dtype)
    return module


def check_finite(name: str, module: torch.nn.Module, dtype: str) -> None:
    """Refuses weights that are not finite, also those beyond the range of float16.

    Raises:
        ValueError: naming the first.
    """
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name}: weight {key} holds NaN or infinity in {dtype}")


class _Gaps(ValueError):
    """Weights are missing."""


def _class(model: Model) -> Any:
    library = transformers if model.name.startswith("text_encoder") else diffusers
    return getattr(library, _OTHER_NAMES.get(model.class_name, model.class_name))


def _loaded(model: Model, dtype: str) -> torch.nn.Module:
    """By the libraries' own loaders, which handle the weight names of older folders."""
    weights = model.weights
    how = dict(local_files_only=True, use_safetensors=weights.safe, variant=weights.variant, output_loading_info=True)
    module, info = _class(model).from_pretrained(model.path, torch_dtype=DTYPES[dtype], **how)
    # The loaders would fill missing weights with random numbers.
    _check_gaps(model, {str(key) for what in ("missing_keys", "mismatched_keys") for key in info.get(what) or ()})
    return module


def _without_prefix(model: Model, prefix: str) -> torch.nn.Module:
    """Weights that were saved inside a wrapper, whose name stands before all of theirs."""
    kind = _class(model)
    is_transformer = model.name.startswith("text_encoder")
    module = kind(kind.config_class(**model.config)) if is_transformer else kind.from_config(dict(model.config))
    parts = [load_file(file) for file in model.weights.files if file.suffix == ".safetensors"]
    weights = {name.removeprefix(prefix): weight for part in parts for name, weight in part.items()}
    _check_gaps(model, set(module.load_state_dict(weights, strict=False).missing_keys))
    return module


def _of_single_file(model: Model, dtype: str) -> torch.nn.Module:
    """By diffusers' conversion of the first authors' names, with the config of the base; other pieces are not read."""
    (file,), kind = model.weights.files, _class(model)
    others = tuple(start for piece, starts in INSIDE.items() if piece != model.name for start in starts)
    with safe_open(file, framework="pt") as handle:
        names = [name for name in handle.keys() if _is_of(name, model.name, others)]  # noqa: SIM118 - no mapping
        weights = {name: handle.get_tensor(name) for name in names}
    how = {"config": str(model.path.parent), "subfolder": model.name, "torch_dtype": DTYPES[dtype]}
    if model.name.startswith("text_encoder"):
        t5 = model.class_name == "T5EncoderModel"
        convert = create_diffusers_t5_model_from_checkpoint if t5 else create_diffusers_clip_model_from_ldm
        module = convert(kind, checkpoint=weights, local_files_only=True, **how)
    else:
        module = kind.from_single_file(weights, local_files_only=True, **how)
    _check_gaps(model, {name for name, weight in module.named_parameters() if weight.is_meta})
    return module


def _is_of(name: str, piece: str, others: tuple[str, ...]) -> bool:
    return name.startswith(INSIDE[piece]) if piece in INSIDE else not name.startswith(others)


def _check_gaps(model: Model, gaps: set[str]) -> None:
    if gaps:
        told = f"{len(gaps)} weights are missing or of another shape, first {shown(min(gaps))}"
        raise _Gaps(f"{model.name}: {told}")


def load_tokenizer(path: Path, name: str, class_name: str) -> Any:
    """The tokenizer of a folder.

    Raises:
        ValueError: files that cannot be read.
    """
    try:
        with quiet():
            return getattr(transformers, class_name).from_pretrained(path, local_files_only=True)
    except Exception as error:  # of several packages
        raise ValueError(f"{name}: cannot be loaded: {line(error)}") from error


def load_scheduler(config: Mapping[str, Any]) -> Any:
    """A scheduler of diffusers, from its config."""
    return getattr(diffusers, config["_class_name"]).from_config(dict(config))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and logs of the loaders; real problems are raised, in one line."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of configs in their older form
            yield
    finally:
        for log, verbosity, bar in before:
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()


def line(error: Exception) -> str:
    """An error of another package in one line: its first, or the second where the first only announces it."""
    lines = [text.strip() for text in str(error).strip().split("\n") if text.strip()]
    told = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0] if lines else type(error).__name__
    return shown(told)
