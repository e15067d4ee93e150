"""Which of these images did my model memorize, and how sure are you? ``python -m experiments.run +exp=audit``.

docs/audit.md is the page for users.
"""

from typing import Annotated

from pydantic import Field, model_validator

from experiments.audit.audit import audit
from experiments.audit.generated import Generation
from experiments.audit.models import load
from experiments.audit.settings import Settings
from experiments.cache import Cache
from experiments.report import Report
from experiments.schema import BaseConfig
from experiments.tracker import Tracker
from plap_jax.data.decoding import Resize
from plap_jax.typing import require

__all__ = ["Config", "run"]


class Config(BaseConfig, Settings):
    """The config of this experiment."""

    images: str | None = Field(description="a folder, an .npz or an .npy")
    generate: Annotated[int, Field(ge=2)] | None = Field(description="instead: so many images of the model's own")
    prompts: str | int | None = Field(description="one for all, or a CSV of file,prompt")
    reference: str | None = Field(description="images known not to be in the training data, or: generated")
    reference_prompts: str | int | None
    training: str | None = Field(description="the training images, where they are at hand")
    resize: Resize
    crop: Annotated[int, Field(ge=1)] | None
    generation: Generation

    @model_validator(mode="after")
    def _has_images(self) -> "Config":
        one = (self.images is None) != (self.generate is None)
        require(one, "images", self.images, "must be a folder, an .npz or an .npy; or give generate=n, but not both")
        by_file = self.prompts is None or not str(self.prompts).lower().endswith(".csv")
        require(self.generate is None or by_file, "prompts", self.prompts, "must be one for all with generate=n")
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Score, judge, report."""
    with report.stage("model"):
        subject = load(config.model)
    audit(config, subject, report=report, cache=cache)
