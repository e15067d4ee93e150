"""κ_p by boundary and by volume in PyTorch: many balls by one network call, as the library itself computes them.

A score here is a function of ``(batch, *shape)`` points. Both functions take balls ``(n_balls, *shape)`` and what was
drawn for them, ``(n_balls, n, *shape)`` or ``(1, n, *shape)`` where all balls share it, and return κ_p ``(n_balls,)``:
−E_n[ |s|^{p−2} ⟨s, n⟩ ] at x + r n, or −(r/d) E_y[ Δ_p u(x + r y) ]. A loop over balls is a batch of one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


def boundary(score: Score, centres: Tensor, directions: Tensor, radius: float, p: float) -> Tensor:
    """κ_p over the boundaries of balls, at unit directions."""
    with torch.inference_mode():
        points = centres[:, None] + radius * directions
        s = score(points.flatten(0, 1)).reshape(*points.shape[:2], -1)
        outward = (s * directions.flatten(2)).sum(dim=2)
        return (-(s.norm(dim=2) ** (p - 2)) * outward).mean(dim=1)


def volume(score: Score, centres: Tensor, inside: Tensor, radius: float, p: float) -> Tensor:
    """κ_p from the volumes of balls ``(n_balls, dim)``, at points of the unit ball; a backward pass per coordinate."""
    x = (centres[:, None] + radius * inside).flatten(0, 1).requires_grad_()
    s = score(x)
    field = s.norm(dim=1, keepdim=True) ** (p - 2) * s
    divergence = torch.zeros(len(x))
    for i in range(x.shape[1]):
        (gradient,) = torch.autograd.grad(field[:, i].sum(), x, retain_graph=i + 1 < x.shape[1])
        divergence += gradient[:, i]
    return -radius / x.shape[1] * divergence.reshape(len(centres), -1).mean(dim=1)


def unit_directions(n_balls: int, n: int, dim: int) -> Tensor:
    """``(n_balls, n, dim)`` uniform directions."""
    normals = torch.randn(n_balls, n, dim)
    return normals / normals.norm(dim=2, keepdim=True)


def unit_ball(n_balls: int, n: int, dim: int) -> Tensor:
    """``(n_balls, n, dim)`` uniform points of the unit ball."""
    return unit_directions(n_balls, n, dim) * torch.rand(n_balls, n, 1) ** (1 / dim)


ESTIMATORS = {"boundary": boundary, "volume": volume}
DRAWS = {"boundary": unit_directions, "volume": unit_ball}


def in_batches(name: str, score: Score, centres: Tensor, n: int, radius: float, p: float, batch: int) -> Tensor:
    """κ_p of balls ``(n_balls, dim)``, ``batch`` of them by one network call, each with ``n`` draws of its own."""
    estimate, draw = ESTIMATORS[name], DRAWS[name]
    parts = [estimate(score, x, draw(len(x), n, x.shape[1]), radius, p) for x in centres.split(batch)]
    return torch.cat(parts)
