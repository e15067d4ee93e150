"""Evaluations, training steps and the exact operator per second, beside the card's peak and PyTorch; and memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_check.rows import HeldMemory, Timed
from benchmarks.gpu_check.sizes import Sizes
from benchmarks.gpu_check.software import NotHereError, torch_device
from experiments.shared.random_networks import evaluate, random_diffusion, random_unet
from experiments.shared.timing import take_turns
from plap_jax import FluxEstimator, p_laplacian
from plap_jax.diffusion import Diffusion
from plap_jax.training.config import TrainConfig
from plap_jax.training.steps import Task, initial_state, one_step
from plap_jax.typing import Array, ScoreFn

TIME = 30
N_TRAIN = 4096


def one_line(error: Exception) -> str:
    """An error as a cell of a table."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


@dataclass(frozen=True)
class Contest:
    """A network in one dtype, and how much of it is timed.

    Attributes:
        name: of the network.
        diffusion: with random weights.
        dtype: of its matrix products.
        balls, batch: by one call of flux, and of a training step.
        sizes: the others.
    """

    name: str
    diffusion: Diffusion
    dtype: str
    balls: int
    batch: int
    sizes: Sizes

    @property
    def evaluations(self) -> int:
        """Of one call of flux."""
        return self.balls * self.sizes.n_directions

    @property
    def config(self) -> TrainConfig:
        """As many steps as are timed at a time."""
        n_steps = self.sizes.calls
        return TrainConfig(n_steps=n_steps, batch_size=self.batch, warmup_steps=1, grad_clip=1.0)

    def points(self, n: int) -> np.ndarray:
        """Points of the network's shape; values do not matter to the clock."""
        return np.random.default_rng(0).standard_normal((n, *self.diffusion.network.shape)).astype(np.float32)

    def estimator(self) -> FluxEstimator:
        """κ_1 on balls of the radius √d."""
        radius = jnp.float32(np.sqrt(self.points(1).size))
        score_fn, key = self.diffusion.score_at(TIME), jax.random.key(0)
        return FluxEstimator(score_fn, radius, key, jnp.float32(1), self.sizes.n_directions)


@dataclass(frozen=True)
class CompiledCall:
    """A compiled function, and what XLA says of it: operations of one call, and its temporary memory."""

    call: Callable[..., Any]
    compile_s: float | None
    flops: float | None
    temporary_mib: float


def compiled(fn: Any, *args: Any) -> CompiledCall:
    """A jitted ``fn`` for ``args``, tracing and compiling timed together."""
    start = perf_counter()
    call = fn.lower(*args).compile()
    seconds = perf_counter() - start
    return CompiledCall(call, seconds, operations(fn, *args), call.memory_analysis().temp_size_in_bytes / 2**20)


def operations(fn: Any, *args: Any) -> float | None:
    """Floating-point operations of a call, counted by XLA in the program that it is given, before it compiles it.

    For the CPU: on a card it counts in compiled programs alone, and what libraries do there may count for nothing.
    """
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "shape") else a, args)
    with jax.default_device(jax.devices("cpu")[0]):
        return (fn.lower(*shapes).cost_analysis() or {}).get("flops")


@jax.jit
def product(a: Array) -> Array:
    """The matrix product that stands for the card's peak."""
    return a @ a


@jax.jit
def fluxes(estimator: FluxEstimator, points: Array) -> Array:
    """κ_p of many points."""
    return jax.vmap(estimator)(points).value


@partial(jax.jit, static_argnames="chunk")
def operator(score_fn: ScoreFn, x: Array, chunk: int) -> Array:
    """Δ_1 u at one point."""
    return p_laplacian(score_fn, x, chunk=chunk)


def bare(contest: Contest, what: str) -> Timed:
    """As many evaluations of the network as the flux makes, and nothing else."""
    args = contest.diffusion.score_at(TIME), jax.device_put(contest.points(contest.evaluations))
    program = compiled(evaluate, *args)
    return timed(contest, what, "evaluations", contest.evaluations, program, partial(program.call, *args))


def flux(contest: Contest, what: str) -> Timed:
    """κ_1 of points that are on the device."""
    args = contest.estimator(), jax.device_put(contest.points(contest.balls))
    program = compiled(fluxes, *args)
    call = partial(program.call, *args)
    return timed(contest, what, "evaluations", contest.evaluations, program, call, baseline="fluxes")


def mapped(contest: Contest, what: str) -> Timed:
    """The same by ``map_points``, as a user calls it: points and results are on the host. Needs tqdm."""
    map_points = import_module("plap_jax.parallel").map_points
    args = contest.estimator(), contest.points(contest.balls)
    call = partial(map_points, *args, batch_size=contest.balls)
    program = replace(compiled(fluxes, *args), compile_s=None)  # map_points compiles its own, in the first round
    return timed(contest, what, "evaluations", contest.evaluations, program, call)


