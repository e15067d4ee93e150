"""Your own function of (x, t, condition) as a model: no framework, no file format."""

from __future__ import annotations

import inspect
import pkgutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from plap_jax.console import raised_in
from plap_jax.diffusion import Diffusion, Prediction, Schedule
from plap_jax.pretrained.model import Pretrained
from plap_jax.pretrained.units import Units
from plap_jax.typing import require, shown

STDLIB = Path(inspect.__file__).parent.name
LONGEST = 300  # characters of someone's message


@dataclass(frozen=True)
class UserModel:
    """Your own model: a function that predicts from a noised image, and what it predicts.

    Args:
        function: ``(x, t, condition) -> prediction`` of one noised image x ``(h, w, c)`` at the schedule's time t, a
            scalar, in ``jax.numpy``; condition is None or −1, or the number of a prompt if ``n_conditions`` is set. A
            callable pytree, such as a Flax or an Equinox module, keeps its weights as data.
        schedule: x_t = α(t) x₀ + σ(t) ε, of ``plap_jax.diffusion``.
        shape: of one image, ``(h, w, c)``, values in [−1, 1].
        prediction: what the function returns: "eps", "x0", "v", "flow" or "score".
        n_conditions: how many prompts, numbered from 0; None: no prompts.

    Example:
        >>> schedule = VPLinear()  # below, the exact noise prediction for data from N(0, I)
        >>> model = as_pretrained(UserModel(lambda x, t, condition: schedule.sigma(t) * x, schedule, shape=(8, 8, 1)))
        >>> FluxDensity(0.5).scores(model.diffusion, Query(jnp.zeros((3, 8, 8, 1))), key=jax.random.key(0))
    """

    function: Callable[..., Any]
    schedule: Schedule
    shape: Sequence[int]
    prediction: Prediction = "eps"
    n_conditions: int | None = None
    scale: float | Sequence[float] = 1.0
    shift: float | Sequence[float] = 0.0


def load_function(target: str) -> UserModel | Pretrained:
    """Import a factory and call it: the ``UserModel`` it returns, checked by tracing it once, or a loaded model.

    Args:
        target: ``package.module:factory``, a function without arguments.

    Raises:
        ValueError: a target that cannot be imported, a factory that raises, a result that is neither a ``UserModel``
            nor what ``load_torch`` and its like return, or a function that JAX cannot trace or that returns another
            shape.
    """
    allowed = "must be package.module:factory, a function without arguments"
    require(isinstance(target, str) and ":" in target, "target", target, allowed)
    place, _, name = target.rpartition(":")
    of_file = f"is a file of Python: name a function in it, as {Path(place).stem}:{name}, with its folder on PYTHONPATH"
    require(not place.endswith(".py"), "target", target, of_file)
    try:
        factory = pkgutil.resolve_name(target)
    except Exception as error:
        allowed += ", found from where Python is started or on PYTHONPATH"
        missing = isinstance(error, ImportError) and getattr(error, "name", None) in _parts(place)
        why = error if missing or (isinstance(error, AttributeError) and not _place(error)) else _told(error)
        raise ValueError(f"target={shown(target)}: cannot be imported ({why}); {allowed}") from error
    require(callable(factory) and _takes_nothing(factory), "target", target, allowed)
    try:
        made = factory()
    except Exception as error:
        if isinstance(error, ValueError) and _is_ours(error):
            raise ValueError(f"{target}: {error}") from error
        raise ValueError(f"{target}: raised {_told(error)}") from error
    if isinstance(made, Pretrained):
        return made
    if not isinstance(made, UserModel):
        allowed = "must return a UserModel of plap_jax.pretrained, or what load_torch returns"
        raise ValueError(f"{target}: {allowed}, and returns {shown(made)}")
    good = isinstance(made.schedule, Schedule)
    allowed = "must be a schedule of plap_jax.diffusion, such as VPLinear()"
    require(good, f"{target}: schedule", made.schedule, allowed)
    shape = tuple(made.shape)
    good = len(shape) == 3 and all(isinstance(n, int) and n >= 1 for n in shape)
    require(good, f"{target}: shape", shape, "must be (h, w, c)")
    known = made.n_conditions
    good = known is None or (isinstance(known, int) and known >= 1)
    require(good, f"{target}: n_conditions", known, "must be >= 1, or None")
    _try(target, made)
    return made


