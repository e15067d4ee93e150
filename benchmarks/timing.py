"""Ratios of times, and processes timed from start to end."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.shared.timing import take_turns

ROOT = Path(__file__).resolve().parents[1]
# Caches of compiled code that a user's environment may name: "from process start" means without them.
CACHES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "TORCHINDUCTOR_CACHE_DIR")


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fastest(contestants: Mapping[Any, Callable[[], Any]]) -> Any:
    """The name of the contestant with the lowest time of three: how a batch size or a number of threads is chosen."""
    seconds = take_turns(contestants, 3)
    return min(seconds, key=lambda name: min(seconds[name]))


def fastest_way(
    make: Callable[[Any, int, int], Callable[[], Any]], styles: Mapping[str, Any], batches: Sequence[int]
) -> tuple[str, int, int]:
    """The best (style, threads, batch) for PyTorch, where ``make(styles[style], threads, batch)`` does the work.

    Batch and threads are chosen in eager mode, then style and threads at that batch: compiled code is compiled again
    for every shape and number of threads, which takes longer than everything else here.
    """
    sizes = {(n, b): make(styles["eager"], n, b) for n in thread_numbers() for b in batches}
    _, batch = fastest(sizes)
    style, threads = fastest({(style, n): make(styles[style], n, batch) for style in styles for n in thread_numbers()})
    return style, threads, batch


def thread_numbers() -> list[int]:
    """What PyTorch may choose from: on small arrays a second thread can cost more than it brings."""
    return sorted({1, n_cores()})


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """seconds/reference, round by round: a machine that slows down slows both."""
    return [a / b for a, b in zip(seconds, reference, strict=True)]


@dataclass(frozen=True)
class Finished:
    """A process that ended well.

    Attributes:
        seconds: from its start to its end.
        peak_mib: largest resident memory of the process, in MiB.
        output: what it wrote to stdout.
    """

    seconds: float
    peak_mib: float
    output: str


def run_process(arguments: Sequence[str], cwd: Path = ROOT, **environment: str) -> Finished:
    """Runs ``arguments`` to the end; a process forked off a large one starts with its peak, so keep the caller small.

    Raises:
        RuntimeError: an exit code other than 0, with the last lines that it wrote to stderr.
    """
    env = {k: v for k, v in os.environ.items() if k not in CACHES} | environment
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(arguments, cwd=cwd, env=env, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, err):
            stream.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}\n{err.read()[-2000:]}")
        in_kib = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
        return Finished(seconds, in_kib / 1024, out.read())
