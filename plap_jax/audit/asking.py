"""What models are asked about the images of an audit: evidence at all levels, beside a baseline, or one plain score."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import jax
import numpy as np

from plap_jax.audit.calibrated import Calibration, calibrate, paired
from plap_jax.audit.evaluator import Evaluator, named_key
from plap_jax.audit.gathering import Gatherer
from plap_jax.audit.images import Pictures
from plap_jax.audit.scores import Scorer, takes_level
from plap_jax.audit.settings import WITH_PROMPT, AuditSettings, Score, number
from plap_jax.audit.store import Surroundings
from plap_jax.audit.stream import Scored, score_all
from plap_jax.audit.subject import Held, Subject
from plap_jax.audit.training import Training
from plap_jax.detectors import Detector
from plap_jax.typing import PRNGKey, require

log = logging.getLogger(__name__)
Sides = tuple[Scored, Scored | None]


@dataclass(frozen=True)
class Asked:
    """Images, and what is asked of models about them.

    Attributes:
        audited, reference, training: as opened.
        key: of all directions.
        around: of the audit.
    """

    audited: Pictures
    reference: Pictures | None
    training: Training | None
    key: PRNGKey
    around: Surroundings

    def without_prompts(self) -> Asked:
        """The same, for a score that is told none."""
        sides = {name: replace(pictures, prompts=None) for name, pictures in self.sides.items()}
        return replace(self, audited=sides["images"], reference=sides.get("reference"))

    @property
    def sides(self) -> dict[str, Pictures]:
        """By name, the audited images first."""
        return {"images": self.audited} | ({} if self.reference is None else {"reference": self.reference})

    def of(self, evaluator: Evaluator, *, described: bool = False, prefix: str = "") -> list[Scored]:
        """What a model says of each side."""
        how = {"around": self.around, "described": described}
        training = {"images": None if prefix else self.training}
        return [
            score_all(evaluator, pictures, training.get(name), key=f"{prefix}{name}", **how)
            for name, pictures in self.sides.items()
        ]


@dataclass(frozen=True)
class Facts:
    """What has to be known of a model after it was let go, to hold another against it."""

    key: str
    words: str
    image_shape: tuple[int, ...]
    space: tuple[str, tuple[int, ...]]
    prompts: tuple[bool, int | None]
    levels: tuple[float, ...]

    @staticmethod
    def of(subject: Subject, settings: AuditSettings) -> Facts:
        """Of a loaded model."""
        model, levels = subject.model, tuple(Gatherer(subject, settings, jax.random.key(0)).times)
        space, prompts = (model.kind, tuple(model.shape)), (subject.takes_text, model.n_conditions)
        key = replace(subject, words="").key  # the same model may be told in other words
        return Facts(key, subject.words, tuple(model.image_shape), space, prompts, levels)


def calibrated(
    held: Held, baseline: Held | None, settings: AuditSettings, kind: Score, asked: Asked
) -> tuple[Sides, Calibration]:
    """Both sides with their calibrated scores, and how these were made.

    Of two models that can be loaded one is in memory at a time: the baseline is asked first.

    Raises:
        ValueError: no noise level that the models have, or a baseline that does not fit the model.
    """
    asked = asked if kind in WITH_PROMPT else asked.without_prompts()
    levels = list(Gatherer(held.subject, settings, asked.key).times)
    schedule = held.subject.model.diffusion.schedule.name
    allowed = f"must hold a level that the model's schedule has ({schedule}); or give sigma"
    require(bool(levels), "noise_levels", settings.noise_levels, allowed)
    common, beside, of_baseline = levels, None, []
    if baseline is not None:
        mine = Facts.of(held.subject, settings)
        held.release()
        of_baseline = check_baseline(Facts.of(baseline.subject, settings), mine, kind)
        common = [level for level in levels if level in of_baseline]
        beside = asked.of(Gatherer(baseline.subject, settings, asked.key, kind), prefix="baseline/")
        baseline.release()
    if missing := tuple(level for level in settings.noise_levels if level not in common):
        told = ", ".join(f"{level:g}" for level in missing)
        log.warning("  noise levels %s are left out: the schedule does not have them", told)
    sides = asked.of(Gatherer(held.subject, settings, asked.key, kind), described=True)
    if beside is not None:
        sides = [paired(one, two, levels, of_baseline) for one, two in zip(sides, beside, strict=True)]
    salt = np.asarray(jax.random.key_data(named_key(asked.key, "salt"))).tobytes()
    first, second, found = calibrate(sides[0], (*sides, None)[1], common, settings.duplicate_distance, salt)
    return (first, second), replace(found, not_reached=missing)


def check_baseline(baseline: Facts, model: Facts, kind: Score) -> list[float]:
    """The noise levels of a baseline that is of the same kind as the model.

    Raises:
        ValueError: another shape or space, the same model, other prompts where it is given some, or no common level.
    """
    shape, wanted = baseline.image_shape, model.image_shape
    require(shape == wanted, "baseline", f"a model of images {shape}", f"must be of images {wanted}, as the model is")
    allowed = f"must be of {model.space[0]} {model.space[1]}, as the model is, not of {baseline.space[0]}"
    require(baseline.space == model.space, "baseline", baseline.words, f"{allowed} {baseline.space[1]}")
    require(baseline.key != model.key, "baseline", baseline.words, "must be another model than the audited one")
    alike = kind not in WITH_PROMPT or baseline.prompts == model.prompts
    allowed = "must take the prompts that the model is given, or give score=kappa"
    require(alike, "baseline", baseline.words, allowed)
    common = set(baseline.levels) & set(model.levels)
    require(bool(common), "baseline", baseline.words, "must have a noise level in common with the model")
    return list(baseline.levels)


def plain(
    held: Held, settings: AuditSettings, score: Score, sigma: float | None, detector: Detector | None, asked: Asked
) -> tuple[Sides, str, str]:
    """Both sides with their scores at one noise level; the name of the score, and what it is."""
    schedule = held.subject.model.diffusion.schedule
    if detector is not None:
        check_detector(detector, asked.audited, asked.reference)
    if sigma is not None:
        sigma = number("sigma", sigma)
        if detector is None or takes_level(detector):
            schedule.time_at(sigma)
    scorer = Scorer(held.subject, settings, asked.key, sigma, () if detector is not None else (score,), detector)
    if detector is not None:
        scorer.detector.check(schedule)
        scorer.detector.check_derivatives(held.subject.model.diffusion)
    log.info("  noise level %s", "of the detector's own" if sigma is None else f"σ = {sigma:g}")
    found = asked.of(scorer)
    return (found[0], (*found, None)[1]), "detector" if detector is not None else score, scorer.words


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
