"""Which pixels did a network memorize: ``python -m experiments.run +exp=local_memorization``.

Some training images share one region exactly, a logo, a sleeve or a background, while the rest of them varies. Maps of
κ₁ and their rivals are asked where that region is, on images that training never saw with it.
"""

from typing import Annotated, Any

from pydantic import Field, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section
from experiments.core.tracker import Tracker
from experiments.local_memorization import detecting, finding
from experiments.local_memorization.maps import KINDS, MapName, units_of
from experiments.local_memorization.study import LocalStudy
from experiments.shared.networks import trained
from experiments.shared.templates import TemplatePlanting, planted_templates
from plap_jax.evidence import times_of
from plap_jax.typing import require

__all__ = ["Config", "run"]


class Mapping(Section):
    """Which maps are made, and what is tried on the validation half."""

    names: list[MapName] = Field(min_length=1, description="maps that are compared")
    main: MapName = Field(description="the one that rivals are compared with")
    evaluations: int = Field(ge=8, description="of networks for each map of an image")
    levels: list[Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]] = Field(
        min_length=1, description="noise levels that are tried, each alone or several together"
    )
    smoothing: list[Annotated[float, Field(ge=0)]] = Field(min_length=1, description="widths that are tried, in pixels")
    choose_from: int = Field(ge=2, description="doses from it on choose")

    @model_validator(mode="after")
    def _fits(self) -> "Mapping":
        require(len(set(self.names)) == len(self.names), "maps.names", self.names, "must not repeat a map")
        promptless = [name for name in self.names if KINDS[name].needs != "prompt"]
        allowed = f"must be one of maps.names that needs no prompt: {', '.join(promptless)}"
        require(self.main in promptless, "maps.main", self.main, allowed)
        fewest = min(units_of(name, self.evaluations, len(levels)) for name in self.names for levels in self.levels)
        allowed = "must allow two directions or probes at each of maps.levels"
        require(fewest >= 2, "maps.evaluations", self.evaluations, allowed)
        return self


class Config(RunConfig):
    """The config of this experiment."""

    planting: TemplatePlanting
    maps: Mapping
    networks: dict[str, dict[str, Any]] = Field(description="sizes of the networks, by their class")

    @model_validator(mode="after")
    def _can_be_trained(self) -> "Config":
        allowed = "must be images, such as fashion_mnist, which the seed completes (_partial_: true)"
        require(self.data.is_partial, "data", self.data.spec["_target_"], allowed)
        known = self.model.spec.get("n_conditions")
        require(known is None, "model.n_conditions", known, "must be null: the experiment counts the captions")
        schedule = self.diffusion.make()
        for levels in self.maps.levels:
            reached = len(times_of(schedule, levels)) == len(levels)
            require(reached, "maps.levels", levels, "must be noise levels that the schedule reaches, none twice")
        most = max(self.planting.doses)
        allowed = f"must be one of the doses at most, the highest is {most}"
        require(self.maps.choose_from <= most, "maps.choose_from", self.maps.choose_from, allowed)
        return self

    @property
    def network(self) -> str:
        """What metrics call it: the class in small letters."""
        return str(self.model.spec["_target_"]).rpartition(".")[2].lower()


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Plant, train both networks, choose on the validation half, find regions and templates in the test half."""
    planted = planted_templates(config, report=report)
    for role in ("template", "copy", "pasted", "single"):
        report.metric(f"data/{role}", int(planted.copies[planted.role == role].sum()))
    points, copies, captions = planted.distinct
    report.metric("data/training_rows", int(copies.sum()))
    how = {"report": report, "cache": cache, "tracker": tracker}
    network = trained(config, points, name="local", copies=copies, conditions=captions, **how)
    rest = planted.is_rest
    control = trained(config, planted.points[rest], name="local_control", conditions=planted.captions[rest], **how)
    visits = config.train.make().n_steps * config.train.make().batch_size / copies.sum()
    report.metric("data/visits_of_a_row", visits)
    study = LocalStudy(
        planted,
        network,
        control,
        levels=tuple(tuple(levels) for levels in config.maps.levels),
        smoothing=tuple(config.maps.smoothing),
        evaluations=config.maps.evaluations,
        seed=config.seed,
        report=report,
        cache=cache,
    )
    finding.run(study, config.network, config.maps.names, config.maps.main, config.maps.choose_from)
    detecting.run(study, config.network, config.maps.main, config.maps.choose_from)
