"""An audit from end to end: images and prompts, evidence or scores, verdict."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from plap_jax.audit.arrays import shape_of
from plap_jax.audit.asking import Asked
from plap_jax.audit.conclusion import conclude
from plap_jax.audit.images import Pictures, Source, Subset
from plap_jax.audit.measuring import question
from plap_jax.audit.prompts import CAPTIONS, prompts_beside, read_prompts
from plap_jax.audit.result import AuditResult
from plap_jax.audit.settings import AuditSettings, number
from plap_jax.audit.sources import open_source
from plap_jax.audit.store import FolderStore, Surroundings
from plap_jax.audit.subject import Held, Model, Takes
from plap_jax.audit.training import Training
from plap_jax.audit.verdict import several_at_once, too_small
from plap_jax.audit.words import where_from
from plap_jax.calibration import fewest_discoveries
from plap_jax.detectors import Detector
from plap_jax.typing import PRNGKey, require, require_key

log = logging.getLogger(__name__)
# Settings that count with a single noise level alone, and those of the calibrated score.
_OF_SIGMA = ("n_samples", "max_samples", "target_stderr", "directions", "repeats")
_OF_LEVELS = ("n_directions", "duplicate_distance")
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
        images: ``(n, h, w, c)``, of grey ones also ``(n, h, w)``, uint8 or floats in [−1, 1]; or a folder, an ``.npz``,
            an ``.npy``, tars or Parquet files (``"tars/{000..063}.tar"``).
        reference: images known not to be in the training data, as ``images``; None: a ranking without error control.
        prompts: one text (or number) for all, one for each image, or a CSV file of file,prompt; "captions":
            those that lie beside the images in tars and Parquet files; None: none.
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
    given = {"reference": reference, "prompts": prompts, "reference_prompts": reference_prompts, "training": training}
    store = None if resume_dir is None else FolderStore(resume_dir)
    how = {"baseline": baseline, "fdr": fdr, "key": key, "shape": shape, "settings": settings} | more
    it = open_all(model, images, **given, **how, around=Surroundings(store, progress=progress))
    it.tell(sigma, detector)
    sides = (it.asked.audited, it.asked.reference, it.asked.training)
    about = {"sigma": sigma, "key": key, "detector": detector, "around": it.asked.around, "words": it.words}
    return audit(it.held, it.settings, *sides, baseline=it.baseline, fdr=it.fdr, **about)


@dataclass(frozen=True)
class Opened:
    """What an audit was given, opened: the model, and the images for it."""

    held: Held
    baseline: Held | None
    settings: AuditSettings
    asked: Asked
    fdr: float
    words: Mapping[str, str]

    def tell(self, sigma: float | None, detector: Detector | None) -> None:
        """What is better known before anything is measured: a reference too small to flag, settings without effect."""
        if self.asked.reference is not None:
            n, n_reference = (len(side.source.names) for side in (self.asked.audited, self.asked.reference))
            line = too_small(n, n_reference, self.fdr)
            if line is None and 2 * fewest_discoveries(max(1, n), n_reference, self.fdr) > n:
                line = several_at_once(n, n_reference, self.fdr)
            if line is not None:
                log.warning("  %s", line)
        names = _OF_SIGMA if sigma is None and detector is None else _OF_LEVELS
        default = AuditSettings()
        if unused := [name for name in names if getattr(self.settings, name) != getattr(default, name)]:
            why = "sigma is not given" if names is _OF_SIGMA else "a single score is asked for"
            log.warning("  %s: without effect, since %s", ", ".join(unused), why)


def open_all(
    model: Model | Callable[[], Model],
    images: Images,
    *,
    reference: Images | None = None,
    prompts: GivenPrompts = None,
    reference_prompts: GivenPrompts = None,
    training: Images | None = None,
    baseline: Model | Callable[[], Model] | None = None,
    fdr: float = 0.05,
    key: PRNGKey,
    around: Surroundings,
    shape: Sequence[int] | None = None,
    settings: AuditSettings | None = None,
    **more: Any,
) -> Opened:
    """The model and the images of an audit; arguments as of ``audit_images``.

    Raises:
        ValueError, TypeError: as ``audit_images``.
    """
    fdr = number("fdr", fdr)
    require(0 < fdr < 1, "fdr", fdr, "must lie in (0, 1)")
    require_key(key)
    settings = _settings(settings, more)
    held = Held(model, shape_of(images) if shape is None else shape)
    other = None if baseline is None else Held(baseline, held.takes.image_shape)
    how = {"takes": held.takes, "settings": settings}
    audited = opened("images", images, prompts, **how)
    allowed = "needs a reference"
    require(reference is not None or reference_prompts is None, "reference_prompts", reference_prompts, allowed)
    allowed = "is what is audited: it must hold images that are known not to be in the training data"
    require(not _one_place(images, reference), "reference", str(reference), allowed)
    compared = None if reference is None else opened("reference", reference, reference_prompts, **how)
    known = None if training is None else open_training(training, **how)
    words = where_from(images, reference, prompts, training)
    return Opened(held, other, settings, Asked(audited, compared, known, key, around), fdr, words)


def _one_place(images: Any, reference: Any) -> bool:
    """Whether both name the same files."""
    places = [
        os.path.abspath(os.path.expanduser(one)) for one in (images, reference) if isinstance(one, str | os.PathLike)
    ]
    return len(places) == 2 and places[0] == places[1]


def _settings(settings: AuditSettings | None, more: Mapping[str, Any]) -> AuditSettings:
    names = {one.name for one in fields(AuditSettings)}
    unknown = sorted(set(more) - names)
    if unknown:
        known = {*names, *inspect.signature(audit_images).parameters} - {"more", "settings"}
        near = "".join(f"; did you mean {one}?" for one in difflib.get_close_matches(unknown[0], known, 1))
        allowed = f"no argument of audit_images, and no setting ({', '.join(sorted(names))})"
        raise TypeError(f"{unknown[0]}: {allowed}{near}")
    require(settings is None or not more, "settings", settings, "must be None where single settings are given")
    return AuditSettings(**more) if settings is None else settings


def opened(key: str, images: Images, prompts: GivenPrompts, *, takes: Takes, settings: AuditSettings) -> Pictures:
    """Images with their prompts; ``key`` names them in messages.

    Raises:
        ValueError: they do not fit the model or each other.
    """
    source = _source(key, images, takes, settings)
    if (line := source.converted) is not None:
        log.warning("  %s: %s", key, line)
    prompts_key = "prompts" if key == "images" else f"{key}_prompts"
    if isinstance(prompts, str) and prompts == CAPTIONS:
        found = prompts_beside(prompts_key, getattr(source, "captions", None), takes)
    else:
        found = read_prompts(prompts_key, prompts, source.names, {name for name, _ in source.skipped}, takes)
    if found is None or not (found.without or found.strangers):
        return Pictures(source, None if found is None else found.prompts)
    log.warning("  %s=%s: %s", prompts_key, prompts, found.words)
    others = [(source.names[i], "no prompt is given for it") for i in found.without]
    others += [(name, "has a prompt, and is no image here") for name in found.strangers]
    kept = sorted(set(range(len(source.names))) - set(found.without))
    return Pictures(Subset(source, kept, others), found.prompts)


def open_training(images: Images, *, takes: Takes, settings: AuditSettings) -> Training:
    """The training images, in memory."""
    return Training(_source("training", images, takes, settings), settings.max_ratio, settings.max_distance)


def _source(key: str, images: Images, takes: Takes, settings: AuditSettings) -> Source:
    return open_source(key, images, takes.image_shape, settings.resize, settings.crop, settings.pixel_range)


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
    asked = Asked(audited, reference, training, key, around)
    asking, cut = question(held, settings, asked, baseline=baseline, sigma=sigma, detector=detector)
    frame, denoised = asking.frame, asking.denoised  # what is refused or told is better known before all is measured
    result = conclude(
        asking.sides(),
        frame,
        settings,
        asked,
        fdr=fdr,
        sigma=sigma,
        denoised=denoised,
        maps=asking.maps,
        models=asking.models_in_words,
        words=dict(words or {}) | cut,
    )
    held.release()
    return result