def training(contest: Contest, what: str) -> Timed:
    """Steps of AdamW on denoising score matching, each a compiled call."""
    config, diffusion = contest.config, contest.diffusion
    task = Task(diffusion, jax.device_put(contest.points(N_TRAIN)), None, jax.random.key(0))
    rows = jax.device_put(np.random.default_rng(0).integers(N_TRAIN, size=contest.batch))
    state, count = initial_state(diffusion, config), jnp.int32(1)
    program = compiled(one_step, state, task, config, count, rows)

    def step() -> Array:
        nonlocal state
        state, loss = program.call(state, task, count, rows)
        return loss

    return timed(contest, what, "steps", 1, program, step, baseline="training_steps")


def exact_operator(contest: Contest, what: str) -> Timed:
    """Δ_1 u of one image: a forward-mode product per coordinate and one more, in a loop, which XLA does not count."""
    contest = replace(contest, sizes=replace(contest.sizes, calls=1))
    score_fn, x = contest.diffusion.score_at(TIME), jax.device_put(contest.points(1)[0])
    program = replace(compiled(operator, score_fn, x, contest.sizes.chunk), flops=None)
    return timed(contest, what, "products", x.size + 1, program, partial(program.call, score_fn, x))


def memory(contest: Contest, what: str) -> HeldMemory:
    """The most that was held since this process began, PyTorch's own left out."""
    stats = jax.devices()[0].memory_stats()
    if not stats:
        raise NotHereError("this device keeps no count")
    return HeldMemory(what, stats["peak_bytes_in_use"] / 2**20, stats["bytes_limit"] / 2**20)


def timed(
    contest: Contest,
    what: str,
    unit: str,
    units: int,
    program: CompiledCall,
    call: Callable[[], Any],
    baseline: str | None = None,
) -> Timed:
    """``units`` per call of ``call``, in turn with the card's largest product and with PyTorch's ``baseline``."""
    sizes = contest.sizes
    square = jnp.ones((sizes.square, sizes.square), contest.dtype)
    contestants = {"ours": _repeated(call, sizes.calls), "product": _repeated(partial(product, square), sizes.calls)}
    theirs, note = (None, "") if baseline is None else in_pytorch(contest, baseline)
    if theirs is not None:
        contestants["theirs"] = theirs
    seconds = take_turns(contestants, sizes.runs)
    rates = {name: [sizes.calls * units / s for s in values] for name, values in seconds.items()}
    return Timed(
        what,
        unit,
        rates["ours"],
        contest.dtype,
        None if program.flops is None else program.flops / units,
        2 * sizes.square**3 * sizes.calls / median(seconds["product"]),
        program.compile_s,
        program.temporary_mib,
        rates.get("theirs", []),
        note,
    )


def in_pytorch(contest: Contest, name: str) -> tuple[Callable[[], Any] | None, str]:
    """``calls`` times the same by ``benchmarks.pytorch.on_device``; None, and why, where it does not run."""
    device = torch_device(jax.default_backend())
    if device.name is None:
        return None, device.told
    try:
        call = getattr(import_module("benchmarks.pytorch.on_device"), name)(contest, device.name)
        call()
    except Exception as error:  # whatever PyTorch lacks here: our own figures stand without it
        return None, one_line(error)
    return call, ""


def mlp(sizes: Sizes) -> Mapping[str, Callable[[], Timed | HeldMemory]]:
    """The MLP on CIFAR-10's images as vectors, in float32."""
    diffusion = random_diffusion(int(np.prod(sizes.image)), **sizes.mlp)
    contest = Contest("MLP", diffusion, "float32", sizes.mlp_balls, sizes.mlp_batch, sizes)
    measures = {"flux": flux, "bare network": bare, "training": training, "flux from and to the host": mapped}
    return _of_contest(contest, measures)


def unet(sizes: Sizes, dtype: str) -> Mapping[str, Callable[[], Timed | HeldMemory]]:
    """The U-Net on CIFAR-10's images; the exact operator in float32 alone."""
    diffusion = random_unet(sizes.image, **sizes.unet, dtype=None if dtype == "float32" else dtype)
    contest = Contest("U-Net", diffusion, dtype, sizes.unet_balls, sizes.unet_batch, sizes)
    exact = {"exact p-Laplacian": exact_operator} if dtype == "float32" else {}
    return _of_contest(contest, {"flux": flux, "training": training, "bare network": bare, **exact})


def _of_contest(contest: Contest, measures: Mapping[str, Callable]) -> dict[str, Callable[[], Timed | HeldMemory]]:
    named = {f"{contest.name}, {contest.dtype}: {name}": measure for name, measure in measures.items()}
    named[f"{contest.name}, {contest.dtype}"] = memory
    return {what: partial(measure, contest, what) for what, measure in named.items()}


def _repeated(call: Callable[[], Any], times: int) -> Callable[[], Any]:
    return lambda: jax.block_until_ready([call() for _ in range(times)])
