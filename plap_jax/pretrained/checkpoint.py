"""Load a checkpoint of this library, which records its own network and schedule."""

from __future__ import annotations

import os
from pathlib import Path

from plap_jax.pretrained.model import Pretrained
from plap_jax.training import load_diffusion
from plap_jax.typing import require

CHECKPOINTS = "checkpoints"  # the folder of a run that holds them


def load_checkpoint(path: str | os.PathLike) -> Pretrained:
    """Load a network with its schedule, as saved by ``plap_jax.training.save_diffusion``; checksums are verified.

    Both are rebuilt from ``about.json``, which records classes and arguments. Only networks of ``plap_jax.networks``
    and schedules of ``plap_jax.diffusion`` are accepted; no code is loaded.

    Args:
        path: the checkpoint, or the directory of a run that holds one under ``checkpoints/``.

    Returns:
        ``Pretrained`` in pixel space; ``n_conditions`` is the number of captions.

    Raises:
        ValueError: not the directory of one checkpoint, or a network for points that are not images.
        CheckpointError: a checkpoint that is missing, damaged, or does not record how its network is built.

    Example:
        >>> model = load_checkpoint("outputs/RUN/checkpoints/network")
        >>> audit_images(model, "photos/", key=jax.random.key(0))
    """
    place = find_checkpoint(path)
    diffusion = load_diffusion(place)
    shape, n_conditions = diffusion.network.shape, diffusion.network.arguments["n_conditions"]
    require(len(shape) == 3, "path", str(path), f"must be a network of images (h, w, c), and is one of {shape}")
    return Pretrained(diffusion, "pixels", shape, shape, n_conditions=n_conditions)


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The checkpoint that a path means: itself, or the only one in a run's directory.

    Raises:
        ValueError: the run holds none, or several; they are named.
    """
    place = Path(path).expanduser()
    if not (place / CHECKPOINTS).is_dir():
        return place
    names = sorted(one.name for one in (place / CHECKPOINTS).iterdir() if one.is_dir())
    allowed = f"holds the checkpoints {', '.join(names) or 'none'}: name one as {path}/{CHECKPOINTS}/NAME"
    require(len(names) == 1, "path", str(path), allowed)
    return place / CHECKPOINTS / names[0]
