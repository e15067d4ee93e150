"""A detector's scores in three forms: raw, with the difficulty of the image taken out, and against a baseline.

- raw: as the detector gives them;
- calibrated: how far a score lies above those of images as hard, by their pixels (``plap_jax.adjustment``); the
  regression is fitted on images of the validation half alone;
- baseline: minus the score that the control gives, in the same directions or noise. The control is a network of the
  same kind that saw the single images and their captions, and no planted one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from experiments.detection_benchmark.scoring import CandidateScores
from experiments.shared.methods import Method, Prompt
from plap_jax.adjustment import adjust
from plap_jax.data import fingerprint
from plap_jax.difficulty import difficulty

Form = Literal["raw", "calibrated", "baseline"]


def name_in(form: Form, name: str) -> str:
    """Of a detector in this form, as in metrics: ``flux_p1``, ``flux_p1_calibrated``, ``flux_p1_baseline``."""
    return name if form == "raw" else f"{name}_{form}"


def forms_of(method: Method, prompt: Prompt, forms: Sequence[Form]) -> tuple[Form, ...]:
    """Those that make sense for it: without an image, or with the training data as an oracle, only the raw one.

    The control never saw the captions of planted images, so that there is a baseline with the prompt unknown alone.
    """
    if "image" not in method.kind.needs or method.family == "oracle":
        return tuple(form for form in forms if form == "raw")
    return tuple(form for form in forms if form != "baseline" or prompt == "unknown")


def calibrated(found: CandidateScores, images: np.ndarray, validation: np.ndarray) -> CandidateScores:
    """Every candidate with difficulty taken out; 0 for all images where a candidate tells none from another.

    Args:
        found: raw scores of ``images``.
        images: ``(n, h, w, c)``.
        validation: ``(n,)`` booleans, images that the regression is fitted on.
    """
    digests = np.asarray([fingerprint(image) for image in images])
    adjusted = adjust(found.values.T, difficulty(images), digests, fitted=validation)
    return replace(found, values=np.where(adjusted.used[:, None], adjusted.residuals.T, 0.0))


def against(found: CandidateScores, control: CandidateScores) -> CandidateScores:
    """Every candidate minus the control's, at the cost of both."""
    return replace(
        found,
        values=found.values - control.values,
        evaluations=found.evaluations + control.evaluations,
        milliseconds=found.milliseconds + control.milliseconds,
    )


def methods_in(methods: Mapping[str, Method], forms: Sequence[Form]) -> dict[str, Method]:
    """The detectors by the names of all their forms."""
    return {name_in(form, name): method for form in forms for name, method in methods.items()}
