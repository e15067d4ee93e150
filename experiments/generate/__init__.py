"""Images that are no copies: ``python -m experiments.run +exp=generate model=… mitigation=guard n=64 out=DIR``.

docs/mitigation.md is the page for users; the methods are ``plap_jax.mitigation``.
"""

import logging
from pathlib import Path
from typing import Annotated

from hydra.utils import to_absolute_path
from pydantic import Field, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import BaseConfig, Section, Target
from experiments.core.tracker import Tracker
from experiments.generate.folder import refuse_foreign, write_images
from experiments.generate.guarding import fitted_guard
from experiments.generate.making import Maker, prefixed, table_of
from experiments.shared.audited_models import load
from experiments.shared.generation import Labels
from plap_jax.mitigation import Guard, Mitigation
from plap_jax.typing import require

__all__ = ["Config", "run"]
log = logging.getLogger(__name__)
IMAGES = "images"


class Limits(Section):
    """Where the guard's band comes from, and what it watches."""

    file: str | None = Field(description="arrays/band.npz of an earlier run; null: fitted here")
    n: int = Field(ge=2, description="generations that it is fitted to, before copies are taken out")
    level: float = Field(gt=0, lt=1, description="share of generations that are no copies which each check may catch")
    release: float | None = Field(
        gt=0, lt=1, description="share of these that is above what a caught one must come below; null: 0.05, or level"
    )
    training: str | None = Field(description="training images, to leave copies out here and to count them in the end")
    prompts: str | int | None = Field(description="of these generations; null: those of the images")
    duplicate_distance: float = Field(ge=0, description="root mean square up to which two generations are one copy")
    n_checks: int | None = Field(ge=1, description="null: 3, or as many as there are steps for them")
    first: float = Field(gt=0, lt=1, description="where the first check is, as a share of the steps")
    sigma: float | None = Field(
        gt=0, lt=1, description="noise level of κ₁, of a variance-preserving schedule; null: 0.32, or 0.58 where given"
    )
    n_directions: int = Field(ge=2, description="of κ₁ at each check")
    given: bool | None = Field(description="κ₁ given the prompt; null: where the model knows no image without one")
    labels: Labels


class Config(BaseConfig):
    """The config of this experiment."""

    n: int = Field(ge=1, description="images to generate")
    out: str | None = Field(description="folder of the images; null: images in the directory of the run")
    prompts: str | int | None = Field(description="one for all, or a CSV whose prompts are taken in turn")
    guidance: float = Field(ge=0, description="with prompts; 1 is the model as it was trained")
    sampler: Target = Field(description="of the images")
    mitigation: Target = Field(description="how copies are avoided")
    band: Limits
    batch_size: int = Field(ge=1, description="images at a time, which bounds the memory")
    chunk: Annotated[int, Field(ge=1, description="images between two records of what is done")]

    @model_validator(mode="after")
    def _names_a_method(self) -> "Config":
        target = self.mitigation.spec["_target_"]
        allowed = "must be one of conf/mitigation: guard, late_guidance, none, …"
        require(target.startswith("plap_jax.mitigation."), "mitigation", target, allowed)
        return self


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Load, make the method, generate, write."""
    out = report.directory / IMAGES if config.out is None else Path(to_absolute_path(config.out))
    refuse_foreign(out)
    with report.stage("model"):
        subject = load("model", config.model)
    maker = Maker(config, subject, report, cache)
    method = _method(config, maker)
    if isinstance(method, Guard):
        report.arrays("band", **method.band.arrays())
    made = maker.make("images", config.n, method, config.prompts)
    with report.stage("report"):
        copied = maker.copies(made.arrays["images"])
        rows = table_of(made, copied)
        report.table("generated", rows)
        report.arrays("generated", **made.arrays)
        write_images(out, made.arrays["images"], rows)
        for name, value in made.metrics(copied).items():
            report.metric(f"generate/{name}", value)
    report.files("model", subject.sources)
    log.info("  %d images → %s", config.n, out)
    for line in made.lines(copied):
        log.info("  %s", line)


def _method(config: Config, maker: Maker) -> Mitigation:
    with prefixed("sampler"):
        sampler = config.sampler.make()
    kind = config.mitigation.spec["_target_"].rpartition(".")[2]
    if kind == "Guard":
        return fitted_guard(config, maker, sampler)
    with prefixed("mitigation"):
        method = config.mitigation.make(sampler)
    prompted = config.prompts is not None
    if not prompted and "prompt" in method.needs:
        allowed = "give prompts=…" if maker.subject.takes_prompts else "and this model takes none"
        require(False, "mitigation", kind, f"needs prompts, {allowed}")
    with prefixed("mitigation", only=False):
        method.check(maker.diffusion(config.prompts), prompted=prompted)
    return method
