"""What everything here builds on: the planted images, the network trained on them, and the control."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from experiments.cache import Cache
from experiments.networks import Trained, trained
from experiments.report import Report
from experiments.schema import RunConfig, Section
from experiments.tracker import Tracker
from plap_jax.data import ImageData, Planted, plant
from plap_jax.typing import require

NETWORK, CONTROL = "network", "control"


class Planting(Section):
    """Which images stand in the training set how often."""

    copies: list[int] = Field(min_length=1, description="the headline is about the most")
    images: list[int] = Field(min_length=1, description="how many images get that many copies")
    n_single: int | None = Field(description="images that stand once; null: all that are left")

    @model_validator(mode="after")
    def _fits(self) -> "Planting":
        allowed = f"must be as long as planting.copies, {len(self.copies)}"
        require(len(self.images) == len(self.copies), "planting.images", self.images, allowed)
        require(len(set(self.copies)) == len(self.copies), "planting.copies", self.copies, "must not repeat a number")
        require(min(self.copies) >= 2, "planting.copies", self.copies, "must be >= 2; single images are n_single")
        require(min(self.images) >= 4, "planting.images", self.images, "must be >= 4, two for each half")
        return self


@dataclass(frozen=True)
class Study:
    """Images with known copies, and two networks: one saw all of them, the control only the single ones.

    Attributes:
        images: planted, single and held-out ones.
        networks: by name.
        headline: the number of copies that the headline numbers are about.
        doses: all numbers of copies, 1 included, ascending.
        drawn: how many rows training has drawn.
    """

    images: Planted
    networks: dict[str, Trained]
    headline: int
    doses: tuple[int, ...]
    drawn: int

    @property
    def reference(self) -> np.ndarray:
        """The images that training has seen, each once: ``(m, h, w, c)``, the first m of ``images.points``."""
        return self.images.points[: self.n_reference]

    @property
    def n_reference(self) -> int:
        """m; held-out images come last."""
        return int((self.images.copies > 0).sum())

    @property
    def visits_per_copy(self) -> float:
        """How often training draws one row of its set."""
        return self.drawn / int(self.images.copies.sum())


def prepare(config: RunConfig, *, report: Report, cache: Cache, tracker: Tracker) -> Study:
    """Loads and plants the images, trains both networks, tells what was found in the data."""
    data, images = planted_images(config, report=report)
    report.table(
        "duplicates", [dict(zip(("kept", "dropped", "distance"), row, strict=True)) for row in data.duplicates]
    )
    report.table("skipped", [{"file": name, "reason": reason} for name, reason in data.skipped])
    for role, chosen in roles(images).items():
        report.metric(f"data/{role}", int(chosen.sum()))
    report.metric("data/near_duplicates_dropped", len(data.duplicates))

    train = config.train.make()
    steps = snapshot_steps(config.learning.n_snapshots, train.n_steps)
    common = {"report": report, "cache": cache, "tracker": tracker}
    jobs = {NETWORK: (images.train, steps), CONTROL: (images.control, ())}
    with ThreadPoolExecutor(len(jobs)) as pool:
        training = {
            name: pool.submit(trained, config, rows, name=name, snapshot_steps=kept, **common)
            for name, (rows, kept) in jobs.items()
        }
    return Study(
        images=images,
        networks={name: job.result() for name, job in training.items()},
        headline=max(config.planting.copies),
        doses=(1, *sorted(config.planting.copies)),
        drawn=train.n_steps * train.batch_size,
    )


def planted_images(config: RunConfig, *, report: Report) -> tuple[ImageData, Planted]:
    """The images of ``config.data``, and these planted as ``config.planting`` says."""
    with report.stage("data"):
        data: ImageData = config.data.make(seed=config.seed)
        part = config.planting
        doses = dict(zip(part.copies, part.images, strict=True))
        images = plant(data.train, doses=doses, n_single=part.n_single, heldout=data.heldout)
    report.fingerprint("images", images.points, images.copies)
    return data, images


def roles(images: Planted) -> dict[str, np.ndarray]:
    """Name → ``(n,)`` booleans: planted, single, heldout."""
    return {"planted": images.is_planted, "single": images.is_single, "heldout": images.is_heldout}


def snapshot_steps(n: int, n_steps: int) -> tuple[int, ...]:
    """n steps from 1 % of the training to its end, in equal ratios."""
    steps = np.unique(np.round(np.geomspace(max(1, n_steps // 100), n_steps, n)).astype(int)) if n > 1 else [n_steps]
    return tuple(int(step) for step in steps[:n])
