"""Trained networks on disk: finished ones, and snapshots taken during training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np

from plap_jax.checkpoints import CheckpointError, load_tree, read_about, remove_unfinished, require_same, save_tree
from plap_jax.diffusion import Diffusion
from plap_jax.training.config import TrainConfig
from plap_jax.training.constructors import constructors_of, made_again
from plap_jax.training.steps import State, with_weights
from plap_jax.typing import require


def save_diffusion(path: str | os.PathLike, diffusion: Diffusion) -> None:
    """Save a network with its schedule: atomically, with checksums (``plap_jax.checkpoints``).

    For networks of ``plap_jax.networks`` the notes in ``about.json`` record how to rebuild both.

    Raises:
        ValueError: ``path`` exists and is no checkpoint.
        OSError: it cannot be written.
    """
    constructors = constructors_of(diffusion)
    told = {} if constructors is None else {"constructors": constructors}
    save_tree(path, diffusion, describe_static(diffusion) | told)


def load_diffusion(path: str | os.PathLike, like: Diffusion | None = None) -> Diffusion:
    """Load a network with its schedule, as saved by ``save_diffusion``.

    Args:
        path: the checkpoint.
        like: a model with the same architecture, schedule and prediction; its weights are not used. None: rebuilt from
            the checkpoint's notes, which exist only for networks of ``plap_jax.networks``, and not in old checkpoints.

    Raises:
        CheckpointError: missing, damaged, of another architecture, schedule or prediction, or without the notes.
    """
    about = read_about(path)
    like = made_again(path, about) if like is None else like
    loaded = load_tree(path, like)
    notes = {name: told for name, told in about["notes"].items() if name != "constructors"}
    require_same(path, notes, describe_static(like))
    return loaded


def load_snapshots(folder: str | os.PathLike, like: Diffusion) -> Iterator[tuple[int, Diffusion]]:
    """Load the snapshots that ``train`` saved in its ``snapshot_dir``, one at a time.

    Args:
        folder: the ``snapshot_dir``.
        like: as for ``load_diffusion``.

    Yields:
        (step, network with the weights averaged up to there), by increasing step.

    Raises:
        CheckpointError: a snapshot is damaged, or of another architecture, schedule or prediction.
    """
    for path in sorted(Path(folder).glob("step_*")):
        yield int(path.name.removeprefix("step_")), load_diffusion(path, like)


def describe_static(diffusion: Diffusion) -> dict[str, str]:
    """The static fields of a ``Diffusion``, as text."""
    return {name: str(getattr(diffusion, name)) for name in ("schedule", "prediction", "conditioning")}


class Snapshots:
    """The folder of a run's snapshots, ``step_XXXXXXXX/``, as ``train`` documents it.

    Args:
        folder: made if it is missing; None for no snapshots.
        steps: numbers of steps after which to save.
        config: of the run.

    Raises:
        ValueError: steps outside 0 … n_steps, or without a folder.
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike | None, steps: Sequence[int], config: TrainConfig) -> None:
        allowed = f"must be integers in 0 ... n_steps={config.n_steps}"
        good = all(isinstance(step, Integral) and 0 <= step <= config.n_steps for step in steps)
        require(good, "snapshot_steps", tuple(steps), allowed)
        require(
            folder is not None or not steps, "snapshot_dir", folder, "must be a folder where there are snapshot_steps"
        )
        self.steps = frozenset(int(step) for step in steps)
        self._folder = None if folder is None else Path(folder).absolute()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self._folder)

    def begin(self, state: State, diffusion: Diffusion, start: int) -> None:
        """Save step 0 of a new run; in one resumed at ``start``, check that all earlier snapshots are intact.

        Raises:
            CheckpointError: one is missing or damaged.
        """
        if start == 0:
            self.save(state, diffusion, 0)
            return
        for step in sorted(step for step in self.steps if step <= start):
            try:
                load_diffusion(self._path(step), diffusion)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error}; the run resumes after it, at step {start}, and cannot recreate it"
                ) from None

    def save(self, state: State, diffusion: Diffusion, step: int) -> None:
        """Write a snapshot if ``step`` is one of the steps."""
        if step in self.steps:
            save_diffusion(self._path(step), with_weights(diffusion, np.asarray(state.average)))

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:08d}"
