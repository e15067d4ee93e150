"""Evaluations saved over plain directions at equal error, by kind of point: planted, held out, critical, others."""

from typing import Any

import jax
import numpy as np
from pydantic import Field

from experiments.core.report import Report
from experiments.core.schema import Section
from experiments.estimator_study.convergence import ROUNDING, Distinct, columns, slug
from experiments.estimator_study.methods import BOUNDARY, PLAIN, chosen, references, repeated
from experiments.estimator_study.scenes import Digits, Scene
from experiments.shared.measuring import measure, measure_gain
from experiments.shared.networks import named_key
from plap_jax._flux import FluxEstimator
from plap_jax.metrics import auc, mean_interval
from plap_jax.parallel import map_points


class Gains(Section):
    """How many directions and repeats."""

    n_samples: Distinct[int] = Field(min_length=1)
    repeats: int = Field(ge=8)
    few: int = Field(ge=2, description="directions, with control, whose AUC is held against that of …")
    many: int = Field(ge=2, description="plain directions")


def run(config: Any, scenes: list[Scene], *, report: Report) -> list[dict[str, Any]]:
    """The ratio of mean squared errors plain / method, p = 1: a mean of logarithms over points, by kind of point."""
    rows = []
    for scene in scenes:
        with report.stage(f"gains/{scene.name}"):
            truth, _ = references(scene, scene.points, (1.0,), named_key(config.seed, f"reference/gains/{scene.name}"))
            for n in config.gains.n_samples:
                rows += _of_scene(config, scene, truth[0], n)
        jax.clear_caches()  # as in convergence
    report.table("gains", rows)
    report.arrays("gains", **columns(rows))
    for row in rows:
        if row["method"] != PLAIN and row["n"] == config.gains.n_samples[0]:
            parts = (row["score"], row["kind"], row["method"])
            none = not row["points"]
            reason = "plain directions have no error there but rounding" if none else None
            report.metric("/".join(("gain", *map(slug, parts))), None if none else row["gain"], reason)
    return rows


def _of_scene(config: Any, scene: Scene, truth: np.ndarray, n: int) -> list[dict[str, Any]]:
    key = named_key(config.seed, f"gains/{scene.name}/{n}")
    squares = {}
    for method in chosen(config.methods, BOUNDARY):
        found = repeated(method, scene, scene.points, (1.0,), key, n, config.gains.repeats)
        squares[method.name] = np.mean((found.value[:, 0] - truth) ** 2, axis=0)
    rows = []
    for kind in dict.fromkeys(scene.kinds.tolist()):
        of = scene.kinds == kind
        # At a mode of the plane all directions agree: nothing is left to compare but rounding.
        exact = squares[PLAIN][of] <= ROUNDING**2
        for method in squares:
            logs = np.log(np.maximum(squares[PLAIN][of], 1e-14) / np.maximum(squares[method][of], 1e-14))[~exact]
            gain = float(np.exp(logs.mean())) if len(logs) else np.nan
            spread = mean_interval(logs) if len(logs) >= 2 else None
            rows.append(
                {
                    "score": scene.name,
                    "kind": kind,
                    "n": n,
                    "method": method,
                    "points": len(logs),
                    "gain": gain,
                    "gain_low": float(np.exp(spread.low)) if spread else gain,
                    "gain_high": float(np.exp(spread.high)) if spread else gain,
                }
            )
    return rows


def detection(config: Any, digits: Digits, *, report: Report) -> None:
    """AUC of planted against held-out images: few directions with control against many plain ones, test halves."""
    images, schedule = digits.images, digits.network.schedule
    t = schedule.time_at(config.sigma)
    alpha, radius = float(schedule.alpha(t)), schedule.sigma(t) * images.points[0].size ** 0.5
    key = named_key(config.seed, "gains/detection")
    part = config.gains
    # Few plain directions too: where they do as well, the comparison says nothing of the control variate.
    ways = {"few": (part.few, True), "few_plain": (part.few, False), "many": (part.many, False)}
    positive, negative = (~images.validation & of for of in (images.is_planted, images.is_heldout))
    found = {}
    for name, (n, control) in ways.items():
        estimator = FluxEstimator(digits.network.score_at(t), radius, key, 1.0, n, "iid", control)
        values = map_points(estimator, alpha * images.points, batch_size=max(1, 4096 // n)).value
        found[name] = values[positive], values[negative]
        measure(report, f"detection/{name}/auc", auc, *found[name], config.seed)
    measure_gain(report, "detection/difference", (*found["few"], *found["many"]), config.seed)
    classes = ("planted", "heldout")
    kept = {f"{name}_{of}": v for name, pair in found.items() for of, v in zip(classes, pair, strict=True)}
    report.arrays("detection", **kept)
