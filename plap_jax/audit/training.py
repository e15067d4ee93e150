"""The training set, where it is at hand: the nearest training image of every audited one."""

from functools import cached_property

import numpy as np

from plap_jax.audit.images import Source, digests_of, read_all
from plap_jax.data import fingerprint
from plap_jax.data.duplicates import distinct, groups, thumbnail
from plap_jax.data.rows import FileRows, stacked
from plap_jax.labels import find_copies
from plap_jax.typing import require

COLUMNS = ("nearest", "ratio", "distance")


class Training:
    """Training images, each once, held in memory.

    Args:
        source: of the images, of which those that cannot be read are left out.
        max_ratio, max_distance: what counts as a copy, see ``plap_jax.labels.find_copies``.

    Raises:
        ValueError: fewer than two different images.
    """

    def __init__(self, source: Source, max_ratio: float, max_distance: float):
        images, names, skipped = read_all(source)
        kept, _ = distinct(images, 0.0)
        why = "".join(f"; of those skipped the first is {name}: {reason}" for name, reason in skipped[:1])
        allowed = f"must hold at least two different ones{why}"
        require(len(kept) >= 2, "training", f"{len(kept)} images", allowed)
        self.images, self.names = images[kept], [names[i] for i in kept.tolist()]
        self._limits = {"max_ratio": max_ratio, "max_distance": max_distance}

    @cached_property
    def key(self) -> str:
        """A hash of the images and the criteria."""
        return fingerprint(self.images, np.asarray(list(self._limits.values())))

    @cached_property
    def digests(self) -> np.ndarray:
        """``(m,)``, as ``digests_of``."""
        return digests_of(self.images)

    @cached_property
    def _thumbnails(self) -> np.ndarray:
        return np.stack([thumbnail(image) for image in self.images])

    def near(self, thumbnails: np.ndarray | FileRows, distance: float) -> np.ndarray:
        """Which images ``(n,)`` are near-duplicates of a training image, by their thumbnails."""
        labels = groups(stacked([thumbnails, self._thumbnails]), distance)
        return np.isin(labels[: len(thumbnails)], labels[len(thumbnails) :])

    def columns(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The index of the nearest, d₁/d₂ and d₁/√d of ``(n, h, w, c)``, ``(n,)`` each."""
        found = find_copies(images, self.images, **self._limits)
        return {name: getattr(found, name) for name in COLUMNS}
