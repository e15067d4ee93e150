"""What models are asked about the images of an audit: evidence at all levels, beside a baseline, or one plain score."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import jax

from plap_jax.audit.calibrated import CALIBRATED, paired
from plap_jax.audit.evaluator import Evaluator
from plap_jax.audit.gathering import Gatherer
from plap_jax.audit.images import Pictures
from plap_jax.audit.scores import Scorer, takes_level
from plap_jax.audit.settings import NAMES, WITH_PROMPT, AuditSettings, Score, number
from plap_jax.audit.store import Surroundings
from plap_jax.audit.stream import Scored, score_all
from plap_jax.audit.subject import Held, Sketch, Subject
from plap_jax.audit.training import Training
from plap_jax.detectors import Detector
from plap_jax.typing import PRNGKey, require

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Images, and what is asked of models about them.

    Attributes:
        audited, reference, training: as opened.
        key: of all directions.
        around: of the audit.
        in_part: these are a few of the images of an audit, or none: what is said of them must not depend on the others.
    """

    audited: Pictures
    reference: Pictures | None
    training: Training | None
    key: PRNGKey
    around: Surroundings
    in_part: bool = False

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
        how = {"around": self.around, "described": described, "may_be_none": self.in_part}
        training = {"images": None if prefix else self.training}
        return [
            score_all(evaluator, pictures, training.get(name), key=f"{prefix}{name}", **how)
            for name, pictures in self.sides.items()
        ]


@dataclass(frozen=True)
class Facts:
    """What has to be known of a model after it was let go, to hold another against it.

    Attributes:
        key: of the model, whatever it is called; None where it is not asked for, since it takes a few evaluations.
        words: what it is called.
        image_shape: of its images.
        space: of the points that are scored.
        prompts: whether these are texts, and how many are known by number.
        levels: noise levels of the settings that its schedule has.
        schedule: its name.
        sketch: of the model, see ``Subject``; None where it was not asked for.
    """

    key: str | None
    words: str
    image_shape: tuple[int, ...]
    space: tuple[str, tuple[int, ...]]
    prompts: tuple[bool, int | None]
    levels: tuple[float, ...]
    schedule: str
    sketch: Sketch | None = None

    @staticmethod
    def of(subject: Subject, settings: AuditSettings, *, with_key: bool, with_sketch: bool) -> Facts:
        """Of a loaded model."""
        model, levels = subject.model, tuple(Gatherer(subject, settings, jax.random.key(0)).times)
        space, prompts = (model.kind, tuple(model.shape)), (subject.takes_text, subject.n_conditions)
        told = (tuple(model.image_shape), space, prompts, levels, model.diffusion.schedule.name)
        key, sketch = subject.content if with_key else None, subject.sketch if with_sketch else None
        return Facts(key, subject.words, *told, sketch)


@dataclass(frozen=True)
class Frame:
    """What the numbers of an audit are, before any is computed.

    Attributes:
        name: of the score.
        meaning: what is measured, in words.
        levels: noise levels of the evidence that the model has, none of a plain score.
        of_baseline: those that a baseline has, None where there is none.
        not_reached: levels of the settings that one of them does not have.
    """

    name: str
    meaning: str
    levels: tuple[float, ...] = ()
    of_baseline: tuple[float, ...] | None = None
    not_reached: tuple[float, ...] = ()

    @property
    def common(self) -> list[float]:
        """The levels that the evidence is taken at."""
        return [level for level in self.levels if self.of_baseline is None or level in self.of_baseline]


def calibrated_frame(settings: AuditSettings, kind: Score, model: Facts, baseline: Facts | None) -> Frame:
    """What a calibrated score is made of.

    Raises:
        ValueError: no noise level that the models have, or a baseline that does not fit the model.
    """
    allowed = f"must hold a level that the model's schedule has ({model.schedule}); or give sigma"
    require(bool(model.levels), "noise_levels", settings.noise_levels, allowed)
    of_baseline = None if baseline is None else tuple(check_baseline(baseline, model, kind))
    frame = Frame(CALIBRATED, NAMES[kind], model.levels, of_baseline)
    missing = tuple(level for level in settings.noise_levels if level not in frame.common)
    if missing:
        told = ", ".join(f"{level:g}" for level in missing)
        log.warning("  noise levels %s are left out: the schedule does not have them", told)
    return replace(frame, not_reached=missing)


def gathered(
    held: Held, baseline: Held | None, settings: AuditSettings, kind: Score, asked: Asked, frame: Frame
) -> list[Scored]:
    """The evidence of each side; of two models that can be loaded one is in memory at a time.

    The baseline is asked first, since it is in memory after ``frame`` was made.
    """
    asked = asked if kind in WITH_PROMPT else asked.without_prompts()
    how = {"settings": settings, "key": asked.key, "kind": kind, "one_shape": True}
    beside = None
    if baseline is not None:
        beside = asked.of(Gatherer(baseline.subject, **how), prefix="baseline/")
        baseline.release()
    sides = asked.of(Gatherer(held.subject, **how), described=True)
    if beside is None:
        return sides
    levels = (list(frame.levels), list(frame.of_baseline))
    sides = [paired(one, two, *levels) for one, two in zip(sides, beside, strict=True)]
    for side in sides:
        same = len(side) > 0 or asked.in_part
        require(same, "images", len(side.skipped), "must be the same images for the model and the baseline")
    return sides


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


def plain_scorer(
    held: Held, settings: AuditSettings, score: Score, sigma: float | None, detector: Detector | None, asked: Asked
) -> Scorer:
    """What gives images their scores at one noise level.

    Raises:
        ValueError: a level that the schedule does not have, or a detector that does not fit the model.
    """
    schedule = held.subject.model.diffusion.schedule
    if detector is not None:
        check_detector(detector, asked.audited, asked.reference)
    if sigma is not None:
        sigma = number("sigma", sigma)
        if detector is None or takes_level(detector):
            schedule.time_at(sigma)
    scores = () if detector is not None else (score,)
    scorer = Scorer(held.subject, settings, asked.key, sigma, scores, detector, one_shape=asked.in_part)
    if detector is not None:
        scorer.detector.check(schedule)
        scorer.detector.check_derivatives(held.subject.model.diffusion)
    return scorer


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
