"""How good are the estimators, and what are their errors worth: ``python -m experiments.run +exp=estimator_study``.

On mixtures in closed form, a learned mixture and a network that memorized digits: error against evaluations for every
method, coverage of the intervals, what the radius trades, the error of a learned score with its bound, where the volume
breaks, which kind of directions gains for which images, and what the exact operator costs.
"""

from typing import Annotated

from pydantic import Field, model_validator
from scipy.stats.qmc import Sobol

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, checked_as
from experiments.core.tracker import Tracker
from experiments.estimator_study import breakdown, convergence, cost, gains, radius, scenes, score_error
from experiments.estimator_study.convergence import Distinct
from experiments.estimator_study.methods import BOUNDARY, PLAIN, POINTWISE, VOLUME
from experiments.shared.planting import Planting
from plap_jax.directions import unit_size
from plap_jax.typing import require

__all__ = ["Config", "run"]


class Config(RunConfig):
    """The config of this experiment; data, planting, model and train are those of the digits."""

    planting: Planting
    plane: scenes.Plane
    dims: Distinct[Annotated[int, Field(ge=2, le=Sobol.MAXDIM)]] = Field(min_length=1, description="of the mixtures")
    variance: float = Field(gt=0, description="of a component, each coordinate")
    sigma: float = Field(gt=0, description="noise level at which digits are looked at")
    n_images: int = Field(ge=2, description="of each kind")
    n_away: int = Field(ge=2, description="points off the modes")
    methods: list[str] | None = Field(description="names of methods.py; null: all")
    convergence: convergence.Convergence
    gains: gains.Gains
    radius: radius.Radii
    breakdown: breakdown.Breakdown
    cost: cost.Cost

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        """Refuse now what the library would refuse after training."""
        checked_as("sigma", self.sigma, self.diffusion.make().time_at, self.sigma)
        checked_as("plane.sigma", self.plane.sigma, self.plane.diffusion.make().time_at, self.plane.sigma)
        allowed = "must be images, such as digits, which the seed completes (_partial_: true)"
        require(self.data.is_partial, "data", self.data.spec["_target_"], allowed)
        for key, values in (
            ("convergence.n_directions", self.convergence.n_directions),
            ("gains.n_samples", self.gains.n_samples),
        ):
            for n in values:
                for kind in ("antithetic", "orthogonal", "quasi"):
                    checked_as(key, n, unit_size, kind, n, 2)  # blocks that fit the plane fit all dimensions
        names = [method.name for method in (*BOUNDARY, *VOLUME, *POINTWISE)]
        for name in self.methods or ():
            require(name in names, "methods", name, f"must be one of {', '.join(names)}")
        allowed = f"must hold {PLAIN}, which all are held against"
        require(self.methods is None or PLAIN in self.methods, "methods", self.methods, allowed)
        orders = self.convergence.p
        require(1 in orders, "convergence.p", orders, "must hold 1, the order of bounds, coverage and gains")
        fewest = min(self.convergence.n_directions)
        allowed = f"must be >= {fewest}, the fewest of convergence.n_directions"
        most = self.convergence.max_evaluations
        require(most >= fewest, "convergence.max_evaluations", most, allowed)
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Every part in turn; two networks are trained, or come from the cache."""
    common = {"report": report, "cache": cache, "tracker": tracker}
    plane = scenes.learned(config, config.plane, config.variance, **common)
    digits = scenes.digits(config, config.planting, **common)
    mixtures = list(scenes.mixtures(config.dims, config.variance, config.seed, config.n_away))
    images = digits.scene(config.sigma, config.n_images)
    every = [*mixtures, plane.scene(config.seed, config.n_away), images]
    convergence.run(config, every, report=report)
    small = [scene for scene in mixtures if scene.dim <= 64]
    gains.run(config, [*small, images], report=report)
    radius.run(config, report=report)
    score_error.run(config, plane, report=report)
    breakdown.run(config, report=report)
    cost.run(config, report=report)
