"""The noise level, by a rule that needs no labels: where κ₁ tells images apart best beyond its own sampling noise."""

import math
import sys
from dataclasses import dataclass

import numpy as np

import plap_jax
from experiments.audit import scores
from experiments.audit.images import Source
from experiments.audit.models import Subject
from experiments.audit.scores import level_scores
from experiments.audit.settings import Settings
from experiments.core.cache import Cache, code_tag
from experiments.core.report import Report
from plap_jax.calibration import spread_beyond_noise
from plap_jax.data.images import UnusableImage
from plap_jax.diffusion import Schedule
from plap_jax.typing import require

LOOKED_AT = 256  # images that decide


@dataclass(frozen=True)
class Level:
    """The noise level of an audit.

    Attributes:
        sigma: the level.
        words: how it was chosen.
        spreads: (level, spread of κ₁ beyond its noise), of those that were tried.
    """

    sigma: float
    words: str
    spreads: tuple[tuple[float, float], ...] = ()


def choose_level(
    subject: Subject, settings: Settings, sources: list[Source], *, seed: int, report: Report, cache: Cache
) -> Level:
    """The level given, or that of the largest spread √(Var κ₁ − mean stderr²) over images of all ``sources`` together.

    The rule is the same whatever the order of the pooled images: audited ones that are exchangeable with the reference
    stay so, and p-values stay valid.

    Raises:
        ValueError: a level that the model's schedule does not have, or no image that can be read.
    """
    schedule = subject.model.diffusion.schedule
    if settings.sigma is not None:
        schedule.time_at(settings.sigma)
        return Level(settings.sigma, "given")
    levels = [sigma for sigma in settings.noise_levels if _has(schedule, sigma)]
    allowed = f"must hold a level that the model's schedule has ({schedule.name}); or give sigma"
    require(bool(levels), "noise_levels", settings.noise_levels, allowed)
    with report.stage("level"):
        drawn = _drawn(sources, seed)
        depends_on = {
            "model": subject.key,
            "levels": levels,
            "flux": settings.flux.model_dump(),
            "images": [sources[i].identity([index]) for i, index in drawn],
            "seed": seed,
            "code": code_tag(sys.modules[__name__], scores, plap_jax),
        }

        def compute() -> dict[str, np.ndarray]:
            values, stderr = level_scores(subject, settings, levels, _read(sources, drawn), seed)
            return {"values": values, "stderr": stderr}

        found = cache.arrays("audit/level", depends_on, compute)
    return largest_spread(levels, found["values"], found["stderr"])


def largest_spread(levels: list[float], values: np.ndarray, stderr: np.ndarray) -> Level:
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
    n = values.shape[1]
    words = f"of {len(levels)} levels the one at which κ₁ of {n} images spreads most beyond its sampling noise"
    return Level(levels[int(np.nanargmax(spreads))], words, tuple(zip(levels, spreads, strict=True)))


def _has(schedule: Schedule, sigma: float) -> bool:
    try:
        schedule.time_at(sigma)
    except ValueError:
        return False
    return True


def _drawn(sources: list[Source], seed: int) -> list[tuple[int, int]]:
    """(source, index) of twice as many images as are looked at, since some may not be readable; in random order."""
    pooled = [(i, index) for i, source in enumerate(sources) for index in range(len(source.names))]
    order = np.random.default_rng(seed).permutation(len(pooled))[: 2 * LOOKED_AT]
    return [pooled[k] for k in order.tolist()]


def _read(sources: list[Source], drawn: list[tuple[int, int]]) -> np.ndarray:
    images = []
    for i, index in drawn:
        try:
            images.append(sources[i].read(index))
        except UnusableImage:
            continue
        if len(images) == LOOKED_AT:
            break
    require(len(images) >= 2, "images", len(images), "must be at least two that can be read, to choose a noise level")
    return np.stack(images)
