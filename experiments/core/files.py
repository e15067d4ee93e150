"""Files that are either whole or absent."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from experiments.core.ledger import note, require_ours


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name ``path`` only once it is written completely.

    Raises:
        UserError: a run would replace somebody else's file, or one that was changed by hand.
    """
    require_ours(path)
    note(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
        note(path, written=temporary)
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
