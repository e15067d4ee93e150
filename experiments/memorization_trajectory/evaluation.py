"""How well each statistic ranks copies above others, step by step."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.core.report import Report
from plap_jax.adjustment import adjust
from plap_jax.bootstrap import cluster_weights, fewest_clusters, percentile_interval, weighted_auc
from plap_jax.data import fingerprint
from plap_jax.metrics import Interval, auc

SHARES = (10, 25, 50, 75, 100)  # per cent of the steps done
EARLY = 0.9
MIN_PER_CLASS = 2  # images, and captions, of each class
Measured = list[list[Interval]] | str  # of each statistic at each step; or why there is nothing to measure


def calibrated(kappa: np.ndarray, difficulty: np.ndarray, images: np.ndarray, validation: np.ndarray) -> np.ndarray:
    """κ_1 of every step with difficulty taken out, ``(N, n)``; 0 at a step where κ_1 or difficulty leaves nothing.

    How hard an image is is told by what the step foresees, so that nothing comes from later steps.

    Args:
        kappa: ``(N, n)``.
        difficulty: ``(N, n, k)`` of what each step foresees.
        images: ``(n, *shape)``, those that come out: their hashes are an order of the images.
        validation: ``(n,)`` booleans, images that regressions are fitted on.
    """
    digests = np.asarray([fingerprint(image) for image in images])
    found = np.zeros(kappa.shape)
    for step, (values, z) in enumerate(zip(kappa, difficulty, strict=True)):
        try:
            found[step] = adjust(values[:, None], z, digests, fitted=validation).residuals[:, 0]
        except ValueError:  # of the first steps, at which all images may be foreseen alike
            continue
    return found


def measure(values: np.ndarray, is_copy: np.ndarray, prompts: np.ndarray, seed: int) -> Measured:
    """AUC of copies against others from ``(S, N, n)``, intervals over captions, the same resamples for all."""
    for name, members in (("copies", is_copy), ("others", ~is_copy)):
        n, captions = int(members.sum()), len(np.unique(prompts[members]))
        if min(n, captions) < MIN_PER_CLASS:
            return f"{n} {name} of {captions} caption(s), at least {MIN_PER_CLASS} needed"
    weights = cluster_weights(prompts, is_copy, seed=seed)
    n, trials = len(np.unique(prompts)), fewest_clusters(prompts, is_copy)
    value, resampled = auc(values[..., is_copy], values[..., ~is_copy]), weighted_auc(values, is_copy, weights)
    return [
        [percentile_interval(*step, n, trials=trials) for step in zip(*line, strict=True)]
        for line in zip(value, resampled, strict=True)
    ]


def summarize(name: str, kind: str, statistics: Sequence[str], measured: Measured, report: Report) -> None:
    """The ``kind`` of AUC when some share of the steps is done; the share done when it first exceeds ``EARLY``."""
    for i, statistic in enumerate(statistics):
        prefix = f"trajectory/{name}/{statistic}"
        first = f"{prefix}/first_step_{kind}_above_{EARLY:g}"
        if isinstance(measured, str):
            for key in [*(f"{prefix}/{kind}_at_{share}pct" for share in SHARES), first]:
                report.metric(key, None, measured)
            continue
        n_steps = len(measured[i])
        for share in SHARES:
            report.metric(f"{prefix}/{kind}_at_{share}pct", measured[i][math.ceil(share * n_steps / 100) - 1])
        above = [step + 1 for step, one in enumerate(measured[i]) if one.value > EARLY]
        reason = None if above else f"the AUC is at most {max(one.value for one in measured[i]):.3f}"
        report.metric(first, above[0] / n_steps if above else None, reason)


def as_array(measured: Measured) -> np.ndarray:
    """Value, low and high, ``(S, N, 3)``."""
    return np.asarray([[(one.value, one.low, one.high) for one in line] for line in measured])


def rows(
    guidance: float,
    statistics: Sequence[str],
    sigmas: np.ndarray,
    measured: dict[str, Measured],
    by_class: dict[str, np.ndarray],
) -> list:
    """A row for each statistic and step, with the means of ``bands`` of each class; empty where a class is empty."""
    table = []
    for i, statistic in enumerate(statistics):
        for step, sigma in enumerate(sigmas):
            row = {"guidance": guidance, "statistic": statistic, "step": step + 1}
            row |= {"share": (step + 1) / len(sigmas), "sigma": float(sigma)}
            for kind, found in measured.items():
                one = None if isinstance(found, str) else found[i][step]
                row |= {kind: one and one.value, f"{kind}_low": one and one.low, f"{kind}_high": one and one.high}
            for name, found in by_class.items():
                mean = float(found[i, step, 0])
                row[f"mean_{name}"] = None if math.isnan(mean) else mean
            table.append(row)
    return table


def bands(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Mean, 10 % and 90 % quantile of the images of one class, ``(S, N, 3)``; NaN where there are none."""
    if not members.any():
        return np.full((*values.shape[:2], 3), np.nan)
    chosen = values[..., members]
    return np.stack([chosen.mean(axis=-1), *np.quantile(chosen, [0.1, 0.9], axis=-1)], axis=-1)
