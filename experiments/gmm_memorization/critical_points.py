"""Part 1: is a point a maximum of log q? The published mixture example, with analytic and learned score.

All values of one figure come from one computation here: 200 repeats of each estimate at each point, for boundary and
volume, analytic and learned, with nothing recomputed afterwards.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import Field

from experiments.cache import Cache
from experiments.networks import named_key, trained
from experiments.report import Report
from experiments.schema import RunConfig, Section
from experiments.tracker import Tracker
from plap_jax import GaussianMixture, flux, volume
from plap_jax.diffusion import Diffusion
from plap_jax.flux import circle_flux, flux_density
from plap_jax.metrics import auc, bootstrap_interval, mean_interval
from plap_jax.typing import Array, ScoreFn, require

SCORES = ("analytic", "learned")
ESTIMATORS = ("boundary", "volume")
KINDS = ("mode", "midpoint", "centre")


class Critical(Section):
    """Part 1."""

    enabled: bool
    t: int | float = Field(description="time of the network, on which the mixture is noised alike")
    n_train: int = Field(ge=2, description="training points")
    n_repeats: int = Field(ge=2, description="independent repeats of every estimate")
    n_grid: int = Field(ge=2, description="points per axis of the plotted fields")


@dataclass(frozen=True)
class Setting:
    """The plane's mixture, and the network trained on a sample of it: what parts 1 and 2 look at."""

    mixture: GaussianMixture
    network: Diffusion

    def scores_at(self, t: float) -> dict[str, ScoreFn]:
        """Both score functions at one noise level."""
        schedule = self.network.schedule
        noised = self.mixture.noised(schedule.alpha(t), schedule.sigma(t))
        return {"analytic": Partial(GaussianMixture.score, noised), "learned": self.network.score_at(t)}

    def extent(self, t: float) -> float:
        """Half the side of the square that shows the mixture at noise level t."""
        noised = self.mixture.noised(self.network.schedule.alpha(t), self.network.schedule.sigma(t))
        spread = jnp.sqrt(jnp.max(noised.eigenvalues))
        return float(jnp.max(jnp.abs(noised.means)) + 4 * spread)


def setting(config: RunConfig, *, report: Report, cache: Cache, tracker: Tracker) -> Setting:
    """Samples the mixture and trains on the sample."""
    mixture = config.data.make()
    require(mixture.shape == (2,), "data", mixture.shape, "must be a mixture in the plane, shape (2,)")
    sample = mixture.sample(named_key(config.seed, "plane/data"), config.critical.n_train)
    network = trained(config, np.asarray(sample), name="plane", report=report, cache=cache, tracker=tracker)
    return Setting(mixture, network)


