"""``make setup`` in a fresh clone, with whatever the package manager has cached."""

import tempfile
from pathlib import Path

from benchmarks.table import Row
from benchmarks.timing import ROOT, run_process
from benchmarks.topic import publish

GOAL_S = 90


def measure(runs: int) -> list[Row]:
    """One clone per run; the first only warms the package cache."""
    seconds = []
    for i in range(-1, runs):
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "clone"
            run_process(["git", "clone", "--quiet", str(ROOT), str(clone)])
            finished = run_process(["make", "setup"], cwd=clone)
        if i >= 0:
            seconds.append(finished.seconds)
    return [Row("make setup", seconds, "s", at_most=GOAL_S, note="a clone of the last commit, warm package cache")]


if __name__ == "__main__":
    publish(measure)
