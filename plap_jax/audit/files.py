"""Files that are whole or absent, whoever else writes to the folder, and whatever is killed."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

UNFINISHED = ".tmp"  # what a killed process leaves ends like this, and is never read


def put(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Writes a file under another name and renames it, so that nobody ever reads half of it.

    The other name is like no one else's: two hosts have processes of one number.

    Args:
        path: of the file; its folder is made.
        content: all of it.
        replace: False: a file that is there stays, and of several writers the first one wins.

    Returns:
        Whether the content stands there now.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())  # a machine that goes down must not leave the name without the content
        if replace:
            temporary.replace(path)
            return True
        try:
            os.link(temporary, path)  # atomic, and fails where the name is taken
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            temporary.replace(path)
        return True
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
