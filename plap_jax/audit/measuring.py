"""An audit up to its verdict: what is measured of which images, by which models, and the numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from plap_jax.audit.asking import Asked, Facts, Frame, calibrated_frame, gathered, plain_scorer
from plap_jax.audit.denoising import Denoising, denoising
from plap_jax.audit.images import Pictures
from plap_jax.audit.maps import CurvatureMaps, curvature_maps
from plap_jax.audit.passes import base_of_loras, check_passes, cut_prompts
from plap_jax.audit.scores import takes_level
from plap_jax.audit.settings import WITH_PROMPT, AuditSettings, Score
from plap_jax.audit.stream import Scored
from plap_jax.audit.subject import Held, Sketch
from plap_jax.audit.verdict import Verdict
from plap_jax.detectors import Detector
from plap_jax.typing import require

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """What an audit asks of which models; nothing is computed before it is asked for.

    Attributes:
        held, baseline: the models; None: there is no baseline.
        settings: of the audit.
        score: what images are ranked by.
        asked: the images.
        sigma: a single noise level, or None.
        detector: in place of κ₁, or None.
    """

    held: Held
    baseline: Held | None
    settings: AuditSettings
    score: Score
    asked: Asked
    sigma: float | None
    detector: Detector | None

    @property
    def is_plain(self) -> bool:
        """Whether one score is measured, in place of the evidence that a calibrated one is made of."""
        return self.sigma is not None or self.detector is not None

    @cached_property
    def frame(self) -> Frame:
        """What the numbers are; models that do not fit are refused."""
        if self.is_plain:
            scorer = plain_scorer(self.held, self.settings, self.score, self.sigma, self.detector, self.asked)
            return Frame("detector" if self.detector is not None else self.score, scorer.words)
        model, baseline = self.facts
        return calibrated_frame(self.settings, self.score, model, baseline)

    @cached_property
    def facts(self) -> tuple[Facts, Facts | None]:
        """Of the model and of the baseline, of which the latter is in memory afterwards."""
        in_part = self.asked.in_part
        how = {"with_key": in_part or self.baseline is not None, "with_sketch": in_part}
        model = Facts.of(self.held.subject, self.settings, **how)
        if self.baseline is None:
            return model, None
        _ = self.denoised  # while the model is in memory
        self.held.release()
        return model, Facts.of(self.baseline.subject, self.settings, **how)

    @cached_property
    def denoised(self) -> Denoising | None:
        """Whether the model denoises the audited images, which is told where it does not; None beside a detector."""
        if self.detector is not None:
            return None
        asked = self.asked if self.score in WITH_PROMPT else self.asked.without_prompts()
        found = denoising(self.held.subject, asked.audited, self.settings, asked.key, asked.around)
        if found is not None and found.warning is not None:
            log.warning("  %s", found.warning)
        return found

    @property
    def sketches(self) -> dict[str, Sketch]:
        """Of the model and, where there is one, of the baseline, what compares across machines."""
        model, baseline = self.facts
        return {"model": model.sketch} | ({} if baseline is None else {"baseline": baseline.sketch})

    def sides(self) -> list[Scored]:
        """The numbers: of the audited images, then of the reference where there is one."""
        if not self.is_plain:
            return gathered(self.held, self.baseline, self.settings, self.score, self.asked, self.frame)
        scorer = plain_scorer(self.held, self.settings, self.score, self.sigma, self.detector, self.asked)
        log.info("  noise level %s", "of the detector's own" if self.sigma is None else f"σ = {self.sigma:g}")
        return self.asked.of(scorer)

    def maps(self, scored: Scored, verdict: Verdict, levels: Sequence[float]) -> CurvatureMaps | None:
        """Curvature maps of flagged images, once there is a verdict."""
        at_one = self.sigma is not None and (self.detector is None or takes_level(self.detector))
        sigma = float(self.sigma) if at_one else None
        how = (self.settings, self.score, levels, sigma, self.asked)
        return curvature_maps(self.held, self.baseline, *how, scored, verdict)

    def models_in_words(self) -> dict[str, str]:
        """What the models are, for a reader."""
        return self.held.in_words("model") | ({} if self.baseline is None else self.baseline.in_words("baseline"))


def question(
    held: Held,
    settings: AuditSettings,
    asked: Asked,
    *,
    baseline: Held | None,
    sigma: float | None,
    detector: Detector | None,
) -> tuple[Question, dict[str, str]]:
    """What is asked, once it has been found to fit the model; and in words what was cut of the prompts.

    Raises:
        ValueError: a score, a detector or a baseline that does not fit the images or each other.
    """
    score = score_of(settings, asked.audited, asked.reference, detector)
    check_passes(held.subject, score, detector, asked.audited)
    cut = cut_prompts(held.subject, asked.audited, asked.reference)
    is_plain = sigma is not None or detector is not None
    if baseline is None:
        baseline = base_of_loras(held, settings, not is_plain)
    allowed = "needs the calibrated score: give neither sigma nor detector"
    require(baseline is None or not is_plain, "baseline", "given", allowed)
    return Question(held, baseline, settings, score, asked, sigma, detector), cut


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
    allowed = "must not be given, or be detector, since a detector is given"
    require(settings.score == "detector" or detector is None, "score", settings.score, allowed)
    require(settings.score != "detector" or detector is not None, "score", settings.score, "needs a detector")
    return settings.score
