"""The tracker that keeps nothing, which is also the interface of every tracker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.core.report import Report


class Tracker:
    """``tracking=disabled``; subclasses send the same calls to a service."""

    def start(self, *, directory: Path, group: str, config: dict[str, Any]) -> None:
        """Opens a record of the run in ``directory``; the runs of one sweep share ``group``."""

    def curve(self, name: str, values: Sequence[float], *, first_step: int = 0, every: int = 1) -> None:
        """A training curve, or the next piece of one: ``values[i]`` belongs to step ``first_step + i * every``."""

    def publish(self, report: Report) -> None:
        """Everything that the run left behind: metrics, tables, figures, checkpoints."""

    def finish(self, *, failed: bool) -> None:
        """Closes the record."""
