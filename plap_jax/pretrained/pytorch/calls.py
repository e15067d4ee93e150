"""Pieces of a pipeline as JAX functions that call PyTorch: values, no derivatives, no copy of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from plap_jax.pretrained.callback import Host, TorchCallback
from plap_jax.pretrained.folder import Model
from plap_jax.pretrained.pytorch.methods import METHODS


def as_functions(model: Model, module: torch.nn.Module, methods: Sequence[str], dtype: str) -> list[TorchCallback]:
    """Methods of a module as functions; as of ``plap_jax.pretrained.bridge``, but the module keeps its weights."""
    return [TorchCallback(Host.of(partial(METHODS[method][0], module), module)) for method in methods]
