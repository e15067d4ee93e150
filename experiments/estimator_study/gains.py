"""Evaluations saved over plain directions at equal error, by kind of point: planted, held out, critical, others."""

from typing import Any

import jax
import numpy as np
from pydantic import Field

from experiments.core.report import Report
from experiments.core.schema import Section
from experiments.estimator_study.convergence import ROUNDING, Distinct, columns, slug
from experiments.estimator_study.methods import BOUNDARY, PLAIN, chosen, references, repeated
from experiments.estimator_study.scenes import Scene
from experiments.shared.networks import named_key
from plap_jax.metrics import mean_interval


class Gains(Section):
    """How many directions and repeats."""

    n_samples: Distinct[int] = Field(min_length=1, description="numbers of directions")
    repeats: int = Field(ge=8, description="estimates for each error")


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
