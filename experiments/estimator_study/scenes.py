"""What the estimators are tried on: a score function, points of several kinds, and the ball about each."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import Field

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section, Target
from experiments.core.tracker import Tracker
from experiments.shared.networks import MAIN, Trained, named_key, snapshot_steps, trained
from experiments.shared.planting import Planting, planted_images
from plap_jax import GaussianMixture
from plap_jax.data import Planted
from plap_jax.data.mixtures import triangle
from plap_jax.diffusion import Diffusion
from plap_jax.typing import Array, ScoreFn

MODE, MIDPOINT, AWAY = "mode", "midpoint", "away"
PLANTED, HELDOUT = "planted", "held out"


class Plane(Section):
    """The network that learns a mixture of the plane."""

    model: Target = Field(description="the network in the plane")
    train: Target = Field(description="how it is trained")
    diffusion: Target = Field(description="its noise schedule")
    sigma: float = Field(gt=0, description="noise level at which its score is looked at")
    n_train: int = Field(ge=2, description="its training points")
    n_snapshots: int = Field(ge=2, description="along its training, for the error of the score")


@dataclass(frozen=True)
class Scene:
    """Points about which κ_p is estimated.

    Attributes:
        name: of the score.
        score_fn: one point in, score out; a pytree.
        points: centres of the balls ``(n, *shape)``.
        kinds: ``(n,)``, what each of them is.
        radius: of the balls.
    """

    name: str
    score_fn: ScoreFn
    points: np.ndarray
    kinds: np.ndarray
    radius: float

    @property
    def dim(self) -> int:
        """d, the coordinates of a point."""
        return int(np.prod(self.points.shape[1:]))

    def of_kind(self, kind: str, most: int) -> np.ndarray:
        """The first ``most`` points of one kind."""
        return self.points[self.kinds == kind][:most]


def mixtures(dims: list[int], variance: float, seed: int, n_away: int) -> Iterator[Scene]:
    """Three equal Gaussians in the corners of a triangle, in every dimension, seen on balls of half their variance.

    A mean, a midpoint of two, and points two standard deviations (in d dimensions: 2√d of one coordinate) off a mean.
    """
    for dim in dims:
        yield mixture_scene(f"mixture, d = {dim}", in_dimension(dim, variance), seed, n_away)


def in_dimension(dim: int, variance: float) -> GaussianMixture:
    """The triangle of the plane in the first two of ``dim`` ≥ 2 coordinates."""
    plane = triangle(variance=variance)
    means = np.asarray(plane.means, float)
    means = np.pad(means, ((0, 0), (0, dim - 2)))
    return GaussianMixture(np.asarray(plane.weights), means, np.full(3, variance), "spherical")


def mixture_scene(
    name: str, mixture: GaussianMixture, seed: int, n_away: int, score_fn: ScoreFn | None = None
) -> Scene:
    """The scene of one mixture, in its own score or in another's that should equal it."""
    means = np.asarray(mixture.means)
    dim, variance = means.shape[1], float(np.asarray(mixture.eigenvalues).mean())
    outward = jax.random.normal(named_key(seed, f"scene/{dim}"), (n_away, dim))
    outward = np.asarray(outward / jnp.linalg.norm(outward, axis=1, keepdims=True))
    points = np.concatenate(
        [means[:1], means[:2].mean(0, keepdims=True), means[0] + 2 * (variance * dim) ** 0.5 * outward]
    )
    kinds = np.repeat([MODE, MIDPOINT, AWAY], [1, 1, n_away])
    own = Partial(GaussianMixture.score, mixture)
    return Scene(name, own if score_fn is None else score_fn, points, kinds, float((variance * dim / 2) ** 0.5))


@dataclass(frozen=True)
class Learned:
    """A network that has learned a mixture of the plane, and the mixture at the same noise level."""

    mixture: GaussianMixture
    trained: Trained
    t: Array

    def scene(self, seed: int, n_away: int) -> Scene:
        """The mixture's points in the learned score."""
        score_fn = self.trained.network.score_at(self.t)
        return mixture_scene("learned mixture, d = 2", self.mixture, seed, n_away, score_fn)

    def snapshots(self) -> Iterator[tuple[int, Diffusion]]:
        """(step, network) along the training."""
        return self.trained.snapshots()


def learned(config: RunConfig, part: Plane, variance: float, **common: Report | Cache | Tracker) -> Learned:
    """Trains on a sample of the plane's mixture."""
    own = config.model_copy(update={"model": part.model, "train": part.train, "diffusion": part.diffusion})
    mixture = in_dimension(2, variance)
    sample = np.asarray(mixture.sample(named_key(config.seed, "plane/data"), part.n_train))
    steps = snapshot_steps(part.n_snapshots, part.train.make().n_steps)
    found = trained(own, sample, name="plane", snapshot_steps=steps, **common)
    schedule = found.network.schedule
    t = schedule.time_at(part.sigma)
    return Learned(mixture.noised(schedule.alpha(t), schedule.sigma(t)), found, t)


@dataclass(frozen=True)
class Digits:
    """A network that has memorized some of the digits."""

    images: Planted
    network: Diffusion

    def scene(self, sigma: float, n_each: int) -> Scene:
        """The images planted most often and held-out ones, at the centres of their noise shells."""
        schedule = self.network.schedule
        t = schedule.time_at(sigma)
        most = self.images.copies == self.images.copies.max()
        chosen = [np.flatnonzero(of)[:n_each] for of in (most, self.images.is_heldout)]
        points = float(schedule.alpha(t)) * self.images.points[np.concatenate(chosen)]
        radius = float(schedule.sigma(t)) * points[0].size ** 0.5
        kinds = np.repeat([PLANTED, HELDOUT], [len(c) for c in chosen])
        return Scene(f"digits, d = {points[0].size}", self.network.score_at(t), points, kinds, radius)


def digits(config: RunConfig, planting: Planting, **common: Report | Cache | Tracker) -> Digits:
    """Plants and trains as the image experiment does; only its snapshots are left out."""
    _, images = planted_images(config, report=common["report"])
    points, copies = images.distinct
    return Digits(images, trained(config, points, copies=copies, name=MAIN, **common).network)
