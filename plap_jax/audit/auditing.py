"""An audit from end to end: images and prompts, evidence or scores, verdict."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import jax
import numpy as np

from plap_jax.audit.arrays import shape_of
from plap_jax.audit.asking import Asked, calibrated, plain
from plap_jax.audit.calibrated import CALIBRATED, Calibration
from plap_jax.audit.fitness import fitness
from plap_jax.audit.images import Pictures, Source, Subset, open_source
from plap_jax.audit.maps import curvature_maps
from plap_jax.audit.passes import base_of_loras, check_passes, cut_prompts
from plap_jax.audit.prompts import read_prompts
from plap_jax.audit.result import AuditResult
from plap_jax.audit.scores import takes_level
from plap_jax.audit.settings import NAMES, WITH_PROMPT, AuditSettings, Score, number
from plap_jax.audit.store import FolderStore, Surroundings
from plap_jax.audit.stream import NEAR, THUMBNAIL, Scored
from plap_jax.audit.subject import Held, Model
from plap_jax.audit.training import Training
from plap_jax.audit.verdict import judge
from plap_jax.audit.words import in_both, in_words, where_from
from plap_jax.detectors import Detector
from plap_jax.typing import PRNGKey, require

log = logging.getLogger(__name__)
Images = np.ndarray | str | os.PathLike
GivenPrompts = str | int | Sequence[str] | Sequence[int] | os.PathLike | None


def audit_images(
    model: Model | Callable[[], Model],
    images: Images,
    *,
    reference: Images | None = None,
    prompts: GivenPrompts = None,
    reference_prompts: GivenPrompts = None,
    training: Images | None = None,
    baseline: Model | Callable[[], Model] | None = None,
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

    Every image is asked about at seven noise levels: κ₁, the mean inward flux density through the noise shell around
    it, and how the noise prediction at it compares with that at the image shifted by a pixel. How hard the image is,
    which moves both, is taken out by a robust regression over all images; the mean over levels is the calibrated score
    S, and no level has to be chosen. With a reference each image has the conformal p-value
    (1 + #{reference ≥ score})/(n_ref + 1), and images are flagged by Benjamini–Hochberg: the false-discovery rate is at
    most ``fdr`` where all images that are not memorized are exchangeable with the reference. docs/audit.md says what
    that proves.

    Args:
        model: what ``plap_jax.pretrained`` loads, a ``UserModel``, or a ``Diffusion`` of images; or a function without
            arguments that loads one.
        images: ``(n, h, w, c)``, of grey ones also ``(n, h, w)``, uint8 or floats in [−1, 1]; or a folder, an ``.npz``
            or an ``.npy``.
        reference: images known not to be in the training data, as ``images``; None: a ranking without error control.
        prompts: one text (or number) for all, one for each image, or a CSV file of file,prompt; None: none.
        reference_prompts: those of the reference.
        training: the training images, where they are at hand: each image is then told its nearest one.
        baseline: a model of the same kind that has not seen the images: the base of a fine-tune, an earlier checkpoint.
            The evidence is then what the model says beyond it. Given as functions that load them, only one of the two
            is in memory at a time. None: of a model with LoRAs the same without them, else none.
        fdr: false-discovery rate, in (0, 1).
        sigma: one noise level σ of the model: the score is then plain κ₁ there, nothing taken out.
        key: randomness; the same key gives the same result.
        resume_dir: a folder in which finished parts are kept; an audit that was killed goes on there.
        progress: show a bar on stderr.
        detector: a detector of ``plap_jax.detectors`` in place of κ₁; one that looks at one noise level is set to
            ``sigma`` where that is given.
        shape: of one image ``(h, w, c)``, for a ``Diffusion`` with a folder, which cannot tell.
        settings: rarely changed, see ``AuditSettings``.
        **more: single fields of ``AuditSettings``, as ``n_samples=32``, or ``maps=False`` for no curvature maps.

    Returns:
        ``AuditResult``: ``score``, ``stderr``, ``p_value``, ``flagged``, ``curvature_map``, ``nfe``, ``names`` … by
        name, ``to_rows()``, ``save_report(path)``, ``save_csv(path)``, ``save_maps(path)``.

    Raises:
        ValueError: images, prompts, a baseline, levels or a detector that do not fit the model or each other, in one
            line.
        TypeError: a setting that does not exist.

    Example:
        >>> result = audit_images(model, "photos/", reference="others/", key=jax.random.key(0))
        >>> result.save_report("report.html")
    """
    fdr = number("fdr", fdr)
    require(0 < fdr < 1, "fdr", fdr, "must lie in (0, 1)")
    settings = _settings(settings, more)
    held = Held(model, shape_of(images) if shape is None else shape)
    other = None if baseline is None else Held(baseline, held.subject.model.image_shape)
    audited = opened("images", images, prompts, held=held, settings=settings)
    allowed = "needs a reference"
    require(reference is not None or reference_prompts is None, "reference_prompts", reference_prompts, allowed)
    compared = None
    if reference is not None:
        compared = opened("reference", reference, reference_prompts, held=held, settings=settings)
    known = None if training is None else open_training(training, held=held, settings=settings)
    store = None if resume_dir is None else FolderStore(resume_dir)
    how = {"sigma": sigma, "key": key, "detector": detector, "around": Surroundings(store, progress=progress)}
    words = where_from(images, reference, prompts, training)
    return audit(held, settings, audited, compared, known, baseline=other, fdr=fdr, **how, words=words)


