"""Images that share a region, planted as a config says."""

from typing import Annotated

from pydantic import Field, model_validator

from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section
from plap_jax.data import ImageData, PlantedTemplates, plant_templates
from plap_jax.data.regions import Kind
from plap_jax.typing import require


class TemplatePlanting(Section):
    """How many images share a region, and what stands beside them."""

    doses: list[Annotated[int, Field(ge=2)]] = Field(min_length=1, description="training images that share a region")
    regions: list[Annotated[int, Field(ge=2)]] = Field(min_length=1, description="how many regions each dose has")
    kinds: list[Kind] = Field(min_length=1, description="kinds of shared regions")
    least_detail: float = Field(ge=0, lt=1, description="share of a region's pixels that differ from a neighbour")
    copies: int = Field(ge=2, description="of images that are planted whole")
    n_copied: int = Field(ge=4, description="images that are planted whole")
    n_pasted: int = Field(ge=0, description="training images with a region of their own")
    n_single: int = Field(ge=2, description="training images as they are")
    n_fresh: int = Field(ge=1, description="unseen images with each region, also with each that training never saw")
    n_plain: int = Field(ge=4, description="held-out images as they are")

    @model_validator(mode="after")
    def _fits(self) -> "TemplatePlanting":
        allowed = f"must be as long as planting.doses, {len(self.doses)}"
        require(len(self.regions) == len(self.doses), "planting.regions", self.regions, allowed)
        require(len(set(self.doses)) == len(self.doses), "planting.doses", self.doses, "must not repeat a number")
        require(len(set(self.kinds)) == len(self.kinds), "planting.kinds", self.kinds, "must not repeat a kind")
        fewest = 2 * len(self.kinds)
        allowed = f"must be >= {fewest} each: every kind in both halves"
        require(min(self.regions) >= fewest, "planting.regions", self.regions, allowed)
        return self


def make_templates(config: RunConfig) -> tuple[ImageData, PlantedTemplates]:
    """The images of ``config.data``, and these planted as ``config.planting`` says, by ``config.seed``."""
    data: ImageData = config.data.make(seed=config.seed)
    part: TemplatePlanting = config.planting
    planted = plant_templates(
        data.train,
        data.heldout,
        doses=dict(zip(part.doses, part.regions, strict=True)),
        copies={part.copies: part.n_copied},
        n_pasted=part.n_pasted,
        n_single=part.n_single,
        n_fresh=part.n_fresh,
        n_plain=part.n_plain,
        seed=config.seed,
        kinds=part.kinds,
        least_detail=part.least_detail,
        train_classes=data.train_labels,
        heldout_classes=data.heldout_labels,
    )
    return data, planted


def planted_templates(config: RunConfig, *, report: Report) -> PlantedTemplates:
    """``make_templates`` as a stage of a run, its fingerprint noted."""
    with report.stage("data"):
        _, planted = make_templates(config)
    report.fingerprint("images", planted.points, planted.copies, planted.region, planted.captions, planted.masks)
    return planted
