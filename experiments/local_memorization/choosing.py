"""What is chosen on the validation half: noise levels, smoothing and threshold of every map, the same way for all."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from experiments.local_memorization.maps import MapName
from experiments.local_memorization.measures import best_threshold, largest_masses, pixel_aucs, smoothed
from experiments.local_memorization.study import LocalStudy
from plap_jax.metrics import auc

QUANTILES = (0.5, 0.8, 0.9, 0.95, 0.98)  # of the pixels of all maps: thresholds that are tried for the mass


@dataclass(frozen=True)
class MapChoice:
    """How a map is made, and what came of it on the validation half.

    Attributes:
        levels: noise levels, which share the evaluations.
        smoothing: width of a Gaussian, in pixels.
        threshold: above it a pixel counts as found; of the whole-image score not used.
        validation: the value that was the highest of all that were tried.
    """

    levels: tuple[float, ...]
    smoothing: float
    threshold: float
    validation: float

    @property
    def words(self) -> str:
        """The levels, for tables."""
        return ", ".join(f"{level:g}" for level in self.levels)


def for_pixels(study: LocalStudy, name: MapName, rows: np.ndarray) -> MapChoice:
    """By the mean pixel AUC over images ``rows``; then the threshold by the mean intersection over union."""
    masks, tried = study.masks_of(rows), []
    for levels, width in product(study.levels, study.smoothing):
        maps = smoothed(study.maps(name, levels, rows), width)
        tried.append(MapChoice(levels, width, best_threshold(maps, masks), float(pixel_aucs(maps, masks).mean())))
    return max(tried, key=lambda choice: choice.validation)


def for_mass(study: LocalStudy, name: MapName, positive: np.ndarray, negative: np.ndarray) -> MapChoice:
    """By the AUC of the largest connected mass, images ``positive`` against ``negative``."""
    tried = []
    for levels, width in product(study.levels, study.smoothing):
        both = [smoothed(study.maps(name, levels, rows), width) for rows in (positive, negative)]
        for threshold in np.quantile(np.concatenate(both), QUANTILES):
            masses = [largest_masses(maps, threshold) for maps in both]
            tried.append(MapChoice(levels, width, float(threshold), float(auc(*masses))))
    return max(tried, key=lambda choice: choice.validation)


def for_whole(study: LocalStudy, name: MapName, positive: np.ndarray, negative: np.ndarray) -> MapChoice:
    """By the AUC of the mean over all pixels, which is κ₁ of the image."""
    tried = []
    for levels in study.levels:
        both = [whole(study.maps(name, levels, rows)) for rows in (positive, negative)]
        tried.append(MapChoice(levels, 0.0, 0.0, float(auc(*both))))
    return max(tried, key=lambda choice: choice.validation)


def whole(maps: np.ndarray) -> np.ndarray:
    """The mean of each map: ``(n,)``."""
    return maps.mean(axis=(1, 2))
