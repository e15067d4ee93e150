"""Files that are either whole or absent, and their fingerprints."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from experiments.core.ledger import note


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name ``path`` only once it is written completely.

    Raises:
        UserError: a run would replace somebody else's file.
    """
    note(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8, written completely or not at all."""
    with replacing(path) as handle:
        handle.write(text.encode())


def as_json(value: Any) -> str:
    """Sorted and indented, so that equal content is equal text. Non-finite numbers are refused (ValueError)."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """``as_json(value)`` in a file."""
    write_text(path, as_json(value))


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value`` (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_tree(directory: Path, skip: str = "") -> dict[str, str]:
    """Relative path → SHA-256 of every file below ``directory``, but for the one named ``skip`` at its top."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path.relative_to(directory).as_posix(): path for path in files}
    return {name: sha256_file(path) for name, path in names.items() if name != skip}
