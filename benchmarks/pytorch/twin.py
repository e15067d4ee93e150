"""From a JAX network to its PyTorch twin, so that both sides compute the same function."""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pytorch.network import NoisePredictor, Predictor
from benchmarks.pytorch.unet import UNetPredictor
from experiments.shared.random_networks import evaluate
from plap_jax.diffusion import Diffusion
from plap_jax.networks.mlp import ResidualMLP
from plap_jax.networks.unet import UNet


def twin(diffusion: Diffusion) -> Predictor:
    """A ``Predictor`` with the weights of ``diffusion``, which must predict ε and be told the log-SNR.

    Raises:
        ValueError: a network, schedule or prediction that this twin does not have.
    """
    network, schedule = diffusion.network, diffusion.schedule
    fits = isinstance(network, ResidualMLP | UNet) and network.captions is None and schedule.discrete
    if not fits or (diffusion.prediction, diffusion.conditioning) != ("eps", "log_snr"):
        raise ValueError(f"diffusion={diffusion!r:.80}: must hold a network of ours without captions that predicts eps")
    times = np.arange(int(schedule.t_max) + 1)
    levels = (schedule.alpha(times), schedule.sigma(times), diffusion.data_std)
    copy = (_mlp if isinstance(network, ResidualMLP) else _unet)(network, levels)
    _linear(network.embed, copy.embed)
    return copy


def images_first(points: np.ndarray) -> Tensor:
    """Points ``(n, d)`` as they are, images ``(n, h, w, c)`` with their channels first."""
    tensor = torch.tensor(points)
    return tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor


@torch.no_grad()
def require_agreement(diffusion: Diffusion, copy: Predictor, t: int, tolerance: float = 1e-4) -> None:
    """Refuses to compare the speed of two networks that differ.

    Raises:
        RuntimeError: ε̂ differs by more than ``tolerance`` at one of 64 random points at time t.
    """
    points = np.random.default_rng(0).standard_normal((64, *diffusion.network.shape)).astype(np.float32)
    ours = images_first(np.array(evaluate(diffusion.eps_at(t), points))).numpy()
    theirs = copy(images_first(points), torch.tensor([t])).numpy()
    difference = np.abs(ours - theirs).max()
    if not difference <= tolerance:
        raise RuntimeError(f"the PyTorch twin differs by {difference:.3g} at t={t}: must agree to {tolerance:g}")


def _mlp(network: ResidualMLP, levels: tuple) -> NoisePredictor:
    dim, width = network.first.kernel.shape
    copy = NoisePredictor(dim, width, len(network.blocks), network.embed_dim, *levels)
    _linear(network.first, copy.first)
    _linear(network.last, copy.last)
    for ours, theirs in zip(network.blocks, copy.blocks, strict=True):
        for name in ("inner", "told", "outer"):
            _linear(getattr(ours, name), getattr(theirs, name))
    return copy


def _unet(network: UNet, levels: tuple) -> UNetPredictor:
    widths = [blocks[0].inner.kernel.shape[-1] for blocks in network.down]
    attention = [i for i, blocks in enumerate(network.down) if blocks[0].attention is not None]
    sizes = (network.embed_dim, network.norm.groups, network.patch)
    copy = UNetPredictor(network.shape[2], widths, len(network.down[0]), attention, *sizes, *levels)
    _convolution(network.first, copy.first, folded_in=network.patch)
    _convolution(network.last, copy.last, folded_out=network.patch)
    for ours, theirs in zip(network.coarser, copy.coarser, strict=True):
        _convolution(ours, theirs, folded_in=2)
    for ours, theirs in zip(network.finer, copy.finer, strict=True):
        _convolution(ours, theirs, folded_out=2)
    _norm(network.norm, copy.norm)
    for ours, theirs in zip(_blocks(network), _blocks(copy), strict=True):
        _block(ours, theirs)
    return copy


def _blocks(network: UNet | UNetPredictor) -> list:
    return [network.middle, *(block for side in (network.down, network.up) for level in side for block in level)]


def _block(ours, theirs) -> None:
    _norm(ours.before, theirs.before)
    _convolution(ours.inner, theirs.inner)
    _linear(ours.told, theirs.told)
    _convolution(ours.outer, theirs.outer)
    if ours.shortcut is not None:
        _convolution(ours.shortcut, theirs.shortcut)
    if ours.attention is not None:
        _norm(ours.attention.norm, theirs.attention.norm)
        _linear(ours.attention.project, theirs.attention.project)
        _linear(ours.attention.out, theirs.attention.out)


@torch.no_grad()
def _linear(ours, theirs: nn.Linear) -> None:
    theirs.weight.copy_(_tensor(ours.kernel).T)
    if theirs.bias is not None:
        theirs.bias.copy_(_tensor(ours.bias))


@torch.no_grad()
def _convolution(ours, theirs: nn.Conv2d, folded_in: int = 1, folded_out: int = 1) -> None:
    """A convolution or a dense layer at every pixel; which channels stand for which pixel of a square differs."""
    kernel, bias = _tensor(ours.kernel), _tensor(ours.bias)
    kernel = kernel if kernel.ndim == 4 else kernel[None, None]
    rows, columns = _order(kernel.shape[2], folded_in), _order(kernel.shape[3], folded_out)
    theirs.weight.copy_(kernel[:, :, rows][:, :, :, columns].permute(3, 2, 0, 1))
    theirs.bias.copy_(bias[columns])


@torch.no_grad()
def _norm(ours, theirs: nn.GroupNorm) -> None:
    theirs.weight.copy_(_tensor(ours.scale))
    theirs.bias.copy_(_tensor(ours.shift))


def _order(n: int, side: int) -> np.ndarray:
    """Of channels (pixel of the square, channel), the order (channel, pixel of the square)."""
    return np.arange(n).reshape(side**2, -1).T.ravel()


def _tensor(parameter) -> Tensor:
    return torch.tensor(np.array(parameter[...]))
