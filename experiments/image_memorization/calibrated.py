"""Question 1 with difficulty taken out: the same scores beside those of images as hard, of the control, or of both.

κ_1 and score norms are high on simple images, memorized or not. Four ways to score an image, from the same evaluations:

- raw: κ_1, or the norm, at the one level that was chosen on the validation half;
- calibrated: how far the evidence lies above that of images as hard, by their pixels;
- baseline: above what the control says of the image, in the same directions;
- both: that difference, above the difference of images as hard.

All but raw take the mean over all noise levels, so that nothing is chosen. The control serves as the baseline: it has
seen all that the network saw but the planted images, so that single ones tell nothing apart there.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
from threadpoolctl import threadpool_limits

from experiments.core.report import Report
from experiments.core.schema import RunConfig
from experiments.image_memorization.scoring import Scores
from experiments.image_memorization.study import CONTROL, Study
from experiments.image_memorization.train_images import TrainImages
from experiments.shared.measuring import interval_of
from experiments.shared.networks import MAIN
from plap_jax.adjustment import Adjusted, adjust
from plap_jax.data import fingerprint
from plap_jax.difficulty import NAMES, difficulty
from plap_jax.metrics import Interval, auc

WAYS = ("raw", "calibrated", "baseline", "both")
COLUMNS = ("kappa", "norm", "combined")
SEEN = "the control, which serves as the baseline, has seen the single images too"
UNUSED = "no noise level at which the evidence is finite and varies"


def run(config: RunConfig, study: Study, found: TrainImages, *, report: Report) -> None:
    """Metrics ``train_images/…auc_{calibrated,baseline,both}`` with ``_norm`` and ``_combined``; table and arrays."""
    images, mine = study.images, found.scores[MAIN]
    test = np.flatnonzero(~images.validation)
    # Many small regressions: threads of the linear algebra would only wait for each other.
    with report.stage("evaluate/calibrated"), threadpool_limits(1):
        z = difficulty(images.points)
        evidence = {name: columns(scores)[test] for name, scores in found.scores.items()}
        ways = adjusted(evidence[MAIN], evidence[CONTROL], z[test], digests(images.points[test]))
        raw = {"kappa": found.kappa_1[test], "norm": found.norm.of(mine.norm[None])[test]}
        curves, rows = _measured(config, study, images.copies[test], raw, ways, report)
    report.table("train_images_calibrated", rows)
    report.arrays(
        "calibrated",
        image=test,
        difficulty=z,
        statistics=NAMES,
        ways=WAYS,
        columns=COLUMNS,
        doses=study.doses,
        auc=curves,
        sigma=mine.sigma,
        **{f"evidence_{name}": values for name, values in evidence.items()},
        **{f"residuals_{way}": of_way.residuals for way, of_way in ways.items()},
        **{f"used_{way}": of_way.used for way, of_way in ways.items()},
    )


def columns(scores: Scores) -> np.ndarray:
    """The evidence ``(n, 2L)``: κ_1 at every noise level, then −log|ε̂| at the centre, |ε̂| = σ|s|."""
    noise = scores.sigma[:, None] * -scores.norm
    smallest = np.finfo(np.float32).tiny  # where the network answers with exactly 0
    return np.concatenate([scores.kappa[scores.plain], -np.log(np.maximum(noise, smallest))]).T


def digests(points: np.ndarray) -> np.ndarray:
    """A hash of each image's content, ``(n,)``, the order in which images enter a regression."""
    return np.asarray([fingerprint(point) for point in points])


def adjusted(network: np.ndarray, control: np.ndarray, z: np.ndarray, digest: np.ndarray) -> dict[str, Adjusted]:
    """The ways that adjust.

    Args:
        network, control: evidence ``(n, 2L)``.
        z: difficulty ``(n, k)``.
        digest: ``(n,)``.
    """
    gain = network - control
    return {
        "calibrated": adjust(network, z, digest),
        "baseline": adjust(gain, np.zeros((len(z), 1)), digest),  # standardized alone
        "both": adjust(gain, z, digest),
    }


def mean_over_levels(of_way: Adjusted, which: str) -> np.ndarray | None:
    """The score ``(n,)`` from columns of κ_1 ("kappa"), of the norm ("norm") or of both ("combined").

    None where none of them was used.
    """
    n_levels = of_way.residuals.shape[1] // 2
    of_kind = np.arange(2 * n_levels) < n_levels
    chosen = of_way.used & {"kappa": of_kind, "norm": ~of_kind, "combined": np.ones_like(of_kind)}[which]
    return of_way.residuals[:, chosen].mean(axis=1) if chosen.any() else None


def _measured(
    config: RunConfig,
    study: Study,
    copies: np.ndarray,
    raw: Mapping[str, np.ndarray],
    ways: Mapping[str, Adjusted],
    report: Report,
) -> tuple[np.ndarray, list[dict]]:
    """AUCs ``(ways, columns, doses, 3)``, NaN where there is none, and a row for each.

    Args:
        copies: ``(m,)`` of the test half.
        raw: its scores at one level, by columns.
        ways: its adjusted evidence.
    """
    curves, rows = np.full((len(WAYS), len(COLUMNS), len(study.doses), 3), np.nan), []
    for (i, way), (j, which) in product(enumerate(WAYS), enumerate(COLUMNS)):
        if way == "raw" and which == "combined":  # of different units
            continue
        values = raw[which] if way == "raw" else mean_over_levels(ways[way], which)
        if way != "raw":
            found = _auc(config, way, values, copies, copies >= 2)
            report.metric(metric_name("train_images", way, which), *found)
        for k, dose in enumerate(study.doses):
            interval, reason = _auc(config, way, values, copies, copies == dose)
            if (way, which) != ("raw", "kappa"):  # which train_images has recorded
                report.metric(metric_name(f"train_images/k{dose}", way, which), interval, reason)
            ends = (interval.value, interval.low, interval.high) if interval else (None, None, None)
            curves[i, j, k] = np.asarray(ends, float)
            row = {"copies": dose, "images": int((copies == dose).sum()), "way": way, "evidence": which}
            rows.append(row | dict(zip(("auc", "low", "high"), ends, strict=True)))
    return curves, rows


def _auc(
    config: RunConfig, way: str, values: np.ndarray | None, copies: np.ndarray, positive: np.ndarray
) -> tuple[Interval | None, str | None]:
    """Against held-out images, with its interval; or None and why."""
    if way in ("baseline", "both") and (copies[positive] == 1).all():
        return None, SEEN
    if values is None:
        return None, UNUSED
    return interval_of(auc, values[positive], values[copies == 0], config.seed)


def metric_name(prefix: str, way: str, which: str) -> str:
    """``prefix/auc``, ``…/auc_norm``, ``…/auc_calibrated``, ``…/auc_calibrated_norm``, ``…/auc_both_combined``."""
    return f"{prefix}/auc" + (f"_{way}" if way != "raw" else "") + (f"_{which}" if which != "kappa" else "")
