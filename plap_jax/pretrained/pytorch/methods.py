"""What is asked of a module, as functions of tensors with a batch axis, channels first: diffusers' conventions.

In the order x, level, conditions; all outputs are batches of images or latents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import FluxPipeline

Tensor = torch.Tensor


def noise(unet: torch.nn.Module, x: Tensor, level: Tensor) -> Tensor:
    """``UNet2DModel``."""
    return unet(x, level, return_dict=False)[0]


def noise_of_class(network: torch.nn.Module, x: Tensor, level: Tensor, number: Tensor) -> Tensor:
    """``UNet2DModel`` of classes, and DiT; numbers ``(n, 1)``."""
    told = {"class_labels": number[:, 0]}
    return network(x, timestep=level, **told, return_dict=False)[0]


def noise_given_text(unet: torch.nn.Module, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
    """``UNet2DConditionModel``."""
    return unet(x, level, encoder_hidden_states=text, return_dict=False)[0]


def noise_given_text_and_size(
    unet: torch.nn.Module, x: Tensor, level: Tensor, text: Tensor, pooled: Tensor, sizes: Tensor
) -> Tensor:
    """``UNet2DConditionModel`` of SDXL; sizes: height and width before a crop, the crop's corner, height and width."""
    added = {"text_embeds": pooled, "time_ids": sizes}
    return unet(x, level, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]


def flow_given_text(transformer: torch.nn.Module, x: Tensor, level: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    """``SD3Transformer2DModel``."""
    told = {"encoder_hidden_states": text, "pooled_projections": pooled}
    return transformer(hidden_states=x, timestep=level, **told, return_dict=False)[0]


def flow_of_packed(
    transformer: torch.nn.Module, x: Tensor, level: Tensor, text: Tensor, pooled: Tensor, guidance: Tensor
) -> Tensor:
    """``FluxTransformer2DModel``: 2×2 latents are one token, which is told where it lies; guidance ``(n, 1)``.

    The transformer multiplies level and guidance by 1,000 itself.
    """
    n, channels, height, width = x.shape
    packed = FluxPipeline._pack_latents(x.contiguous(), n, channels, height, width)
    places = torch.cartesian_prod(torch.arange(height // 2), torch.arange(width // 2))
    image_ids = torch.nn.functional.pad(places, (1, 0)).to(x)  # 0, row, column
    text_ids = torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype)
    if FluxPipeline._prepare_latent_image_ids(n, 2, 2, x.device, x.dtype).ndim == 3:  # diffusers 0.30: of each point
        image_ids, text_ids = (ids.expand(n, *ids.shape) for ids in (image_ids, text_ids))
    found = transformer(
        hidden_states=packed,
        timestep=level,
        guidance=guidance[:, 0] if transformer.config.guidance_embeds else None,
        pooled_projections=pooled,
        encoder_hidden_states=text,
        txt_ids=text_ids,
        img_ids=image_ids,
        return_dict=False,
    )[0]
    found = found.unflatten(1, (height // 2, width // 2)).unflatten(3, (channels, 2, 2))
    return found.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)  # of versions that count pixels, latents or halves alike


def noise_given_masked_text(
    transformer: torch.nn.Module, x: Tensor, level: Tensor, text: Tensor, mask: Tensor, size: Tensor
) -> Tensor:
    """``PixArtTransformer2DModel``: tokens of padding are masked; size is (height, width), where it is asked for."""
    added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if transformer.use_additional_conditions:
        added = {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}
    told = {"encoder_hidden_states": text, "encoder_attention_mask": mask, "added_cond_kwargs": added}
    return transformer(x, timestep=level, **told, return_dict=False)[0]


def mean_latent(vae: torch.nn.Module, image: Tensor) -> Tensor:
    """The mean of the posterior: no hidden randomness."""
    return vae.encode(image, return_dict=False)[0].mean


def image(vae: torch.nn.Module, latent: Tensor) -> Tensor:
    """The decoder."""
    return vae.decode(latent, return_dict=False)[0]


# Name of a method → what it computes, and which weights it reads (by the beginning of their names; all where empty).
METHODS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    function.__name__: (function, reads)
    for function, reads in (
        (noise, ()),
        (noise_of_class, ()),
        (noise_given_text, ()),
        (noise_given_text_and_size, ()),
        (flow_given_text, ()),
        (flow_of_packed, ()),
        (noise_given_masked_text, ()),
        (mean_latent, ("encoder.", "quant_conv.")),
        (image, ("decoder.", "post_quant_conv.")),
    )
}
