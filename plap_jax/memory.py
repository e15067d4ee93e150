"""One memory cap, from which every batch size and every chunk of products follows."""

from __future__ import annotations

# Numbers in the points at which a network is asked at a time: 4 MiB in float32. A network's own arrays are some hundred
# times as large (a U-Net of 64 channels at full resolution: some 500 MiB), and beyond that a batch gains no speed.
NUMBERS = 2**20
# Small points are not worth more: their network fills a processor with as many.
EVALUATIONS = 2**12


def evaluations_at_once(dim: int) -> int:
    """Network evaluations at a time, at points of d = ``dim`` coordinates: min(4,096, 2²⁰/d), at least 1."""
    return max(1, min(EVALUATIONS, NUMBERS // dim))


def points_at_once(dim: int, nfe: int) -> int:
    """Points at a time, at least 1, if each takes ``nfe`` evaluations."""
    return max(1, evaluations_at_once(dim) // max(1, nfe))


def products_at_once(dim: int, n_points: int = 1) -> int:
    """Jacobian-vector products at a time, at least 1, at each of ``n_points`` points: one counts as two evaluations."""
    return points_at_once(dim, 2 * n_points)
