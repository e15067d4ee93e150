"""Functions of data in other units than [−1, 1], and modules of Equinox: the same answers as their twins."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plap_jax import EDM, UserModel, VPLinear
from plap_jax.detectors import FluxDensity, Query
from plap_jax.evidence import noise_to_signal, times_of
from plap_jax.pretrained import as_pretrained

SHAPE, SPREAD = (4, 4, 2), 0.4
SCALE, SHIFT = (0.5, 2.0), (0.5, -1.0)


def images(n):
    return np.random.default_rng(0).uniform(-1, 1, (n, *SHAPE)).astype(np.float32)


class Exact(eqx.Module):
    """ε̂ for data from N(shift, (spread · scale)²), channel by channel, with weights and a function among its leaves."""

    scale: jax.Array
    shift: jax.Array
    activation: object

    def __call__(self, x, t, condition):
        alpha, sigma = VPLinear().alpha(t), VPLinear().sigma(t)
        variance = (alpha * SPREAD * self.scale) ** 2 + sigma**2
        return self.activation(sigma * (x - alpha * self.shift) / variance)


def exact(own_scale=1.0, own_shift=0.0, **how):
    arrays = [jnp.broadcast_to(jnp.asarray(value, jnp.float32), 2) for value in (own_scale, own_shift)]
    return UserModel(Exact(*arrays, lambda x: x), VPLinear(), SHAPE, **how)


def test_images_go_there_and_back():
    model = as_pretrained(exact(SCALE, SHIFT, scale=SCALE, shift=SHIFT))
    x = images(3)
    np.testing.assert_allclose(model.encode(x), x * np.float32(SCALE) + np.float32(SHIFT), rtol=1e-6)
    np.testing.assert_allclose(model.decode(model.encode(x)), x, atol=1e-6)
    assert model.unit == pytest.approx(1.0) and model.kind == "pixels"
    assert as_pretrained(exact()).encoder is None


def test_one_scale_changes_the_meaning_of_noise_levels_alone():
    """κ₁ of the model in [0, 1] is κ₁ of its twin in [−1, 1], at the level of the same noise to signal."""
    twin, other = as_pretrained(exact()), as_pretrained(exact(0.5, 0.5, scale=0.5, shift=0.5))
    x, key, schedule = images(4), jax.random.key(0), VPLinear()
    for level in (0.1, 0.5):
        (t,), (u,) = (times_of(schedule, (level,), model.unit).values() for model in (twin, other))
        ratio = float(schedule.sigma(u) / schedule.alpha(u))
        assert ratio == pytest.approx(0.5 * noise_to_signal(level), rel=1e-4)
        expected, found = (
            FluxDensity(float(schedule.sigma(time))).scores(model.diffusion, Query(model.encode(x)), key=key)
            for model, time in ((twin, t), (other, u))
        )
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_levels_beyond_the_schedule_are_left_out_in_its_units():
    assert list(times_of(EDM(0.1, 10), (0.05, 0.5))) == [0.5]
    assert list(times_of(EDM(0.1, 10), (0.05, 0.5), 10)) == [0.05, 0.5]


def test_weights_of_an_equinox_module_are_data():
    compiled = []

    @jax.jit
    def eps(model, x):
        compiled.append(1)
        return model.eps(x, 0.3)

    activation, x = (lambda x: x), images(1)[0]
    for scale in (1.0, 0.5):
        network = Exact(jnp.full(2, scale), jnp.zeros(2), activation)
        model = as_pretrained(UserModel(network, VPLinear(), SHAPE)).diffusion
        assert len(jax.tree.leaves(model.network)) == 2
        np.testing.assert_allclose(eps(model, x), network(x, 0.3, None), rtol=1e-6)
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"scale": 0.0}, "scale=0.0: must be > 0"),
        (
            {"scale": (1.0, 2.0, 3.0)},
            r"scale=\(1.0, 2.0, 3.0\): must be one finite number, or one for each of 2 channels",
        ),
        ({"shift": np.nan}, "shift=nan: must be one finite number"),
        ({"shift": "grey"}, "shift='grey': must be one finite number"),
    ],
)
def test_units_that_are_none(changes, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        as_pretrained(exact(**changes))
