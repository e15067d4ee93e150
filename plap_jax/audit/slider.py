"""The threshold that a reader may move: at each position so many are flagged, and at most so many of them falsely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plap_jax.envelope import ThresholdRow

MOST_POSITIONS = 200
MOST_LINES = 9  # of the small table
LENIENT = 0.25  # p-value above which there is no position, but the start: a quarter of all nulls would be flagged
CONFIDENCE = "95\N{NO-BREAK SPACE}%"
WHEREVER = (
    "This holds wherever you stop: the bound is for all positions at once, so you may look at the result first, and "
    "move the threshold then."
)


@dataclass(frozen=True)
class Position:
    """A threshold: all images that score at least ``score``, which have p-values up to ``p``, are flagged.

    ``score`` is None at the one where none is.
    """

    p: float
    score: float | None
    flagged: int
    at_most_false: int
    at_least_true: int

    @property
    def words(self) -> str:
        """What may be said there."""
        if not self.flagged:
            return "None flagged."
        if not self.at_least_true:
            return f"{self.flagged:,} flagged; all of them may be false."
        false = f"at most {self.at_most_false:,} of them false" if self.at_most_false else "none of them false"
        return f"{self.flagged:,} flagged, {false}, so at least {self.at_least_true:,} memorized."


@dataclass(frozen=True)
class Slider:
    """Positions from strict to lenient; the first flags nothing.

    Attributes:
        positions: at most 200.
        start: the number of the one of Benjamini and Hochberg.
        fdr: the false-discovery rate that it holds.
        n_tested: images with a p-value.
    """

    positions: Sequence[Position]
    start: int
    fdr: float
    n_tested: int

    @property
    def few(self) -> list[Position]:
        """Some of them, for a small table: the start, and others spread over the numbers of flagged images."""
        return [self.positions[i] for i in _spread(len(self.positions), MOST_LINES, self.start) if i]


def slider(
    rows: Sequence[ThresholdRow], p_value: np.ndarray, score: np.ndarray, flagged: np.ndarray, fdr: float
) -> Slider | None:
    """The positions for the rows of an envelope; None where there are none.

    Args:
        rows: of ``Envelope.table``, by rising p.
        p_value: ``(n,)``; NaN: not tested.
        score: ``(n,)``; the higher, the lower the p-value.
        flagged: ``(n,)`` booleans, by Benjamini and Hochberg.
        fdr: the false-discovery rate that they hold.
    """
    if not rows:
        return None
    n_flagged = int(flagged.sum())
    lowest = np.minimum.accumulate(score[np.argsort(p_value)])  # NaN is last
    useful = [row for row in rows if row.p <= LENIENT or row.flagged <= max(n_flagged, rows[0].flagged)]
    positions = [Position(0.0, None, 0, 0, 0)]
    positions += [Position(row.p, float(lowest[row.flagged - 1]), *row[1:]) for row in useful]
    start = [position.flagged for position in positions].index(n_flagged)
    kept = _spread(len(positions), MOST_POSITIONS, start)
    return Slider([positions[i] for i in kept], kept.index(start), fdr, rows[-1].flagged)


def _spread(n: int, most: int, start: int) -> list[int]:
    """At most ``most`` of 0 … n − 1: the first, the last and ``start`` among them, dense at the strict end."""
    if n <= most:
        return list(range(n))
    spaced = np.rint(np.geomspace(1, n, most - 1)).astype(int) - 1
    return np.unique([*spaced, start]).tolist()
