"""A detector's scores in three forms: raw, with the difficulty of the image taken out, and against a baseline.

- raw: as the detector gives them;
- calibrated: how far a score lies above those of images as hard, by their pixels (``plap_jax.adjustment``); the
  regression is fitted on images of the validation half alone;
- baseline: minus the score that the control gives, in the same directions or noise. The control is a network of the
  same kind that saw the single images and their captions, and no planted one.

Where nothing but a noise level is to be chosen, the last two have one candidate more: all levels together, the mean of
their scores in standard deviations of the validation half, as an audit has it. It costs what all levels cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from experiments.detection_benchmark.scoring import CandidateScores, placed
from experiments.shared.methods import Method, Prompt
from plap_jax.adjustment import Adjusted, adjust
from plap_jax.data import fingerprint
from plap_jax.difficulty import difficulty

Form = Literal["raw", "calibrated", "baseline"]
FORMS: tuple[Form, ...] = get_args(Form)


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


@dataclass(frozen=True)
class Halves:
    """What is known of the images apart from their scores.

    Attributes:
        difficulty: ``(n, k)`` statistics of their pixels.
        digests: ``(n,)`` hashes of their content.
        validation: ``(n,)`` booleans, images that regressions and spreads are taken over.
    """

    difficulty: np.ndarray
    digests: np.ndarray
    validation: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, validation: np.ndarray) -> "Halves":
        """Of images ``(n, h, w, c)``."""
        return cls(difficulty(images), np.asarray([fingerprint(image) for image in images]), validation)


def calibrated(found: CandidateScores, halves: Halves, levels: Sequence[float] = ()) -> CandidateScores:
    """Every candidate with difficulty taken out; 0 for all images where a candidate tells none from another.

    Args:
        found: raw scores.
        halves: of the same images.
        levels: the noise levels, where candidates differ in nothing else.
    """
    adjusted = _adjusted(found, halves, halves.difficulty)
    values = np.where(adjusted.used[:, None], adjusted.residuals.T, 0.0)
    return _with_all_levels(replace(found, values=_on_all(values, found)), adjusted, levels)


def against(
    found: CandidateScores, control: CandidateScores, halves: Halves, levels: Sequence[float] = ()
) -> CandidateScores:
    """Every candidate minus the control's, at the cost of both; as for ``calibrated``."""
    both = replace(
        found,
        values=found.values - control.values,
        evaluations=found.evaluations + control.evaluations,
        milliseconds=found.milliseconds + control.milliseconds,
    )
    if len(levels) < 2:
        return both
    nothing = np.zeros((len(halves.digests), 1))  # levels are standardized alone
    return _with_all_levels(both, _adjusted(both, halves, nothing), levels)


def _adjusted(found: CandidateScores, halves: Halves, known: np.ndarray) -> Adjusted:
    rows = found.images
    return adjust(found.values[:, rows].T, known[rows], halves.digests[rows], fitted=halves.validation[rows])


def _on_all(values: np.ndarray, found: CandidateScores) -> np.ndarray:
    return placed(values, found.subset, found.values.shape[1])


def _with_all_levels(found: CandidateScores, adjusted: Adjusted, levels: Sequence[float]) -> CandidateScores:
    """``found`` and the mean over its noise levels, where it has several."""
    if len(levels) < 2:
        return found
    return replace(
        found,
        values=np.concatenate([found.values, _on_all(adjusted.score[None], found)]),
        evaluations=np.append(found.evaluations, found.evaluations.sum()),
        milliseconds=np.append(found.milliseconds, found.milliseconds.sum()),
        candidates=[*found.candidates, {"sigma": "all"}],
    )


def methods_in(methods: Mapping[str, Method], forms: Sequence[Form]) -> dict[str, Method]:
    """The detectors by the names of all their forms."""
    return {name_in(form, name): method for form in forms for name, method in methods.items()}
