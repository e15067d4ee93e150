"""From a JAX network to its PyTorch twin, so that both sides compute the same function."""

import jax
import numpy as np
import torch

from benchmarks.pytorch.network import NoisePredictor
from plap_jax.diffusion import Diffusion
from plap_jax.networks.mlp import ResidualMLP


def twin(diffusion: Diffusion) -> NoisePredictor:
    """A ``NoisePredictor`` with the weights of ``diffusion``, which must predict ε and be told the log-SNR.

    Raises:
        ValueError: a network, schedule or prediction that this twin does not have.
    """
    network, schedule = diffusion.network, diffusion.schedule
    fits = isinstance(network, ResidualMLP) and network.captions is None and schedule.discrete
    if not fits or (diffusion.prediction, diffusion.conditioning) != ("eps", "log_snr"):
        raise ValueError(f"diffusion={diffusion!r:.80}: must hold a ResidualMLP without captions that predicts eps")
    times = np.arange(int(schedule.t_max) + 1)
    dim, width = network.first.kernel.shape
    copy = NoisePredictor(
        dim,
        width,
        len(network.blocks),
        network.embed_dim,
        schedule.alpha(times),
        schedule.sigma(times),
        diffusion.data_std,
    )
    _copy(network, copy)
    return copy


@torch.no_grad()
def require_agreement(diffusion: Diffusion, copy: NoisePredictor, t: int, tolerance: float = 1e-4) -> None:
    """Refuses to compare the speed of two networks that differ.

    Raises:
        RuntimeError: ε̂ differs by more than ``tolerance`` at one of 64 random points at time t.
    """
    points = np.random.default_rng(0).standard_normal((64, copy.last.out_features)).astype(np.float32)
    ours = np.asarray(jax.vmap(diffusion.eps_at(t))(points))
    theirs = copy(torch.tensor(points), torch.tensor([t])).numpy()
    difference = np.abs(ours - theirs).max()
    if not difference <= tolerance:
        raise RuntimeError(f"the PyTorch twin differs by {difference:.3g} at t={t}: must agree to {tolerance:g}")


@torch.no_grad()
def _copy(network: ResidualMLP, copy: NoisePredictor) -> None:
    layers = [(network.embed, copy.embed), (network.first, copy.first), (network.last, copy.last)]
    for ours, theirs in zip(network.blocks, copy.blocks, strict=True):
        layers += [(getattr(ours, name), getattr(theirs, name)) for name in ("inner", "told", "outer")]
    for ours, theirs in layers:
        theirs.weight.copy_(torch.tensor(np.asarray(ours.kernel[...]).T.copy()))
        if theirs.bias is not None:
            theirs.bias.copy_(torch.tensor(np.asarray(ours.bias[...])))
