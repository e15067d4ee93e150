"""The file of prompts: which are known to be memorized, and the training image behind each."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plap_jax.audit.images import MODES
from plap_jax.data.folder import decode
from plap_jax.data.images import UnusableImage
from plap_jax.typing import require, shown

HEADER = ["prompt", "memorized", "image"]
FLAGS = {"1": True, "0": False}


@dataclass(frozen=True)
class Listed:
    """Prompts in the order of the file.

    Attributes:
        prompts: n texts, each once.
        memorized: ``(n,)`` booleans, as the file says.
        images: number of the prompt → the training image behind it, ``(h, w, c)`` in [−1, 1], where there is one.
        skipped: (prompt, reason) of images that cannot be used. Nothing takes their place.
    """

    prompts: list[str]
    memorized: np.ndarray
    images: dict[int, np.ndarray]
    skipped: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.prompts)


def read_listed(path: str, shape: tuple[int, ...]) -> Listed:
    """The lines of a CSV file with the columns prompt, memorized (1 or 0) and image (a file beside it, or nothing).

    Args:
        path: the file, UTF-8.
        shape: of the model's images; reference images are cut to its proportions and averaged down.

    Raises:
        ValueError: no such file, another header, a line that is not as it should be, a prompt twice, or a class without
            a prompt.
    """
    place = Path(path)
    require(place.is_file(), "prompts", path, "must be a CSV file that is there")
    height, width, channels = shape
    require(channels in MODES, "model", shape, "must make images of 1 or 3 channels")
    try:
        with place.open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle, strict=True) if row]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"prompts={path}: is no CSV file in UTF-8: {shown(error)}") from error
    allowed = f"must begin with the line {','.join(HEADER)}, and begins with {shown(rows[:1])}"
    require(rows[:1] == [HEADER], "prompts", path, allowed)
    for number, row in enumerate(rows[1:], 2):
        good = len(row) == len(HEADER) and row[1] in FLAGS
        require(good, "prompts", path, f"row {number} must be a prompt, 1 or 0, and an image or nothing")
    prompts = [row[0] for row in rows[1:]]
    twice = [prompt for prompt, times in Counter(prompts).items() if times > 1]
    require(not twice, "prompts", path, f"holds {len(twice)} prompt(s) twice, the first is {shown(twice[:1])}")
    memorized = np.asarray([FLAGS[row[1]] for row in rows[1:]], bool)
    both = bool(memorized.any() and not memorized.all())
    require(both, "prompts", path, "must hold memorized prompts, 1, and others, 0")
    images, skipped = {}, []
    for i, (prompt, _, image) in enumerate(rows[1:]):
        if image:
            try:
                images[i] = decode(place.parent / image, (height, width), MODES[channels], "center-crop")
            except UnusableImage as reason:
                skipped.append((prompt, f"{image}: {reason}"))
    return Listed(prompts, memorized, images, skipped)


def distances(images: Sequence[np.ndarray], references: Sequence[np.ndarray | None]) -> np.ndarray:
    """√(mean (a − b)²) of each image and its reference, in float64: ``(n,)``, NaN where there is no reference."""
    found = [
        np.nan if b is None else float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))
        for a, b in zip(images, references, strict=True)
    ]
    return np.asarray(found)
