"""Which diffusers pipelines can be loaded, and what each is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["pixels", "latents"]
Told = Literal["nothing", "classes", "texts"]
CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast")


@dataclass(frozen=True)
class Pipeline:
    """What a kind of pipeline is made of.

    Attributes:
        kind: "pixels", or "latents" of a VAE.
        network: the piece that is trained to predict, "unet" or "transformer".
        method: what is asked of it, of ``pytorch.methods``.
        models: piece → classes it may be of, the network among them.
        tokenizers: likewise.
        optional: pieces that may be absent.
        told: what a condition is.
        texts: the class of diffusers whose ``encode_prompt`` reads texts.
        settings: entries of ``model_index.json`` that matter.
    """

    kind: Kind
    network: str
    method: str
    models: Mapping[str, tuple[str, ...]]
    tokenizers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    told: Told = "nothing"
    texts: str = ""
    settings: tuple[str, ...] = ()


_VAE = {"vae": ("AutoencoderKL",)}
PIXELS = Pipeline("pixels", "unet", "noise", {"unet": ("UNet2DModel",)})
STABLE_DIFFUSION = Pipeline(
    "latents",
    "unet",
    "noise_given_text",
    {"unet": ("UNet2DConditionModel",), **_VAE, "text_encoder": ("CLIPTextModel",)},
    {"tokenizer": CLIP_TOKENIZERS},
    told="texts",
    texts="StableDiffusionPipeline",
)
DIT = Pipeline(
    "latents",
    "transformer",
    "noise_of_class",
    {"transformer": ("DiTTransformer2DModel", "Transformer2DModel"), **_VAE},
    told="classes",
)
SDXL = Pipeline(
    "latents",
    "unet",
    "noise_given_text_and_size",
    {
        "unet": ("UNet2DConditionModel",),
        **_VAE,
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
    },
    {"tokenizer": CLIP_TOKENIZERS, "tokenizer_2": CLIP_TOKENIZERS},
    told="texts",
    texts="StableDiffusionXLPipeline",
    settings=("force_zeros_for_empty_prompt",),
)
SD3 = Pipeline(
    "latents",
    "transformer",
    "flow_given_text",
    {
        "transformer": ("SD3Transformer2DModel",),
        **_VAE,
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
    },
    {"tokenizer": CLIP_TOKENIZERS, "tokenizer_2": CLIP_TOKENIZERS, "tokenizer_3": T5_TOKENIZERS},
    optional=frozenset({"text_encoder_3", "tokenizer_3"}),
    told="texts",
    texts="StableDiffusion3Pipeline",
)
FLUX = Pipeline(
    "latents",
    "transformer",
    "flow_of_packed",
    {
        "transformer": ("FluxTransformer2DModel",),
        **_VAE,
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
    },
    {"tokenizer": CLIP_TOKENIZERS, "tokenizer_2": T5_TOKENIZERS},
    told="texts",
    texts="FluxPipeline",
)
PIXART_ALPHA, PIXART_SIGMA = (
    Pipeline(
        "latents",
        "transformer",
        "noise_given_masked_text",
        {
            "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
            **_VAE,
            "text_encoder": ("T5EncoderModel",),
        },
        {"tokenizer": T5_TOKENIZERS},
        told="texts",
        texts=name,
    )
    for name in ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
)
PIPELINES: dict[str, Pipeline] = {
    "DDIMPipeline": PIXELS,
    "DDPMPipeline": PIXELS,
    "PNDMPipeline": PIXELS,
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
    "DiTPipeline": DIT,
    "StableDiffusionXLPipeline": SDXL,
    "StableDiffusionXLImg2ImgPipeline": SDXL,
    "StableDiffusion3Pipeline": SD3,
    "FluxPipeline": FLUX,
    "PixArtAlphaPipeline": PIXART_ALPHA,
    "PixArtSigmaPipeline": PIXART_SIGMA,
}
# A network alone, without the rest of a pipeline: which pipeline it belongs to, where nothing else is needed.
ALONE = {"UNet2DModel": "DDPMPipeline"}
