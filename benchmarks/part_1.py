"""The numbers of part 1 (training and every flux value) from process start, beside eager PyTorch in batches."""

import json
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.settings import Part1, part_1
from benchmarks.table import Row
from benchmarks.timing import Finished, ratios, run_process, thread_numbers
from benchmarks.topic import publish
from experiments.shared.timing import take_turns

GOAL_S = 8
ONLY_PART_1 = ("maps.enabled=false", "planted.enabled=false")
UNTRACKED = ("tracking=disabled", "figures=null")
BALLS_AT_ONCE = (56, 224, 896)


def experiment(*overrides: str) -> Finished:
    """The main experiment in a fresh process with an empty cache; tracking and figures as configured."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = [f"cache_dir={Path(folder) / 'cache'}", f"hydra.run.dir={Path(folder) / 'run'}"]
        return run_process([sys.executable, "-m", "experiments.run", "+exp=gmm_memorization", *fresh, *overrides])


def in_pytorch(setting: Part1, batch: int, threads: int) -> float:
    """Seconds from process start, with ``batch`` balls by one network call."""
    arguments = json.dumps(asdict(setting) | {"batch": batch, "threads": threads})
    return run_process([sys.executable, "-m", "benchmarks.pytorch.part_1", arguments]).seconds


def measure(runs: int) -> list[Row]:
    """Ours, PyTorch in its best batches, PyTorch ball by ball, in turn."""
    setting = part_1()
    ways = {(b, n): partial(in_pytorch, setting, b, n) for b in BALLS_AT_ONCE for n in thread_numbers()}
    # Once each: a run of seconds tells more than the shortest of a few short ones.
    batch, threads = min(ways, key=lambda way: ways[way]())
    contestants = {
        "ours": partial(experiment, *ONLY_PART_1, *UNTRACKED),
        "batches": ways[batch, threads],
        "balls": partial(in_pytorch, setting, 1, threads),
    }
    seconds = take_turns(contestants, runs, warm_up=False)
    less = f"same training, same flux values; no intervals, AUCs, fields, files; the best number of threads, {threads}"
    return [
        Row("this library", seconds["ours"], "s", at_most=GOAL_S, note="nothing compiled before; no tracking, figures"),
        Row("PyTorch", seconds["batches"], "s", note=f"{less}; {batch} balls by one call"),
        Row("PyTorch, one call per ball", seconds["balls"], "s", note=less),
        Row("speed-up", ratios(seconds["batches"], seconds["ours"]), "×"),
        Row("speed-up over one call per ball", ratios(seconds["balls"], seconds["ours"]), "×"),
    ]


if __name__ == "__main__":
    publish(measure)
