"""Timing on machines that are shared: contestants take turns, and are compared turn by turn."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any


def take_turns(
    contestants: Mapping[str, Callable[[], Any]],
    runs: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contestant in each of ``runs`` rounds; in a round each runs once, in turn.

    Args:
        contestants: functions that return when their work is done (``jax.block_until_ready``).
        runs: rounds.
        warm_up: one round beforehand that is not counted, which compiles.
        clock: seconds; ``time.process_time`` for those that this process's threads computed, whoever else is busy.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(-1 if warm_up else 0, runs):
        for name, contestant in contestants.items():
            gc.collect()
            start = clock()
            contestant()
            if i >= 0:
                seconds[name].append(clock() - start)
    return seconds
