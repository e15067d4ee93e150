"""How an audit scores and judges, beside the arguments of every day."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from plap_jax.data.decoding import Resize
from plap_jax.directions import MIN_UNITS, Directions, unit_size
from plap_jax.evidence import N_DIRECTIONS, NOISE_LEVELS
from plap_jax.typing import require

N_MAP = 64  # directions of a curvature map
PixelRange = Literal["-1..1", "0..1"]
Score = Literal["kappa", "kappa_given", "kappa_gap", "detector"]
WITH_PROMPT: tuple[Score, ...] = ("kappa_given", "kappa_gap")
NAMES: dict[Score, str] = {
    "kappa": "κ₁ without a prompt",
    "kappa_given": "κ₁ given the prompt",
    "kappa_gap": "κ^Δ, the flux of what the prompt adds",
}


@dataclass(frozen=True)
class AuditSettings:
    """Settings that few audits change.

    Args:
        score: what images are ranked by: "kappa" (κ₁ without a prompt), "kappa_given" (κ₁ given the prompt),
            "kappa_gap" (κ^Δ, of what the prompt adds) or "detector"; None: the detector where one is given, κ₁ given
            the prompt where all prompts are known, else κ₁.
        noise_levels: σ ∈ (0, 1) of a variance-preserving schedule, translated for others by noise to signal; without
            ``sigma`` the evidence at all of them makes the calibrated score.
        n_directions: random directions at each of these levels, ≥ 4.
        duplicate_distance: √(mean (a − b)²) of two images averaged down to 16×16 blocks, in units of [−1, 1], up to
            which they are near-duplicates.
        n_samples: with ``sigma``, directions of a round; at least eight independent units.
        directions: with ``sigma``, as for ``plap_jax.flux``; at the levels of the calibrated score they are iid.
        target_stderr: with ``sigma``, rounds are added until the standard error of κ is as small.
        max_samples: but no more directions than that for an image.
        repeats: draws of a detector's randomness, ≥ 2, for its standard error.
        maps: directions of the curvature map of each flagged image, all noise levels together: 0 (or False) for no
            maps, True for 64, else at least 8. They are drawn after the verdict, and change nothing of it.
        max_ratio, max_distance: d₁/d₂, and d₁/√d in units of [−1, 1], below which an image is a copy of its nearest
            training image.
        chunk: images after which what is finished is put on record, at the end of a block (see ``evaluations``); after
            15 seconds it is, however few they are.
        evaluations: of the network at a time; None: by the size of its points. Half as many make a block: images that
            are scored together, wherever chunks end.
        pixel_range: of floats in arrays: "-1..1" or "0..1"; None: "-1..1", but refused where none is negative. Integers
            are 0 … 255.
        resize, crop: how files become the model's images, see ``plap_jax.data.decoding.as_array``.
        lora_base: of a model with LoRAs, its base without them is the baseline, where none is given.

    Raises:
        ValueError: a number out of range, or a round of fewer than eight units.
    """

    score: Score | None = None
    noise_levels: tuple[float, ...] = NOISE_LEVELS
    n_directions: int = N_DIRECTIONS
    duplicate_distance: float = 0.05
    n_samples: int = 16
    directions: Directions = "iid"
    target_stderr: float = 0.01
    max_samples: int = 128
    repeats: int = 4
    maps: int = N_MAP
    max_ratio: float = 1 / 3
    max_distance: float = 0.1
    chunk: int = 512
    evaluations: int | None = None
    resize: Resize = "center-crop"
    crop: int | None = None
    pixel_range: PixelRange | None = None
    lora_base: bool = True

    def __post_init__(self) -> None:
        many = isinstance(self.noise_levels, Iterable) and not isinstance(self.noise_levels, str)
        require(many, "noise_levels", self.noise_levels, "must be a sequence of numbers in (0, 1)")
        levels = tuple(number("noise_levels", sigma) for sigma in self.noise_levels)
        inside = len(set(levels)) == len(levels) >= 1 and all(0 < sigma < 1 for sigma in levels)
        require(inside, "noise_levels", levels, "must be different numbers in (0, 1)")
        # As Python's own numbers, which can be written down.
        object.__setattr__(self, "noise_levels", levels)
        for name in ("target_stderr", "max_ratio", "max_distance", "duplicate_distance"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        for name in ("n_directions", "n_samples", "max_samples", "repeats", "chunk", "evaluations", "crop"):
            value = getattr(self, name)
            if value is not None or name not in ("evaluations", "crop"):
                require(isinstance(value, Integral) and value >= 1, name, value, "must be an integer >= 1")
                object.__setattr__(self, name, int(value))
        maps = int(self.maps) * N_MAP if isinstance(self.maps, bool) else self.maps
        allowed = f"must be 0 for none, or an integer >= {MIN_UNITS}: directions of each curvature map"
        require(isinstance(maps, Integral) and (maps == 0 or maps >= MIN_UNITS), "maps", self.maps, allowed)
        object.__setattr__(self, "maps", int(maps))
        self._check_ranges()

    def _check_ranges(self) -> None:
        scores = (None, "kappa", "kappa_given", "kappa_gap", "detector")
        require(self.score in scores, "score", self.score, f"must be one of {', '.join(map(str, scores))}")
        size = unit_size(self.directions, self.n_samples, 2**30)
        allowed = f"must hold at least {MIN_UNITS} independent units, {MIN_UNITS * size} directions here"
        require(self.n_samples >= MIN_UNITS * size, "n_samples", self.n_samples, allowed)
        allowed = f"must be an integer >= {N_DIRECTIONS}"
        require(self.n_directions >= N_DIRECTIONS, "n_directions", self.n_directions, allowed)
        require(self.duplicate_distance >= 0, "duplicate_distance", self.duplicate_distance, "must be >= 0")
        for name, least in {"max_samples": self.n_samples, "repeats": 2}.items():
            require(getattr(self, name) >= least, name, getattr(self, name), f"must be an integer >= {least}")
        require(self.target_stderr > 0, "target_stderr", self.target_stderr, "must be > 0")
        require(0 < self.max_ratio <= 1, "max_ratio", self.max_ratio, "must lie in (0, 1]")
        require(self.max_distance > 0, "max_distance", self.max_distance, "must be > 0")
        good = self.pixel_range in (None, "-1..1", "0..1")
        require(good, "pixel_range", self.pixel_range, "must be -1..1, 0..1 or None")
        allowed = "must be center-crop or refuse"
        require(self.resize in ("center-crop", "refuse"), "resize", self.resize, allowed)


def number(name: str, value: object) -> float:
    """``value`` as a Python number.

    Raises:
        ValueError: it is none, or not finite.
    """
    try:
        found = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    require(math.isfinite(found), name, value, "must be a finite number")
    return found
