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
NO_IMAGE = f"not named as an image ({', '.join(SUFFIXES)})"
Name = tuple[str, str]  # what files of one image have in common, and what tells them apart
Member = tuple[str, int, int]  # its name, where its content begins, and how long it is


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
        self._key = key
        where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1].name}"
        super().__init__(key, where, shape, resize, crop)
        self._paths, self.names, self.skipped = list(paths), [], []
        members = []
        for number in range(len(self._paths)):
            images, others = self._listed(number)
            prefix, stems = f"{self._paths[number].name}/", {stem for stem, _ in images}
            self.names += [prefix + name for name, *_ in images.values()]
            members.append(np.array([(number, start, size) for _, start, size in images.values()], np.int64))
            alone = {stem: name for (stem, _), (name, *_) in others.items() if stem not in stems}
            self.skipped += [(prefix + name, NO_IMAGE) for name in alone.values()]
        self.skipped.sort()
        allowed = f"must hold images ({', '.join(SUFFIXES)}), and none was found"
        require(bool(self.names), key, where, allowed)
        # Where each is, as numbers: 24 bytes rather than hundreds, of images without number.
        self._members = np.concatenate([one.reshape(-1, 3) for one in members])

    def read(self, index: int) -> np.ndarray:
        """From the tar, decoded anew each time."""
        return self.decoded(BytesIO(self._content(*self._members[index].tolist())))

    @cached_property
    def captions(self) -> list[str | None]:
        """What stands in the text or JSON file beside each image; None where there is none. It lists the tars anew."""
        found = []
        for number in range(len(self._paths)):
            images, others = self._listed(number)
            for stem, _ in images:
                files = [(suffix, others[stem, suffix][1:]) for suffix in CAPTIONS if (stem, suffix) in others]
                texts = (_caption(suffix, self._content(number, *place)) for suffix, place in files[:1])
                found.append(next(texts, None))
        return found

    def _listed(self, number: int) -> tuple[dict[Name, Member], dict[Name, Member]]:
        """The images of one tar, in the order of their names, and the other files."""
        images, others = {}, {}
        for one in _members(self._key, self._paths[number]):
            stem, suffix = _split(one[0])
            (images if suffix in SUFFIXES else others)[stem, suffix] = one
        return {name: images[name] for name in sorted(images)}, others

    def identity(self, indices: Sequence[int]) -> Any:
        """The tars, their sizes and the times of their last change, and which images."""
        numbers = np.unique(self._members[list(indices), 0]).tolist()
        files = states_of(self._paths[number] for number in numbers)
        return [files, list(self._how), [self.names[index] for index in indices]]

    def _content(self, number: int, start: int, length: int) -> bytes:
        try:
            with self._paths[number].open("rb") as stream:
                stream.seek(start)
                content = stream.read(length)
        except OSError as error:
            raise UnusableImage(f"cannot be read: {shown(error)}") from error
        if len(content) < length:
            raise UnusableImage("the tar ends before it")
        return content


def _members(key: str, path: Path) -> list[Member]:
    """Name and place of each file of a tar."""
    try:
        with tarfile.open(path, "r:") as archive:
            found = []
            while (one := archive.next()) is not None:
                archive.members.clear()  # which it would keep
                if one.isfile() and not one.sparse and not _hidden(one.name):
                    found.append((printable(one.name), one.offset_data, one.size))
            return found
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{key}={path}: is no uncompressed tar: {shown(error)}") from error


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
