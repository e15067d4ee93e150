"""Confidence intervals of AUC and TPR: bootstrap over points, or over clusters of dependent points."""

from plap_jax.bootstrap.clusters import (
    cluster_weights,
    clustered_bootstrap,
    clustered_paired_bootstrap,
    fewest_clusters,
)
from plap_jax.bootstrap.intervals import Statistic, paired_percentile_interval, percentile_interval
from plap_jax.bootstrap.points import bootstrap_interval, paired_bootstrap
from plap_jax.bootstrap.rates import resampled_tpr, tpr_interval
from plap_jax.bootstrap.weighted import weighted_auc

__all__ = [
    "Statistic",
    "bootstrap_interval",
    "cluster_weights",
    "clustered_bootstrap",
    "clustered_paired_bootstrap",
    "fewest_clusters",
    "paired_bootstrap",
    "paired_percentile_interval",
    "percentile_interval",
    "resampled_tpr",
    "tpr_interval",
    "weighted_auc",
]
