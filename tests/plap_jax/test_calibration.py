"""P-values, false discoveries and z-scores: cases by hand, slow twins, and what they promise under the null."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from plap_jax.calibration import (
    adjusted_p_values,
    benjamini_hochberg,
    conformal_p_values,
    fewest_discoveries,
    robust_z,
    smallest_reference,
)


def test_p_values_by_hand():
    reference = [0.1, 0.2, 0.2, 0.9]
    assert conformal_p_values([1.0, 0.9, 0.5, 0.2, 0.0], reference).tolist() == [1 / 5, 2 / 5, 2 / 5, 4 / 5, 1.0]
    assert conformal_p_values([], reference).shape == (0,)


def test_p_values_and_rejections_equal_their_slow_twins():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, reference = (rng.integers(0, 12, rng.integers(1, 40)).astype(float) for _ in range(2))  # with ties
        p = conformal_p_values(scores, reference)
        assert p.tolist() == [(1 + sum(r >= s for r in reference)) / (len(reference) + 1) for s in scores]
        # Benjamini and Hochberg as they wrote it, in exact fractions
        exact = [Fraction(1 + sum(bool(r >= s) for r in reference), len(reference) + 1) for s in scores]
        m, fdr = len(exact), Fraction(1, 4)
        largest = max([k for k in range(1, m + 1) if sorted(exact)[k - 1] <= fdr * k / m], default=0)
        bound = sorted(exact)[largest - 1] if largest else Fraction(-1)
        assert benjamini_hochberg(p, float(fdr)).tolist() == [q <= bound for q in exact]


def test_adjusted_p_values_by_hand():
    assert adjusted_p_values([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert adjusted_p_values([]).shape == (0,)


def test_null_p_values_have_the_exact_discrete_distribution():
    # Without ties the rank of an exchangeable score is uniform on 1 … n+1: here over all permutations, exactly.
    values = np.arange(6.0)
    counts = np.zeros(6, int)
    for i in range(6):  # which of the six is the audited one; the order of the others does not matter
        p = conformal_p_values(values[i : i + 1], np.delete(values, i))
        counts[round(p[0] * 6) - 1] += 1
    assert counts.tolist() == [1] * 6
    # And by simulation, through a chi-square test with a fixed seed.
    rng = np.random.default_rng(1)
    p = np.concatenate([conformal_p_values(rng.normal(size=1), rng.normal(size=9)) for _ in range(4000)])
    observed = np.bincount(np.round(p * 10).astype(int), minlength=11)[1:]
    assert stats.chisquare(observed).pvalue > 0.001


def test_with_ties_null_p_values_are_superuniform():
    rng = np.random.default_rng(2)
    p = [conformal_p_values(rng.integers(0, 3, 1), rng.integers(0, 3, 19))[0] for _ in range(4000)]
    for level in (0.05, 0.1, 0.25, 0.5):
        share = np.mean(np.asarray(p) <= level + 1e-12)
        assert share <= level + 3 * math.sqrt(level * (1 - level) / 4000)


def test_the_false_discovery_rate_is_kept_over_500_audits_with_power():
    rng = np.random.default_rng(3)
    fdr, m0, m1, n_reference = 0.05, 150, 40, 250
    shares, power = [], []
    for _ in range(500):
        nulls, members = rng.normal(size=m0), rng.normal(4, 0.5, m1)
        p = conformal_p_values(np.concatenate([members, nulls]), rng.normal(size=n_reference))
        flagged = benjamini_hochberg(p, fdr)
        shares.append(flagged[m1:].sum() / max(1, flagged.sum()))
        power.append(flagged[:m1].mean())
    shares = np.asarray(shares)
    upper = shares.mean() + 1.645 * shares.std(ddof=1) / math.sqrt(500)
    assert upper <= fdr  # m₀/m · fdr = 0.039 is what theory says
    assert shares.mean() > 0.02  # a procedure that never errs would not be tested here
    assert np.mean(power) > 0.95


def test_without_any_memorized_image_the_rate_is_that_of_a_false_alarm():
    rng = np.random.default_rng(4)
    alarms = [
        benjamini_hochberg(conformal_p_values(rng.normal(size=50), rng.normal(size=200)), 0.2).any() for _ in range(500)
    ]
    assert np.mean(alarms) <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 500)
    assert np.mean(alarms) > 0.02


@pytest.mark.parametrize(("m", "m1", "fdr", "needed"), [(190, 40, 0.05, 94), (100, 1, 0.05, 1999), (10, 10, 0.5, 1)])
def test_the_smallest_reference_rejects_and_one_fewer_does_not(m, m1, fdr, needed):
    assert smallest_reference(m, m1, fdr) == needed

    def rejects(n_reference):
        scores = np.concatenate([np.ones(m1), np.full(m - m1, -1.0)])  # all of m1 above the whole reference
        return benjamini_hochberg(conformal_p_values(scores, np.zeros(n_reference)), fdr).sum()

    assert rejects(needed) == m1
    assert needed == 1 or rejects(needed - 1) == 0


def test_the_fewest_discoveries_agree_with_the_smallest_reference():
    for m in (7, 190, 1000):
        for n_reference in (5, 94, 250, 1999):
            fewest = fewest_discoveries(m, n_reference, 0.05)
            possible = [m1 for m1 in range(1, m + 1) if smallest_reference(m, m1, 0.05) <= n_reference]
            assert fewest == possible[0] if possible else fewest > m


def test_robust_z_by_hand_and_for_normal_references():
    assert robust_z([5.0, 3.0], [1.0, 2.0, 3.0, 4.0, 100.0]).tolist() == pytest.approx([2 / 1.4826022, 0.0])
    reference = np.random.default_rng(5).normal(7, 2, 100_000)
    assert robust_z([13.0], reference)[0] == pytest.approx(3, abs=0.05)
    assert np.isnan(robust_z([1.0, 2.0], [0.0, 0.0, 0.0, 5.0])).all()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: conformal_p_values([math.nan], [1.0]), "scores"),
        (lambda: conformal_p_values([1.0], []), "reference"),
        (lambda: conformal_p_values([[1.0]], [1.0]), "scores"),
        (lambda: robust_z([1.0], [math.inf]), "reference"),
        (lambda: adjusted_p_values([1.5]), "p_values"),
        (lambda: benjamini_hochberg([0.5], 0.0), "fdr"),
        (lambda: smallest_reference(0, 1, 0.05), "m"),
        (lambda: smallest_reference(5, 6, 0.05), "m1"),
        (lambda: fewest_discoveries(5, 0, 0.05), "n_reference"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}=") as refused:
        call()
    assert "\n" not in str(refused.value)
