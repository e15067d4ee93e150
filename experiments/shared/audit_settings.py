"""How an audit scores and judges: keys that every experiment that audits has."""

from typing import Annotated

from pydantic import BaseModel, Field, field_validator, model_validator

from experiments.core.schema import STRICT, Flux, Target, checked_as
from experiments.shared.generation import Labels
from experiments.shared.methods import Method
from experiments.shared.own_images import Generation
from plap_jax.audit.settings import N_MAP, AuditSettings, PixelRange, Score
from plap_jax.audit.sharing import MOST
from plap_jax.data.decoding import Resize
from plap_jax.detectors import Detector
from plap_jax.directions import MIN_UNITS, unit_size
from plap_jax.evidence import N_DIRECTIONS
from plap_jax.typing import require


class Settings(BaseModel):
    """Keys of scoring and judging, beside ``flux``, which says how many directions make a round, and which."""

    model_config = STRICT

    flux: Flux
    score: Score | None = Field(description="what images are ranked by; null: what there is most of to go by")
    sigma: Annotated[float, Field(gt=0)] | None = Field(description="noise level of a plain score; null: calibrated")
    noise_levels: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1, description="of the calibrated score")
    n_directions: int = Field(ge=N_DIRECTIONS, description="at each of the noise levels")
    duplicate_distance: float = Field(ge=0, description="root mean square up to which two images are near-duplicates")
    target_stderr: float = Field(
        gt=0, description="with sigma, directions are added until the standard error is as small"
    )
    max_samples: int = Field(ge=1, description="but no more than so many for an image")
    detector: dict[str, Method] | None = Field(None, description="detector=NAME of conf/detector, instead of κ₁")
    repeats: int = Field(ge=2, description="of a detector with other randomness, for its standard error")
    fdr: float = Field(gt=0, lt=1, description="share of false discoveries among the flagged, on average")
    labels: Labels
    chunk: int = Field(ge=1, description="images that are kept, and on record, at a time")
    evaluations: Annotated[int, Field(ge=1)] | None = Field(description="of the network at a time; null: by its size")
    on_sheet: int = Field(ge=1, description="images on the contact sheet")
    on_page: int = Field(ge=1, description="images in report.html")

    @field_validator("detector")
    @classmethod
    def _one(cls, detector: dict[str, Method] | None) -> dict[str, Method] | None:
        if detector is not None and len(detector) != 1:
            raise ValueError("must be one detector of conf/detector")
        return detector

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        flux = self.flux
        require(flux.p == 1, "flux.p", flux.p, "must be 1 here; other orders are detectors, as detector=flux_p2")
        require(flux.radius is None, "flux.radius", flux.radius, "must be null here: the noise shell σ√d")
        size = checked_as("flux.n_samples", flux.n_samples, unit_size, flux.directions, flux.n_samples, 2**30)
        allowed = f"must hold at least {MIN_UNITS} independent units, {MIN_UNITS * size} directions here"
        require(flux.n_samples >= MIN_UNITS * size, "flux.n_samples", flux.n_samples, allowed)
        allowed = f"must be at least flux.n_samples={flux.n_samples}"
        require(self.max_samples >= flux.n_samples, "max_samples", self.max_samples, allowed)
        fits = (self.score == "detector") <= (self.detector is not None)
        require(fits, "score", self.score, "needs a detector=NAME of conf/detector")
        levels = self.noise_levels
        require(len(set(levels)) == len(levels), "noise_levels", levels, "must not hold a level twice")
        for name, method in (self.detector or {}).items():
            known = self.sigma is not None or len(method.grid.get("sigma", [0])) == 1
            require(known, "sigma", None, f"must be given: detector={name} looks at one noise level")
        return self

    def of_audit(self, **more: object) -> AuditSettings:
        """The same for the library; ``more`` are fields that only some configs have."""
        flux = {"n_samples": self.flux.n_samples, "directions": self.flux.directions}
        alike = ("score", "n_directions", "duplicate_distance", "target_stderr", "max_samples", "repeats", "chunk")
        limits = {"max_ratio": self.labels.max_ratio, "max_distance": self.labels.max_distance}
        common = {name: getattr(self, name) for name in (*alike, "evaluations")}
        return AuditSettings(noise_levels=tuple(self.noise_levels), **common, **flux, **limits, **more)

    def made_detector(self) -> Detector | None:
        """The detector, with the only value of every parameter; the audit sets its noise level.

        Raises:
            ValueError: it needs the training data, or a parameter has several values.
        """
        if self.detector is None:
            return None
        ((name, method),) = self.detector.items()
        for parameter, values in method.grid.items():
            several = parameter != "sigma" and len(values) > 1
            allowed = "must hold one value here: an audit tunes nothing"
            require(not several, f"detector.{name}.grid.{parameter}", values, allowed)
        needs = method.kind.needs & {"training data", "noise"}
        require(not needs, "detector", name, f"needs {', '.join(sorted(needs))}, which an audit does not have here")
        return method.make({parameter: values[0] for parameter, values in method.grid.items()}, None)


class Request(Settings):
    """What is asked of an audit: which images, with which prompts, against which others."""

    images: str | None = Field(description="a folder, an .npz or an .npy")
    generate: Annotated[int, Field(ge=2)] | None = Field(description="instead: so many images of the model's own")
    prompts: str | int | None = Field(description="one for all, or a CSV; with generate its prompts in turn")
    reference: str | None = Field(description="images known not to be in the training data, or: generated")
    reference_prompts: str | int | None = Field(description="those of the reference")
    training: str | None = Field(description="the training images, where they are at hand")
    baseline: Target | None = Field(None, description="a model of the same kind that has not seen the images")
    lora_base: bool = Field(True, description="of a model with LoRAs, the same without them is the baseline")
    resize: Resize = Field(description="larger images: cropped to the middle and downscaled, or refused")
    crop: Annotated[int, Field(ge=1)] | None
    pixel_range: PixelRange | None
    maps: int = Field(N_MAP, ge=0, description="directions of the curvature map of each flagged image; 0: none")
    generation: Generation
    shards: Annotated[int, Field(ge=1, le=MOST)] | None = Field(None, description="into how many parts images are cut")
    shard: Annotated[int, Field(ge=0)] | None = Field(None, description="which part, from 0; null: all are judged")
    out: str = Field("outputs/audit_shards", min_length=1, description="with shards: folder in which they leave parts")

    def of_request(self) -> AuditSettings:
        """The settings for the library."""
        own = ("resize", "crop", "pixel_range", "lora_base", "maps")
        return self.of_audit(**{name: getattr(self, name) for name in own})

    @model_validator(mode="after")
    def _is_a_shard(self) -> "Request":
        require(self.shard is None or self.shards is not None, "shards", None, "must be given with shard")
        inside = self.shard is None or self.shard < self.shards
        require(inside, "shard", self.shard, f"must lie in 0 ... {(self.shards or 0) - 1}, counted from 0")
        own = "generated" if self.reference == "generated" else None
        for name, value in (("generate", self.generate), ("reference", own)):
            require(self.shards is None or value is None, name, value, "cannot be cut into shards; give images")
        return self

    @model_validator(mode="after")
    def _has_images(self) -> "Request":
        one = (self.images is None) != (self.generate is None)
        require(self.maps == 0 or self.maps >= MIN_UNITS, "maps", self.maps, f"must be 0, or at least {MIN_UNITS}")
        require(one, "images", self.images, "must be a folder, an .npz or an .npy; or give generate=n, but not both")
        return self
