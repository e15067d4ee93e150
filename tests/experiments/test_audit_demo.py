"""The audit whose answer is known, at scale=smoke; the example of the document."""

import csv
import json
import re

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.ledger import open_ledger, refuse_foreign
from experiments.core.schema import check
from experiments.shared.audited_models import user_function
from plap_jax.calibration import conformal_p_values
from plap_jax.metrics import auc
from tests.helpers import experiment_run
from tests.helpers.fashion import needs_fashion_mnist
from tests.helpers.places import ROOT

DOCUMENT = ROOT / "docs" / "audit.md"


@pytest.mark.slow
def test_the_demonstration_tells_what_its_tables_hold(tmp_path):
    report = experiment_run.here("audit_demo", tmp_path / "run")
    with (tmp_path / "run" / "tables" / "audit.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    planted = np.asarray([row["file"].startswith("planted_") for row in rows])
    flagged = np.asarray([row["flagged"] == "1" for row in rows])
    score = np.asarray([float(row["calibrated"]) for row in rows])
    assert planted.sum() == 6 and (~planted).sum() == 20
    metrics = report.metrics
    assert metrics["proof/power"]["value"] == flagged[planted].mean()
    assert metrics["proof/false_discoveries"] == flagged[~planted].sum()
    assert metrics["proof/false_discovery_proportion"] == pytest.approx(flagged[~planted].sum() / max(1, flagged.sum()))
    assert metrics["proof/auc"] == pytest.approx(auc(score[planted], score[~planted]))
    with np.load(tmp_path / "run" / "arrays" / "audit.npz") as arrays:
        p_value = conformal_p_values(score, arrays["reference"])
        assert len(arrays["reference"]) == 380
    assert p_value == pytest.approx([float(row["p_value"]) for row in rows])
    # planted images stand in the training set: their nearest neighbours are themselves, but for rounding to bytes
    nearest = {row["file"].removeprefix("planted_"): row["nearest"].removeprefix("training_") for row in rows[:26]}
    assert all(nearest[name] == name for name in nearest if not name.startswith("heldout"))
    # the same network is found again as a checkpoint of this run
    report.write_manifest()
    shapes = json.loads((tmp_path / "run" / "manifest.json").read_text())["data_shapes"]
    assert shapes["train/network"][0][1:] == [8, 8, 1]


@pytest.mark.slow
@needs_fashion_mnist
def test_clothes_are_audited_against_as_many_as_asked_for(tmp_path):
    report = experiment_run.here("audit_demo_fashion", tmp_path / "run")
    assert report.metrics["audit/images"] == 4 + 20 and report.metrics["audit/reference_images"] == 60
    with pytest.raises(ValueError, match="^audited.n_reference=141: must be at most 140, the held-out images"):
        experiment_run.here("audit_demo_fashion", tmp_path / "run", "audited.n_reference=141")


def test_the_demonstration_refuses_what_has_no_answer():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for override, line in {
            "data=triangle": "data='plap_jax.data.mixtures.triangle': must be images",
            "audited.n_single=9999": "audited.n_single=9999: must be at most planting.n_single=800",
            "audited.n_reference=0": "audited.n_reference=0: must be >= 1",
        }.items():
            with pytest.raises(UserError, match=f"^{re.escape(line)}"):
                check(compose("config", ["+exp=audit_demo", override]))


def test_the_example_of_the_document_is_audited(tmp_path, monkeypatch):
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (example,) = (one for one in examples if "def factory" in one)
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    (tmp_path / "my_model.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    images = np.random.default_rng(0).normal(0, 0.5, (12, 8, 8, 1)).clip(-1, 1)
    images[3] = 0  # the mode: the score points home from everywhere
    np.save(tmp_path / "images.npy", images)
    where = ("model=callable", "model.target=my_model:factory", f"images={tmp_path}/images.npy", "sigma=0.3")
    open_ledger(tmp_path / "run")
    experiment_run.here("audit", tmp_path / "run", *where)
    assert (tmp_path / "run" / "report.html").is_file()
    refuse_foreign(tmp_path / "run", "hydra.run.dir")  # all that an audit writes is listed: it can be run again there
    with (tmp_path / "run" / "tables" / "audit.csv").open(newline="") as handle:
        first, second, *_ = csv.DictReader(handle)
    assert first["file"] == "3" and float(first["kappa"]) == pytest.approx(1, abs=1e-5)
    assert float(second["kappa"]) < 0.9
    assert user_function("my_model:factory").model.shape == (8, 8, 1)
