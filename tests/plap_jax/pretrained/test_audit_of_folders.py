"""Diffusers folders, audited, and the text-to-image experiment on one: tiny pipelines with random weights."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers import experiment_run

tiny = pytest.importorskip("tests.helpers.tiny_diffusers", reason="needs the extra diffusers: make test-diffusers")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    tiny.save_pixels(base / "pixels")
    tiny.save_latents(base / "latents")
    return base


def rows(directory, name):
    with (directory / "tables" / f"{name}.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_pipeline_of_pixels_is_audited(folders, tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)))
    np.save(tmp_path / "others.npy", np.random.default_rng(1).uniform(-1, 1, (9, 8, 8, 1)))
    paths = (f"model.folder={folders}/pixels", f"images={tmp_path}/images.npy", f"reference={tmp_path}/others.npy")
    report = experiment_run.here("audit", tmp_path / "run", "model=diffusers", "sigma=0.3", *paths)
    assert report.metrics["audit/reference_images"] == 9 and len(rows(tmp_path / "run", "audit")) == 6
    assert "scored as pixels" in (tmp_path / "run" / "report.html").read_text()


def test_a_pipeline_of_latents_is_audited_with_prompts(folders, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "prompts.csv").write_text("file,prompt\n" + "".join(f"{i}.png,a cat {'ab' * i}\n" for i in range(5)))
    paths = (f"model.folder={folders}/latents", f"images={tmp_path}/images", f"prompts={tmp_path}/prompts.csv")
    experiment_run.here("audit", tmp_path / "run", "model=diffusers", "sigma=0.3", "chunk=3", *paths)
    found = rows(tmp_path / "run", "audit")
    assert len(found) == 5
    for name in ("kappa", "kappa_given", "kappa_gap"):
        assert all(-1 <= float(row[name]) <= 1 and float(row[f"{name}_stderr"]) > 0 for row in found)
    assert [float(row["kappa_gap"]) for row in found] == sorted(
        (float(row["kappa_gap"]) for row in found), reverse=True
    )


def test_the_text_to_image_experiment_runs_end_to_end(folders, tmp_path):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    lines = ["a cat,1,a.png", "a dog,1,", "no cat,0,", "no dog,0,"]
    (tmp_path / "prompts.csv").write_text("prompt,memorized,image\n" + "\n".join(lines) + "\n")
    words = (f"model.folder={folders}/latents", f"prompts={tmp_path}/prompts.csv", "per_prompt=2", "sigma=0.3")
    experiment_run.here("text_to_image_memorization", tmp_path / "run", *words, "generation.guidance=2.0")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data/images"] == 8
    assert {f"by_prompt/{name}/auc" for name in ("kappa", "kappa_given", "kappa_gap")} <= set(metrics)
    assert len(rows(tmp_path / "run", "images")) == 8
