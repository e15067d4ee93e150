"""The rule that chooses a noise level."""

import numpy as np
import pytest

from plap_jax.audit.level import largest_spread


def test_the_level_is_where_scores_spread_beyond_their_noise():
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=300), rng.normal(size=300)
    values = np.stack([0.1 * truth, 0.2 * truth, 0.05 * truth + 0.4 * noise])  # the last spreads most, by its noise
    stderr = np.stack([np.full(300, s) for s in (0.01, 0.01, 0.4)])
    found = largest_spread([0.1, 0.2, 0.3], values, stderr)
    assert found.sigma == 0.2 and [sigma for sigma, _ in found.spreads] == [0.1, 0.2, 0.3]


def test_a_level_without_finite_scores_is_not_chosen():
    rng, stderr = np.random.default_rng(0), np.full((3, 50), 0.01)
    values = np.stack([np.full(50, np.nan), rng.normal(size=50), np.append(3 * rng.normal(size=49), np.inf)])
    assert largest_spread([0.1, 0.2, 0.3], values, stderr).sigma == 0.3
    with pytest.raises(ValueError, match=r"^noise_levels=.*must hold a level at which the model's scores are finite"):
        largest_spread([0.1], values[:1], stderr[:1])
