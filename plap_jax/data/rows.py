"""Rows of numbers that are too many for the memory: kept in a file without a name, which ends with the process."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


class Rows(Protocol):
    """An array ``(n, d)``, or what gives its rows as an array does."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, d)``."""
        ...

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """These rows, ``(m, d)``."""
        ...


class RowFile:
    """A file of rows of one length and type, one after the other.

    Args:
        folder: on whose disk it lies.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        self._file = tempfile.TemporaryFile(dir=None if folder is None else Path(folder))  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._n, self._dtype, self.dim = 0, np.dtype(np.float32), 0

    def append(self, values: np.ndarray) -> FileRows:
        """``(m, d)``, of the type and length of the first ones.

        Raises:
            OSError: the disk is full.
        """
        if not self._n:
            self._dtype, self.dim = values.dtype, values.shape[1]
        start = self._n
        self._file.seek(start * self.dim * self._dtype.itemsize)
        self._file.write(np.ascontiguousarray(values, self._dtype))
        self._file.flush()
        self._n += len(values)
        return FileRows(self, np.arange(start, self._n))

    def read(self, places: np.ndarray) -> np.ndarray:
        """``(m, d)``; quick where places follow each other."""
        found, size = np.empty((len(places), self.dim), self._dtype), self.dim * self._dtype.itemsize
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        ends = [*starts[1:].tolist(), len(places)][: len(starts)]
        for start, end in zip(starts.tolist(), ends, strict=True):
            content = os.pread(self._file.fileno(), (end - start) * size, int(places[start]) * size)
            found[start:end] = np.frombuffer(content, self._dtype).reshape(-1, self.dim)
        return found


@dataclass(frozen=True)
class FileRows:
    """Some rows of a file, in any order."""

    file: RowFile
    places: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, d)``."""
        return len(self.places), self.file.dim

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return self.file.read(self.places[rows])

    def only(self, kept: np.ndarray) -> FileRows:
        """Those that ``kept`` ``(n,)`` says."""
        return FileRows(self.file, self.places[kept])


def stacked(parts: Sequence[np.ndarray | FileRows]) -> np.ndarray | FileRows:
    """All rows, one part after the other; where some lie in a file, the others are put there, too."""
    file = next((part.file for part in parts if isinstance(part, FileRows)), None)
    if file is None:
        return np.concatenate(parts)
    lying = [part if isinstance(part, FileRows) else file.append(part) for part in parts]
    return FileRows(file, np.concatenate([part.places for part in lying]))
