"""What a network is told of a prompt, taken out of it and put back changed: caption tables and text encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from plap_jax.networks.conditioned import Conditioned
from plap_jax.pretrained.networks import TextNetwork
from plap_jax.sampling import Guided
from plap_jax.typing import Array, ArrayLike, require

Rebuild = Callable[[Any], Any]


def tables_of(network: Any) -> tuple[Any, Rebuild]:
    """The rows of all prompts, row 0 for none, and a function from other rows to the network that has them.

    Of networks of ``plap_jax.networks`` with captions: one array ``(1 + n, embed_dim)``; of text models whatever
    ``TextNetwork.embeddings`` holds.

    Raises:
        ValueError: a network that is told no row of a table.
    """
    if isinstance(network, Guided):
        tables, rebuild = tables_of(network.network)
        return tables, lambda rows: dataclasses.replace(network, network=rebuild(rows))
    if isinstance(network, TextNetwork):
        return network.embeddings, lambda rows: dataclasses.replace(network, embeddings=rows)
    known = isinstance(network, Conditioned) and network.captions is not None
    allowed = "must have a caption table or a text encoder: a network of plap_jax.networks, or a text model"
    require(known, "model", type(network).__name__, allowed)
    graph, state = nnx.split(network)

    def with_rows(rows: Array) -> Conditioned:
        changed = jax.tree.map(lambda a: a, state)
        changed["captions"]["table"] = state["captions"]["table"].replace(rows)
        return nnx.merge(graph, changed)

    return network.captions.table[...], with_rows


def row_of(tables: Any, condition: ArrayLike) -> Any:
    """The row of one prompt in each table; NaN for a number beyond it."""
    row = jnp.asarray(condition) + 1
    how = {"mode": "fill", "fill_value": jnp.nan, "wrap_negative_indices": False}
    return jax.tree.map(lambda table: table.at[row].get(**how), tables)


def telling(rebuild: Rebuild, tables: Any, row: Any) -> Any:
    """The network with a table of two rows: no prompt, and ``row`` as prompt 0."""
    return rebuild(jax.tree.map(lambda table, new: jnp.stack([table[0], new.astype(table.dtype)]), tables, row))
