"""An audit from end to end: images and prompts, noise level, scores, verdict, and all that is left behind."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.audit.generated import generate
from experiments.audit.images import Source, open_source
from experiments.audit.level import Level, choose_level
from experiments.audit.models import Subject
from experiments.audit.output import page, score_name, write_arrays, write_metrics, write_tables
from experiments.audit.page import write_page
from experiments.audit.prompts import Prompts, read_prompts
from experiments.audit.scores import Scorer, check_detector
from experiments.audit.settings import WITH_PROMPT, Request, Score
from experiments.audit.stream import Scored, score_all
from experiments.audit.training import Training
from experiments.audit.verdict import Verdict, judge
from experiments.core.cache import Cache
from experiments.core.report import Report
from plap_jax.typing import require

log = logging.getLogger(__name__)
GENERATED = "generated"


@dataclass(frozen=True)
class Pictures:
    """A source with its prompts."""

    source: Source
    prompts: Prompts


@dataclass(frozen=True)
class Audit:
    """What came out.

    Attributes:
        scorer: at the noise level that was given or chosen.
        audited, reference: scores, None without a reference.
        verdict: on the audited images.
    """

    scorer: Scorer
    audited: Scored
    reference: Scored | None
    verdict: Verdict


def audit(config: Request, subject: Subject, *, seed: int, report: Report, cache: Cache) -> Audit:
    """Everything that ``config`` asks of ``subject``: tells the result, leaves the files of an audit, returns both.

    Raises:
        ValueError: images, prompts, levels or a detector that do not fit the model or each other, in one line.
    """
    common = {"report": report, "cache": cache}
    audited = _audited(config, subject, seed, **common)
    reference = _reference(config, subject, audited, seed, **common)
    name = _score(config, audited, reference)
    training = None
    if config.training is not None:
        with report.stage("training"):
            source = open_source("training", config.training, subject.model.image_shape, config.resize, config.crop)
            training = Training(source, config.labels)
    sources = [one.source for one in (audited, reference) if one is not None]
    level = choose_level(subject, config, sources, seed=seed, **common)
    log.info("  noise level σ = %g, %s", level.sigma, level.words)
    scorer = Scorer(subject, config, level.sigma, seed)
    if scorer.method is not None:
        check_detector(*scorer.method, level.sigma, audited.prompts is not None)
    scored = score_all(scorer, audited.source, audited.prompts, training, key="images", **common)
    compared = None
    if reference is not None:
        compared = score_all(scorer, reference.source, reference.prompts, None, key="reference", **common)
        _check_apart(scored, compared, training)
    tested = compared is not None and config.reference != GENERATED
    verdict = judge(name, scored, compared, config.fdr if tested else None)
    _leave(config, subject, level, verdict, scored, compared, audited, training, report)
    return Audit(scorer, scored, compared, verdict)


def _audited(config: Request, subject: Subject, seed: int, *, report: Report, cache: Cache) -> Pictures:
    if config.generate is not None:
        prompts = read_prompts("prompts", config.prompts, [""] * config.generate, set(), subject)
        how = {"seed": seed, "name": "images", "report": report, "cache": cache}
        return Pictures(generate(subject, config.generate, prompts, config.generation, **how), prompts)
    return _opened("images", config.images, config.prompts, config, subject)


def _reference(
    config: Request, subject: Subject, audited: Pictures, seed: int, *, report: Report, cache: Cache
) -> Pictures | None:
    if config.reference is None:
        require(config.reference_prompts is None, "reference_prompts", config.reference_prompts, "needs a reference")
        return None
    if config.reference != GENERATED:
        return _opened("reference", config.reference, config.reference_prompts, config, subject)
    allowed = "must be null with reference=generated, which takes those of the images"
    require(config.reference_prompts is None, "reference_prompts", config.reference_prompts, allowed)
    n = config.generation.n_reference
    prompts = None if audited.prompts is None else [audited.prompts[i % len(audited.prompts)] for i in range(n)]
    how = {"seed": seed, "name": "reference", "report": report, "cache": cache}
    return Pictures(generate(subject, n, prompts, config.generation, **how), prompts)


def _opened(key: str, path: str, prompts: str | int | None, config: Request, subject: Subject) -> Pictures:
    source = open_source(key, path, subject.model.image_shape, config.resize, config.crop)
    names = list(source.names)
    known = {*names, *(name for name, _ in source.skipped)}
    prompts_key = "prompts" if key == "images" else f"{key}_prompts"
    return Pictures(source, read_prompts(prompts_key, prompts, names, known, subject))


def _score(config: Request, audited: Pictures, reference: Pictures | None) -> Score:
    """What images are ranked by: as asked, or κ^Δ where all prompts are known, else κ₁."""
    prompted = audited.prompts is not None and (reference is None or reference.prompts is not None)
    if config.score is None:
        return "detector" if config.detector else "kappa_gap" if prompted else "kappa"
    allowed = "needs prompts, of the reference too where there is one"
    require(prompted or config.score not in WITH_PROMPT, "score", config.score, allowed)
    allowed = "must be null or detector, since a detector is given"
    require(config.score == "detector" or not config.detector, "score", config.score, allowed)
    return config.score


def _check_apart(audited: Scored, reference: Scored, training: Training | None) -> None:
    """Refuses a reference that is known to the model, and tells of images that stand in both sets."""
    if training is not None:
        known = int(np.isin(reference.digests, training.digests).sum())
        allowed = f"must hold no training image, and {known} of its {len(reference)} images are"
        require(known == 0, "reference", f"{len(reference)} images", allowed)
    both = int(np.isin(audited.digests, reference.digests).sum())
    if both:
        told = "%d of %d audited images stand in the reference too and count against themselves: p >= %.2g for them"
        log.warning(told, both, len(audited), 2 / (len(reference) + 1))


def _leave(
    config: Request,
    subject: Subject,
    level: Level,
    verdict: Verdict,
    audited: Scored,
    reference: Scored | None,
    pictures: Pictures,
    training: Training | None,
    report: Report,
) -> None:
    both = {"images": audited.skipped, "reference": [] if reference is None else reference.skipped}
    skipped = [{"set": kind, "file": name, "reason": why} for kind, names in both.items() for name, why in names]
    with report.stage("report"):
        write_tables(report, verdict, audited, training, skipped)
        write_metrics(report, config, level, verdict, audited, len(skipped), training is not None)
        write_arrays(report, config, level, verdict, audited, pictures.source, training)
        in_both = 0 if reference is None else int(np.isin(audited.digests, reference.digests).sum())
        words = in_words(config, subject, level, verdict, pictures.source, len(audited.skipped), in_both)
        told = (config, level, verdict, audited, pictures.source, training, pictures.prompts)
        write_page(report.page(), page(f"Audit: {subject.words}", words, *told))
    for line in verdict.lines:
        log.info("  %s", line)
    if skipped:
        log.info("  %d files skipped, the reasons are in tables/skipped.csv", len(skipped))


def in_words(
    config: Request, subject: Subject, level: Level, verdict: Verdict, source: Source, n_skipped: int, in_both: int
) -> dict[str, str]:
    """The settings for a reader; places by their names, as a page is passed on and its reader has other folders."""
    flux = config.flux
    directions = (
        f"rounds of {flux.n_samples} ({flux.directions}) until stderr ≤ {config.target_stderr:g}, at most "
        f"{config.max_samples} for an image"
    )
    repeated = f"mean of {config.repeats} draws of its randomness"
    held = f"{config.fdr:g}, Benjamini–Hochberg"
    twice = f"; holds {in_both} of the audited images too" * bool(in_both)
    return {
        "model": subject.words,
        "images": f"{_place(config.images) if config.images else 'generated'}; {source.words}; {n_skipped} skipped",
        "score": score_name(verdict, config),
        "noise level": f"σ = {level.sigma:g}, {level.words}",
        "directions": repeated if config.detector else directions,
        "prompts": "none" if config.prompts is None else _prompts(config.prompts),
        "reference": "none" if config.reference is None else _place(config.reference) + twice,
        "false-discovery rate": "none: no error control" if verdict.fdr is None else held,
        "training set": "not at hand" if config.training is None else _place(config.training),
    }


def _place(path: str) -> str:
    """As it was given, and of an absolute path the last part."""
    return Path(path).name if Path(path).is_absolute() else path


def _prompts(given: str | int) -> str:
    return _place(given) if isinstance(given, str) and given.lower().endswith(".csv") else str(given)
