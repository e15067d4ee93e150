"""The verdict of an audit, over all images together, once their numbers are there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np

from plap_jax.audit.asking import Asked, Frame
from plap_jax.audit.calibrated import CALIBRATED, Calibration, calibrate
from plap_jax.audit.denoising import Denoising
from plap_jax.audit.evaluator import named_key
from plap_jax.audit.fitness import fitness
from plap_jax.audit.maps import CurvatureMaps
from plap_jax.audit.result import AuditResult
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.stream import NEAR, THUMBNAIL, Scored
from plap_jax.audit.training import Training
from plap_jax.audit.verdict import Verdict, judge
from plap_jax.audit.words import in_both, in_words, set_aside
from plap_jax.typing import require

log = logging.getLogger(__name__)
Mapped = Callable[[Scored, Verdict, Sequence[float]], CurvatureMaps | None]


def conclude(
    sides: Sequence[Scored],
    frame: Frame,
    settings: AuditSettings,
    asked: Asked,
    *,
    fdr: float | None,
    sigma: float | None,
    denoised: Denoising | None = None,
    maps: Mapped,
    models: Callable[[], Mapping[str, str]],
    words: Mapping[str, str],
) -> AuditResult:
    """Calibrates and judges once, and has flagged images mapped.

    Args:
        sides: numbers of the audited images, then of the reference where there is one.
        frame: what they are.
        settings, asked: of the audit.
        fdr: None: the reference is not known to be free of training images.
        sigma: the single noise level that was asked for, or None.
        denoised: whether the model denoises such images; None where it was not asked.
        maps: makes the curvature maps, given images, verdict and noise levels.
        models: what the models are in words, asked last.
        words: more of them.

    Raises:
        ValueError: too few images, a reference that is known to the model, evidence that does not vary.
    """
    scored, compared = (*sides, None)[:2]
    calibration, fit = None, None
    if frame.name == CALIBRATED:
        salt = np.asarray(jax.random.key_data(named_key(asked.key, "salt"))).tobytes()
        scored, compared, calibration = calibrate(scored, compared, frame.common, settings.duplicate_distance, salt)
        calibration = replace(calibration, not_reached=frame.not_reached)
        n, share = len(calibration.levels), 100 * calibration.explained
        levels = "1 noise level" if n == 1 else f"{n} noise levels together"
        log.info("  %s; difficulty explains %.0f %% of the evidence's spread", levels, share)
    if compared is not None:
        _check_apart(scored, compared, asked.training, calibration)
    for side in (scored, compared):
        thumbnails = None if side is None else side.columns.pop(THUMBNAIL, None)  # 3 kB for each image in colour
        if thumbnails is not None and asked.training is not None:
            side.columns[NEAR] = asked.training.near(thumbnails, settings.duplicate_distance)
    verdict = judge(frame.name, scored, compared, fdr if compared is not None else None)
    if calibration is not None and verdict.fdr is not None:
        fit = fitness(calibration, len(scored))
    levels = settings.noise_levels if calibration is None else calibration.levels.tolist()
    made = maps(scored, verdict, levels)
    found = in_words(frame.meaning, settings, scored, asked.audited.source, compared, verdict.fdr, calibration)
    found = dict(models()) | found | ({} if made is None else {"curvature maps": made.words}) | dict(words)
    return AuditResult(
        verdict=verdict,
        meaning=frame.meaning,
        sigma=None if sigma is None else float(sigma),
        settings=settings,
        pictures=asked.audited,
        audited=scored,
        reference=compared,
        reference_pictures=asked.reference,
        training=asked.training,
        calibration=calibration,
        fitness=fit,
        denoising=denoised,
        maps=made,
        words=found,
    )


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
    elif calibration is not None and not calibration.stays.all():
        log.warning("  near-duplicates: %s", set_aside(calibration, audited))
