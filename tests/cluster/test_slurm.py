"""An audit in shards as jobs of a real Slurm, two at a time; one is cancelled, one is killed and queued again."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from plap_jax.audit.command_line import main
from tests.helpers import memorizing_model
from tests.helpers.places import ROOT

FACTORY = "tests.helpers.memorizing_model:factory"
N = 6
DEADLINE = 480  # seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, and the audit of them in one piece."""
    base = tmp_path_factory.mktemp("audit")
    np.save(base / "images.npy", np.concatenate([memorizing_model.images(40, 1), memorizing_model.MEMORIZED]))
    np.save(base / "reference.npy", memorizing_model.images(200, 2))
    assert main([*options(base), "--out", f"{base}/alone", "--maps", "0"]) == 0
    return base


def options(base):
    words = ["--model", FACTORY, "--images", f"{base}/images.npy", "--reference", f"{base}/reference.npy"]
    return [*words, "--noise-levels", "0.08", "0.32", "--evaluations", "1024"]


def merged(base, out):
    """The table of all shards, and that of one piece."""
    assert main(["merge", str(out), "--maps", "0"]) == 0
    return [(place / "audit.csv").read_text() for place in (out, base / "alone")]


def told(slurm, *words):
    return subprocess.run(words, env=slurm, capture_output=True, text=True, check=True).stdout


def until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


def test_jobs_that_are_cancelled_or_killed_cost_themselves_alone(slurm, folder, tmp_path):
    """As docs/cluster.md has it: an array, of which the tasks that are missing are computed by the same command."""
    out = tmp_path / "out"
    command = " ".join([sys.executable, "-m", "plap_jax.audit", *options(folder), "--out", str(out)])
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n"
        f"cd {ROOT} && echo $$ > {tmp_path}/$SLURM_ARRAY_TASK_ID.pid\n"
        f"exec {command} --shard $SLURM_ARRAY_TASK_ID/{N}\n"
    )
    submitted = ("sbatch", "--parsable", "--requeue", f"--output={tmp_path}/%a.txt")
    job = told(slurm, *submitted, f"--array=1-{N}%2", str(script)).strip()
    # The first two are at work: one is cancelled, the other one killed as a machine without memory would.
    pids = [until(lambda k=k: read(tmp_path / f"{k}.pid"), f"task {k} has not begun") for k in (1, 2)]
    time.sleep(1)
    told(slurm, "scancel", f"{job}_1")
    os.kill(int(pids[1]), signal.SIGKILL)
    until(lambda: f"{job}_2 " not in told(slurm, "squeue", "--noheader", "--format=%i "), "task 2 goes on")
    assert not list(out.glob("evidence/part-0000[12].parquet"))
    told(slurm, "scontrol", "requeue", f"{job}_2")
    until(lambda: not told(slurm, "squeue", "--noheader", f"--job={job}").strip(), "jobs have not ended")
    there = sorted(path.name for path in out.glob("evidence/*.parquet"))
    assert there == [f"part-{k:05d}.parquet" for k in range(2, N + 1)], (tmp_path / "3.txt").read_text()
    assert main(["merge", str(out)]) == 2  # the cancelled one is missing
    again = told(slurm, *submitted, "--array=1", str(script)).strip()
    until(lambda: not told(slurm, "squeue", "--noheader", f"--job={again}").strip(), "the last job has not ended")
    found, expected = merged(folder, out)
    assert found == expected


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the extra launchers")
def test_a_sweep_of_hydra_is_an_array_of_jobs(slurm, folder, tmp_path):
    words = ["+exp=audit", "model=callable", f"model.target={FACTORY}", "scale=smoke", "tracking=disabled"]
    words += [f"images={folder}/images.npy", f"reference={folder}/reference.npy", "noise_levels=[0.08,0.32]"]
    words += ["evaluations=1024", "figures=null", f"out={tmp_path}/out", "shards=3", "shard=range(0,3)"]
    words += ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=main", "hydra.launcher.cpus_per_task=1"]
    words += [
        "hydra.launcher.array_parallelism=2",
        "hydra.launcher.timeout_min=10",
        f"hydra.sweep.dir={tmp_path}/sweep",
    ]
    command = [sys.executable, "-m", "experiments.run", "-m", *words]
    env = slurm | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert len(list((tmp_path / "out" / "evidence").glob("part-*.parquet"))) == 3
    found, expected = merged(folder, tmp_path / "out")
    assert found == expected


def read(path):
    return path.read_text().strip() if path.exists() else ""