def _is_ours(error: Exception) -> bool:
    return raised_in(error).split(".")[0] == "plap_jax"


def _told(error: Exception) -> str:
    """Kind and first line of an error of someone's code, and where that code failed."""
    line = " ".join(str(error).strip().partition("\n")[0].split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    return type(error).__name__ + f": {line}" * bool(line) + _place(error)


def _place(error: Exception) -> str:
    """Where someone's code failed, to stand behind a message; "" where none of it did."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _parts(module: str) -> list[str]:
    """A module and the packages that it is in."""
    names = module.split(".")
    return [".".join(names[: i + 1]) for i in range(len(names))]


def _is_theirs(file: str) -> bool:
    """Whether a file is neither of this library nor of an installed package nor of Python itself."""
    path = Path(file)
    ours = path.is_relative_to(Path(__file__).parents[1])
    return path.is_file() and not ours and not {"site-packages", "dist-packages", STDLIB} & set(path.parts)


def _takes_nothing(factory: Callable[..., Any]) -> bool:
    try:
        inspect.signature(factory).bind()
    except TypeError:
        return False
    except ValueError:  # of what is written in C
        return True
    return True


def as_pretrained(made: UserModel | Pretrained) -> Pretrained:
    """Turn a ``UserModel`` into a ``Pretrained`` model in pixel space; one that is loaded already stays as it is.

    Raises:
        ValueError: an unknown prediction, or a scale or shift that does not fit the channels.
    """
    if isinstance(made, Pretrained):
        return made
    shape, units = tuple(made.shape), Units.of(made.scale, made.shift, made.shape[-1])
    diffusion = Diffusion(_as_network(made.function), made.schedule, made.prediction)
    how = {"encoder": units.encoder, "decoder": units.decoder, "unit": units.unit}
    return Pretrained(diffusion, "pixels", shape, shape, n_conditions=made.n_conditions, **how)


@jax.tree_util.register_pytree_node_class
class ArraysAsData:
    """A callable pytree that has other leaves than arrays, as Equinox's have activation functions: they are static."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *inputs: Any) -> Any:
        """What the function returns."""
        return self.function(*inputs)

    def tree_flatten(self) -> tuple[list, tuple]:
        """The arrays; and the structure with all other leaves."""
        leaves, structure = jax.tree.flatten(self.function)
        rest = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
        return [leaf if _is_array(leaf) else None for leaf in leaves], (structure, rest)

    @classmethod
    def tree_unflatten(cls, static: tuple, arrays: Sequence[Any]) -> ArraysAsData:
        """Put together again, for JAX."""
        structure, rest = static
        leaves = [array if other is None else other for array, other in zip(arrays, rest, strict=True)]
        return cls(jax.tree.unflatten(structure, leaves))


def _as_network(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a pytree whose arrays are data."""
    if jax.tree_util.all_leaves([function]):
        return Partial(function)
    plain = all(_is_array(leaf) or isinstance(leaf, Number) for leaf in jax.tree.leaves(function))
    return function if plain else ArraysAsData(function)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _try(target: str, made: UserModel) -> None:
    try:
        model = as_pretrained(made).diffusion  # an unknown prediction is refused here
        x, t = jnp.zeros(tuple(made.shape)), jnp.asarray(made.schedule.t_max)
        for condition in (None,) if made.n_conditions is None else (None, jnp.asarray(0)):
            jax.eval_shape(model.score, x, t, condition)
    except Exception as error:  # a function of anyone's may raise anything
        if isinstance(error, ValueError) and _is_ours(error):  # it says by itself what must be
            raise ValueError(f"{target}: {error}") from error
        reason = _told(error)
        allowed = f"must be a function of (x, t, condition) that JAX can trace, x one image {tuple(made.shape)}"
        allowed += ", where condition is None without a prompt" * (made.n_conditions is not None)
        raise ValueError(f"{target}: function: {allowed}: {reason}") from error
