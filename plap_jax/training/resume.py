"""Checkpoints of a training run: saving its state, identifying it, and resuming."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from plap_jax.checkpoints import (
    CheckpointError,
    describe,
    load_tree,
    read_about,
    remove,
    remove_unfinished,
    require_same,
    save_tree,
)
from plap_jax.training.config import TrainConfig
from plap_jax.training.finished import describe_static
from plap_jax.training.steps import State, Task
from plap_jax.typing import shown


class Store:
    """The folder of a run's checkpoints, ``step_XXXXXXXX/``; the newest is kept.

    Args:
        folder: made if it is missing. One run at a time.
        identity: everything that determines the outcome of the run, see ``identity``; must match existing checkpoints.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike, identity: dict[str, Any]) -> None:
        self._folder = Path(folder).absolute()
        self._identity = identity
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self._folder)

    @property
    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return max(self._folder.glob("step_*"), default=None)

    def load(self, state: State, losses: np.ndarray) -> tuple[State, np.ndarray, int]:
        """State, losses and number of steps at the newest checkpoint; the arguments and 0 if there is none.

        Raises:
            CheckpointError: it is damaged, of another run, or not of a training run.
        """
        newest = self.newest
        if newest is None:
            return state, losses, 0
        notes = read_about(newest)["notes"]
        run, step = notes.get("run"), notes.get("step")
        if not isinstance(run, dict):
            raise CheckpointError(f"checkpoint {newest}: its notes tell of no run, so it is not one of a training run")
        require_same(newest, run, self._identity)
        if type(step) is not int or not 0 < step <= len(losses):
            raise CheckpointError(f"checkpoint {newest}: step is {shown(step)} there, 1 to {len(losses)} is expected")
        state, losses = load_tree(newest, (state, losses))
        return state, losses, step

    def save(self, state: State, losses: np.ndarray, step: int) -> None:
        """Save a checkpoint, then delete earlier ones."""
        old = set(self._folder.glob("step_*"))
        new = save_tree(self._folder / f"step_{step:08d}", (state, losses), {"step": step, "run": self._identity})
        for path in old - {new}:
            remove(path)


def identity(
    task: Task, weights: jax.Array, config: TrainConfig, row_of: np.ndarray | None, n_devices: int
) -> dict[str, Any]:
    """What a resumed run must have in common with the run that wrote the checkpoint, architecture first."""
    # The recipe has a schedule too, that of the learning rate.
    static = {f"diffusion.{name}": value for name, value in describe_static(task.diffusion).items()}
    inputs = {
        "initial weights": weights,
        "data_std": task.diffusion.data_std,
        "data": task.data,
        "conditions": task.conditions,
        "key": jax.random.key_data(task.key),
    }
    if row_of is not None:
        inputs["copies"] = row_of
    return (
        describe(task.diffusion)
        | static
        | asdict(config.recipe)
        | {name: _digest(value) for name, value in inputs.items()}
        | ({"devices": n_devices} if n_devices > 1 else {})  # which round differently
    )


def _digest(value: Any) -> str | None:
    return None if value is None else hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
