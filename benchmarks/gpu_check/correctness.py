"""Flux, exact operator, bfloat16 and training on the card beside the same on this machine's CPU.

The card's default for float32 rounds the factors of matrix products (TF32 on NVIDIA's, bfloat16 on TPUs), so that two
precisions are compared: the default, and "highest", which must leave nothing but the order of sums. Differences are
root mean squares relative to the CPU's result.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_check.rows import Compared
from benchmarks.gpu_check.sizes import Sizes
from benchmarks.gpu_check.software import NotHereError, torch_device
from experiments.shared.random_networks import evaluate, random_diffusion, random_unet
from plap_jax import FluxEstimator, p_laplacian
from plap_jax.diffusion import Diffusion
from plap_jax.training.config import TrainConfig
from plap_jax.training.steps import Task, initial_state, many_steps
from plap_jax.typing import Array, ScoreFn

TIME = 30
ALLOWED = {"highest": 1e-3, "default": 3e-2}
# Losses after some steps carry along what the steps before them rounded.
ALLOWED_LOSSES = {"highest": 1e-2, "default": 5e-2}


def checks(sizes: Sizes) -> Mapping[str, Callable[[], Compared]]:
    """Every comparison by name."""
    networks = {"MLP": partial(checked_mlp, sizes), "U-Net": partial(checked_unet, sizes)}
    made = {}
    for precision in sizes.precisions:
        for name, network in networks.items():
            made[f"flux, {name}, {precision} precision"] = partial(flux_alike, sizes, network, precision)
            made[f"p-Laplacian, {name}, {precision} precision"] = partial(operator_alike, sizes, network, precision)
        made[f"losses of {sizes.checked_steps} steps, MLP, {precision} precision"] = partial(
            losses_alike, sizes, precision
        )
    made["U-Net in bfloat16 beside the CPU's float32"] = partial(bfloat16_alike, sizes, scores)
    made["flux in bfloat16 beside the CPU's float32"] = partial(bfloat16_alike, sizes, fluxes)
    made["flux twice, share of values that differ"] = partial(repeated, sizes)
    made["PyTorch module called from JAX beside PyTorch on the CPU"] = partial(bridge_alike, sizes)
    return {name: partial(_named, name, check) for name, check in made.items()}


def checked_mlp(sizes: Sizes) -> Diffusion:
    """A small one, so that the CPU keeps up."""
    return random_diffusion(int(np.prod(sizes.checked_image)), **sizes.checked_mlp)


def checked_unet(sizes: Sizes, dtype: str | None = None) -> Diffusion:
    """The same; in bfloat16 its weights are the same."""
    return random_unet(sizes.checked_image, **sizes.checked_unet, dtype=dtype)


def points_for(sizes: Sizes, diffusion: Diffusion) -> np.ndarray:
    """Centres of balls, of the network's shape."""
    shape = (sizes.checked_points, *diffusion.network.shape)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def on(device: jax.Device, fn: Callable[..., Any], *args: Any) -> Any:
    """The result of a compiled ``fn`` computed on ``device``, as NumPy."""
    with jax.default_device(device):
        return jax.device_get(jax.jit(fn)(*jax.device_put(args, device)))


def on_both(fn: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """On the accelerator and on the CPU."""
    return on(jax.devices()[0], fn, *args), on(jax.devices("cpu")[0], fn, *args)


def difference(found: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the difference over that of the reference."""
    found, reference = (np.asarray(a, np.float64) for a in (found, reference))
    return float(np.sqrt(np.mean((found - reference) ** 2) / np.mean(reference**2)))


def fluxes(score_fn: ScoreFn, points: Array) -> Array:
    """κ_1 of every point, 16 directions each."""
    radius = jnp.float32(np.sqrt(points[0].size))
    return jax.vmap(FluxEstimator(score_fn, radius, jax.random.key(0)))(points).value


def scores(score_fn: ScoreFn, points: Array) -> Array:
    """The network itself."""
    return evaluate(score_fn, points)


def operators(score_fn: ScoreFn, points: Array) -> Array:
    """Δ_p u for p = 1, 2, 3: ``(3, n)``."""
    of_order = jax.vmap(lambda x, p: p_laplacian(score_fn, x, p, chunk=64), in_axes=(0, None))
    return jax.vmap(of_order, in_axes=(None, 0))(points, jnp.arange(1.0, 4.0))


def flux_alike(sizes: Sizes, network: Callable[[], Diffusion], precision: str) -> tuple[float, float]:
    """κ_1 with one precision."""
    diffusion = network()
    with jax.default_matmul_precision(precision):
        pair = on_both(fluxes, diffusion.score_at(TIME), points_for(sizes, diffusion))
    return difference(*pair), ALLOWED[precision]


def operator_alike(sizes: Sizes, network: Callable[[], Diffusion], precision: str) -> tuple[float, float]:
    """The worst p, with one precision; at four points, for each takes as many products as it has coordinates."""
    diffusion = network()
    with jax.default_matmul_precision(precision):
        pair = on_both(operators, diffusion.score_at(TIME), points_for(sizes, diffusion)[:4])
    return max(difference(*values) for values in zip(*pair, strict=True)), ALLOWED[precision]


def losses_alike(sizes: Sizes, precision: str) -> tuple[float, float]:
    """Training from the same weights on the same batches."""
    diffusion = checked_mlp(sizes)
    config = TrainConfig(n_steps=sizes.checked_steps, batch_size=64, learning_rate=1e-3)
    data = np.random.default_rng(1).standard_normal((256, *diffusion.network.shape)).astype(np.float32)
    rows = np.random.default_rng(2).integers(len(data), size=(config.n_steps, config.batch_size))

    def losses(diffusion: Diffusion, data: Array, rows: Array) -> Array:
        task = Task(diffusion, data, None, jax.random.key(0))
        return many_steps(initial_state(diffusion, config), task, config, 0, config.n_steps, rows)[1]

    with jax.default_matmul_precision(precision):
        pair = on_both(losses, diffusion, data, rows)
    return difference(*pair), ALLOWED_LOSSES[precision]


def bfloat16_alike(sizes: Sizes, fn: Callable[[ScoreFn, Array], Array]) -> tuple[float, float]:
    """No further from float32 than twice what the CPU's own bfloat16 is, or a hundredth."""
    wide, narrow = (checked_unet(sizes, dtype).score_at(TIME) for dtype in (None, "bfloat16"))
    points = points_for(sizes, checked_unet(sizes))
    reference = on(jax.devices("cpu")[0], fn, wide, points)
    ours, cpus = (difference(found, reference) for found in on_both(fn, narrow, points))
    return ours, max(2 * cpus, 0.01)


def repeated(sizes: Sizes) -> tuple[float, float]:
    """The same call again on the card: results should be bit for bit the same."""
    diffusion = checked_unet(sizes)
    call = partial(on, jax.devices()[0], fluxes, diffusion.score_at(TIME), points_for(sizes, diffusion))
    return float(np.mean(call() != call())), 0.0


def bridge_alike(sizes: Sizes) -> tuple[float, float]:
    """A module on the card, whose tensors are JAX's own buffers; PyTorch may round its convolutions to TF32."""
    device = torch_device(jax.default_backend())
    if device.name is None:
        raise NotHereError(f"PyTorch: {device.told}")
    both = import_module("benchmarks.pytorch.bridged").both
    return difference(*both(points_for(sizes, checked_unet(sizes)), device.name)), ALLOWED["default"]


def _named(name: str, check: Callable[[], tuple[float, float]]) -> Compared:
    return Compared(name, *check())
