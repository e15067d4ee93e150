"""Tiny pipelines of all other kinds with random weights, by diffusers' own classes. Needs the extra."""

import tempfile

import diffusers
import tokenizers
import torch
import transformers
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

from tests.helpers import tiny_diffusers as tiny

__all__ = ["diffusers", "tiny"]
WIDTH = 32  # of T5


def stirred(module, seed):
    """Weights that are nowhere zero, so that every input matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(0.1 * noise)
    return module.eval()


def t5_tokenizer():
    """One token for a letter."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -1.0), *((letter, -2.0) for letter in tiny.LETTERS)]
    made = tokenizers.Tokenizer(Unigram(pieces, unk_id=2))
    made.pre_tokenizer = Metaspace()
    made.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    with tempfile.TemporaryDirectory() as folder:  # as for CLIP's
        made.save(f"{folder}/tokenizer.json")
        return transformers.T5TokenizerFast.from_pretrained(folder, extra_ids=0, model_max_length=512)


def t5():
    config = transformers.T5Config(
        vocab_size=4 + len(tiny.LETTERS), d_model=WIDTH, d_ff=24, d_kv=8, num_heads=2, num_layers=1, is_decoder=False
    )
    return transformers.T5EncoderModel(config)


def projecting_clip():
    """CLIP whose pooled text is projected."""
    plain = tiny.text_encoder().config.to_dict()
    return transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**plain | {"projection_dim": 16}))


def ddim(**changes):
    return DDIMScheduler(**dict(clip_sample=False, beta_start=0.00085, beta_end=0.012) | changes)


def stable_diffusion(**changes):
    parts = {
        "unet": stirred(tiny.latent_unet(), 0),
        "vae": tiny.vae().eval(),
        "text_encoder": tiny.text_encoder().eval(),
        "tokenizer": tiny.tokenizer(),
        "scheduler": ddim(steps_offset=1),
    }
    off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts | off | changes)


def dit():
    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    return DiTPipeline(stirred(network, 1), tiny.vae().eval(), ddim())


def sdxl(**changes):
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "cross_attention_dim": 32}
    unet = tiny.latent_unet(**sizes, projection_class_embeddings_input_dim=6 * 8 + 16)
    parts = {
        "unet": stirred(unet, 2),
        "vae": tiny.vae().eval(),
        "text_encoder": tiny.text_encoder().eval(),
        "text_encoder_2": projecting_clip().eval(),
        "tokenizer": tiny.tokenizer(),
        "tokenizer_2": tiny.tokenizer(),
        "scheduler": ddim(),
    }
    return StableDiffusionXLPipeline(**parts | changes, add_watermarker=False)


def sd3(*, with_t5=True):
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=stirred(network, 3),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny.vae(shift_factor=0.3, use_quant_conv=False, use_post_quant_conv=False).eval(),
        text_encoder=projecting_clip().eval(),
        text_encoder_2=projecting_clip().eval(),
        text_encoder_3=t5().eval() if with_t5 else None,
        tokenizer=tiny.tokenizer(),
        tokenizer_2=tiny.tokenizer(),
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def flux(*, guidance_embeds=True):
    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        transformer=stirred(network, 4),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny.vae(shift_factor=-0.2, use_quant_conv=False, use_post_quant_conv=False).eval(),
        text_encoder=tiny.text_encoder().eval(),
        text_encoder_2=t5().eval(),
        tokenizer=tiny.tokenizer(),
        tokenizer_2=t5_tokenizer(),
    )


def pixart(kind=PixArtSigmaPipeline, **changes):
    config = dict(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    network = PixArtTransformer2DModel(**config | changes)
    parts = {"tokenizer": t5_tokenizer(), "text_encoder": t5().eval(), "vae": tiny.vae().eval()}
    return kind(**parts, transformer=stirred(network, 5), scheduler=ddim())
