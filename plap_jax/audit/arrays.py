"""Arrays of images, in memory or on disk: their rows as float32 in [−1, 1], or why not."""

from __future__ import annotations

import contextlib
import os
import weakref
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from plap_jax.audit.settings import PixelRange
from plap_jax.data.images import UnusableImage, scaled
from plap_jax.typing import require, shown

ARRAYS = (".npz", ".npy")
FIRST = "arr_0"  # as NumPy names an array without a name
EXACT = "taken as they are"
LOOKED_AT = 64  # rows that tell in which range floats lie


class ArrayFile:
    """The rows of an array ``(n, h, w, c)``, or ``(n, h, w)`` for grey, read one at a time from .npy or .npz.

    uint8 becomes 2 · v/255 − 1; floats must lie in [−1, 1]. Of an .npz the array "images", or the only one, or
    "arr_0", or the only one that has the shape of images.

    Args:
        key: of the config, for messages.
        path: the file.
        shape: of the model's images.
        pixel_range: of floats, see ``AuditSettings``.

    Raises:
        ValueError: no such array, pickled objects, another shape or dtype.
    """

    skipped: Sequence[tuple[str, str]] = ()
    words = EXACT
    in_order, converted = True, None

    def __init__(self, key: str, path: Path, shape: tuple[int, ...], pixel_range: PixelRange | None = None):
        opened = contextlib.ExitStack()
        expected = [shape, shape[:2]] if shape[2] == 1 else [shape]
        self._stream = _opened(key, path, opened, lambda stored: tuple(stored[1:]) in expected)
        weakref.finalize(self, opened.close)
        stored, fortran, dtype = _header(key, path, self._stream)
        good = dtype == np.uint8 or dtype.kind == "f"
        allowed = f"holds {dtype}: must be uint8, or floats in [-1, 1]" + "; no pickled objects" * dtype.hasobject
        require(good, key, str(path), allowed)
        require(not fortran, key, str(path), "must be in C order (numpy.ascontiguousarray)")
        allowed = f"holds {stored}: must be (n, {', '.join(map(str, shape))}), the shape of the model's images, n >= 1"
        require(tuple(stored[1:]) in expected and stored[0] >= 1, key, str(path), allowed)
        self._shape, self._dtype, self._start = shape, dtype, self._stream.tell()
        self._bytes = dtype.itemsize * int(np.prod(shape))
        self.names = [str(i) for i in range(stored[0])]
        stat = path.stat()
        self._file = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, pixel_range]
        self._range = pixel_range
        if dtype.kind == "f":
            _check_range(key, self._first(min(LOOKED_AT, stored[0])), pixel_range)

    def read(self, index: int) -> np.ndarray:
        """From the file; forward in it is fast, backward in a compressed one is not."""
        row = self._row(index)
        return usable(2 * row - 1 if self._range == "0..1" and row.dtype != np.uint8 else row)

    def _first(self, n: int) -> np.ndarray:
        """The first rows, up to one that cannot be read."""
        rows = []
        with contextlib.suppress(UnusableImage):
            for index in range(n):
                rows.append(self._row(index))
        return np.asarray(rows)

    def _row(self, index: int) -> np.ndarray:
        try:
            self._stream.seek(self._start + index * self._bytes)
            content = self._stream.read(self._bytes)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UnusableImage(f"cannot be read: {shown(error)}") from error
        if len(content) < self._bytes:
            raise UnusableImage("the file ends before it")
        return np.frombuffer(content, self._dtype).reshape(self._shape)

    def identity(self, indices: Sequence[int]) -> Any:
        """The file, its size and the time of its last change, and which rows."""
        return [self._file, list(indices)]


def usable(image: np.ndarray) -> np.ndarray:
    """A row of an array as float32 in [−1, 1].

    Raises:
        UnusableImage: NaN, infinity, or values beyond.
    """
    if image.dtype == np.uint8:
        return scaled(image, 255)
    if not np.isfinite(image).all():
        raise UnusableImage("holds NaN or infinity")
    if np.abs(image).max() > 1 + 1e-6:
        raise UnusableImage(f"holds {float(np.abs(image).max()):.4g}, floats must lie in [-1, 1]; 0 to 255 as uint8")
    return image.astype(np.float32)


