"""What is to be ranked: generated images, or the captions they were generated for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.shared.captions import CaptionedImages, CaptionedStudy

ALL = "all"
FEW = 8  # copies: the hard cases are those up to it


def groups_of(copies: Sequence[int]) -> dict[str, tuple[int, ...] | None]:
    """Names of groups of positives → how many copies stand behind their captions; None: any number."""
    hard = tuple(k for k in sorted(copies) if k <= FEW)
    each = {str(k): (k,) for k in sorted(copies)}
    return each | ({f"{hard[0]}to{hard[-1]}": hard} if len(hard) > 1 else {}) | {ALL: None}


@dataclass(frozen=True)
class DetectionTask:
    """Units, each memorized or not, of one guidance scale.

    Attributes:
        name: "image", whose units are images, or "prompt", whose units are captions.
        groups: ``(n images,)``, the unit that an image belongs to.
        positive: ``(n units,)``: the image is a copy; enough images of the caption are copies.
        copies: ``(n units,)``, how often training saw the image behind the unit's caption; 0 for shared captions.
        clusters: ``(n units,)``, the captions: what is resampled together.
        validation: ``(n units,)``: choices are made on these, the rest is reported.
    """

    name: str
    groups: np.ndarray
    positive: np.ndarray
    copies: np.ndarray
    clusters: np.ndarray
    validation: np.ndarray

    def of_units(self, values: np.ndarray) -> np.ndarray:
        """``(*batch, n images) -> (*batch, n units)``: means over the images of a unit."""
        if self.name == "image":
            return values
        sums = np.zeros((*values.shape[:-1], len(self.positive)))
        np.add.at(sums, (..., self.groups), values)
        return sums / np.bincount(self.groups)

    def of_images(self, images: np.ndarray) -> DetectionTask:
        """The same of these images alone, indices, and of the units that they belong to; what is positive stays."""
        units, groups = np.unique(self.groups[images], return_inverse=True)
        parts = {name: getattr(self, name)[units] for name in ("positive", "copies", "clusters", "validation")}
        return DetectionTask(self.name, groups, **parts)

    def test_classes(self, copies: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Of the test half: the memorized units behind whose caption are that many copies, and all that are not."""
        chosen = self.positive if copies is None else self.positive & np.isin(self.copies, copies)
        return ~self.validation & chosen, ~self.validation & ~self.positive


def tasks(study: CaptionedStudy, made: CaptionedImages, min_share: float) -> Sequence[DetectionTask]:
    """Both tasks; a caption counts as memorized when at least ``min_share`` of its images are copies."""
    captions, is_copy = study.captions, made.copies.by_ratio
    present, groups = np.unique(made.prompts, return_inverse=True)  # a caption may have lost all its images
    share = np.bincount(groups, weights=is_copy) / np.bincount(groups)

    def units(name: str, groups: np.ndarray, positive: np.ndarray, prompts: np.ndarray) -> DetectionTask:
        return DetectionTask(name, groups, positive, captions.copies[prompts], prompts, captions.validation[prompts])

    return (
        units("image", np.arange(len(made.prompts)), is_copy, made.prompts),
        units("prompt", groups, share >= min_share, present),
    )
