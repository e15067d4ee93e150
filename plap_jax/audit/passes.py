"""What a model is asked with and without a prompt, and which other model it is held against."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from plap_jax.audit.images import Pictures
from plap_jax.audit.settings import AuditSettings, Score
from plap_jax.audit.subject import Held, Subject
from plap_jax.detectors import Detector
from plap_jax.pretrained import Pretrained
from plap_jax.typing import require

log = logging.getLogger(__name__)


def check_passes(subject: Subject, score: Score, detector: Detector | None, audited: Pictures) -> None:
    """Refuses a score that needs a pass which the model does not have.

    Raises:
        ValueError: no prompts for a model that needs one, or a comparison with no prompt by a model without that.
    """
    without = subject.model.without
    compares = score == "kappa_gap" or (detector is not None and "prompt" in detector.needs)
    told = "score" if detector is None else "detector"
    value = score if detector is None else type(detector).__name__
    allowed = "compares the prompt with none, and this model was trained with a prompt for every image"
    require(without == "unconditional" or not compares, told, value, allowed)
    blind = score == "kappa" or (detector is not None and audited.prompts is None)
    allowed = "must be given, of the reference too where there is one: this model needs one for every image"
    require(without != "refused" or not blind, "prompts", None, allowed)


def cut_prompts(subject: Subject, *sides: Pictures | None) -> dict[str, str]:
    """How many prompts are longer than what the model takes, in words for a report; told as a warning too."""
    if not subject.takes_text:
        return {}
    texts = sorted({text for side in sides if side is not None and side.prompts is not None for text in side.prompts})
    found = subject.model.text.cut_in_words(texts)
    if found:
        log.warning("  %s", found)
    return {"long prompts": found} if found else {}


def base_of_loras(held: Held, settings: AuditSettings, wanted: bool) -> Held | None:
    """The model without its LoRAs, loaded when it is asked for: the natural baseline; None where there are none."""
    load = held.subject.model.base
    if load is None or not settings.lora_base or not wanted:
        return None
    log.info("  baseline: the model without its LoRA")
    return Held(partial(_base, load, f"{held.words}, without its LoRA"))


def _base(load: Callable[[], Pretrained], words: str) -> Subject:
    return Subject(load(), words)
