"""Files with weights: which ones a piece of a pipeline has, what their headers say, and their hashes.

Reads file names and the headers of safetensors; needs no PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from plap_jax.pretrained.kinds import Pipeline
from plap_jax.typing import require, shown

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
WHY_NOT = (
    "pickle is code, which runs when it is loaded, and weights are data: save the model as safetensors, "
    "or set allow_pickle=True if you trust whoever made the file"
)
# Stems of the files with weights: of transformers for text encoders, of diffusers for all others.
_DIFFUSERS_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
_TRANSFORMERS_STEMS = ("model", "pytorch_model")
_REMARKS = "__metadata__"  # in the header of safetensors
_LARGEST_HEADER = 100_000_000
FLOATS = ("F64", "F32", "F16", "BF16")
# How names begin in a single file, by piece; what begins otherwise is of the network.
INSIDE = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
_PREFIXES = ("module.", "_orig_mod.")  # of models that were saved inside a wrapper


@dataclass(frozen=True)
class Weights:
    """Files with the weights of one piece.

    Attributes:
        files: all of them, an index of several first.
        safe: safetensors; if not, pickle, which was allowed.
        variant: "fp16" for files such as ``diffusion_pytorch_model.fp16.safetensors``, else None.
    """

    files: tuple[Path, ...]
    safe: bool
    variant: str | None


def find_weights(path: Path, name: str, variant: str | None, allow_pickle: bool) -> Weights:
    """The weights of a piece: of the variant asked for, else the plain ones, else of the only variant there.

    Raises:
        ValueError: none, pickle that was not allowed, or several variants of which none was asked for.
    """
    stems = _TRANSFORMERS_STEMS if name.startswith("text_encoder") else _DIFFUSERS_STEMS
    found = sorted(file.name for file in path.iterdir() if file.is_file())
    formats = [(stems[0], "safetensors", True)] + [(stems[1], "bin", False)] * allow_pickle
    asked = (variant, None) if variant else (None,)
    for stem, suffix, safe in formats:
        others = _variants(found, stem, suffix)
        for one in (*asked, *(others if len(others) == 1 and not variant else ())):
            if files := _complete(path, name, stem, suffix, one, found):
                return Weights(files, safe, one)
    pickles = [file for file in found if file.endswith(PICKLES)]
    there = [file for file in found if file.endswith((".safetensors", *PICKLES))]
    if pickles and not allow_pickle and len(pickles) == len(there):
        raise ValueError(f"{name}: no safetensors, only {shown(pickles[0])}; {WHY_NOT}")
    hint = f"; there is {shown(', '.join(there))}, see the argument variant" if there else ""
    raise ValueError(f"{name}: no weights, {_names(stems[0], 'safetensors', variant)[0]} is missing{hint}")


def _names(stem: str, suffix: str, variant: str | None) -> tuple[str, str]:
    """The file with all weights, and the index of several files."""
    infix = f".{variant}" if variant else ""
    return f"{stem}{infix}.{suffix}", f"{stem}.{suffix}.index{infix}.json"


def _variants(found: list[str], stem: str, suffix: str) -> list[str]:
    whole, index = re.escape(stem), re.escape(suffix)
    pattern = rf"{whole}\.(\w+)\.{index}|{whole}\.{index}\.index\.(\w+)\.json"
    matches = (re.fullmatch(pattern, file) for file in found)
    return sorted({match[1] or match[2] for match in matches if match})


def _complete(path: Path, name: str, stem: str, suffix: str, variant: str | None, found: list[str]) -> tuple[Path, ...]:
    """All files of one format and variant, or none."""
    whole, index = _names(stem, suffix, variant)
    if whole in found:
        return (path / whole,)
    if index not in found:
        return ()
    parts = sorted(set(map(str, read_object(path / index, name).get("weight_map", {}).values())))
    inside = all(Path(part).name == part for part in parts)
    require(bool(parts) and inside, f"{name}: {index}", parts[:1], "must name files of its own folder")
    missing = [part for part in parts if part not in found]
    require(not missing, f"{name}: {index}", parts, f"{shown(missing[:1])} is missing")
    return (path / index, *(path / part for part in parts))


def read_object(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: there is none, under the name ``what`` of the piece that lacks it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {shown(error)}"
        raise ValueError(f"{what}: {path.name} {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{what}: {path.name} must hold an object")
    return content


def header(path: Path, what: str) -> dict[str, Mapping[str, Any]]:
    """Name of a tensor → its dtype and shape, as the header of a safetensors file says; no weight is read.

    Raises:
        ValueError: no safetensors.
    """
    return {str(name): entry for name, entry in _header(path, what).items() if name != _REMARKS}


def remarks(path: Path, what: str) -> Mapping[str, str]:
    """What a safetensors file says of itself in its header, beside its tensors.

    Raises:
        ValueError: no safetensors.
    """
    return _header(path, what).get(_REMARKS, {})


def _header(path: Path, what: str) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            text = handle.read(size) if 0 < size <= _LARGEST_HEADER else b""
        return {name: dict(entry) for name, entry in json.loads(text.decode()).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{what}: cannot be loaded: {shown(path.name)} is no safetensors file") from error


def pieces_inside(file: Path, pipeline: Pipeline) -> frozenset[str]:
    """The pieces of a pipeline whose weights stand in a single file: the network, and what is named there."""
    names = header(file, f"folder={file.name}")
    found = {piece for piece, starts in INSIDE.items() if any(name.startswith(starts) for name in names)}
    return frozenset({pipeline.network} | (found & set(pipeline.models)))


def check_numbers(name: str, weights: Weights, config: Mapping[str, Any]) -> str:
    """Refuses weights that are not plain floats; returns the prefix that all names have, where a wrapper left one.

    Raises:
        ValueError: 8-bit or quantized weights.
    """
    advice = "load the original weights in float32, float16 or bfloat16"
    if config.get("quantization_config"):
        raise ValueError(f"{name}: quantized weights (quantization_config) are not supported: {advice}")
    names = set()
    for file in weights.files:
        if file.suffix != ".safetensors":
            continue
        for tensor, entry in header(file, name).items():
            dtype, names = str(entry.get("dtype")), names | {tensor}
            # Whole numbers of 64 bits are positions, which old text encoders saved.
            if dtype not in (*FLOATS, "I64"):
                raise ValueError(f"{name}: weight {shown(tensor)} is {dtype}, which is not supported: {advice}")
    return next((prefix for prefix in _PREFIXES if names and all(n.startswith(prefix) for n in names)), "")


def sha256(path: Path) -> str:
    """Of a file; each is read once, as long as it does not change."""
    real = path.resolve()
    stat = real.stat()
    return _sha256(real, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
