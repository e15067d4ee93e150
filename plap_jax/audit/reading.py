"""Images read and described in threads, some ahead of the model: the device need not wait for files and decoders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from plap_jax.audit.evaluator import Columns
from plap_jax.audit.images import Source, digests_of
from plap_jax.data.duplicates import thumbnail
from plap_jax.data.images import UnusableImage
from plap_jax.difficulty import difficulty

DIGEST, INDEX = "digest", "index"
DIFFICULTY, THUMBNAIL = "difficulty", "thumbnail"
SKIPPED, REASON = "skipped", "reason"
THREADS = min(16, max(4, os.cpu_count() or 1))
Raw = tuple[list[np.ndarray], Columns]  # images, and which could be read


class Reader:
    """Reads blocks of images in their order, each image once; the next ones are begun while the model is asked.

    In memory are the block that is asked for and the next one, or as many of the next as there are threads, if blocks
    are smaller. A source that is read forward is read by one thread, and described by the others.

    Args:
        source: of the images.
        block: how many are asked for at a time, but at the end.
        described: whether difficulty and thumbnail are computed.
    """

    def __init__(self, source: Source, block: int, *, described: bool):
        self._source, self._block, self.described = source, block, described
        self._piece = -(-block // THREADS)  # images that a thread takes at a time: small ones cost more one by one
        self._ahead = max(block, THREADS)
        self._coming: dict[range, Future] = {}
        self._forward = ThreadPoolExecutor(1) if source.in_order else None
        self._pool = ThreadPoolExecutor(THREADS)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pool in (self._forward, self._pool):
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def read(self, indices: range) -> tuple[np.ndarray, Columns]:
        """A block: images ``(n, h, w, c)``, and their columns; what could not be read stands in SKIPPED and REASON.

        Raises:
            OSError: as the source.
        """
        end = min(indices.stop + self._ahead, len(self._source.names))
        blocks = [indices, *_cut(range(indices.stop, end), self._block)]
        wanted = [piece for block in blocks for piece in _cut(block, self._piece)]
        for piece in set(self._coming).difference(wanted):
            self._coming.pop(piece).cancel()
        for piece in wanted:
            if piece not in self._coming:
                self._coming[piece] = self._begun(piece)
        found = [self._coming.pop(piece).result() for piece in _cut(indices, self._piece)]
        images = [image for some, _ in found for image in some]
        told = {name: np.concatenate([columns[name] for _, columns in found]) for name in (SKIPPED, REASON)}
        columns = concatenated([columns for some, columns in found if some] or [found[0][1]])
        return np.stack(images) if images else np.zeros((0,)), columns | told

    def _begun(self, piece: range) -> Future:
        """Images and columns of a piece, once they are there."""
        if self._forward is None:
            return self._pool.submit(lambda: self._described(_raw(self._source, piece)))
        raw = self._forward.submit(_raw, self._source, piece)
        return self._pool.submit(lambda: self._described(raw.result()))

    def _described(self, raw: Raw) -> Raw:
        images, columns = raw
        if not images:
            return raw
        columns |= {DIGEST: digests_of(images)}
        if self.described:
            columns |= {
                DIFFICULTY: difficulty(np.stack(images)),
                THUMBNAIL: np.stack([thumbnail(one) for one in images]),
            }
        return images, columns


def concatenated(parts: Sequence[Columns]) -> Columns:
    """Columns below each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cut(indices: range, size: int) -> list[range]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _raw(source: Source, piece: range) -> Raw:
    images, read, skipped, reasons = [], [], [], []
    for index in piece:
        try:
            images.append(source.read(index))
            read.append(index)
        except UnusableImage as reason:
            skipped.append(index)
            reasons.append(str(reason))
    columns = {INDEX: np.asarray(read, int), SKIPPED: np.asarray(skipped, int), REASON: np.asarray(reasons, str)}
    return images, columns
