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
from dataclasses import dataclass
from itertools import product

import numpy as np

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
EVIDENCE = ("kappa", "norm", "contrast")  # of columns
COLUMNS = (*EVIDENCE, "combined")
AUDITED = ("kappa", "contrast")  # what an audit's score is made of
SEEN = "the control, which serves as the baseline, has seen the single images too"


def run(config: RunConfig, study: Study, found: TrainImages, *, report: Report) -> None:
    """Metrics ``train_images/…auc_{calibrated,baseline,both}`` with ``_norm`` …; table and arrays."""
    images, mine = study.images, found.scores[MAIN]
    test = np.flatnonzero(~images.validation)
    with report.stage("evaluate/calibrated"):
        z = difficulty(images.points)
        evidence = {name: columns(scores)[test] for name, scores in found.scores.items()}
        ways = adjusted(evidence[MAIN], evidence[CONTROL], z[test], digests(images.points[test]))
        raw = {"kappa": found.kappa_1[test], "norm": found.norm.of(mine.norm[None])[test]}
        scores = {"raw": raw} | {name: way.scores for name, way in ways.items()}
        curves, rows = _measured(config, study, images.copies[test], scores, report)
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
        **{f"residuals_{name}": way.residuals for name, way in ways.items()},
    )


def columns(scores: Scores) -> np.ndarray:
    """The evidence ``(n, 3L)``: κ_1 at every noise level, −log|ε̂| at the centre, |ε̂| = σ|s|, and the contrast."""
    noise = scores.sigma[:, None] * -scores.norm
    smallest = np.finfo(np.float32).tiny  # where the network answers with exactly 0
    norm = -np.log(np.maximum(noise, smallest))
    return np.concatenate([scores.kappa[scores.plain], norm, scores.contrast]).T


def of_audits(evidence: np.ndarray) -> np.ndarray:
    """Those of ``columns`` ``(n, 3L)`` that an audit's score is made of: κ_1 and the contrast, ``(n, 2L)``."""
    parts = dict(zip(EVIDENCE, np.split(evidence, len(EVIDENCE), axis=1), strict=True))
    return np.concatenate([parts[name] for name in AUDITED], axis=1)


def digests(points: np.ndarray) -> np.ndarray:
    """A hash of each image's content, ``(n,)``, the order in which images enter a regression."""
    return np.asarray([fingerprint(point) for point in points])


@dataclass(frozen=True)
class Way:
    """Adjusted evidence of one way, each at L levels."""

    kappa: Adjusted
    norm: Adjusted
    contrast: Adjusted

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """``(n,)`` by name: of each, and combined as in an audit, the mean over the columns that are used."""
        alone = {name: getattr(self, name).score for name in EVIDENCE}
        weights = [getattr(self, name).used.sum() for name in AUDITED]
        return alone | {"combined": np.average([alone[name] for name in AUDITED], axis=0, weights=weights)}

    @property
    def residuals(self) -> np.ndarray:
        """``(n, 3L)``."""
        return np.concatenate([getattr(self, name).residuals for name in EVIDENCE], axis=1)


def adjusted(network: np.ndarray, control: np.ndarray, z: np.ndarray, digest: np.ndarray) -> dict[str, Way]:
    """The ways that adjust.

    Args:
        network, control: evidence ``(n, 3L)``.
        z: difficulty ``(n, k)``.
        digest: ``(n,)``.
    """
    nothing = np.zeros((len(z), 1))  # evidence is standardized alone
    given = {"calibrated": (network, z), "baseline": (network - control, nothing), "both": (network - control, z)}
    return {
        way: Way(*(adjust(part, known, digest) for part in np.split(evidence, len(EVIDENCE), axis=1)))
        for way, (evidence, known) in given.items()
    }


def _measured(
    config: RunConfig,
    study: Study,
    copies: np.ndarray,
    scores: Mapping[str, Mapping[str, np.ndarray]],
    report: Report,
) -> tuple[np.ndarray, list[dict]]:
    """AUCs ``(ways, columns, doses, 3)``, NaN where there is none, and a row for each.

    Args:
        copies: ``(m,)`` of the test half.
        scores: ``(m,)`` by way and by columns; "raw" has κ_1 and the norm alone.
    """
    curves, rows = np.full((len(WAYS), len(COLUMNS), len(study.doses), 3), np.nan), []
    for (i, way), (j, which) in product(enumerate(WAYS), enumerate(COLUMNS)):
        if which not in scores[way]:
            continue
        values = scores[way][which]
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
    config: RunConfig, way: str, values: np.ndarray, copies: np.ndarray, positive: np.ndarray
) -> tuple[Interval | None, str | None]:
    """Against held-out images, with its interval; or None and why."""
    if way in ("baseline", "both") and (copies[positive] == 1).all():
        return None, SEEN
    return interval_of(auc, values[positive], values[copies == 0], config.seed)


def metric_name(prefix: str, way: str, which: str) -> str:
    """``prefix/auc``, ``…/auc_norm``, ``…/auc_calibrated``, ``…/auc_calibrated_norm``, ``…/auc_both_combined``."""
    return f"{prefix}/auc" + (f"_{way}" if way != "raw" else "") + (f"_{which}" if which != "kappa" else "")
