"""Which images of an audit are in which shard: by their names alone."""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass

import numpy as np

from plap_jax.audit.images import Pictures, Source, Subset
from plap_jax.typing import require

MOST = 99_999  # shards


@dataclass(frozen=True)
class Shard:
    """The k-th of n shards, k counted from 1. Which images it holds follows from their names alone.

    >>> Shard(3, 64).words
    '3/64'
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        allowed = f"must be K/N with 1 <= K <= N <= {MOST}, as 3/64"
        require(1 <= self.number <= self.of <= MOST, "shard", self.words, allowed)

    @staticmethod
    def parse(text: str) -> Shard:
        """``K/N``.

        Raises:
            ValueError: something else.
        """
        parts = text.split("/")
        good = len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts)
        require(good, "shard", text, f"must be K/N with 1 <= K <= N <= {MOST}, as 3/64")
        return Shard(*map(int, parts))

    @property
    def words(self) -> str:
        """As it is given."""
        return f"{self.number}/{self.of}"

    @property
    def file(self) -> str:
        """Of its part."""
        return f"part-{self.number:05d}.parquet"

    def of_pictures(self, pictures: Pictures) -> Pictures:
        """Those that it holds."""
        kept = self.rows(pictures.source).tolist()
        prompts = None if pictures.prompts is None else [pictures.prompts[i] for i in kept]
        return Pictures(Subset(pictures.source, kept, [], alone=True), prompts)

    def rows(self, source: Source) -> np.ndarray:
        """The places of its images in a source, ascending."""
        return np.flatnonzero(_numbers(source, self.of) == self.number)


def number_of(name: str, n_shards: int) -> int:
    """In which of n shards an image is, from 1 on: by a hash of its name, so that no order and no machine matters."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % n_shards + 1


# One process may compute many shards, or judge them, and names are many.
_KNOWN: weakref.WeakKeyDictionary[Source, dict[int, np.ndarray]] = weakref.WeakKeyDictionary()


def _numbers(source: Source, n_shards: int) -> np.ndarray:
    """``(n,)`` in which shard each image of a source is."""
    known = _KNOWN.setdefault(source, {})
    if n_shards not in known:
        known[n_shards] = np.fromiter((number_of(name, n_shards) for name in source.names), np.int32)
    return known[n_shards]
