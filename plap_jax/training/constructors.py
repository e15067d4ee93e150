"""Rebuild a network and its schedule from their classes and arguments, as a checkpoint records them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from plap_jax.checkpoints import CheckpointError
from plap_jax.diffusion import EDM, VE, Diffusion, DiscreteVP, RectifiedFlow, Schedule, VPCosine, VPLinear
from plap_jax.networks import DiT, ResidualMLP, UNet
from plap_jax.typing import shown

# A checkpoint names a class; only these are ever built from it.
NETWORKS = {made.__name__: made for made in (DiT, ResidualMLP, UNet)}
SCHEDULES = {made.__name__: made for made in (DiscreteVP, EDM, RectifiedFlow, VE, VPCosine, VPLinear)}
# What constructors raise when arguments are of a wrong type, missing, out of range, or too large.
REFUSALS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, MemoryError)


def constructors_of(diffusion: Diffusion) -> dict[str, Any] | None:
    """``{"network": {"class": …, "arguments": …}, "schedule": …}``; None if either is not of this library."""
    network, schedule = diffusion.network, diffusion.schedule
    if type(network) not in NETWORKS.values() or type(schedule) not in SCHEDULES.values():
        return None
    return {"network": _noted(network, network.arguments), "schedule": _noted(schedule, asdict(schedule))}


def made_again(path: object, about: Mapping[str, Any]) -> Diffusion:
    """The model that a checkpoint's notes describe, with shapes in place of arrays: nothing is allocated for them.

    Args:
        path: of the checkpoint, for messages.
        about: its ``about.json``.

    Raises:
        CheckpointError: the notes describe no network, one that is not of this library, or arguments it refuses.
    """
    notes = about["notes"]
    told = notes.get("constructors")
    if told is None:
        raise CheckpointError(f"checkpoint {path}: does not tell how its network is made, older ones did not")
    try:
        make_network, arguments = _looked_up(path, told, "network", NETWORKS)
        network = nnx.eval_shape(lambda: make_network(**arguments, rngs=nnx.Rngs(0)))
        make_schedule, arguments = _looked_up(path, told, "schedule", SCHEDULES)
        schedule: Schedule = make_schedule(**arguments)
        std = about["arrays"].get("data_std")
        return Diffusion(network, schedule, notes["prediction"], _like(std), notes["conditioning"])
    except REFUSALS as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {path}: its notes make no network: {shown(error)}") from error


def _noted(made: object, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": type(made).__name__, "arguments": json.loads(json.dumps(arguments))}


def _looked_up(path: object, told: Any, kind: str, known: Mapping[str, type]) -> tuple[type, dict[str, Any]]:
    name = told[kind]["class"]
    if name not in known:
        raise CheckpointError(f"checkpoint {path}: {kind} is {shown(name)} there, must be {' or '.join(known)}")
    return known[name], told[kind]["arguments"]


def _like(std: str | None) -> Any:
    """A placeholder for ``data_std`` with the recorded dtype; Python numbers are float64."""
    if std is None:
        return None
    dtype = np.dtype(std.partition("(")[0])
    return 1.0 if dtype == np.float64 else jnp.ones((), dtype)
