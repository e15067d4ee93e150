"""Question 2: which generated images are copies of training images? And how often is each dose reproduced?"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import Field

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section, Target
from experiments.image_memorization.evaluation import Choice, best, levels_table, measure_choice
from experiments.image_memorization.scoring import Scores, score_images
from experiments.image_memorization.study import CONTROL, Study
from experiments.image_memorization.train_images import TrainImages
from experiments.shared.generation import generate
from experiments.shared.measuring import Statistic, measure, measure_gain, measure_share, too_few
from experiments.shared.networks import MAIN, Trained
from plap_jax.bootstrap import bootstrap_interval
from plap_jax.labels import Copies
from plap_jax.metrics import auc, tpr_at_fpr


class Samples(Section):
    """How images are generated."""

    n: int = Field(ge=4, description="images to generate")
    sampler: Target = Field(description="of generated images")


@dataclass(frozen=True)
class Generated:
    """Generated images, what they are copies of, and their scores.

    A generated image belongs to the half of its nearest training image, so that no training image has copies in both.
    """

    images: np.ndarray
    copies: Copies
    validation: np.ndarray
    scores: dict[str, Scores]

    @property
    def classes_to_choose_by(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies and others of the validation half, ``(n,)`` booleans."""
        return self.validation & self.copies.by_ratio, self.validation & ~self.copies.by_ratio

    @cached_property
    def plain(self) -> Choice:
        """The level at which κ_1 separates these best."""
        mine = self.scores[MAIN]
        return best(mine.kappa[mine.plain : mine.plain + 1], *self.classes_to_choose_by, first=mine.plain)


def images_of(
    config: RunConfig, study: Study, trained: Trained, n: int, *, name: str, report: Report, cache: Cache
) -> np.ndarray:
    """``n`` images by a network of the study."""
    how = {"sampler": config.samples.sampler, "seed": config.seed, "shape": study.images.points.shape[1:]}
    return generate(trained, n, **how, name=name, report=report, cache=cache)["images"]


def run(config: RunConfig, study: Study, found: TrainImages, *, report: Report, cache: Cache) -> Generated:
    """Generates, labels, scores; metrics ``samples/…`` and ``dose/…``."""
    common = {"report": report, "cache": cache}
    mine = study.networks[MAIN]
    images = images_of(config, study, mine, config.samples.n, name="network", **common)
    with report.stage("label"):
        copies = config.labels.find(images, study.reference)
    scores = {
        name: score_images(config, network, images, name=f"samples/{name}", **common)
        for name, network in study.networks.items()
    }
    generated = Generated(images, copies, study.images.validation[copies.nearest], scores)
    with report.stage("evaluate/samples"):
        _evaluate(config, study, generated, report)
        _dose_response(config, study, found, generated, report)
    return generated


def _evaluate(config: RunConfig, study: Study, generated: Generated, report: Report) -> None:
    copies, scores = generated.copies, generated.scores
    is_copy, mine = copies.by_ratio, scores[MAIN]
    validation = generated.classes_to_choose_by
    test = ~generated.validation & is_copy, ~generated.validation & ~is_copy
    measure_share(report, "samples/copy_fraction", is_copy)
    measure_share(report, "samples/copy_fraction_by_distance", copies.by_distance)
    measure_share(report, "samples/copies_that_are_planted", study.images.is_planted[copies.nearest[is_copy]])
    chosen = best(mine.kappa, *validation)
    measure_choice(report, "samples", chosen, mine)
    if chosen.validation_auc is None:  # what is not validated is not reported: no example to measure
        test = (np.zeros_like(is_copy), np.zeros_like(is_copy))
    kappa, control = chosen.of(mine.kappa), chosen.of(scores[CONTROL].kappa)

    def of_test(values: np.ndarray, classes: tuple[np.ndarray, ...] = test) -> tuple[np.ndarray, ...]:
        return tuple(values[members] for members in classes)

    def measured(name: str, statistic: Statistic, values: np.ndarray, classes: tuple[np.ndarray, ...] = test) -> None:
        # Copies of one image are not independent of each other: they are resampled together.
        clusters = of_test(copies.nearest, classes)
        measure(report, f"samples/{name}", statistic, *of_test(values, classes), config.seed, clusters)

    measured("auc", auc, kappa)
    measured("tpr_at_1pct_fpr", tpr_at_fpr, kappa)
    measured("control_auc", auc, control)
    near = tuple((test[0] | test[1]) & role for role in (copies.by_distance, ~copies.by_distance))
    measured("auc_by_distance", auc, kappa, near)
    for order, p in enumerate(mine.p):
        at = best(mine.kappa[order : order + 1], *validation, first=order)
        measured(f"auc/p{p:g}", auc, at.of(mine.kappa))
    plain = generated.plain
    norm = best(mine.norm[None], *validation)
    norms = norm.of(mine.norm[None])
    measured("score_norm_auc", auc, norms)
    kappa_1 = plain.of(mine.kappa)
    pairs = (*of_test(kappa_1), *of_test(norms))
    measure_gain(report, "samples/gain_over_score_norm", pairs, config.seed, of_test(copies.nearest))
    rows, curves = levels_table(mine, *test, config.seed, copies.nearest)
    report.table("samples_levels", rows)
    report.table("samples", _rows(study, generated, kappa, kappa_1))
    report.arrays(
        "samples",
        images=generated.images,
        validation=generated.validation,
        nearest_copies=study.images.copies[copies.nearest],
        chosen=[chosen.order, chosen.level],
        chosen_plain=[plain.order, plain.level],
        chosen_norm=norm.level,
        kappa_1=kappa_1,
        **{name: getattr(copies, name) for name in ("nearest", "ratio", "distance", "relative")},
        max_ratio=copies.max_ratio,
        max_distance=copies.max_distance,
        **{f"{key}_{name}": getattr(s, key) for name, s in scores.items() for key in ("kappa", "stderr", "norm")},
        **curves,
    )


