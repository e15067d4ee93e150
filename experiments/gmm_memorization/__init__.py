"""p-Laplacians on Gaussian mixtures, where everything is known: ``python -m experiments.run +exp=gmm_memorization``.

Three parts, each switchable (``critical.enabled=false``, …): is a point a maximum of log q (the published mixture
example); curvature maps of the plane; which training points has a network memorized.
"""

import math

from pydantic import model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, checked_as
from experiments.core.tracker import Tracker
from experiments.gmm_memorization import critical_points, curvature_maps, planted
from plap_jax.diffusion import DiscreteVP, Schedule
from plap_jax.directions import Directions, unit_size
from plap_jax.typing import require

__all__ = ["Config", "run"]

PUBLISHED = DiscreteVP.linear(100)


class Config(RunConfig):
    """The config of this experiment: what all share, and one section per part."""

    critical: critical_points.Critical
    maps: curvature_maps.Maps
    planted: planted.PlantedConfig

    @model_validator(mode="after")
    def _with_times(self) -> "Config":
        """Times that are not given are those of the published setting, or of the same noise to signal elsewhere."""
        critical, maps, schedule = self.critical, self.maps, self.diffusion.make()
        if critical.t is None:
            critical = critical.model_copy(update={"t": _published(schedule, (10,))[0]})
        if maps.times is None:
            maps = maps.model_copy(update={"times": _published(schedule, (2, 20, 60))})
        return self.model_copy(update={"critical": critical, "maps": maps})

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        """Refuse now what the library would refuse after training: times, noise levels, numbers of directions."""
        schedule, kind = self.diffusion.make(), self.flux.directions
        allowed = "must be a mixture, such as triangle: images are for image_memorization"
        require(not self.data.is_partial, "data", self.data.spec["_target_"], allowed)
        if self.critical.enabled:
            checked_as("critical.t", self.critical.t, schedule.check_time, self.critical.t)
            checked_as("flux.n_samples", self.flux.n_samples, unit_size, kind, self.flux.n_samples, 2)
            allowed = "must be a number > 0 for critical.enabled=true"
            require(self.flux.radius is not None, "flux.radius", self.flux.radius, allowed)
        if self.maps.enabled:
            for key in ("times", "p"):
                values = getattr(self.maps, key)
                require(len(set(values)) == len(values), f"maps.{key}", values, "must not hold a value twice")
            for t in self.maps.times:
                checked_as("maps.times", self.maps.times, schedule.check_time, t)
        if self.planted.enabled:
            self._check_planted(schedule, kind)
        return self

    def _check_planted(self, schedule: Schedule, kind: Directions) -> None:
        part = self.planted
        times = [int(checked_as("planted.sigmas", part.sigmas, schedule.time_at, sigma)) for sigma in part.sigmas]
        if schedule.discrete:
            require(
                len(set(times)) == len(times), "planted.sigmas", part.sigmas, "must be different steps of the schedule"
            )
        for sample in part.samples.values():
            checked_as("planted.n_samples", part.n_samples, unit_size, kind, part.n_samples, sample.dim)


def _published(schedule: Schedule, steps: tuple[int, ...]) -> list[int | float]:
    """The times of a schedule that have the σ/α of these steps of the published one."""
    times = [schedule.time_at_ratio(math.exp(-0.5 * float(PUBLISHED.log_snr(step)))) for step in steps]
    return [int(t) if schedule.discrete else float(t) for t in times]


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Runs the parts that are enabled; the first two share one network."""
    if config.critical.enabled or config.maps.enabled:
        setting = critical_points.setting(config, report=report, cache=cache, tracker=tracker)
        if config.critical.enabled:
            critical_points.run(config, setting, report=report)
        if config.maps.enabled:
            curvature_maps.run(config, setting, report=report)
    if config.planted.enabled:
        planted.run(config, report=report, cache=cache, tracker=tracker)
