"""Curvature maps as little pictures on one scale, and in words for those who do not see them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

MAX_SIDE = 96  # cells of a picture's longer side; more are averaged down to that
LEVELS = 64  # colours
# From 0 to the top of the scale; lightness rises all the way, so that it reads in grey, too.
STOPS = ((20, 16, 34), (94, 30, 84), (192, 62, 60), (240, 150, 62), (255, 244, 200))
WIDTH, HEIGHT, MARGIN = 240, 34, 1  # of the legend, in its own units
QUANTILE = 0.99  # of an image's values; single cells may be brighter than the scale's top
SURE = 3  # standard errors
DOWN, ACROSS = ("upper", "middle", "lower"), ("left", "middle", "right")


@dataclass(frozen=True)
class Heat:
    """A map of one image: values and their standard errors, finite, ``(h, w)``."""

    value: np.ndarray
    stderr: np.ndarray

    @property
    def words(self) -> str:
        """Where it is bright, in a few words."""
        parts, sizes = _thirds(self.value)
        i, j = np.unravel_index(np.argmax(parts / sizes), parts.shape)
        inside, elsewhere = parts[i, j] / sizes[i, j], (parts.sum() - parts[i, j]) / max(sizes.sum() - sizes[i, j], 1)
        error = f"standard error {_number(np.median(self.stderr))}"
        if inside - elsewhere <= SURE * float(np.median(self.stderr)) / sizes[i, j] ** 0.5 or parts.size == 1:
            return f"Curvature map: about the same everywhere, {_number(self.value.mean())}; {error}"
        # Of two parts the first and the last of three names; of one the name in between.
        down, across = (2 * k // (n - 1) if n > 1 else 1 for k, n in zip((i, j), parts.shape, strict=True))
        where = "middle" if down == across == 1 else f"{DOWN[down]} {ACROSS[across]}"
        told = f"{_number(inside)} there, {_number(elsewhere)} elsewhere"
        return f"Curvature map: brightest in the {where}, {told}; {error}"

    def more(self, cells: str) -> str:
        """Numbers, beside the enlarged picture; ``cells`` names what it is a map of."""
        highest = np.unravel_index(np.argmax(self.value), self.value.shape)
        sure = int((self.value > SURE * self.stderr).sum())
        top = f"{_number(self.value[highest])} ± {_number(self.stderr[highest])}"
        return f"{self.words}. Highest: {top}. {sure:,} of {self.value.size:,} {cells} exceed {SURE} standard errors."


class HeatScale:
    """Values → colours, the same for all maps of a page, from 0 to most of the brightest image's values.

    Args:
        heats: at least one.
        of_difference: to a baseline; others reach 1 at least, the value all around a sharp maximum.
    """

    def __init__(self, heats: Sequence[Heat], of_difference: bool):
        highest = max(float(np.quantile(one.value, QUANTILE)) for one in heats)
        noise = 4 * float(np.median([np.median(one.stderr) for one in heats]))
        self.top = max(highest, noise, 1e-6 if of_difference else 1.0)
        self.ticks = [(MARGIN, "0 or below", "start")]
        if self.top > 1.5 and not of_difference:
            self.ticks.append((self._place(1.0), "1", "middle"))
        self.ticks.append((self._place(self.top), f"{_number(self.top)} or above", "end"))
        self.width, self.height, self.left = WIDTH, HEIGHT, MARGIN
        self.stops = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in STOPS]

    def picture(self, heat: Heat) -> dict[str, Any]:
        """The attributes of an ``img``."""
        value = Image.fromarray(heat.value.astype(np.float32))
        if max(value.size) > MAX_SIDE:
            share = MAX_SIDE / max(value.size)
            value = value.resize([max(1, round(side * share)) for side in value.size], Image.Resampling.BOX)
        index = np.clip(np.asarray(value) / self.top * (LEVELS - 1), 0, LEVELS - 1).round().astype(np.uint8)
        image, stored = Image.fromarray(index, "P"), BytesIO()
        image.putpalette(_ramp().tobytes())
        image.save(stored, "PNG")
        uri = f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"
        return {"src": uri, "width": image.width, "height": image.height, "class": "pixels", "alt": heat.words}

    def _place(self, value: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * value / self.top, 1)


def _ramp() -> np.ndarray:
    """``(LEVELS, 3)`` uint8."""
    at, stops = np.linspace(0, 1, LEVELS), np.asarray(STOPS, float)
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(at, places, column) for column in stops.T], axis=1).round().astype(np.uint8)


def _thirds(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over up to 3×3 parts of about equal size, and their numbers of cells."""
    starts = [np.arange(min(3, side)) * side // min(3, side) for side in value.shape]
    sums = [np.add.reduceat(np.add.reduceat(a, starts[0], 0), starts[1], 1) for a in (value, np.ones_like(value))]
    return sums[0], sums[1]


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")
