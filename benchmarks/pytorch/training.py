"""Denoising score matching in eager PyTorch: the steps that ``plap_jax.training`` takes, with its settings."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.pytorch.network import Predictor

# What it shares with ``TrainConfig``.
SETTINGS = ("n_steps", "batch_size", "learning_rate", "warmup_steps", "ema_decay", "grad_clip", "weight_decay")


def train(
    network: Predictor,
    data: Tensor,
    *,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    ema_decay: float,
    grad_clip: float | None,
    weight_decay: float,
    predict: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Predictor:
    """AdamW on E|ε̂(α x₀ + σ ε, t) − ε|²/d, warm-up and cosine decay; returns the network with averaged weights.

    Args:
        network: the untrained network, which is changed.
        data: ``(n, *shape)``.
        n_steps, batch_size, learning_rate, warmup_steps, ema_decay, grad_clip, weight_decay: as in ``TrainConfig``.
        predict: what is called in place of ``network``, as what ``torch.compile`` made of it.
    """
    weights, average = list(network.parameters()), copy.deepcopy(network)
    averaged = list(average.parameters())
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay, fused=True)
    times, predict = len(network.alphas), network if predict is None else predict
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _share(step, n_steps, warmup_steps)
        x0 = data[torch.randint(len(data), (batch_size,))]
        t = torch.randint(times, (batch_size,))
        noise = torch.randn_like(x0)
        prediction = predict(network.noised(x0, t, noise), t)
        loss = torch.nn.functional.mse_loss(prediction, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(weights, grad_clip)
        optimizer.step()
        decay = min(ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, weights, 1 - decay)
    return average


def _share(step: int, n_steps: int, warmup_steps: int) -> float:
    """The learning rate of a step as a share of its peak."""
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (n_steps - warmup_steps)))
