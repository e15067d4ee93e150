"""Memorization setting in: κ_1 and reproduction along the training steps."""

import numpy as np

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig
from experiments.image_memorization.evaluation import Choice
from experiments.image_memorization.samples import images_of
from experiments.image_memorization.scoring import score_images
from experiments.image_memorization.study import Study
from experiments.image_memorization.train_images import TrainImages
from experiments.shared.measuring import measure
from experiments.shared.networks import MAIN, Trained
from plap_jax.metrics import auc


def run(config: RunConfig, study: Study, found: TrainImages, *, report: Report, cache: Cache) -> None:
    """κ_1 of all images at the level chosen for the finished network, and the copies it generates, per snapshot."""
    images, trained = study.images, study.networks[MAIN]
    sigma = config.scoring.sigmas[found.plain.level]
    common = {"report": report, "cache": cache}
    test = ~images.validation
    planted, heldout = test & (images.copies == study.headline), test & images.is_heldout
    steps, kappas, separations, copied, reproduced, rows = [], [], [], [], [], []
    for step, network in trained.snapshots():
        at_step = Trained(network, trained.directory.with_name(f"{trained.key}_{step}"))
        name = f"steps/{step}"
        scores = score_images(config, at_step, images.points, name=name, sigmas=(sigma,), orders=(1.0,), **common)
        kappa = Choice(0, 0).of(scores.kappa)
        generated = images_of(config, study, at_step, config.learning.n_samples, name=name, **common)
        copies = config.labels.find(generated, study.reference)
        times = copies.counts(study.n_reference)
        separation = measure(report, f"learning/{step}/auc", auc, kappa[planted], kappa[heldout], config.seed)
        steps.append(step)
        kappas.append(kappa)
        separations.append([np.nan] * 3 if separation is None else [separation.value, separation.low, separation.high])
        copied.append(copies.by_ratio.mean())
        reproduced.append((times[images.copies[: study.n_reference] == study.headline] > 0).mean())
        rows.append(
            {
                "step": step,
                "visits_per_planted_image": step / steps_of(config) * study.visits_per_copy * study.headline,
                "auc": None if separation is None else separation.value,
                "copy_fraction": copied[-1],
                "reproduced": reproduced[-1],
                **{f"kappa_1_k{k}": kappa[images.copies == k].mean() for k in (0, *study.doses)},
            }
        )
    report.table("learning", rows)
    report.arrays(
        "learning",
        step=steps,
        kappa_1=np.stack(kappas),
        copies=images.copies,
        auc=separations,
        copy_fraction=copied,
        reproduced=reproduced,
        headline=study.headline,
        sigma=sigma,
    )


def steps_of(config: RunConfig) -> int:
    """Training steps in all."""
    return config.train.make().n_steps
