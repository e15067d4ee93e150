"""Does the model denoise such images at all? A wrong schedule, unit or kind of prediction shows here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from plap_jax.audit.evaluator import named_key
from plap_jax.audit.images import Source
from plap_jax.audit.subject import Subject
from plap_jax.data.images import UnusableImage
from plap_jax.diffusion import Diffusion
from plap_jax.evidence import NOISE_LEVELS, times_of
from plap_jax.parallel import map_points
from plap_jax.typing import Array, ArrayLike, PRNGKey

MOST, BATCH = 32, 8  # images
WORSE = 1.25  # times the error that the Gaussian has


@dataclass(frozen=True)
class Denoising:
    """How well a model predicts the noise in images, beside what knows their mean and variance alone.

    Attributes:
        error: mean of |ε̂ − ε|²/d over the images; 1 is what predicting no noise has.
        gaussian: α²v/(α²v + σ²), that of the best predictor for independent Gaussian pixels of variance v.
        sigma: the noise level, of a variance-preserving schedule.
        n: images, one evaluation each.
    """

    error: float
    gaussian: float
    sigma: float
    n: int

    @property
    def warning(self) -> str | None:
        """In words, where the model is worse."""
        if not self.error > WORSE * self.gaussian:
            return None
        return (
            "the model predicts the noise in these images worse than a Gaussian with their mean and variance "
            f"(mean squared error {self.error:.2g} against {self.gaussian:.2g} at σ = {self.sigma:g}): check its "
            "schedule, its units, and what it predicts"
        )


def denoising(subject: Subject, source: Source, key: PRNGKey) -> Denoising | None:
    """Asks the model, without a prompt, about the noise in at most 32 images at the largest level that it has.

    None where it takes no image without a prompt, where fewer than 8 images can be read, or where it has no level of
    ``plap_jax.evidence``. A model that was trained on images of another kind may fail here, too.
    """
    model = subject.model
    times = times_of(model.diffusion.schedule, NOISE_LEVELS, model.unit)
    images = _some(source)
    if model.without == "refused" or not times or not images:
        return None
    points = model.encode(images)
    sigma, t = max(times.items())
    noise = jax.random.normal(named_key(key, "denoising"), points.shape, points.dtype)
    errors = map_points(Partial(_error, model.diffusion, t), points, np.asarray(noise), batch_size=BATCH)
    signal = float(model.diffusion.schedule.alpha(t)) ** 2 * float(points.var())
    noisy = signal + float(model.diffusion.schedule.sigma(t)) ** 2
    return Denoising(float(np.mean(errors)), signal / noisy, sigma, len(points))


def _some(source: Source) -> list[np.ndarray]:
    """Images from the whole list, in its order."""
    found = []
    for index in np.unique(np.linspace(0, len(source.names) - 1, MOST).astype(int)).tolist():
        try:
            found.append(source.read(index))
        except UnusableImage:
            continue
    return found[: len(found) // BATCH * BATCH]  # whole batches, so that no evaluation only fills one up


def _error(model: Diffusion, t: ArrayLike, point: Array, noise: Array) -> Array:
    """|ε̂ − ε|²/d of one noised point."""
    x = model.noised(point, t, noise)
    return jnp.sum((model.eps(x, t) - noise) ** 2) / math.prod(point.shape)
