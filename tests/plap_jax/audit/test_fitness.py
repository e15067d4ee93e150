"""Whether the reference is fit: a vectorized permutation test against scikit-learn's own, and its level."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler
from threadpoolctl import threadpool_limits

from plap_jax.audit.fitness import LEVEL, MOST, fitness

FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def told(difficulty: np.ndarray, n_audited: int, stays: np.ndarray | None = None):
    stays = np.ones(len(difficulty), bool) if stays is None else stays
    return fitness(SimpleNamespace(difficulty=difficulty, stays=stays), n_audited)


def test_the_auc_is_that_of_scikit_learns_classifier_and_the_p_value_counts_permutations():
    rng = np.random.default_rng(1)
    difficulty, side = rng.normal(size=(150, 4)) * [1, 1, 10, 100], np.arange(150) < 90
    difficulty[side, 0] += 0.65
    found = told(difficulty, 90)

    # The images in the order that `fitness` puts them in, on which the folds depend.
    order = np.random.default_rng(0)
    rows = np.concatenate([order.permutation(np.flatnonzero(side == which)) for which in (True, False)])
    model, folds = make_pipeline(RobustScaler(), RidgeClassifier(alpha=1.0)), list(FOLDS.split(rows, side))
    with threadpool_limits(1):
        twin = cross_val_score(model, difficulty[rows], side, scoring="roc_auc", cv=folds).mean()
        assert found.auc == pytest.approx(twin, abs=1e-9)
        higher = 0
        for _ in range(40):
            permuted = side.copy()
            for _, fold in folds:
                permuted[fold] = rng.permutation(permuted[fold])
            higher += cross_val_score(model, difficulty[rows], permuted, scoring="roc_auc", cv=folds).mean() >= twin
    assert 0.05 < found.p_value < 0.5
    assert (1 + higher) / 41 == pytest.approx(found.p_value, abs=4 * np.sqrt(0.2 * 0.8 / 40))


def test_p_values_are_uniform_where_sides_are_chance():
    """Of 80 such p-values the share up to u is u within four standard errors."""
    rng = np.random.default_rng(2)
    p_values = np.asarray([told(rng.normal(size=(60, 3)), 30).p_value for _ in range(80)])
    for u in (0.2, 0.5, 0.8):
        assert np.mean(p_values <= u) == pytest.approx(u, abs=4 * np.sqrt(u * (1 - u) / 80))
    assert p_values.min() >= 1 / 200


def test_two_kinds_are_told_apart_and_one_is_not():
    rng = np.random.default_rng(3)
    difficulty = rng.normal(size=(200, 5))
    assert told(difficulty, 100).warning is None
    difficulty[:100, 2] += 2
    found = told(difficulty, 100)
    assert found.p_value == 1 / 200 <= LEVEL and found.auc > 0.8 and "differs in kind" in found.warning


def test_near_duplicates_count_once_and_few_images_tell_nothing():
    rng = np.random.default_rng(4)
    difficulty, stays = rng.normal(size=(80, 2)), np.ones(80, bool)
    stays[:21] = False  # 19 of the audited stay
    assert told(difficulty, 40) is not None
    assert told(difficulty, 40, stays) is None


def test_no_more_than_a_thousand_images_of_each_side(monkeypatch):
    seen = []
    monkeypatch.setattr("plap_jax.audit.fitness._aucs", lambda z, side, rng: seen.append(len(z)) or np.ones(200))
    told(np.zeros((5 * MOST, 1)), 3 * MOST)
    assert seen == [2 * MOST]
