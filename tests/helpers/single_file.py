"""A tiny Stable Diffusion as one file, by the names that its first authors' code gives the weights."""

import re

from safetensors.torch import load_file, save_file

__all__ = ["load_file", "save_file", "save_single"]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name):
    """Two levels of one layer each: input blocks 1, 2 (down) and 3; output blocks 0, 1 and 2, 3."""
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    middle = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name)
    if middle:
        place = f"middle_block.{1 if middle[1] == 'attentions' else 2 * int(middle[2])}"
        return f"{place}.{renamed(middle[3], RESNET) if middle[1] == 'resnets' else middle[3]}"
    side, level, part, number, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name).groups()
    level, number = int(level), int(number)
    if part == "downsamplers":
        return f"input_blocks.{2 * level + 2}.0.op.{rest.removeprefix('conv.')}"
    place = f"input_blocks.{1 + 2 * level}" if side == "down" else f"output_blocks.{2 * level + number}"
    if part == "upsamplers":
        return f"output_blocks.{2 * level + 1}.{2 if level == 0 else 1}.{rest}"
    return f"{place}.0.{renamed(rest, RESNET)}" if part == "resnets" else f"{place}.1.{rest}"


def vae_name(name):
    """Two levels of one layer each."""
    if name.startswith(("quant_conv", "post_quant_conv")):
        return name
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        head, rest = name.split("mid_block.attentions.0.")
        return f"{head}mid.attn_1.{renamed(rest, VAE_ATTENTION)}"
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    return re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", name)


def renamed(rest, names):
    ours = next(ours for ours in sorted(names, key=len, reverse=True) if rest.startswith(f"{ours}."))
    return names[ours] + rest.removeprefix(ours)


def save_single(pipe, file):
    """U-Net, VAE and text encoder of a pipeline."""
    weights = {}
    for name, weight in pipe.unet.state_dict().items():
        weights[f"model.diffusion_model.{unet_name(name)}"] = weight
    for name, weight in pipe.vae.state_dict().items():
        theirs = vae_name(name)
        attention = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", theirs)
        weights[f"first_stage_model.{theirs}"] = weight[..., None, None] if attention else weight
    for name, weight in pipe.text_encoder.state_dict().items():
        inside = name.removeprefix("text_model.")
        weights[f"cond_stage_model.transformer.text_model.{inside}"] = weight
    save_file({name: weight.contiguous() for name, weight in weights.items()}, file)
