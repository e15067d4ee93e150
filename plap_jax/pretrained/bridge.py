"""PyTorch modules as JAX functions of their weights. Imports PyTorch, so it is loaded with the first folder only."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torchax

from plap_jax.pretrained.folder import Model
from plap_jax.pretrained.pytorch.methods import METHODS
from plap_jax.typing import Array

# Tracing swaps the module's weights for traced ones, and torchax keeps global state.
_TRACING = threading.RLock()


class _Forward(torch.nn.Module):
    """A module whose ``forward`` is any of its methods: what ``torch.func.functional_call`` can call."""

    def __init__(self, module: torch.nn.Module, method: str | Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self.function = METHODS[method][0] if isinstance(method, str) else method

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self.module, *inputs)


@dataclass(frozen=True)
class Skeleton:
    """A module without weights and one of its methods: the static part of ``TorchModule``.

    Equal if class, config and method are, so two folders with the same architecture share compilations.
    """

    class_name: str
    config: Any  # a text, or the module itself: then equal to no other
    method: str | Callable[..., torch.Tensor]
    dtype: str
    module: torch.nn.Module = field(compare=False, repr=False)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TorchModule:
    """A PyTorch module as a pytree: y = f(weights, inputs), under ``jit``, ``vmap``, ``jvp`` and ``grad``.

    PyTorch code runs once per input signature, at tracing; the compiled function does not call it.

    Args:
        weights: name → array.
        skeleton: the module.
    """

    weights: dict[str, Array]
    skeleton: Skeleton = field(metadata={"static": True})

    def __call__(self, *inputs: Array) -> Array:
        """Inputs and output as PyTorch has them. Floats with several axes are cast to the dtype of the weights."""
        cast = [x.astype(self.skeleton.dtype) if _is_field(x) else x for x in inputs]
        return _apply(self.weights, cast, skeleton=self.skeleton)


def _is_field(x: Array) -> bool:
    """False for timesteps, which networks take in float32 whatever their dtype: float16 is exact only up to 2,048."""
    return x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating)


@partial(jax.jit, static_argnames="skeleton")
def _apply(weights: dict[str, Array], inputs: Sequence[Array], *, skeleton: Skeleton) -> Array:
    env = torchax.default_env()
    forward = _Forward(skeleton.module, skeleton.method)
    with _TRACING, warnings.catch_warnings():
        # PyTorch code asks for 64-bit integers; JAX uses 32 bits.
        warnings.filterwarnings("ignore", "Explicitly requested dtype.*int64", UserWarning)
        weights = {f"module.{name}": env.j2t_iso(weight) for name, weight in weights.items()}
        with env:
            output = torch.func.functional_call(forward, weights, tuple(env.j2t_iso(list(inputs))))
        return env.t2j_iso(output)


def as_functions(model: Model, module: torch.nn.Module, methods: Sequence[str], dtype: str) -> list[TorchModule]:
    """Methods of a module as JAX functions of its weights, which leave the module: it stays without them.

    Args:
        model: what the module was loaded from.
        module: to be evaluated.
        methods: of ``METHODS``; each keeps the weights it reads.
        dtype: of the weights.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    env = torchax.default_env()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype.*int64", UserWarning)
        weights = {name: env.t2j_copy(tensor) for name, tensor in tensors.items()}
    del tensors
    config = dict(module.config)
    module.to("meta")  # frees the memory
    text = json.dumps({k: v for k, v in config.items() if k != "_name_or_path"}, sort_keys=True, default=str)
    found = []
    for method in methods:
        reads = METHODS[method][1]
        own = {name: weight for name, weight in weights.items() if not reads or name.startswith(reads)}
        found.append(TorchModule(own, Skeleton(model.class_name, text, method, dtype, module)))
    return found
