"""κ_1 of images through both bridges to PyTorch, against the bare evaluations in PyTorch.

``python -m benchmarks.pytorch.bridges [--rounds N] [--points N] [--threads N]``, in the environment of ``make
test-torch``. A ``UNet2DModel`` of random weights for 16×16×3, 32 images, 16 directions each. All take turns, each at
the batch that is the fastest for it; ratios are taken round by round, and their median is printed as JSON.
"""

import argparse
import json
import statistics
from collections.abc import Callable

import diffusers
import jax
import numpy as np
import torch

from benchmarks.pytorch.fluxes import boundary
from benchmarks.timing import fastest, n_cores, ratios
from experiments.shared.timing import take_turns
from plap_jax import DiscreteVP, FluxEstimator, load_torch
from plap_jax.directions import sample_directions
from plap_jax.parallel import map_points

SHAPE = (16, 16, 3)
N_DIRECTIONS, STEP = 16, 200
BATCHES = (8, 32)
SCHEDULE = DiscreteVP.linear(1000, 1e-4, 0.02)


def network() -> torch.nn.Module:
    """As DDPM's on CIFAR-10, smaller."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return unet.eval().requires_grad_(False)


class Tensors(torch.nn.Module):
    """The U-Net returning one tensor: what ``load_torch`` takes, with its weights visible."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ε̂ of ``(batch, 3, 16, 16)``."""
        return self.unet(x, t, return_dict=False)[0]


def in_pytorch(
    module: torch.nn.Module, centres: np.ndarray, key: jax.Array
) -> Callable[[int], Callable[[], np.ndarray]]:
    """batch ↦ κ_1 of all centres, so many at once, on the directions that JAX draws."""
    x = torch.from_numpy(np.moveaxis(centres, -1, 1).copy())
    n = np.moveaxis(np.asarray(sample_directions(key, N_DIRECTIONS, SHAPE)).reshape(-1, *SHAPE), -1, 1)
    directions, radius = torch.from_numpy(n.copy())[None], radius_of(STEP)

    def score(x: torch.Tensor) -> torch.Tensor:
        return -module(x, torch.full((len(x),), STEP))

    return lambda batch: (
        lambda: torch.cat([boundary(score, part, directions, radius, 1.0) for part in x.split(batch)]).numpy()
    )


def through_jax(
    module: torch.nn.Module, bridge: str, centres: np.ndarray, key: jax.Array
) -> Callable[[int], Callable[[], np.ndarray]]:
    """The same by the library."""
    diffusion = load_torch(module, SCHEDULE, "eps", SHAPE, bridge=bridge).diffusion
    estimator = FluxEstimator(diffusion.score_at(STEP), radius_of(STEP), key, n_samples=N_DIRECTIONS)
    return lambda batch: lambda: map_points(estimator, centres, batch_size=batch).value


def radius_of(step: int) -> float:
    """Of the noise shell, σ√d."""
    return float(SCHEDULE.sigma(step)) * float(np.prod(SHAPE)) ** 0.5


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--points", type=int, default=32, help="images")
    parser.add_argument("--threads", type=int, default=n_cores(), help="of PyTorch")
    parser.add_argument("--without-torchax", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    module, key = Tensors(network()), jax.random.key(0)
    images = np.random.default_rng(0).uniform(-1, 1, (arguments.points, *SHAPE)).astype(np.float32)
    centres = float(SCHEDULE.alpha(STEP)) * images
    ways = {"pytorch": in_pytorch(module, centres, key), "callback": through_jax(module, "callback", centres, key)}
    if not arguments.without_torchax:
        ways["torchax"] = through_jax(module, "torchax", centres, key)
    batches = {name: fastest({batch: way(batch) for batch in BATCHES}) for name, way in ways.items()}
    contestants = {name: way(batches[name]) for name, way in ways.items()}
    values = {name: way() for name, way in contestants.items()}
    seconds = take_turns(contestants, arguments.rounds)
    result = {"points": arguments.points, "threads": arguments.threads, "rounds": arguments.rounds, "batch": batches}
    result["seconds"] = {name: statistics.median(found) for name, found in seconds.items()}
    for name in contestants:
        if name != "pytorch":
            found = ratios(seconds[name], seconds["pytorch"])
            result[name] = {"ratio": statistics.median(found), "low": min(found), "high": max(found)}
            result[name]["largest_difference"] = float(np.abs(values[name] - values["pytorch"]).max())
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