def _rows(study: Study, generated: Generated, kappa: np.ndarray, kappa_1: np.ndarray) -> list[dict[str, float | int]]:
    """Every generated image, highest κ first."""
    copies = generated.copies
    return [
        {
            "rank": rank,
            "sample": int(i),
            "kappa": float(kappa[i]),
            "kappa_1": float(kappa_1[i]),
            "nearest": int(copies.nearest[i]),
            "copies_of_nearest": int(study.images.copies[copies.nearest[i]]),
            "ratio": float(copies.ratio[i]),
            "distance": float(copies.distance[i]),
            "relative": float(copies.relative[i]),
            "copy": int(copies.by_ratio[i]),
            "copy_by_distance": int(copies.by_distance[i]),
        }
        for rank, i in enumerate(np.argsort(-kappa, kind="stable"), 1)
    ]


def _dose_response(config: RunConfig, study: Study, found: TrainImages, generated: Generated, report: Report) -> None:
    """Per number of copies: the share of images that some sample reproduces, and the share that κ_1 detects.

    Detected means above the threshold that 1 % of held-out images pass; of the test half, like all that was tuned.
    """
    images, kappa = study.images, found.kappa_1
    times = generated.copies.counts(study.n_reference)
    test, heldout = ~images.validation, kappa[~images.validation & images.is_heldout]
    rows = []
    for copies in study.doses:
        members = images.copies == copies
        often = times[members[: study.n_reference]]
        measure_share(report, f"dose/{copies}/reproduced", often > 0)
        positive = kappa[test & members]
        measure(report, f"dose/{copies}/detected", tpr_at_fpr, positive, heldout, config.seed)
        report.metric(
            f"dose/{copies}/samples_per_image",
            float(often.mean()) if len(often) else None,
            None if len(often) else "no image of this dose",
        )
        report.metric(f"dose/{copies}/visits", copies * study.visits_per_copy)
        separated = None if too_few(positive, heldout) else bootstrap_interval(auc, positive, heldout, seed=config.seed)
        rows.append(
            {
                "copies": copies,
                "visits": copies * study.visits_per_copy,
                "images": int(members.sum()),
                "reproduced": report.metrics[f"dose/{copies}/reproduced"],
                "samples_per_image": float(often.mean()) if len(often) else None,
                "detected": report.metrics[f"dose/{copies}/detected"],
                "auc": None if separated is None else separated.as_dict(),
            }
        )
    flat = [_flat(row) for row in rows]
    report.table("dose", flat)
    report.arrays(
        "dose",
        times_reproduced=times,
        **{key: np.asarray([np.nan if row.get(key) is None else row[key] for row in flat], float) for key in flat[0]},
    )


def _flat(row: dict) -> dict:
    """Intervals as three columns."""
    out = {}
    for key, value in row.items():
        ends = value if isinstance(value, dict) else {"value": value, "low": value, "high": value}
        if key in ("reproduced", "detected", "auc"):
            out |= {key: ends["value"], f"{key}_low": ends["low"], f"{key}_high": ends["high"]}
        else:
            out[key] = value
    return out
