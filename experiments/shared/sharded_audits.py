"""Shards of an audit as runs of their own, and the run that judges all of them together."""

from pathlib import Path
from typing import Any

import jax

from experiments.core.report import Report
from experiments.core.schema import Target
from experiments.shared.audit_settings import Request
from experiments.shared.audits import leave
from plap_jax.audit import merge_shards
from plap_jax.audit.asking import Asked
from plap_jax.audit.auditing import open_training, opened
from plap_jax.audit.plan import check_asked, read_plan
from plap_jax.audit.shards import CHUNKS, compute_shard, load_parts, where
from plap_jax.audit.sharing import Shard
from plap_jax.audit.store import FolderStore, Surroundings
from plap_jax.audit.subject import Held
from plap_jax.audit.words import where_from

ELSEWHERE = "another process computes this shard"
NOT_JUDGED = "a shard is measured; all of them together are judged"


def compute(config: Request, held: Held, *, baseline: Held | None, seed: int, report: Report) -> None:
    """Measures the images of ``config.shard``, and leaves them in ``config.out``.

    Raises:
        ValueError: what is asked is not what earlier shards were asked, or cannot be asked.
    """
    load_parts()  # pyarrow may be missing, which is better known before a model is loaded
    settings, given = config.of_request(), config
    how = {"takes": held.takes, "settings": settings}
    audited = opened("images", given.images, given.prompts, **how)
    others = None if given.reference is None else opened("reference", given.reference, given.reference_prompts, **how)
    training = None if given.training is None else open_training(given.training, **how)
    asked = Asked(audited, others, training, jax.random.key(seed), Surroundings(None, report.stage, progress=True))
    told = where(given.images, given.reference, given.training, given.prompts, given.reference_prompts)
    told |= {"words": where_from(given.images, given.reference, given.prompts, given.training)}
    told |= {"command": _command(config)}
    about = {"fdr": given.fdr, "sigma": given.sigma, "detector": given.made_detector(), "told": told}
    shard = Shard(given.shard + 1, given.shards)
    path = compute_shard(shard, Path(given.out), held, settings, asked, baseline=baseline, **about)
    for name, one in {"model": held, "baseline": baseline}.items():
        if one is not None:
            report.files(name, one.sources)
    sides = {} if path is None else load_parts().read_part(path).sides
    for name, key in {"images": "audit/images", "reference": "audit/reference_images"}.items():
        n = len(sides[name]) if name in sides else None
        reason = ELSEWHERE if path is None else "no reference was given"
        report.metric(key, n, None if n is not None else reason)
    report.metric("audit/score_highest", None, NOT_JUDGED)


def merge(config: Request, model: Any, baseline: Any, *, seed: int, report: Report) -> None:
    """Judges all shards of ``config.out`` together, and leaves the files of an audit.

    Raises:
        ValueError: parts that are missing or do not belong together, or that were asked something else.
    """
    plan = read_plan(Path(config.out))
    settings = config.of_request()
    check_asked(plan, settings, n_shards=config.shards, fdr=config.fdr, sigma=config.sigma, key=jax.random.key(seed))
    places = {name: getattr(config, name) for name in ("images", "reference", "training")}
    places |= {name: getattr(config, name) for name in ("prompts", "reference_prompts")}
    how = {"model": model, "baseline": baseline, "maps": config.maps, "store": FolderStore(Path(config.out) / CHUNKS)}
    result = merge_shards(config.out, **places, **how, progress=True)
    leave(config, result, report)


def _command(config: Request) -> dict[str, Any]:
    """How ``plap-audit merge`` finds the models again."""
    spec = config.model.spec
    return {**spec, "model": _word(config.model), "baseline": config.baseline and _word(config.baseline)}


def _word(model: Target) -> str | None:
    """Where the model of a config lies."""
    found = next((model.spec[key] for key in ("path", "target", "folder") if model.spec.get(key) is not None), None)
    return str(Path(found).absolute()) if found is not None and Path(found).exists() else found
