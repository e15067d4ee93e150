"""The sweep file of Weights & Biases: its commands run, and what they leave is collected as any sweep is."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps import utils

from experiments.core.catalogue import CONF
from experiments.publish.collect import collect
from tests.helpers.places import ROOT

SWEEP = OmegaConf.to_container(OmegaConf.load(CONF / "wandb_sweep.yaml"), resolve=False)
CHOSEN = [{"flux.p": 1.25, "train.learning_rate": 0.003}, {"flux.p": 2.5, "train.learning_rate": 0.0004}]


def command_of(values):
    """What the agent makes of the file and of the values that it is told, by its own functions."""
    told = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    told["env"] = ["/usr/bin/env"]
    words = []
    for word in utils.create_sweep_command(list(SWEEP["command"])):
        words += told[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    return words


def test_the_agents_command_is_one_of_ours():
    assert set(SWEEP["parameters"]) == set(CHOSEN[0])
    run = "hydra.run.dir=outputs/gmm_memorization/wandb/${oc.env:WANDB_RUN_ID}"
    words = ["/usr/bin/env", "python", "-m", "experiments.run", "+exp=gmm_memorization", "tracking=online", run]
    assert command_of(CHOSEN[0]) == [*words, "flux.p=1.25", "train.learning_rate=0.003"]


@pytest.mark.slow
def test_its_runs_are_collected_as_a_sweep(tmp_path, monkeypatch):
    """As the agent starts them, but for a network: small, and without W&B's own."""
    instead = [f"cache_dir={tmp_path}/cache", "tracking=disabled", "scale=smoke"]
    for i, values in enumerate(CHOSEN):
        monkeypatch.setenv("WANDB_RUN_ID", f"run{i}")
        words = [word.replace("outputs/gmm_memorization/wandb", f"{tmp_path}/runs") for word in command_of(values)]
        words = [word for word in words if word != "tracking=online"]
        finished = subprocess.run([sys.executable, *words[2:], *instead], cwd=ROOT, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr[-2000:]
    runs = collect(tmp_path / "runs")
    assert [run.overrides["flux.p"] for run in runs] == ["1.25", "2.5"]
    assert all(SWEEP["metric"]["name"] in run.metrics for run in runs)
    table = (tmp_path / "runs" / "sweep" / "results.csv").read_text().splitlines()
    assert table[0].startswith("job,") and "flux.p" in table[0].split(",")[1:4] and len(table) == 3
