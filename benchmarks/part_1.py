"""The numbers of part 1 (training and every flux value) from process start, beside eager PyTorch."""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.settings import Part1, part_1
from benchmarks.table import Row
from benchmarks.timing import Finished, ratios, run_process, thread_numbers
from benchmarks.topic import publish

GOAL_S = 8
ONLY_PART_1 = ("maps.enabled=false", "planted.enabled=false")
UNTRACKED = ("tracking=disabled", "figures=null")
# Point by point takes minutes: this part of the repeats is computed, and its time scaled up.
SHARE = 0.05


def experiment(*overrides: str) -> Finished:
    """The main experiment in a fresh process with an empty cache; tracking and figures as configured."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = [f"cache_dir={Path(folder) / 'cache'}", f"hydra.run.dir={Path(folder) / 'run'}"]
        return run_process([sys.executable, "-m", "experiments.run", "+exp=gmm_memorization", *fresh, *overrides])


def in_pytorch(setting: Part1, style: str, share: float, threads: int) -> float:
    """Seconds from process start, with the flux's time divided by the share of repeats computed."""
    arguments = asdict(setting) | {"style": style, "share": share, "threads": threads}
    finished = run_process([sys.executable, "-m", "benchmarks.pytorch.part_1", json.dumps(arguments)])
    flux = json.loads(finished.output)["flux_s"]
    return finished.seconds - flux + flux / share


def measure(runs: int) -> list[Row]:
    """Ours, PyTorch ball by ball, PyTorch point by point, in turn."""
    setting = part_1()
    threads = min(thread_numbers(), key=lambda threads: in_pytorch(setting, "ball", 1.0, threads))
    ours, balls, points = [], [], []
    for _ in range(runs):
        ours.append(experiment(*ONLY_PART_1, *UNTRACKED).seconds)
        balls.append(in_pytorch(setting, "ball", 1.0, threads))
        points.append(in_pytorch(setting, "point", SHARE, threads))
    less = f"same training, same flux values; no intervals, AUCs, fields, files; the best number of threads, {threads}"
    scaled = f"{SHARE:.0%} of the repeats computed, and the time of the flux scaled up"
    return [
        Row("this library", ours, "s", at_most=GOAL_S, note="nothing compiled beforehand; tracking, figures off"),
        Row("PyTorch, one call per ball", balls, "s", note=less),
        Row("PyTorch, one call per point", points, "s", note=f"as above; {scaled}"),
        Row("speed-up over one call per ball", ratios(balls, ours), "×"),
        Row("speed-up over one call per point", ratios(points, ours), "×"),
    ]


if __name__ == "__main__":
    publish(measure)
