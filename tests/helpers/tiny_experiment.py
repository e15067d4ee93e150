"""An experiment small enough for tests of everything around an experiment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section
from experiments.core.tracker import Tracker
from experiments.figures.style import grid, save
from plap_jax.metrics import mean_interval
from plap_jax.typing import require


@dataclass(frozen=True)
class TinyTraining:
    """Something with a range of its own, which the config check meets by making it."""

    n_steps: int
    rate: float = 1e-3

    def __post_init__(self) -> None:
        require(self.n_steps >= 1, "n_steps", self.n_steps, "must be >= 1")


class Sample(Section):
    """What is drawn."""

    n: int = Field(ge=2)
    spread: float = Field(gt=0)
    fail: Literal["none", "value", "bug"]


class Config(RunConfig):
    """The config of the tiny experiment."""

    sample: Sample


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Mean and spread of a normal sample; the cached stage depends on seed and n, not on flux."""
    sample = config.sample
    require(sample.fail != "value", "sample.fail", sample.fail, "must be none")
    if sample.fail == "bug":
        raise AttributeError("a bug")

    def draw() -> dict[str, np.ndarray]:
        return {"x": np.random.default_rng(config.seed).normal(0, sample.spread, sample.n)}

    with report.stage("draw"):
        x = cache.arrays("draw", {"seed": config.seed, "sample": sample.model_dump()}, draw)["x"]
    report.fingerprint("x", x)
    tracker.curve("draw/loss", x**2)
    report.metric("moments/mean", mean_interval(x + config.flux.p))
    report.metric("moments/spread", float(np.std(x)))
    report.metric("moments/nothing", None, reason="no such class")
    report.arrays("x", x=x)
    report.table("x", [{"i": i, "x": value} for i, value in enumerate(x)])
    source = cache.stage("network", {"seed": config.seed}, lambda d: np.save(d / "weights.npy", x))
    report.checkpoint("network", source)


def draw(directory: Path) -> None:
    """The sample, from ``arrays/x.npz``."""
    figure, axes = grid(1, 1, width=2, height=1.5)
    axes[0, 0].plot(np.load(directory / "arrays" / "x.npz")["x"])
    save(figure, directory / "figures", "x")
