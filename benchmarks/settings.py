"""Part 1 of the main experiment, as configured: one source for what both sides compute."""

from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.core.catalogue import CONF


@dataclass(frozen=True)
class Part1:
    """Sizes and settings of part 1, plain numbers, which travel to the PyTorch process as JSON.

    Attributes:
        side, variance: of the triangle mixture.
        n_train, n_repeats, n_samples: training points; repeats per estimate; directions per ball.
        t, radius, p: time of the network; ball; order.
        betas: first and last β of the table, and its length.
        width, depth, embed_dim: of the network.
        n_steps, batch_size, learning_rate, warmup_steps, ema_decay, grad_clip, weight_decay: of the training.
    """

    side: float
    variance: float
    n_train: int
    n_repeats: int
    n_samples: int
    t: int
    radius: float
    p: float
    betas: tuple[float, float, int]
    width: int
    depth: int
    embed_dim: int
    n_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    grad_clip: float | None
    weight_decay: float

    @property
    def n_points(self) -> int:
        """Three means, three midpoints, the centre."""
        return 7

    @property
    def n_balls(self) -> int:
        """Balls per score and estimator."""
        return self.n_points * self.n_repeats


def main_experiment() -> dict[str, Any]:
    """The composed config of the main experiment at its default scale."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", ["+exp=gmm_memorization"]), resolve=True)


def part_1() -> Part1:
    """Part 1 as ``make run`` computes it."""
    config = main_experiment()
    data, critical, flux = config["data"], config["critical"], config["flux"]
    schedule, model, train = config["diffusion"], config["model"], config["train"]
    return Part1(
        side=data["side"],
        variance=data["variance"],
        n_train=critical["n_train"],
        n_repeats=critical["n_repeats"],
        n_samples=flux["n_samples"],
        t=critical["t"],
        radius=flux["radius"],
        p=flux["p"],
        betas=(schedule["beta_start"], schedule["beta_end"], schedule["n_steps"]),
        **{name: model[name] for name in ("width", "depth", "embed_dim")},
        **{
            name: train[name]
            for name in (
                "n_steps",
                "batch_size",
                "learning_rate",
                "warmup_steps",
                "ema_decay",
                "grad_clip",
                "weight_decay",
            )
        },
    )
