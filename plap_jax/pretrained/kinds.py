"""Which diffusers pipelines can be loaded, and what each is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["pixels", "latents"]
Told = Literal["nothing", "classes", "texts"]
CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


@dataclass(frozen=True)
class Pipeline:
    """What a kind of pipeline is made of.

    Attributes:
        kind: "pixels", or "latents" of a VAE.
        network: the piece that is trained to predict, "unet" or "transformer".
        models: piece → classes it may be of, the network among them.
        tokenizers: likewise.
        optional: pieces that may be absent.
        told: what a condition is.
    """

    kind: Kind
    network: str
    models: Mapping[str, tuple[str, ...]]
    tokenizers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    told: Told = "nothing"


PIXELS = Pipeline("pixels", "unet", {"unet": ("UNet2DModel",)})
STABLE_DIFFUSION = Pipeline(
    "latents",
    "unet",
    {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",), "text_encoder": ("CLIPTextModel",)},
    {"tokenizer": CLIP_TOKENIZERS},
    told="texts",
)
PIPELINES: dict[str, Pipeline] = {
    "DDIMPipeline": PIXELS,
    "DDPMPipeline": PIXELS,
    "PNDMPipeline": PIXELS,
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
}
# A network alone, without the rest of a pipeline: which pipeline it belongs to, where nothing else is needed.
ALONE = {"UNet2DModel": "DDPMPipeline"}
