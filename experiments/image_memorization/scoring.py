"""κ_p of images at every noise level and order, and the score norm, from the cache when they are there."""

import sys
import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import plap_jax
from experiments.core.cache import Cache, code_tag
from experiments.core.report import Report
from experiments.core.schema import RunConfig
from experiments.shared.networks import Trained, named_key
from plap_jax._flux import FluxEstimator
from plap_jax.detectors.base import norm
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions
from plap_jax.evidence import contrast_of, with_shifts
from plap_jax.memory import points_at_once
from plap_jax.parallel import map_points
from plap_jax.typing import Array, Estimate


@dataclass(frozen=True)
class Scores:
    """What one network says about images; higher = more memorized, for all statistics.

    Attributes:
        kappa: ``(n orders, n levels, n images)``, κ_p on the noise shell: centre α x₀, radius σ√d.
        stderr: its standard error, same shape.
        norm: ``(n levels, n images)``, −|s(α x₀)|: the norm falls towards a mode, so it is negated, for everyone alike.
        contrast: ``(n levels, n images)``, log|s| at the images shifted by a pixel, mean, minus log|s(α x₀)|.
        sigma: ``(n levels,)``, the levels that the schedule has.
        p: ``(n orders,)``.
    """

    kappa: np.ndarray
    stderr: np.ndarray
    norm: np.ndarray
    contrast: np.ndarray
    sigma: np.ndarray
    p: np.ndarray

    @property
    def plain(self) -> int:
        """The index of p = 1."""
        return int(np.flatnonzero(self.p == 1)[0])


def score_images(
    config: RunConfig,
    trained: Trained,
    images: np.ndarray,
    *,
    name: str,
    report: Report,
    cache: Cache,
    sigmas: tuple[float, ...] | None = None,
    orders: tuple[float, ...] | None = None,
    n_samples: int | None = None,
) -> Scores:
    """Scores of ``images`` ``(n, *shape)`` by one network, in directions common to all images and levels.

    Args:
        config: its sections scoring and flux say how, where the arguments do not.
        trained: whose score.
        images: clean images.
        name: of the stage.
        report, cache: of the run.
        sigmas, orders: instead of config.scoring's.
        n_samples: directions per ball, instead of config.flux's.
    """
    sigmas = tuple(config.scoring.sigmas) if sigmas is None else sigmas
    orders = tuple(config.scoring.p) if orders is None else orders
    n_samples = config.flux.n_samples if n_samples is None else n_samples
    how = {"sigmas": list(sigmas), "p": list(orders), "n_samples": n_samples, "flux": config.flux.model_dump()}
    images = np.asarray(images)
    schedule = trained.network.schedule
    times = [schedule.time_at(sigma) for sigma in sigmas]

    def compute() -> dict[str, np.ndarray]:
        started = time.perf_counter()
        key = named_key(config.seed, "scoring/directions")
        orders_ = jnp.asarray(orders, jnp.float32)
        levels = [_at_level(trained.network, t, images, key, orders_, n_samples, config.flux.directions) for t in times]
        report.rate(f"images/{name}", len(images), time.perf_counter() - started)
        return {key: np.stack([level[key] for level in levels], axis=-2) for key in levels[0]}

    depends_on = {
        "network": trained.key,
        "images": report.fingerprint(f"scored/{name}", images),
        "seed": config.seed,
        "how": how,
        "code": code_tag(sys.modules[__name__], plap_jax),
    }
    with report.stage(f"score/{name}"):
        found = cache.arrays(f"score/{name}", depends_on, compute)
    sigma = np.asarray([float(schedule.sigma(t)) for t in times])
    return Scores(**found, sigma=sigma, p=np.asarray(orders, float))


def _at_level(
    network: Diffusion, t: Array, images: np.ndarray, key: Array, orders: Array, n: int, directions: Directions
) -> dict[str, np.ndarray]:
    """``kappa``, ``stderr`` ``(n orders, n images)``, ``norm`` and ``contrast`` ``(n images,)`` at time t."""
    alpha, sigma = network.schedule.alpha(t), network.schedule.sigma(t)
    radius = sigma * np.sqrt(images[0].size)
    estimator = FluxEstimator(network.score_at(t), radius, key, orders, n, directions)
    batch = points_at_once(images[0].size, n)
    estimate, norm, contrast = map_points(Partial(_scores, estimator), np.asarray(alpha) * images, batch_size=batch)
    return {"kappa": estimate.value.T, "stderr": estimate.stderr.T, "norm": norm, "contrast": contrast}


def _scores(estimator: FluxEstimator, centre: Array) -> tuple[Estimate, Array, Array]:
    """κ_p for every order, from the same evaluations of the network, −|s| at the centre, and its contrast."""
    # Only what depends on p is mapped over p: vmap leaves the network as it is.
    kappa = jax.vmap(lambda p: replace(estimator, p=p)(centre))(jnp.asarray(estimator.p))
    norms = jax.vmap(lambda x: norm(estimator.score_fn(x)))(with_shifts(centre))
    return kappa, -norms[0], contrast_of(norms)
