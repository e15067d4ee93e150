"""What a model says of an image at several noise levels: κ₁ around it, the score's norm at it and beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax._flux import inward_units
from plap_jax.detectors.base import gap_at, norm
from plap_jax.diffusion import Diffusion, Schedule, noise_to_signal
from plap_jax.directions import Directions, on_sphere, sample_directions
from plap_jax.memory import points_at_once
from plap_jax.parallel import map_points
from plap_jax.typing import Array, ArrayLike, PRNGKey, ScoreFn, require, require_ball, standard_error

NOISE_LEVELS = (0.03, 0.05, 0.08, 0.16, 0.22, 0.32, 0.58)
N_DIRECTIONS = 4
N_SHIFTS = 4
NEAR = 1.1  # how far a step of a discrete schedule may be from a level, as a ratio
Kind = Literal["kappa", "kappa_given", "kappa_gap"]
COST: dict[Kind, int] = {"kappa": 1, "kappa_given": 1, "kappa_gap": 2}  # evaluations of the network at a point


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EvidenceAt:
    """Evidence at one noise level: image, and its prompt where there is one ↦ (κ₁, its standard error, −log|ε̂|, C).

    κ₁ is the mean inward flux density of the field through the shell of centre αx₀ and radius σ√d; |ε̂| = σ|s| is its
    norm at the centre. The contrast C = ¼ Σ log|ε̂(αx′)| − log|ε̂(αx₀)| compares the image with itself shifted by one
    pixel up, down, left and right: as hard an image, and one that training has not seen (as neighbours are compared in
    PFAMI, Fu et al. 2023). All have no dimension, higher = more memorized. A pytree, for ``map_points``; the time is
    data, so that another level compiles nothing.

    Args:
        model: network and schedule.
        t: time.
        key: of the directions, the same for every image, level and model that is to be compared.
        kind: "kappa", of the score without a prompt; "kappa_given", given the prompt; "kappa_gap", of their difference,
            with |ε̂| given the prompt.
        n_samples, directions: as for ``plap_jax.flux``; at least two independent units.
    """

    model: Diffusion
    t: ArrayLike
    key: PRNGKey
    kind: Kind = field(default="kappa", metadata={"static": True})
    n_samples: int = field(default=N_DIRECTIONS, metadata={"static": True})
    directions: Directions = field(default="iid", metadata={"static": True})

    def __call__(self, image: Array, prompt: Array | None = None) -> tuple[Array, Array, Array, Array]:
        """Four scalars, float32 at least."""
        centre, radius = self.model.ball(image, self.t)
        require_ball(centre, radius, 1.0)
        vectors = sample_directions(self.key, self.n_samples, centre.shape, self.directions, centre.dtype)
        shell, beside = on_sphere(centre, radius, vectors), with_shifts(centre)
        score_fn = field_at(self.model, self.t, self.kind, prompt)
        if self.kind == "kappa_gap":  # the gap's own norm tells nothing: it vanishes where a prompt adds nothing
            told = self.model.score_at(self.t, prompt)
            around, at = jax.vmap(score_fn)(shell), jax.vmap(told)(beside)
        else:  # in one call of the network, which saves a fifteenth of the time
            scores = jax.vmap(score_fn)(jnp.concatenate([shell, beside]))
            around, at = scores[: len(shell)], scores[len(shell) :]
        units, _ = inward_units(around, vectors, p=1.0, radius=radius)
        noise = jax.vmap(norm)(at) * self.model.schedule.sigma(self.t)
        return units.mean(), standard_error(units), -_log(noise[0]), contrast_of(noise)

    @property
    def nfe(self) -> int:
        """Evaluations of the network for an image."""
        return nfe_at_level(self.kind, self.n_samples)


def field_at(model: Diffusion, t: ArrayLike, kind: Kind, prompt: Array | None) -> ScoreFn:
    """The field of which κ₁ is taken: the score without a prompt, given it, or the difference of both; a pytree."""
    if kind == "kappa_gap":
        return gap_at(model, t, prompt)
    return model.score_at(t, prompt if kind == "kappa_given" else None)


def nfe_at_level(kind: Kind, n_samples: int) -> int:
    """Evaluations of the network for an image at one noise level: the shell, its centre, and the shifted centres."""
    return COST[kind] * n_samples + 1 + N_SHIFTS


def with_shifts(centre: Array) -> Array:
    """An image and its four shifts: ``(5, h, w, c)``."""
    return jnp.concatenate([centre[None], shifted(centre)])


def contrast_of(norms: Array) -> Array:
    """Mean log of the norms at the shifts, minus that at the image; ``(5,)``, the image first."""
    return _log(norms[1:]).mean() - _log(norms[0])


def _log(norms: Array) -> Array:
    """At a mode the norm vanishes; below rounding it tells nothing more."""
    return jnp.log(jnp.maximum(norms, jnp.finfo(norms.dtype).eps))


def shifted(image: Array) -> Array:
    """An image ``(h, w, c)`` moved by one pixel up, down, left and right, its edge repeated: ``(4, h, w, c)``.

    Raises:
        ValueError: no image.
    """
    require(image.ndim == 3, "image", image.shape, "must be (h, w, c): it is compared with itself shifted")
    rows, columns = jnp.arange(image.shape[0]), jnp.arange(image.shape[1])
    up, down = (jnp.clip(rows + step, 0, image.shape[0] - 1) for step in (1, -1))
    left, right = (jnp.clip(columns + step, 0, image.shape[1] - 1) for step in (1, -1))
    return jnp.stack([image[up], image[down], image[:, left], image[:, right]])


def times_of(schedule: Schedule, levels: Sequence[float] = NOISE_LEVELS, unit: float = 1.0) -> dict[float, Array]:
    """The times of noise levels, for any schedule: level ↦ t with σ(t)/α(t) = σ/√(1 − σ²).

    Args:
        schedule: of the model.
        levels: σ in (0, 1), those of a variance-preserving schedule, which compare across schedules by noise to signal.
        unit: how long one unit of [−1, 1] is in the model's space, ``Pretrained.unit``: σ/α is meant for images there.

    Returns:
        Only the levels that the schedule reaches, in the order given; on a discrete one within 10 % of σ/α, and of two
        that share a step the first.

    Raises:
        ValueError: a level outside (0, 1).
    """
    found: dict[float, Array] = {}
    for level in levels:
        ratio = unit * noise_to_signal(level)
        if schedule.reaches(ratio):
            t = schedule.time_at_ratio(ratio)
            off = abs(math.log(float(schedule.sigma(t) / schedule.alpha(t)) / ratio))
            if off <= math.log(NEAR) and all(float(t) != float(other) for other in found.values()):
                found[level] = t
    return found


@dataclass(frozen=True)
class Evidence:
    """What one model says of n images at L noise levels; higher = more memorized.

    Attributes:
        levels: ``(L,)`` σ of a variance-preserving schedule.
        kappa, stderr: ``(n, L)`` κ₁ ∈ [−1, 1] and its standard error over the directions.
        log_norm: ``(n, L)`` −log|ε̂(αx₀)|.
        contrast: ``(n, L)`` how much smaller |ε̂| is at the image than at the image shifted by a pixel, as a logarithm.
        nfe: evaluations of the network for an image.
    """

    levels: np.ndarray
    kappa: np.ndarray
    stderr: np.ndarray
    log_norm: np.ndarray
    contrast: np.ndarray
    nfe: int

    @property
    def columns(self) -> np.ndarray:
        """``(n, 2L)``, what the calibrated score is made of: κ₁ at every level, then the contrast."""
        return np.concatenate([self.kappa, self.contrast], axis=1)


def evidence(
    model: Diffusion,
    images: np.ndarray,
    *,
    key: PRNGKey,
    levels: Sequence[float] = NOISE_LEVELS,
    prompts: np.ndarray | None = None,
    kind: Kind | None = None,
    n_samples: int = N_DIRECTIONS,
    directions: Directions = "iid",
    batch_size: int | None = None,
) -> Evidence:
    """κ₁ and the norm of the noise prediction at several noise levels: L (m + 5) evaluations per image.

    For a second model, ask again with the same key: its directions are then the same, and so differences between both
    carry little of their noise.

    Args:
        model: network and schedule.
        images: clean ones ``(n, h, w, c)``, pixels or latents.
        key: of the directions, which all images and levels share.
        levels: σ ∈ (0, 1) of a variance-preserving schedule, translated by ``times_of``; those that the schedule does
            not reach are left out.
        prompts: ``(n,)`` integers, or None.
        kind: as for ``EvidenceAt``; None: given the prompt where there are prompts.
        n_samples: m, directions at each level.
        directions: as for ``plap_jax.flux``.
        batch_size: images at a time; None: by their size.

    Raises:
        ValueError: no level that the schedule reaches, a prompt that is needed, arguments as for ``plap_jax.flux``.

    Example:
        >>> found = evidence(model, images, key=jax.random.key(0))
        >>> found.kappa.shape, found.nfe  # (n, 7), 63
    """
    times = times_of(model.schedule, levels)
    require(bool(times), "levels", levels, f"must hold a level that the schedule reaches ({model.schedule.name})")
    kind = kind or ("kappa" if prompts is None else "kappa_given")
    require(kind == "kappa" or prompts is not None, "kind", kind, "needs prompts")
    columns = () if prompts is None else (np.asarray(prompts),)
    parts = [EvidenceAt(model, t, key, kind, n_samples, directions) for t in times.values()]
    nfe = parts[0].nfe
    size = batch_size or points_at_once(int(np.prod(images.shape[1:])), nfe)
    found = [map_points(part, images, *columns, batch_size=size) for part in parts]
    columns = (np.stack(values, axis=1) for values in zip(*found, strict=True))
    return Evidence(np.asarray(list(times)), *columns, nfe * len(parts))
