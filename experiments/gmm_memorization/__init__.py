"""p-Laplacians on Gaussian mixtures, where everything is known: ``python -m experiments.run +exp=gmm_memorization``.

Three parts, each switchable (``critical.enabled=false``, …): is a point a maximum of log q (the published mixture
example); curvature maps of the plane; which training points has a network memorized.
"""

from experiments.cache import Cache
from experiments.gmm_memorization import critical_points, curvature_maps, planted
from experiments.report import Report
from experiments.schema import RunConfig
from experiments.tracker import Tracker

__all__ = ["Config", "run"]


class Config(RunConfig):
    """The config of this experiment: what all share, and one section per part."""

    critical: critical_points.Critical
    maps: curvature_maps.Maps
    planted: planted.PlantedConfig


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
