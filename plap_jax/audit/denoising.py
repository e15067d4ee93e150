"""Does the model denoise such images at all? A wrong schedule, unit or kind of prediction shows here."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.audit.evaluator import Columns, Evaluator
from plap_jax.audit.images import Pictures, Subset
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.store import Surroundings
from plap_jax.audit.stream import score_all
from plap_jax.audit.subject import Subject
from plap_jax.diffusion import Diffusion
from plap_jax.evidence import times_of
from plap_jax.typing import Array, ArrayLike, PRNGKey

MOST, FEWEST = 32, 4  # images
WORSE = 1.25  # times the error that the Gaussian has
GOOD = 0.05  # of the noise's variance: less is no mistake, however little images vary


@dataclass(frozen=True)
class Denoising:
    """How well a model predicts the noise in images, beside what knows their mean and variance alone.

    Attributes:
        error: mean of |ε̂ − ε|²/d over the images; 1 is what predicting no noise has.
        gaussian: α²v/(α²v + σ²), that of the best predictor for independent Gaussian coordinates of variance v.
        sigma: the noise level, of a variance-preserving schedule.
        n: images.
        spent: evaluations, with those that only filled batches up.
    """

    error: float
    gaussian: float
    sigma: float
    n: int
    spent: float

    @classmethod
    def pooled(cls, parts: Sequence[Denoising]) -> Denoising | None:
        """Of all shards, each of which has asked about images of its own: means over images; None of no shard."""
        if not parts:
            return None
        n = [part.n for part in parts]
        error = np.average([part.error for part in parts], weights=n)
        gaussian = np.average([part.gaussian for part in parts], weights=n)
        return cls(float(error), float(gaussian), parts[0].sigma, sum(n), sum(part.spent for part in parts))

    @property
    def warning(self) -> str | None:
        """In words, where the model is worse."""
        if not math.isfinite(self.error):
            return f"the model answers NaN or infinity about the noise in the audited images at σ = {self.sigma:g}"
        if self.error <= max(WORSE * self.gaussian, GOOD):
            return None
        return (
            "the model predicts the noise in the audited images worse than a Gaussian with their mean and variance "
            f"(mean squared error {self.error:.2g} against {self.gaussian:.2g} at σ = {self.sigma:g}): check its "
            "schedule, its units, and what it predicts"
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Error:
    model: Diffusion
    t: ArrayLike

    def __call__(self, point: Array, noise: Array, prompt: Array | None = None) -> Array:
        """|ε̂ − ε|²/d of one noised point, ``()``."""
        predicted = self.model.eps(self.model.noised(point, self.t, noise), self.t, prompt)
        return jnp.mean((predicted - noise) ** 2)


@dataclass(frozen=True)
class Denoiser(Evaluator):
    """Asks one model for the noise in images, at the largest noise level of the settings that it has."""

    @cached_property
    def level(self) -> tuple[float, Array] | None:
        """Noise level and time; None where the schedule has none of them."""
        model = self.subject.model
        return max(times_of(model.diffusion.schedule, self.settings.noise_levels, model.unit).items(), default=None)

    @property
    def how(self) -> Mapping[str, Any]:
        """All that the numbers depend on beside images, prompts and code; JSON-able."""
        return self.identity | {"denoising": float(self.level[1])}

    @property
    def cost(self) -> int:
        """One evaluation for an image."""
        return 1

    def columns(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> Columns:
        """``error`` of each, ``mean`` and ``square`` over its coordinates, ``spent``; all ``(n,)``."""
        noise = np.stack([self._noise(point) for point in points])
        rows = (points, noise) if numbers is None else (points, noise, numbers)
        error, computed = self.in_batches(_Error(model, self.level[1]), *rows)
        flat = points.reshape(len(points), -1).astype(np.float64)
        moments = {"mean": flat.mean(axis=1), "square": (flat**2).mean(axis=1)}
        return {"error": error, "spent": np.full(len(points), computed)} | moments

    def _noise(self, point: np.ndarray) -> np.ndarray:
        """Drawn for this point, whichever others are asked about with it."""
        own = zlib.crc32(np.ascontiguousarray(point).tobytes())
        seeds = np.asarray(jax.random.key_data(self.key)).ravel().tolist()
        return np.random.default_rng([*seeds, own]).standard_normal(point.shape, np.float32)


def denoising(
    subject: Subject, pictures: Pictures, settings: AuditSettings, key: PRNGKey, around: Surroundings
) -> Denoising | None:
    """Asks the model about the noise in at most 32 of these images, with their prompts where they have any.

    None where it takes no image without a prompt and there is none, where fewer than 4 images can be read, or where its
    schedule has none of the noise levels. A model that was trained on images of another kind may fail here, too.
    """
    denoiser = Denoiser(subject, settings, key)
    if denoiser.level is None or (subject.model.without == "refused" and pictures.prompts is None):
        return None
    found = score_all(denoiser, _some(pictures), None, key="denoising", around=around, may_be_none=True)
    if len(found) < FEWEST:
        return None
    columns, (sigma, t) = found.columns, denoiser.level
    schedule = subject.model.diffusion.schedule
    variance = float(columns["square"].mean() - columns["mean"].mean() ** 2)
    signal, noise = float(schedule.alpha(t)) ** 2 * variance, float(schedule.sigma(t)) ** 2
    spent = float(columns["spent"].sum())
    return Denoising(float(columns["error"].mean()), signal / (signal + noise), sigma, len(found), spent)


def _some(pictures: Pictures) -> Pictures:
    """Over the whole list; the first ones, where reading goes forward alone."""
    n = len(pictures.source.names)
    spread = range(min(n, MOST)) if pictures.source.in_order else np.linspace(0, n - 1, min(n, MOST)).astype(int)
    kept = [int(index) for index in spread]
    prompts = None if pictures.prompts is None else [pictures.prompts[index] for index in kept]
    return Pictures(Subset(pictures.source, kept, (), alone=True), prompts)
