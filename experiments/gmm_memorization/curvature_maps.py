"""Part 2: κ_p and the pointwise Δ_p u over the plane, analytic beside learned, at several noise levels.

In the plane the flux needs no random directions: a trapezoid rule on the circle has no noise that a map could show
instead of curvature.
"""

from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import Field

from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section
from experiments.gmm_memorization.critical_points import Setting
from plap_jax import GaussianMixture, p_laplacian
from plap_jax._flux import circle_flux
from plap_jax.typing import Array, ScoreFn


class Maps(Section):
    """Part 2."""

    enabled: bool = Field(description="whether this part is run")
    times: list[int | float] | None = Field(min_length=1, description="one map per noise level of these times")
    p: list[Annotated[float, Field(ge=1)]] = Field(min_length=1, description="orders")
    n_grid: int = Field(ge=2, description="points per axis")
    n_points: int = Field(ge=2, description="points of the quadrature on each circle")


def run(config: RunConfig, setting: Setting, *, report: Report) -> None:
    """Maps on the ball of the noise shell, radius σ√2, all p from the same score evaluations."""
    part, schedule = config.maps, setting.network.schedule
    orders = np.asarray(part.p, np.float32)
    extents = [setting.extent(t) for t in part.times]
    with report.stage("maps/estimates"):
        levels = []
        for t, extent in zip(part.times, extents, strict=True):
            axis = np.linspace(-extent, extent, part.n_grid, dtype=np.float32)
            plane = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
            radius = schedule.sigma(t) * 2**0.5
            level = _maps(setting.noised(t), setting.network.score_at(t), plane, orders, radius, n_points=part.n_points)
            levels.append([np.asarray(values) for values in level])
    side = (part.n_grid, part.n_grid)
    kappa, laplacian, log_q = (np.stack(values) for values in zip(*levels, strict=True))
    kappa, laplacian, log_q = (a.reshape(*a.shape[:-1], *side) for a in (kappa, laplacian, log_q))
    sigmas = np.asarray([float(schedule.sigma(t)) for t in part.times])
    report.arrays(
        "maps", kappa=kappa, laplacian=laplacian, log_q=log_q, p=part.p, t=part.times, sigma=sigmas, extent=extents
    )
    _record(report, kappa, log_q, part, sigmas)


@partial(jax.jit, static_argnames="n_points")
def _maps(
    noised: GaussianMixture, learned: ScoreFn, plane: Array, orders: Array, radius: Array, *, n_points: int
) -> tuple[Array, Array, Array]:
    """κ_p and Δ_p u, each ``(2 scores, n orders, n points)``, and log q ``(n points,)``.

    Only p varies in the inner map, so scores are evaluated once for all orders.
    """

    def of_score(score_fn: ScoreFn) -> tuple[Array, Array]:
        def at(x: Array) -> tuple[Array, Array]:
            def of_order(p: Array) -> tuple[Array, Array]:
                return circle_flux(score_fn, x, radius=radius, p=p, n_points=n_points), p_laplacian(score_fn, x, p)

            return jax.vmap(of_order)(orders)

        return jax.tree.map(jnp.transpose, jax.lax.map(at, plane, batch_size=1024))

    both = [of_score(score_fn) for score_fn in (Partial(GaussianMixture.score, noised), learned)]
    kappa, laplacian = (jnp.stack(values) for values in zip(*both, strict=True))
    return kappa, laplacian, jax.vmap(noised.log_prob)(plane)


def _record(report: Report, kappa: np.ndarray, log_q: np.ndarray, part: Maps, sigmas: np.ndarray) -> None:
    """``maps/p…/t…/relative_error``: ∫ q |κ_learned − κ_analytic| / ∫ q |κ_analytic|, q the noised density."""
    rows = []
    for i, (t, sigma) in enumerate(zip(part.times, sigmas, strict=True)):
        weight = np.exp(log_q[i] - log_q[i].max())
        for j, p in enumerate(part.p):
            analytic, learned = kappa[i, :, j]
            error = float((weight * abs(learned - analytic)).sum() / (weight * abs(analytic)).sum())
            report.metric(f"maps/p{p:g}/t{t:g}/relative_error", error)
            rows.append({"p": p, "t": t, "sigma": sigma, "relative_error": error})
    report.table("maps", rows)
