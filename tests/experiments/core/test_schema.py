"""The config check: everything that composes is accepted, everything else is one line that names key and value."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.core.catalogue import CONF, experiments
from experiments.core.errors import UserError
from experiments.core.schema import Target, check
from plap_jax.diffusion import VPLinear
from tests.helpers.places import HELPERS
from tests.helpers.tiny_experiment import TinyTraining

GROUPS = {
    group.name: sorted(path.stem for path in group.glob("*.yaml"))
    for group in CONF.iterdir()
    # captioned: below; trains: part of experiments; detector: tests/experiments/test_detection_benchmark.py
    if group.is_dir() and group.name not in ("exp", "hydra", "captioned", "trains", "detector")
}
CHOICES = [f"{group}={name}" for group, names in GROUPS.items() for name in names]
NEEDED = {
    "audit": ("images=folder",),
    "text_to_image_memorization": ("prompts=file.csv",),
}  # what an experiment cannot do without
# Groups that not every experiment has: an experiment that does, and where the choice ends up.
ELSEWHERE = {"sampler": ("image_memorization", "samples.sampler"), "mitigation": ("generate", "mitigation")}


def composed(*overrides, exp="tiny"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"hydra.searchpath=[file://{HELPERS / 'conf'}]", f"+exp={exp}", *overrides])


def checked(*overrides, exp="tiny"):
    return check(composed(*overrides, exp=exp))[0]


def test_the_tiny_config():
    config = checked("seed=7", "flux.p=2")
    assert (config.seed, config.flux.p, config.sample.n) == (7, 2, 64)
    assert config.diffusion.make() == VPLinear()
    assert config.train.make() == TinyTraining(3)
    assert config.train.spec == {"_target_": "tests.helpers.tiny_experiment.TinyTraining", "n_steps": 3}
    assert config.model.is_partial and not config.train.is_partial


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes_and_is_made(choice):
    group, _, name = choice.partition("=")
    exp, place = ELSEWHERE.get(group, ("tiny", group))
    needed = NEEDED.get(exp, ())
    section = checked(f"{group}@{place}={name}" if place != group else choice, *needed, exp=exp)
    for key in place.split("."):
        section = getattr(section, key)
    if isinstance(section, Target) and not section.is_partial:
        assert section.make() is not None


@pytest.mark.parametrize(
    ("overrides", "prediction"),
    [
        ((), "eps"),
        (("diffusion=rectified_flow",), "flow"),
        (("diffusion=edm",), "edm"),
        (("diffusion=rectified_flow", "prediction=x0"), "x0"),
    ],
)
def test_a_schedule_brings_its_prediction(overrides, prediction):
    assert checked(*overrides, exp="image_memorization").prediction == prediction


def test_times_of_the_published_mixture_example_have_their_noise_to_signal_on_every_schedule():
    published = checked(exp="gmm_memorization")
    assert (published.critical.t, published.maps.times) == (10, [2, 20, 60])
    flow = checked("diffusion=rectified_flow", exp="gmm_memorization")
    table, schedule = published.diffusion.make(), flow.diffusion.make()
    for step, t in zip((10, 2, 20, 60), (flow.critical.t, *flow.maps.times), strict=True):
        np.testing.assert_allclose(schedule.log_snr(t), table.log_snr(step), rtol=1e-4)
    given = checked("diffusion=rectified_flow", "critical.t=0.5", "maps.times=[0.25]", exp="gmm_memorization")
    assert (given.critical.t, given.maps.times) == (0.5, [0.25])


@pytest.mark.parametrize("scales", [("cpu",), pytest.param(("smoke", "full"), marks=pytest.mark.slow)], ids=" ".join)
@pytest.mark.parametrize("exp", experiments())
def test_every_experiment_composes_at_every_scale(exp, scales):
    config = composed(*NEEDED.get(exp, ()), exp=exp)
    for config.scale in scales:  # a value, from which others interpolate
        found = check(config)[0]
        assert (found.name, found.scale) == (exp, config.scale)


@pytest.mark.parametrize(
    "scale", ["cpu", *(pytest.param(scale, marks=pytest.mark.slow) for scale in ("smoke", "full"))]
)
@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "captioned").glob("*.yaml")))
def test_every_set_of_captioned_images_composes_and_suffices(name, scale):
    config = checked(f"captioned={name}", f"scale={scale}", exp="detection_benchmark")
    needed = sum(config.planting.images) + config.planting.n_grouped + config.planting.n_class
    n_train = config.data.spec["n_train"]
    assert n_train is None or n_train >= needed


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_config_files_are_short(path):
    if path.parent.name != "exp":
        assert len(path.read_text().splitlines()) < 25


@pytest.mark.parametrize(
    ("exp", "override", "line"),
    [
        ("gmm_memorization", "data=digits", "data='plap_jax.data.bundled.digits': must be a mixture"),
        ("image_memorization", "data=triangle", "data='plap_jax.data.mixtures.triangle': must be images"),
        ("gmm_memorization", "figures=nope", "figures=nope: must be a module that can be imported, or null"),
    ],
)
def test_data_and_figures_that_do_not_fit_the_experiment_are_refused(exp, override, line):
    with pytest.raises(UserError) as refused:
        checked(override, exp=exp)
    assert str(refused.value).startswith(line)


def test_scale_is_a_value_and_a_direct_override_wins():
    assert checked("scale=smoke").sample.n == 8
    assert checked("scale=smoke", "sample.n=5").sample.n == 5
    assert checked("scale=full", "scales.full.n=6").sample.n == 6


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("flux.p=0.5", "flux.p=0.5: must be >= 1 (below 1 the operator is unbounded where the score vanishes)"),
        ("flux.p=nan", "flux.p=nan: must be a finite number (below 1"),
        ("flux.p=inf", "flux.p=inf: must be a finite number (below 1"),
        ("flux.p=two", "flux.p=two: must be a number (below 1"),
        ("flux.n_samples=1.5", "flux.n_samples=1.5: must be an integer (directions per ball)"),
        ("flux.n_samples=true", "flux.n_samples=true: must be an integer (directions per ball)"),
        (
            "flux.directions=some",
            "flux.directions=some: must be one of 'iid', 'antithetic', 'orthogonal' or 'quasi'",
        ),
        ("flux.radius=0", "flux.radius=0: must be > 0 (null: the noise shell σ√d)"),
        ("flux.n_samples=null", "flux.n_samples=null: must be an integer"),
        ("~flux", "flux: is missing"),
        ("~flux.p", "flux.p: is missing (below 1"),
        ("seed=-1", "seed=-1: must be >= 0"),
        ("seed=1e3", "seed=1000.0: must be an integer"),
        ("scale=huge", "scale=huge: must be one of smoke, cpu, full"),
        ("name=A/B", "name=A/B: "),
        ("headline=all", "headline=all: must be a list (patterns"),
        ("+typo=1", "typo=1: unknown key; known here: cache_dir, data, diffusion, experiment, figures, flux,"),
        ("++flux.foo=2", "flux.foo=2: unknown key; known here: directions, n_samples, p, radius"),
        ("+sample.foo={a: 1}", "sample.foo={…}: unknown key; known here: fail, n, spread"),
        ("+scales.cpu.m=1", "scales={…}: must hold smoke, cpu and full, each with the same keys"),
        ("sample.n=1", "sample.n=1: must be >= 2"),
        ("sample.fail=often", "sample.fail=often: must be one of 'none', 'value' or 'bug'"),
        ("++diffusion.foo=2", "diffusion.foo=2: unknown key; known here: beta_max, beta_min, t_min"),
        ("diffusion.beta_min=low", "diffusion.beta_min=low: must be a number"),
        ("diffusion.beta_min=-1", "diffusion.beta_min=-1: must"),
        ("train.n_steps=0", "train.n_steps=0: must be >= 1"),
        ("train.n_steps=1.5", "train.n_steps=1.5: must be an integer"),
        ("model.width=wide", "model.width=wide: must be an integer"),
        ("~diffusion._target_", "diffusion={…}: must hold _target_, the import path of what is to be made"),
        ("model._target_=plap_jax.nets.MLP", "model._target_=plap_jax.nets.MLP: cannot be imported ("),
        ("experiment=experiments.none", "experiment=experiments.none: must be a module that can be imported"),
        ("experiment=json", "experiment=json: must be a module that holds Config and run"),
    ],
)
def test_the_first_problem_is_one_line(override, line):
    with pytest.raises(UserError) as refused:
        checked(override)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_a_nested_target_is_checked_too():
    with pytest.raises(UserError, match=r"^model\.width\.beta=1: unknown key; known here: beta_max, beta_min, t_min$"):
        checked("model.width={_target_: plap_jax.diffusion.VPLinear, beta: 1}", "model._target_=builtins.dict")


def test_no_experiment_lists_them():
    with pytest.raises(UserError, match=r"^\+exp=NAME must name one experiment: .*gmm_memorization"):
        check(OmegaConf.create({"name": "???", "seed": 0}))


def test_long_values_are_cut_in_messages():
    with pytest.raises(UserError) as caught:
        checked(f"seed={'x' * 200}")
    assert str(caught.value) == f"seed={'x' * 77}...: must be an integer (seed of all randomness)"
