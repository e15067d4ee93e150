"""The envelope of false discoveries: exact laws, exact coverage by counting orders, what it says of flags."""

import math

import numpy as np
import pytest
from scipy.stats import betabinom

from plap_jax.calibration import conformal_p_values
from plap_jax.envelope import Envelope, false_discovery_envelope


def exact_coverage(counts, n, m):
    """P(N_k ≤ c(k) for k = 1 … n): orders of m nulls and n references that keep to it, over all orders, as integers."""
    orders = np.array([1] + [0] * m, dtype=object)  # by the number of nulls before the last reference
    for k in range(n):
        orders = np.cumsum(orders)
        orders[int(counts[k]) + 1 :] = 0
    return int(orders.sum()) / math.comb(m + n, n)


@pytest.mark.parametrize(("n", "m"), [(300, 200), (40, 7), (7, 40), (100, 100)])
def test_every_threshold_has_the_quantile_of_a_beta_binomial_at_one_level(n, m):
    c, k = false_discovery_envelope(n, m).counts[:n], np.arange(1, n + 1)
    exceeded = betabinom.sf(c, m, k, n + 1 - k)  # P(N_k > c(k)) is below the level
    one_fewer = betabinom.sf(c - 1, m, k, n + 1 - k)[c > 0]  # and with any smaller count it is not
    assert exceeded.max() < one_fewer.min() * (1 + 1e-9)


@pytest.mark.parametrize(
    ("n", "m", "at_most"), [(300, 200, 0.965), (1999, 100, 0.965), (30, 20, 0.97), (5, 50, 0.97), (1, 4, 1.0)]
)
def test_the_coverage_is_what_was_asked_for(n, m, at_most):
    covered = exact_coverage(false_discovery_envelope(n, m).counts, n, m)
    assert 0.95 <= covered <= at_most
    assert exact_coverage(false_discovery_envelope(n, m, confidence=0.5).counts, n, m) >= 0.5


def test_between_the_thresholds_of_a_large_reference_it_holds_too():
    assert 0.95 <= exact_coverage(false_discovery_envelope(1500, 60).counts, 1500, 60) <= 0.97


def test_at_the_smallest_p_value_six_of_200_where_a_constant_width_says_22():
    assert false_discovery_envelope(300, 200).at(1 / 301) == 6
    line = np.arange(1, 301) * 200 / 301
    width = next(w for w in range(15, 60) if exact_coverage(line + w, 300, 200) >= 0.95)
    assert int(line[0] + width) == 22


@pytest.mark.parametrize(("n", "m"), [(300, 200), (2000, 3000), (1, 1), (1, 1000), (600, 1)])
def test_it_never_falls_and_ends_at_m(n, m):
    envelope = false_discovery_envelope(n, m, n_draws=200)
    assert envelope.counts.shape == (n + 1,) and envelope.counts[-1] == m
    assert np.all(np.diff(envelope.counts) >= 0) and envelope.counts[0] >= 0


def test_of_one_image_the_envelope_is_its_p_value():
    """N_k is 1 with probability k/(n + 1): a single image is told to be memorized where p < .05."""
    c = false_discovery_envelope(99, 1).counts
    assert int(np.argmax(c)) + 1 in (5, 6)
    assert false_discovery_envelope(1, 1).counts.tolist() == [1, 1]


def test_thresholds_of_any_kind():
    envelope = Envelope(4, 9, 0.95, np.array([1, 3, 5, 8, 9]))
    assert envelope.at([[0, 0.19], [0.2, 0.3]]).tolist() == [[0, 0], [1, 1]]
    assert [int(envelope.at(k / 5)) for k in range(6)] == [0, 1, 3, 5, 8, 9]


def test_the_table_by_hand():
    envelope = Envelope(9, 8, 0.95, np.array([1, 2, 5, 6, 7, 8, 8, 8, 8, 8]))
    rows = envelope.table(np.array([0.5, 0.1, 0.3, 0.1, 0.1, 1.0, 1.0, 0.3]))
    assert [tuple(row) for row in rows] == [(0.1, 3, 1, 2), (0.3, 5, 3, 2), (0.5, 6, 4, 2), (1.0, 8, 6, 2)]
    assert all(type(value) is int for row in rows for value in row[1:])  # for JSON


def test_the_table_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    for n, m, memorized in ((50, 30, 10), (300, 200, 40), (20, 5, 0)):
        scores = np.concatenate([rng.normal(4, 1, memorized), rng.normal(size=m - memorized)])
        p = conformal_p_values(np.round(scores, 1), np.round(rng.normal(size=n), 1))
        envelope = false_discovery_envelope(n, m, n_draws=400)
        rows, true = envelope.table(p), 0
        assert [row.p for row in rows] == pytest.approx(sorted(set(p)))
        for row in rows:
            flagged = sum(value <= row.p + 1e-12 for value in p)
            true = max(true, flagged - int(envelope.at(row.p)))
            assert (row.flagged, row.at_most_false, row.at_least_true) == (flagged, flagged - true, true)


@pytest.mark.parametrize(("memorized", "step"), [(0, None), (30, None), (0, 0.5), (100, 0.5)])
def test_a_reader_who_stops_anywhere_is_told_the_truth(memorized, step):
    """Over 400 sets of scores, also with ties and with images that are no nulls, all rows of the table hold."""
    rng, envelope, held = np.random.default_rng(1), false_discovery_envelope(150, 120), 0
    for _ in range(400):
        scores, reference = rng.normal(size=120), rng.normal(size=150)
        scores[:memorized] += 3
        if step:
            scores, reference = (np.round(s / step) * step for s in (scores, reference))
        p = conformal_p_values(scores, reference)
        null = np.sort(p[memorized:])
        false = [np.searchsorted(null, row.p, side="right") for row in envelope.table(p)]
        held += all(f <= row.at_most_false for f, row in zip(false, envelope.table(p), strict=True))
    assert held / 400 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)
    assert held < 400 or memorized or step, "an envelope that always holds is too wide"


def test_the_same_arguments_give_the_same_envelope():
    first, again, other = (false_discovery_envelope(200, 50, seed=seed).counts for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() and np.abs(first - other).max() <= 2


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: false_discovery_envelope(0, 5), "n_reference"),
        (lambda: false_discovery_envelope(5, 0), "m"),
        (lambda: false_discovery_envelope(5, 2.5), "m"),
        (lambda: false_discovery_envelope(5, 5, confidence=1.0), "confidence"),
        (lambda: false_discovery_envelope(5, 5, n_draws=71), "n_draws"),
        (lambda: false_discovery_envelope(5, 5, n_draws=400.0), "n_draws"),
        (lambda: false_discovery_envelope(5, 5, n_draws=80).at(1.2), "p"),
        (lambda: false_discovery_envelope(5, 5, n_draws=80).at([0.5, math.nan]), "p"),
        (lambda: false_discovery_envelope(5, 3, n_draws=80).table([0.5, 0.5]), "p_values"),
        (lambda: false_discovery_envelope(5, 2, n_draws=80).table([0.5, 0.4]), "p_values"),
        (lambda: false_discovery_envelope(5, 2, n_draws=80).table([0.5, math.nan]), "p_values"),
        (lambda: false_discovery_envelope(5, 2, n_draws=80).table([0.5, 0.0]), "p_values"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}=") as refused:
        call()
    assert "\n" not in str(refused.value)
