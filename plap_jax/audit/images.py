"""The images that are audited, one at a time: a folder, an array on disk, or what the model has generated."""

import contextlib
import hashlib
import os
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from plap_jax.audit.prompts import Prompts
from plap_jax.audit.settings import PixelRange
from plap_jax.data import fingerprint
from plap_jax.data.decoding import Mode, Resize
from plap_jax.data.folder import SUFFIXES, decode, list_images, printable
from plap_jax.data.images import UnusableImage, scaled
from plap_jax.typing import require, shown

MODES: dict[int, Mode] = {1: "L", 3: "RGB"}
ARRAYS = (".npz", ".npy")
EXACT = "taken as they are"
LOOKED_AT = 64  # rows that tell in which range floats lie


class Source(Protocol):
    """Images in a fixed order.

    Attributes:
        names: one each; of an array, the number of the row.
        skipped: (name, reason) of what is no image to begin with.
        words: how they become arrays of the model's shape.
    """

    names: Sequence[str]
    skipped: Sequence[tuple[str, str]]
    words: str

    def read(self, index: int) -> np.ndarray:
        """Image ``(h, w, c)`` float32 in [−1, 1].

        Raises:
            UnusableImage: the reason, on one line.
        """
        ...

    def identity(self, indices: Sequence[int]) -> Any:
        """What changes when these images do, JSON-able, without decoding them."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Images with their prompts, one for each, or None."""

    source: Source
    prompts: Prompts = None

    def prompt(self, index: int) -> str | int | None:
        """Of one image."""
        return None if self.prompts is None else self.prompts[index]


class Subset:
    """Some images of a source, such as those with a prompt."""

    def __init__(self, source: Source, kept: Sequence[int], others: Sequence[tuple[str, str]]):
        self._source, self._kept, self.words = source, list(kept), source.words
        self.names = [source.names[i] for i in self._kept]
        self.skipped = [*source.skipped, *others]

    def read(self, index: int) -> np.ndarray:
        """As the source does."""
        return self._source.read(self._kept[index])

    def identity(self, indices: Sequence[int]) -> Any:
        """As the source says."""
        return self._source.identity([self._kept[i] for i in indices])


class FolderSource:
    """The PNG, JPEG and WebP files of a folder and its sub-folders, in the order of their names.

    Args:
        key: of the config, for messages.
        path: the folder.
        shape: of the model's images.
        resize, crop: as for ``plap_jax.data.decoding.as_array``.

    Raises:
        ValueError: no image by its name, or a model whose images no file holds.
    """

    def __init__(self, key: str, path: Path, shape: tuple[int, ...], resize: Resize, crop: int | None):
        height, width, channels = shape
        fits = height == width and channels in MODES
        allowed = f"must be .npz or .npy: the model's images are {shape}, and files become squares of 1 or 3 channels"
        require(fits, key, str(path), allowed)
        require(crop is None or crop >= height, "crop", crop, f"must be null or at least {height}, the model's size")
        self._folder, self._how = path, (height, MODES[channels], resize, crop)
        self._files, self.skipped = list_images(path)
        require(bool(self._files), key, str(path), f"must hold images ({', '.join(SUFFIXES)}), and none was found")
        self.names = [printable(file) for file in self._files]
        cut = "largest central square" if crop is None else f"central square of {crop} pixels"
        rule = f"{cut}, averaged down to" if resize == "center-crop" else "only files of"
        self.words = f"{resize}: {rule} {height}×{width}, {'grey' if channels == 1 else 'RGB'}, turned upright"

    def read(self, index: int) -> np.ndarray:
        """Decoded anew each time."""
        return decode(self._folder / self._files[index], *self._how)

    def identity(self, indices: Sequence[int]) -> Any:
        """The folder, names, sizes and times of the last change: archives unpack with equal times."""
        found = []
        for index in indices:
            try:
                stat = (self._folder / self._files[index]).stat()
                found.append([self.names[index], stat.st_size, stat.st_mtime_ns])
            except OSError:
                found.append([self.names[index], None, None])  # gone meanwhile: skipped when it is read
        return [str(self._folder.resolve()), list(self._how), found]