def _settings(settings: AuditSettings | None, more: Mapping[str, Any]) -> AuditSettings:
    names = {one.name for one in fields(AuditSettings)}
    unknown = sorted(set(more) - names)
    if unknown:
        raise TypeError(f"{unknown[0]}: no argument of audit_images, and no setting ({', '.join(sorted(names))})")
    require(settings is None or not more, "settings", settings, "must be None where single settings are given")
    return AuditSettings(**more) if settings is None else settings


def opened(key: str, images: Images, prompts: GivenPrompts, *, held: Held, settings: AuditSettings) -> Pictures:
    """Images with their prompts; ``key`` names them in messages.

    Raises:
        ValueError: they do not fit the model or each other.
    """
    source = _source(key, images, held, settings)
    prompts_key = "prompts" if key == "images" else f"{key}_prompts"
    found = read_prompts(prompts_key, prompts, source.names, {name for name, _ in source.skipped}, held.subject)
    if found is None or not (found.without or found.strangers):
        return Pictures(source, None if found is None else found.prompts)
    log.warning("  %s=%s: %s", prompts_key, prompts, found.words)
    others = [(source.names[i], "no prompt is given for it") for i in found.without]
    others += [(name, "has a prompt, and is no image here") for name in found.strangers]
    kept = sorted(set(range(len(source.names))) - set(found.without))
    return Pictures(Subset(source, kept, others), found.prompts)


def open_training(images: Images, *, held: Held, settings: AuditSettings) -> Training:
    """The training images, in memory."""
    return Training(_source("training", images, held, settings), settings.max_ratio, settings.max_distance)


def _source(key: str, images: Images, held: Held, settings: AuditSettings) -> Source:
    shape = held.subject.model.image_shape
    return open_source(key, images, shape, settings.resize, settings.crop, settings.pixel_range)


def audit(
    held: Held,
    settings: AuditSettings,
    audited: Pictures,
    reference: Pictures | None,
    training: Training | None,
    *,
    baseline: Held | None = None,
    fdr: float | None,
    sigma: float | None,
    key: PRNGKey,
    detector: Detector | None,
    around: Surroundings,
    words: Mapping[str, str] | None = None,
) -> AuditResult:
    """The audit of what has been opened; ``fdr`` None: the reference is not known to be free of training images."""
    score = score_of(settings, audited, reference, detector)
    is_key = jax.dtypes.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key)
    require(is_key, "key", key, "must be a key of jax.random.key")
    check_passes(held.subject, score, detector, audited)
    cut = cut_prompts(held.subject, audited, reference)
    if baseline is None:
        baseline = base_of_loras(held, settings, sigma is None and detector is None)
    asked = Asked(audited, reference, training, key, around)
    calibration, fit = None, None
    if sigma is None and detector is None:
        sides, calibration = calibrated(held, baseline, settings, score, asked)
        name, meaning = CALIBRATED, NAMES[score]
    else:
        require(baseline is None, "baseline", "given", "needs the calibrated score: give neither sigma nor detector")
        sides, name, meaning = plain(held, settings, score, sigma, detector, asked)
    scored, compared = sides
    if calibration is not None:
        n, share = len(calibration.levels), 100 * calibration.explained
        log.info("  %d noise levels together; difficulty explains %.0f %% of the evidence's spread", n, share)
    if compared is not None:
        _check_apart(scored, compared, training, calibration)
    for side in sides:
        thumbnails = None if side is None else side.columns.pop(THUMBNAIL, None)  # 3 kB for each image
        if thumbnails is not None and training is not None:
            side.columns[NEAR] = training.near(thumbnails, settings.duplicate_distance)
    verdict = judge(name, scored, compared, fdr if compared is not None else None)
    if calibration is not None and verdict.fdr is not None:
        fit = fitness(calibration, len(scored))
    levels = settings.noise_levels if calibration is None else calibration.levels.tolist()
    level = float(sigma) if sigma is not None and (detector is None or takes_level(detector)) else None
    maps = curvature_maps(held, baseline, settings, score, levels, level, asked, scored, verdict)
    found = in_words(meaning, settings, scored, audited.source, compared, verdict.fdr, calibration)
    found = held.in_words("model") | ({} if baseline is None else baseline.in_words("baseline")) | found
    held.release()
    return AuditResult(
        verdict=verdict,
        meaning=meaning,
        sigma=None if sigma is None else float(sigma),
        settings=settings,
        pictures=audited,
        audited=scored,
        reference=compared,
        reference_pictures=reference,
        training=training,
        calibration=calibration,
        fitness=fit,
        maps=maps,
        words=found | ({} if maps is None else {"curvature maps": maps.words}) | dict(words or {}) | cut,
    )


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


def _check_apart(
    audited: Scored, reference: Scored, training: Training | None, calibration: Calibration | None
) -> None:
    """Refuses a reference that is known to the model, and tells of images that stand in both sets."""
    if training is not None:
        known = int(np.isin(reference.digests, training.digests).sum())
        allowed = f"must hold no training image, and {known} of its {len(reference)} images are"
        require(known == 0, "reference", f"{len(reference)} images", allowed)
    both = in_both(audited, reference)
    if both and calibration is None:
        told = "%d of %d audited images stand in the reference too and count against themselves: p >= %.2g for them"
        log.warning(told, both, len(audited), 2 / (len(reference) + 1))
    elif calibration is not None and (others := int((~calibration.stays).sum())):
        log.warning("  %d near-duplicates: of each group one image is tested or compared with", others)
