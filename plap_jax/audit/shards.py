"""One shard of an audit: the evidence of a part of the images, which a merge judges together with all others."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from plap_jax.audit.asking import Asked
from plap_jax.audit.auditing import Images, open_all
from plap_jax.audit.files import UNFINISHED
from plap_jax.audit.images import Pictures
from plap_jax.audit.measuring import Question, question
from plap_jax.audit.passes import cut_prompts
from plap_jax.audit.plan import Plan, other_model, place_of, plan_of, settled
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.sharing import Shard
from plap_jax.audit.store import FolderStore, Surroundings, versions
from plap_jax.audit.subject import Held, Model
from plap_jax.detectors import Detector
from plap_jax.typing import require

log = logging.getLogger(__name__)
EVIDENCE = "evidence"
CHUNKS = "parts"  # of shards that are not finished


def load_parts() -> ModuleType:
    """``plap_jax.audit.parts``, loaded when it is asked for, so that everything else works without pyarrow.

    Raises:
        ImportError: pyarrow is not installed; the message names the extra.
    """
    return _needed("plap_jax.audit.parts")


def load_ray() -> ModuleType:
    """``plap_jax.audit.on_ray``, likewise."""
    return _needed("plap_jax.audit.on_ray", "ray", "audits on a cluster of Ray")


def _needed(module: str, extra: str = "cluster", what: str = "shards") -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{what} need {error.name}: pip install '.[{extra}]' in the repository") from error


def audit_shard(
    model: Model | Callable[[], Model],
    images: Images,
    *,
    shard: str,
    folder: str | os.PathLike,
    sigma: float | None = None,
    detector: Detector | None = None,
    progress: bool = False,
    command: Mapping[str, Any] | None = None,
    **how: Any,
) -> Path | None:
    """Measures one shard of an audit; ``merge_shards`` judges all of them together, as ``audit_images`` would.

    Args:
        model, images, sigma, detector, progress: as of ``audit_images``.
        shard: "3/64" is the third of 64. Which images it holds follows from their names alone.
        folder: of all shards, on a disk that all of them reach.
        command: how a command line finds the model again.
        **how: further arguments of ``audit_images``, the same for all shards.

    Returns:
        The file with the evidence; None where another process computes it just now.

    Raises:
        ValueError: as ``audit_images``; or other images, settings or models than those of earlier shards.
        OSError: the file cannot be written.
        ImportError: pyarrow is not installed.

    Example:
        >>> for k in range(1, 5):  # anywhere, in any order, again after a kill
        ...     audit_shard(model, "photos", shard=f"{k}/4", folder="audit", reference="others", key=jax.random.key(0))
        >>> result = merge_shards("audit")
    """
    load_parts()
    it = open_all(model, images, around=Surroundings(progress=progress), **how)
    it.tell(sigma, detector)
    given = {name: how.get(name) for name in ("reference", "training", "prompts", "reference_prompts")}
    told = where(images, **given) | {"words": it.words, "command": command}
    about = {"baseline": it.baseline, "fdr": it.fdr, "sigma": sigma, "detector": detector, "told": told}
    return compute_shard(Shard.parse(shard), Path(folder), it.held, it.settings, it.asked, **about)


def compute_shard(
    shard: Shard,
    folder: Path,
    held: Held,
    settings: AuditSettings,
    asked: Asked,
    *,
    baseline: Held | None,
    fdr: float | None,
    sigma: float | None,
    detector: Detector | None,
    told: Mapping[str, Any],
) -> Path | None:
    """Measures the images of one shard, and leaves them in ``folder/evidence/``, whole or not at all.

    A part that is there and whole is left as it is. Where another process of this shard is at work, it is left to it.

    Args:
        shard: which.
        folder: of all shards.
        held, settings, baseline, fdr, sigma, detector: of the audit.
        asked: all images, of all shards; finished chunks are kept in the folder, whatever its store.
        told: what a merge is to know, see ``where``.

    Returns:
        The part; None where it is left to another process.

    Raises:
        ValueError: what is asked is not what the plan of the folder says, or cannot be asked.
        OSError: the part cannot be written.
        ImportError: pyarrow or filelock is not installed.
    """
    load_parts()  # pyarrow may be missing, which is better known now
    sides = {"audited": asked.audited, "reference": asked.reference}
    for name, side in sides.items():
        _check_names("images" if name == "audited" else name, side)
    mine = {name: None if side is None else shard.of_pictures(side) for name, side in sides.items()}
    chunks = folder / CHUNKS / shard.file.removesuffix(".parquet")
    around = replace(asked.around, store=FolderStore(chunks, now=False))
    of_shard = replace(asked, **mine, around=around, in_part=True)
    asking, _ = question(held, settings, of_shard, baseline=baseline, sigma=sigma, detector=detector)
    words = dict(told.get("words", {})) | cut_prompts(held.subject, asked.audited, asked.reference)
    plan = settled(folder, plan_of(asking, asked, shard.of, fdr=fdr, told=dict(told) | {"words": words}))
    path = folder / EVIDENCE / shard.file
    with _alone_in(chunks) as alone:
        if not alone:
            log.info("shard %s: another process computes it, and it is left to that one", shard.words)
            return None
        wrong = fault(path, shard, plan) if path.exists() else None
        if wrong is not None:
            log.warning("  %s %s: it is computed again", path.name, wrong)
        if path.exists() and wrong is None:
            log.info("shard %s: %s is there", shard.words, path)
        else:
            _remove_unfinished(path)
            _measure(shard, path, plan, asking)
        shutil.rmtree(chunks, ignore_errors=True)
    return path


def _measure(shard: Shard, path: Path, plan: Plan, asking: Question) -> None:
    """Asks the models, and writes the part."""
    _ = asking.frame, asking.denoised  # what is refused or told is better known before all is measured
    parts, measured = load_parts(), asking.sides()
    found = dict(zip(asking.asked.sides, measured, strict=True))
    parts.write_part(path, parts.ShardPart(header_of(shard, plan, asking), found))
    skipped = sum(len(side.skipped) for side in measured)
    n = ", ".join(f"{len(side)} {'of the reference' if i else 'images'}" for i, side in enumerate(measured))
    log.info("shard %s: %s%s, in %s", shard.words, n, f", {skipped} skipped" * bool(skipped), path)


def where(images: Any, reference: Any, training: Any, prompts: Any, reference_prompts: Any) -> dict[str, Any]:
    """Where a merge finds again what was given; None for what lies in memory."""
    given = {"images": images, "reference": reference, "training": training}
    told = {"prompts": prompts, "reference_prompts": reference_prompts}
    return {"places": {name: place_of(value) for name, value in (given | told).items()}}


def fault(path: Path, shard: Shard, plan: Plan) -> str | None:
    """What is wrong with a part, to stand behind its name; None where nothing is."""
    parts = load_parts()
    try:
        header = parts.read_part(path).header
    except parts.DamagedPart as error:
        return str(error)
    return wrong_header(header, shard, plan)


def wrong_header(header: Mapping[str, Any], shard: Shard, plan: Plan) -> str | None:
    """The same of a part that is whole."""
    if header.get("shard") != shard.words:
        return f"holds shard {header.get('shard')}"
    if header.get("code") != plan.agreed["code"]:
        return f"was computed by another version of plap_jax (code {str(header.get('code'))[:8]}…)"
    if (name := other_model(plan, header.get("models", {}))) is not None:
        return f"was computed with another {name}"
    if header.get("plan") != plan.id:
        return "belongs to another audit"
    return None


def header_of(shard: Shard, plan: Plan, asking: Question) -> dict[str, Any]:
    """Of which plan, model and code a part is; host and time are for people, and nothing depends on them."""
    return {
        "shard": shard.words,
        "plan": plan.id,
        "models": asking.sketches,
        "models_sha256": [facts.key for facts in asking.facts if facts is not None],
        "settings": plan.told["settings"],
        "denoising": None if asking.denoised is None else asdict(asking.denoised),
        **versions(),
        "device": jax.devices()[0].device_kind,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _check_names(key: str, pictures: Pictures | None) -> None:
    """Refuses two images of one name, which no merge could tell apart."""
    names = [] if pictures is None else pictures.source.names
    n = len(names) - len(set(names))
    require(n == 0, key, f"{len(names)} images", f"must have different names, and {n} of them have the name of another")


@contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Whether this process may work in a folder; the lock of a process that was killed is free again.

    On file systems without locks every process may: what they write is whole, and the same.
    """
    filelock = _needed("filelock")
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        yield False
        return
    except (NotImplementedError, OSError) as error:
        log.warning("  no lock on %s: %s", folder, error)
    try:
        yield True
    finally:
        lock.release()


def _remove_unfinished(path: Path) -> None:
    """What killed writers of this part have left."""
    for file in path.parent.glob(f".{path.name}.*{UNFINISHED}"):
        file.unlink(missing_ok=True)
