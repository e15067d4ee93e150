"""Where an audit keeps what it has finished, so that one that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from plap_jax.audit.files import put

Arrays = Mapping[str, np.ndarray]
_SOURCE = Path(__file__).resolve().parents[1]


class AuditStore(Protocol):
    """Keeps arrays under all that they depend on."""

    def arrays(self, stage: str, depends_on: Mapping[str, Any], compute: Callable[[], Arrays]) -> dict[str, np.ndarray]:
        """What ``compute()`` returns, or returned when it was last asked with the same stage and dependencies."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What is around an audit, and changes none of its numbers.

    Attributes:
        store: keeps what is finished; None keeps nothing.
        stage: a context for each part of the work, by name; the experiments take its wall time.
        progress: whether a bar is shown.
    """

    store: AuditStore | None = None
    stage: Callable[[str], AbstractContextManager] = lambda name: nullcontext()
    progress: bool = False

    def arrays(
        self, stage: str, depends_on: Callable[[], Mapping[str, Any]], compute: Callable[[], Arrays]
    ) -> dict[str, np.ndarray]:
        """``compute()``, by way of the store; without one, what it depends on is not looked up."""
        if self.store is None:
            return {name: np.asarray(value) for name, value in compute().items()}
        return self.store.arrays(stage, depends_on(), compute)


class FolderStore:
    """One ``.npz`` for each entry, with the checksums of its format, written under another name and renamed.

    Args:
        folder: made if it is not there.
        now: False: made when something is kept.

    Raises:
        ValueError: it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, *, now: bool = True):
        self._folder = Path(folder).expanduser()
        if not now:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"resume_dir={folder}: {error.strerror}; must be a folder that can be written") from error

    def arrays(self, stage: str, depends_on: Mapping[str, Any], compute: Callable[[], Arrays]) -> dict[str, np.ndarray]:
        """From the file, where it is there and whole; the key holds the library's source and the device, too."""
        told = {"stage": stage, "depends_on": depends_on, "device": jax.devices()[0].device_kind} | versions()
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        path = self._folder / f"{stage.replace('/', '_')}-{key[:32]}.npz"
        if (found := _read(path)) is not None:
            return found
        made = {name: np.asarray(value) for name, value in compute().items()}
        content = BytesIO()
        np.savez(content, **made)
        put(path, content.getbuffer())
        return made


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file; None where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def versions() -> dict[str, Any]:
    """What changes numbers, though no setting tells of it: code, JAX, precision."""
    told = {"code": code(), "jax": [jax.__version__, jax.lib.__version__], "x64": jax.config.jax_enable_x64}
    return told | {"precision": str(jax.config.jax_default_matmul_precision)}


@cache
def code() -> str:
    """SHA-256 of the library's source: what other code computed is not taken up."""
    paths = sorted(_SOURCE.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
