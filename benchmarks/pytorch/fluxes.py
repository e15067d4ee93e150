"""κ_p by boundary and by volume, as research code writes it (point by point) and as good eager code does (by ball).

A score here is a function of ``(batch, dim)`` points. Every function takes the unit directions or unit-ball points
that it is to use and returns one number: −E_n[ |s|^{p−2} ⟨s, n⟩ ] at x + r n, or −(r/d) E_y[ Δ_p u(x + r y) ].
"""

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


def boundary_by_point(score: Score, centre: Tensor, directions: Tensor, radius: float, p: float) -> float:
    """κ_p over a ball's boundary, with one network call per direction."""
    total = 0.0
    for n in directions:
        with torch.no_grad():
            s = score((centre + radius * n)[None])[0]
        total -= (s.norm() ** (p - 2) * torch.dot(s, n)).item()
    return total / len(directions)


def volume_by_point(score: Score, centre: Tensor, inside: Tensor, radius: float, p: float) -> float:
    """κ_p from the ball's volume, with one network call per point and one backward pass per coordinate."""
    total = 0.0
    for n in inside:
        x = (centre + radius * n).requires_grad_()
        s = score(x[None])[0]
        field = s.norm() ** (p - 2) * s
        for i in range(len(x)):
            (gradient,) = torch.autograd.grad(field[i], x, retain_graph=i + 1 < len(x))
            total += gradient[i].item()
    return -radius / len(centre) * total / len(inside)


def boundary_by_ball(score: Score, centre: Tensor, directions: Tensor, radius: float, p: float) -> float:
    """κ_p over a ball's boundary, with one network call for all directions."""
    with torch.inference_mode():
        s = score(centre + radius * directions)
        inward = -(s.norm(dim=1) ** (p - 2)) * (s * directions).sum(dim=1)
        return inward.mean().item()


def volume_by_ball(score: Score, centre: Tensor, inside: Tensor, radius: float, p: float) -> float:
    """κ_p from the ball's volume, with one network call for all points and one backward pass per coordinate."""
    x = (centre + radius * inside).requires_grad_()
    s = score(x)
    field = s.norm(dim=1, keepdim=True) ** (p - 2) * s
    divergence = torch.zeros(len(x))
    for i in range(x.shape[1]):
        (gradient,) = torch.autograd.grad(field[:, i].sum(), x, retain_graph=i + 1 < x.shape[1])
        divergence += gradient[:, i]
    return -radius / len(centre) * divergence.mean().item()


def boundary_by_batch(score: Score, centres: Tensor, directions: Tensor, radius: float, p: float) -> Tensor:
    """κ_p ``(batch,)`` of balls ``(batch, *shape)`` over the same ``(n, *shape)`` directions, by one network call."""
    with torch.inference_mode():
        s = score((centres[:, None] + radius * directions).flatten(0, 1))
        s, n = s.reshape(len(centres), len(directions), -1), directions.flatten(1)
        return (-(s.norm(dim=2) ** (p - 2)) * (s * n).sum(dim=2)).mean(dim=1)


def unit_directions(n_balls: int, n: int, dim: int) -> Tensor:
    """``(n_balls, n, dim)`` uniform directions."""
    normals = torch.randn(n_balls, n, dim)
    return normals / normals.norm(dim=2, keepdim=True)


def unit_ball(n_balls: int, n: int, dim: int) -> Tensor:
    """``(n_balls, n, dim)`` uniform points of the unit ball."""
    return unit_directions(n_balls, n, dim) * torch.rand(n_balls, n, 1) ** (1 / dim)


BY_POINT = {"boundary": boundary_by_point, "volume": volume_by_point}
BY_BALL = {"boundary": boundary_by_ball, "volume": volume_by_ball}
STYLES = {"point": BY_POINT, "ball": BY_BALL}
DRAWS = {"boundary": unit_directions, "volume": unit_ball}
