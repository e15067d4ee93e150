"""Save and load pytrees of arrays with Orbax: atomically, and verified by checksums.

A checkpoint is a directory: ``arrays/`` as Orbax writes it, ``about.json`` (names, shapes and dtypes of the arrays,
and the writer's notes), and ``sha256``, the checksums of all of these (``sha256sum -c sha256`` reads it). It is
written under a temporary name and renamed. Orbax alone would load a flipped byte silently.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from plap_jax.typing import require, shown

_ARRAYS, _ABOUT, _SUMS = "arrays", "about.json", "sha256"
_TEMPORARY = ".unfinished-"
# Orbax's event loop is one per process: savers in several threads close it for each other, fail, or wait for minutes.
_ONE_AT_A_TIME = threading.Lock()


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or made by something else: one line that says which."""


def save_tree(path: str | os.PathLike, tree: Any, notes: dict[str, Any] | None = None) -> Path:
    """Save the arrays of ``tree``, replacing ``path`` if that is a checkpoint.

    Args:
        path: the directory to create, with its parents.
        tree: a pytree of arrays and numbers.
        notes: kept beside the arrays; anything that JSON holds.

    Returns:
        ``path``.

    Raises:
        ValueError: ``path`` exists and is no checkpoint.
        OSError: it cannot be written.
    """
    path = Path(path).absolute()
    require(not path.exists() or (path / _SUMS).is_file(), "path", str(path), "exists and is not a checkpoint")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
    try:
        arrays = {name: np.asarray(leaf) for name, leaf in _named_leaves(tree)}
        with _ONE_AT_A_TIME, ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary / "new" / _ARRAYS, arrays)
        about = {"arrays": describe(tree), "notes": notes or {}}
        (temporary / "new" / _ABOUT).write_text(json.dumps(about, indent=1))
        (temporary / "new" / _SUMS).write_text(_checksums(temporary / "new"))
        if path.exists():
            path.rename(temporary / "old")
        (temporary / "new").rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def load_tree(path: str | os.PathLike, like: Any) -> Any:
    """Load the arrays of a checkpoint into the structure of ``like``.

    Args:
        path: a directory that ``save_tree`` wrote.
        like: a pytree with the shapes and dtypes that are expected; its values are not used.

    Returns:
        As ``like``: Python numbers and NumPy arrays as such, everything else as JAX arrays.

    Raises:
        CheckpointError: nothing there, not byte for byte what was written, or arrays of other names, shapes or dtypes
            (the first that differs is named).
    """
    path = Path(path).absolute()
    require_same(path, read_about(path)["arrays"], describe(like))
    names, leaves = zip(*_named_leaves(like), strict=True)
    try:
        target = {name: np.empty(np.shape(leaf), _dtype(leaf)) for name, leaf in zip(names, leaves, strict=True)}
        with _ONE_AT_A_TIME, ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(path / _ARRAYS, target)
    except (OSError, TypeError, ValueError, LookupError, MemoryError) as error:
        raise CheckpointError(f"checkpoint {path}: its arrays cannot be read: {shown(error)}") from error
    require_same(path, describe(arrays), describe(like))  # Orbax would return what is there, whatever its shape
    restored = [_as(leaf, arrays[name]) for name, leaf in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def read_about(path: str | os.PathLike) -> dict[str, Any]:
    """``{"arrays": {name: "dtype(shape)"}, "notes": …}`` of a checkpoint, its checksums verified first.

    Raises:
        CheckpointError: nothing there, not byte for byte what was written, or not of this form.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path}: no such directory")
    if not (path / _SUMS).is_file():
        raise CheckpointError(f"checkpoint {path}: has no {_SUMS} file, so it is incomplete or not a checkpoint")
    written, found = (path / _SUMS).read_bytes().decode(errors="replace"), _checksums(path)
    if written != found:
        lines = sorted(set(written.splitlines()) ^ set(found.splitlines()))
        name = lines[0].partition("  ")[2] if lines else _SUMS
        raise CheckpointError(f"checkpoint {path}: damaged, the checksum of {name!r} does not match {_SUMS}")
    try:
        about = json.loads((path / _ABOUT).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path}: {_ABOUT} cannot be read: {shown(error)}") from error
    if not _is_about(about):
        raise CheckpointError(f'checkpoint {path}: {_ABOUT} must hold {{"arrays": {{name: text}}, "notes": {{...}}}}')
    return about


def require_same(path: str | os.PathLike, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a checkpoint in which an entry is not what it should be.

    Raises:
        CheckpointError: naming the first entry that differs, what it is there, and what is expected.
    """
    for name in [*expected, *stored]:
        if stored.get(name) != expected.get(name):
            there, wanted = (shown(table.get(name, "absent")) for table in (stored, expected))
            raise CheckpointError(f"checkpoint {path}: {name} is {there} there, {wanted} is expected")


def describe(tree: Any) -> dict[str, str]:
    """``{name: "dtype(shape)"}`` of the leaves of a pytree."""
    return {name: f"{_dtype(leaf)}{np.shape(leaf)}" for name, leaf in _named_leaves(tree)}


def remove(path: str | os.PathLike) -> None:
    """Delete a directory, if it exists; if killed meanwhile, it is left whole or under a temporary name."""
    path = Path(path).absolute()
    if not path.exists():
        return
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
    path.rename(temporary / "old")
    shutil.rmtree(temporary)


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Delete what was left in ``folder`` by ``save_tree`` or ``remove`` when interrupted.

    Only for a folder that no one else writes to.
    """
    for leftover in Path(folder).glob(_TEMPORARY + "*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _is_about(about: Any) -> bool:
    tables = [about.get(name) for name in ("arrays", "notes")] if isinstance(about, dict) else [None]
    return all(isinstance(table, dict) for table in tables) and all(isinstance(v, str) for v in tables[0].values())


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _dtype(leaf: Any) -> np.dtype:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _as(like: Any, value: np.ndarray) -> Any:
    if isinstance(like, (bool, int, float)):
        return type(like)(value)
    return value if isinstance(like, np.ndarray) else jnp.asarray(value)


def _checksums(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file() and p != path / _SUMS)
    lines = []
    for file in files:
        with file.open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {file.relative_to(path)}\n")
    return "".join(lines)
