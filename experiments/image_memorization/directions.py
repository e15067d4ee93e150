"""Are a few directions enough? The AUC of κ_p with few directions against the AUC with many, on the test halves."""

import numpy as np

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig
from experiments.image_memorization.evaluation import NOT_CHOSEN, Choice
from experiments.image_memorization.samples import Generated
from experiments.image_memorization.scoring import Scores, score_images
from experiments.image_memorization.study import Study
from experiments.image_memorization.train_images import TrainImages
from experiments.shared.measuring import measure, measure_gain
from experiments.shared.networks import MAIN
from plap_jax.metrics import auc


def run(
    config: RunConfig, study: Study, found: TrainImages, generated: Generated, *, report: Report, cache: Cache
) -> None:
    """Metrics ``directions/{train_images,samples}/{auc_n…, difference}`` at the levels chosen for κ_1."""
    images, is_copy = study.images, generated.copies.by_ratio
    # Samples of one training image go together; the images of the data are independent.
    sets = {
        "train_images": (images.points, ~images.validation, images.is_planted, images.is_heldout, found.plain, None),
        "samples": (
            generated.images,
            ~generated.validation,
            is_copy,
            ~is_copy,
            generated.plain,
            generated.copies.nearest,
        ),
    }
    for name, (points, test, positive, negative, choice, nearest) in sets.items():
        chosen = test & (positive | negative)
        if choice.validation_auc is None or not chosen.any():
            reason = NOT_CHOSEN if choice.validation_auc is None else "no image in the test half"
            for metric in (*(f"auc_n{n}" for n in config.directions), "difference"):
                report.metric(f"directions/{name}/{metric}", None, reason)
            continue
        sigma = config.scoring.sigmas[choice.level]
        values = [_kappa(config, study, points[chosen], sigma, n, name, report, cache) for n in config.directions]
        classes = positive[chosen], negative[chosen]
        clusters = None if nearest is None else tuple(nearest[chosen][role] for role in classes)
        report.arrays(
            f"directions_{name}",
            kappa_1=values,
            n_directions=config.directions,
            sigma=sigma,
            positive=positive[chosen],
            image=np.flatnonzero(chosen),
        )
        for n, kappa in zip(config.directions, values, strict=True):
            of_classes = (kappa[role] for role in classes)
            measure(report, f"directions/{name}/auc_n{n}", auc, *of_classes, config.seed, clusters)
        pairs = tuple(kappa[role] for kappa in values for role in classes)
        measure_gain(report, f"directions/{name}/difference", pairs, config.seed, clusters)


def _kappa(
    config: RunConfig,
    study: Study,
    points: np.ndarray,
    sigma: float,
    n: int,
    name: str,
    report: Report,
    cache: Cache,
) -> np.ndarray:
    scores: Scores = score_images(
        config,
        study.networks[MAIN],
        points,
        name=f"directions/{name}/{n}",
        report=report,
        cache=cache,
        sigmas=(sigma,),
        orders=(1.0,),
        n_samples=n,
    )
    return Choice(0, 0).of(scores.kappa)
