"""Where the volume estimator breaks: p ≤ 2 − d/2 about a critical point. Shown on N(0, I), where all is known."""

from typing import Annotated, Any

import numpy as np
from jax.tree_util import Partial
from pydantic import Field

from experiments.core.report import Report
from experiments.core.schema import Section
from experiments.estimator_study.convergence import Distinct, columns, log_slope
from experiments.estimator_study.methods import VOLUME, repeated
from experiments.estimator_study.scenes import MODE, Scene
from experiments.shared.networks import named_key
from plap_jax import GaussianMixture
from plap_jax.metrics import proportion_interval
from plap_jax.typing import Estimate


class Case(Section):
    """One dimension and order."""

    d: int = Field(ge=1, description="dimension")
    p: float = Field(ge=1, description="order")


class Breakdown(Section):
    """Dimensions and orders, and numbers of ball points."""

    cases: Distinct[Case] = Field(min_length=1, description="dimensions and orders")
    n_points: Distinct[Annotated[int, Field(ge=2)]] = Field(min_length=2, description="of the volume estimate")
    repeats: int = Field(ge=8, description="estimates for each coverage")


def run(config: Any, *, report: Report) -> None:
    """Root mean square error, its slope, and coverage of κ_p by the volume, ball of radius 1 about the mode.

    There κ_p = r^{p−1}, and the second moment of Δ_p u = −ρ^{p−2}(d+p−2) is ∫ρ^{2(p−2)+d−1} dρ, finite for p > 2 − d/2.
    """
    part = config.breakdown
    exact = next(method for method in VOLUME if method.name == "exact divergence")
    rows = []
    for d, p in ((case.d, case.p) for case in part.cases):
        normal = GaussianMixture([1.0], np.zeros((1, d)), np.ones(1), "spherical")
        score_fn = Partial(GaussianMixture.score, normal)  # another order compiles nothing
        scene = Scene(f"normal, d = {d}", score_fn, np.zeros((1, d), np.float32), np.array([MODE]), 1.0)
        with report.stage(f"breakdown/d{d}_p{p:g}"):
            for n in part.n_points:
                key = named_key(config.seed, f"breakdown/{d}/{n}")
                found = repeated(exact, scene, scene.points, (p,), key, n, part.repeats)
                rows.append(_row(found, d, p, n))
        line = [row for row in rows if (row["d"], row["p"]) == (d, p)]
        report.metric(f"breakdown/slope/d{d}_p{p:g}", *log_slope(line, "n", "rmse"))
        report.metric(f"breakdown/coverage/d{d}_p{p:g}", line[-1]["coverage"])
    report.table("breakdown", rows)
    report.arrays("breakdown", **columns(rows))


def _row(found: Estimate, d: int, p: float, n: int) -> dict[str, float]:
    value, stderr = (np.asarray(a, float)[:, 0, 0] for a in (found.value, found.stderr))
    low, high = Estimate(value, stderr, n, np.full(len(value), n)).interval(0.95)
    covered = proportion_interval(int(np.sum((low <= 1) & (high >= 1))), len(value))
    return {
        "d": d,
        "p": p,
        "variance": "finite" if p > 2 - d / 2 else "infinite",
        "n": n,
        "rmse": float(np.sqrt(np.mean((value - 1) ** 2))),
        "largest_error": float(np.max(np.abs(value - 1))),
        "median_stderr": float(np.median(stderr)),
        "coverage": covered.value,
        "coverage_low": covered.low,
        "coverage_high": covered.high,
    }
