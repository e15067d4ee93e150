"""What everything here builds on: the planted images, the network trained on them, and the control."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig
from experiments.core.tracker import Tracker
from experiments.shared.networks import MAIN, Trained, at_once, snapshot_steps, trained
from experiments.shared.planting import planted_images
from plap_jax.data import Planted

CONTROL = "control"


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
    jobs = {MAIN: (*images.distinct, steps), CONTROL: (images.control, None, ())}
    with ThreadPoolExecutor(at_once(len(jobs))) as pool:
        training = {
            name: pool.submit(trained, config, points, copies=copies, name=name, snapshot_steps=kept, **common)
            for name, (points, copies, kept) in jobs.items()
        }
    return Study(
        images=images,
        networks={name: job.result() for name, job in training.items()},
        headline=max(config.planting.copies),
        doses=(1, *sorted(config.planting.copies)),
        drawn=train.n_steps * train.batch_size,
    )


def roles(images: Planted) -> dict[str, np.ndarray]:
    """Name → ``(n,)`` booleans: planted, single, heldout."""
    return {"planted": images.is_planted, "single": images.is_single, "heldout": images.is_heldout}
