"""AUC of weighted points: against repeated points, and against scikit-learn."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sklearn.metrics import roc_auc_score

from plap_jax.bootstrap import weighted_auc
from plap_jax.metrics import auc

SIX = np.array([1.0, 2, 3, 0, 1, 2])
FIRST_THREE = np.arange(6) < 3


@st.composite
def weighted_scores(draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two detectors' scores with ties, two classes, and six resamples, of which some lack a class."""
    n = draw(st.integers(2, 14))
    scores = draw(st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=2, max_size=2))
    positive = draw(st.permutations([True, False, *draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))]))
    weights = draw(st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=6, max_size=6))
    return np.array(scores, float), np.array(positive), np.array(weights)


def on_repeated_points(statistic, scores, positive, weights) -> np.ndarray:
    """``statistic`` of the points of each resample, written out; NaN where a class is missing."""
    out = np.full((len(scores), len(weights)), np.nan)
    for detector, row in enumerate(scores):
        for resample, times in enumerate(weights):
            pos, neg = (np.repeat(row[members], times[members]) for members in (positive, ~positive))
            if pos.size and neg.size:
                out[detector, resample] = statistic(pos, neg)
    return out


@given(weighted_scores())
def test_weighted_auc_is_that_of_repeated_points(drawn):
    np.testing.assert_array_equal(weighted_auc(*drawn), on_repeated_points(auc, *drawn))


@pytest.mark.parametrize("decimals", [1, 9])
def test_weights_give_the_same_on_many_points_and_with_any_batch(decimals):
    """Many points; in the first resample half of the negatives weigh nothing."""
    rng = np.random.default_rng(0)
    positive = rng.random(700) < 0.3
    scores = (rng.normal(size=(2, 3, 700)) + positive).round(decimals)
    weights = rng.integers(0, 4, (8, 700))
    weights[0, ~positive & (scores[0, 0] > 0)] = 0
    found = weighted_auc(scores, positive, weights)
    expected = on_repeated_points(auc, scores.reshape(6, 700), positive, weights)
    np.testing.assert_array_equal(found, expected.reshape(2, 3, 8))
    np.testing.assert_array_equal(weighted_auc(scores[1, 2], positive, weights), found[1, 2])


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_weighted_auc_agrees_with_scikit_learn(decimals):
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.2
    scores, weights = (rng.normal(size=300) + positive).round(decimals), rng.integers(0, 5, (10, 300))
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auc(scores, positive, weights), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.ones((4, 5), int)}, r"^weights=\(4, 5\): must be \(n_resamples, n\) with n = 6 scores"),
        ({"weights": np.ones(6, int)}, r"^weights=\(6,\): must be \(n_resamples, n\)"),
        ({"weights": np.ones((4, 6))}, r"^weights=array.*: must be integers >= 0"),
        ({"weights": -np.ones((4, 6), int)}, r"^weights=array.*: must be integers >= 0"),
        ({"positive": np.zeros(6, bool)}, r"^positive=.*: must hold a positive"),
        ({"positive": np.ones(6, bool)}, r"^positive=.*: must hold a negative"),
        ({"positive": FIRST_THREE[:5]}, r"^positive=.*: must be one boolean per score, \(6,\)"),
        ({"positive": FIRST_THREE.astype(int)}, r"^positive=.*: must be one boolean per score"),
        ({"scores": np.append(SIX[:5], np.nan)}, r"^scores=array\(\[nan\]\): must be finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
    fitting = {"scores": SIX, "positive": FIRST_THREE, "weights": np.ones((4, 6), int)}
    with pytest.raises(ValueError, match=message) as refused:
        weighted_auc(**(fitting | change))
    assert "\n" not in str(refused.value)
