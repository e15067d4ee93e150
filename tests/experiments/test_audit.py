"""Audits whose answer is known, from config to files: an exact score that has memorized twelve images."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from experiments.core.cache import Cache
from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.core.tracker import Tracker
from experiments.shared.networks import named_key
from plap_jax import flux
from plap_jax.adaptive import adaptive_flux
from plap_jax.detectors import Query, ScoreNorm
from plap_jax.detectors.base import gap_at
from plap_jax.pretrained import as_pretrained
from tests.helpers import memorizing_model
from tests.helpers.places import ROOT

MODEL = ("model=callable", "model.target=tests.helpers.memorizing_model:factory")
PROMPTED = ("model=callable", "model.target=tests.helpers.memorizing_model:prompted")
QUICK = ("scale=smoke", "sigma=0.22", "evaluations=1024", "tracking=disabled")
MEMORIZED, images = memorizing_model.MEMORIZED, memorizing_model.images


def checked(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", ["+exp=audit", *QUICK, *overrides]))


def run(directory, *overrides, cache=None):
    """An audit within this process: its report."""
    config, module = checked(*overrides)
    report = Report(directory, config.model_dump(mode="json"))
    module.run(config, report=report, cache=Cache(cache or directory / "cache"), tracker=Tracker())
    report.write_metrics()
    report.write_manifest()
    return report


def rows(directory, name="audit"):
    with (directory / "tables" / f"{name}.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def saved(path, array):
    np.save(path, array)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """12 memorized and 40 other images, 200 others as a reference, and a training set."""
    base = tmp_path_factory.mktemp("data")
    saved(base / "audited.npy", np.concatenate([images(40, 1), MEMORIZED]))
    np.savez(base / "reference.npz", images=images(200, 2), labels=np.zeros(200))
    np.savez_compressed(base / "training.npz", np.concatenate([MEMORIZED, MEMORIZED[:2], images(30, 3)]))
    return base


@pytest.fixture(scope="module")
def audited(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("audit")
    paths = (f"images={data}/audited.npy", f"reference={data}/reference.npz", f"training={data}/training.npz")
    return directory, run(directory, *MODEL, *paths)


def test_memorized_images_are_flagged_and_what_was_promised_is_left(audited, data):
    directory, report = audited
    table = rows(directory)
    assert len(table) == 52 and [int(row["rank"]) for row in table] == list(range(1, 53))
    memorized = {str(i) for i in range(40, 52)}
    assert {row["file"] for row in table[:12]} == memorized
    flagged = {row["file"] for row in table if row["flagged"] == "1"}
    assert memorized <= flagged and len(flagged) <= 14
    for row in table:
        low, kappa, high = (float(row[name]) for name in ("low", "kappa", "high"))
        assert low <= kappa <= high and float(row["kappa_stderr"]) > 0 and int(row["nfe"]) >= 16
    assert min(float(row["p_value"]) for row in table) == pytest.approx(1 / 201)
    # the nearest training image is the image itself, once although it stands twice there
    assert {row["nearest"]: float(row["copy_ratio"]) for row in table[:12]} == {str(i): 0 for i in range(12)}
    assert report.metrics["audit/copies"] == report.metrics["audit/flagged_copies"] == 12
    assert report.metrics["audit/rank_correlation_with_copy_ratio"] > 0.2
    assert report.metrics["audit/fewest_discoveries"] == 6
    assert json.loads((directory / "metrics.json").read_text())["audit/flagged"] == len(flagged)
    expected = ("arrays/audit.npz", "tables/summary.md", "tables/skipped.csv", "report.html", "manifest.json")
    assert [name for name in expected if not (directory / name).is_file()] == []
    html = (directory / "report.html").read_text()
    assert "exchangeable with the reference images" in html and "No error control" not in html


def test_figures_are_drawn_from_the_arrays_alone(audited):
    directory, _ = audited
    config, _ = checked(*MODEL, "images=x")
    module = __import__(config.figures, fromlist=["draw"])
    module.draw(directory)
    found = {path.name for path in (directory / "figures").iterdir()}
    drawn = ("contact_sheet", "flagged", "histogram")
    assert found == {f"{name}.{kind}" for name in drawn for kind in ("png", "pdf")}


def test_scores_are_those_of_the_library_whatever_the_chunks(data, tmp_path):
    common = (*MODEL, f"images={data}/audited.npy", "target_stderr=0.05", "max_samples=64", "evaluations=256")
    whole = run(tmp_path / "a", *common)
    run(tmp_path / "b", *common, "chunk=7")
    for a, b in zip(rows(tmp_path / "a"), rows(tmp_path / "b"), strict=True):
        assert a == b  # to the last digit: blocks of eight images in both
    # a slow twin: one image at a time, straight from the library
    model = as_pretrained(memorizing_model.factory()).diffusion
    t = model.schedule.time_at(0.22)
    score, key, table = model.score_at(t), named_key(0, "audit"), {row["file"]: row for row in rows(tmp_path / "a")}

    @jax.jit
    def twin(image):
        centre, radius = model.ball(image, t)
        how = {"n_samples": 16, "max_samples": 64, "target_stderr": 0.05}
        one = adaptive_flux(score, centre, radius=radius, key=key, **how)
        return one, flux(score, centre, radius=radius, key=jax.random.key(9), n_samples=512)

    for i, image in ((0, images(40, 1)[0]), (40, MEMORIZED[0])):
        (one, fresh), row = twin(image), table[str(i)]
        assert float(row["kappa"]) == pytest.approx(float(one.value), abs=1e-5)
        assert float(row["kappa_stderr"]) == pytest.approx(float(one.stderr), rel=1e-3)
        assert int(row["nfe"]) == int(one.nfe)
        # and with fresh directions the same within three standard errors
        gap = abs(float(fresh.value) - float(row["kappa"]))
        assert gap < 3 * np.hypot(float(fresh.stderr), float(row["kappa_stderr"]))
    # without a reference: a ranking, and the words
    assert whole.metrics["audit/flagged"] is None and "p_value" not in table["0"]
    assert min(float(table[str(i)]["z"]) for i in range(40, 52)) > max(float(table[str(i)]["z"]) for i in range(40))
    assert "No error control" in (tmp_path / "a" / "report.html").read_text()


def test_prompts_rank_by_what_they_give(data, tmp_path):
    """κ₁ given the prompt by default; κ^Δ, as good at twice the cost, on request."""
    table = tmp_path / "prompts.csv"
    told = [0] * 40 + list(range(1, 13))
    table.write_text("file,prompt\n" + "".join(f"{i},{prompt}\n" for i, prompt in enumerate(told)))
    where = (f"images={data}/audited.npy", f"prompts={table}", "chunk=30")
    model = as_pretrained(memorizing_model.prompted()).diffusion
    t, key = model.schedule.time_at(0.22), jax.random.fold_in(named_key(0, "audit"), 0)
    centre, radius = model.ball(MEMORIZED[5], t)
    prompt = np.int32(6)
    kinds = {"kappa_given": (model.score_at(t, prompt), 16), "kappa_gap": (gap_at(model, t, prompt), 32)}
    for name, (score, nfe) in kinds.items():
        asked = () if name == "kappa_given" else (f"score={name}",)
        run(tmp_path / name, *PROMPTED, *where, *asked, cache=tmp_path / "cache")
        found = rows(tmp_path / name)
        assert {row["file"] for row in found[:12]} == {str(i) for i in range(40, 52)}
        values = [float(row[name]) for row in found]
        assert values == sorted(values, reverse=True) and "kappa" not in found[0]
        one = jax.jit(lambda x, score=score: flux(score, x, radius=radius, key=key, n_samples=16))(centre)
        row = {row["file"]: row for row in found}["45"]
        assert float(row[name]) == pytest.approx(float(one.value), abs=1e-4), name
        assert int(row["nfe"]) == nfe


def test_any_detector_by_name_with_its_standard_error(data, tmp_path):
    run(tmp_path / "norm", *MODEL, f"images={data}/audited.npy", "detector=score_norm")
    model = as_pretrained(memorizing_model.factory()).diffusion
    expected = ScoreNorm(0.22).scores(model, Query(images(40, 1)), key=jax.random.key(0))
    table = {row["file"]: row for row in rows(tmp_path / "norm")}
    assert float(table["3"]["detector"]) == pytest.approx(float(expected[3]), rel=1e-5)
    assert float(table["3"]["detector_stderr"]) == 0  # it has no randomness
    run(tmp_path / "loss", *MODEL, f"images={data}/audited.npy", "detector=denoising_loss", "repeats=3")
    loss = rows(tmp_path / "loss")
    assert all(float(row["detector_stderr"]) > 0 and int(row["nfe"]) == 48 for row in loss)
    assert "detector DenoisingLoss" in (tmp_path / "loss" / "report.html").read_text()


def test_generated_images_are_judged_against_more_of_them_without_error_control(tmp_path):
    sampler = ("generation.sampler.n_steps=10", "generation.n_reference=24", "generation.batch_size=16")
    report = run(tmp_path, *MODEL, "generate=20", "reference=generated", *sampler)
    assert report.metrics["audit/images"] == 20 and report.metrics["audit/reference_images"] == 24
    assert report.metrics["audit/flagged"] is None
    with np.load(tmp_path / "arrays" / "audit.npz") as arrays:
        assert not np.array_equal(np.sort(arrays["score"])[:5], np.sort(arrays["reference"])[:5])  # other randomness
    assert "own generations" in (tmp_path / "report.html").read_text()


def test_without_a_level_all_levels_of_the_schedule_count(data, tmp_path):
    levels = "noise_levels=[0.001,0.05,0.22,0.9999]"  # the first is none of this schedule
    report = run(tmp_path, *MODEL, f"images={data}/audited.npy", "sigma=null", levels)
    assert report.metrics["audit/sigma"] is None
    assert 0 <= report.metrics["audit/explained_by_difficulty"] <= 1
    with np.load(tmp_path / "arrays" / "audit.npz") as arrays:
        assert arrays["noise_levels"].tolist() == [0.05, 0.22, 0.9999]
        assert arrays["evidence"].shape == (52, 6)
    assert {"kappa_0.05", "expected", "measured", "same_as"} <= set(rows(tmp_path)[0])


@pytest.mark.slow
def test_a_killed_audit_goes_on_where_it_was(data, tmp_path):
    code = [sys.executable, "-m", "experiments.run", "+exp=audit", *MODEL, *QUICK, f"images={data}/audited.npy"]
    code += [f"cache_dir={tmp_path}/cache", f"hydra.run.dir={tmp_path}/run", "figures=null"]
    code += ["chunk=2", "evaluations=64"]  # blocks of two images
    paths = {"PYTHONPATH": str(ROOT)}
    how = {"env": os.environ | paths, "cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(code, **how) as process:
        deadline, done = time.monotonic() + 120, []
        while len(done) < 3 and time.monotonic() < deadline and process.poll() is None:
            done = list((tmp_path / "cache" / "audit" / "images").glob("*/entry.json"))
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "it must be killed while it runs"
    done = sorted((tmp_path / "cache" / "audit" / "images").glob("*/entry.json"))
    assert 3 <= len(done) < 26
    before = {path: path.stat().st_mtime_ns for path in done}
    finished = subprocess.run(code, **how, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in done} == before
    assert len(rows(tmp_path / "run")) == 52
    assert "52/52" in finished.stderr and "image/s" in finished.stderr  # progress, with the rate


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ((), "images=None: must be a folder, an .npz or an .npy; or give generate=n, but not both"),
        (("images=x", "generate=5"), "images='x': must be a folder, an .npz or an .npy; or give generate=n"),
        (("images=x", "fdr=1.5"), "fdr=1.5: must be < 1 (share of false discoveries"),
        (("images=x", "flux.p=2"), "flux.p=2.0: must be 1 here; other orders are detectors, as detector=flux_p2"),
        (("images=x", "flux.n_samples=4"), "flux.n_samples=4: must hold at least 8 independent units, 8 directions"),
        (("images=x", "max_samples=8"), "max_samples=8: must be at least flux.n_samples=16"),
        (("images=x", "noise_levels=[7.0]"), "noise_levels.0=7.0: must be < 1"),
        (("images=x", "detector=score_norm", "sigma=null"), "sigma=None: must be given: detector=score_norm looks at"),
        (("images=x", "score=detector"), "score='detector': needs a detector=NAME of conf/detector"),
        (("images=x", "score=best"), "score=best: must be one of 'kappa', 'kappa_given', 'kappa_gap' or 'detector'"),
        (("images=x", "+train.n_steps=3"), "train={…}: unknown key; known here: baseline, cache_dir, chunk, crop,"),
    ],
)
def test_what_cannot_be_asked_is_one_line(overrides, line):
    with pytest.raises(UserError) as refused:
        checked(*MODEL, *overrides)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def refusal(directory, *overrides):
    with pytest.raises(ValueError) as refused:
        run(directory, *overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_does_not_fit_together_is_one_line(data, tmp_path):
    where = f"images={data}/audited.npy"
    assert refusal(tmp_path, *MODEL, where, "prompts=3").startswith(
        "prompts=3: must not be given: this model has no prompts"
    )
    assert refusal(tmp_path, *MODEL, where, "score=kappa_gap").startswith("score='kappa_gap': needs prompts")
    assert refusal(tmp_path, *MODEL, where, "reference_prompts=3").startswith("reference_prompts=3: needs a reference")
    assert refusal(tmp_path, *MODEL, where, "detector=sharpness").startswith("detector='sharpness': needs noise")
    line = refusal(tmp_path, *MODEL, where, "detector=ball_average_p1", "sigma=5")
    assert line.startswith("sigma=5.0: must lie in [")
    known = (f"reference={data}/training.npz", f"training={data}/training.npz")
    line = refusal(tmp_path, *MODEL, where, *known)
    assert line == "reference='44 images': must hold no training image, and 44 of its 44 images are"
    line = refusal(tmp_path, *MODEL, where, "sigma=null", "noise_levels=[0.0001]")
    assert line.startswith("noise_levels=(0.0001,): must hold a level that the model's schedule has (VPLinear)")
    (tmp_path / "small").mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "small" / "a.png")
    line = refusal(tmp_path, *MODEL, f"images={tmp_path}/small")
    assert line.startswith("images='1 files': must hold an image that can be read and scored: ")
    assert "smaller than 4×4" in line


def test_one_image_and_a_reference_that_holds_it(tmp_path, caplog):
    saved(tmp_path / "one.npy", MEMORIZED[:1])
    saved(tmp_path / "reference.npy", np.concatenate([MEMORIZED[:1], images(3, 5)]))
    paths = (f"images={tmp_path}/one.npy", f"reference={tmp_path}/reference.npy")
    with caplog.at_level("WARNING"):
        report = run(tmp_path / "run", *MODEL, *paths)
    assert "1 of 1 audited images stand in the reference too" in caplog.text and "p >= 0.4" in caplog.text
    assert report.metrics["audit/smallest_p_value"] == pytest.approx(2 / 5) and report.metrics["audit/flagged"] == 0
    html = (tmp_path / "run" / "report.html").read_text()
    assert (
        "<dd>4 images; holds 1 of the audited images too</dd>" in html
        and "<dd>reference.npy</dd>" in html
        and str(tmp_path) not in html
    )
    assert "<dt>flagged</dt><dd>0</dd>" in html
    assert "0.05, Benjamini–Hochberg" in html
    alone = run(tmp_path / "alone", *MODEL, paths[0], cache=tmp_path / "run" / "cache")
    assert alone.metrics["audit/images"] == 1 and rows(tmp_path / "alone")[0]["z"] == ""
