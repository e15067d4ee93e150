"""Any number of images in bounded memory: chunk by chunk, each kept when it is finished, so that a kill costs one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from plap_jax.audit.evaluator import Columns, Evaluator
from plap_jax.audit.images import Pictures, Source
from plap_jax.audit.reading import DIFFICULTY, DIGEST, INDEX, REASON, SKIPPED, THUMBNAIL, Reader, concatenated
from plap_jax.audit.store import Surroundings
from plap_jax.audit.training import Training
from plap_jax.data.rows import FileRows
from plap_jax.typing import require

__all__ = ["DIFFICULTY", "DIGEST", "INDEX", "NEAR", "NOT_FINITE", "THUMBNAIL", "Scored", "require_one", "score_all"]
NEAR = "near_training"
DONE = "done"
SECONDS = 15.0  # after which a chunk ends, at the next block
NOT_FINITE = "the model's score is not finite here"


@dataclass(frozen=True)
class Scored:
    """The images of one source that could be read, in its order, and why the others could not.

    Attributes:
        columns: name → ``(n, …)``; see ``Evaluator``, ``Training.columns``; also ``index`` in the source, ``digest``,
            and of images that were described ``difficulty`` and ``thumbnail``, which may lie in a file.
        names: n of them.
        skipped: (name, reason).
    """

    columns: Columns
    names: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digests(self) -> np.ndarray:
        """``(n,)`` hashes of the images as the model sees them."""
        return self.columns[DIGEST]

    def only(self, kept: np.ndarray, reason: str = "") -> Scored:
        """Those that ``kept`` ``(n,)`` says; the others are skipped for this reason."""
        names = np.asarray(self.names, object)
        others = [(name, reason) for name in names[~kept].tolist()]
        columns = {name: chosen(column, kept) for name, column in self.columns.items()}
        return Scored(columns, names[kept].tolist(), sorted([*self.skipped, *others]))


def chosen(column: np.ndarray | FileRows, kept: np.ndarray) -> np.ndarray | FileRows:
    """The rows of a column that ``kept`` ``(n,)`` says."""
    return column.only(kept) if isinstance(column, FileRows) else column[kept]


def score_all(
    scorer: Evaluator,
    pictures: Pictures,
    training: Training | None,
    *,
    key: str,
    around: Surroundings,
    described: bool = False,
    may_be_none: bool = False,
) -> Scored:
    """What the model says of every image that can be read.

    Images are scored block by block, always the same ones together, and a chunk is some blocks: where it ends, by
    number or by time, changes no number.

    Args:
        scorer: asks the model.
        pictures: with their prompts.
        training: where the nearest training images are looked for, or None.
        key: names the stage and stands in messages.
        around: of the audit; finished chunks are taken from its store.
        described: whether difficulty and thumbnail of each image are kept.
        may_be_none: whether that there is no image that can be read is an answer, too.

    Raises:
        ValueError: no image can be read.
    """
    found, done, n = [], 0, len(pictures.source.names)
    bar = tqdm(total=n, unit="image", desc=key, disable=not around.progress)
    reader = Reader(pictures.source, scorer.block, described=described)
    with around.stage(f"score/{key}"), bar, reader:

        def told(done: int) -> None:
            bar.update(done - bar.n)

        while done < n:
            chunk = _Chunk(scorer, pictures, training, reader, done, told)
            found.append(around.arrays(f"audit/{key}", chunk.depends_on, chunk.compute))
            done += int(found[-1][DONE])
            told(done)
    return _joined(pictures.source, found, key, may_be_none)


@dataclass(frozen=True)
class _Chunk:
    """Whole blocks from ``start`` on, until there are enough of them or enough time has passed."""

    scorer: Evaluator
    pictures: Pictures
    training: Training | None
    reader: Reader
    start: int
    told: Callable[[int], None]

    @property
    def _end(self) -> int:
        """At the latest."""
        size, block = self.scorer.settings.chunk, self.scorer.block
        return min(len(self.pictures.source.names), self.start + max(1, size // block) * block)

    def depends_on(self) -> dict:
        """All that the numbers depend on, and, where time ends the chunk early, images after it."""
        prompts, training = self.pictures.prompts, self.training
        return {
            "how": self.scorer.how,
            "described": self.reader.described,
            "training": None if training is None else training.key,
            "images": self.pictures.source.identity(range(self.start, self._end)),
            "prompts": None if prompts is None else prompts[self.start : self._end],
        }

    def compute(self) -> Columns:
        """Columns of the images that can be read, why the others cannot, and how many both are together."""
        begun, done, blocks = time.monotonic(), self.start, []
        while done < self._end and (not blocks or time.monotonic() - begun < SECONDS):
            indices = range(done, min(done + self.scorer.block, self._end))
            blocks.append(self._block(indices))
            done = indices.stop
            self.told(done)
        columns = concatenated([block for block in blocks if len(block[INDEX])] or blocks[:1])
        told = {name: np.concatenate([block[name] for block in blocks]) for name in (SKIPPED, REASON)}
        return columns | told | {DONE: done - self.start}

    def _block(self, indices: range) -> Columns:
        images, columns = self.reader.read(indices)
        told = {name: columns.pop(name) for name in (SKIPPED, REASON)}
        if not len(images):
            return columns | told
        prompts = self.pictures.prompts
        columns |= self.scorer(images, None if prompts is None else [prompts[index] for index in columns[INDEX]])
        if self.training is not None:
            columns |= self.training.columns(images)
        scores = [value for name, value in columns.items() if f"{name}/stderr" in columns or "/stderr" in name]
        finite = np.all([np.ones(len(images), bool), *np.isfinite(scores)], axis=0)
        left = {SKIPPED: columns[INDEX][~finite], REASON: np.full(int((~finite).sum()), NOT_FINITE)}
        told = {name: np.concatenate([told[name], left[name]]) for name in told}
        return {name: column[finite] for name, column in columns.items()} | told


def _joined(source: Source, chunks: list[Columns], key: str, may_be_none: bool) -> Scored:
    full = [chunk for chunk in chunks if len(chunk[INDEX])]
    skipped = list(source.skipped)
    for chunk in chunks:
        skipped += [(source.names[i], str(why)) for i, why in zip(chunk[SKIPPED].tolist(), chunk[REASON], strict=True)]
    if not full and may_be_none:
        return Scored({}, [], sorted(skipped))
    require_one(key, len(source.names), bool(full), skipped)
    names = [name for name in full[0] if name not in (SKIPPED, REASON, DONE)]
    columns = {name: np.concatenate([chunk[name] for chunk in full]) for name in names}
    return Scored(columns, [source.names[i] for i in columns[INDEX].tolist()], sorted(skipped))


def require_one(key: str, n: int, found: bool, skipped: list[tuple[str, str]]) -> None:
    """Refuses n files of which none could be read and scored, with what is wrong with the first.

    Raises:
        ValueError: there is none.
    """
    first = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
    require(found, key, f"{n} files", f"must hold an image that can be read and scored{first}")
