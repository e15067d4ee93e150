"""Any number of images in bounded memory: chunk by chunk, each kept when it is finished, so that a kill costs one."""

import sys
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

import plap_jax
from experiments.audit import images, scores
from experiments.audit.images import Source, digests_of
from experiments.audit.prompts import Prompts
from experiments.audit.scores import Columns, Scorer
from experiments.audit.training import Training
from experiments.core.cache import Cache, code_tag, target_modules
from experiments.core.files import sha256_json
from experiments.core.report import Report
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
    scorer: Scorer,
    source: Source,
    prompts: Prompts,
    training: Training | None,
    *,
    key: str,
    report: Report,
    cache: Cache,
) -> Scored:
    """Scores of every image of ``source`` that can be read.

    Args:
        scorer: of images.
        source: of images.
        prompts: one for each of the source's, or None.
        training: where the nearest training images are looked for, or None.
        key: of the config, names the stage and stands in messages.
        report, cache: of the run. Finished chunks are taken from the cache.

    Raises:
        ValueError: no image can be read.
    """
    n, size = len(source.names), scorer.settings.chunk
    modules = [sys.modules[Training.__module__], *target_modules(scorer.how["settings"]["detector"] or {})]
    shared = {
        "how": scorer.how,
        "training": None if training is None else training.key,
        "code": code_tag(sys.modules[__name__], scores, images, plap_jax, *modules),
    }
    found: list[Columns] = []
    with report.stage(f"score/{key}"), tqdm(total=n, unit="image", desc=key, mininterval=1) as bar:
        for start in range(0, n, size):
            indices = list(range(start, min(start + size, n)))
            told = None if prompts is None else [prompts[i] for i in indices]
            depends_on = {**shared, "images": sha256_json(source.identity(indices)), "prompts": told}
            chunk = _Chunk(scorer, source, indices, told, training)
            found.append(cache.arrays(f"audit/{key}", depends_on, chunk.compute))
            bar.update(len(indices))
    return _joined(source, found, key, report)


@dataclass(frozen=True)
class _Chunk:
    scorer: Scorer
    source: Source
    indices: list[int]
    prompts: Prompts
    training: Training | None

    def compute(self) -> Columns:
        """Columns of the images that can be read, and why the others cannot."""
        kept, pictures, skipped, reasons = [], [], [], []
        for position, index in enumerate(self.indices):
            try:
                pictures.append(self.source.read(index))
                kept.append(position)
            except UnusableImage as reason:
                skipped.append(index)
                reasons.append(str(reason))
        if not kept:
            told = {SKIPPED: np.asarray(skipped, int), REASON: np.asarray(reasons, str)}
            return {INDEX: np.zeros(0, int), **told}
        stacked = np.stack(pictures)
        columns = self.scorer(stacked, None if self.prompts is None else [self.prompts[k] for k in kept])
        if self.training is not None:
            columns |= self.training.columns(stacked)
        columns |= {DIGEST: digests_of(pictures), INDEX: np.asarray(self.indices)[kept]}
        scores = [column for name, column in columns.items() if f"{name}/stderr" in columns or name.endswith("/stderr")]
        finite = np.all(np.isfinite(scores), axis=0)
        skipped += columns[INDEX][~finite].tolist()
        reasons += [NOT_FINITE] * int((~finite).sum())
        told = {SKIPPED: np.asarray(skipped, int), REASON: np.asarray(reasons, str)}
        return {name: column[finite] for name, column in columns.items()} | told


def _joined(source: Source, chunks: list[Columns], key: str, report: Report) -> Scored:
    full = [chunk for chunk in chunks if len(chunk[INDEX])]
    skipped = list(source.skipped)
    for chunk in chunks:
        skipped += [(source.names[i], str(why)) for i, why in zip(chunk[SKIPPED].tolist(), chunk[REASON], strict=True)]
    first = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
    require(bool(full), key, f"{len(source.names)} files", f"must hold an image that can be read and scored{first}")
    names = [name for name in full[0] if name not in (SKIPPED, REASON)]
    columns = {name: np.concatenate([chunk[name] for chunk in full]) for name in names}
    report.fingerprint(key, columns[DIGEST])
    return Scored(columns, [source.names[i] for i in columns[INDEX].tolist()], sorted(skipped))
