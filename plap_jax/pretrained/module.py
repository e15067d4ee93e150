"""Any PyTorch module, or plain function of tensors, as a model. Imports PyTorch only when one is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from plap_jax.diffusion import Diffusion, Prediction, Schedule
from plap_jax.diffusion.schedules import floating
from plap_jax.pretrained.extra import callback, traced
from plap_jax.pretrained.model import Pretrained
from plap_jax.pretrained.networks import Module, channels_first, channels_last
from plap_jax.pretrained.units import Units
from plap_jax.typing import Array, ArrayLike, require, shown

Bridge = Literal["callback", "torchax"]
# How a module is told the noise level: names ↦ number, from the schedule and its time t.
TIMES: dict[str, Callable[[Schedule, Array], Array]] = {
    "time": lambda schedule, t: t,
    "fraction": lambda schedule, t: t / schedule.t_max,
    "sigma": lambda schedule, t: schedule.sigma(t) / schedule.alpha(t),
    "log_snr": lambda schedule, t: schedule.log_snr(t),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModuleNetwork:
    """A PyTorch module applied to one image: f(x, t, c).

    Args:
        module: ``((1, C, h, w), (1,), …) -> (1, C, h, w)``; with 2C channels, the first C are the prediction and the
            rest a learned variance, which only generation uses.
        table: ``(n + 1, …)``, what the module is told of prompts 0 … n−1 and, in the last row, of none; or None.
        schedule: whose time is told.
        time: one of ``TIMES``.
        n_conditions: n; None: no prompts.
    """

    module: Module
    table: Array | None
    schedule: Schedule = field(metadata={"static": True})
    time: str = field(default="time", metadata={"static": True})
    n_conditions: int | None = field(default=None, metadata={"static": True})

    def __call__(self, x: Array, level: ArrayLike, condition: ArrayLike | None = None) -> Array:
        """The prediction ``(h, w, C)``, the dtype of x.

        Args:
            x: noised image ``(h, w, C)``.
            level: the schedule's time.
            condition: number of a prompt; −1 or None: none. A number beyond the prompts gives NaN.

        Raises:
            ValueError: a condition, and the module takes none.
        """
        told = [channels_first(x), jnp.reshape(self.told_of(level), (1,))]
        known = 1.0
        if self.n_conditions is None:
            require(condition is None, "condition", condition, "must be None: this model has no prompts")
        else:
            number = jnp.asarray(-1 if condition is None else condition)
            known = jnp.where((number >= -1) & (number < self.n_conditions), 1.0, jnp.nan)
            number = jnp.where(jnp.isnan(known), -1, number)
            told.append(jnp.reshape(number, (1,)) if self.table is None else self.table[number][None])
        predicted = channels_last(self.module(*told))[..., : x.shape[-1]]
        return predicted.astype(x.dtype) * jnp.asarray(known, x.dtype)

    def told_of(self, t: ArrayLike) -> Array:
        """The noise level as the module is told it: a float, but for the steps of a discrete schedule."""
        t = jnp.asarray(t)
        told = TIMES[self.time](self.schedule, t if self.schedule.discrete else floating(t))
        return told if self.time == "time" else floating(told)


def load_torch(
    module: Callable[..., Any],
    schedule: Schedule,
    prediction: Prediction,
    shape: Sequence[int],
    *,
    condition: Any = None,
    n_conditions: int | None = None,
    time: str | Callable[[Any], Any] = "time",
    scale: float | Sequence[float] = 1.0,
    shift: float | Sequence[float] = 0.0,
    bridge: Bridge = "callback",
    max_batch: int | None = None,
) -> Pretrained:
    """Any PyTorch module, or plain function of tensors, as a model: called with ``(x, t)`` or ``(x, t, condition)``.

    x_t = α(t) x₀ + σ(t) ε, and the module predicts from x_t. Images go in and out as ``(batch, c, h, w)``, noise levels
    as ``(batch,)``. What a module returns beside a tensor is taken apart by a function around it:
    ``lambda x, t: unet(x, t).sample``.

    Args:
        module: put into eval mode, and called as it is, on its device and in its dtype; noise levels stay float32 or
            int64. It must not change while the model is in use.
        schedule: of ``plap_jax.diffusion``, as the module was trained with.
        prediction: what it returns: "eps", "x0", "v", "score" or "flow".
        shape: of one image ``(h, w, c)``.
        condition: what the third argument is. None: there is none. A sequence, array or tensor ``(n + 1, …)``: its row
            k for prompt k, and its last row for none, as class numbers ``range(11)`` of ten classes whose unconditional
            class is 10, or embeddings of texts. A function of prompt numbers ``(batch,)``, −1 for none, which returns a
            tensor, a tuple of further arguments, or a dict of named ones.
        n_conditions: n, where ``condition`` is a function.
        time: how the module is told the noise level. "time": the schedule's own, a step counted from 0 where it is
            discrete; "fraction": t/t_max in [0, 1]; "sigma": σ/α, as EDM counts it; "log_snr": log(α²/σ²); or a
            function of the tensor t ``(batch,)``, as ``lambda t: 1000 * t``.
        scale, shift: the module's own units, scale · x + shift for images x in [−1, 1]; a number, or one for each
            channel. Of data in [0, 1]: 0.5 and 0.5.
        bridge: "callback", with any PyTorch from 2.4 on; or "torchax", exact versions, whose derivatives some detectors
            need.
        max_batch: at most so many images in a call; None: as many as JAX asks for at once.

    Returns:
        ``Pretrained``, in pixels of the module's own units.

    Raises:
        ValueError: an argument out of range, a module that cannot be called so, or PyTorch that is missing or too old.

    Example:
        >>> model = load_torch(unet, DiscreteVP.linear(1000, 1e-4, 0.02), "eps", (32, 32, 3))
        >>> audit_images(model, "photos/", key=jax.random.key(0))
    """
    shape = _checked_shape(shape)
    require(isinstance(schedule, Schedule), "schedule", type(schedule).__name__, "must be one of plap_jax.diffusion")
    require(bridge in get_args(Bridge), "bridge", bridge, f"must be one of {', '.join(get_args(Bridge))}")
    require(callable(module), "module", type(module).__name__, "must be a PyTorch module, or a function of tensors")
    good = callable(time) or time in TIMES
    require(good, "time", time, f"must be one of {', '.join(TIMES)}, or a function of the tensor t")
    good = max_batch is None or (isinstance(max_batch, int) and max_batch >= 1)
    require(good, "max_batch", max_batch, "must be >= 1, or None")
    units = Units.of(scale, shift, shape[-1])
    table, n = _conditions(condition, n_conditions)
    name = "time" if callable(time) else time
    parts = (module, time if callable(time) else None, condition if callable(condition) else None)
    if bridge == "callback":
        called = callback().as_callback(*parts, max_batch=max_batch)
    else:
        require(max_batch is None, "max_batch", max_batch, "must be None with bridge='torchax'")
        called = traced().as_traced(*parts)
    network = ModuleNetwork(called, table, schedule, name, n)
    diffusion = Diffusion(network, schedule, prediction)
    _try(network, shape)
    how = {"encoder": units.encoder, "decoder": units.decoder, "unit": units.unit, "n_conditions": n}
    return Pretrained(diffusion, "pixels", shape, shape, **how)


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    good = isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(n, int) and n >= 1 for n in shape)
    require(good, "shape", shape, "must be (h, w, c)")
    return tuple(shape)


def _conditions(condition: Any, n: int | None) -> tuple[Array | None, int | None]:
    """The table of what is told, or None, and the number of prompts."""
    if condition is None or callable(condition):
        allowed = "must be >= 1: condition is a function" if condition is not None else "must be None: no condition"
        good = n is None if condition is None else isinstance(n, int) and n >= 1
        require(good, "n_conditions", n, allowed)
        return None, n
    require(n is None, "n_conditions", n, "must be None: condition has a row for each, and one for none")
    allowed = "must be numbers (n + 1, ...), a row for each prompt and the last for none, or a function"
    try:
        rows = np.asarray(condition.detach().float().cpu() if _is_float(condition) else condition)
        good = rows.ndim >= 1 and len(rows) >= 2 and rows.dtype.kind in "iuf" and bool(np.isfinite(rows).all())
    except (TypeError, ValueError):
        good = False
    require(good, "condition", condition, allowed)
    return jnp.asarray(rows.astype(np.float32 if rows.dtype.kind == "f" else np.int32)), len(rows) - 1


def _is_float(condition: Any) -> bool:
    """Of PyTorch: NumPy knows no bfloat16."""
    return hasattr(condition, "is_floating_point") and condition.is_floating_point()


def _try(network: ModuleNetwork, shape: tuple[int, int, int]) -> None:
    """Ask once, at both ends of the schedule, so that a module that cannot be asked is refused now and in one line."""
    schedule, (height, width, channels) = network.schedule, shape
    levels = [network.told_of(t) for t in (schedule.t_min, schedule.t_max)]
    inputs = [np.zeros((2, channels, height, width), np.float32), np.stack(levels)]
    if network.n_conditions is not None:
        numbers = np.array([-1, 0])
        inputs.append(numbers if network.table is None else np.asarray(network.table)[numbers])
    called = f"module: must be a function of tensors ({'x, t' if len(inputs) == 2 else 'x, t, condition'})"
    try:
        found = _tried(network.module, inputs)
    except Exception as error:  # of any kind: this is somebody's code
        reason = shown(str(error).strip().partition("\n")[0])
        raise ValueError(f"{called}, and raised {type(error).__name__}: {reason}") from error
    fits = found.shape[:1] + found.shape[2:] == (2, height, width) and found.shape[1] in (channels, 2 * channels)
    require(fits, "module", found.shape, f"must return (batch, c, h, w), here (2, {channels}, {height}, {width})")
    require(bool(np.isfinite(found).all()), "module", "NaN or infinity", "must return finite numbers, here for x = 0")


def _tried(module: Module, inputs: list[np.ndarray]) -> np.ndarray:
    """The answer, by PyTorch itself; of a module that JAX computes its shape alone, since to compile it takes long."""
    if hasattr(module, "tried"):
        return module.tried(*inputs)
    return np.zeros(jax.eval_shape(module, *inputs).shape)
