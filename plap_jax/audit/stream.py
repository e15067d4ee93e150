"""Any number of images in bounded memory: chunk by chunk, each kept when it is finished, so that a kill costs one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from plap_jax.audit.images import Pictures, Source, digests_of
from plap_jax.audit.prompts import Prompts
from plap_jax.audit.scores import Columns, Scorer
from plap_jax.audit.store import Surroundings
from plap_jax.audit.training import Training
from plap_jax.data.images import UnusableImage
from plap_jax.typing import require

DIGEST, INDEX = "digest", "index"
SKIPPED, REASON = "skipped", "reason"
NOT_FINITE = "the model's score is not finite here"


@dataclass(frozen=True)
class Scored:
    """The images of one source that could be read, in its order, and why the others could not.

    Attributes:
        columns: name → ``(n,)``; see ``Scorer``, ``Training.columns``; also ``index`` in the source and ``digest``.
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


def score_all(
    scorer: Scorer, pictures: Pictures, training: Training | None, *, key: str, around: Surroundings
) -> Scored:
    """Scores of every image that can be read.

    Args:
        scorer: of images.
        pictures: with their prompts.
        training: where the nearest training images are looked for, or None.
        key: names the stage and stands in messages.
        around: of the audit; finished chunks are taken from its store.

    Raises:
        ValueError: no image can be read.
    """
    source, n, size = pictures.source, len(pictures.source.names), scorer.chunk
    shared = {"how": scorer.how, "training": None if training is None else training.key}
    found: list[Columns] = []
    with around.stage(f"score/{key}"), tqdm(total=n, unit="image", desc=key, disable=not around.progress) as bar:
        for start in range(0, n, size):
            indices = list(range(start, min(start + size, n)))
            prompts = None if pictures.prompts is None else [pictures.prompts[i] for i in indices]
            depends_on = {**shared, "images": source.identity(indices), "prompts": prompts}
            chunk = _Chunk(scorer, source, indices, prompts, training)
            found.append(around.store.arrays(f"audit/{key}", depends_on, chunk.compute))
            bar.update(len(indices))
    return _joined(source, found, key)


@dataclass(frozen=True)
class _Chunk:
    scorer: Scorer
    source: Source
    indices: list[int]
    prompts: Prompts
    training: Training | None

    def compute(self) -> Columns:
        """Columns of the images that can be read, and why the others cannot."""
        kept, images, skipped, reasons = [], [], [], []
        for position, index in enumerate(self.indices):
            try:
                images.append(self.source.read(index))
                kept.append(position)
            except UnusableImage as reason:
                skipped.append(index)
                reasons.append(str(reason))
        if not kept:
            return {INDEX: np.zeros(0, int), **_told(skipped, reasons)}
        stacked = np.stack(images)
        columns = self.scorer(stacked, None if self.prompts is None else [self.prompts[k] for k in kept])
        if self.training is not None:
            columns |= self.training.columns(stacked)
        columns |= {DIGEST: digests_of(images), INDEX: np.asarray(self.indices)[kept]}
        scores = [column for name, column in columns.items() if f"{name}/stderr" in columns or name.endswith("/stderr")]
        finite = np.all(np.isfinite(scores), axis=0)
        skipped += columns[INDEX][~finite].tolist()
        reasons += [NOT_FINITE] * int((~finite).sum())
        return {name: column[finite] for name, column in columns.items()} | _told(skipped, reasons)


def _told(skipped: list[int], reasons: list[str]) -> dict[str, Any]:
    return {SKIPPED: np.asarray(skipped, int), REASON: np.asarray(reasons, str)}


def _joined(source: Source, chunks: list[Columns], key: str) -> Scored:
    full = [chunk for chunk in chunks if len(chunk[INDEX])]
    skipped = list(source.skipped)
    for chunk in chunks:
        skipped += [(source.names[i], str(why)) for i, why in zip(chunk[SKIPPED].tolist(), chunk[REASON], strict=True)]
    first = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
    require(bool(full), key, f"{len(source.names)} files", f"must hold an image that can be read and scored{first}")
    names = [name for name in full[0] if name not in (SKIPPED, REASON)]
    columns = {name: np.concatenate([chunk[name] for chunk in full]) for name in names}
    return Scored(columns, [source.names[i] for i in columns[INDEX].tolist()], sorted(skipped))
