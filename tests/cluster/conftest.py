"""A Slurm of one node, for ``make test-cluster``."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("one_node.sh")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """The environment in which ``sbatch`` and the like speak to it."""
    if os.environ.get("PLAP_JAX_CLUSTER") != "1":
        pytest.skip("starts a Slurm: make test-cluster")
    if shutil.which("slurmctld") is None or os.getuid() != 0:
        pytest.skip("needs root, and Debian's slurmctld, slurmd, slurm-client and munge")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run(["bash", SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    try:
        if started.returncode:
            pytest.skip(f"Slurm does not start on this machine: {started.stderr[-300:]}")
        yield os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run(["bash", SCRIPT, "stop", folder], check=False)
