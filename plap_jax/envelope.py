"""How many of the flagged images are false, at every threshold at once.

A reader may look at the result, move the threshold, and still be told how many false discoveries there are at most.
Everything runs on the host in float64.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import gammaln

from plap_jax.typing import ArrayLike, require

# Above so many thresholds they are taken in geometric steps, of 2 % at 20,000 reference images.
_MAX_THRESHOLDS = 512
# How often the simulation may give less than the confidence.
_UNLUCKY = 0.025
# In the logarithm; below it exp gives 0, and rounding to both sides of it does not matter.
_NEGLIGIBLE = 800.0
# 3 · (1/3), in floating point, may come out below 1.
_ROUNDING = 1e-9


class ThresholdRow(NamedTuple):
    """What may be said if all images with p-values up to ``p`` are flagged.

    Attributes:
        p: the threshold, one of the p-values.
        flagged: images with p-values ≤ p.
        at_most_false: at most so many of them are null.
        at_least_true: at least so many of them are not: flagged − at_most_false.
    """

    p: float
    flagged: int
    at_most_false: int
    at_least_true: int


@dataclass(frozen=True)
class Envelope:
    """The most null p-values that there are up to each threshold; made by ``false_discovery_envelope``.

    P(#{null i : p_i ≤ t} ≤ c(t) for all t) ≥ ``confidence``.

    Attributes:
        n_reference: n_ref.
        m: images audited.
        confidence: that the envelope holds at all thresholds together.
        counts: c(k/(n_ref + 1)) for k = 1 … n_ref + 1, ``(n_ref + 1,)`` integers, never falling, at most m.
    """

    n_reference: int
    m: int
    confidence: float
    counts: np.ndarray

    def at(self, p: ArrayLike) -> np.ndarray:
        """The most null images with p-values ≤ p.

        Args:
            p: thresholds in [0, 1], of any shape; between multiples of 1/(n_ref + 1) the lower one counts.

        Returns:
            Integers of the shape of ``p``; 0 below 1/(n_ref + 1), where no conformal p-value lies.

        Raises:
            ValueError: a threshold outside [0, 1].
        """
        p = np.asarray(p, np.float64)
        require(bool(np.all((p >= 0) & (p <= 1))), "p", p, "must lie in [0, 1]")
        k = np.floor(p * (self.n_reference + 1) * (1 + _ROUNDING)).astype(np.int64)
        return np.concatenate([[0], self.counts])[np.minimum(k, self.n_reference + 1)]

    def table(self, p_values: ArrayLike) -> list[ThresholdRow]:
        """For every number of images that can be flagged, how many of them are false at most.

        At least max_{u ≤ t} (#{p_i ≤ u} − c(u)) of the images with p-values ≤ t are not null: what holds of a smaller
        set holds within a larger one. All rows hold together at ``confidence``, so one may stop at any of them.

        Args:
            p_values: ``(m,)``, conformal p-values of all audited images against the n_ref reference images.

        Returns:
            A row for each different p-value, the smallest first; images that share a p-value are flagged together.

        Raises:
            ValueError: not m p-values, or one that n_ref reference images do not give.

        Example:
            >>> envelope = false_discovery_envelope(n_reference=300, m=200)
            >>> p_values = np.concatenate([np.full(40, 1 / 301), np.linspace(2, 301, 160) // 1 / 301])
            >>> envelope.table(p_values)[0]  # 40 flagged, at most 6 of them false, at least 34 true
        """
        p_values = np.asarray(p_values, np.float64)
        require(p_values.shape == (self.m,), "p_values", p_values.shape, f"must be m={self.m} in one axis")
        ranks = p_values * (self.n_reference + 1)
        with np.errstate(invalid="ignore"):
            given = (ranks > 0.5) & (ranks < self.n_reference + 1.5) & (np.abs(ranks - np.rint(ranks)) < 1e-6)
        allowed = f"must be k/{self.n_reference + 1} with k = 1 … {self.n_reference + 1}: conformal p-values"
        require(bool(given.all()), "p_values", p_values[~given][:1], allowed)
        k, images = np.unique(np.rint(ranks).astype(np.int64), return_counts=True)
        flagged = np.cumsum(images)
        true = np.maximum.accumulate(np.maximum(flagged - self.counts[k - 1], 0))
        columns = k / (self.n_reference + 1), flagged, flagged - true, true
        return [ThresholdRow(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def false_discovery_envelope(
    n_reference: int, m: int, *, confidence: float = 0.95, n_draws: int = 4000, seed: int = 0
) -> Envelope:
    """The most null p-values up to each threshold, for all thresholds at once.

    Let N_k be the number of p-values ≤ k/(n_ref + 1) when all m images are null. Whatever the law of the scores, they
    rank among the reference images as in Pólya's urn: N_k given V_k is Binomial(m, V_k), V_k = the first k of n_ref + 1
    gaps of uniforms, so N_k is beta-binomial(m; k, n_ref + 1 − k). The envelope is of equal local level η,

        c(k) = min {c : P(N_k > c) < η},

    with η from n_draws simulated paths: the r-th smallest of min_k P(N ≥ N_k), r the 2.5 % quantile of
    Binomial(n_draws, 1 − confidence), so that the envelope holds at ``confidence`` unless the simulation is one of the
    2.5 % unluckiest (4,000 draws for 95 % cover about 95.7 %). With the same excess at each threshold instead (a
    constant width) the smallest p-values, which matter most, would say nothing: at p = 1/301, of 200 images, 22 false
    ones rather than 6.

    It holds also where some of the m images are not null, for then there are fewer nulls, and with ties, which make
    conformal p-values larger.

    Above 512 thresholds the bound is computed in geometric steps; thresholds in between take that of the next larger
    one, below which there cannot be more.

    Args:
        n_reference: n_ref ≥ 1.
        m: images audited, ≥ 1.
        confidence: in (0, 1).
        n_draws: simulated paths, at least log(0.025)/log(confidence): 72 for 95 %.
        seed: of the simulation; the same arguments give the same envelope.

    Raises:
        ValueError: any of them out of range.

    Source:
        Marandon, Lei, Mary & Roquain 2024 (nulls under a score fitted to all images); Gazin, Blanchard & Roquain 2024
        (Pólya's urn).

    Example:
        >>> envelope = false_discovery_envelope(n_reference=300, m=200)
        >>> int(envelope.at(1 / 301))  # 6: of 40 above the whole reference, 34 or more are not null
    """
    for name, value in (("n_reference", n_reference), ("m", m), ("n_draws", n_draws)):
        require(isinstance(value, Integral) and value >= 1, name, value, "must be a whole number >= 1")
    require(0 < confidence < 1, "confidence", confidence, "must lie in (0, 1)")
    rank = int(stats.binom.ppf(_UNLUCKY, n_draws, 1 - confidence))
    fewest = math.ceil(math.log(_UNLUCKY) / math.log(confidence))
    require(rank >= 1, "n_draws", n_draws, f"must be at least {fewest} for confidence={confidence:g}")

    thresholds, urn = _thresholds(n_reference), _Urn(n_reference, m)
    rarest = _rarest(urn, thresholds, n_draws, np.random.default_rng(seed))
    level = np.partition(rarest, rank - 1)[rank - 1]
    bounds = [urn.at_least(k).last_at(level) for k in thresholds]
    counts = np.append(np.maximum.accumulate(bounds), m)
    k = np.arange(1, n_reference + 2)
    return Envelope(n_reference, m, confidence, counts[np.searchsorted(thresholds, k)])


class _Urn:
    """The number of null images that score above the k-th highest of n reference images, N_k."""

    def __init__(self, n_reference: int, m: int) -> None:
        self.n_reference, self.m = n_reference, m
        self._log = gammaln(np.arange(n_reference + m + 1) + 1.0)  # of the factorials
        self._within = self._log[: m + 1] + self._log[m::-1]

    def at_least(self, k: int) -> _Tails:
        """P(N_k ≥ j) for j = 0 … m + 1.

        P(N_k = j) ∝ C(j + k − 1, j) · C(m − j + n − k, m − j), the orders of j nulls and k − 1 references before the
        k-th, and of those behind it. Where that is less than the largest by a factor that exp cannot represent, the
        sum does not change, and nothing is computed.
        """
        first, last = self._bulk(k)
        orders = self._orders(k, first, last + 1)
        orders -= orders.max()
        tails = np.zeros(len(orders) + 1)
        np.cumsum(np.exp(orders, out=orders)[::-1], out=tails[-2::-1])
        return _Tails(first, np.divide(tails, tails[0], out=tails))

    def _orders(self, k: int, start: int, stop: int) -> np.ndarray:
        """The logarithm of the number of orders, for j = start … stop − 1."""
        end = self.n_reference - k + self.m + 1
        orders = self._log[k - 1 + start : k - 1 + stop] + self._log[end - stop : end - start][::-1]
        orders -= self._within[start:stop]
        return orders

    def _bulk(self, k: int) -> tuple[int, int]:
        """The first and the last j at which P(N_k = j) counts; it rises to its largest value, and falls."""
        m, behind = self.m, self.n_reference - k
        # Of a Beta-binomial distribution with parameters k and behind + 1; at its ends where one of these is 1.
        inner = (k - 1) / (k - 1 + behind) if k - 1 + behind else 0.5
        mode = min(m, max(0, int(inner * (m + 1))))
        least = float(self._orders(k, mode, mode + 1)[0]) - _NEGLIGIBLE

        def counts(j: int) -> bool:
            return float(self._orders(k, j, j + 1)[0]) >= least

        first = bisect_left(range(mode + 1), True, key=counts)
        last = mode + bisect_left(range(m - mode + 1), True, key=lambda j: not counts(mode + j)) - 1
        return first, last


class _Tails(NamedTuple):
    """P(N ≥ j): ``values`` are those from j = ``first`` on; 1 before, 0 after."""

    first: int
    values: np.ndarray

    def at(self, j: np.ndarray) -> np.ndarray:
        """Of some j."""
        return self.values[np.clip(j - self.first, 0, len(self.values) - 1)]

    def last_at(self, level: float) -> int:
        """The largest j with P(N ≥ j) ≥ level."""
        return self.first + int(np.argmax(self.values < level)) - 1


def _thresholds(n_reference: int) -> np.ndarray:
    """k = 1 … n_ref, or some of them that end with it. At k = n_ref + 1, p = 1, the bound is m."""
    if n_reference <= _MAX_THRESHOLDS:
        return np.arange(1, n_reference + 1)
    return np.unique(np.rint(np.geomspace(1, n_reference, _MAX_THRESHOLDS)).astype(np.int64))


def _rarest(urn: _Urn, thresholds: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """min_k P(N ≥ N_k) of each of n_draws paths, ``(n_draws,)``: the gaps are broken off one by one."""
    found, above, last = np.ones(n_draws), np.zeros(n_draws, np.int64), 0
    for k in thresholds:
        share = rng.beta(k - last, urn.n_reference + 1 - k, n_draws)
        above += rng.binomial(urn.m - above, share)
        np.minimum(found, urn.at_least(k).at(above), out=found)
        last = k
    return found
