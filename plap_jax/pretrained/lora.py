"""Files of a LoRA: which ones are asked for, and which lie in a folder without being asked for. Needs no PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Literal

from plap_jax.pretrained.weights import FLOATS, PICKLES, WHY_NOT, header
from plap_jax.typing import require, shown

NONE = "none"
PEFT = "adapter_config.json"  # of peft, beside adapter_model.safetensors
_USUAL = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
Given = str | os.PathLike | Sequence[str | os.PathLike] | None
Scale = float | Sequence[float]


@dataclass(frozen=True)
class Lora:
    """One file with a LoRA, safetensors.

    Attributes:
        path: the file.
        scale: factor of what it adds.
    """

    path: Path
    scale: float


def asked_loras(given: Given | Literal["none"], scale: Scale) -> tuple[Lora, ...]:
    """The LoRAs that are asked for.

    Args:
        given: files or folders that hold one, a text with commas between them, or None or "none".
        scale: one factor for all, or one for each.

    Raises:
        ValueError: no such file, pickle, another number of scales, or a scale that is no finite number.
    """
    if given is None or given == NONE:
        return ()
    texts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, os.PathLike) else list(given)
    paths = [_file(text) for text in texts]
    scales = [scale] * len(paths) if isinstance(scale, Real) else list(scale)
    good = len(scales) == len(paths) and all(isinstance(s, Real) and math.isfinite(s) for s in scales)
    require(good, "lora_scale", scale, f"must be one number, or one for each of the {len(paths)} files")
    return tuple(Lora(path, float(s)) for path, s in zip(paths, scales, strict=True))


def _file(given: str | os.PathLike) -> Path:
    path = Path(os.fspath(given).strip()).expanduser()
    if path.is_dir():
        path = next((path / name for name in _USUAL if (path / name).is_file()), path)
    require(path.suffix not in PICKLES, "lora", str(given), f"must be safetensors; {WHY_NOT.partition(':')[0]}")
    allowed = f"must be a .safetensors file on this machine, or a folder with {_USUAL[0]}"
    require(path.is_file() and path.suffix == ".safetensors", "lora", str(given), allowed)
    entries = header(path, f"lora {path.name}")
    good = all(str(entry.get("dtype")) in (*FLOATS, "I64") for entry in entries.values())
    require(good, "lora", path.name, "must hold float32, float16 or bfloat16; 8-bit weights are not supported")
    require(_named_as_lora(entries), "lora", path.name, "must be a LoRA, and none of its weights is named as one")
    return path


def refuse_forgotten(places: Sequence[Path], given: Given) -> None:
    """Refuses a folder with a LoRA in it that nobody asked for: without it the folder is another model.

    Also a LoRA in place of a folder.

    Raises:
        ValueError: naming the file, and what to do.
    """
    for place in places:
        if place.suffix == ".safetensors" and place.is_file() and _holds_lora(place):
            raise ValueError(
                f"folder={place.name}: is a LoRA: give the folder of its base, and lora={place.name} (its path)"
            )
    for place in places if given is None else ():
        for folder in (place, place / "unet", place / "transformer"):
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                named = "lora" in file.name.lower() and file.suffix in (".safetensors", *PICKLES)
                alone = folder == place and file.suffix == ".safetensors" and file.is_file() and _holds_lora(file)
                if named or alone or file.name == _USUAL[1]:
                    name = shown(file.relative_to(place).as_posix())
                    raise ValueError(
                        f"lora=None: {place.name} holds the LoRA {name}; give lora={name} (its path) to take it, or "
                        f"lora={NONE} to leave it out"
                    )


def _holds_lora(file: Path) -> bool:
    try:
        return _named_as_lora(header(file, file.name))
    except ValueError:
        return False


def _named_as_lora(names: Iterable[str]) -> bool:
    return any("lora" in name.lower() for name in names)
