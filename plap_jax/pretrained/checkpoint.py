"""A checkpoint of this library as a ``Pretrained``: it tells itself what it holds."""

from __future__ import annotations

import os
from pathlib import Path

from plap_jax.pretrained.model import Pretrained
from plap_jax.training import load_diffusion
from plap_jax.typing import require

CHECKPOINTS = "checkpoints"  # the folder of a run that holds them


def load_checkpoint(path: str | os.PathLike) -> Pretrained:
    """A network that ``plap_jax.training.save_diffusion`` has written, with its schedule; checksums are verified.

    Its ``about.json`` names both, with their arguments. Only networks of ``plap_jax.networks`` and schedules of
    ``plap_jax.diffusion`` are made from it; weights are arrays, and no code is read.

    Args:
        path: the checkpoint, or the directory of a run that holds one under ``checkpoints/``.

    Returns:
        ``Pretrained``, scored in its own pixels; ``n_conditions`` is the number of its captions.

    Raises:
        ValueError: not the directory of one checkpoint, or a network of points that are no images.
        CheckpointError: a checkpoint that is missing, damaged, or does not tell how its network is made.

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
    """The checkpoint itself, where the directory of a run was named.

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
