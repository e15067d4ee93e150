"""A caption-conditioned network and its images: what the experiments on prompts build on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section, Target
from experiments.core.tracker import Tracker
from experiments.shared.generation import Labels, check_sampler, generate
from experiments.shared.networks import Trained, trained
from plap_jax.data import Captions, ImageData, Planted, caption, plant
from plap_jax.data.captions import KINDS, Kind
from plap_jax.labels import Copies
from plap_jax.typing import require


class CaptionedPlanting(Section):
    """How many images stand behind a caption of their own, how often, and how many share captions."""

    copies: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, description="how often planted images occur")
    images: list[Annotated[int, Field(ge=4)]] = Field(min_length=1, description="images with that many copies each")
    n_grouped: int = Field(ge=0, description="images that share captions in groups")
    group_size: int = Field(ge=2, description="images that share a caption")
    n_class: int = Field(ge=0, description="images whose caption is their class")

    @model_validator(mode="after")
    def _fits(self) -> "CaptionedPlanting":
        allowed = f"must be as long as planting.copies, {len(self.copies)}"
        require(len(self.images) == len(self.copies), "planting.images", self.images, allowed)
        require(len(set(self.copies)) == len(self.copies), "planting.copies", self.copies, "must not repeat a number")
        require(max(self.copies) >= 2, "planting.copies", self.copies, "must hold a number >= 2")
        shared = self.n_grouped + self.n_class
        require(shared >= 2, "planting.n_grouped", self.n_grouped, "must leave two images with a shared caption")
        return self

    @property
    def doses(self) -> dict[int, int]:
        """Copies → images, of those that stand more than once."""
        return {copies: n for copies, n in zip(self.copies, self.images, strict=True) if copies > 1}

    @property
    def n_unique_single(self) -> int:
        """Images that stand once, with a caption of their own."""
        return dict(zip(self.copies, self.images, strict=True)).get(1, 0)


class CaptionedSamples(Section):
    """Which images are generated, and how."""

    guidance: list[Annotated[float, Field(ge=0)]] = Field(min_length=1, description="1: the network as it was trained")
    per_caption: dict[Kind, Annotated[int, Field(ge=1)]] = Field(description="images for each caption, by its kind")
    sampler: Target = Field(description="of generated images")

    @model_validator(mode="after")
    def _distinct(self) -> "CaptionedSamples":
        values = self.guidance
        names = {f"{value:g}" for value in values}  # as in the names of metrics
        require(len(names) == len(values), "samples.guidance", values, "must not repeat a value")
        kinds = sorted(self.per_caption)
        require(kinds == sorted(KINDS), "samples.per_caption", kinds, f"must hold {', '.join(KINDS)}")
        return self


class CaptionedConfig(RunConfig):
    """What the configs of these experiments share."""

    planting: CaptionedPlanting
    samples: CaptionedSamples
    labels: Labels

    @model_validator(mode="after")
    def _can_be_trained(self) -> "CaptionedConfig":
        allowed = "must be images, such as digits, which the seed completes (_partial_: true)"
        require(self.data.is_partial, "data", self.data.spec["_target_"], allowed)
        known = self.model.spec.get("n_conditions")
        require(known is None, "model.n_conditions", known, "must be null: the experiment counts the captions")
        check_sampler(self.samples.sampler, self.diffusion.make())
        return self


@dataclass(frozen=True)
class CaptionedStudy:
    """Images, their captions, the network trained on both, and a control that has seen no planted image."""

    images: Planted
    captions: Captions
    network: Trained
    control: Trained | None = None

    @property
    def baseline(self) -> Trained:
        """The control, where ``prepare`` was asked for one.

        Raises:
            ValueError: it was not.
        """
        if self.control is None:
            raise ValueError("control: none was trained")
        return self.control

    def prompts(self, per_caption: dict[Kind, int]) -> np.ndarray:
        """Every caption as often as images are generated for its kind: ``(n,)`` int32."""
        times = [per_caption[kind] for kind in self.captions.kind.tolist()]
        return np.repeat(np.arange(len(times), dtype=np.int32), times)

    @cached_property
    def reference(self) -> np.ndarray:
        """The images that training has seen, each once."""
        return self.images.points[self.images.copies > 0]

    @cached_property
    def nonmembers(self) -> np.ndarray:
        """The images of the validation half that training has not seen."""
        return self.images.points[self.images.is_heldout & self.images.validation]


@dataclass(frozen=True)
class CaptionedImages:
    """Images of one guidance scale, ``(n, *shape)``, and what is known about them.

    Attributes:
        images, noise: ``(n, *shape)``, and the points at t_max they come from.
        prompts: ``(n,)``, the captions they were generated for.
        guidance: g.
        copies: what they are copies of.
    """

    images: np.ndarray
    noise: np.ndarray
    prompts: np.ndarray
    guidance: float
    copies: Copies


def prepare(
    config: CaptionedConfig, *, report: Report, cache: Cache, tracker: Tracker, with_control: bool = False
) -> CaptionedStudy:
    """Loads, plants and captions the images, trains the network with captions withheld as ``config.train`` says.

    With a control: a second network trained in the same way on the single images and their captions alone.
    """
    with report.stage("data"):
        data: ImageData = config.data.make(seed=config.seed)
        part = config.planting
        n_single = part.n_unique_single + part.n_grouped + part.n_class
        images = plant(data.train, doses=part.doses, n_single=n_single, heldout=data.heldout)
        captions = caption(
            images,
            n_unique=part.n_unique_single,
            n_grouped=part.n_grouped,
            group_size=part.group_size,
            classes=_classes(data, images),
        )
    report.fingerprint("images", images.points, images.copies, captions.of_point)
    points, copies = images.distinct
    conditions = captions.of_point[images.copies > 0]
    how = {"report": report, "cache": cache, "tracker": tracker}
    network = trained(config, points, name="captioned", copies=copies, conditions=conditions, **how)
    control = None
    if with_control:
        single = captions.of_point[images.is_single]
        control = trained(config, images.control, name="captioned_control", conditions=single, **how)
    for kind in KINDS:
        report.metric(f"data/captions_{kind}", len(captions.of_kind(kind)))
    report.metric("data/training_images", len(captions.of_point[captions.of_point >= 0]))
    report.metric("data/training_rows", int(copies.sum()))
    return CaptionedStudy(images, captions, network, control)


def generated(
    config: CaptionedConfig, study: CaptionedStudy, guidance: float, *, report: Report, cache: Cache
) -> CaptionedImages:
    """The images of every caption at one guidance scale, from noise that all scales share, labelled."""
    prompts = study.prompts(config.samples.per_caption)
    made = generate(
        study.network,
        len(prompts),
        shape=study.images.points.shape[1:],
        sampler=config.samples.sampler,
        seed=config.seed,
        name=f"captioned/g{guidance:g}",
        noise="captioned",
        conditions=prompts,
        guidance=guidance,
        report=report,
        cache=cache,
    )
    with report.stage("label"):
        copies = config.labels.find(made["images"], study.reference)
    return CaptionedImages(made["images"], made["noise"], prompts, guidance, copies)


def _classes(data: ImageData, images: Planted) -> np.ndarray:
    """The class of every image; all the same where the data have none."""
    if data.train_labels is None:
        return np.zeros(len(images.points), int)
    n_train = int((images.copies > 0).sum())
    return np.concatenate([data.train_labels[:n_train], data.heldout_labels])
