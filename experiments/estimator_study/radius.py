"""What the radius trades: a small ball is close to the point and noisy, a large one averages over what is not there."""

from dataclasses import replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import Field

from experiments.core.report import Report
from experiments.core.schema import Section
from experiments.estimator_study.convergence import Distinct, columns, log_slope
from experiments.estimator_study.methods import BOUNDARY, PLAIN, chosen, pointwise_exact, references, repeated
from experiments.estimator_study.scenes import AWAY, in_dimension, mixture_scene
from experiments.shared.networks import named_key


class Radii(Section):
    """Balls about a point two standard deviations off a mean of the plane's mixture."""

    radii: Distinct[Annotated[float, Field(gt=0)]] = Field(min_length=3, description="radii of the balls")
    n_samples: int = Field(ge=2, description="directions per estimate")
    repeats: int = Field(ge=8, description="estimates for each radius")


def run(config: Any, *, report: Report) -> None:
    """Bias |ball average − Δ_p u|, standard deviation and root mean square error of the estimated average."""
    part, orders = config.radius, tuple(config.convergence.p)
    (plain,) = chosen([PLAIN], BOUNDARY)
    scene = mixture_scene("mixture, d = 2", in_dimension(2, config.variance), config.seed, 1)
    point = scene.of_kind(AWAY, 1)
    rows = []
    with report.stage("radius"), jax.enable_x64(True):
        points = jnp.asarray(point, jnp.float64)
        exact = np.asarray(pointwise_exact(Partial(scene.score_fn), points, jnp.asarray(orders, jnp.float64)))[:, 0]
    for radius in part.radii:
        ball = replace(scene, radius=radius)
        with report.stage(f"radius/{radius:g}"):
            truth, _ = references(ball, point, orders, named_key(config.seed, "radius/reference"))
            key = named_key(config.seed, f"radius/{radius}")
            values = repeated(plain, ball, point, orders, key, part.n_samples, part.repeats).value[:, :, 0]
        factor = -2 / radius  # ball average = −(d/r) κ_p
        for i, p in enumerate(orders):
            errors = factor * values[:, i] - exact[i]
            rows.append(
                {
                    "radius": radius,
                    "p": p,
                    "exact": float(exact[i]),
                    "bias": float(abs(factor * truth[i, 0] - exact[i])),
                    "spread": float(abs(factor) * np.std(values[:, i], ddof=1)),
                    "rmse": float(np.sqrt(np.mean(errors**2))),
                }
            )
    report.table("radius", rows)
    report.arrays("radius", **columns(rows))
    for p in orders:
        line = [row for row in rows if row["p"] == p]
        # The order in r: where the bias is above what float32 leaves of a quotient by r, and the ball still small.
        smooth = [row for row in line if row["bias"] > 1e-3 * abs(row["exact"]) and row["radius"] <= SMALL]
        report.metric(f"radius/order/p{p:g}", *log_slope(smooth, "radius", "bias"))
        report.metric(f"radius/best/p{p:g}", min(line, key=lambda row: row["rmse"])["radius"])


# Beyond it the ball of the default mixture (variance 0.1) is no longer small.
SMALL = 0.3
