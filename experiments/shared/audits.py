"""The library's audit as a part of a run: from a config to the files of an audit."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import plap_jax
from experiments.core.cache import Cache, code_tag, target_modules
from experiments.core.report import Report
from experiments.shared.audit_output import write_arrays, write_metrics, write_tables
from experiments.shared.audit_settings import Request
from experiments.shared.own_images import generate
from plap_jax.audit import AuditResult
from plap_jax.audit.auditing import audit as audit_opened
from plap_jax.audit.auditing import open_training, opened
from plap_jax.audit.claims import GUARDED, OWN_IMAGES
from plap_jax.audit.images import Pictures
from plap_jax.audit.prompts import is_file, listed_prompts, read_prompts
from plap_jax.audit.store import Surroundings
from plap_jax.audit.subject import Held
from plap_jax.audit.words import where_from
from plap_jax.typing import require

log = logging.getLogger(__name__)
GENERATED = "generated"


class CodedCache:
    """The run's cache as the store of an audit; entries also depend on the code behind them."""

    def __init__(self, cache: Cache, detector: Mapping[str, Any] | None = None):
        self._cache, self._code = cache, code_tag(plap_jax, *target_modules(detector or {}))

    def arrays(
        self, stage: str, depends_on: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, np.ndarray]:
        """As of ``Cache``."""
        return self._cache.arrays(stage, {**depends_on, "code": self._code}, compute)


def surroundings(config: Any, report: Report, cache: Cache) -> Surroundings:
    """What is around an audit in a run."""
    detector = config.model_dump(mode="json", include={"detector"})
    return Surroundings(CodedCache(cache, detector), report.stage, progress=True)


def audit(
    config: Request, held: Held, *, baseline: Held | None = None, seed: int, report: Report, cache: Cache
) -> AuditResult:
    """Everything that ``config`` asks of the model: tells the result, leaves the files of an audit, returns it.

    Raises:
        ValueError: images, prompts, levels or a detector that do not fit the model or each other, in one line.
    """
    settings, detector = config.of_request(), config.made_detector()
    how = {"takes": held.takes, "settings": settings}
    own = {"seed": seed, "report": report, "cache": cache}
    audited = _audited(config, held, how, own)
    reference = _reference(config, held, how, own, audited)
    training = None
    if config.training is not None:
        with report.stage("training"):
            training = open_training(config.training, **how)
    result = audit_opened(
        held,
        settings,
        audited,
        reference,
        training,
        baseline=baseline,
        fdr=None if config.reference == GENERATED else config.fdr,
        sigma=config.sigma,
        key=jax.random.key(seed),
        detector=detector,
        around=surroundings(config, report, cache),
        words=where_from(config.images or GENERATED, config.reference, config.prompts, config.training),
    )
    for name, one in {"model": held, "baseline": baseline}.items():
        if one is not None:
            report.files(name, one.sources)
    if config.generate is not None and result.flagged is not None:
        log.warning("  generate=%d: %s", config.generate, OWN_IMAGES)
    if config.generate is not None:
        log.info("  %s", GUARDED)
    leave(config, result, report)
    return result


def _audited(config: Request, held: Held, how: dict[str, Any], own: dict[str, Any]) -> Pictures:
    if config.generate is None:
        return opened("images", config.images, config.prompts, **how)
    subject = held.subject
    prompts = None
    if is_file(config.prompts):
        prompts = listed_prompts("prompts", config.prompts, config.generate, subject)
    elif (one := read_prompts("prompts", config.prompts, [""] * config.generate, set(), subject)) is not None:
        prompts = one.prompts
    return Pictures(generate(subject, config.generate, prompts, config.generation, name="images", **own), prompts)


def _reference(
    config: Request, held: Held, how: dict[str, Any], own: dict[str, Any], audited: Pictures
) -> Pictures | None:
    if config.reference is None:
        require(config.reference_prompts is None, "reference_prompts", config.reference_prompts, "needs a reference")
        return None
    if config.reference != GENERATED:
        return opened("reference", config.reference, config.reference_prompts, **how)
    allowed = "must be null with reference=generated, which takes those of the images"
    require(config.reference_prompts is None, "reference_prompts", config.reference_prompts, allowed)
    n = config.generation.n_reference
    prompts = None if audited.prompts is None else [audited.prompts[i % len(audited.prompts)] for i in range(n)]
    return Pictures(generate(held.subject, n, prompts, config.generation, name="reference", **own), prompts)


def leave(config: Request, result: AuditResult, report: Report) -> None:
    """Tells the result, and leaves the files of an audit in the run's directory."""
    report.fingerprint("images", result.audited.digests)
    if result.reference is not None:
        report.fingerprint("reference", result.reference.digests)
    skipped = result.skipped_rows()
    with report.stage("report"):
        write_tables(report, result, skipped)
        write_metrics(report, result, len(skipped))
        write_arrays(report, result, config.on_sheet)
        with report.page() as page:
            result.save_report(page, max_rows=config.on_page, table="tables/audit.csv")
    for line in result.lines:
        log.info("  %s", line)
    if skipped:
        log.info("  %d files skipped, the reasons are in tables/skipped.csv", len(skipped))
