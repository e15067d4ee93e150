"""A PyTorch module called from JAX on the card, where both frameworks see it: by DLPack, not through the host."""

import jax
import numpy as np
import torch

from plap_jax.pretrained.callback import as_callback


class Predictor(torch.nn.Module):
    """A convolution that knows its time, with fixed weights."""

    def __init__(self, channels: int) -> None:
        """``channels`` in and out."""
        super().__init__()
        self.convolution = torch.nn.Conv2d(channels, channels, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for weight in self.parameters():
            weight.data.copy_(torch.randn(weight.shape, generator=generator))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """``(n, c, h, w)`` at the times ``(n,)``."""
        return torch.tanh(self.convolution(x)) * t[:, None, None, None]


def both(points: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Values through JAX with the module on ``device``, mapped over three times; and by PyTorch alone on the CPU.

    Args:
        points: ``(n, h, w, c)`` float32.
        device: PyTorch's name of it.
    """
    images, times = np.moveaxis(points, -1, 1), np.linspace(0.2, 0.8, 3, dtype=np.float32)
    module = Predictor(images.shape[1])
    with torch.inference_mode():
        rows = [module(torch.tensor(images), torch.full((len(images),), float(t))).numpy() for t in times]
    call = as_callback(module.to(device))
    mapped = jax.vmap(lambda t: call(images, jax.numpy.full(len(images), t)))
    return jax.device_get(jax.jit(mapped)(times)), np.stack(rows)