def critical_points(mixture: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """The means, the midpoints of each two, and the centre of all: ``(n, 2)``, and the kind of each."""
    means = np.asarray(mixture.means)
    first, second = np.triu_indices(len(means), 1)
    points = np.concatenate([means, (means[first] + means[second]) / 2, means.mean(0, keepdims=True)])
    return points, np.repeat(KINDS, [len(means), len(first), 1])


def run(config: RunConfig, setting: Setting, *, report: Report) -> None:
    """Estimates, tables and metrics of part 1."""
    part, t = config.critical, config.critical.t
    alpha = float(setting.network.schedule.alpha(t))
    points, kinds = critical_points(setting.mixture)
    centres = jnp.asarray(alpha * points)
    scores = setting.scores_at(t)
    with report.stage("critical/estimates"):
        values, reference = _estimates(config, scores, centres)
    log_q, arrows, grid = _fields(setting, t, part.n_grid)
    report.arrays(
        "critical",
        values=values,
        reference=reference,
        kinds=kinds,
        centres=centres,
        radius=config.flux.radius,
        p=config.flux.p,
        t=t,
        sigma=setting.network.schedule.sigma(t),
        grid=grid,
        log_q=log_q,
        arrows=arrows,
    )
    _record(report, values, reference, points, kinds, config)


def _estimates(config: RunConfig, scores: dict[str, ScoreFn], centres: Array) -> tuple[np.ndarray, np.ndarray]:
    """κ_p: ``(2 scores, 2 estimators, n points, n repeats)``, and its value by quadrature ``(2 scores, n points)``."""
    keys = jax.random.split(named_key(config.seed, "critical/directions"), config.critical.n_repeats)
    settings = {"n_samples": config.flux.n_samples, "directions": config.flux.directions}
    p, radius = config.flux.p, config.flux.radius
    one_score = [_repeats(scores[name], centres, keys, radius, p, **settings) for name in SCORES]
    reference = [_quadrature(scores[name], centres, radius, p) for name in SCORES]
    return np.asarray(one_score), np.asarray(reference)


@partial(jax.jit, static_argnames=("n_samples", "directions"))
def _repeats(
    score_fn: ScoreFn, centres: Array, keys: Array, radius: float, p: float, *, n_samples: int, directions: str
) -> Array:
    """κ_p by boundary and by volume: ``(2, n points, n repeats)``; every point and repeat has its own randomness."""

    def both(x: Array, key: Array) -> Array:
        key_boundary, key_volume = jax.random.split(key)
        common = {"radius": radius, "p": p, "n_samples": n_samples}
        boundary = flux(score_fn, x, key=key_boundary, directions=directions, **common)
        average = volume(score_fn, x, key=key_volume, **common)
        return jnp.stack([boundary.value, flux_density(average, radius, x.size).value])

    def at(index: Array, x: Array) -> Array:
        return jax.vmap(lambda key: both(x, jax.random.fold_in(key, index)))(keys)

    return jnp.moveaxis(jax.vmap(at)(jnp.arange(len(centres)), centres), -1, 0)


@jax.jit
def _quadrature(score_fn: ScoreFn, centres: Array, radius: float, p: float) -> Array:
    return jax.vmap(lambda x: circle_flux(score_fn, x, radius=radius, p=p, n_points=1024))(centres)


def _fields(setting: Setting, t: float, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log q ``(n, n)``, both scores ``(2, n, n, 2)`` and the grid's axis ``(n,)``; rows go along y."""
    extent = setting.extent(t)
    axis = jnp.linspace(-extent, extent, n)
    plane = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)
    schedule = setting.network.schedule
    noised = setting.mixture.noised(schedule.alpha(t), schedule.sigma(t))
    log_q = _over_plane(Partial(GaussianMixture.log_prob, noised), plane)
    arrows = [_over_plane(score_fn, plane) for score_fn in setting.scores_at(t).values()]
    return np.asarray(log_q), np.asarray(arrows), np.asarray(axis)


@jax.jit
def _over_plane(fn: Partial, plane: Array) -> Array:
    return jax.vmap(jax.vmap(fn))(plane)


def _record(
    report: Report,
    values: np.ndarray,
    reference: np.ndarray,
    points: np.ndarray,
    kinds: np.ndarray,
    config: RunConfig,
) -> None:
    """Metrics ``critical/…`` and the table of points."""
    report.metric("critical/p", config.flux.p)
    rows = []
    for (i, score), (j, estimator) in product(enumerate(SCORES), enumerate(ESTIMATORS)):
        prefix, estimates = f"critical/{score}/{estimator}", values[i, j]
        for kind in KINDS:
            # Points of one kind differ in their true value: only repeats are independent of each other.
            report.metric(f"{prefix}/{kind}", mean_interval(estimates[kinds == kind].mean(axis=0)))
        at_modes, elsewhere = (estimates[(kinds == "mode") == is_mode].ravel() for is_mode in (True, False))
        report.metric(f"{prefix}/auc", bootstrap_interval(auc, at_modes, elsewhere, seed=config.seed))
        for k, kind in enumerate(kinds):
            rows.append(
                {
                    "score": score,
                    "estimator": estimator,
                    "kind": kind,
                    "x": points[k, 0],
                    "y": points[k, 1],
                    "kappa": estimates[k].mean(),
                    "standard_deviation": estimates[k].std(ddof=1),
                    "kappa_by_quadrature": reference[i, k],
                    "finite_variance": estimator == "boundary" or config.flux.p > 2 - points.shape[1] / 2,
                }
            )
    report.table("critical", rows)
