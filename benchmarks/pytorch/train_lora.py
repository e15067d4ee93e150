"""A LoRA trained on digits with planted copies, audited with its base as baseline.

``python -m benchmarks.pytorch.train_lora [--folder FOLDER] [--seed N] [--scores FILE]``, in an environment with the
extra ``torch``. A small U-Net of classes (diffusers) is trained on digits, then a LoRA of it (peft) on others, some of
which stand in its training set many times. Prints, as JSON, how well three audits tell planted images from held-out
ones: of the LoRA with its base as baseline, of the LoRA without, and of the base alone.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import peft
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from torch import Tensor

from benchmarks.pytorch.train_diffusers_digits import small_unet
from plap_jax import audit_images, load_diffusers
from plap_jax.audit import AuditResult
from plap_jax.data import digits
from plap_jax.metrics import auc

CLASSES = 10
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "time_emb_proj"]


@dataclass(frozen=True)
class LoraTraining:
    """The base sees 400 digits; the LoRA 20 others in 20 copies each and 40 single ones."""

    n_base: int = 400
    n_planted: int = 20
    copies: int = 20
    n_single: int = 40
    n_heldout: int = 240  # two thirds of them the reference
    channels: tuple[int, int] = (16, 32)
    rank: int = 16
    base_steps: int = 400
    lora_steps: int = 500
    batch_size: int = 64
    learning_rate: float = 4e-3
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Images ``(n, 8, 8, 1)`` and their classes, by what they are for."""

    images: dict[str, np.ndarray]
    classes: dict[str, np.ndarray]


def split(settings: LoraTraining) -> Split:
    """All distinct; held-out ones are seen by nobody."""
    data = digits(seed=settings.seed, n_heldout=settings.n_heldout)
    ends = np.cumsum([settings.n_base, settings.n_planted, settings.n_single])
    third = settings.n_heldout // 3
    names = ("base", "planted", "single")
    images = dict(zip(names, np.split(data.train, ends)[:3], strict=True))
    classes = dict(zip(names, np.split(data.train_labels, ends)[:3], strict=True))
    for name, part in (("heldout", slice(third)), ("reference", slice(third, None))):
        images[name], classes[name] = data.heldout[part], data.heldout_labels[part]
    return Split(images, classes)


def train(module: torch.nn.Module, images: np.ndarray, classes: np.ndarray, steps: int, settings: LoraTraining) -> None:
    """Mean squared error of the noise, by Adam with a linearly falling rate, over the weights that are trained."""
    x0 = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
    labels = torch.from_numpy(classes.astype(np.int64))
    scheduler, generator = DDPMScheduler(), torch.Generator().manual_seed(settings.seed)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=settings.learning_rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    module.train()
    for _ in range(steps):
        rows = torch.randint(len(x0), (settings.batch_size,), generator=generator)
        t = torch.randint(1000, (settings.batch_size,), generator=generator)
        noise = torch.randn(x0[rows].shape, generator=generator)
        told = module(scheduler.add_noise(x0[rows], noise, t), t, class_labels=labels[rows], return_dict=False)[0]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(told, noise).backward()
        optimizer.step()
        falling.step()
    module.eval()


def save_trained(parts: Split, settings: LoraTraining, folder: Path) -> None:
    """``base/``, a pipeline of diffusers, and ``lora/``, as peft saves it."""
    torch.manual_seed(settings.seed)
    unet = small_unet(settings.channels, num_class_embeds=CLASSES)
    train(unet, parts.images["base"], parts.classes["base"], settings.base_steps, settings)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder / "base")
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=TARGETS)
    adapted = peft.get_peft_model(unet, config)
    rows = {"planted": settings.copies, "single": 1}
    images, classes = (
        np.concatenate([np.repeat(kind[name], times, axis=0) for name, times in rows.items()])
        for kind in (parts.images, parts.classes)
    )
    train(adapted, images, classes, settings.lora_steps, settings)
    adapted.save_pretrained(folder / "lora")


def audited(parts: Split, folder: Path, *, lora: bool, base: bool, seed: int) -> tuple[AuditResult, dict[str, Tensor]]:
    """Planted, single and held-out images against the reference, each told its class; and which is which."""
    names = ("planted", "single", "heldout")
    images, classes = (np.concatenate([kind[name] for name in names]) for kind in (parts.images, parts.classes))
    load = partial(load_diffusers, folder / "base", lora=folder / "lora" if lora else None)
    result = audit_images(
        load,
        images,
        prompts=classes.tolist(),
        reference=parts.images["reference"],
        reference_prompts=parts.classes["reference"].tolist(),
        lora_base=base,
        key=jax.random.key(seed),
    )
    kinds = np.repeat(np.arange(3), [len(parts.images[name]) for name in names])
    return result, {name: kinds == i for i, name in enumerate(names)}


def found(result: AuditResult, kinds: dict[str, np.ndarray]) -> dict[str, float]:
    """AUC of planted and of single images against held-out ones, and how many are flagged."""
    heldout = result.score[kinds["heldout"]]
    numbers = {f"auc_{name}": auc(result.score[kinds[name]], heldout) for name in ("planted", "single")}
    return numbers | {f"flagged_{name}": int(result.flagged[kinds[name]].sum()) for name in kinds}


def main() -> None:
    """Trains, saves, audits, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/lora_digits"), help="where models are saved")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scores", type=Path, help="an .npz for the scores of the three audits")
    arguments = parser.parse_args()
    settings = LoraTraining(seed=arguments.seed)
    parts = split(settings)
    if not (arguments.folder / "lora").is_dir():  # else as an earlier run left it
        save_trained(parts, settings, arguments.folder)
    results, scores = {}, {}
    for name, how in (
        ("lora_with_base", {"lora": True, "base": True}),
        ("lora_alone", {"lora": True, "base": False}),
        ("base_alone", {"lora": False, "base": False}),
    ):
        result, kinds = audited(parts, arguments.folder, seed=settings.seed, **how)
        results[name], scores[name] = found(result, kinds), result.score
    if arguments.scores is not None:
        np.savez(arguments.scores, **scores, **{f"is_{name}": which for name, which in kinds.items()})
    print(json.dumps(asdict(settings) | results, indent=2))


if __name__ == "__main__":
    main()
