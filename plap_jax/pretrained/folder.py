"""Inspect a diffusers folder: all pieces present, of supported classes, with weights as safetensors.

Reads JSON and file names only; needs neither weights nor PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plap_jax.typing import require, shown

Kind = Literal["pixels", "latents"]
INDEX = "model_index.json"
# Which classes each kind of pipeline is made of.
PIPELINES: dict[str, Kind] = {
    "DDIMPipeline": "pixels",
    "DDPMPipeline": "pixels",
    "StableDiffusionPipeline": "latents",
    "StableDiffusionImg2ImgPipeline": "latents",
}
MODELS: dict[Kind, dict[str, str]] = {
    "pixels": {"unet": "UNet2DModel"},
    "latents": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"},
}
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
# Stems of the files with weights: of transformers for text encoders, of diffusers for all others.
_STEMS = {"text_encoder": ("model", "pytorch_model")}
_DIFFUSERS_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
WHY_NOT = (
    "pickle is code, which runs when it is loaded, and weights are data: save the model as safetensors, "
    "or set allow_pickle=True if you trust whoever made the file"
)


@dataclass(frozen=True)
class Model:
    """One network of a folder, its weights not read yet.

    Attributes:
        name: "unet", "vae" or "text_encoder".
        path: its folder.
        class_name: of diffusers or transformers.
        config: its ``config.json``.
        safe: the weights are safetensors; if not, pickle, which was allowed.
    """

    name: str
    path: Path
    class_name: str
    config: Mapping[str, Any]
    safe: bool


@dataclass(frozen=True)
class Folder:
    """The pieces of a pipeline.

    Attributes:
        kind: "pixels", or "latents" with VAE, text encoder and tokenizer.
        models: by name.
        scheduler: content of ``scheduler_config.json``.
        tokenizer: its folder, where there is one.
    """

    kind: Kind
    models: Mapping[str, Model]
    scheduler: Mapping[str, Any]
    tokenizer: Path | None


def read_folder(folder: str | Path, *, variant: str | None = None, allow_pickle: bool = False) -> Folder:
    """Find the pieces named in a folder's ``model_index.json`` and check that each is there.

    Args:
        folder: as written by ``save_pretrained`` of a diffusers pipeline.
        variant: "fp16" for files such as ``diffusion_pytorch_model.fp16.safetensors``.
        allow_pickle: accept pickled weights if there are no safetensors.

    Raises:
        ValueError: no such folder, a pipeline or a class that is not supported, a piece without config or weights,
            or pickled weights that were not allowed.
    """
    path = Path(folder)
    if path.suffix in (*PICKLES, ".safetensors") and path.is_file():
        allowed = "must be a folder of diffusers; its scripts convert a single file into one"
        require(False, "folder", str(folder), allowed if path.suffix == ".safetensors" else f"{allowed}; {WHY_NOT}")
    require(path.is_dir(), "folder", str(folder), "must be a folder on this machine; nothing is downloaded")
    index = _json(path / INDEX, f"folder={str(folder)!r}")
    pipeline = index.get("_class_name")
    supported = isinstance(pipeline, str) and pipeline in PIPELINES
    require(supported, f"{INDEX}: _class_name", pipeline, f"must be one of {', '.join(PIPELINES)}")
    kind = PIPELINES[pipeline]
    models = {}
    for name, class_name in MODELS[kind].items():
        _check_class(index, name, (class_name,))
        config = _json(path / name / "config.json", name)
        safe = _has_safe_weights(path / name, name, variant, allow_pickle)
        models[name] = Model(name, path / name, class_name, config, safe)
    tokenizer = None
    if kind == "latents":
        _check_class(index, "tokenizer", TOKENIZERS)
        tokenizer = path / "tokenizer"
        alternatives = (("vocab.json", "merges.txt"), ("tokenizer.json",))
        complete = any(all((tokenizer / file).is_file() for file in files) for files in alternatives)
        require(complete, "tokenizer", str(tokenizer), "must hold vocab.json and merges.txt, or tokenizer.json")
    return Folder(kind, models, _json(path / "scheduler" / "scheduler_config.json", "scheduler"), tokenizer)


def _check_class(index: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> None:
    entry = index.get(name)
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    require(found in allowed, f"{INDEX}: {name}", found, f"must be {' or '.join(allowed)}")


def _json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file, or an error that names the piece that lacks it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {shown(error)}"
        raise ValueError(f"{what}: {path.name} {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{what}: {path.name} must hold an object")
    return content


def _has_safe_weights(path: Path, name: str, variant: str | None, allow_pickle: bool) -> bool:
    """True for safetensors, False for pickle that was allowed."""
    safe_stem, pickle_stem = _STEMS.get(name, _DIFFUSERS_STEMS)
    found = sorted(file.name for file in path.iterdir() if file.is_file())
    expected = _weight_files(safe_stem, "safetensors", variant)
    if set(expected) & set(found):
        return True
    if set(_weight_files(pickle_stem, "bin", variant)) & set(found) and allow_pickle:
        return False
    pickles = [file for file in found if file.endswith(PICKLES)]
    if pickles and not allow_pickle:
        raise ValueError(f"{name}: no safetensors, only {shown(pickles[0])}; {WHY_NOT}")
    there = [file for file in found if file.endswith((".safetensors", *PICKLES))]
    hint = f"; there is {shown(', '.join(there))}, see the argument variant" if there else ""
    raise ValueError(f"{name}: no weights, {expected[0]} is missing{hint}")


def _weight_files(stem: str, suffix: str, variant: str | None) -> tuple[str, str]:
    """The file with all weights, and the index of several files."""
    infix = f".{variant}" if variant else ""
    return f"{stem}{infix}.{suffix}", f"{stem}.{suffix}.index{infix}.json"
