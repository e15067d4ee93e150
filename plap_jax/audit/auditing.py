"""An audit from end to end: images and prompts, noise level, scores, verdict."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from plap_jax.audit.arrays import shape_of
from plap_jax.audit.images import Pictures, Source, Subset, open_source
from plap_jax.audit.level import Level, choose_level
from plap_jax.audit.prompts import is_file, read_prompts
from plap_jax.audit.result import AuditResult
from plap_jax.audit.scores import NAMES, Scorer
from plap_jax.audit.settings import WITH_PROMPT, AuditSettings, Score, number
from plap_jax.audit.store import FolderStore, Surroundings
from plap_jax.audit.stream import Scored, score_all
from plap_jax.audit.subject import Model, Subject, as_subject
from plap_jax.audit.training import Training
from plap_jax.audit.verdict import judge
from plap_jax.detectors import Detector
from plap_jax.typing import PRNGKey, require

log = logging.getLogger(__name__)
Images = np.ndarray | str | os.PathLike
GivenPrompts = str | int | Sequence[str] | Sequence[int] | os.PathLike | None


def audit_images(
    model: Model,
    images: Images,
    *,
    reference: Images | None = None,
    prompts: GivenPrompts = None,
    reference_prompts: GivenPrompts = None,
    training: Images | None = None,
    fdr: float = 0.05,
    sigma: float | None = None,
    key: PRNGKey,
    resume_dir: str | os.PathLike | None = None,
    progress: bool = False,
    detector: Detector | None = None,
    shape: Sequence[int] | None = None,
    settings: AuditSettings | None = None,
    **more: Any,
) -> AuditResult:
    """Which of these images has the model memorized, and how sure is that?

    Every image is scored by κ₁ ∈ [−1, 1], the mean inward flux density through the noise shell around it. With a
    reference each has the conformal p-value (1 + #{reference ≥ score})/(n_ref + 1), and images are flagged by
    Benjamini–Hochberg: the false-discovery rate is at most ``fdr`` where all images that are not memorized are
    exchangeable with the reference. docs/audit.md says what that proves.

    Args:
        model: what ``plap_jax.pretrained`` loads, a ``UserModel``, or a ``Diffusion`` of images.
        images: ``(n, h, w, c)``, of grey ones also ``(n, h, w)``, uint8 or floats in [−1, 1]; or a folder, an ``.npz``
            or an ``.npy``.
        reference: images known not to be in the training data, as ``images``; None: a ranking without error control.
        prompts: one text (or number) for all, one for each image, or a CSV file of file,prompt; None: none.
        reference_prompts: those of the reference.
        training: the training images, where they are at hand: each image is then told its nearest one.
        fdr: false-discovery rate, in (0, 1).
        sigma: noise level σ; None: chosen among ``settings.noise_levels`` by a rule that sees no label.
        key: randomness; the same key gives the same result.
        resume_dir: a folder in which finished parts are kept; an audit that was killed goes on there.
        progress: show a bar on stderr.
        detector: a detector of ``plap_jax.detectors`` in place of κ₁; one noise level of its own is set to ``sigma``.
        shape: of one image ``(h, w, c)``, for a ``Diffusion`` with a folder, which cannot tell.
        settings: rarely changed, see ``AuditSettings``.
        **more: single fields of ``AuditSettings``, as ``n_samples=32``.

    Returns:
        ``AuditResult``: ``score``, ``stderr``, ``p_value``, ``flagged``, ``nfe``, ``names`` … by name, ``to_rows()``,
        ``save_report(path)``, ``save_csv(path)``.

    Raises:
        ValueError: images, prompts, levels or a detector that do not fit the model or each other, in one line.
        TypeError: a setting that does not exist.

    Example:
        >>> result = audit_images(model, "photos/", reference="others/", key=jax.random.key(0))
        >>> result.save_report("report.html")
    """
    fdr = number("fdr", fdr)
    require(0 < fdr < 1, "fdr", fdr, "must lie in (0, 1)")
    settings = _settings(settings, more)
    subject = as_subject(model, shape_of(images) if shape is None else shape)
    open_ = {"subject": subject, "settings": settings}
    audited = opened("images", images, prompts, **open_)
    compared = None if reference is None else opened("reference", reference, reference_prompts, **open_)
    require(
        reference is not None or reference_prompts is None, "reference_prompts", reference_prompts, "needs a reference"
    )
    known = None if training is None else open_training(training, **open_)
    store = None if resume_dir is None else FolderStore(resume_dir)
    around = Surroundings(store, progress=progress)
    how = {"fdr": fdr, "sigma": sigma, "key": key, "detector": detector, "around": around}
    words = where_from(images, reference, prompts, training)
    return audit(subject, settings, audited, compared, known, **how, words=words)


def _settings(settings: AuditSettings | None, more: Mapping[str, Any]) -> AuditSettings:
    names = {one.name for one in fields(AuditSettings)}
    unknown = sorted(set(more) - names)
    if unknown:
        raise TypeError(f"{unknown[0]}: no argument of audit_images, and no setting ({', '.join(sorted(names))})")
    require(settings is None or not more, "settings", settings, "must be None where single settings are given")
    return AuditSettings(**more) if settings is None else settings


def opened(key: str, images: Images, prompts: GivenPrompts, *, subject: Subject, settings: AuditSettings) -> Pictures:
    """Images with their prompts; ``key`` names them in messages.

    Raises:
        ValueError: they do not fit the model or each other.
    """
    source = _source(key, images, subject, settings)
    prompts_key = "prompts" if key == "images" else f"{key}_prompts"
    found = read_prompts(prompts_key, prompts, source.names, {name for name, _ in source.skipped}, subject)
    if found is None or not (found.without or found.strangers):
        return Pictures(source, None if found is None else found.prompts)
    log.warning("  %s=%s: %s", prompts_key, prompts, found.words)
    others = [(source.names[i], "no prompt is given for it") for i in found.without]
    others += [(name, "has a prompt, and is no image here") for name in found.strangers]
    kept = sorted(set(range(len(source.names))) - set(found.without))
    return Pictures(Subset(source, kept, others), found.prompts)


def open_training(images: Images, *, subject: Subject, settings: AuditSettings) -> Training:
    """The training images, in memory."""
    return Training(_source("training", images, subject, settings), settings.max_ratio, settings.max_distance)


def _source(key: str, images: Images, subject: Subject, settings: AuditSettings) -> Source:
    return open_source(key, images, subject.model.image_shape, settings.resize, settings.crop, settings.pixel_range)


def audit(
    subject: Subject,
    settings: AuditSettings,
    audited: Pictures,
    reference: Pictures | None,
    training: Training | None,
    *,
    fdr: float | None,
    sigma: float | None,
    key: PRNGKey,
    detector: Detector | None,
    around: Surroundings,
    words: Mapping[str, str] | None = None,
) -> AuditResult:
    """The audit of what has been opened; ``fdr`` None: the reference is not known to be free of training images."""
    name = score_of(settings, audited, reference, detector)
    if detector is not None:
        check_detector(detector, audited, reference)
    sigma = None if sigma is None else number("sigma", sigma)
    is_key = jax.dtypes.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key)
    require(is_key, "key", key, "must be a key of jax.random.key")
    scores = () if name == "detector" else (name,)
    scorer = Scorer(subject, settings, None, key, scores, detector)
    level = choose_level(scorer, sigma, [one for one in (audited, reference) if one is not None], around)
    log.info("  noise level %s, %s", "none" if level.sigma is None else f"σ = {level.sigma:g}", level.words)
    scorer = scorer.at(level.sigma)
    if detector is not None:
        scorer.detector.check(subject.model.diffusion.schedule)
    scored = score_all(scorer, audited, training, key="images", around=around)
    compared = None
    if reference is not None:
        compared = score_all(scorer, reference, None, key="reference", around=around)
        _check_apart(scored, compared, training)
    verdict = judge(name, scored, compared, fdr if compared is not None else None)
    found = in_words(scorer, level, scored, audited.source, compared, verdict.fdr)
    return AuditResult(verdict, scorer, level, audited, scored, compared, training, found | dict(words or {}))


def score_of(
    settings: AuditSettings, audited: Pictures, reference: Pictures | None, detector: Detector | None
) -> Score:
    """What images are ranked by: as asked; else the detector, κ₁ given the prompt where all are known, or κ₁.

    κ^Δ is as good at twice the cost (docs/detection.md), and has to be asked for.
    """
    prompted = audited.prompts is not None and (reference is None or reference.prompts is not None)
    if settings.score is None and detector is None and audited.prompts is not None and not prompted:
        log.warning("  reference_prompts: not given, so that images are ranked without their prompts")
    if settings.score is None:
        return "detector" if detector is not None else "kappa_given" if prompted else "kappa"
    allowed = "needs prompts, of the reference too where there is one"
    require(prompted or settings.score not in WITH_PROMPT, "score", settings.score, allowed)
    allowed = "must be null or detector, since a detector is given"
    require(settings.score == "detector" or detector is None, "score", settings.score, allowed)
    require(settings.score != "detector" or detector is not None, "score", settings.score, "needs a detector")
    return settings.score


def check_detector(detector: Detector, audited: Pictures, reference: Pictures | None) -> None:
    """Refuses a detector that needs what an audit does not have, and prompts of one side alone.

    A detector that is told the prompts of the images and not those of the reference would score the two by different
    rules, and p-values would mean nothing.

    Raises:
        ValueError: naming it.
    """
    sides = [one.prompts is not None for one in (audited, reference) if one is not None]
    allowed = "must be given for the images and the reference, or for none of them"
    require(len(set(sides)) == 1, "reference_prompts", None if sides[0] else "given", allowed)
    needs = detector.needs - {"image"} - ({"prompt"} if sides[0] else set())
    allowed = f"needs {', '.join(sorted(needs))}, which an audit does not have here"
    require(not needs, "detector", type(detector).__name__, allowed)


def _check_apart(audited: Scored, reference: Scored, training: Training | None) -> None:
    """Refuses a reference that is known to the model, and tells of images that stand in both sets."""
    if training is not None:
        known = int(np.isin(reference.digests, training.digests).sum())
        allowed = f"must hold no training image, and {known} of its {len(reference)} images are"
        require(known == 0, "reference", f"{len(reference)} images", allowed)
    both = in_both(audited, reference)
    if both:
        told = "%d of %d audited images stand in the reference too and count against themselves: p >= %.2g for them"
        log.warning(told, both, len(audited), 2 / (len(reference) + 1))


def in_both(audited: Scored, reference: Scored | None) -> int:
    """How many audited images stand in the reference, too."""
    return 0 if reference is None else int(np.isin(audited.digests, reference.digests).sum())


def where_from(images: Any, reference: Any, prompts: Any, training: Any) -> dict[str, str]:
    """Where things come from, by name: a page is passed on, and its reader has other folders."""
    words = {"prompts": "none" if prompts is None else _named(prompts) if is_file(prompts) else _text(prompts)}
    words |= {"training set": "not at hand" if training is None else _named(training)}
    words |= {"folder of images": _named(images)}
    return words | ({} if reference is None else {"folder of reference": _named(reference)})


def _named(given: Any) -> str:
    """As it was given, and of an absolute path the last part."""
    if not isinstance(given, str | os.PathLike):
        return "an array in memory"
    return Path(given).name if Path(given).is_absolute() else str(given)


def _text(prompts: Any) -> str:
    return str(prompts) if isinstance(prompts, str | int | np.integer) else "one for each image"


def in_words(
    scorer: Scorer, level: Level, audited: Scored, source: Source, reference: Scored | None, fdr: float | None
) -> dict[str, str]:
    """The settings for a reader."""
    chosen, both = scorer.settings, in_both(audited, reference)
    told = "none" if reference is None else f"{len(reference)} images"
    directions = (
        f"rounds of {chosen.n_samples} ({chosen.directions}) until stderr ≤ {chosen.target_stderr:g}, at most "
        f"{chosen.max_samples} for an image"
    )
    repeated = f"mean of {chosen.repeats} draws of its randomness"
    return {
        "model": scorer.subject.words,
        "images": f"{source.words}; {len(audited.skipped)} skipped",
        "score": NAMES.get(scorer.scores[0]) if scorer.scores else f"detector {type(scorer.detector).__name__}",
        "noise level": "none" if level.sigma is None else f"σ = {level.sigma:g}, {level.words}",
        "directions": directions if scorer.detector is None else repeated,
        "reference": told + f"; holds {both} of the audited images too" * bool(both),
        "false-discovery rate": "none: no error control" if fdr is None else f"{fdr:g}, Benjamini–Hochberg",
    }
