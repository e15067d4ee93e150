"""The folder of generated images: whole files, and none of anyone else's replaced."""

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.core.report import FORMATS
from experiments.generate.making import file_name
from plap_jax.audit.images import pixels
from plap_jax.typing import require

log = logging.getLogger(__name__)
TABLE, ARRAY = "generated.csv", "generated.npy"
# The checksums of what was written, as `sha256sum -c` reads them: another file of these names is someone else's.
WRITTEN = "generated.sha256"


def refuse_foreign(folder: Path) -> None:
    """Refuses a folder that holds images or a table which were not written here.

    Raises:
        ValueError: naming the first.
    """
    require(folder.is_dir() or not folder.exists(), "out", str(folder), "must be a folder")
    if not folder.exists():
        return
    listed = _listed(folder)
    names = [path.name for path in folder.iterdir() if path.suffix == ".png" or path.name in (TABLE, ARRAY)]
    foreign = sorted(name for name in names if _sum((folder / name).read_bytes()) not in listed.get(name, ()))
    allowed = "holds a file that this experiment did not write, or that was changed since; move it, or name another"
    require(not foreign, "out", str(folder), f"{allowed} folder: {', '.join(foreign[:3])}")


def write_images(folder: Path, images: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """A PNG for each image, or one array where they are neither grey nor RGB, and the table.

    Args:
        folder: is made where it is not there. What an earlier run left there and this one does not have is removed.
        images: ``(n, h, w, c)`` in [−1, 1].
        rows: of the table.
    """
    refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0])
    body = [["" if row[column] is None else row[column] for column in columns] for row in rows]
    files = {TABLE: FORMATS["csv"](columns, body).encode()} | _pictures(images)
    before = _listed(folder)
    lines = [f"{_sum(content)}  {name}" for name, content in files.items()]
    older = [f"{one}  {name}" for name, sums in before.items() for one in sorted(sums)]
    # First, so that a kill in between leaves nothing that is refused.
    _replace(folder / WRITTEN, "".join(f"{line}\n" for line in (*older, *lines)).encode())
    for name, content in files.items():
        _replace(folder / name, content)
    gone = sorted(name for name in set(before) - set(files) if (folder / name).exists())
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    if gone:
        log.info("  of an earlier run, removed: %s", f"{len(gone)} files, from {gone[0]} on" if gone[1:] else gone[0])
    _replace(folder / WRITTEN, "".join(f"{line}\n" for line in lines).encode())


def _pictures(images: np.ndarray) -> dict[str, bytes]:
    if images.shape[-1] not in (1, 3):
        return {ARRAY: _written(lambda stream: np.save(stream, images))}
    found = {}
    for i, image in enumerate(images):
        picture = pixels(image)
        picture = picture[..., 0] if picture.shape[-1] == 1 else picture
        found[file_name(i)] = _written(lambda stream, picture=picture: Image.fromarray(picture).save(stream, "PNG"))
    return found


def _written(write: Any) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _listed(folder: Path) -> dict[str, set[str]]:
    path, found = folder / WRITTEN, {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        one, _, name = line.partition("  ")
        if Path(name).name == name:
            found.setdefault(name, set()).add(one)
    return found


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
