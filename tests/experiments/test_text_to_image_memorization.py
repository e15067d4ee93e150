"""Memorized prompts, end to end with a model whose answer is known; the file of prompts."""

import csv
import json

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from experiments import text_to_image_memorization as text_to_image
from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.core.tracker import Tracker
from experiments.figures import text_to_image_memorization as figures
from experiments.text_to_image_memorization.listed import distances, read_listed
from tests.helpers import text_model

SHAPE = text_model.SHAPE


def grey(path, value):
    Image.fromarray(np.full((6, 8, 3), round((value + 1) * 127.5), np.uint8)).save(path)


@pytest.fixture
def listed(tmp_path):
    """Six memorized prompts, of which four have their image, one another one and one none; eight others."""
    grey(tmp_path / "same.png", text_model.VALUE)
    grey(tmp_path / "other.png", -0.9)
    lines = [("m0", 1, "same.png"), ("m1, with a comma", 1, "same.png"), ("m2", 1, "same.png"), ("m3", 1, "same.png")]
    lines += [("m4", 1, "other.png"), ("m5", 1, "missing.png")] + [(f"o{i}", 0, "") for i in range(8)]
    with (tmp_path / "prompts.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("prompt", "memorized", "image"), *lines])
    return tmp_path / "prompts.csv"


def config(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["+exp=text_to_image_memorization", "scale=smoke", "tracking=disabled", *overrides]
        return check(compose("config", words))[0]


def test_memorized_prompts_are_told_from_others(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(text_to_image, "load", lambda key, model: text_model.subject())
    report = Report(tmp_path / "run", {})
    common = {"report": report, "cache": Cache(tmp_path / "cache"), "tracker": Tracker()}
    settings = ("generation.guidance=1.0", "per_prompt=2", "chunk=10", "sigma=0.5")
    text_to_image.run(config(f"prompts={listed}", *settings), **common)
    report.write_metrics()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data/images"] == 28
    assert metrics["reproduced"]["value"] == 0.8 and metrics["reproduced"]["n"] == 10  # m5 is not known
    for view, n in (("by_prompt", 28), ("by_sample", 24)):
        assert metrics[f"{view}/kappa_given/auc"]["value"] == 1
        assert metrics[f"{view}/kappa_gap/auc"]["n"] in (n, n // 2)  # images, or prompts
    with (tmp_path / "run" / "tables" / "images.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["prompt"] for row in rows[:4]] == ["m0", "m0", "m1, with a comma", "m1, with a comma"]
    assert all(float(row["kappa_given"]) > 0.999 for row in rows[:12])
    assert [row["distance"] == "" for row in rows] == [False] * 10 + [True] * 18
    assert float(rows[0]["distance"]) < 0.01 and float(rows[8]["distance"]) == pytest.approx(1.4, abs=0.01)
    skipped = (tmp_path / "run" / "tables" / "skipped.csv").read_text()
    assert "m5" in skipped and "missing.png" in skipped
    figures.draw(tmp_path / "run")
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"histograms", "pictures"}
    assert (tmp_path / "run" / "tables" / "detection.tex").is_file()


def test_distances_are_of_floats_and_none_is_made_up():
    dark, light = np.full(SHAPE, -1, np.float32), np.full(SHAPE, 1, np.float32)
    found = distances([dark, light, light], [light, light, None])
    assert found[:2].tolist() == [2.0, 0.0] and np.isnan(found[2])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("prompt,memorized,image\na,1,\n", "must hold memorized prompts, 1, and others, 0"),
        ("prompt,memorized,image\na,1,\na,0,\n", "holds 1 prompt(s) twice, the first is ['a']"),
        ("prompt,memorized,image\na,yes,\nb,0,\n", "row 2 must be a prompt, 1 or 0, and an image or nothing"),
        ("prompt,memorized,image\na,1\nb,0,\n", "row 2 must be a prompt"),
        ("prompt,image\na,1\n", "must begin with the line prompt,memorized,image"),
        (b"prompt,memorized,image\n\xff,1,\n", "is no CSV file in UTF-8"),
        (None, "must be a CSV file that is there"),
    ],
)
def test_a_file_of_prompts_that_does_not_fit_is_one_line(tmp_path, content, line):
    path = tmp_path / "prompts.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as refused:
        read_listed(str(path), SHAPE)
    assert str(refused.value).startswith("prompts=") and line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_asked_is_one_line():
    for overrides, line in {
        (): "prompts=None: must be a CSV file with the columns prompt,memorized,image",
        ("prompts=a.csv", "+detector=score_norm"): "detector=",
        ("prompts=a.csv", "per_prompt=0"): "per_prompt=0: must be >= 1",
    }.items():
        with pytest.raises(UserError) as refused:
            config(*overrides)
        assert str(refused.value).startswith(line)
