"""Difficulty taken out: exchangeability bit by bit, recovery of a planted effect, and robustness."""

import hashlib

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import HuberRegressor

from plap_jax import adjustment
from plap_jax.adjustment import adjust
from plap_jax.calibration import conformal_p_values
from plap_jax.metrics import auc


def digests_of(n):
    return np.array([hashlib.blake2b(str(i).encode(), digest_size=8).hexdigest() for i in range(n)])


def hard_images(n, seed, memorized=0, effect=1.5):
    """Evidence that difficulty explains for the most part; the first ``memorized`` stand ``effect`` above it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 4))
    evidence = z @ rng.normal(size=(4, 3)) * 2 + rng.normal(size=(n, 3)) * 0.5
    evidence[:memorized] += effect
    return evidence, z


def test_exchanging_two_images_exchanges_their_scores_to_the_last_bit():
    evidence, z = hard_images(200, 0)
    digests = digests_of(200)
    score = adjust(evidence, z, digests).score
    swapped = np.arange(200)
    swapped[[3, 150]] = 150, 3
    found = adjust(evidence[swapped], z[swapped], digests[swapped]).score
    np.testing.assert_array_equal(found, score[swapped])


def test_equal_images_on_both_sides_have_equal_scores():
    evidence, z = hard_images(60, 1)
    evidence[40], z[40] = evidence[7], z[7]
    digests = digests_of(60)
    digests[40] = digests[7]
    score = adjust(evidence, z, digests).score
    assert score[40] == score[7]


def test_what_difficulty_hid_is_found():
    evidence, z = hard_images(600, 2, memorized=30)
    adjusted = adjust(evidence, z, digests_of(600))
    raw = auc(evidence[:30, 0], evidence[30:, 0])
    found = auc(adjusted.score[:30], adjusted.score[30:])
    assert raw < 0.75
    assert found > 0.99
    assert (adjusted.explained > 0.8).all()


def test_residuals_are_those_of_least_squares_where_noise_is_normal():
    """A slow twin: Huber's loss has 95 % of the efficiency, so both agree to a tenth of the noise."""
    evidence, z = hard_images(2000, 3)
    adjusted = adjust(evidence, z, digests_of(2000))
    design = np.c_[np.ones(2000), z]
    expected = evidence - design @ np.linalg.lstsq(design, evidence, rcond=None)[0]
    expected /= stats.median_abs_deviation(expected, axis=0, scale="normal")
    assert np.abs(adjusted.residuals - expected).mean() < 0.15
    size = np.abs(adjusted.residuals)
    tempered = np.sign(adjusted.residuals) * np.where(size > 5, 5 + np.log1p(np.maximum(size - 5, 0)), size)
    np.testing.assert_allclose(adjusted.score, tempered.mean(axis=1))
    np.testing.assert_allclose(np.median(adjusted.residuals, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(stats.median_abs_deviation(adjusted.residuals, axis=0, scale="normal"), 1)


def test_memorized_images_hardly_move_the_fit():
    evidence, z = hard_images(500, 4)
    tainted = evidence.copy()
    tainted[:75] += 30
    clean, robust = adjust(evidence, z, digests_of(500)), adjust(tainted, z, digests_of(500))
    assert stats.spearmanr(clean.score[75:], robust.score[75:]).statistic > 0.98


def test_scores_of_nulls_give_uniform_p_values():
    p_values = []
    for seed in range(40):
        evidence, z = hard_images(150, 100 + seed)
        score = adjust(evidence, z, digests_of(150)).score
        p_values.append(conformal_p_values(score[:50], score[50:]))
    assert stats.kstest(np.ravel(p_values), "uniform").pvalue > 0.01


def test_columns_that_cannot_be_used_are_left_out():
    evidence, z = hard_images(100, 5)
    evidence[7, 1] = np.nan
    evidence = np.c_[evidence, np.ones(100)]
    z = np.c_[z, np.full(100, 3.0)]
    adjusted = adjust(evidence, z, digests_of(100))
    assert adjusted.used.tolist() == [True, False, True, False]
    assert adjusted.features.tolist() == [True, True, True, True, False]
    assert np.isfinite(adjusted.score).all()
    assert np.isnan(adjusted.residuals[:, 1]).all()


def test_evidence_that_difficulty_explains_to_the_last_bit_is_left_out():
    z = np.random.default_rng(6).normal(size=(500, 1))
    evidence = np.c_[0 * z, np.random.default_rng(7).normal(size=500), 2 * z]
    adjusted = adjust(evidence, z, digests_of(500))
    assert adjusted.used[:2].tolist() == [False, True]
    assert adjusted.explained[2] > 0.999


def test_where_spread_depends_on_difficulty_hard_images_are_not_favoured():
    rng = np.random.default_rng(9)
    z = rng.normal(size=(3000, 1))
    evidence = rng.normal(size=(3000, 1)) * np.exp(z)
    adjusted = adjust(evidence, z, digests_of(3000))
    easy, hard = z[:, 0] < -1, z[:, 0] > 1
    assert evidence[hard].std() / evidence[easy].std() > 10
    assert adjusted.score[hard].std() / adjusted.score[easy].std() < 1.6
    middle = np.abs(z[:, 0]) < 1
    np.testing.assert_allclose(np.median(adjusted.spread[middle, 0] / np.exp(z[middle, 0])), 1, atol=0.1)


def test_without_any_statistic_the_score_is_the_robust_z():
    evidence, _ = hard_images(50, 8)
    adjusted = adjust(evidence[:, :1], np.zeros((50, 2)), digests_of(50))
    values = evidence[:, 0]
    expected = (values - np.median(values)) / stats.median_abs_deviation(values, scale="normal")
    np.testing.assert_allclose(adjusted.score, expected)


@pytest.mark.parametrize(
    ("evidence", "difficulty", "digests", "told"),
    [
        (np.ones((2, 1)), np.ones((2, 1)), ["a", "b"], "evidence=.*at least 3 images"),
        (np.ones((4, 1)), np.ones((4, 1)), list("abcd"), "evidence=.*finite and varies"),
        (np.full((4, 1), np.inf), np.ones((4, 1)), list("abcd"), "evidence=.*finite and varies"),
        (np.arange(4.0)[:, None], np.ones((3, 1)), list("abcd"), "difficulty="),
        (np.arange(4.0)[:, None], np.full((4, 1), np.nan), list("abcd"), "difficulty=.*finite"),
        (np.arange(4.0)[:, None], np.ones((4, 1)), list("abc"), "digests=3"),
        (np.ones(4), np.ones((4, 1)), list("abcd"), "evidence="),
    ],
)
def test_bad_input_is_refused_in_one_line(evidence, difficulty, digests, told):
    with pytest.raises(ValueError, match=f"^{told}") as caught:
        adjust(evidence, difficulty, digests)
    assert "\n" not in str(caught.value)


def test_only_the_fitted_images_tell_what_is_usual():
    evidence, z = hard_images(300, 10)
    rows = np.arange(300) < 200
    alone = adjust(evidence[rows], z[rows], digests_of(300)[rows])
    evidence[~rows] += 50
    found = adjust(evidence, z, digests_of(300), fitted=rows)
    np.testing.assert_array_equal(found.score[rows], alone.score)
    assert (found.score[~rows] > 8).all()


def test_no_single_column_decides_however_far_out_it_is():
    evidence, z = hard_images(300, 11)
    evidence[:, 0] = 1e-9 * evidence[:, 0]
    evidence[5, 0] = 1.0  # a billion standard deviations
    adjusted = adjust(evidence, z, digests_of(300))
    assert adjusted.residuals[5, 0] > 1e6
    assert adjusted.score[5] < 10


def test_few_images_are_compared_by_fewer_statistics():
    """With as many statistics as images, a fit would explain the memorized ones away."""
    rng = np.random.default_rng(12)
    z, evidence = rng.normal(size=(40, 17)), rng.normal(size=(40, 3))
    evidence[:8] += 6
    score = adjust(evidence, z, digests_of(40)).score
    assert auc(score[:8], score[8:]) > 0.97
    assert np.isfinite(adjust(evidence[:9], z[:9], digests_of(9)).score).all()


def test_of_many_images_those_with_the_smallest_digests_are_fitted(monkeypatch):
    evidence, z = hard_images(300, 0)
    digests, fitted = digests_of(300), []

    class Watched(HuberRegressor):
        def fit(self, x, y):
            fitted.append(x)
            return super().fit(x, y)

    monkeypatch.setattr(adjustment, "HuberRegressor", Watched)
    monkeypatch.setattr(adjustment, "MOST_FITTED", 60)
    assert np.isfinite(adjust(evidence, z, digests).score).all()
    smallest = np.argsort(digests)[:60]
    assert len(fitted) == 3 and adjustment.MOST_FITTED == 60
    for x in fitted:
        np.testing.assert_array_equal(np.argsort(x[:, 0]), np.argsort(z[smallest, 0]))
