"""Digits with planted copies, learned by other people's code in PyTorch, then audited through JAX.

``python -m benchmarks.pytorch.foreign PACKAGE [--folder FOLDER] [--steps N]``, in the environment of ``make
test-torch``; PACKAGE is denoising-diffusion-pytorch or smalldiffusion. Network, schedule and training are the package's
own. Prints, as JSON: AUC of planted training images against held-out ones in an audit, and how far κ_1 lies from a loop
in plain PyTorch over the package's own noise prediction.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.pytorch.fluxes import boundary
from plap_jax import EDM, DiscreteVP, audit_images, load_torch
from plap_jax._flux import FluxEstimator
from plap_jax.data import Planted, digits, plant
from plap_jax.directions import sample_directions
from plap_jax.metrics import auc
from plap_jax.parallel import map_points
from plap_jax.pretrained import Pretrained

EXAMPLES = Path(sys.prefix) / "examples"
SIDE = 8
SHAPE = (SIDE, SIDE, 1)
N_STEPS = {"denoising-diffusion-pytorch": 600, "smalldiffusion": 600}
BATCH_SIZE = 64
WEIGHTS = "weights.pt"


@dataclass(frozen=True)
class Loaded:
    """A model as an audit takes it, and what the package itself says of its noise.

    Attributes:
        model: by ``load_torch``.
        noise: ε̂ of ``(batch, 1, 8, 8)`` at one time, by the package's own methods.
        level: the package's own α and σ at one time.
        time: at which both are compared, in its own terms.
    """

    model: Pretrained
    noise: Callable[[Tensor, Tensor], Tensor]
    level: tuple[float, float]
    time: float | int


def planted_digits(seed: int) -> Planted:
    """30 digits in 30 copies each and 300 single ones: three quarters of what training draws is planted."""
    data = digits(seed=seed, n_heldout=300)
    return plant(data.train, doses={30: 30}, n_single=300, heldout=data.heldout)


def package(name: str) -> ModuleType:
    """A package that imports torchvision, of which only Python code is used.

    Beside a CPU build of PyTorch, torchvision of the package index lacks its compiled operators, and would not be
    imported, neither here nor by transformers. Hence a folder of its own, see the Makefile.
    """
    if EXAMPLES.is_dir() and str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    with _operators_that_may_be_missing():
        return importlib.import_module(name.replace("-", "_"))


@contextmanager
def _operators_that_may_be_missing():
    register = torch.library.register_fake

    def lenient(operator, *arguments, **more):
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *arguments, **more)

    torch.library.register_fake = lenient
    try:
        yield
    finally:
        torch.library.register_fake = register


def gaussian_diffusion() -> torch.nn.Module:
    """A network of denoising-diffusion-pytorch with its defaults: v prediction, 1,000 steps of a sigmoid schedule."""
    ddpm = package("denoising-diffusion-pytorch")
    return ddpm.GaussianDiffusion(ddpm.Unet(dim=16, dim_mults=(1, 2), channels=1), image_size=SIDE)


def train_gaussian_diffusion(planted: Planted, folder: Path, n_steps: int) -> None:
    """By the package's ``Trainer``, which reads a folder of pictures and keeps averaged weights."""
    (folder / "pictures").mkdir(parents=True)
    for i, image in enumerate(planted.train):
        pixels = np.uint8(np.round(127.5 * (image[..., 0] + 1)))
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
    trainer = package("denoising-diffusion-pytorch").Trainer(
        gaussian_diffusion(),
        folder / "pictures",
        augment_horizontal_flip=False,
        train_batch_size=BATCH_SIZE,
        train_lr=2e-3,
        train_num_steps=n_steps,
        ema_update_every=1,
        save_and_sample_every=n_steps + 1,
        calculate_fid=False,
        results_folder=folder,
    )
    trainer.train()
    torch.save(trainer.ema.ema_model.state_dict(), folder / WEIGHTS)


def load_gaussian_diffusion(folder: Path) -> Loaded:
    """The network inside, with the package's own table of β."""
    diffusion = gaussian_diffusion()
    diffusion.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    diffusion.eval()
    schedule = DiscreteVP(diffusion.betas)
    model = load_torch(diffusion.model, schedule, "v", SHAPE)
    t = int(schedule.time_at(0.2))
    level = (float(diffusion.sqrt_alphas_cumprod[t]), float(diffusion.sqrt_one_minus_alphas_cumprod[t]))
    return Loaded(model, lambda x, t: diffusion.model_predictions(x, t).pred_noise, level, t)


