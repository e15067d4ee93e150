"""LoRAs, added to the weights of a pipeline by the loaders of diffusers and peft."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.loaders import lora_base
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from plap_jax.pretrained.lora import PEFT, Lora
from plap_jax.pretrained.pytorch.loading import line, quiet
from plap_jax.pretrained.weights import header, remarks

_CONFIG = "lora_adapter_metadata"  # in the remarks of a file: peft's config, with alpha
_OF_PEFT = "base_model.model."  # before the names of weights that peft saves


def add_loras(pipe: Any, network: torch.nn.Module, loras: Sequence[Lora]) -> None:
    """Add what LoRAs say to the weights, W + scale · (alpha/rank) · B A, in place; nothing of them is left beside.

    Args:
        pipe: a pipeline of diffusers with the modules, or None where the kind has none that loads LoRAs.
        network: the module that is trained; LoRAs that peft saved are of it alone.
        loras: several add up.

    Raises:
        ValueError: a LoRA that matches nothing, or was made for another base.
    """
    for number, lora in enumerate(loras):
        name, what = f"lora_{number}", f"lora {lora.path.name}"
        of_peft = (lora.path.parent / PEFT).is_file()
        if not of_peft and _CONFIG in remarks(lora.path, what) and not hasattr(lora_base, "LORA_ADAPTER_METADATA_KEY"):
            # It would take alpha = rank in silence.
            raise ValueError(
                f"{what}: says its alpha in a way that this version of diffusers does not read; upgrade it"
            )
        try:
            with quiet():
                if of_peft:
                    modules = [network]
                    _load_of_peft(network, lora, name)
                elif hasattr(pipe, "load_lora_weights"):
                    modules = [module for module in pipe.components.values() if isinstance(module, torch.nn.Module)]
                    how = {"weight_name": lora.path.name, "local_files_only": True, "use_safetensors": True}
                    pipe.load_lora_weights(str(lora.path.parent), adapter_name=name, **how)
                else:
                    raise ValueError(f"this kind of pipeline takes LoRAs that peft saved, with {PEFT} beside them")
        except Exception as error:  # of diffusers and peft: names, shapes, formats
            raise ValueError(f"{what}: does not fit this model: {line(error)}") from error
        _check_all_taken(what, lora, name, modules)
        _merge(name, lora.scale, modules)


def _load_of_peft(network: torch.nn.Module, lora: Lora, name: str) -> None:
    config = PeftConfig.from_pretrained(str(lora.path.parent))
    inject_adapter_in_model(config, network, adapter_name=name)
    weights = {key.removeprefix(_OF_PEFT): weight for key, weight in load_file(lora.path).items()}
    set_peft_model_state_dict(network, weights, name)


def _check_all_taken(what: str, lora: Lora, name: str, modules: Sequence[torch.nn.Module]) -> None:
    """The loaders leave out in silence what fits nothing."""
    of_file = sum(math.prod(e["shape"]) for key, e in header(lora.path, what).items() if not key.endswith("alpha"))
    taken = sum(
        weight.numel() for module in modules for key, weight in module.named_parameters() if f".{name}." in f"{key}."
    )
    if taken == 0:
        raise ValueError(f"{what}: matches nothing in this model; it was made for another base")
    if taken < of_file:
        told = f"only {taken:,} of its {of_file:,} numbers match this model"
        raise ValueError(f"{what}: {told}; it was made for another base")


def _merge(name: str, scale: float, modules: Sequence[torch.nn.Module]) -> None:
    """Into the weights, so that the network is one of its base's architecture, as fast as that."""
    for module in modules:
        layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
        for layer in layers:
            layer.set_scale(name, scale)
            layer.merge(safe_merge=True, adapter_names=[name])
        if layers:
            recurse_remove_peft_layers(module)
            module.requires_grad_(False)
            for attribute in ("peft_config", "_hf_peft_config_loaded"):
                vars(module).pop(attribute, None)  # the class may have a default of its own