def shape_of(images: Any) -> tuple[int, ...] | None:
    """``(h, w, c)`` of the images of an array or an array's file; None where they are files, which are resized."""
    if isinstance(images, str | os.PathLike):
        place = Path(images).expanduser()
        if place.suffix.lower() not in ARRAYS or not place.is_file():
            return None
        with contextlib.ExitStack() as opened:
            stored, _, _ = _header("images", place, _opened("images", place, opened, _may_be_images))
    else:
        stored = np.shape(images)
    return (*stored[1:], 1) if len(stored) == 3 else tuple(stored[1:])


def rows_of(key: str, images: Any, shape: tuple[int, ...], pixel_range: PixelRange | None = None) -> np.ndarray:
    """An array in memory as ``(n, h, w, c)``: uint8, or floats in [−1, 1]; see ``AuditSettings`` for the range.

    Raises:
        ValueError: another shape or dtype than that of the model's images.
    """
    array = np.asarray(images)
    good = array.dtype == np.uint8 or array.dtype.kind == "f"
    require(good, key, str(array.dtype), "must be an array of uint8, or of floats in [-1, 1]")
    array = array[..., None] if array.ndim == 3 and shape[2] == 1 else array
    allowed = f"must be (n, {', '.join(map(str, shape))}), the shape of the model's images, n >= 1"
    require(array.ndim == 4 and array.shape[1:] == tuple(shape) and len(array) >= 1, key, array.shape, allowed)
    if array.dtype == np.uint8:
        return array
    _check_range(key, array[:LOOKED_AT], pixel_range)
    return 2 * array - 1 if pixel_range == "0..1" else array


def _check_range(key: str, rows: np.ndarray, pixel_range: PixelRange | None) -> None:
    """Refuses floats that may be of [0, 1] as well as of [−1, 1]: none is negative, none exceeds 1."""
    values = rows[np.isfinite(rows)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    unclear = pixel_range is None and low >= 0 and 0 < high <= 1
    allowed = "may be of [0, 1] or of [-1, 1]: say which, as pixel_range='0..1' or pixel_range='-1..1'"
    require(not unclear, key, f"floats from {low:.3g} to {high:.3g}", allowed)


def _header(key: str, path: Path, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype of a stored array."""
    try:
        major, _ = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        return header(stream)
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{key}={path}: is no NumPy array: {shown(error)}") from error


def _may_be_images(stored: tuple[int, ...]) -> bool:
    """Whether a shape may be that of images, of a size that is not known."""
    return len(stored) == 3 or (len(stored) == 4 and stored[3] in (1, 3))


def _opened(key: str, path: Path, opened: contextlib.ExitStack, fits: Callable[[tuple[int, ...]], bool]) -> IO[bytes]:
    """The array's stream; ``fits`` tells by its shape whether an array holds images."""
    if path.suffix.lower() == ".npy":
        return opened.enter_context(path.open("rb"))
    try:
        archive = opened.enter_context(zipfile.ZipFile(path))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{key}={path}: is no .npz file: {shown(error)}") from error
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    try:
        chosen = _chosen(key, path, archive, names, fits)
        return opened.enter_context(archive.open(f"{chosen}.npy"))
    except (RuntimeError, zipfile.BadZipFile, NotImplementedError) as error:  # with a password, or packed otherwise
        raise ValueError(f"{key}={path}: cannot be unpacked: {shown(error)}") from error


def _chosen(
    key: str, path: Path, archive: zipfile.ZipFile, names: list[str], fits: Callable[[tuple[int, ...]], bool]
) -> str:
    """The array that holds the images."""
    if "images" in names or len(names) == 1:
        return "images" if "images" in names else names[0]
    likely = []
    for name in names:
        with archive.open(f"{name}.npy") as stream, contextlib.suppress(ValueError):
            likely += [name] if fits(_header(key, path, stream)[0]) else []
    chosen = FIRST if FIRST in likely else likely[0] if len(likely) == 1 else None
    allowed = f"must hold one array of images, or one named images; it holds {', '.join(names) or 'none'}"
    require(chosen is not None, key, str(path), allowed)
    return chosen
