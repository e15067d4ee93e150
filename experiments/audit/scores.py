"""κ₁ without and with the prompt, κ^Δ, or any detector: every image with its standard error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from experiments.audit.models import Subject
from experiments.audit.settings import Settings
from experiments.shared.methods import Method
from experiments.shared.networks import named_key
from plap_jax.adaptive import adaptive_flux
from plap_jax.detectors import Detector, Query
from plap_jax.detectors.base import gap_at
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions
from plap_jax.parallel import map_points
from plap_jax.typing import Array, ArrayLike, Estimate, PRNGKey, require

Columns = dict[str, np.ndarray]
# Network evaluations at a time: of small images, and of those whose network has no room for so many.
EVALUATIONS, SMALL = {True: 4096, False: 64}, 4096
ENCODED = 8  # images that a VAE is given at a time


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kappa:
    """Image, and its prompt where there is one ↦ κ₁ and, given the prompt, κ₁ and κ^Δ; all but counts are data."""

    model: Diffusion
    t: ArrayLike
    key: PRNGKey
    target_stderr: ArrayLike
    n_samples: int = field(metadata={"static": True})
    max_samples: int = field(metadata={"static": True})
    directions: Directions = field(metadata={"static": True})

    def __call__(self, image: Array, prompt: Array | None = None) -> dict[str, Estimate]:
        """``{"kappa"}``, or with a prompt also ``{"kappa_given", "kappa_gap"}``; nfe counts evaluations."""
        centre, radius = self.model.ball(image, self.t)
        how = {"n_samples": self.n_samples, "max_samples": self.max_samples}
        how |= {"directions": self.directions, "target_stderr": self.target_stderr}

        def flux(score: Callable[[Array], Array]) -> Estimate:
            return adaptive_flux(score, centre, radius=radius, key=self.key, **how)

        found = {"kappa": flux(self.model.score_at(self.t))}
        if prompt is not None:
            gap = flux(gap_at(self.model, self.t, prompt))
            found["kappa_given"] = flux(self.model.score_at(self.t, prompt))
            found["kappa_gap"] = replace(gap, nfe=2 * gap.nfe)
        return found


@dataclass(frozen=True)
class Scorer:
    """Scores images of one model at one noise level, all in the same directions.

    Attributes:
        subject, settings: of the audit.
        sigma: the noise level.
        seed: of the directions.
    """

    subject: Subject
    settings: Settings
    sigma: float
    seed: int

    @cached_property
    def time(self) -> Array:
        """Of the level."""
        return self.subject.model.diffusion.schedule.time_at(self.sigma)

    @cached_property
    def method(self) -> tuple[str, Method] | None:
        """Name and method of the detector, where one is asked for."""
        return next(iter(self.settings.detector.items())) if self.settings.detector else None

    @property
    def how(self) -> Mapping[str, Any]:
        """All that the scores depend on beside images, prompts and code; JSON-able."""
        keys = {"flux", "target_stderr", "max_samples", "detector", "repeats"}
        settings = self.settings.model_dump(mode="json", include=keys)
        return {"model": self.subject.key, "sigma": self.sigma, "seed": self.seed, "settings": settings}

    def __call__(self, images: np.ndarray, prompts: list[str] | list[int] | None) -> Columns:
        """Columns of n numbers: for each score its name, ``…/stderr``, ``…/n_units``, and nfe of all together.

        Args:
            images: ``(n, *image_shape)``.
            prompts: n of them, or None.
        """
        n, most = len(images), self._batch(int(np.prod(self.subject.model.shape)))
        unit = min(most, 1 << (n - 1).bit_length())
        # Filled up to whole batches, so that nothing is compiled again; what comes of the filling is dropped.
        rows = np.minimum(np.arange(-(-n // unit) * unit), n - 1)
        points = self.subject.model.encode(images[rows], batch_size=min(ENCODED, unit))
        model, numbers = self._told(prompts and [prompts[row] for row in rows])
        found = self._kappa(model, points, numbers) if self.method is None else self._detector(model, points, numbers)
        columns = {"nfe": sum(np.broadcast_to(e.nfe, len(points)) for e in found.values()).astype(int)}
        for name, one in found.items():
            columns |= {name: one.value, f"{name}/stderr": one.stderr, f"{name}/n_units": one.n_units}
        return {name: np.asarray(column)[:n] for name, column in columns.items()}

    def _batch(self, dim: int) -> int:
        """Images at a time."""
        of_method = self.method and self._made().nfe(dim)
        return batch_size(self.settings, dim, of_method or self.settings.flux.n_samples)

    def _made(self) -> Detector:
        name, method = self.method
        return method.make(chosen(name, method, self.sigma), None)

    def _told(self, prompts: list[str] | list[int] | None) -> tuple[Diffusion, np.ndarray | None]:
        """The model that knows these prompts, and their numbers."""
        if prompts is None:
            return self.subject.model.diffusion, None
        if not self.subject.takes_text:
            return self.subject.model.diffusion, np.asarray(prompts, np.int32)
        known = sorted(set(prompts))
        numbers = np.asarray([known.index(prompt) for prompt in prompts], np.int32)
        # A table of one size: compiled once.
        return self.subject.model.with_prompts(known, size=self.settings.chunk).diffusion, numbers

    def _kappa(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> dict[str, Estimate]:
        flux = self.settings.flux
        counts = (flux.n_samples, self.settings.max_samples, flux.directions)
        one = Kappa(model, self.time, named_key(self.seed, "audit"), np.float32(self.settings.target_stderr), *counts)
        columns = () if numbers is None else (numbers,)
        return map_points(one, points, *columns, batch_size=self._batch(points[0].size))

    def _detector(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> dict[str, Estimate]:
        """The mean over ``repeats`` draws of a detector's randomness, and its standard error; 0 where it has none."""
        detector, size, n = self._made(), self._batch(points[0].size), self.settings.repeats
        keys = [named_key(self.seed, f"audit/{i}") for i in range(n)]
        values = np.stack([detector.scores(model, Query(points, numbers), key=k, batch_size=size) for k in keys])
        stderr = values.std(axis=0, ddof=1) / n**0.5
        evaluations = np.full(len(points), n * detector.nfe(points[0].size))
        return {"detector": Estimate(values.mean(axis=0), stderr, evaluations, np.full(len(points), n))}


