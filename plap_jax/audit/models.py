"""The model of an audit from a single word: a folder, a checkpoint, or where a function is imported from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from plap_jax.audit.subject import Subject
from plap_jax.pretrained import Pretrained, as_pretrained, load_checkpoint, load_diffusers, load_function
from plap_jax.pretrained.checkpoint import CHECKPOINTS, find_checkpoint
from plap_jax.pretrained.folder import INDEX
from plap_jax.typing import require


def load_model(given: str, **how: Any) -> Subject:
    """What ``given`` names: a diffusers folder, a checkpoint or a run that holds one, or ``package.module:factory``.

    Whatever is there as a file or folder is taken for that; a factory is what is left, and has a colon.

    Args:
        given: a path, or where a factory is imported from.
        how: arguments of ``plap_jax.pretrained.load_diffusers``.

    Raises:
        ValueError: none of these, one that cannot be loaded, or arguments for something else than a folder.
    """
    place = Path(os.path.expanduser(given))
    if place.is_dir() and ((place / CHECKPOINTS).is_dir() or (place / "about.json").is_file()):
        _refuse_options(how, f"the checkpoint {place.name}")
        return of_checkpoint(place)
    module = Path(os.path.expanduser(given.partition(":")[0]))
    allowed = f"is a file of Python: name a function in it, as {module.stem}:factory"
    require(not (module.suffix == ".py" and module.is_file()), "model", given, allowed)
    if place.is_file() or any((place / name).exists() for name in (INDEX, "config.json", "unet", "transformer")):
        return of_folder(place, **how)  # which says what to do with a single file of weights
    allowed = "must be a diffusers folder, a checkpoint (RUN/checkpoints/NAME), or module:factory"
    beside = place.parent if place.parent.name == CHECKPOINTS else place
    if beside.name == CHECKPOINTS and beside.is_dir():
        names = ", ".join(sorted(one.name for one in beside.iterdir() if one.is_dir()))
        allowed += f"; {beside} holds {names or 'none'}"
    elif given.count("/") == 1 and not place.parent.exists() and ":" not in given:
        allowed += "; if this is a name on a model hub, download it to a folder first"
    require(":" in given and not place.exists(), "model", given, allowed)
    _refuse_options(how, f"the function {given}")
    return of_function(given)


def _refuse_options(how: dict[str, Any], what: str) -> None:
    for name, value in how.items():
        require(value is None, name, value, f"is for diffusers folders, and this is {what}")


def of_checkpoint(path: str | os.PathLike) -> Subject:
    """See ``plap_jax.pretrained.load_checkpoint``."""
    place = find_checkpoint(path)
    return named_checkpoint(load_checkpoint(place), place.name)


def named_checkpoint(model: Pretrained, name: str) -> Subject:
    """A checkpoint that has been read, with what a report calls it."""
    kind = type(model.diffusion.network).__name__
    return Subject(model, f"checkpoint {name}, {kind} for images {model.shape}")


def of_folder(folder: str | os.PathLike, *, dtype: str | None = "float32", **how: Any) -> Subject:
    """A diffusers folder; arguments as of ``plap_jax.pretrained.load_diffusers``, None where nothing is chosen."""
    model = load_diffusers(folder, dtype=dtype or "float32", **{k: v for k, v in how.items() if v is not None})
    space = f"latents {model.shape}" if model.kind == "latents" else "pixels"
    scored = f"images {model.image_shape} scored as {space}, network in {dtype or 'float32'}"
    words = f"diffusers folder {Path(folder).name}, {scored}"
    return Subject(model, words)


def of_function(target: str) -> Subject:
    """What the factory ``package.module:factory`` returns: a ``UserModel``, or what ``load_torch`` returns."""
    made = as_pretrained(load_function(target))
    return Subject(made, f"function {target} for images {tuple(made.image_shape)}")
