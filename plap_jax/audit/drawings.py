"""Evidence as the geometry of inline SVGs: measured against expected, and a strip of all levels for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plap_jax.audit.histogram import axis, nice_ticks

SIDE = 380  # of the scatter, with its margins
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 48
MOST = {"flagged": 300, "audited": 400, "reference": 300}  # points that are drawn
MOST_SD = 4.0  # a cell of a strip is cut there
CELL, HALF = 9, 12  # width of a cell, and height of one from its zero line, in a strip's own units


@dataclass(frozen=True)
class Scatter:
    """κ₁ as measured, against what images as hard as each have.

    Attributes:
        measured, expected: ``(n,)`` of the audited images.
        score: ``(n,)`` finite.
        tested, flagged: ``(n,)`` booleans.
        names: of the audited images.
        reference_measured, reference_expected: ``(m,)``.
        of_difference: measured is the difference to a baseline's κ₁.
    """

    measured: np.ndarray
    expected: np.ndarray
    score: np.ndarray
    tested: np.ndarray
    flagged: np.ndarray
    names: Sequence[str]
    reference_measured: np.ndarray
    reference_expected: np.ndarray
    of_difference: bool = False


def scatter_drawing(scatter: Scatter) -> dict[str, Any]:
    """Everything that the template places; of more than 1,000 points some, spread evenly over the ranks."""
    x_values, y_values = scatter.expected, scatter.measured
    (left, right), (low, high) = (
        _range(x_values, scatter.reference_expected),
        _range(y_values, scatter.reference_measured),
    )
    x, y = axis(left, right, LEFT, SIDE - RIGHT), axis(low, high, SIDE - BOTTOM, TOP)
    ends = max(left, low), min(right, high)  # of the part of the line y = x that is in sight
    ranked = np.argsort(-scatter.score, kind="stable")
    flagged, others = ranked[scatter.flagged[ranked]], ranked[~scatter.flagged[ranked]]
    drawn = [*_some(others, MOST["audited"]), *_some(flagged, MOST["flagged"])]
    compared = _some(np.argsort(scatter.reference_measured), MOST["reference"])
    return {
        "side": SIDE,
        "left": LEFT,
        "right": SIDE - RIGHT,
        "top": TOP,
        "bottom": SIDE - BOTTOM,
        "points": [
            {
                "x": x(x_values[i]),
                "y": y(y_values[i]),
                "score": float(scatter.score[i]) if scatter.tested[i] else None,
                "flagged": bool(scatter.flagged[i]),
                "name": scatter.names[i],
            }
            for i in drawn
        ],
        "reference": "".join(
            f"M{x(a)} {y(b)}h0"
            for a, b in zip(scatter.reference_expected[compared], scatter.reference_measured[compared], strict=True)
        ),
        "x_ticks": [(x(tick), f"{tick:g}".replace("-", "−")) for tick in nice_ticks(left, right, 4)],
        "y_ticks": [(y(tick), f"{tick:g}".replace("-", "−")) for tick in nice_ticks(low, high, 5)],
        "equal": [(x(end), y(end)) for end in ends] if ends[0] < ends[1] else None,
        "n_audited": len(x_values),
        "n_flagged": len(flagged),
        "n_reference": len(scatter.reference_measured),
        "n_above": int((y_values[flagged] > x_values[flagged]).sum()),
        "is_part": len(drawn) < len(x_values) or len(compared) < len(scatter.reference_measured),
    }


def _range(*values: np.ndarray) -> tuple[float, float]:
    both = np.concatenate(values)
    margin = 0.04 * float(np.ptp(both)) or 0.5
    return float(both.min()) - margin, float(both.max()) + margin


def _some(rows: np.ndarray, most: int) -> list[int]:
    """At most ``most`` of them, the first and the last among them."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))].tolist()


def strip(evidence: np.ndarray, levels: Sequence[float]) -> dict[str, Any]:
    """A picture of evidence ``(2L,)`` in standard deviations: bars up or down from two lines, κ₁ over the contrast.

    Bars are cut at ±4; NaN, a level that was left out, has none. ``words`` holds the numbers.
    """
    rows = evidence.reshape(2, len(levels))
    bars = {"up": "", "down": ""}
    for k, row in enumerate(rows):
        zero = HALF * (2 * k + 1) + 2 * k
        for column, value in enumerate(row):
            if np.isfinite(value):
                height = round(float(np.clip(value / MOST_SD, -1, 1) * HALF), 1)
                bars["up" if value >= 0 else "down"] += f"M{column * CELL + CELL / 2:g} {zero}v{-height:g}"
    words = "; ".join(
        f"{name}: {', '.join(_signed(value) for value in row)}"
        for name, row in zip(("κ₁", "contrast"), rows, strict=True)
    )
    return {
        **bars,
        "width": CELL * len(levels),
        "height": 4 * HALF + 2,
        "zeros": f"M0 {HALF}h{CELL * len(levels)}M0 {3 * HALF + 2}h{CELL * len(levels)}",
        "words": f"σ = {', '.join(f'{level:g}' for level in levels)}. {words}",
    }


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if np.isfinite(value) else "left out"
