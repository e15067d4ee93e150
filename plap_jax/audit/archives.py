"""Images in tars, as WebDataset has them: ``0001.jpg`` beside ``0001.txt`` with its caption."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from plap_jax.audit.images import EncodedImages, states_of
from plap_jax.data.decoding import Resize
from plap_jax.data.folder import SUFFIXES, printable
from plap_jax.data.images import UnusableImage
from plap_jax.typing import require, shown

TAR = ".tar"
CAPTIONS = (".txt", ".json", ".caption")
FIELDS = ("caption", "text", "prompt")  # of a JSON file, and of a table: the first that is there
Member = tuple[int, int, int]  # number of the tar, where its content begins, and how long it is


class TarSource(EncodedImages):
    """The images of uncompressed tars, in the order of their names; read where they lie.

    Args:
        key: of the config, for messages.
        paths: of the tars.
        shape, resize, crop: as of ``EncodedImages``.

    Raises:
        ValueError: no tar, or no image in any; as ``EncodedImages``.
    """

    def __init__(self, key: str, paths: Sequence[Path], shape: tuple[int, ...], resize: Resize, crop: int | None):
        where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1].name}"
        super().__init__(key, where, shape, resize, crop)
        self._paths = list(paths)
        images, others = {}, {}
        for number, path in enumerate(self._paths):
            for name, member in _members(key, number, path):
                stem, suffix = _split(name)
                kind = images if suffix in SUFFIXES else others
                kind[f"{path.name}/{stem}", suffix] = (name, member)
        allowed = f"must hold images ({', '.join(SUFFIXES)}), and none was found"
        require(bool(images), key, where, allowed)
        chosen = sorted(images.items(), key=lambda one: (one[1][1][0], one[1][0]))
        self.names = [f"{self._paths[member[0]].name}/{name}" for _, (name, member) in chosen]
        self._stems, self._members = [stem for (stem, _), _ in chosen], [member for _, (_, member) in chosen]
        self._others, stems = others, set(self._stems)
        alone = {stem: f"{self._paths[member[0]].name}/{name}" for (stem, _), (name, member) in others.items()}
        told = f"not named as an image ({', '.join(SUFFIXES)})"
        self.skipped = sorted((name, told) for stem, name in alone.items() if stem not in stems)

    def read(self, index: int) -> np.ndarray:
        """From the tar, decoded anew each time."""
        return self.decoded(BytesIO(self._content(self._members[index])))

    @cached_property
    def captions(self) -> list[str | None]:
        """What stands in the text or JSON file beside each image; None where there is none."""
        found = []
        for stem in self._stems:
            files = [(suffix, self._others[stem, suffix][1]) for suffix in CAPTIONS if (stem, suffix) in self._others]
            found.append(next((_caption(suffix, self._content(member)) for suffix, member in files), None))
        return found

    def identity(self, indices: Sequence[int]) -> Any:
        """The tars, their sizes and the times of their last change, and which images."""
        numbers = sorted({self._members[index][0] for index in indices})
        files = states_of(self._paths[number] for number in numbers)
        return [files, list(self._how), [self.names[index] for index in indices]]

    def _content(self, member: Member) -> bytes:
        number, start, length = member
        try:
            with self._paths[number].open("rb") as stream:
                stream.seek(start)
                content = stream.read(length)
        except OSError as error:
            raise UnusableImage(f"cannot be read: {shown(error)}") from error
        if len(content) < length:
            raise UnusableImage("the tar ends before it")
        return content


def _members(key: str, number: int, path: Path) -> list[tuple[str, Member]]:
    """Name and place of each file of a tar."""
    try:
        with tarfile.open(path, "r:") as archive:
            files = [one for one in archive if one.isfile() and not one.sparse]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{key}={path}: is no uncompressed tar: {shown(error)}") from error
    return [(printable(one.name), (number, one.offset_data, one.size)) for one in files if not _hidden(one.name)]


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in name.split("/"))


def _split(name: str) -> tuple[str, str]:
    """What files of one image have in common, and what tells them apart: at the first dot, as WebDataset has it."""
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}/{stem}", f"{dot}{suffix.lower()}"


def _caption(suffix: str, content: bytes) -> str | None:
    """The text of a caption's file; None where there is none."""
    try:
        text = content.decode("utf-8-sig")
        if suffix != ".json":
            return text.strip()
        found = json.loads(text)
    except ValueError:
        return None
    texts = [found.get(name) for name in FIELDS] if isinstance(found, dict) else []
    return next((one for one in texts if isinstance(one, str)), None)
