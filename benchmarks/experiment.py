"""The whole main experiment at its default scale, tracked offline, from process start with an empty cache."""

from benchmarks.part_1 import experiment
from benchmarks.table import Row
from benchmarks.topic import publish

GOAL_S, GOAL_MIB = 60, 2048


def measure(runs: int) -> list[Row]:
    """Time and peak memory."""
    finished = [experiment("tracking=offline") for _ in range(runs)]
    return [
        Row("time", [f.seconds for f in finished], "s", at_most=GOAL_S),
        Row("peak memory", [f.peak_mib for f in finished], "MiB", at_most=GOAL_MIB, note="largest resident size"),
    ]


if __name__ == "__main__":
    publish(measure)
