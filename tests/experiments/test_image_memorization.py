"""The image experiment's parts: settings it refuses, classes that came out empty, choices among equals, snapshots."""

import json

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.core.catalogue import CONF
from experiments.core.errors import UserError
from experiments.core.report import Report
from experiments.core.schema import check
from experiments.figures import image_memorization as figures
from experiments.image_memorization.evaluation import best
from experiments.shared.measuring import measure, measure_gain, measure_share
from experiments.shared.networks import snapshot_steps, untrained
from plap_jax.metrics import auc
from plap_jax.training.steps import Task, initial_state, one_step
from tests.helpers.experiment_run import FIXED

EXP, WORDS = "image_memorization", (*FIXED, "train.chunk_steps=50", "train.checkpoint_every=50")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["planting.images=[6,4]"], "planting.images=[6, 4]: must be as long as planting.copies, 6"),
        (["planting.copies=[40,32,16,8,4,1]"], "planting.copies=[40, 32, 16, 8, 4, 1]: must be >= 2"),
        (["planting.copies=[40,32,16,8,4,4]"], "planting.copies=[40, 32, 16, 8, 4, 4]: must not repeat a number"),
        (["planting.images=[6,4,4,4,4,1]"], "planting.images=[6, 4, 4, 4, 4, 1]: must be >= 4, two for each half"),
        (["scoring.sigmas=[0.1,5]"], "scoring.sigmas=[0.1, 5.0]: must lie in"),
        (["scoring.sigmas=[0.1,0.1]"], "scoring.sigmas=[0.1, 0.1]: must not hold a value twice"),
        (["scoring.p=[2]"], "scoring.p=[2.0]: must hold 1"),
        (["scoring.p=[0.5,1]"], "scoring.p.0=0.5: must be >= 1"),
        (["train.n_steps=many"], "train.n_steps=many: must be an integer"),
        (["directions=[8,8]"], "directions=[8, 8]: must be two different numbers"),
        (["flux.p=2"], "flux.p=2.0: must be 1 here"),
        (
            ["diffusion=ddpm_linear_100", "samples.sampler.n_steps=200"],
            "samples.sampler.n_steps=200: must be at most 100",
        ),
        (["diffusion=ddpm_linear_100", "sampler@samples.sampler=reverse_sde"], "samples.sampler."),
        (["samples.n=0"], "samples.n=0: must be >= 4"),
        (["labels.max_ratio=2"], "labels.max_ratio=2: must be <= 1"),
        (["flux.radius=1"], "flux.radius=1.0: must be null here"),
        (["flux.n_samples=1"], "flux.n_samples=1: "),
        (["learning.n_snapshots=301"], "learning.n_snapshots=301: must be <= train.n_steps=300"),
        (["prediction=noise"], "prediction=noise: must be one of"),
        (["sampler@samples.sampler=probability_flow", "samples.sampler.rtol=0"], "samples.sampler.rtol=0"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_computed(overrides, message):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["+exp=image_memorization", "scale=smoke", *overrides])
    with pytest.raises(UserError) as refused:
        check(config)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("planting.images=[9000,4,4,4,4,4]", "must hold at least 9080: 9020 to plant and 60 single ones"),
        ("data.n_heldout=5000", "n_heldout=5000: "),
    ],
)
def test_too_few_images_are_one_line_and_exit_code_2(command, tmp_path, override, message):
    code, _, err = command(f"+exp={EXP}", *WORDS, "hydra.run.dir=run", "cache_dir=cache", override)
    assert code == 2 and message in err.strip().splitlines()[-1], err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_class_that_came_out_empty_is_null_with_its_reason(tmp_path):
    report = Report(tmp_path, {"name": "x", "seed": 0})
    some, none = np.arange(5.0), np.zeros(0)
    assert measure(report, "a", auc, none, some, 0) is None
    measure_gain(report, "b", (some[:1], some, some[:1], some), 0)
    measure_share(report, "c", none > 0)
    one_image = np.zeros(2, int), np.arange(2)
    measure_gain(report, "one_image", (some[:2],) * 4, 0, one_image)
    assert report.metrics == {"a": None, "b": None, "c": None, "one_image": None}
    report.write_manifest()
    missing = json.loads((tmp_path / "manifest.json").read_text())["missing_metrics"]
    assert measure(report, "d", auc, np.zeros(3), np.zeros(4), 0) is None
    assert missing["a"].startswith("0 positive") and missing["b"].startswith("1 positive")
    assert missing["one_image"] == "all of a class belong to one training image"


def test_the_first_of_equals_is_chosen_and_the_middle_level_where_nothing_can_be():
    values = np.zeros((2, 3, 6))
    positive, negative = np.arange(6) < 3, np.arange(6) >= 3
    values[1, 2, :3] = values[1, 1, :3] = 1
    choice = best(values, positive, negative)
    assert (choice.order, choice.level) == (1, 1)
    choice = best(values[:1], np.zeros(6, bool), negative, first=4)
    assert (choice.order, choice.level) == (4, 1)


@pytest.mark.parametrize(("n", "n_steps"), [(1, 10), (8, 6000), (5, 5), (3, 4)])
def test_snapshots_are_increasing_and_end_with_the_training(n, n_steps):
    steps = snapshot_steps(n, n_steps)
    assert steps[-1] == n_steps and list(steps) == sorted(set(steps)) and steps[0] >= 1 and len(steps) <= n


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_a_step_of_the_full_size_network_has_the_right_shapes(name, shape):
    """Traced, not compiled: a step of these takes an accelerator."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = check(compose("config", [f"+exp=image_memorization_{name}", "scale=full"]))[0]
    rows = np.random.default_rng(0).uniform(-1, 1, (4, *shape)).astype(np.float32)
    train_config = config.train.make()
    state = initial_state(untrained(config, rows, name="network"), train_config)
    task = Task(untrained(config, rows, name="network"), jax.numpy.asarray(rows), None, jax.random.key(0))
    batch = np.zeros(train_config.batch_size, np.int32)
    after, loss = jax.eval_shape(lambda s: one_step(s, task, train_config.recipe, 0, batch), state)
    assert loss.shape == () and loss.dtype == np.float32
    assert after.weights.shape == state.weights.shape and after.weights.dtype == np.float32
    assert state.weights.size > 4e6


@pytest.mark.parametrize(("known", "columns"), [((True, True), 2), ((True, False), 1), ((False, False), 1)])
def test_levels_have_no_empty_panel_of_generated_images(known, columns, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, *_: drawn.append(figure))
    values = [np.full((1, 2, 3), 0.8 if one else np.nan) for one in known]  # p, level, estimate with its interval
    sets = [{"p": [1.0], "sigma": np.array([0.1, 0.3]), "auc": a, "tpr_at_1pct_fpr": a} for a in values]
    figures.draw_levels(sets[0] | {"headline": 40}, sets[1], tmp_path)
    assert len(drawn[0].axes) == 2 * columns
