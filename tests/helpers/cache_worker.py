"""A process that wants one slow cached stage: ``python cache_worker.py CACHE_DIR``; prints the stage's content.

The stage takes twenty steps, each a file, and like a training goes on from the steps that it finds.
"""

import os
import sys
import time
from pathlib import Path

from experiments.core.cache import Cache

N_STEPS, SECONDS_PER_STEP = 20, 0.05


def build(directory: Path) -> None:
    """Notes its start in ``builds``, then does the steps that are missing."""
    done = len(list(directory.glob("step_*")))
    with (directory / "builds").open("a") as handle:
        handle.write(f"from {done}\n")
    for step in range(done, N_STEPS):
        time.sleep(SECONDS_PER_STEP)
        (directory / f"step_{step:02d}").write_text(str(os.getpid()))


if __name__ == "__main__":
    entry = Cache(sys.argv[1]).stage("slow", {"n": N_STEPS}, build)
    print((entry / "builds").read_text(), len(list(entry.glob("step_*"))))
