"""All shards together: are they complete and of one audit? Then they are calibrated and judged, once."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from plap_jax.audit.asking import Asked
from plap_jax.audit.auditing import GivenPrompts, Images, open_training, opened
from plap_jax.audit.conclusion import conclude
from plap_jax.audit.denoising import Denoising
from plap_jax.audit.joining import Joined
from plap_jax.audit.maps import CurvatureMaps
from plap_jax.audit.measuring import Question
from plap_jax.audit.passes import base_of_loras
from plap_jax.audit.plan import Plan, differences, listing, other_model, read_plan
from plap_jax.audit.result import AuditResult
from plap_jax.audit.shards import EVIDENCE, load_parts, wrong_header
from plap_jax.audit.sharing import Shard
from plap_jax.audit.store import AuditStore, Surroundings
from plap_jax.audit.stream import Scored
from plap_jax.audit.subject import Held, Model
from plap_jax.audit.verdict import Verdict
from plap_jax.typing import require

log = logging.getLogger(__name__)
PART = re.compile(r"part-(\d{5})\.parquet")
IN_MEMORY = "must be given: it lay in memory when the shards were computed"
AHEAD = 2  # parts that are read ahead
MOST_TOLD = 20  # missing shards that are named
Loader = Callable[[], Any]


class UnfitParts(ValueError):
    """Parts that are missing, doubled, damaged or of another audit: a line each."""


def merge_shards(
    folder: str | Path,
    *,
    images: Images | None = None,
    reference: Images | None = None,
    training: Images | None = None,
    prompts: GivenPrompts = None,
    reference_prompts: GivenPrompts = None,
    model: Model | Loader | None = None,
    baseline: Model | Loader | None = None,
    maps: int | None = None,
    store: AuditStore | None = None,
    progress: bool = False,
) -> AuditResult:
    """Judges what all shards have measured: the same result as an audit in one piece.

    But for ``denoising``, whether the model denoises such images: each shard has asked about some of its own.

    Args:
        folder: in which the shards have left their parts.
        images, reference, training, prompts, reference_prompts: where they are now, or what they are, if they lay in
            memory; None: as the first shard was given them.
        model, baseline: for curvature maps of flagged images, which are not made without; see ``audit_images``.
        maps: directions of each map, 0 for none; None: as the first shard was told.
        store: keeps finished chunks of these.
        progress: show a bar on stderr.

    Raises:
        UnfitParts: a line for each part that is missing, doubled, damaged, or of another audit, model or version.
        ValueError: images that are gone or others than before; as ``audit_images``.
        ImportError: pyarrow is not installed.

    Example:
        >>> result = merge_shards("photos-audit")
        >>> result.flagged
    """
    folder = Path(folder)
    plan = read_plan(folder)
    plan = plan if maps is None else plan.with_maps(maps)
    given = {"images": images, "reference": reference, "training": training}
    given |= {"prompts": prompts, "reference_prompts": reference_prompts}
    asked = _asked(plan, given, Surroundings(store, progress=progress))
    sides, denoised = read_all_parts(folder, plan, asked)
    mapped = _mapped(plan, asked, model, baseline)
    told = {"models": lambda: plan.told["models"], "words": plan.told["words"]}
    about = {"fdr": plan.agreed["fdr"], "sigma": plan.agreed["sigma"], "denoised": denoised}
    return conclude(sides, plan.frame, plan.settings, asked, **about, maps=mapped, **told)


def _asked(plan: Plan, given: Mapping[str, Any], around: Surroundings) -> Asked:
    """The images, which must be those of the plan."""
    places = plan.told["places"]
    chosen = {name: places.get(name) if value is None else value for name, value in given.items()}
    how = {"takes": plan.takes, "settings": plan.settings}
    sides = {}
    for name, prompts in (("images", "prompts"), ("reference", "reference_prompts")):
        sides[name] = None
        if plan.agreed[name] is not None:
            require(chosen[name] is not None, name, None, IN_MEMORY)
            sides[name] = opened(name, chosen[name], chosen[prompts], **how)
            apart = next(differences(plan.agreed[name], listing(sides[name])), None)
            told = given[name] if given[name] is not None else f"{chosen[name]}"
            require(apart is None, name, told, f"must be as it was when the shards were computed: {apart}")
    training = None
    if plan.agreed["training"] is not None:
        require(chosen["training"] is not None, "training", None, IN_MEMORY)
        training = open_training(chosen["training"], **how)
        same = training.key == plan.agreed["training"]
        require(same, "training", str(chosen["training"]), "must hold the images that it held for the shards")
    return Asked(sides["images"], sides["reference"], training, plan.key, around)


def read_all_parts(folder: Path, plan: Plan, asked: Asked) -> tuple[list[Scored], Denoising | None]:
    """What all shards have measured, complete and of this plan: each side in the order of its source; and denoising.

    Raises:
        UnfitParts: they are not.
        ValueError: a side has no image that could be read.
        OSError: no room for the thumbnails.
    """
    parts, faults, found, joined = load_parts(), [], set(), Joined(asked.sides, folder)
    denoised = []
    place = folder / EVIDENCE
    for path, reading in _read_ahead(sorted(place.iterdir()) if place.is_dir() else []):
        number = PART.fullmatch(path.name)
        if number is None or not 1 <= int(number[1]) <= plan.n_shards:
            faults.append(f"foreign: {EVIDENCE}/{path.name} is none of the {plan.n_shards} parts of this audit")
            continue
        shard = Shard(int(number[1]), plan.n_shards)
        again = f"compute shard {shard.words} again"
        try:
            part = reading.result()
        except parts.DamagedPart as error:
            faults.append(f"damaged: {EVIDENCE}/{path.name} {error}; {again}")
            continue
        wrong = wrong_header(part.header, shard, plan)
        doubled = wrong is not None and part.header.get("shard") != shard.words and part.header.get("plan") == plan.id
        if wrong is not None:
            faults.append(f"{'doubled' if doubled else 'foreign'}: {EVIDENCE}/{path.name} {wrong}; {again}")
        else:
            found.add(shard.number)
            faults += joined.take(shard, part.sides)
            if (told := part.header.get("denoising")) is not None:
                denoised.append(Denoising(**told))
    there = {int(m[1]) for line in faults if (m := PART.search(line))} | found
    if missing := [k for k in range(1, plan.n_shards + 1) if k not in there]:
        more = f" and {len(missing) - MOST_TOLD} more" * (len(missing) > MOST_TOLD)
        told = ", ".join(map(str, missing[:MOST_TOLD]))
        faults.append(f"missing: {len(missing)} of {plan.n_shards} shards are not computed yet: {told}{more}")
    if faults:
        raise UnfitParts("\n".join(faults))
    return joined.sides(), Denoising.pooled(denoised)


def _read_ahead(paths: Sequence[Path]) -> Iterator[tuple[Path, Future]]:
    """Parts that are read while others are put in place; what is unfinished is left out."""
    parts, waiting = load_parts(), deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for path in paths:
            if path.name.startswith("."):
                continue
            waiting.append((path, pool.submit(parts.read_part, path) if PART.fullmatch(path.name) else None))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting


def _mapped(plan: Plan, asked: Asked, model: Any, baseline: Any) -> Callable[..., CurvatureMaps | None]:
    """Makes curvature maps with the model of the plan; none where it was not given."""

    def maps(scored: Scored, verdict: Verdict, levels: Sequence[float]) -> CurvatureMaps | None:
        if not plan.settings.maps or verdict.flagged is None or not verdict.flagged.any():
            return None
        if model is None:
            log.warning("  no curvature maps: they need the model")
            return None
        held = Held(model, plan.takes.image_shape)
        other = None if baseline is None else Held(baseline, plan.takes.image_shape)
        if other is None and "baseline" in plan.models:
            other = base_of_loras(held, plan.settings, True)
        how = {"settings": plan.settings, "sigma": _level(plan), "detector": None}
        asking = Question(held, other, score=plan.agreed["score"], asked=replace(asked, in_part=True), **how)
        name = other_model(plan, asking.sketches)
        require(name is None, name or "model", "given", "must be the one that the shards were computed with")
        return asking.maps(scored, verdict, levels)

    return maps


def _level(plan: Plan) -> float | None:
    """The single noise level of a plain score; None of a detector that keeps its own."""
    detector = plan.agreed["detector"]
    return plan.agreed["sigma"] if detector is None or detector[2].get("sigma") is not None else None
