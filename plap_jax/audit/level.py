"""The noise level, by a rule that needs no labels: where scores tell images apart best beyond their own noise."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np
from tqdm import tqdm

from plap_jax.audit.images import Pictures
from plap_jax.audit.scores import NAMES, Scorer, named_key
from plap_jax.audit.store import Surroundings
from plap_jax.calibration import spread_beyond_noise
from plap_jax.data.images import UnusableImage
from plap_jax.detectors import Detector
from plap_jax.diffusion import Schedule
from plap_jax.typing import require

LOOKED_AT = 256  # images that decide


@dataclass(frozen=True)
class Level:
    """The noise level of an audit.

    Attributes:
        sigma: the level; None for a detector that takes none.
        words: how it was chosen.
        spreads: (level, spread of the scores beyond their noise), of those that were tried.
        spent: evaluations of the network that the choice took.
    """

    sigma: float | None
    words: str
    spreads: tuple[tuple[float, float], ...] = ()
    spent: float = 0.0


def choose_level(scorer: Scorer, sigma: float | None, pictures: list[Pictures], around: Surroundings) -> Level:
    """The level given, or that of the largest spread √(Var κ − mean stderr²) over all images together.

    The score that ranks the images chooses. Which images decide, and in which order, comes of their content alone, so
    that the rule does not know which set an image is from: audited ones that are exchangeable with the reference stay
    so, and p-values stay valid.

    Args:
        scorer: whose level is open.
        sigma: the level that was asked for, or None.
        pictures: audited ones and reference, pooled.
        around: of the audit.

    Raises:
        ValueError: a level that the model's schedule does not have, or no image that can be read.
    """
    schedule, settings = scorer.subject.model.diffusion.schedule, scorer.settings
    if scorer.detector is not None and not takes_level(scorer.detector):
        return Level(None, "the detector takes none")
    if sigma is not None:
        schedule.time_at(sigma)
        return Level(sigma, "given")
    levels = [level for level in settings.noise_levels if _has(schedule, level)]
    allowed = f"must hold a level that the model's schedule has ({schedule.name}); or give sigma"
    require(bool(levels), "noise_levels", settings.noise_levels, allowed)
    name = "detector" if scorer.detector is not None else scorer.scores[0]
    looking = replace(scorer, key=named_key(scorer.key, "levels"))
    with around.stage("level"):

        def depends_on() -> dict:
            images = [one.source.identity(range(len(one.source.names))) for one in pictures]
            told = {"levels": levels, "images": images, "prompts": [one.prompts for one in pictures]}
            return {"how": scorer.how, **told}

        def compute() -> dict[str, np.ndarray]:
            salt = np.asarray(jax.random.key_data(scorer.key)).tobytes()
            images, prompts = _drawn(pictures, salt, around.progress)
            found = [looking.at(level).one_round(images, prompts, name) for level in levels]
            values, stderr, spent = zip(*found, strict=True)
            return {"values": np.stack(values), "stderr": np.stack(stderr), "spent": np.asarray(sum(spent))}

        found = around.arrays("audit/level", depends_on, compute)
    level = largest_spread(levels, found["values"], found["stderr"], NAMES.get(name, "the detector"))
    return replace(level, spent=float(found["spent"]))


def largest_spread(levels: list[float], values: np.ndarray, stderr: np.ndarray, name: str = NAMES["kappa"]) -> Level:
    """The level at which ``values`` ``(n levels, n)`` spread most beyond their standard errors; the first of equals.

    Scores that are not finite are left out.

    Raises:
        ValueError: at no level two finite scores.
    """
    finite = np.isfinite(values) & np.isfinite(stderr)
    allowed = "must hold a level at which the model's scores are finite; or give sigma"
    require(bool((finite.sum(axis=1) >= 2).any()), "noise_levels", levels, allowed)
    spreads = [
        spread_beyond_noise(one[good], error[good]) if good.sum() >= 2 else math.nan
        for one, error, good in zip(values, stderr, finite, strict=True)
    ]
    words = f"of {len(levels)} levels the one at which {name} of {values.shape[1]} images spreads most beyond its noise"
    return Level(levels[int(np.nanargmax(spreads))], words, tuple(zip(levels, spreads, strict=True)))


def takes_level(detector: Detector) -> bool:
    """Whether the detector looks at one noise level, which an audit sets."""
    return getattr(detector, "sigma", None) is not None


def _has(schedule: Schedule, sigma: float) -> bool:
    try:
        schedule.time_at(sigma)
    except ValueError:
        return False
    return True


def _drawn(pictures: list[Pictures], salt: bytes, progress: bool) -> tuple[np.ndarray, list | None]:
    """The images of all sets that come first in the order of a hash of their content, and their prompts."""

    def hashed() -> Iterator[tuple[bytes, np.ndarray, str | int | None]]:
        for one in pictures:
            indices = range(len(one.source.names))
            for index in tqdm(indices, unit="image", desc="level", mininterval=1, disable=not progress):
                try:
                    image = one.source.read(index)
                except UnusableImage:
                    continue
                told = salt + str(one.prompt(index)).encode() + np.ascontiguousarray(image).tobytes()
                yield hashlib.blake2b(told, digest_size=16).digest(), image, one.prompt(index)

    chosen = heapq.nsmallest(LOOKED_AT, hashed(), key=lambda one: one[0])
    require(len(chosen) >= 2, "images", len(chosen), "must be at least two that can be read, to choose a noise level")
    prompts = [prompt for _, _, prompt in chosen]
    return np.stack([image for _, image, _ in chosen]), None if None in prompts else prompts
