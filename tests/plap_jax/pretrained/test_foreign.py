"""Models that other people's code has trained on planted digits, audited: the planted ones are found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(not (Path(sys.prefix) / "examples").is_dir(), reason="needs PyTorch: make test-torch"),
]


@pytest.mark.parametrize("name", ["denoising-diffusion-pytorch", "smalldiffusion"])
def test_planted_digits_are_found(name, tmp_path):
    """In a process of its own: their loaders fork, and transformers is not to see their torchvision."""
    command = [sys.executable, "-m", "benchmarks.pytorch.foreign", name, "--folder", str(tmp_path / "made")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    result = json.loads(found.stdout[found.stdout.index("{") :])
    assert result["auc"] >= 0.95
    assert result["flagged_planted"] >= 15 and result["flagged_heldout"] <= 10
    assert result["largest_difference"] <= 1e-5
