"""Whether a model denoises the images at all: exact models do, and each likely mistake in a set-up is told."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import UserModel, audit_images
from plap_jax.audit.denoising import denoising
from plap_jax.audit.images import Memory, Pictures
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.store import Surroundings
from plap_jax.audit.subject import Subject
from plap_jax.diffusion import DiscreteVP, VPLinear
from plap_jax.pretrained import as_pretrained

KEY, SHAPE, SCHEDULE = jax.random.key(0), (6, 6, 1), VPLinear()
AUDIT = {"key": KEY, "pixel_range": "-1..1"}
VARIANCE, MEAN = 0.04, 0.5


def images(n=64, seed=0):
    """Of one grey value each, and a little noise: one direction holds nearly all that varies."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(MEAN, 0.2, (n, 1, 1, 1)) + rng.normal(0, 0.01, (n, *SHAPE))
    return flat.clip(-1, 1).astype(np.float32)


def eps(x, t, condition, schedule=SCHEDULE, mean=MEAN):
    """The exact one of the flat images with variance 0.04, and of none beside: it is right about these."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    seen = (x / alpha).mean()
    noise = sigma**2 / alpha**2 / x.size
    flat = mean + VARIANCE / (VARIANCE + noise) * (seen - mean)
    return (x - alpha * flat) / sigma


def found(function=eps, *, schedule=SCHEDULE, prediction="eps", given=None, prompts=None, **how):
    made = as_pretrained(UserModel(function, schedule, SHAPE, prediction, **how))
    pictures = Pictures(Memory(images() if given is None else given), prompts)
    return denoising(Subject(made, "a function"), pictures, AuditSettings(), KEY, Surroundings())


def test_the_gaussian_is_its_closed_form_and_the_exact_model_is_better():
    right = found()
    alpha2, sigma2 = 1 - 0.58**2, 0.58**2
    variance = images()[np.unique(np.linspace(0, 63, 32).astype(int))].var()
    assert right.gaussian == pytest.approx(alpha2 * variance / (alpha2 * variance + sigma2), rel=1e-4)
    assert (right.n, right.sigma, right.warning) == (32, 0.58, None)
    # Of x̂₀ = m + v/(v + σ²/(α² d)) (x̄/α − m) the error is that of one coordinate of d, and of what is no flat image.
    noise = sigma2 / alpha2 / 36
    expected = (alpha2 / sigma2) * (VARIANCE * noise / (VARIANCE + noise) + 0.01**2)
    assert right.error == pytest.approx(expected, rel=0.4) and right.error < 0.5 * right.gaussian


def test_the_gaussian_itself_is_no_mistake():
    given = np.random.default_rng(1).normal(0, 0.3, (64, *SHAPE)).clip(-1, 1).astype(np.float32)

    def gaussian(x, t, condition):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        return sigma * x / (alpha**2 * 0.09 + sigma**2)

    told = found(gaussian, given=given)
    assert told.error == pytest.approx(told.gaussian, rel=0.1) and told.warning is None


@pytest.mark.parametrize(
    "mistaken",
    [
        {"prediction": "x0"},
        {"prediction": "v"},
        {"function": lambda x, t, condition: jnp.zeros_like(x)},
        {"function": lambda x, t, condition: eps((x + 1) / 2, t, condition, mean=0.75)},  # of [0, 1], and not said
        {"schedule": DiscreteVP.linear(1000), "function": lambda x, t, c: eps(x, t / 1000 * 0.2 + 1e-3, c)},
    ],
    ids=["x0", "v", "nothing", "units", "schedule"],
)
def test_mistakes_are_told(mistaken):
    told = found(**mistaken)
    assert told.warning.startswith("the model predicts the noise in the audited images worse than a Gaussian with")
    assert told.error > 1.25 * told.gaussian


def test_few_images_and_broken_ones_tell_nothing():
    assert found(given=images(3)) is None
    given = images(20)
    given[::2] = np.nan
    assert found(given=given).n == 10


def test_images_that_hardly_vary_are_no_mistake_and_no_answer_is_one():
    white = (0.9 + 1e-3 * images()).astype(np.float32)
    told = found(lambda x, t, condition: eps(x, t, condition, mean=0.85), given=white)
    assert told.gaussian < 1e-4 < told.error and told.warning is None
    assert "answers NaN or infinity" in found(lambda x, t, condition: jnp.nan * x).warning


def test_a_model_that_is_told_prompts_alone_is_asked_with_them():
    def told_alone(x, t, condition):
        known = condition is not None
        return jnp.where(condition >= 0, eps(x, t, condition), jnp.nan) if known else jnp.nan * x

    assert found(told_alone, n_conditions=2, prompts=[1] * 64).warning is None
    assert found(told_alone, n_conditions=2).warning is not None


def test_numbers_do_not_depend_on_batches():
    pictures = Pictures(Memory(images()))
    made = Subject(as_pretrained(UserModel(eps, SCHEDULE, SHAPE)), "a function")
    both = [denoising(made, pictures, AuditSettings(evaluations=n), KEY, Surroundings()) for n in (5, 1000)]
    assert both[0].error == pytest.approx(both[1].error, rel=1e-5) and both[0].gaussian == both[1].gaussian


def test_an_audit_tells_it_before_and_after(caplog):
    wrong = UserModel(eps, SCHEDULE, SHAPE, "x0")
    result = audit_images(wrong, images(10, 1), reference=images(40), **AUDIT)
    assert any("worse than a Gaussian" in line for line in result.notices)
    assert [one.levelno for one in caplog.records if "worse than a Gaussian" in one.message] == [logging.WARNING]
    assert not result.claims.is_controlled and "may not denoise" in result.claims.control
    right = audit_images(UserModel(eps, SCHEDULE, SHAPE), images(10, 1), reference=images(40), **AUDIT)
    assert right.denoising.warning is None and not any("Gaussian" in line for line in right.notices)
