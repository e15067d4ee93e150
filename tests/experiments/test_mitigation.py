"""Mitigation: what is measured of generated images, what is refused, and a run as a user starts it."""

import shutil
import subprocess
import time

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.schema import check
from experiments.figures.mitigation import front
from experiments.mitigation.measuring import Comparison, MeasuredImages, diversity
from tests.helpers.fashion import needs_fashion_mnist
from tests.helpers.left_behind import metrics
from tests.helpers.places import ROOT

EXP, NAME, GUIDANCE = "mitigation", "unet", 2.0
METHODS = ["none", "guard", "guard_prompt", "late_guidance"]
REST = ("prompt_embedding", "random_tokens", "sharp_noise", "gap_noise")


def test_diversity_is_the_mean_distance_over_pairs_of_a_caption():
    images = np.array([0.0, 1.0, 3.0, 7.0]).reshape(4, 1, 1, 1)
    np.testing.assert_allclose(diversity(images, np.array([5, 5, 5, 2])), [2.0, 2.0, 2.0, 0.0])


def of_captions(agree, n=12):
    """n images of each of six captions, of which the first so many agree."""
    values = {"agreement": np.concatenate([np.arange(n) < one for one in agree]).astype(float)}
    return MeasuredImages(np.repeat(np.arange(6), n), np.zeros((6 * n, 2, 2, 1)), values)


def test_what_never_varies_is_still_uncertain():
    """A share of 1 of six captions, and a change of none of them, are as open as a share of 0 is."""
    always, often = of_captions([12] * 6), of_captions([12, 12, 12, 6, 12, 12])
    unseen = pytest.approx(1 - 0.025 ** (1 / 6))
    shown = Comparison(always, seed=0).interval(always, "agreement")
    assert (shown.value, shown.high) == (1, 1) and 1 - shown.low == unseen
    swapped = MeasuredImages(often.prompts, often.images, {"agreement": often.values["agreement"].copy()})
    swapped.values["agreement"][36:48] = 1 - often.values["agreement"][36:48]  # others of the same caption
    for baseline, found in ((always, always), (often, often), (often, swapped)):
        same = Comparison(baseline, seed=0).change(found, "agreement")
        assert same.value == 0 and -same.low == same.high == unseen


def test_a_gain_alone_shows_no_less_loss_than_no_change_does():
    always, often = of_captions([12] * 6), of_captions([12, 12, 12, 6, 12, 12])
    gained = Comparison(often, seed=0).change(always, "agreement")
    assert gained.value == pytest.approx(1 / 12) and gained.high > gained.value
    assert -gained.low == pytest.approx(1 - 0.025 ** (1 / 6))
    lost = Comparison(always, seed=0).change(often, "agreement")
    assert lost.value == pytest.approx(-1 / 12) and lost.low < lost.value and lost.high == 0
    clear = Comparison(of_captions([0] * 6), seed=0).change(of_captions([12, 6, 6, 12, 12, 12]), "agreement")
    assert 0 < clear.low < clear.value < clear.high


def test_a_line_is_drawn_through_what_nothing_is_better_than():
    copies, better = np.array([0.1, 0.2, 0.2, 0.3, 0.0]), np.array([0.5, 0.4, 0.9, 0.9, 0.5])
    assert front(copies, better).tolist() == [4, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["memorized_from=41"], "memorized_from=41: must be at most 40, the most in planting.copies"),
        (["~methods.none"], "methods="),
        (["methods.late_guidance.grid.early=[1.0,1.0]"], "must hold at least one value, none twice"),
        (["+methods.gap_noise.grid.level=[0.1]"], "is a strength of guard"),
        (
            ["+methods.guard.grid.release=[0.01]"],
            "release=0.01: must lie in [level, 1), and level is",
        ),
        (["methods.guard.grid.restart=[0.0]"], "must be a noise-to-signal ratio > 0"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, message):
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(UserError) as refused:
        check(compose("config", [f"+exp={EXP}", *words]))
    assert message in str(refused.value) and "\n" not in str(refused.value)


@needs_fashion_mnist
@pytest.mark.slow
def test_a_run_measures_every_method_against_none(shared):
    words = [f"~methods.{name}" for name in REST]
    directory = shared.first(EXP, "scale=smoke", "tracking=disabled", f"samples.guidance=[{GUIDANCE}]", *words)
    found, arrays = metrics(directory), np.load(directory / "arrays" / "mitigation.npz")
    chosen = arrays["g2/chosen"]
    assert arrays["g2/methods"][chosen].tolist() == METHODS
    for name, copies, agreement in zip(
        METHODS, arrays["g2/copies"][chosen], arrays["g2/agreement"][chosen], strict=True
    ):
        prefix = f"mitigation/{NAME}/g2/{name}"
        for key, value in {"copies": copies, "agreement": agreement}.items():
            told = found[f"{prefix}/{key}"]
            np.testing.assert_allclose([told["value"], told["low"], told["high"]], value)
        assert found[f"{prefix}/others/copies"]["low"] >= 0
    assert found[f"mitigation/{NAME}/g2/none/nfe"]["value"] > 0
    assert found[f"mitigation/{NAME}/g2/guard/nfe"]["value"] > found[f"mitigation/{NAME}/g2/none/nfe"]["value"]
    assert found[f"mitigation/{NAME}/g2/guard/goal_met"] is None, "nothing is copied by a network of a few steps"
    assert {path.stem for path in (directory / "figures").glob("*.png")} == {"pareto", "sheet"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["mitigation/guard/*.partial", "judged/*"])
def test_killed_while_it_generates_or_judges_it_ends_in_the_same_numbers(shared, tmp_path, stage):
    """On digits, whose judge has no other images than half of the held-out ones."""
    exp, cache, directory = "mitigation_digits", tmp_path / "cache", tmp_path / "run"
    others = [f"~methods.{name}" for name in (*REST, "guard_prompt", "late_guidance")]
    words = ("scale=smoke", "tracking=disabled", f"samples.guidance=[{GUIDANCE}]", "figures=null", *others)
    first = shared.first(exp, *words)
    assert (
        metrics(first)["mitigation/mlp/g2/guard/nfe"]["value"] > metrics(first)["mitigation/mlp/g2/none/nfe"]["value"]
    )
    shutil.copytree(shared.compiled, tmp_path / "compiled")  # of its own: a killed process may leave half a file
    shutil.copytree(shared.cache / "train", cache / "train")
    command, environment = (
        shared.command(exp, directory, *words, cache=cache),
        shared.environment(tmp_path / "compiled"),
    )
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stderr)
    until = time.monotonic() + 300
    while not list(cache.glob(stage)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert process.poll() is None, (tmp_path / "stderr").read_text()[-2000:]
    process.kill()
    process.wait()
    assert not (directory / "metrics.json").exists()
    shared.run(exp, directory, *words, cache=cache)
    assert (directory / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()
