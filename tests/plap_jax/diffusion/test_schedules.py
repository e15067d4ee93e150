"""Noise levels by noise to signal, which compare across schedules."""

import jax.numpy as jnp
import pytest

from plap_jax import EDM, VE, DiscreteVP, VPCosine, VPLinear

SCHEDULES = [VPLinear(), VPCosine(), VE(), EDM(), DiscreteVP.linear(1000)]


@pytest.mark.parametrize(
    "schedule", [VPLinear(), VPCosine(), VE(), EDM(), DiscreteVP.linear(1000)], ids=lambda s: s.name
)
def test_time_at_ratio_inverts_noise_to_signal(schedule):
    for ratio in (0.05, 0.3, 1.5):
        t = schedule.time_at_ratio(ratio)
        assert float(schedule.sigma(t) / schedule.alpha(t)) == pytest.approx(
            ratio, rel=0.02 if schedule.discrete else 1e-4
        )
        assert (t.dtype == jnp.int32) == schedule.discrete


def test_time_at_ratio_takes_the_ends_and_refuses_what_lies_outside():
    schedule = VE(sigma_min=0.1, sigma_max=10.0)
    assert float(schedule.time_at_ratio(0.1)) == pytest.approx(0, abs=1e-6)
    assert float(schedule.time_at_ratio(10.0)) == pytest.approx(1, abs=1e-6)
    assert not schedule.reaches(0.09)
    assert not schedule.reaches(-1.0)
    with pytest.raises(ValueError, match=r"^noise_to_signal=11: must lie in \[0.1, 10\] \(VE\)$"):
        schedule.time_at_ratio(11)


@pytest.mark.parametrize("table", [DiscreteVP.linear, DiscreteVP.scaled_linear])
def test_a_table_from_large_to_small_is_a_mistake(table):
    with pytest.raises(ValueError, match=r"^beta_start=0.02: must not exceed beta_end=0.0001$"):
        table(1000, 0.02, 1e-4)
