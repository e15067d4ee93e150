"""Where images come from, by a word: a folder, an array, tars, Parquet files."""

from __future__ import annotations

import glob
import importlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from plap_jax.audit.archives import TAR, TarSource
from plap_jax.audit.arrays import ARRAYS, ArrayFile, rows_of
from plap_jax.audit.images import FolderSource, Memory, Source
from plap_jax.audit.settings import PixelRange
from plap_jax.data.decoding import Resize
from plap_jax.typing import require

PARQUET = ".parquet"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def open_source(
    key: str,
    images: str | os.PathLike | np.ndarray,
    shape: tuple[int, ...],
    resize: Resize,
    crop: int | None,
    pixel_range: PixelRange | None = None,
) -> Source:
    """The images of a folder, of files or of an array, for a model of ``shape``.

    Raises:
        ValueError: there is none, or it does not fit the model; under the name ``key``.
    """
    if not isinstance(images, str | os.PathLike):
        return Memory(rows_of(key, images, shape, pixel_range))
    place = Path(images).expanduser()
    if place.is_dir():
        return FolderSource(key, place, shape, resize, crop)
    many = files_of(str(place))
    kinds = {one.suffix.lower() for one in many}
    if kinds in ({TAR}, {PARQUET}):
        absent = [one for one in many if not one.is_file()]
        require(not absent, key, str(images), f"must be files that are there, and {len(absent)} are not{first(absent)}")
        made = TarSource if kinds == {TAR} else _parquet_source()
        return made(key, many, shape, resize, crop)
    is_array = place.suffix.lower() in ARRAYS and place.is_file()
    allowed = "must be a folder of images, an .npz or an .npy file that is there; or .tar or .parquet files"
    allowed += " (one image goes into a folder)" * place.is_file()
    require(is_array, key, str(images), allowed)
    return ArrayFile(key, place, shape, pixel_range)


def first(paths: Iterable[Path]) -> str:
    """The name of the first, to stand at the end of a line; "" where there is none."""
    return next((f", such as {path.name}" for path in paths), "")


def files_of(pattern: str) -> list[Path]:
    """All files that a name with number ranges, or with ``*`` and ``?``, stands for; one that is there is itself."""
    found: list[Path] = []
    for one in in_braces(pattern):
        is_name = os.path.exists(one) or not glob.has_magic(one)
        found += [Path(one)] if is_name else sorted(map(Path, glob.glob(one)))
    return found


def in_braces(pattern: str) -> list[str]:
    """All that a name with number ranges stands for, as shells and WebDataset have them.

    >>> in_braces("a/{08..10}.tar")
    ['a/08.tar', 'a/09.tar', 'a/10.tar']
    """
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    low, high = found.groups()
    head, tail = pattern[: found.start()], in_braces(pattern[found.end() :])
    width = len(low) if low.startswith("0") else 0
    return [f"{head}{number:0{width}d}{rest}" for number in range(int(low), int(high) + 1) for rest in tail]


def _parquet_source() -> type:
    """Loaded when it is asked for, so that everything else works without pyarrow.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module("plap_jax.audit.parquet").ParquetSource
    except ModuleNotFoundError as error:
        raise ImportError(f"Parquet files need {error.name}: pip install '.[cluster]' in the repository") from error
