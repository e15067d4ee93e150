"""``+exp=generate`` on an exact model of which half the generations are copies: images, table, band, resuming."""

import csv
import os
import signal
import subprocess
import sys
import time

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
from experiments.generate.making import Made
from experiments.shared import audited_models
from tests.helpers import memorizing_model, text_model
from tests.helpers.places import ROOT

MODEL = ("model=callable", "model.target=tests.helpers.memorizing_model:factory")
PROMPTED = ("model=callable", "model.target=tests.helpers.memorizing_model:prompted")
QUICK = ("scale=smoke", "tracking=disabled", "sampler.n_steps=12", "band.level=0.05", "n=24", "chunk=16")
# The model knows its images exactly, and leads back to them from any little noise.
FAR = ("mitigation.restart=8.0", "mitigation.growth=1.0", "band.first=0.4", "band.n_checks=4", "band.sigma=0.16")
GUARDED = ("mitigation=guard", "mitigation.renoisings=6", *FAR)


def run(directory, *overrides, cache=None):
    """A run within this process: its report."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config, module = check(compose("config", ["+exp=generate", *QUICK, *overrides]))
    report = Report(directory, config.model_dump(mode="json"))
    module.run(config, report=report, cache=Cache(cache or directory / "cache"), tracker=Tracker())
    report.write_metrics()
    return report


def rows(folder):
    with (folder / "generated.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def copies(images):
    apart = np.asarray(images)[:, None] - memorizing_model.MEMORIZED
    return np.sqrt((apart**2).mean(axis=(2, 3, 4))).min(axis=1) < 0.05


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "training.npy"
    np.save(path, np.concatenate([memorizing_model.MEMORIZED, memorizing_model.images(30, 3)]))
    return path


@pytest.fixture(scope="module")
def guarded(training, tmp_path_factory):
    """(directory, report) of a run with a guard."""
    directory = tmp_path_factory.mktemp("guarded")
    return directory, run(directory, *MODEL, *GUARDED, f"band.training={training}", f"out={directory / 'out'}")


def test_a_guarded_model_does_not_copy(guarded, training, tmp_path):
    directory, report = guarded
    made = np.load(directory / "arrays" / "generated.npz")
    plain = run(tmp_path, *MODEL, "mitigation=none", f"out={tmp_path / 'out'}", cache=directory / "cache")
    without = np.load(tmp_path / "arrays" / "generated.npz")
    before = copies(without["images"])
    assert before.mean() > 0.2 and copies(made["images"]).mean() < 0.3 * before.mean()
    stayed = made["note_renoised"] == 0
    assert not stayed[before].any()
    np.testing.assert_allclose(made["images"][stayed], without["images"][stayed], atol=1e-5)
    assert plain.metrics["generate/nfe"] == 12
    assert report.metrics["generate/renoised"]["value"] == pytest.approx((~stayed).mean())
    written = [int(row["copy"]) for row in rows(directory / "out")]
    assert report.metrics["generate/copies"]["value"] == np.mean(written) < 0.3 * before.mean()
    assert "generate/copies" not in plain.metrics and "copy" not in rows(tmp_path / "out")[0]
    how = (*MODEL, "mitigation=none", f"band.training={training}", f"out={tmp_path / 'told'}")
    told = run(tmp_path / "told", *how, cache=directory / "cache")
    known = np.load(training).reshape(-1, 16)
    apart = np.sort(np.linalg.norm(without["images"].reshape(-1, 1, 16) - known, axis=2), axis=1)
    by_ratio, by_distance = apart[:, 0] < apart[:, 1] / 3, apart[:, 0] / 4 < 0.1
    assert [int(row["copy"]) for row in rows(tmp_path / "told")] == by_ratio.astype(int).tolist()
    assert by_ratio[before].all() and told.metrics["generate/copies"]["value"] == by_ratio.mean()
    assert told.metrics["generate/copies_by_distance"]["value"] == by_distance.mean() > 0.2
    assert report.metrics["band/no_copies"] < report.metrics["band/generations"] == 128


def test_images_and_a_table_of_what_was_renoised(guarded):
    directory, _ = guarded
    table, made = rows(directory / "out"), np.load(directory / "arrays" / "generated.npz")
    assert len(table) == 24 and table == rows(directory / "tables")
    for i, row in enumerate(table):
        picture = np.asarray(Image.open(directory / "out" / row["file"]), float)
        np.testing.assert_allclose(picture / 127.5 - 1, np.clip(made["images"][i, ..., 0], -1, 1), atol=0.005)
        assert int(row["renoised"]) == made["note_renoised"][i] and int(row["nfe"]) == made["nfe"][i]
        assert (row["caught_kappa"] == "") == (row["renoised"] == "0") or row["outside"] == "1"
    assert {"kappa_0", "kappa_3", "outside", "caught_at"} <= set(table[0])


def test_a_band_serves_other_runs_of_the_same_model_alone(guarded, tmp_path):
    directory, _ = guarded
    band = f"band.file={directory / 'arrays' / 'band.npz'}"
    run(tmp_path / "again", *MODEL, *GUARDED, band, cache=directory / "cache")
    again = np.load(tmp_path / "again" / "arrays" / "generated.npz")
    np.testing.assert_array_equal(again["images"], np.load(directory / "arrays" / "generated.npz")["images"])
    assert len(list((tmp_path / "again" / "images").glob("*.png"))) == 24
    with pytest.raises(ValueError, match="^band.file=.*: must be of this model, sampler and guidance"):
        run(tmp_path / "other", *MODEL, *GUARDED, band, "sampler.eta=1.0", cache=directory / "cache")


def test_nobody_elses_files_are_replaced(guarded, tmp_path, caplog):
    directory, _ = guarded
    caplog.set_level("INFO")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="^out=.*holiday.png"):
        run(tmp_path, *MODEL, "mitigation=none", f"out={tmp_path / 'out'}")
    (tmp_path / "out" / "holiday.png").unlink()
    for n in (5, 2):
        run(tmp_path / str(n), *MODEL, "mitigation=none", f"n={n}", f"out={tmp_path / 'out'}", cache=tmp_path / "c")
        assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"{i:05d}.png" for i in range(n)]
    assert caplog.text.count("of an earlier run, removed") == 1
    assert "of an earlier run, removed: 3 files, from 00002.png on" in caplog.text


@pytest.mark.parametrize(
    "method",
    [
        "late_guidance",
        pytest.param("sharp_noise", marks=pytest.mark.slow),
        pytest.param("gap_noise", marks=pytest.mark.slow),
    ],
)
def test_methods_with_prompts(method, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt\n0\n3\n")
    how = (f"mitigation={method}", f"prompts={prompts}", "guidance=2.0", "n=4", f"out={tmp_path / 'out'}")
    run(tmp_path, *PROMPTED, *how)
    assert [row["prompt"] for row in rows(tmp_path / "out")] == ["0", "3", "0", "3"]


def test_a_model_of_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(audited_models, "user_function", lambda target: text_model.subject())
    how = ("model=callable", "model.target=x:y", "prompts=memorized", "guidance=1.5", "n=3", f"out={tmp_path / 'out'}")
    run(tmp_path, *how, "mitigation=random_tokens")
    assert {row["prompt"] for row in rows(tmp_path / "out")} == {"memorized"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            (*MODEL, "mitigation=late_guidance"),
            "mitigation='LateGuidance': needs prompts, and this model takes none",
        ),
        (
            (*PROMPTED, "mitigation=late_guidance"),
            "mitigation='LateGuidance': needs prompts, give prompts=…",
        ),
        ((*MODEL, "mitigation=none", "prompts=3"), "prompts=3: must not be given: this model has no prompts"),
        (
            (*PROMPTED, "mitigation=prompt_embedding", "prompts=1"),
            "mitigation: model='MixtureNetwork': must have a caption table or a text encoder",
        ),
        ((*MODEL, "mitigation=guard", "mitigation.restart=0.0"), "mitigation.restart=0.0: must be a noise-to-signal"),
        (
            (*PROMPTED, "mitigation=random_tokens", "mitigation.share=2.0", "prompts=1"),
            "mitigation.share=2.0: must lie",
        ),
        ((*MODEL, "mitigation.restart=0.1"), "mitigation: restart=0.1: must be at least "),
        ((*MODEL, "band.n=12"), "band.n=12: must be at least 19, which band.level=0.05 needs"),
        ((*MODEL, "band.release=0.04"), "band.release=0.04: must be at least band.level, 0.05"),
        ((*MODEL, "band.n_checks=40"), "band.n_checks=40: must be at most 2, the nodes from first=0.9 on"),
        ((*MODEL, "band.file=none.npz"), "band.file: band='none.npz': must be an .npz that is there"),
        ((*MODEL, "n=0"), "n=0: must be >= 1"),
        ((*MODEL, "mitigation._target_=os.getcwd"), "mitigation='os.getcwd': must be one of conf/mitigation"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, line, tmp_path):
    with pytest.raises((ValueError, UserError)) as refused:
        run(tmp_path, *words)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_a_model_that_fails_at_the_training_images_is_told_once_before_anything_is_made(training, tmp_path, caplog):
    mistaken = ("model=callable", "model.target=tests.helpers.memorizing_model:mistaken", "mitigation=none", "n=2")
    run(tmp_path, *mistaken, f"band.training={training}", f"out={tmp_path / 'out'}")
    told = [one.getMessage() for one in caplog.records if "worse than a Gaussian" in one.getMessage()]
    assert len(told) == 1 and "the noise in the training images worse" in told[0]


def test_a_mistake_is_told_before_training_images_are_read(tmp_path):
    words = (*MODEL, "mitigation=late_guidance", f"band.training={tmp_path / 'gone'}", f"out={tmp_path / 'out'}")
    with pytest.raises(ValueError, match=r"^mitigation='LateGuidance': needs prompts"):
        run(tmp_path, *words)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(training, guarded, tmp_path):
    directory, _ = guarded
    words = (*QUICK, *MODEL, *GUARDED, f"band.training={training}", "chunk=8", f"out={tmp_path / 'out'}")
    places = (f"hydra.run.dir={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}")
    command = [sys.executable, "-m", "experiments.run", "+exp=generate", *words, *places]
    first = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if list((tmp_path / "cache").glob("generate/images/*/entry.json")) or first.poll() is not None:
            break
        time.sleep(0.25)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    again = [word for word in command if not word.startswith(("cache_dir", "out=", "hydra"))]
    places = (f"hydra.run.dir={tmp_path / 'run2'}", f"cache_dir={tmp_path / 'cache2'}", f"out={tmp_path / 'out2'}")
    subprocess.run([*again, *places], cwd=ROOT, env=os.environ, capture_output=True, check=True)
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "out2").iterdir()}


@pytest.mark.parametrize(
    ("notes", "line"),
    [
        (
            {"renoised": np.array([1, 0, 0, 0]), "outside": np.array([True, False, False, False])},
            "many are left outside: a larger mitigation.restart leads further (docs/mitigation.md)",
        ),
        (
            {"prompt_steps": np.zeros(2), "gap_before": np.array([0.0004, 0.0006])},
            "nothing was changed: the median of gap_before is 0.0005, and mitigation.target is above that",
        ),
        (
            {"noise_steps": np.zeros(2), "loss_before": np.array([0.04, 0.05])},
            "nothing was changed: the median of loss_before is 0.045, and mitigation.threshold is above that",
        ),
    ],
)
def test_what_a_user_should_change_is_told(notes, line):
    n = len(next(iter(notes.values())))
    arrays = {"images": np.zeros((n, 2, 2, 1)), "nfe": np.full(n, 9)} | {f"note_{k}": v for k, v in notes.items()}
    assert Made(arrays, None).lines()[-1] == line


def test_nothing_is_told_of_methods_that_act():
    arrays = {"images": np.zeros((2, 2, 2, 1)), "nfe": np.full(2, 9), "note_prompt_steps": np.array([0, 3])}
    assert Made(arrays, None).lines() == ["9.0 evaluations of the network for an image"]
