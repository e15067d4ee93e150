"""The images that are audited, one at a time: a folder, an array on disk, or what the model has generated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from plap_jax.audit.arrays import EXACT, usable
from plap_jax.audit.prompts import Prompts
from plap_jax.data import fingerprint
from plap_jax.data.decoding import Mode, Resize
from plap_jax.data.folder import SUFFIXES, decode, form_of, list_images, printable
from plap_jax.data.images import UnusableImage
from plap_jax.typing import require

MODES: dict[int, Mode] = {1: "L", 3: "RGB"}
COLOURS: dict[Mode, str] = {"L": "grey", "RGB": "RGB"}
LOOKED_AT = 32  # files, to see whether they have the model's size and colours


class Source(Protocol):
    """Images in a fixed order.

    Attributes:
        names: one each; of an array, the number of the row.
        skipped: (name, reason) of what is no image to begin with.
        words: how they become arrays of the model's shape.
        in_order: one thread reads, forward; else several may at once.
        converted: in words, which of some files are of another size or colour than the model's images; None: none, or
            that is not known before they are read.
    """

    names: Sequence[str]
    skipped: Sequence[tuple[str, str]]
    words: str
    in_order: bool
    converted: str | None

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
    """Some images of a source, such as those with a prompt; ``alone`` without what the source has skipped."""

    def __init__(self, source: Source, kept: Sequence[int], others: Sequence[tuple[str, str]], *, alone: bool = False):
        self._source, self._kept, self.words, self.in_order = source, list(kept), source.words, source.in_order
        self.names = [source.names[i] for i in self._kept]
        self.skipped = [*(() if alone else source.skipped), *others]

    @property
    def converted(self) -> str | None:
        """As the source says."""
        return self._source.converted

    def read(self, index: int) -> np.ndarray:
        """As the source does."""
        return self._source.read(self._kept[index])

    def identity(self, indices: Sequence[int]) -> Any:
        """As the source says."""
        return self._source.identity([self._kept[i] for i in indices])


class EncodedImages:
    """What images have in common that lie as PNG, JPEG or WebP, of any size, wherever that is.

    Args:
        key: of the config, for messages.
        path: where they lie, for messages.
        shape: of the model's images.
        resize, crop: as for ``plap_jax.data.decoding.as_array``.

    Raises:
        ValueError: a model whose images no file holds, or a crop smaller than these.
    """

    in_order, converted = False, None

    def __init__(self, key: str, path: str, shape: tuple[int, ...], resize: Resize, crop: int | None):
        height, width, channels = shape
        fits = channels in MODES
        allowed = f"must be .npz or .npy: the model's images are {shape}, and files have 1 or 3 channels"
        allowed += " (the shape is height, width, channels)" * (height in MODES)
        require(fits, key, path, allowed)
        short = min(height, width)
        allowed = f"must not be given, or be at least {short}, the model's size"
        require(crop is None or crop >= short, "crop", crop, allowed)
        size = height if height == width else (height, width)
        self._how, self._form = (size, MODES[channels], resize, crop), (width, height, MODES[channels])
        form = "square" if height == width else f"rectangle of {height}:{width}"
        of = "pixels" if height == width else "pixels on its shorter side"
        cut = f"largest central {form}" if crop is None else f"central {form} of {crop} {of}"
        rule = f"{cut}, averaged down to" if resize == "center-crop" else "only files of"
        self.words = f"{resize}: {rule} {height}×{width}, {COLOURS[MODES[channels]]}, turned upright"

    def decoded(self, file: Path | BytesIO) -> np.ndarray:
        """One image as the model takes it.

        Raises:
            UnusableImage: the reason, on one line.
        """
        return decode(file, *self._how)


def states_of(paths: Iterable[Path]) -> list[list[str | int]]:
    """Where files lie, how large they are, and when they were last changed."""
    stats = [(path, path.stat()) for path in paths]
    return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


class FolderSource(EncodedImages):
    """The PNG, JPEG and WebP files of a folder and its sub-folders, in the order of their names.

    Arguments as of ``EncodedImages``.

    Raises:
        ValueError: no image by its name; as ``EncodedImages``.
    """

    def __init__(self, key: str, path: Path, shape: tuple[int, ...], resize: Resize, crop: int | None):
        super().__init__(key, str(path), shape, resize, crop)
        self._folder = path
        self._files, self.skipped = list_images(path)
        require(bool(self._files), key, str(path), f"must hold images ({', '.join(SUFFIXES)}), and none was found")
        self.names = [printable(file) for file in self._files]

    def read(self, index: int) -> np.ndarray:
        """Decoded anew each time."""
        return self.decoded(self._folder / self._files[index])

    @property
    def converted(self) -> str | None:
        """By the headers of at most 32 files, over the whole list."""
        some = np.unique(np.linspace(0, len(self._files) - 1, LOOKED_AT).astype(int)).tolist()
        forms = {self.names[index]: form_of(self._folder / self._files[index]) for index in some}
        others = [(name, form) for name, form in forms.items() if form is not None and self._converts(*form)]
        if not others:
            return None
        name, (width, height, mode) = others[0]
        return (
            f"{len(others)} of {len(some)} files looked at, such as {name} ({height}×{width}, {COLOURS[mode]}), are "
            f"not as the model's images, and are converted; {self.words}"
        )

    def _converts(self, width: int, height: int, mode: Mode) -> bool:
        """Whether such a file is taken, and changed; others are skipped with a reason, or taken as they are."""
        (*sides, own), (_, _, resize, crop) = self._form, self._how
        if resize == "refuse":
            return [width, height] == sides and mode != own
        smallest = sides if crop is None else [crop * side // min(sides) for side in sides]
        return width >= smallest[0] and height >= smallest[1] and (width, height, mode) != self._form

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


class Memory:
    """Images that are in memory already, such as generated ones: ``(n, h, w, c)``."""

    skipped: Sequence[tuple[str, str]] = ()
    in_order, converted = False, None

    def __init__(self, images: np.ndarray, words: str = EXACT, *, generated: bool = False):
        self._images, self.words, self._generated = images, words, generated
        self.names = [str(i) for i in range(len(images))]

    def read(self, index: int) -> np.ndarray:
        """A row; a generated image is taken as it is, as it may exceed [−1, 1] a little."""
        return self._images[index].astype(np.float32) if self._generated else usable(self._images[index])

    def identity(self, indices: Sequence[int]) -> Any:
        """A hash of the values."""
        return fingerprint(self._images[list(indices)])


def read_all(source: Source) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """All usable images, their names, and (name, reason) of the others: for a training set, which is held in memory."""
    images, names, skipped = [], [], list(source.skipped)
    for index, name in enumerate(source.names):
        try:
            images.append(source.read(index))
            names.append(name)
        except UnusableImage as error:
            skipped.append((name, str(error)))
    return np.stack(images) if images else np.zeros((0, 1)), names, skipped


def digests_of(images: Iterable[np.ndarray]) -> np.ndarray:
    """A hash of each image as the model sees it, ``(n,)`` uint64: equal ones are equal images."""
    found = [hashlib.blake2b(np.ascontiguousarray(image), digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(found), np.uint64)


def pixels(image: np.ndarray) -> np.ndarray | None:
    """``(h, w, c)`` in [−1, 1] as uint8; None where it has neither one nor three channels."""
    if image.shape[2] not in (1, 3):
        return None
    return np.round(np.clip((image + 1) * 127.5, 0, 255)).astype(np.uint8)


def picture(source: Source, index: int) -> np.ndarray | None:
    """An image again, as ``pixels``; None where it is gone since it was scored, which costs no report."""
    try:
        return pixels(source.read(int(index)))
    except UnusableImage:
        return None
