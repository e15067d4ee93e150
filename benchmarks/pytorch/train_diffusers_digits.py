"""A diffusers U-Net trained in PyTorch on digits with planted copies, then audited through JAX.

``python -m benchmarks.pytorch.train_diffusers_digits [--folder FOLDER] [--steps N]``, in an environment with the extra
``torch``. Prints, as JSON: AUC of κ_1 of planted training images against held-out ones, and how far κ_1 through JAX
lies from κ_1 by PyTorch's forward passes, on the same directions and on fresh ones.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from benchmarks.pytorch.fluxes import unit_directions
from benchmarks.pytorch.training import train
from plap_jax._flux import FluxEstimator
from plap_jax.data import Planted, digits, plant
from plap_jax.detectors import FluxDensity, Query
from plap_jax.directions import sample_directions
from plap_jax.metrics import auc
from plap_jax.parallel import map_points
from plap_jax.pretrained import Pretrained, load_diffusers

SIDE = 8


@dataclass(frozen=True)
class DigitsTraining:
    """30 digits in 30 copies each and 300 single ones: three quarters of what training draws is planted."""

    n_planted: int = 30
    copies: int = 30
    n_single: int = 300
    n_heldout: int = 300
    channels: tuple[int, int] = (32, 64)
    n_steps: int = 600
    batch_size: int = 128
    learning_rate: float = 2e-3
    sigma: float = 0.2
    n_samples: int = 64
    n_compared: int = 20  # half planted, half held out
    seed: int = 0


@dataclass(frozen=True)
class NoiseAgreement:
    """κ_1 through JAX and by PyTorch's forward passes."""

    largest_difference_same_directions: float
    largest_standard_errors_fresh_directions: float
    root_mean_square_standard_errors: float


class Flat(torch.nn.Module):
    """The U-Net on flat points, with the levels of its scheduler: what ``training.train`` takes."""

    def __init__(self, unet: UNet2DModel, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("alphas", scheduler.alphas_cumprod.sqrt())
        self.register_buffer("sigmas", (1 - scheduler.alphas_cumprod).sqrt())

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """α x₀ + σ ε of ``(batch, 64)`` points at timesteps ``(batch,)``."""
        return self.alphas[t][:, None] * x0 + self.sigmas[t][:, None] * noise

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """ε̂ of ``(batch, 64)`` at timesteps ``(batch,)``."""
        return self.unet(x.reshape(-1, 1, SIDE, SIDE), t, return_dict=False)[0].flatten(1)


def planted_digits(settings: DigitsTraining) -> Planted:
    """Digits of which some stand in the training set several times."""
    data = digits(seed=settings.seed, n_heldout=settings.n_heldout)
    doses = {settings.copies: settings.n_planted}
    return plant(data.train, doses=doses, n_single=settings.n_single, heldout=data.heldout)


def small_unet(channels: tuple[int, int], **more: int) -> UNet2DModel:
    """For digits, two levels, attention on the lower one; more arguments as of diffusers."""
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=channels,
        norm_num_groups=8,
        attention_head_dim=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **more,
    )


def trained(planted: Planted, settings: DigitsTraining) -> Flat:
    """A small U-Net after its training, with averaged weights."""
    torch.manual_seed(settings.seed)
    return train(
        Flat(small_unet(settings.channels), DDPMScheduler()),
        torch.from_numpy(planted.train.reshape(-1, SIDE * SIDE)),
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.n_steps // 20,
        ema_decay=0.995,
        grad_clip=1.0,
        weight_decay=0.0,
    ).eval()


def save(network: Flat, folder: str | Path) -> None:
    """A DDPM pipeline, as others hand theirs over."""
    DDPMPipeline(network.unet, DDPMScheduler()).save_pretrained(folder)


def found(model: Pretrained, planted: Planted, settings: DigitsTraining) -> dict[str, float]:
    """AUC of planted and of single training images against held-out ones."""
    detector = FluxDensity(settings.sigma, n_samples=settings.n_samples)
    scores = detector.scores(model.diffusion, Query(planted.points), key=jax.random.key(settings.seed))
    heldout = scores[planted.is_heldout]
    return {
        "auc_planted": auc(scores[planted.is_planted], heldout),
        "auc_single": auc(scores[planted.is_single], heldout),
        "mean_planted": float(scores[planted.is_planted].mean()),
        "mean_heldout": float(heldout.mean()),
    }


def cosines(network: Flat, centre: np.ndarray, directions: Tensor, radius: float, t: int) -> np.ndarray:
    """⟨ε̂, n⟩/|ε̂| at centre + r n for unit directions ``(m, 64)``, by forward passes of PyTorch: their mean is κ_1."""
    with torch.inference_mode():
        x = torch.from_numpy(centre.reshape(-1)) + float(radius) * directions
        noise = network(x, torch.full((len(x),), t))
        return torch.nn.functional.cosine_similarity(noise, directions).numpy()


def agreement(model: Pretrained, network: Flat, points: np.ndarray, settings: DigitsTraining) -> NoiseAgreement:
    """κ_1 of points on the directions that JAX drew, and on directions that PyTorch draws.

    On fresh directions: (difference) / √(sum of both squared standard errors), point by point.
    """
    diffusion, key = model.diffusion, jax.random.key(settings.seed + 1)
    t = int(diffusion.schedule.time_at(settings.sigma))
    radius = diffusion.ball(points[0], t)[1]
    centres = np.asarray(diffusion.schedule.alpha(t)) * points
    estimator = FluxEstimator(diffusion.score_at(t), radius, key, n_samples=settings.n_samples)
    estimates = map_points(estimator, centres, batch_size=8)
    drawn = sample_directions(key, settings.n_samples, points.shape[1:])
    drawn = torch.from_numpy(np.array(drawn).reshape(settings.n_samples, -1))

    torch.manual_seed(settings.seed)
    same = np.array([cosines(network, centre, drawn, radius, t).mean() for centre in centres])
    fresh = unit_directions(len(centres), settings.n_samples, SIDE * SIDE)
    fresh = np.array([cosines(network, centre, n, radius, t) for centre, n in zip(centres, fresh, strict=True)])
    stderr = np.hypot(estimates.stderr, fresh.std(axis=1, ddof=1) / settings.n_samples**0.5)
    off = (estimates.value - fresh.mean(axis=1)) / stderr
    return NoiseAgreement(
        float(np.abs(estimates.value - same).max()), float(np.abs(off).max()), float(np.sqrt(np.mean(off**2)))
    )


def main() -> None:
    """Trains, saves, loads through JAX, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/diffusers_digits"), help="where the model is saved"
    )
    parser.add_argument("--steps", type=int, default=DigitsTraining.n_steps, help="training steps")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = DigitsTraining(n_steps=arguments.steps, seed=arguments.seed)
    planted = planted_digits(settings)
    start = time.perf_counter()
    network = trained(planted, settings)
    training = time.perf_counter() - start
    save(network, arguments.folder)
    model = load_diffusers(arguments.folder)
    start = time.perf_counter()
    result = found(model, planted, settings)
    scoring = time.perf_counter() - start
    heldout = planted.points[planted.is_heldout]
    points = np.concatenate([planted.points[: settings.n_compared // 2], heldout[: settings.n_compared // 2]])
    result |= asdict(agreement(model, network, points, settings))
    print(json.dumps(asdict(settings) | result | {"seconds_training": training, "seconds_scoring": scoring}, indent=2))


if __name__ == "__main__":
    main()
