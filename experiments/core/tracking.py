"""Weights & Biases: the only import of wandb. Offline unless the config says otherwise.

Nothing here may fail a run: the first failure prints one warning and ends the tracking.
"""

import contextlib
import csv
import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import wandb

from experiments.core.ledger import PAGE
from experiments.core.report import Report, flatten
from experiments.core.tracker import Tracker

log = logging.getLogger(__name__)
MAX_CURVE_POINTS = 1000
ONLINE_PATIENCE_S = 30.0


def _harmless(method: Callable[..., None]) -> Callable[..., None]:
    """Nothing happens without an open record; a failure closes it with a warning."""

    @functools.wraps(method)
    def guarded(self: "WandbTracker", *args: Any, **kwargs: Any) -> None:
        if self.is_off:
            return
        try:
            method(self, *args, **kwargs)
        except (Exception, SystemExit) as error:
            self.is_off = True
            log.warning("tracking is off: %s: %s", type(error).__name__, " ".join(str(error).split()))

    return guarded


class WandbTracker(Tracker):
    """Sends a run to W&B, or, offline, to files in the run directory that ``wandb sync`` can send later."""

    def __init__(self, mode: Literal["offline", "online"] = "offline", project: str = "plap-jax"):
        self.mode = mode
        self.project = project
        self.is_off = False

    @_harmless
    def start(self, *, directory: Path, group: str, config: dict[str, Any]) -> None:
        """Opens the record; wandb's own files stay within ``directory``."""
        for kind in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
            place = directory / "wandb" / kind.lower()
            place.mkdir(parents=True, exist_ok=True)
            os.environ[f"WANDB_{kind}_DIR"] = str(place)
        os.environ.setdefault("WANDB_SILENT", "true")  # the setting below leaves its warnings of each file
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
            symlink=False,  # what is kept lies in the record itself
            init_timeout=ONLINE_PATIENCE_S,
        )
        self.run = wandb.init(
            project=self.project,
            dir=directory,
            mode=self.mode,
            group=group,
            name=directory.name,
            config=config,
            settings=settings,
            reinit="finish_previous",
        )

    @_harmless
    def curve(self, name: str, values: Sequence[float], *, first_step: int = 0, every: int = 1) -> None:
        """At most 1,000 points of ``values``, against steps of their own."""
        self.run.define_metric(name, step_metric="step")
        values = np.asarray(values)
        for i in range(0, len(values), -(-len(values) // MAX_CURVE_POINTS) or 1):
            self.run.log({name: float(values[i]), "step": first_step + i * every})

    @_harmless
    def publish(self, report: Report) -> None:
        """Metrics to the summary, flattened; tables; figures as images; checkpoints, and a page with its tables, as
        files of the run.

        Not as artifacts: their records hold absolute paths, which an offline run that was moved would look for.
        """
        self.run.summary.update(flatten(report.metrics))
        for path in sorted(report.directory.glob("tables/*.csv")):
            with path.open(newline="", encoding="utf-8") as handle:
                columns, *rows = csv.reader(handle)
            typed = [_typed(column) for column in zip(*rows, strict=True)]
            cells = [list(row) for row in zip(*typed, strict=True)]
            table = wandb.Table(columns=columns, data=cells)
            table.bind_to_run(self.run, f"tables/{path.stem}", self.run.step)  # bound, it becomes no artifact
            self.run.log({f"tables/{path.stem}": table})
        for path in sorted(report.directory.glob("figures/*.png")):
            self.run.log({f"figures/{path.stem}": wandb.Image(str(path))})
        kept = [path for path in (report.directory / "checkpoints").rglob("*") if path.is_file()]
        if (page := report.directory / PAGE).is_file():
            kept += [page, *report.directory.glob("tables/*.csv")]
        for path in sorted(kept):
            self.run.save(str(path), base_path=str(report.directory), policy="now", glob=False)

    @_harmless
    def finish(self, *, failed: bool) -> None:
        """Closes the record and waits until it is written."""
        self.run.finish(exit_code=int(failed))


def _typed(column: Sequence[str]) -> list[Any]:
    """The cells of a CSV column as numbers, empty ones as None; as they are where one of them is text."""
    cells = [_number(cell) for cell in column]
    return list(column) if any(isinstance(cell, str) for cell in cells) else cells


def _number(cell: str) -> int | float | str | None:
    """What was written as ``cell``: a label such as 007, which no number is written as, stays text."""
    if not cell:
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            if str(kind(cell)) == cell:
                return kind(cell)
    return cell
