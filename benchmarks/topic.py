"""A topic is a module with rows to measure, run as a process of its own: ``python -m benchmarks.TOPIC --out FILE``.

A process each, because thread pools of two frameworks, memory and compiled code of one topic would weigh on the next.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.table import Row

RUNS = 5


def publish(measure: Callable[[int], Sequence[Row]]) -> None:
    """Command line of a topic: writes what ``measure(runs)`` returns as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.write_text(json.dumps([asdict(row) for row in measure(arguments.runs)]))


def read(path: Path) -> list[Row]:
    """The rows that a topic wrote."""
    return [Row(**fields) for fields in json.loads(path.read_text())]
