"""What is measured of the images of one method: per image, with intervals over captions, and against no method."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from plap_jax.bootstrap import cluster_weights, paired_percentile_interval, percentile_interval
from plap_jax.bootstrap.intervals import unseen_rate
from plap_jax.labels import Copies
from plap_jax.metrics import Interval
from plap_jax.neighbours import nearest

RATES = ("copies", "copies_by_distance", "agreement")
MEASURES = (*RATES, "diversity", "nfe")
LEVEL = 0.95  # of intervals
NEIGHBOURS = 5  # of a held-out image, within the furthest of which a generated one must lie to cover it
SAME = 0.02  # √(mean (a − b)²) above which an image was changed: 1 % of the range of [−1, 1]


@dataclass(frozen=True)
class MeasuredImages:
    """Images of some captions by one method.

    Attributes:
        prompts: ``(n,)``.
        images: ``(n, *shape)``.
        values: measure → ``(n,)`` float64; diversity is that of the image's caption, see ``diversity``.
    """

    prompts: np.ndarray
    images: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def of(
        cls, prompts: np.ndarray, images: np.ndarray, nfe: np.ndarray, copies: Copies, agrees: np.ndarray
    ) -> "MeasuredImages":
        """From what was generated, its labels and what the judge says."""
        found = (copies.by_ratio, copies.by_distance, agrees, diversity(images, prompts), nfe)
        values = {name: np.asarray(one, np.float64) for name, one in zip(MEASURES, found, strict=True)}
        return cls(prompts, images, values)

    def part(self, members: np.ndarray) -> "MeasuredImages":
        """These images alone, ``(n,)`` booleans: whole captions."""
        values = {name: one[members] for name, one in self.values.items()}
        return MeasuredImages(self.prompts[members], self.images[members], values)

    def mean(self, name: str) -> float:
        """Over all images; of an empty set NaN."""
        return float(self.values[name].mean()) if len(self.prompts) else float("nan")


@dataclass(frozen=True)
class Comparison:
    """Methods on the same captions and the same noise, compared on the same resamples of captions.

    Attributes:
        baseline: no method.
        seed: of the resamples.
    """

    baseline: MeasuredImages
    seed: int

    @cached_property
    def weights(self) -> np.ndarray:
        """``(n resamples, n)``, how often each image is drawn."""
        return cluster_weights(self.baseline.prompts, seed=self.seed).astype(np.float64)

    @property
    def n_captions(self) -> int:
        """What is resampled."""
        return len(np.unique(self.baseline.prompts))

    def interval(self, found: MeasuredImages, name: str) -> Interval:
        """The mean of a measure."""
        n, is_rate = self.n_captions, name in RATES
        trials = n if is_rate else None
        return percentile_interval(found.mean(name), self._resampled(found, name), n, LEVEL, trials=trials)

    def change(self, found: MeasuredImages, name: str) -> Interval:
        """The mean by this method minus that without, the same captions drawn for both.

        Where no caption loses, no resample does, and the low end of a share would be 0. A loss may still be as large as
        a rate that was not seen in n captions, ``unseen_rate``; and where no caption gains either, so may a gain.
        """
        pairs = [(one.mean(name), self._resampled(one, name)) for one in (found, self.baseline)]
        n, is_rate = self.n_captions, name in RATES
        change = paired_percentile_interval(*pairs[0], *pairs[1], n, LEVEL, trials=n if is_rate else None)
        if not is_rate or change.low != 0:
            return change
        missed = unseen_rate(n, LEVEL)
        return Interval(change.value, -missed, missed if change.high == 0 else change.high, n)

    def ratio(self, found: MeasuredImages, name: str) -> Interval:
        """The mean by this method over that without."""
        ours, theirs = self._resampled(found, name), self._resampled(self.baseline, name)
        value = found.mean(name) / self.baseline.mean(name)
        return percentile_interval(value, ours / theirs, self.n_captions, LEVEL)

    def moved(self, found: MeasuredImages) -> Interval:
        """The share of images that are not what they are without the method."""
        apart = (found.images - self.baseline.images).reshape(len(found.images), -1)
        moved = np.sqrt(np.square(apart, dtype=np.float64).mean(axis=1)) > SAME
        resampled = self._means(moved)
        return percentile_interval(float(moved.mean()), resampled, self.n_captions, LEVEL, trials=self.n_captions)

    def _resampled(self, found: MeasuredImages, name: str) -> np.ndarray:
        return self._means(found.values[name])

    def _means(self, values: np.ndarray) -> np.ndarray:
        """Of each resample, ``(n resamples,)``. Divided last: what is always 1 must be 1 to the last bit."""
        return self.weights @ values / self.weights.sum(axis=1)


def diversity(images: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """The mean √(mean (a − b)²) over pairs of images of a caption, for each of them: ``(n,)``; 0 for one alone."""
    flat, found = images.reshape(len(images), -1).astype(np.float64), np.zeros(len(images))
    for prompt in np.unique(prompts):
        members = np.flatnonzero(prompts == prompt)
        one, other = np.triu_indices(len(members), 1)
        if len(one):
            apart = flat[members[one]] - flat[members[other]]
            found[members] = np.sqrt(np.square(apart).mean(axis=1)).mean()
    return found


def coverage(images: np.ndarray, heldout: np.ndarray) -> float:
    """The share of held-out images that have a generated one among their neighbours (Naeem et al., ICML 2020).

    Within the distance to its ``NEIGHBOURS``-th nearest other held-out image.
    """
    k = min(NEIGHBOURS, len(heldout) - 1)
    reach = nearest(heldout, heldout, k, exclude_self=True)[0][:, -1]
    return float((nearest(heldout, images)[0][:, 0] <= reach).mean())
