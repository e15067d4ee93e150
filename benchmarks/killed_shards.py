"""Workers of an audit in shards, killed at random moments: ``python -m benchmarks.killed_shards [--kills N]``.

Each worker is a process of its own that is killed by SIGKILL somewhere between its start and the time that a whole one
takes, and started again. What the shards give in the end must be, to the last bit, what an audit in one piece gives,
and no part that was there may have been computed twice.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHARDS = 3
MODEL = """
from plap_jax import UserModel, VPLinear

def factory():
    schedule = VPLinear()
    def eps(x, t, condition):  # exact for images drawn from N(0, 1/4)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma * x / (alpha**2 / 4 + sigma**2)
    return UserModel(eps, schedule, shape=(8, 8, 1))
"""


def prepare(folder: Path) -> None:
    """A model, images of which some are simple, and a reference."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.5, (300, 8, 8, 1)).clip(-1, 1)
    images[:20] *= 0.1
    (folder / "my_model.py").write_text(MODEL)
    np.save(folder / "images.npy", images)
    np.save(folder / "reference.npy", rng.normal(0, 0.5, (600, 8, 8, 1)).clip(-1, 1))


def start(folder: Path, out: str, *words: str) -> subprocess.Popen:
    """``plap-audit`` in the folder."""
    options = ["--model=my_model:factory", "--images=images.npy", "--reference=reference.npy", "--maps=0"]
    options += ["--evaluations=512", f"--out={out}"]
    command = [sys.executable, "-m", "plap_jax.audit", *(words if words[:1] == ("merge",) else (*options, *words))]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, env=env, **quiet)


def killed(folder: Path, n_kills: int, seed: int = 0) -> dict[str, int]:
    """Kills that many workers, then lets all of them finish, and merges.

    Returns:
        ``killed``: workers that were still at work; ``parts``: how many were there by the last kill; ``same``: 1 if the
        table is that of the audit in one piece; ``again``: parts that were there and were computed again.
    """
    begun = time.monotonic()
    assert start(folder, "alone").wait() == 0
    whole, rng = time.monotonic() - begun, np.random.default_rng(seed)
    inodes, found = {}, {"killed": 0, "again": 0}
    for i in range(n_kills):
        worker = start(folder, "out", f"--shard={1 + i % SHARDS}/{SHARDS}")
        time.sleep(rng.uniform(0, whole))
        worker.send_signal(signal.SIGKILL)
        found["killed"] += worker.wait() == -signal.SIGKILL
        found["again"] += _again(folder, inodes)
    found["parts"] = len(inodes)
    for k in range(1, SHARDS + 1):
        assert start(folder, "out", f"--shard={k}/{SHARDS}").wait() == 0
        found["again"] += _again(folder, inodes)
    assert start(folder, "out", "merge", "out").wait() == 0
    tables = [(folder / out / "audit.csv").read_bytes() for out in ("alone", "out")]
    return found | {"same": int(tables[0] == tables[1])}


def _again(folder: Path, inodes: dict[Path, int]) -> int:
    """How many parts were replaced since the last look."""
    there = {path: path.stat().st_ino for path in folder.glob("out/evidence/part-*.parquet")}
    replaced = sum(there.get(path) != inode for path, inode in inodes.items())
    inodes.update(there)
    return replaced


def main() -> int:
    """Prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="workers that are killed (20)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        found = killed(Path(folder), given.kills)
    print(f"{found['killed']} of {given.kills} workers were killed at work")
    print(f"{found['parts']} of {SHARDS} parts were there by then, {found['again']} were computed again")
    print(f"the table is {'' if found['same'] else 'NOT '}that of an audit in one piece")
    return 0 if found["same"] and not found["again"] else 1


if __name__ == "__main__":
    sys.exit(main())
