"""Question 1: which training images has the network memorized? Planted, single and held-out ones by their κ_p."""

from dataclasses import dataclass

import numpy as np

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig
from experiments.image_memorization.evaluation import Choice, best, levels_table, measure_choice
from experiments.image_memorization.scoring import Scores, score_images
from experiments.image_memorization.study import CONTROL, Study
from experiments.shared.measuring import measure, measure_gain
from experiments.shared.networks import MAIN
from plap_jax.evidence import nfe_at_level
from plap_jax.metrics import auc, tpr_at_fpr

KEPT = ("kappa", "stderr", "norm", "contrast")  # of the scores, in the arrays


@dataclass(frozen=True)
class TrainImages:
    """Scores of all images by both networks, and what was chosen on the validation half."""

    scores: dict[str, Scores]
    headline: Choice
    plain: Choice
    norm: Choice

    @property
    def kappa(self) -> np.ndarray:
        """``(n,)`` κ_p at the chosen order and level."""
        return self.headline.of(self.scores[MAIN].kappa)

    @property
    def kappa_1(self) -> np.ndarray:
        """``(n,)`` κ_1 at its own chosen level."""
        return self.plain.of(self.scores[MAIN].kappa)


def run(config: RunConfig, study: Study, *, report: Report, cache: Cache) -> TrainImages:
    """Scores, choices, metrics, tables and arrays."""
    images = study.images
    common = {"report": report, "cache": cache}
    scores = {
        name: score_images(config, network, images.points, name=f"train_images/{name}", **common)
        for name, network in study.networks.items()
    }
    found = _choose(study, scores)
    with report.stage("evaluate/train_images"):
        _headline(config, study, found, report)
        _gains(config, study, found, report)
        rows, curves = levels_table(
            scores[MAIN], _test(study, images.copies == study.headline), _test(study, images.is_heldout), config.seed
        )
    report.table("train_images_levels", rows)
    report.table("train_images", _rows(study, found))
    report.arrays(
        "train_images",
        images=images.points,
        copies=images.copies,
        validation=images.validation,
        headline=study.headline,
        chosen=[found.headline.order, found.headline.level],
        chosen_plain=[found.plain.order, found.plain.level],
        chosen_norm=found.norm.level,
        kappa_1=found.kappa_1,
        **{f"{key}_{name}": getattr(s, key) for name, s in scores.items() for key in KEPT},
        **curves,
    )
    return found


def _choose(study: Study, scores: dict[str, Scores]) -> TrainImages:
    """Orders and levels at which planted images of all doses stand out from held-out ones, on the validation half."""
    images, mine = study.images, scores[MAIN]
    positive, negative = (images.validation & role for role in (images.is_planted, images.is_heldout))
    return TrainImages(
        scores=scores,
        headline=best(mine.kappa, positive, negative),
        plain=best(mine.kappa[mine.plain : mine.plain + 1], positive, negative, first=mine.plain),
        norm=best(mine.norm[None], positive, negative),
    )


def _test(study: Study, role: np.ndarray) -> np.ndarray:
    return ~study.images.validation & role


def _headline(config: RunConfig, study: Study, found: TrainImages, report: Report) -> None:
    images, mine = study.images, found.scores[MAIN]
    planted = _test(study, images.copies == study.headline)
    heldout, single = _test(study, images.is_heldout), _test(study, images.is_single)
    n_levels, n_samples = len(mine.sigma), config.flux.n_samples
    measure_choice(report, "train_images", found.headline, mine)
    report.metric("train_images/copies", study.headline)
    report.metric("scoring/network_evaluations_per_image", n_samples)
    report.metric("scoring/network_evaluations_per_image_all_levels", n_levels * nfe_at_level("kappa", n_samples))
    kappa, control = found.kappa, found.headline.of(found.scores[CONTROL].kappa)
    for name, statistic in (("auc", auc), ("tpr_at_1pct_fpr", tpr_at_fpr)):
        measure(report, f"train_images/{name}", statistic, kappa[planted], kappa[heldout], config.seed)
    everyone = _test(study, images.is_planted)
    measure(report, "train_images/auc_planted", auc, kappa[everyone], kappa[heldout], config.seed)
    measure(report, "train_images/auc_single_vs_heldout", auc, kappa[single], kappa[heldout], config.seed)
    measure(report, "control/auc", auc, control[everyone], control[heldout], config.seed)
    measure(report, "control/auc_headline", auc, control[planted], control[heldout], config.seed)
    for order, p in enumerate(mine.p):
        level = best(mine.kappa[order : order + 1], *_validation(study), first=order)
        values = level.of(mine.kappa)
        measure(report, f"train_images/auc/p{p:g}", auc, values[everyone], values[heldout], config.seed)


def _validation(study: Study) -> tuple[np.ndarray, np.ndarray]:
    images = study.images
    return images.validation & images.is_planted, images.validation & images.is_heldout


def _gains(config: RunConfig, study: Study, found: TrainImages, report: Report) -> None:
    """κ_1 against the score norm, which costs one evaluation, dose by dose; each at its own validated level."""
    kappa, norm = found.kappa_1, found.norm.of(found.scores[MAIN].norm[None])
    heldout = _test(study, study.images.is_heldout)
    for name, choice in (("score_norm", found.norm), ("kappa_1", found.plain)):
        report.metric(f"train_images/{name}/sigma", found.scores[MAIN].sigma[choice.level])
        report.metric(f"train_images/{name}/validation_auc", choice.validation_auc)
    for copies in study.doses:
        chosen = _test(study, study.images.copies == copies)
        prefix = f"train_images/k{copies}"
        for name, values in (("auc", kappa), ("score_norm_auc", norm)):
            measure(report, f"{prefix}/{name}", auc, values[chosen], values[heldout], config.seed)
        pairs = (kappa[chosen], kappa[heldout], norm[chosen], norm[heldout])
        measure_gain(report, f"{prefix}/gain_over_score_norm", pairs, config.seed)


def _rows(study: Study, found: TrainImages) -> list[dict[str, float | int | str]]:
    """Every image, most memorized first."""
    order = np.argsort(-found.kappa, kind="stable")
    images, mine = study.images, found.scores[MAIN]
    return [
        {
            "rank": rank,
            "image": int(i),
            "copies": int(images.copies[i]),
            "half": "validation" if images.validation[i] else "test",
            "kappa": float(found.kappa[i]),
            "stderr": float(found.headline.of(mine.stderr)[i]),
            "kappa_1": float(found.kappa_1[i]),
            "minus_score_norm": float(found.norm.of(mine.norm[None])[i]),
            "kappa_control": float(found.headline.of(found.scores[CONTROL].kappa)[i]),
        }
        for rank, i in enumerate(order, 1)
    ]
