"""What intervals of the TPR at 1 % FPR cover: ``python -m benchmarks.coverage_tpr [--repetitions N]`` prints a table.

Negatives of three laws, and positives that are shifted so that the TPR at the true 1 % quantile of the negatives is
known. Intervals are those of `tpr_interval`, and the percentiles of plain
resamples. In the last law points go together
in clusters of four, half of their variance between clusters, and what is resampled are clusters.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy import stats
from tabulate import tabulate

from plap_jax.bootstrap import cluster_weights, percentile_interval, tpr_interval
from plap_jax.metrics import FPR, Interval, allowed_negatives, tpr_at_fpr

N_NEGATIVES, N_POSITIVES, TPRS, IN_CLUSTER = (100, 200, 500, 1000), 100, (0.1, 0.5, 0.9, 0.99), 4
LAWS = {"normal": stats.norm, "heavy tail (Gumbel)": stats.gumbel_r, "light tail (−Gumbel)": stats.gumbel_l}
CLUSTERED = "normal, in clusters"
Draw = Callable[[np.random.Generator, int], np.ndarray]


def grouped(n: int) -> np.ndarray:
    """The cluster of each of n points."""
    return np.arange(n) // IN_CLUSTER


def clustered(rng: np.random.Generator, n: int) -> np.ndarray:
    """Standard normal, half of the variance shared within a cluster."""
    groups = grouped(n)
    return (rng.normal(size=groups[-1] + 1)[groups] + rng.normal(size=n)) / np.sqrt(2)


def plain_interval(pos: np.ndarray, neg: np.ndarray, *groups: np.ndarray, seed: int) -> Interval:
    """Percentiles of resamples with replacement, cut as by `tpr_at_fpr`, or at the largest negative."""
    clusters, positive = np.concatenate(groups), np.arange(pos.size + neg.size) < pos.size
    weights = cluster_weights(clusters, positive, seed=seed)
    order = np.argsort(-neg)
    passing = allowed_negatives(weights[:, ~positive].sum(axis=1)).clip(0)
    beyond = np.cumsum(weights[:, ~positive][:, order], axis=1) > passing[:, None]
    detected = weights[:, positive] * (pos > neg[order][np.argmax(beyond, axis=1)][:, None])
    resampled = detected.sum(axis=1) / weights[:, positive].sum(axis=1)
    return percentile_interval(float(tpr_at_fpr(pos, neg)), resampled, len(np.unique(clusters)))


def cell(name: str, draw: Draw, threshold: float, n: int, tpr: float, repetitions: int) -> str:
    """Percent covered by both kinds, and the mean ends of ours; positives are normal about what gives this TPR."""
    rng, ends = np.random.default_rng(0), {tpr_interval: [], plain_interval: []}
    of_positives: Draw = clustered if name == CLUSTERED else lambda rng, n: rng.normal(size=n)
    group = grouped if name == CLUSTERED else np.arange
    groups = group(N_POSITIVES), N_POSITIVES + group(n)
    for seed in range(repetitions):
        pos, neg = of_positives(rng, N_POSITIVES) + threshold + stats.norm.ppf(tpr), draw(rng, n)
        for make, found in ends.items():
            interval = make(pos, neg, *groups, seed=seed)
            found.append((interval.low, interval.high))
    ours, plain = (np.transpose(pairs) for pairs in ends.values())
    shares = [100 * np.mean((low <= tpr) & (tpr <= high)) for low, high in (ours, plain)]
    return f"{shares[0]:.0f} ({shares[1]:.0f}), {ours[0].mean():.2f}–{ours[1].mean():.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=400)
    repetitions = parser.parse_args().repetitions
    laws = {name: (lambda rng, n, law=law: law.rvs(size=n, random_state=rng), law) for name, law in LAWS.items()}
    laws[CLUSTERED] = clustered, stats.norm
    rows = [
        [name, n, *(cell(name, draw, float(law.isf(FPR)), n, tpr, repetitions) for tpr in TPRS)]
        for name, (draw, law) in laws.items()
        for n in N_NEGATIVES
    ]
    print(f"covered in percent (by plain resamples), mean ends; {N_POSITIVES} positives, {repetitions} repetitions\n")
    print(tabulate(rows, ["negatives", "n", *(f"TPR {tpr:g}" for tpr in TPRS)], "github"))


if __name__ == "__main__":
    main()
