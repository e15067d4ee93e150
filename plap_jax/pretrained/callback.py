"""PyTorch called from JAX: forward passes by callback. Imports PyTorch, any version from 2.4 on.

JAX hands over its buffers as they are, by DLPack: on a CPU, and on a GPU where the module lives on it too, nothing is
copied to the host. A callback has no derivatives; ``plap_jax.pretrained.bridge`` has, for exact versions.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.experimental.buffer_callback import buffer_callback

from plap_jax.typing import Array, at_least_float32, require

NO_DERIVATIVES = (
    "this model is PyTorch called from JAX, which gives values and no derivatives: load it with bridge='torchax'"
)
# PyTorch divides each operation among all cores by itself, so two calls at a time would only be in each other's way.
_RUNNING = threading.Lock()
_OUT_OF_MEMORY = torch.cuda.OutOfMemoryError


@dataclass(frozen=True)
class Host:
    """What JAX calls: the static part of ``TorchCallback``, equal to another if it calls the same object.

    Args:
        function: tensors with a batch axis → one tensor with the same; a module, or a plain function.
        dtype: floats with several axes are handed over in it; timesteps are not, whatever the module's.
        device: where the function expects its tensors.
        max_batch: at most so many rows at a time; None: all, and half as many where a GPU runs out of memory.
    """

    function: Callable[..., torch.Tensor]
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    max_batch: int | None = None
    shapes: dict = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, function: Callable[..., torch.Tensor], module: Any = None, *, max_batch: int | None = None) -> Host:
        """In the dtype and on the device of ``module``, by default the function itself where it is a module."""
        module = function if module is None else module
        tensors = () if not isinstance(module, torch.nn.Module) else (*module.parameters(), *module.buffers())
        floats = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
        return cls(function, floats.dtype, floats.device, max_batch)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """One forward pass of the whole batch; inputs as JAX has them."""
        return self.function(*(self._told(x) for x in inputs))

    def result(self, *inputs: Any) -> jax.ShapeDtypeStruct:
        """Shape and dtype of what comes back for inputs of these shapes, found by one forward pass of zeros."""
        signature = tuple((np.shape(x), jnp.result_type(x).name) for x in inputs)
        if signature not in self.shapes:
            zeros = [torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in signature]
            with _RUNNING, torch.inference_mode():
                self.shapes[signature] = tuple(self(*zeros).shape)
        wide = self.dtype == torch.float64 and jax.config.jax_enable_x64
        return jax.ShapeDtypeStruct(self.shapes[signature], np.float64 if wide else np.float32)

    def into(self, out: torch.Tensor, inputs: Sequence[torch.Tensor], ranks: Sequence[int]) -> None:
        """Fill ``out``; all axes before the own ones of an input, which ``vmap`` has added, become one batch."""
        rows, inputs = _as_rows(inputs, ranks)
        out, size = out.view(rows, *out.shape[out.ndim - ranks[0] + 1 :]), self.max_batch or rows
        start = 0
        while start < rows:
            part = slice(start, min(start + size, rows))
            try:
                out[part].copy_(self(*(x[part] for x in inputs)))
            except _OUT_OF_MEMORY:
                if size == 1:
                    raise
                size = math.ceil(size / 2)
                continue
            start = part.stop

    def _told(self, x: torch.Tensor) -> torch.Tensor:
        """On the device; fields in the dtype of the weights, whole numbers as PyTorch's embeddings expect them."""
        if not x.is_floating_point():
            return x.to(self.device, torch.int64)
        told = x.to(self.device, self.dtype if x.ndim > 1 else x.dtype)
        # A module may write on what it is given, and JAX's arrays must not change. Rows that share memory stay as they
        # are: PyTorch refuses to write on them.
        shared = told is x and (x.ndim == 1 or 0 not in x.stride())
        return told.clone(memory_format=torch.contiguous_format) if shared else told


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TorchCallback:
    """PyTorch as a JAX function of its inputs, under ``jit``, ``vmap``, ``map_points`` and ``lax.scan``.

    No copy of the weights is made, and a pytree without arrays: the compiled function knows the module by identity, and
    calls it with all points of a batch at once. The module is evaluated in ``torch.inference_mode``.

    Args:
        host: what is called.
    """

    host: Host = field(metadata={"static": True})
    has_derivatives: ClassVar[bool] = False

    def __call__(self, *inputs: Array) -> Array:
        """Inputs and output as PyTorch has them, with a batch axis; floats of half precision in float32."""
        inputs = [jnp.asarray(x) for x in inputs]
        return _call(self.host, *(at_least_float32(x) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in inputs))

    def tried(self, *inputs: np.ndarray) -> np.ndarray:
        """The same outside of JAX, where errors of the module are its own."""
        with _RUNNING, torch.inference_mode():
            return self.host(*(torch.tensor(x) for x in inputs)).float().cpu().numpy()


