"""Any PyTorch module traced by torchax: a JAX function of its weights, with derivatives. Imports exact versions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchax

from plap_jax.pretrained.bridge import Skeleton, TorchModule
from plap_jax.pretrained.callback import Called, Host, require_finite
from plap_jax.typing import require


@dataclass(frozen=True)
class CallingMethod:
    """``Called`` for a module that comes with other weights; arguments as there."""

    time: Callable[[torch.Tensor], torch.Tensor] | None
    condition: Callable[[torch.Tensor], Any] | None

    def __call__(self, module: torch.nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        """The prediction; whole numbers as PyTorch's embeddings expect them."""
        inputs = [x if x.is_floating_point() else x.long() for x in inputs]
        return Called(module, self.time, self.condition)(*inputs)


def as_traced(
    module: Callable[..., torch.Tensor],
    time: Callable[[torch.Tensor], torch.Tensor] | None = None,
    condition: Callable[[torch.Tensor], Any] | None = None,
) -> TorchModule:
    """As ``plap_jax.pretrained.callback.as_callback``, with a copy of the weights in JAX; the module keeps its own.

    Raises:
        ValueError: a plain function, or weights that are not finite.
    """
    allowed = "must be a PyTorch module with bridge='torchax', which has to see the weights"
    require(isinstance(module, torch.nn.Module), "module", type(module).__name__, allowed)
    require_finite(module.eval())
    env, tensors = torchax.default_env(), {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype.*int64", UserWarning)
        weights = {name: env.t2j_copy(tensor.detach().cpu()) for name, tensor in tensors.items()}
    dtype = str(Host.of(module).dtype).removeprefix("torch.")
    return TorchModule(weights, Skeleton(type(module).__name__, module, CallingMethod(time, condition), dtype, module))
