"""Images that stand in a training set a known number of times."""

from pydantic import Field, model_validator

from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section
from plap_jax.data import ImageData, Planted, plant
from plap_jax.typing import require


class Planting(Section):
    """Which images stand in the training set how often."""

    copies: list[int] = Field(min_length=1, description="the headline is about the most")
    images: list[int] = Field(min_length=1, description="how many images get that many copies")
    n_single: int | None = Field(description="images that stand once; null: all that are left")

    @model_validator(mode="after")
    def _fits(self) -> "Planting":
        allowed = f"must be as long as planting.copies, {len(self.copies)}"
        require(len(self.images) == len(self.copies), "planting.images", self.images, allowed)
        require(len(set(self.copies)) == len(self.copies), "planting.copies", self.copies, "must not repeat a number")
        require(min(self.copies) >= 2, "planting.copies", self.copies, "must be >= 2; single images are n_single")
        require(min(self.images) >= 4, "planting.images", self.images, "must be >= 4, two for each half")
        return self


def planted_images(config: RunConfig, *, report: Report) -> tuple[ImageData, Planted]:
    """The images of ``config.data``, and these planted as ``config.planting`` says."""
    with report.stage("data"):
        data: ImageData = config.data.make(seed=config.seed)
        part = config.planting
        doses = dict(zip(part.copies, part.images, strict=True))
        images = plant(data.train, doses=doses, n_single=part.n_single, heldout=data.heldout)
    report.fingerprint("images", images.points, images.copies)
    return data, images