def check_detector(name: str, method: Method, sigma: float, has_prompts: bool) -> None:
    """Refuses a detector that this audit cannot run.

    Raises:
        ValueError: it needs what is not known, or leaves a parameter open.
    """
    needs = method.kind.needs - {"image"} - ({"prompt"} if has_prompts else set())
    allowed = f"needs {', '.join(sorted(needs))}, which an audit does not have here"
    require(not needs, "detector", name, allowed)
    chosen(name, method, sigma)


def chosen(name: str, method: Method, sigma: float) -> dict[str, Any]:
    """The detector's parameters: the audit's noise level, and of every other parameter the only value.

    Raises:
        ValueError: a parameter with several.
    """
    for parameter, values in method.grid.items():
        several = parameter != "sigma" and len(values) > 1
        allowed = "must hold one value here: an audit tunes nothing"
        require(not several, f"detector.{name}.grid.{parameter}", values, allowed)
    only = {parameter: values[0] for parameter, values in method.grid.items()}
    follows = "sigma" in only and only["sigma"] is not None
    return only | ({"sigma": sigma} if follows else {})


def level_scores(
    subject: Subject, settings: Settings, sigmas: list[float], images: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """κ₁ without prompt of ``images`` at every level and its standard error: ``(n levels, n)`` each."""
    points, flux, schedule = subject.model.encode(images), settings.flux, subject.model.diffusion.schedule
    model, key = subject.model.diffusion, named_key(seed, "audit/levels")
    size = batch_size(settings, points[0].size, flux.n_samples)
    # One round, whatever its standard error.
    once = (np.float32(1), flux.n_samples, flux.n_samples, flux.directions)
    found = [
        map_points(Kappa(model, schedule.time_at(sigma), key, *once), points, batch_size=size)["kappa"]
        for sigma in sigmas
    ]
    return np.stack([one.value for one in found]), np.stack([one.stderr for one in found])


def batch_size(settings: Settings, dim: int, n_samples: int) -> int:
    """Images at a time."""
    most = settings.evaluations or EVALUATIONS[dim <= SMALL]
    return max(1, most // max(1, n_samples))
