"""How well a map tells the pixels that were pasted, and how much of it hangs together."""

import numpy as np
from scipy import ndimage

from experiments.core.report import Report
from plap_jax.bootstrap import cluster_weights, percentile_interval
from plap_jax.metrics import Interval, auc

N_THRESHOLDS = 199  # that are tried, quantiles of the pixels of all maps


def smoothed(maps: np.ndarray, width: float) -> np.ndarray:
    """Maps ``(n, h, w)`` under a Gaussian of that many pixels; 0: as they are."""
    return ndimage.gaussian_filter(maps, (0, width, width), mode="nearest") if width else maps


def pixel_aucs(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Of each image, how often a pixel of the mask scores above one outside: ``(n,)``."""
    return np.asarray([auc(one[mask], one[~mask]) for one, mask in zip(maps, masks, strict=True)])


def ious(maps: np.ndarray, masks: np.ndarray, threshold: float) -> np.ndarray:
    """Of each image, |found ∩ mask| / |found ∪ mask|, where found are the pixels above the threshold: ``(n,)``."""
    found = maps > threshold
    return (found & masks).sum(axis=(1, 2)) / (found | masks).sum(axis=(1, 2))


def best_threshold(maps: np.ndarray, masks: np.ndarray) -> float:
    """The threshold with the highest mean intersection over union, one for all images."""
    tried = np.quantile(maps, np.arange(1, N_THRESHOLDS + 1) / (N_THRESHOLDS + 1))
    return float(tried[np.argmax([ious(maps, masks, threshold).mean() for threshold in tried])])


def largest_masses(maps: np.ndarray, threshold: float) -> np.ndarray:
    """Of each image, the largest sum of what exceeds the threshold over pixels that hang together by their sides.

    0 where nothing exceeds it; ``(n,)``.
    """
    found = []
    for one in maps:
        labels, n = ndimage.label(one > threshold)
        sums = ndimage.sum_labels(one - threshold, labels, np.arange(1, n + 1))
        found.append(max(sums, default=0.0))
    return np.asarray(found)


def by_region(values: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Means over the images of each region: ``(r,)``."""
    _, places = np.unique(regions, return_inverse=True)
    return np.bincount(places, weights=values) / np.bincount(places)


def measure_mean(report: Report, name: str, values: np.ndarray, regions: np.ndarray, seed: int) -> Interval | None:
    """Mean over regions of the mean over their images, as metric ``name``, with an interval over regions.

    Of differences of two maps on the same images: a paired interval. Null below two regions.
    """
    of_each = by_region(values, regions) if len(values) else np.zeros(0)
    if len(of_each) < 2:
        report.metric(name, None, f"{len(of_each)} region(s) in the test half, at least 2 are needed")
        return None
    weights = cluster_weights(np.arange(len(of_each)), seed=seed)
    found = percentile_interval(float(of_each.mean()), weights @ of_each / len(of_each), len(of_each))
    report.metric(name, found)
    return found
