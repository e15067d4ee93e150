"""Detectors that are compared on the same images: most on all of them, dear ones on a subset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from experiments.detection_benchmark.forms import FORMS, name_in
from experiments.detection_benchmark.scoring import CandidateScores
from experiments.shared.methods import Prompt


@dataclass(frozen=True)
class Cell:
    """One task at one guidance scale, with the prompt or without."""

    task: str
    prompt: Prompt
    guidance: float

    @property
    def name(self) -> str:
        """As in the metrics: ``image/unknown/g3``."""
        return f"{self.task}/{self.prompt}/g{self.guidance:g}"


@dataclass(frozen=True)
class Part:
    """Detectors on the same images.

    Attributes:
        names: those that are reported.
        scored: all that take part; on a subset the reference too, in its forms, for others are compared with it.
        images: ``(m,)``, the subset; None: all.
    """

    names: tuple[str, ...]
    scored: dict[str, CandidateScores]
    images: np.ndarray | None = None


def parts(scored: Mapping[str, CandidateScores], reference: str) -> list[Part]:
    """Those on all images first, then those on each subset."""
    whole = {name: one for name, one in scored.items() if one.subset is None}
    found = [Part(tuple(whole), whole)] if whole else []
    ours = {name: whole[name] for form in FORMS if (name := name_in(form, reference)) in whole}
    for size in sorted({len(one.subset) for one in scored.values() if one.subset is not None}):
        some = {name: one for name, one in scored.items() if one.subset is not None and len(one.subset) == size}
        found.append(Part(tuple(some), ours | some, next(iter(some.values())).subset))
    return found


def narrowed(found: CandidateScores, images: np.ndarray | None) -> CandidateScores:
    """The values of these images alone; None: of all."""
    return found if images is None else replace(found, values=found.values[:, images], subset=None)
