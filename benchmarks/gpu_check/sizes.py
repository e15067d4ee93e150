"""How large everything is: a card's worth, or a trial for any processor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Sizes of networks and batches.

    Attributes:
        image: of the networks that are timed; the MLP sees it as one vector.
        mlp, unet: their sizes, as for ``random_diffusion`` and ``random_unet``.
        checked_image, checked_mlp, checked_unet: of the networks that are compared with the CPU's.
        checked_points, checked_steps, precisions: balls, training steps and precisions of these comparisons.
        n_directions: per ball.
        mlp_balls, unet_balls: by one call.
        mlp_batch, unet_batch: of a training step.
        chunk: products of the exact operator at once.
        square: side of the matrices whose product stands for the card's peak.
        calls: flux calls, matrix products and training steps behind one time.
        runs: times behind one median.
    """

    image: tuple[int, int, int] = (32, 32, 3)
    mlp: Mapping[str, Any] = field(default_factory=lambda: {"width": 2048, "depth": 4, "embed_dim": 256})
    unet: Mapping[str, Any] = field(
        default_factory=lambda: {
            "width": 128,
            "multipliers": (1, 2, 2, 2),
            "n_blocks": 2,
            "attention": (1,),
            "embed_dim": 256,
        }
    )
    checked_image: tuple[int, int, int] = (8, 8, 3)
    checked_mlp: Mapping[str, Any] = field(default_factory=lambda: {"width": 256, "depth": 4, "embed_dim": 64})
    checked_unet: Mapping[str, Any] = field(default_factory=lambda: {"width": 32, "multipliers": (1, 2)})
    checked_points: int = 16
    checked_steps: int = 50
    precisions: tuple[str, ...] = ("highest", "default")
    n_directions: int = 16
    mlp_balls: int = 1024
    unet_balls: int = 32
    mlp_batch: int = 1024
    unet_batch: int = 128
    chunk: int = 256
    square: int = 8192
    calls: int = 10
    runs: int = 5


FULL = Sizes()
# No number of it means anything, but for the comparisons with the CPU.
SMOKE = Sizes(
    image=(4, 4, 3),
    mlp={"width": 16, "depth": 1},
    unet={"width": 8, "multipliers": (1,), "attention": ()},
    checked_image=(4, 4, 3),
    checked_mlp={"width": 16, "depth": 1},
    checked_unet={"width": 8, "multipliers": (1,), "attention": ()},
    checked_points=4,
    checked_steps=5,
    precisions=("default",),
    n_directions=4,
    mlp_balls=8,
    unet_balls=2,
    mlp_batch=8,
    unet_batch=4,
    chunk=16,
    square=128,
    calls=2,
    runs=2,
)
