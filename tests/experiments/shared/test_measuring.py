"""Which numbers are reported, and why others are not."""

import numpy as np

from experiments.shared.measuring import few_negatives, interval_of
from plap_jax.bootstrap import bootstrap_interval, tpr_interval
from plap_jax.metrics import auc, tpr_at_fpr

RNG = np.random.default_rng(0)
POSITIVE, NEGATIVE = RNG.normal(2, 1, 30), RNG.normal(0, 1, 100)


def test_a_tpr_at_a_hundredth_takes_a_hundred_negatives():
    found, reason = interval_of(tpr_at_fpr, POSITIVE, NEGATIVE, 0)
    assert reason is None and found == tpr_interval(POSITIVE, NEGATIVE, seed=0)
    found, reason = interval_of(tpr_at_fpr, POSITIVE, NEGATIVE[:-1], 0)
    assert found is None
    assert reason == few_negatives(99) == "99 negative example(s), at least 100 are needed for a rate of 0.01"


def test_of_negatives_in_clusters_the_clusters_are_counted():
    """A new cluster is exchangeable with those that were seen, a new point is not."""
    negative, of_positives = np.repeat(NEGATIVE, 5), np.arange(30) // 2
    clusters = of_positives, 50 + np.arange(500) // 5
    found, reason = interval_of(tpr_at_fpr, POSITIVE, negative, 0, clusters)
    assert reason is None and found == tpr_interval(POSITIVE, negative, *clusters, seed=0)
    found, reason = interval_of(tpr_at_fpr, POSITIVE, negative, 0, (of_positives, 50 + np.arange(500) // 25))
    assert found is None
    assert reason == "20 negative cluster(s), at least 100 are needed for a rate of 0.01"


def test_an_auc_takes_two_of_each():
    found, reason = interval_of(auc, POSITIVE, NEGATIVE[:9], 0)
    assert reason is None and found == bootstrap_interval(auc, POSITIVE, NEGATIVE[:9], seed=0)
    assert interval_of(auc, POSITIVE, NEGATIVE[:1], 0)[0] is None
