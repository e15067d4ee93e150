"""Expensive stages (a trained network, samples) on disk, keyed by the hash of all they depend on."""

import hashlib
import inspect
import json
import logging
import pkgutil
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from filelock import FileLock, Timeout

from experiments.core.checksums import sha256_json, sha256_tree
from experiments.core.files import replacing, write_json

log = logging.getLogger(__name__)
ENTRY = "entry.json"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def code_tag(*modules: ModuleType) -> str:
    """SHA-256 of the source of ``modules``, packages with all they hold: changed code is not taken from the cache."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(_digest(Path(str(module.__file__)), hasattr(module, "__path__")))
    return digest.hexdigest()


@cache
def _digest(source: Path, is_package: bool) -> bytes:
    """Read once: a process goes on with the code that it has loaded, whatever becomes of the files."""
    paths = sorted(source.parent.rglob("*.py")) if is_package else [source]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).digest()


def target_modules(spec: Any) -> list[ModuleType]:
    """The modules of whatever a config's ``_target_`` keys name, however deep, for ``code_tag``."""
    if isinstance(spec, Mapping):
        own = [_module(spec["_target_"])] if "_target_" in spec else []
        return own + [module for _, value in sorted(spec.items()) for module in target_modules(value)]
    return [module for value in spec for module in target_modules(value)] if isinstance(spec, list) else []


def environment() -> dict[str, Any]:
    """What changes a stage's bits without standing in the config: library versions, device, precision."""
    return {
        "versions": {name: version(name) for name in LIBRARIES},
        "device": jax.devices()[0].device_kind,
        "x64": jax.config.jax_enable_x64,
    }


class Cache:
    """Stages below ``directory``: built once, locked while written, checked whenever read.

    An entry is the directory ``<stage>/<key>``; it is built under the name ``<key>.partial``, which outlives a
    killed process, and renamed when complete. A second process that wants it meanwhile waits and reads.

    Raises:
        ValueError: ``directory`` cannot be written.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory).absolute()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cache_dir={directory}: {error.strerror}; must be a directory that can be written"
            ) from error

    def key(self, stage: str, depends_on: Mapping[str, Any]) -> str:
        """SHA-256 of the stage's name, what it depends on (JSON-able) and the environment."""
        return sha256_json({"stage": stage, "depends_on": depends_on, "environment": environment()})

    def stage(self, stage: str, depends_on: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """The directory with the finished stage, built by ``build(directory)`` if it is not there.

        Args:
            stage: name, one path component or several (``train/d16``).
            depends_on: everything that the result depends on, JSON-able, a ``code_tag`` among it.
            build: fills the directory it is given. What an interrupted attempt left is still in it, so that
                training finds its checkpoints.
        """
        entry = self.directory / stage / self.key(stage, depends_on)
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _locked(entry.with_suffix(".lock"), stage):
            if not _is_sound(entry, stage):
                partial = entry.with_suffix(".partial")
                partial.mkdir(exist_ok=True)
                build(partial)
                write_json(partial / ENTRY, {"depends_on": depends_on, "files": sha256_tree(partial, ENTRY)})
                partial.rename(entry)
        return entry

    def arrays(
        self, stage: str, depends_on: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, np.ndarray]:
        """The arrays that ``compute()`` returns, or returned once before; read from the file in either case."""

        def build(directory: Path) -> None:
            with replacing(directory / "arrays.npz") as handle:
                np.savez(handle, **{name: np.asarray(value) for name, value in compute().items()})

        with np.load(self.stage(stage, depends_on, build) / "arrays.npz", allow_pickle=False) as stored:
            return dict(stored)


def _module(target: str) -> ModuleType:
    """Where ``target`` is defined, which is not always where it is imported from."""
    named = pkgutil.resolve_name(target)
    return inspect.getmodule(named) or inspect.getmodule(type(named))


@contextmanager
def _locked(path: Path, stage: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process that computes %s", stage)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_sound(entry: Path, stage: str) -> bool:
    """Whether the entry is there and whole; a damaged one is reported and removed."""
    if not entry.is_dir():
        return False
    try:
        expected = json.loads((entry / ENTRY).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        expected = None
    if expected == sha256_tree(entry, ENTRY):
        return True
    log.warning("cache entry %s of %s is damaged: it is computed again", entry, stage)
    shutil.rmtree(entry)
    return False
