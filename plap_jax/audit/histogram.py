"""The scores of audited images against the reference, as the geometry of an inline SVG."""

from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 44  # margins around the axes
BINS = 40
HAIR = 2.0  # least height of a bin that holds any image


@dataclass(frozen=True)
class Histogram:
    """All scores of an audit.

    Attributes:
        audited: ``(n,)``.
        reference: ``(m,)`` scores of the reference images, or None.
        threshold: images that score at least this are flagged; None where none is or nothing is tested.
        reference_name: what the reference is, for the legend.
    """

    audited: np.ndarray
    reference: np.ndarray | None = None
    threshold: float | None = None
    reference_name: str = "reference"


def drawing(histogram: Histogram) -> dict[str, Any] | None:
    """Everything that the template places: shapes in SVG units, ticks, and the bins as a table; None without scores."""
    audited, reference = (_finite(x) for x in (histogram.audited, histogram.reference))
    if not audited.size:
        return None
    low, high, clipped = _range(np.concatenate([audited, reference]))
    edges = np.linspace(low, high, BINS + 1)
    flagged = audited >= (np.inf if histogram.threshold is None else histogram.threshold)
    counts = {"audited": _counts(audited, edges), "reference": _counts(reference, edges)}
    shares = {name: 100 * count / max(count.sum(), 1) for name, count in counts.items()}
    top = 1.05 * max(share.max() for share in shares.values())
    x, y = axis(low, high, LEFT, WIDTH - RIGHT), axis(0, top, HEIGHT - BOTTOM, TOP)
    threshold = histogram.threshold
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "bars": _bars(shares["audited"], edges, x, y),
        "outline": _outline(shares["reference"], edges, x, y) if reference.size else None,
        "x_ticks": [(x(tick), f"{tick:g}".replace("-", "−")) for tick in nice_ticks(low, high, 6)],
        "y_ticks": [(y(tick), f"{tick:g}") for tick in nice_ticks(0, top, 4)],
        "place": lambda score: x(min(max(score, low), high)),
        "threshold": x(min(max(threshold, low), high)) if threshold is not None else None,
        "n_audited": audited.size,
        "n_flagged": int(flagged.sum()),
        "n_reference": reference.size,
        "clipped": clipped,
        "table": _table(counts, edges),
    }


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high], at most ``most`` + 1 of them."""
    rough = (high - low) / most
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [float(f"{k * step:.10g}") + 0.0 for k in np.arange(first, last + 1)]


def _finite(values: np.ndarray | None) -> np.ndarray:
    values = np.asarray([] if values is None else values, float).ravel()
    return values[np.isfinite(values)]


def _range(values: np.ndarray) -> tuple[float, float, bool]:
    """The whole range; where outliers make it more than four times as wide as 99 % of the values, not all of it."""
    low, high = float(values.min()), float(values.max())
    a, b = (float(q) for q in np.quantile(values, [0.005, 0.995]))
    if b > a and high - low > 4 * (b - a):
        margin = (b - a) / 2
        return max(low, a - margin), min(high, b + margin), True
    return (low, high, False) if high > low else (low - 0.5, high + 0.5, False)


def _counts(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]


def axis(low: float, high: float, start: float, end: float):
    """Values in [low, high] → places from ``start`` to ``end``."""
    return lambda value: round(float(start + (value - low) / (high - low) * (end - start)), 2)


def _bars(shares: np.ndarray, edges: np.ndarray, x, y) -> list[dict[str, float]]:
    """A bar for each bin that is not empty."""
    foot = HEIGHT - BOTTOM
    bars = []
    for left, right, share in zip(edges[:-1], edges[1:], shares, strict=True):
        if share > 0:
            height = round(max(foot - y(share), HAIR), 2)
            place = {"x": round(x(left) + 0.5, 2), "width": round(x(right) - x(left) - 1, 2)}
            bars.append(place | {"y": round(foot - height, 2), "height": height})
    return bars


def _outline(shares: np.ndarray, edges: np.ndarray, x, y) -> str:
    """The path of a step curve, as SVG's ``d``."""
    steps = [f"H{x(right)}V{y(share)}" for right, share in zip(edges[1:], [*shares[1:], 0], strict=True)]
    return f"M{x(edges[0])} {y(0)}V{y(shares[0])}" + "".join(steps)


def _table(counts: dict[str, np.ndarray], edges: np.ndarray) -> list[tuple[str, int, int]]:
    """The bins that are not empty: (from–to, audited, reference)."""
    return [
        (f"{a:.3g} to {b:.3g}".replace("-", "−"), int(n), int(m))
        for a, b, n, m in zip(edges[:-1], edges[1:], counts["audited"], counts["reference"], strict=True)
        if n or m
    ]
