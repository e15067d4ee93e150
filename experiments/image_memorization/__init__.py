"""Image diffusion models that memorize: ``python -m experiments.run +exp=image_memorization``.

Images are planted in the training set 2 to 40 times. Two questions, answered apart: which training images has the
network memorized, and which of the images it generates are copies? The control is a network that never saw the planted
images.
"""

from typing import Annotated

from pydantic import Field, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section, checked_as
from experiments.core.tracker import Tracker
from experiments.image_memorization import (
    attacks,
    calibrated,
    directions,
    divisions,
    learning,
    samples,
    study,
    train_images,
)
from experiments.shared.generation import Labels, check_sampler
from experiments.shared.methods import Method
from experiments.shared.networks import Learning
from experiments.shared.planting import Planting
from plap_jax.directions import unit_size
from plap_jax.typing import require

__all__ = ["Config", "run"]


class Scoring(Section):
    """Noise levels and orders at which every image is scored."""

    sigmas: list[Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description="noise levels; validation chooses one"
    )
    p: list[Annotated[float, Field(ge=1)]] = Field(min_length=1, description="1 is always among them")


class Config(RunConfig):
    """The config of this experiment."""

    planting: Planting
    scoring: Scoring
    samples: samples.Samples
    labels: Labels
    learning: Learning
    audits: divisions.Audits
    noise_levels: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, description="that attacks try")
    attacks: dict[str, Method] = Field(description="on membership, each with what it tries on the validation half")
    directions: list[Annotated[int, Field(ge=2)]] = Field(min_length=2, max_length=2, description="compared numbers")

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        """Refuse now what would be refused after training."""
        schedule = self.diffusion.make()
        allowed = "must be images, such as digits, which the seed completes (_partial_: true)"
        require(self.data.is_partial, "data", self.data.spec["_target_"], allowed)
        for sigma in self.scoring.sigmas:
            checked_as("scoring.sigmas", self.scoring.sigmas, schedule.time_at, sigma)
        for key in ("sigmas", "p"):
            values = getattr(self.scoring, key)
            require(len(set(values)) == len(values), f"scoring.{key}", values, "must not hold a value twice")
        require(1 in self.scoring.p, "scoring.p", self.scoring.p, "must hold 1, which is compared with all else")
        require(self.flux.radius is None, "flux.radius", self.flux.radius, "must be null here: the noise shell σ√d")
        for n in (self.flux.n_samples, *self.directions):
            checked_as("flux.n_samples", n, unit_size, self.flux.directions, n, 2**30)
        steps, snapshots = self.train.spec.get("n_steps"), self.learning.n_snapshots
        fits = not isinstance(steps, int) or snapshots <= steps  # other kinds of steps are refused by name
        require(fits, "learning.n_snapshots", snapshots, f"must be <= train.n_steps={steps}")
        require(len(set(self.directions)) == 2, "directions", self.directions, "must be two different numbers")
        require(self.flux.p == 1, "flux.p", self.flux.p, "must be 1 here: the orders are those of scoring.p")
        for name, method in self.attacks.items():
            method.check(f"attacks.{name}", schedule)
            allowed = "must look at the image alone"
            require(method.kind.needs == {"image"}, f"attacks.{name}", method.kind.__name__, allowed)
        check_sampler(self.samples.sampler, schedule)
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Train, sample, label, score, evaluate."""
    made = study.prepare(config, report=report, cache=cache, tracker=tracker)
    found = train_images.run(config, made, report=report, cache=cache)
    calibrated.run(config, made, found, report=report)
    divisions.run(config, made, found, report=report)
    attacks.run(config, made, report=report, cache=cache)
    generated = samples.run(config, made, found, report=report, cache=cache)
    directions.run(config, made, found, generated, report=report, cache=cache)
    learning.run(config, made, found, report=report, cache=cache)
