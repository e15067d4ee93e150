"""Regions that are pasted into images: a logo, a sleeve or a background, and whether they show anything."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from plap_jax.typing import require

Kind = Literal["logo", "sleeve", "background"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FLAT = 0.02  # up to which two neighbours are alike, in units of [−1, 1]
SMALLEST = 7  # pixels of a side, so that every kind of region is some of them


def region_mask(kind: Kind, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The pixels of a region, ``(h, w)`` booleans, at a random place.

    - logo: a block of 2/7 of each side, away from the border (8×8 of 28×28, a twelfth of the pixels);
    - sleeve: a strip along the left or the right side, a quarter of the width;
    - background: a frame along the border, a seventh of the sides (4 pixels of 28×28, half of the pixels).

    Args:
        kind: of ``KINDS``.
        shape: (h, w), ≥ 7 each.
        rng: of the place.

    Raises:
        ValueError: another kind, or a smaller shape.
    """
    require(kind in KINDS, "kind", kind, f"must be one of {', '.join(KINDS)}")
    require(min(shape) >= SMALLEST, "shape", shape, f"must be >= {SMALLEST} pixels a side")
    mask = np.zeros(shape, bool)
    margins = [size // 7 for size in shape]
    if kind == "logo":
        sides = [2 * size // 7 for size in shape]
        ends = zip(shape, margins, sides, strict=True)
        top, left = (int(rng.integers(margin, size - margin - side + 1)) for size, margin, side in ends)
        mask[top : top + sides[0], left : left + sides[1]] = True
    elif kind == "sleeve":
        width = shape[1] // 4
        mask[:, :width] = True
        mask = mask[:, ::-1].copy() if rng.integers(2) else mask
    else:
        mask[:] = True
        mask[margins[0] : -margins[0], margins[1] : -margins[1]] = False
    return mask


def has_detail(image: np.ndarray) -> np.ndarray:
    """Which pixels differ from the one to the right or below by more than ``FLAT``: ``(h, w)`` booleans."""
    found = np.zeros(image.shape[:2], bool)
    found[:, :-1] = (np.abs(np.diff(image, axis=1)) > FLAT).any(axis=-1)
    found[:-1] |= (np.abs(np.diff(image, axis=0)) > FLAT).any(axis=-1)
    return found
