"""An audit on a real Ray of two workers, one of which is killed, a sweep on one, and a search by Optuna."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

import numpy as np
import pytest

from plap_jax.audit.command_line import main
from plap_jax.audit.parts import read_part
from tests.helpers import memorizing_model
from tests.helpers.places import ROOT

DEADLINE = 400  # seconds
ON_RAY = """
import sys
import ray
from plap_jax.audit.command_line import main

about = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error", "_temp_dir": sys.argv[1]}
ray.init(address="local", num_cpus=2, object_store_memory=80_000_000, **about)
code = main(sys.argv[2:])
ray.shutdown()
sys.exit(code)
"""


@pytest.fixture(scope="module", autouse=True)
def asked_for():
    """These start engines of their own."""
    if os.environ.get("PLAP_JAX_CLUSTER") != "1":
        pytest.skip("starts a Ray: make test-cluster")


def needs(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}: make test-cluster installs it")


@pytest.fixture
def sockets():
    """A folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "images.npy", np.concatenate([memorizing_model.images(800, 1), memorizing_model.MEMORIZED]))
    np.save(tmp_path / "reference.npy", memorizing_model.images(1200, 2))
    return tmp_path


def test_one_of_two_workers_is_killed_and_nothing_is_lost(data, sockets):
    needs("ray")
    options = ["--model", "tests.helpers.memorizing_model:factory", "--images", f"{data}/images.npy"]
    options += ["--reference", f"{data}/reference.npy", "--evaluations", "128", "--maps", "0", "--fdr", "0.5"]
    out = data / "out"
    command = [sys.executable, "-c", ON_RAY, sockets, *options, "--out", str(out)]
    audit = subprocess.Popen([*command, "--ray", "auto"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    begun = time.monotonic()
    while not (parts := sorted(out.glob("evidence/part-*.parquet"))):
        assert audit.poll() is None, audit.stderr.read()
        assert time.monotonic() < begun + DEADLINE
        time.sleep(0.02)
    victim = read_part(parts[0]).header["process"]
    os.kill(victim, signal.SIGKILL)
    assert len(list(out.glob("evidence/part-*.parquet"))) < 8, "it was at work"
    told = audit.communicate(timeout=DEADLINE)[1]
    assert audit.returncode == 0, told
    workers = Counter(read_part(path).header["process"] for path in out.glob("evidence/part-*.parquet"))
    assert workers.total() == 8 and len(workers) == 3 and workers[victim] < 8
    assert main([*options, "--out", str(data / "alone")]) == 0
    tables = [(data / name / "audit.csv").read_text() for name in ("out", "alone")]
    assert tables[0] == tables[1]
    flagged = [row["file"] for row in csv.DictReader(tables[0].splitlines()) if row["flagged"] == "1"]
    assert {str(800 + i) for i in range(12)} <= set(flagged)


def swept(*words, directory):
    command = [sys.executable, "-m", "experiments.run", "-m", "+exp=gmm_memorization", "scale=smoke"]
    command += ["tracking=disabled", f"cache_dir={directory}/cache", f"hydra.sweep.dir={directory}/runs", *words]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return (directory / "runs" / "sweep" / "results.csv").read_text().splitlines()


def test_the_jobs_of_a_sweep_run_on_ray(tmp_path, sockets):
    needs("ray")
    needs("hydra_plugins.hydra_ray_launcher")
    init = [f"_temp_dir={sockets}", "address=local", "num_cpus=2", "include_dashboard=false"]
    words = ["hydra/launcher=ray", *(f"++hydra.launcher.ray.init.{word}" for word in init)]
    table = swept("seed=0,1", *words, directory=tmp_path)
    assert table[0].startswith("job,seed,status") and [line.split(",")[:3] for line in table[1:]] == [
        ["0", "0", "ok"],
        ["1", "1", "ok"],
    ]


def test_a_search_leaves_the_table_of_a_sweep(tmp_path):
    needs("optuna")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"]
    search += ["hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=0"]
    search += ["flux.p=interval(1.0,3.0)", "train.learning_rate=tag(log,interval(1e-4,1e-2))"]
    table = swept(*search, directory=tmp_path)
    assert table[0].startswith("job,flux.p,train.learning_rate,status") and len(table) == 3
    best = (tmp_path / "runs" / "optimization_results.yaml").read_text()
    assert "best_value" in best and "flux.p" in best
