"""How a model is asked about many images: prompts, latents, batches that fit into memory, and what they cost."""

from __future__ import annotations

import logging
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from plap_jax.audit.prompts import Prompts
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.subject import Subject
from plap_jax.diffusion import Diffusion
from plap_jax.memory import evaluations_at_once
from plap_jax.parallel import map_points
from plap_jax.typing import PRNGKey, require

log = logging.getLogger(__name__)
Columns = dict[str, np.ndarray]
ENCODED = 8  # images that a VAE is given at a time
BATCHES, CHEAP = 4, 16  # batches of a block, where they are of as many images at least


def named_key(key: PRNGKey, name: str) -> PRNGKey:
    """A key for one purpose, independent between names."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


@dataclass(frozen=True)
class Evaluator(ABC):
    """Asks one model about images, all in the same directions.

    Attributes:
        subject, settings: of the audit.
        key: of the directions.
        one_shape: all batches have one shape, so that the numbers of an image do not depend, bit by bit, on which other
            images it is asked about with, nor on how many.
    """

    subject: Subject
    settings: AuditSettings
    key: PRNGKey
    one_shape: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def how(self) -> Mapping[str, Any]:
        """All that the numbers depend on beside images, prompts and code; JSON-able."""

    @property
    @abstractmethod
    def cost(self) -> int:
        """Evaluations of the network for an image that are made together."""

    @abstractmethod
    def columns(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> Columns:
        """Columns of the points ``(n, *shape)``, given the prompts' numbers ``(n,)`` or None."""

    @property
    def block(self) -> int:
        """Images that are asked about together: always the same ones, wherever chunks end.

        Half of what there is room for, in whole batches, so that only the last block is filled up. More batches where
        all have one shape, so that they share what a call takes beside the network; but not of few images, which are
        large or dear, for a block is what a kill costs at most.
        """
        size = self._sizes[-1]
        batches = max(1, self._most // 2 // size)
        if self.one_shape and size >= CHEAP:
            batches = max(batches, min(BATCHES, self.settings.chunk // size))
        return size * batches

    @property
    def identity(self) -> dict[str, Any]:
        """Of model, key and block; part of ``how``."""
        key = np.asarray(jax.random.key_data(self.key)).tolist()
        return {"model": self.subject.key, "key": key, "block": self.block, "one_shape": self.one_shape}

    def __call__(self, images: np.ndarray, prompts: Prompts) -> Columns:
        """Columns with a row for each image; among them ``nfe`` and ``spent``.

        nfe are evaluations of the network for the image; spent also counts what filled up its batches.

        Args:
            images: ``(n, *image_shape)``.
            prompts: n of them, or None.
        """
        n, unit = len(images), self._units[-1]
        # Filled up to whole batches, so that nothing is compiled again; what comes of the filling is dropped.
        rows = np.minimum(np.arange(-(-n // unit) * unit), n - 1)
        encode = self.subject.model.encode
        points = self._within_memory(lambda sizes: encode(images[rows], batch_size=min(ENCODED, sizes[-1])))
        model, numbers = self._told(prompts and [prompts[row] for row in rows])
        return self.columns(model, points[:n], None if numbers is None else numbers[:n])

    @property
    def _most(self) -> int:
        """Images at a time that the memory has room for."""
        dim = int(np.prod(self.subject.model.shape))
        return max(1, (self.settings.evaluations or evaluations_at_once(dim)) // max(1, self.cost))

    @property
    def batch(self) -> int:
        """Images in a batch, where all have one shape: half of what there is room for beside another, or less."""
        return max(1, min(self._most, 1 << (max(1, self._most // 2) - 1).bit_length()) // 2)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Of a batch: whole ones, and small ones for the images that are left; or one size for all."""
        if self.one_shape:
            return self.batch, self.batch
        return min(self._most, 2 * self.batch), max(1, self.batch // 4)

    @cached_property
    def _units(self) -> list[int]:
        """The same, halved where memory runs out."""
        return list(self._sizes)

    def _within_memory(self, compute: Callable[[tuple[int, int]], Any]) -> Any:
        """``compute(sizes of batches)``, with half as many images at a time while the device runs out of memory.

        Raises:
            ValueError: one image at a time is too much.
        """
        while True:
            try:
                return compute(tuple(self._units))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                whole = self._units[0]
                allowed = "not enough memory for one image at a time; give evaluations= below that, or fewer directions"
                require(whole > 1, "evaluations", self.settings.evaluations or self.cost, allowed)
                self._units[:] = [whole // 2, max(1, min(self._units[1], whole // (2 if self.one_shape else 4)))]
                log.warning("not enough memory for %d images at a time: going on with %d", whole, whole // 2)

    def _told(self, prompts: Prompts) -> tuple[Diffusion, np.ndarray | None]:
        """The model that knows these prompts, and their numbers."""
        if prompts is None:
            return self.subject.model.diffusion, None
        if not self.subject.takes_text:
            return self.subject.model.diffusion, np.asarray(prompts, np.int32)
        known = sorted(set(prompts))
        numbers = np.asarray([known.index(prompt) for prompt in prompts], np.int32)
        # A table of one size: compiled once.
        size = max(self.block, len(known))
        return self.subject.model.with_prompts(known, size=size, tell=False).diffusion, numbers

    def in_batches(self, fn: Callable[..., Any], *columns: np.ndarray) -> tuple[Any, float]:
        """``fn`` of every row in batches within the memory, and how many rows were computed for each."""
        return self._within_memory(lambda sizes: _in_batches(fn, columns, sizes))


def _in_batches(
    fn: Callable[..., Any], columns: tuple[np.ndarray, ...], sizes: tuple[int, int]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float]:
    """``fn`` of every row, in batches of two sizes, whatever their number, so that few are compiled.

    Returns:
        The results, and how many rows were computed for each that was asked.
    """
    n, (whole, small) = len(columns[0]), sizes
    cut = n // whole * whole
    parts, computed = [], 0
    for start, end, size in ((0, cut, whole), (cut, n, small)):
        if end > start:
            rows = np.minimum(np.arange(start, start + -(-(end - start) // size) * size), n - 1)
            found = map_points(fn, *(column[rows] for column in columns), batch_size=size)
            parts.append(jax.tree.map(lambda a, m=end - start: a[:m], found))
            # map_points rounds a batch up to the number of devices.
            computed += len(rows) // size * math.ceil(size / jax.local_device_count()) * jax.local_device_count()
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts), computed / n