def scaled_unet() -> torch.nn.Module:
    """A network of smalldiffusion: ε from x₀ + σ ε, its input scaled to variance about one."""
    small = package("smalldiffusion")
    return small.Scaled(small.Unet)(SIDE, 1, 1, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))


def train_scaled_unet(planted: Planted, folder: Path, n_steps: int) -> None:
    """By the package's ``training_loop``, on its log-linear schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    small, model = package("smalldiffusion"), scaled_unet()
    images = torch.from_numpy(np.moveaxis(planted.train, -1, 1).copy())
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH_SIZE, shuffle=True)
    schedule = small.ScheduleLogLinear(N=500, sigma_min=0.02, sigma_max=10)
    epochs = -(-n_steps // len(loader))
    for _ in small.training_loop(loader, model, schedule, epochs=epochs, lr=1e-3):
        pass
    torch.save(model.state_dict(), folder / WEIGHTS)


def load_scaled_unet(folder: Path) -> Loaded:
    """Its σ is the time of ``EDM``, and comes with the axes of images."""
    network = scaled_unet()
    network.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    network.eval()

    def noise(x: Tensor, sigma: Tensor) -> Tensor:
        return network.predict_eps(x, sigma[:, None, None, None])

    model = load_torch(noise, EDM(sigma_min=0.02, sigma_max=10), "eps", SHAPE)
    return Loaded(model, noise, (1.0, 0.2), 0.2)


TRAIN = {"denoising-diffusion-pytorch": train_gaussian_diffusion, "smalldiffusion": train_scaled_unet}
LOAD = {"denoising-diffusion-pytorch": load_gaussian_diffusion, "smalldiffusion": load_scaled_unet}


def audited(loaded: Loaded, planted: Planted, seed: int) -> dict[str, float]:
    """The planted images and a third of the held-out ones, audited with the others as the reference."""
    heldout = planted.points[planted.is_heldout]
    images = np.concatenate([planted.points[planted.is_planted], heldout[:100]])
    result = audit_images(loaded.model, images, reference=heldout[100:], key=jax.random.key(seed))
    n = int(planted.is_planted.sum())
    found = {"auc": auc(result.score[:n], result.score[n:])}
    return found | {"flagged_planted": int(result.flagged[:n].sum()), "flagged_heldout": int(result.flagged[n:].sum())}


def largest_difference(loaded: Loaded, points: np.ndarray, seed: int, n_samples: int = 64) -> float:
    """|κ_1 through JAX − κ_1 of a loop in plain PyTorch| on the same directions, at most over the points."""
    diffusion, key, (alpha, sigma) = loaded.model.diffusion, jax.random.key(seed), loaded.level
    radius = sigma * points[0].size ** 0.5
    estimator = FluxEstimator(diffusion.score_at(loaded.time), radius, key, n_samples=n_samples)
    found = map_points(estimator, np.float32(alpha) * points, batch_size=8).value
    drawn = torch.tensor(np.asarray(sample_directions(key, n_samples, SHAPE))).reshape(1, n_samples, 1, SIDE, SIDE)

    def score(x: Tensor) -> Tensor:
        return -loaded.noise(x, torch.full((len(x),), loaded.time)) / sigma

    centres = alpha * torch.from_numpy(np.moveaxis(points, -1, 1).copy())
    expected = torch.cat([boundary(score, centre[None], drawn, radius, 1.0) for centre in centres])
    return float(np.abs(found - expected.numpy()).max())


def main() -> None:
    """Trains where no weights are there yet, loads through JAX, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=sorted(TRAIN))
    parser.add_argument("--folder", type=Path, help="for the weights; outputs/PACKAGE by default")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-train", action="store_true", help="and load nothing into JAX")
    arguments = parser.parse_args()
    name, seed = arguments.package, arguments.seed
    folder = arguments.folder or Path("outputs") / name
    planted, start = planted_digits(seed), time.perf_counter()
    if not (folder / WEIGHTS).is_file():
        torch.manual_seed(seed)
        TRAIN[name](planted, folder, arguments.steps or N_STEPS[name])
    result = {"package": name, "seconds_training": time.perf_counter() - start}
    if not arguments.only_train:
        loaded = LOAD[name](folder)
        result |= audited(loaded, planted, seed)
        points = np.concatenate([planted.points[:5], planted.points[-5:]])
        result["largest_difference"] = largest_difference(loaded, points, seed)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