class ArrayFile:
    """The rows of an array ``(n, h, w, c)``, or ``(n, h, w)`` for grey, read one at a time from .npy or .npz.

    uint8 becomes 2 · v/255 − 1; floats must lie in [−1, 1]. Of an .npz the array "images", or the only one.

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

    def __init__(self, key: str, path: Path, shape: tuple[int, ...], pixel_range: PixelRange | None = None):
        opened = contextlib.ExitStack()
        self._stream = _opened(key, path, opened)
        weakref.finalize(self, opened.close)
        try:
            stored, fortran, dtype = _header(self._stream)
        except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{key}={path}: is no NumPy array: {shown(error)}") from error
        good = dtype == np.uint8 or dtype.kind == "f"
        allowed = f"holds {dtype}: must be uint8, or floats in [-1, 1]" + "; no pickled objects" * dtype.hasobject
        require(good, key, str(path), allowed)
        require(not fortran, key, str(path), "must be in C order (numpy.ascontiguousarray)")
        expected = [shape, shape[:2]] if shape[2] == 1 else [shape]
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


class Memory:
    """Images that are in memory already, such as generated ones: ``(n, h, w, c)``."""

    skipped: Sequence[tuple[str, str]] = ()

    def __init__(self, images: np.ndarray, words: str = EXACT, *, generated: bool = False):
        self._images, self.words, self._generated = images, words, generated
        self.names = [str(i) for i in range(len(images))]

    def read(self, index: int) -> np.ndarray:
        """A row; a generated image is taken as it is, as it may exceed [−1, 1] a little."""
        return self._images[index].astype(np.float32) if self._generated else usable(self._images[index])

    def identity(self, indices: Sequence[int]) -> Any:
        """A hash of the values."""
        return fingerprint(self._images[list(indices)])


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
        raise UnusableImage(f"holds {float(np.abs(image).max()):.4g}, floats must lie in [-1, 1]")
    return image.astype(np.float32)


def open_source(
    key: str,
    images: str | os.PathLike | np.ndarray,
    shape: tuple[int, ...],
    resize: Resize,
    crop: int | None,
    pixel_range: PixelRange | None = None,
) -> Source:
    """The images of a folder, a file or an array, for a model of ``shape``.

    Raises:
        ValueError: there is none, or it does not fit the model; under the name ``key``.
    """
    if not isinstance(images, str | os.PathLike):
        return Memory(rows_of(key, images, shape, pixel_range))
    place = Path(images).expanduser()
    if place.is_dir():
        return FolderSource(key, place, shape, resize, crop)
    is_array = place.suffix.lower() in ARRAYS and place.is_file()
    require(is_array, key, str(images), "must be a folder of images, an .npz or an .npy file that is there")
    return ArrayFile(key, place, shape, pixel_range)


def shape_of(images: Any) -> tuple[int, ...] | None:
    """``(h, w, c)`` of the images of an array or an array's file; None where they are files, which are resized."""
    if isinstance(images, str | os.PathLike):
        place = Path(images).expanduser()
        if place.suffix.lower() not in ARRAYS or not place.is_file():
            return None
        with contextlib.ExitStack() as opened:
            stored, _, _ = _header(_opened("images", place, opened))
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
    allowed = "may be of [0, 1] or of [-1, 1]: say which, as pixel_range=0..1 or pixel_range=-1..1"
    require(not unclear, key, f"floats from {low:.3g} to {high:.3g}", allowed)


def read_all(source: Source) -> tuple[np.ndarray, list[str]]:
    """All usable images and their names: for a training set, which is held in memory."""
    images, names = [], []
    for index, name in enumerate(source.names):
        try:
            images.append(source.read(index))
            names.append(name)
        except UnusableImage:
            continue
    return np.stack(images) if images else np.zeros((0, 1)), names


def digests_of(images: Iterable[np.ndarray]) -> np.ndarray:
    """A hash of each image as the model sees it, ``(n,)`` uint64: equal ones are equal images."""
    found = [hashlib.blake2b(np.ascontiguousarray(image), digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(found), np.uint64)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype of a stored array."""
    major, _ = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    return header(stream)


def _opened(key: str, path: Path, opened: contextlib.ExitStack) -> IO[bytes]:
    if path.suffix.lower() == ".npy":
        return opened.enter_context(path.open("rb"))
    try:
        archive = opened.enter_context(zipfile.ZipFile(path))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{key}={path}: is no .npz file: {shown(error)}") from error
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    chosen = "images" if "images" in names else names[0] if len(names) == 1 else None
    allowed = f"must hold one array, or one named images; it holds {', '.join(names) or 'none'}"
    require(chosen is not None, key, str(path), allowed)
    try:
        return opened.enter_context(archive.open(f"{chosen}.npy"))
    except (RuntimeError, zipfile.BadZipFile, NotImplementedError) as error:  # with a password, or packed otherwise
        raise ValueError(f"{key}={path}: cannot be unpacked: {shown(error)}") from error
