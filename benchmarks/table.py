"""One row per measured quantity, and the Markdown table of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from tabulate import tabulate

from benchmarks.formatting import number

COLUMNS = ("what", "median", "min – max", "runs", "goal", "met")


@dataclass(frozen=True)
class Row:
    """A quantity measured several times, and what it should be.

    Attributes:
        what: the quantity, as a reader of the table needs it.
        values: one number per run.
        unit: "s", "ms", "MiB", "/s", "×", …
        at_most, at_least: the goal, in the same unit; None where there is none.
        note: what one must know to read the number (a part that was scaled up), or empty.
    """

    what: str
    values: Sequence[float]
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = field(default="")

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"values={self.values}: must hold at least one number ({self.what})")

    @property
    def median(self) -> float:
        """The median of the runs."""
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal; None without a goal."""
        if self.at_most is None and self.at_least is None:
            return None
        below = self.at_most is None or self.median <= self.at_most
        return below and (self.at_least is None or self.median >= self.at_least)

    @property
    def goal(self) -> str:
        """``≤ 8 s``, or nothing."""
        bounds = [("≤", self.at_most), ("≥", self.at_least)]
        return ", ".join(f"{sign} {number(bound)} {self.unit}" for sign, bound in bounds if bound is not None)


def markdown(sections: Sequence[tuple[str, Sequence[Row]]], machine: str) -> str:
    """The page: what it was measured on, then one table per topic and its notes.

    Args:
        sections: (title, rows) per topic.
        machine: the description of the machine.
    """
    parts = ["# Benchmarks", "Written by `python -m benchmarks.run`. Medians; ratios are taken run by run.", machine]
    for title, rows in sections:
        cells = [
            (row.what, f"{number(row.median)} {row.unit}", _range(row), len(row.values), row.goal, _met(row))
            for row in rows
        ]
        parts += [f"## {title}", tabulate(cells, headers=COLUMNS, tablefmt="github", disable_numparse=True)]
        notes = dict.fromkeys(f"- {row.what}: {row.note}" for row in rows if row.note)
        parts += ["\n".join(notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _range(row: Row) -> str:
    return f"{number(min(row.values))} – {number(max(row.values))}"


def _met(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row.met]
