"""Images split at random into a training pool and a held-out pool: scaled, without near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from plap_jax.data.digest import fingerprint
from plap_jax.data.duplicates import distinct
from plap_jax.typing import ArrayLike, require


class UnusableImage(ValueError):
    """An image that cannot be used; the message is the reason."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """Distinct images in two pools, training and held-out, that differ in nothing but their use.

    Attributes:
        train: ``(n, h, w, c)`` float32 in [−1, 1], in random order (exchangeable): may be trained on.
        heldout: ``(m, h, w, c)``, likewise, never trained on.
        train_labels: ``(n,)`` int32 classes, or None where the source has none.
        heldout_labels: ``(m,)``, likewise.
        duplicates: near-duplicates among the originals, of which one was dropped: rows (name of the one kept, name of
            the one dropped, √(mean (a − b)²) between them).
        skipped: rows (name, reason) of unusable images.
        name: of the data set.
    """

    train: np.ndarray
    heldout: np.ndarray
    train_labels: np.ndarray | None = None
    heldout_labels: np.ndarray | None = None
    duplicates: tuple[tuple[str, str, float], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    name: str = "images"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of both pools, over dtypes, shapes and values, in hexadecimal."""
        return fingerprint(self.train, self.heldout)


def scaled(values: ArrayLike, highest: float) -> np.ndarray:
    """Scale 0 … highest to −1 … 1 in float32: 2 · values/highest − 1. Cast first, since bytes would wrap around."""
    return np.asarray(values, np.float32) * np.float32(2 / highest) - 1


def split_distinct(
    read: Callable[[int], np.ndarray],
    names: Sequence[str],
    *,
    seed: int,
    n_train: int | None,
    n_heldout: int,
    duplicate_distance: float,
    name: str,
    labels: Sequence[int] | np.ndarray | None = None,
) -> ImageData:
    """Split images at random into the two pools, after removing near-duplicates.

    Images are read in random order until there are enough, so memory holds only those that are used. Of near-duplicates
    the first in the order of ``names`` is kept: if all images are read, the seed changes only the split.

    Args:
        read: maps an index to an image ``(h, w, c)`` float32 in [−1, 1]; images that raise `UnusableImage` are skipped.
        names: of the originals, one each.
        seed: of the order.
        n_train: images to train on, ≥ 1; None for all that are not held out.
        n_heldout: images that are held out, ≥ 1.
        duplicate_distance: see `duplicates.distinct`.
        name: of the data set.
        labels: classes, one for each name.

    Returns:
        ``ImageData``.

    Raises:
        ValueError: numbers out of range, or fewer usable and distinct images than asked for.
    """
    require(n_train is None or n_train >= 1, "n_train", n_train, "must be >= 1, or null for all that are left")
    require(n_heldout >= 1, "n_heldout", n_heldout, "must be >= 1")
    rng = np.random.default_rng(seed)
    waiting = rng.permutation(len(names))
    wanted = len(names) if n_train is None else n_train + n_heldout
    images: dict[int, np.ndarray] = {}
    skipped: list[tuple[str, str]] = []
    members, kept, rows = np.zeros(0, int), np.zeros(0, int), []
    while len(kept) < wanted and len(waiting):
        batch, waiting = np.split(waiting, [wanted - len(kept)])
        for index in batch.tolist():
            try:
                images[index] = read(index)
            except UnusableImage as reason:
                skipped.append((names[index], str(reason)))
        if images:
            members = np.array(sorted(images))
            kept, rows = distinct(np.stack([images[i] for i in members.tolist()]), duplicate_distance)
    needed = n_heldout + (n_train or 1)
    allowed = f"needs {needed} images, and {name} has {len(kept)} that are usable and distinct"
    allowed += f" ({len(rows)} near-duplicates dropped, {len(skipped)} skipped)"
    if n_train is None:
        require(len(kept) >= needed, "n_heldout", n_heldout, f"with one to train on {allowed}")
    else:
        require(len(kept) >= needed, "n_train", n_train, f"with n_heldout={n_heldout} {allowed}")
    heldout, train = np.split(rng.permutation(members[kept])[: n_train and needed], [n_heldout])
    return ImageData(
        train=np.stack([images[i] for i in train.tolist()]),
        heldout=np.stack([images[i] for i in heldout.tolist()]),
        train_labels=None if labels is None else np.asarray(labels)[train].astype(np.int32),
        heldout_labels=None if labels is None else np.asarray(labels)[heldout].astype(np.int32),
        duplicates=named(rows, [names[i] for i in members.tolist()]),
        skipped=tuple(sorted(skipped)),
        name=name,
    )


def named(rows: list[tuple[int, int, float]], names: Sequence[str]) -> tuple[tuple[str, str, float], ...]:
    """The report of `duplicates.distinct` with names in place of indices."""
    return tuple((names[kept], names[dropped], distance) for kept, dropped, distance in rows)
