"""Load a folder of your own images."""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from plap_jax.data.decoding import Mode, Resize, Size, as_array, check_shape
from plap_jax.data.images import ImageData, UnusableImage, split_distinct
from plap_jax.typing import require

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")  # by content, not by name
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # of EXIF
GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16B")


def imagefolder(
    *,
    path: str | None,
    seed: int,
    size: int,
    mode: Literal["RGB", "L"] = "RGB",
    n_heldout: int,
    n_train: int | None = None,
    on_bad: Literal["skip", "refuse"] = "skip",
    resize: Literal["center-crop", "refuse"] = "center-crop",
    crop: int | None = None,
    duplicate_distance: float = 0.05,
) -> ImageData:
    """Load the PNG, JPEG and WebP files of a folder and its sub-folders, converted by `decoding.as_array`.

    Files are sorted by name; names that begin with a dot are ignored, and links to folders are not followed. If every
    image lies in a sub-folder of ``path``, sub-folders are the classes, numbered in the order of their names. With
    ``n_train``, files are read in random order until there are enough; the others are not checked.

    Args:
        path: the folder.
        seed: of the split and the order.
        size: height and width in pixels.
        mode: "RGB" for three channels, "L" for grey.
        n_heldout: images that are never trained on.
        n_train: images that may be trained on; None for all others.
        on_bad: what to do with an unusable file (not an image by name or content, truncated, animated, smaller than
            ``size``): "skip" lists it in ``skipped``, "refuse" stops at the first one.
        resize: "center-crop" crops the central square and downscales it; "refuse" treats images that are not
            size × size as unusable.
        crop: side of the central square; None for the largest.
        duplicate_distance: √(mean (a − b)²) up to which two images count as one, in units of [−1, 1]. The default
            finds one photograph saved twice (recompressed or resized), not two similar ones.

    Returns:
        ``ImageData`` of shape (size, size, 3 or 1).

    Raises:
        ValueError: no such folder, no image in it, too few that can be used, a file that cannot be used under
            on_bad="refuse", or an argument out of range.
    """
    check_shape(size, mode, resize, crop)
    require(on_bad in ("skip", "refuse"), "on_bad", on_bad, "must be skip or refuse")
    require(path is not None, "path", path, "must be a folder of images")
    folder = Path(path)
    require(folder.is_dir(), "path", path, "must be a folder of images, and there is no such folder")
    files, others = list_images(folder)
    if on_bad == "refuse" and others:
        raise _refusal(*others[0])
    require(bool(files), "path", path, f"must hold images ({', '.join(SUFFIXES)}), and none was found")

    def read(index: int) -> np.ndarray:
        try:
            return decode(folder / files[index], size, mode, resize, crop)
        except UnusableImage as reason:
            if on_bad == "refuse":
                raise _refusal(printable(files[index]), str(reason)) from reason
            raise

    found = split_distinct(
        read,
        [printable(file) for file in files],
        seed=seed,
        n_train=n_train,
        n_heldout=n_heldout,
        duplicate_distance=duplicate_distance,
        name=printable(folder.resolve().name),
        labels=_classes(files),
    )
    return replace(found, skipped=tuple(sorted({*others, *found.skipped})))


def _refusal(name: str, reason: str) -> ValueError:
    return ValueError(f"file={name!r}: {reason}; on_bad=skip leaves such files out")


def list_images(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Image files by their names, sorted, relative to the folder; and (name, reason) of everything else.

    Names that begin with a dot are ignored. Links to files are followed, links to folders are not.
    """
    files, others = [], []

    def cannot_enter(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder)
        others.append((printable(name), f"cannot be entered: {error.strerror}"))

    for directory, subfolders, names in os.walk(folder, onerror=cannot_enter):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        links = [Path(directory, name) for name in subfolders if Path(directory, name).is_symlink()]
        others += [(printable(link.relative_to(folder)), "a link to a folder, not followed") for link in links]
        for name in names:
            file = Path(directory, name).relative_to(folder)
            if name.startswith("."):
                continue
            if file.suffix.lower() not in SUFFIXES:
                others.append((printable(file), f"not named as an image ({', '.join(SUFFIXES)})"))
            elif not (folder / file).is_file():  # reading a pipe would block
                others.append((printable(file), "not a file that can be read"))
            else:
                files.append(file)
    return sorted(files), sorted(others)


def decode(file: Path | BytesIO, size: Size, mode: Mode, resize: Resize, crop: int | None = None) -> np.ndarray:
    """Load one image file: ``(height, width, 3 or 1)`` float32 in [−1, 1], converted by `decoding.as_array`.

    Args:
        file: where it is, or what it holds.
        size, mode, resize, crop: as of ``as_array``.

    Raises:
        UnusableImage: with the reason, on one line.
    """
    try:
        if (file.getbuffer().nbytes if isinstance(file, BytesIO) else file.stat().st_size) == 0:
            raise UnusableImage("empty")
        with _lenient, Image.open(file, formats=FORMATS) as image:
            return as_array(image, size=size, mode=mode, resize=resize, crop=crop)
    except UnusableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImage("no PNG, JPEG or WebP by its content") from error
    except Exception as error:  # decoders raise all kinds of errors on malformed bytes
        raise UnusableImage(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def form_of(file: Path) -> tuple[int, int, Mode] | None:
    """Width and height as seen upright, and whether in colour, without decoding it; None where it is no image file."""
    try:
        with _lenient, Image.open(file, formats=FORMATS) as image:
            sides = image.size[::-1] if image.getexif().get(ORIENTATION) in ON_ITS_SIDE else image.size
            return *sides, "L" if image.mode in GREY else "RGB"
    except Exception:  # decoders raise all kinds of errors on malformed bytes
        return None


class _Lenient(AbstractContextManager):
    """Pillow without its warnings, and with profiles and texts of megabytes in a PNG, which it takes for an attack.

    Both are settings of the whole process: the first thread that decodes makes them, the last one takes them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._undo = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
                before = PngImagePlugin.MAX_TEXT_CHUNK
                self._undo.callback(setattr, PngImagePlugin, "MAX_TEXT_CHUNK", before)
                PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


_lenient = _Lenient()


def _classes(files: list[Path]) -> list[int] | None:
    """The number of each file's outermost sub-folder, or None if a file lies in none."""
    if any(len(file.parts) < 2 for file in files):
        return None
    number = {name: i for i, name in enumerate(sorted({file.parts[0] for file in files}))}
    return [number[file.parts[0]] for file in files]


def printable(path: Path | str) -> str:
    """A file's name as text: names are bytes and need not be valid text."""
    return os.fspath(path).encode("utf-8", "replace").decode()