@dataclass(frozen=True)
class Called:
    """A module with what stands between it and JAX; as a ``Host``, equal to another of the same three objects.

    Args:
        module: ``(x, t)``, or ``(x, t, condition)``, a module or a function.
        time: t as the schedule has it ↦ as the module is told it; None: the same.
        condition: prompt numbers ↦ what the module is told: a tensor, a tuple, or a dict of named arguments; None: as
            they come.
    """

    module: Callable[..., torch.Tensor]
    time: Callable[[torch.Tensor], torch.Tensor] | None = None
    condition: Callable[[torch.Tensor], Any] | None = None

    def __call__(self, x: torch.Tensor, t: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
        """The prediction, one tensor.

        Raises:
            TypeError: the module returned something else.
        """
        t, named = (t if self.time is None else self.time(t)), {}
        if self.condition is not None:
            told = self.condition(*condition)
            named = told if isinstance(told, dict) else {}
            condition = () if named else told if isinstance(told, tuple) else (told,)
        found = self.module(x, t, *condition, **named)
        if not isinstance(found, torch.Tensor):
            raise TypeError(f"it returned {type(found).__name__}, and must return a tensor")
        return found


def as_callback(
    module: Callable[..., torch.Tensor],
    time: Callable[[torch.Tensor], torch.Tensor] | None = None,
    condition: Callable[[torch.Tensor], Any] | None = None,
    *,
    max_batch: int | None = None,
) -> TorchCallback:
    """A module, put into eval mode, as a function of ``(x, t)`` or ``(x, t, condition)``; arguments as ``Called``.

    Raises:
        ValueError: weights that are not finite.
    """
    if isinstance(module, torch.nn.Module):
        require_finite(module.eval())
    return TorchCallback(Host.of(Called(module, time, condition), module, max_batch=max_batch))


def require_finite(module: torch.nn.Module) -> None:
    """Refuse a module with weights that are NaN or infinite.

    Raises:
        ValueError: naming the first.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        require(bool(torch.isfinite(tensor).all()), f"module: weight {name}", "NaN or infinity", "must be finite")


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _call(host: Host, *inputs: Array) -> Array:
    result, ranks = host.result(*inputs), tuple(x.ndim for x in inputs)
    if _shares_memory(host):
        through = partial(_with_buffers, host, ranks)
        return buffer_callback(through, result, vmap_method="expand_dims")(*inputs)
    return jax.pure_callback(partial(_with_copies, host, ranks, result), result, *inputs, vmap_method="expand_dims")


@_call.defjvp
def _refuse(host: Host, values: Any, slopes: Any) -> Any:
    raise ValueError(NO_DERIVATIVES)


def _shares_memory(host: Host) -> bool:
    """Whether PyTorch can look at JAX's memory. ``pure_callback`` is for what is left; on several CPUs it stalls."""
    backend = jax.default_backend()
    one_gpu = backend == "gpu" and jax.local_device_count() == 1
    return backend == "cpu" or (one_gpu and host.device.type == "cuda")


def _with_buffers(host: Host, ranks: Sequence[int], context: Any, out: Any, *inputs: Any) -> None:
    with _RUNNING, torch.inference_mode():
        if jax.default_backend() == "cpu":
            host.into(torch.from_dlpack(out), [torch.from_dlpack(x) for x in inputs], ranks)
            return
        # On the stream of XLA, in the order of its kernels: nobody waits.
        with torch.cuda.stream(torch.cuda.ExternalStream(context.stream, device=host.device)):
            host.into(torch.from_dlpack(out), [torch.from_dlpack(x) for x in inputs], ranks)


def _with_copies(host: Host, ranks: Sequence[int], result: jax.ShapeDtypeStruct, *inputs: Any) -> np.ndarray:
    tensors = [torch.tensor(np.asarray(x)) for x in inputs]
    lead = np.broadcast_shapes(*(tuple(x.shape[: x.ndim - rank]) for x, rank in zip(tensors, ranks, strict=True)))
    out = torch.from_numpy(np.empty(lead + result.shape, result.dtype))
    with _RUNNING, torch.inference_mode():
        host.into(out, tensors, ranks)
    return out.numpy()


def _as_rows(inputs: Sequence[torch.Tensor], ranks: Sequence[int]) -> tuple[int, list[torch.Tensor]]:
    """How many rows, and each input with all of them; what all rows share is not copied."""
    own = [x.shape[x.ndim - rank :] for x, rank in zip(inputs, ranks, strict=True)]
    lead = torch.broadcast_shapes(*(x.shape[: x.ndim - rank] for x, rank in zip(inputs, ranks, strict=True)))
    rows = math.prod(lead) * own[0][0]
    return rows, [x.expand(*lead, *shape).reshape(rows, *shape[1:]) for x, shape in zip(inputs, own, strict=True)]
