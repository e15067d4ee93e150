"""Time and memory of the exact p-Laplacian, beside a batch of evaluations, ``jax.jacfwd`` and folx, by dimension.

The network is the residual MLP of the image experiments with random weights. Memory is what the compiled program needs
beyond its arguments: temporary buffers and results, exact, as XLA reports it before anything runs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.random_networks import IMAGES, random_diffusion
from experiments.shared.timing import take_turns
from plap_jax import p_laplacian
from plap_jax.typing import Array, ScoreFn

TIME = 30
P = 1.0
EVALUATIONS, JACFWD, EXACT = "evaluations", "jacfwd", "p_laplacian"
# p = 2 of a density that is known itself, u and not only ∇u: the case that folx is made for.
EXACT_OF_U, FOLX_OF_U = "p_laplacian of grad u", "folx of u"


@dataclass(frozen=True)
class Program:
    """A compiled computation at one point, or for ``chunk`` of them.

    Attributes:
        d: dimension.
        method: what is computed.
        chunk: products, or evaluations, at a time; None where all are taken at once.
        call: runs it to the end.
        temp_bytes: temporary buffers and results.
    """

    d: int
    method: str
    chunk: int | None
    call: Callable[[], Any]
    temp_bytes: int


def measure_cost(dims: Sequence[int], chunks: Sequence[int | None], runs: int) -> list[dict[str, Any]]:
    """One row per dimension, method and chunk: ``d, method, chunk, ms, temp_bytes``, with ms the median of the runs.

    Args:
        dims: dimensions.
        chunks: largest numbers of products at once; those of d or more count as None, all at once.
        runs: rounds in which each takes its turn.
    """
    rows = []
    for d in dims:
        for program, seconds in timed(list(programs(d, chunks)), runs):
            fields = {name: getattr(program, name) for name in ("d", "method", "chunk", "temp_bytes")}
            rows.append(fields | {"ms": 1e3 * median(seconds)})
    return rows


def timed(contestants: Sequence[Program], runs: int) -> list[tuple[Program, list[float]]]:
    """Seconds in each round, in which every program runs once."""
    seconds = take_turns({i: program.call for i, program in enumerate(contestants)}, runs)
    return [(program, seconds[i]) for i, program in enumerate(contestants)]


def programs(d: int, chunks: Sequence[int | None]) -> Iterator[Program]:
    """All methods in dimension ``d``; folx where it is installed."""
    score_fn = random_diffusion(d, **IMAGES).score_at(TIME)
    x = jnp.asarray(np.random.default_rng(0).standard_normal(d), jnp.float32)
    compiled = partial(_compiled, d, score_fn)
    yield compiled(JACFWD, None, lambda s, x: jax.jacfwd(s)(x), x)
    for chunk in dict.fromkeys(None if chunk is None or chunk >= d else chunk for chunk in chunks):
        yield compiled(EVALUATIONS, chunk, lambda s, points: jax.vmap(s)(points), jnp.tile(x, (chunk or d, 1)))
        yield compiled(EXACT, chunk, partial(p_laplacian, p=P, chunk=chunk or d), x)
    yield compiled(EXACT_OF_U, None, lambda s, x: p_laplacian(jax.grad(partial(_u, s)), x, 2.0, chunk=d), x)
    if find_spec("folx") is not None:
        forward_laplacian = import_module("folx").forward_laplacian
        yield compiled(FOLX_OF_U, None, lambda s, x: forward_laplacian(partial(_u, s))(x).laplacian, x)


def _u(score_fn: ScoreFn, x: Array) -> Array:
    """A scalar that costs as much as the network: stands for log q."""
    return jnp.sum(score_fn(x))


def _compiled(d: int, score_fn: ScoreFn, method: str, chunk: int | None, fn: Callable[..., Any], x: Array) -> Program:
    compiled = jax.jit(fn).lower(score_fn, x).compile()
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return Program(d, method, chunk, lambda: jax.block_until_ready(compiled(score_fn, x)), size)
