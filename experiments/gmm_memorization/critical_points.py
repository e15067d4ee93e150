"""Part 1: is a point a maximum of log q? The published mixture example, with analytic and learned score.

All values of one figure come from one computation here: 200 repeats of each estimate at each point, for boundary and
volume, analytic and learned, with nothing recomputed afterwards.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import Field

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section
from experiments.core.tracker import Tracker
from experiments.shared.networks import named_key, trained, untrained
from plap_jax import GaussianMixture, flux, volume
from plap_jax._flux import circle_flux
from plap_jax.balls import flux_density
from plap_jax.bootstrap import bootstrap_interval
from plap_jax.diffusion import Diffusion
from plap_jax.metrics import Interval, auc, mean_interval
from plap_jax.typing import Array, ScoreFn, require

log = logging.getLogger(__name__)

SCORES = ("analytic", "learned")
ESTIMATORS = ("boundary", "volume")
KINDS = ("mode", "midpoint", "centre")
# Used once per run, so compiled fast rather than well.
COMPILER_OPTIONS = {"xla_backend_optimization_level": 1}


class Critical(Section):
    """Part 1."""

    enabled: bool = Field(description="whether this part is run")
    t: int | float | None = Field(description="time of the network, on which the mixture is noised alike")
    n_train: int = Field(ge=2, description="training points")
    n_repeats: int = Field(ge=2, description="independent repeats of every estimate")
    n_grid: int = Field(ge=2, description="points per axis of the plotted fields")


@dataclass(frozen=True)
class Setting:
    """The plane's mixture, and the network trained on a sample of it: what parts 1 and 2 look at.

    ``compute`` is part 1's computation, compiled; None where that part is switched off.
    """

    mixture: GaussianMixture
    network: Diffusion
    compute: Callable[..., dict[str, Array]] | None = None

    def noised(self, t: float) -> GaussianMixture:
        """The mixture at noise level t."""
        schedule = self.network.schedule
        return self.mixture.noised(schedule.alpha(t), schedule.sigma(t))

    def extent(self, t: float) -> float:
        """Half the side of the square that shows the mixture at noise level t."""
        noised = self.noised(t)
        return float(np.abs(noised.means).max() + 4 * np.sqrt(np.asarray(noised.eigenvalues).max()))


def setting(config: RunConfig, *, report: Report, cache: Cache, tracker: Tracker) -> Setting:
    """Samples the mixture and trains on the sample; meanwhile the other core compiles what part 1 will compute."""
    mixture = config.data.make()
    require(mixture.shape == (2,), "data", mixture.shape, "must be a mixture in the plane, shape (2,)")
    sample = np.asarray(mixture.sample(named_key(config.seed, "plane/data"), config.critical.n_train))
    initial = Setting(mixture, untrained(config, sample, name="plane"))
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(_compiled, config, initial) if config.critical.enabled else None
        network = trained(config, sample, name="plane", report=report, cache=cache, tracker=tracker).network
        return Setting(mixture, network, compiled.result() if compiled else None)


def critical_points(mixture: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """The means, the midpoints of each two, and the centre of all: ``(n, 2)``, and the kind of each."""
    means = np.asarray(mixture.means)
    first, second = np.triu_indices(len(means), 1)
    points = np.concatenate([means, (means[first] + means[second]) / 2, means.mean(0, keepdims=True)])
    return points, np.repeat(KINDS, [len(means), len(first), 1])


def run(config: RunConfig, setting: Setting, *, report: Report) -> None:
    """Estimates, tables and metrics of part 1."""
    points, kinds = critical_points(setting.mixture)
    arguments, constants = _arguments(config, setting, points)
    with report.stage("critical/estimates"):
        found = {name: np.asarray(value) for name, value in setting.compute(*arguments, **constants).items()}
    t = config.critical.t
    sigma = setting.network.schedule.sigma(t)
    report.arrays("critical", **found, **constants, t=t, sigma=sigma, grid=arguments[-1][0, :, 0], kinds=kinds)
    _record(report, found["values"], found["reference"], points, kinds, config)


STATIC = ("n_samples", "directions")


def _arguments(config: RunConfig, setting: Setting, points: np.ndarray) -> tuple[tuple, dict[str, float]]:
    part = config.critical
    axis = np.linspace(-1, 1, part.n_grid, dtype=np.float32) * np.float32(setting.extent(part.t))
    return (
        setting.noised(part.t),
        setting.network.score_at(part.t),
        setting.network.schedule.alpha(part.t) * points,
        jax.random.split(named_key(config.seed, "critical/directions"), part.n_repeats),
        np.stack(np.meshgrid(axis, axis), axis=-1),
    ), {"radius": config.flux.radius, "p": config.flux.p}


def _compiled(config: RunConfig, setting: Setting) -> Callable[..., dict[str, Array]]:
    arguments, constants = _arguments(config, setting, critical_points(setting.mixture)[0])
    static = {name: getattr(config.flux, name) for name in STATIC}
    return _compute.lower(*arguments, **constants, **static).compile(COMPILER_OPTIONS)


@partial(jax.jit, static_argnames=STATIC)
def _compute(
    noised: GaussianMixture,
    learned: ScoreFn,
    centres: Array,
    keys: Array,
    plane: Array,
    *,
    radius: float,
    p: float,
    n_samples: int,
    directions: str,
) -> dict[str, Array]:
    """All that part 1 shows, in one compilation: both scores share the random numbers, and are compiled side by side.

    Returns:
        values: κ_p ``(2 scores, 2 estimators, n points, n repeats)``; every point and repeat has its own randomness.
        reference: κ_p by quadrature ``(2 scores, n points)``.
        arrows: both scores over the plane ``(2 scores, n, n, 2)``; log_q: ``(n, n)``; rows go along y.
        centres: as given.
    """

    def estimates(score_fn: ScoreFn, x: Array, key: Array) -> Array:
        key_boundary, key_volume = jax.random.split(key)
        common = {"radius": radius, "p": p, "n_samples": n_samples}
        boundary = flux(score_fn, x, key=key_boundary, directions=directions, **common)
        average = volume(score_fn, x, key=key_volume, **common)
        return jnp.stack([boundary.value, flux_density(average, radius, x.size).value])

    def at_points(score_fn: ScoreFn) -> tuple[Array, Array]:
        def repeat(key: Array) -> Array:
            return jax.vmap(lambda x, index: estimates(score_fn, x, jax.random.fold_in(key, index)))(
                centres, jnp.arange(len(centres))
            )

        # A loop over repeats: one stays in the processor's cache, where all at once would wait for memory.
        values = jnp.transpose(jax.lax.map(repeat, keys), (2, 1, 0))
        reference = jax.vmap(lambda x: circle_flux(score_fn, x, radius=radius, p=p, n_points=1024))(centres)
        return values, reference

    scores = (Partial(GaussianMixture.score, noised), learned)
    values, reference = zip(*map(at_points, scores), strict=True)
    arrows = jnp.stack([jax.vmap(jax.vmap(score_fn))(plane) for score_fn in scores])
    log_q = jax.vmap(jax.vmap(noised.log_prob))(plane)
    return {
        "values": jnp.stack(values),
        "reference": jnp.stack(reference),
        "arrows": arrows,
        "log_q": log_q,
        "centres": centres,
    }


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
    if not _finite_variance("volume", config):
        log.warning(
            "critical/*/volume: infinite variance at p=%g in the plane; do not trust its intervals", config.flux.p
        )
    rows = []
    for (i, score), (j, estimator) in product(enumerate(SCORES), enumerate(ESTIMATORS)):
        prefix, estimates = f"critical/{score}/{estimator}", values[i, j]
        for kind in KINDS:
            # Points of one kind differ in their true value: only repeats are independent of each other.
            per_repeat = estimates[kinds == kind].mean(axis=0)
            report.metric(f"{prefix}/{kind}", *_unless_overflow(mean_interval, per_repeat))
        at_modes, elsewhere = (estimates[(kinds == "mode") == is_mode].ravel() for is_mode in (True, False))
        interval = partial(bootstrap_interval, auc, seed=config.seed)
        report.metric(f"{prefix}/auc", *_unless_overflow(interval, at_modes, elsewhere))
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
                    "finite_variance": _finite_variance(estimator, config),
                }
            )
    report.table("critical", rows)


def _finite_variance(estimator: str, config: RunConfig) -> bool:
    return estimator == "boundary" or config.flux.p > 1  # p > 2 − d/2 in the plane


def _unless_overflow(interval: Callable[..., Interval], *values: np.ndarray) -> tuple[Interval | None, str | None]:
    """The interval and no reason; or none, and the reason, where float32 has overflowed."""
    if all(np.isfinite(v).all() for v in values):
        return interval(*values), None
    return None, "|s|^(p-1) overflows in this precision"
