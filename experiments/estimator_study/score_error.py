"""The error that a learned score brings, and its bound, along the training of a network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.core.report import Report
from experiments.estimator_study.convergence import columns
from experiments.estimator_study.scenes import AWAY, Learned, mixture_scene
from experiments.shared.networks import named_key
from plap_jax import GaussianMixture, flux
from plap_jax.bounds import score_error_bound
from plap_jax.typing import Array, ScoreFn

DIRECTIONS = 1024


def run(config: Any, learned: Learned, *, report: Report) -> None:
    """|κ_p(ŝ) − κ_p(s)| and E_n[b_p(ŝ, s)] over the same directions, mean over points, per snapshot and order."""
    scene = mixture_scene("plane", learned.mixture, config.seed, config.n_away)
    s = Partial(GaussianMixture.score, learned.mixture)
    points, key = jnp.asarray(scene.points, jnp.float32), named_key(config.seed, "score_error")
    rows, broken = [], 0
    with report.stage("score_error"):
        for step, network in learned.snapshots():
            for p in config.convergence.p:
                error, bound, gap = (
                    np.asarray(a) for a in _errors(s, network.score_at(learned.t), points, scene.radius, p, key)
                )
                broken += int(np.sum(error > bound * (1 + 1e-5) + 1e-6))
                for kind in dict.fromkeys(scene.kinds.tolist()):
                    of = scene.kinds == kind
                    rows.append(
                        {
                            "step": step,
                            "p": p,
                            "kind": kind,
                            "score_error": float(np.mean(gap[of])),
                            "error": float(np.mean(error[of])),
                            "bound": float(np.mean(bound[of])),
                        }
                    )
    report.table("score_error", rows)
    report.arrays("score_error", **columns(rows))
    report.metric("score_error/bounds_broken", broken)
    last = max(row["step"] for row in rows)
    for row in rows:
        if row["step"] == last and row["kind"] == AWAY:
            report.metric(f"score_error/bound_over_error/p{row['p']:g}", row["bound"] / max(row["error"], 1e-12))


@jax.jit
def _errors(s: ScoreFn, other: ScoreFn, points: Array, radius: Array, p: Array, key: Array) -> tuple[Array, ...]:
    """|κ_p(ŝ) − κ_p(s)|, its bound, and E_n|ŝ − s|, ``(n points,)`` each, all from the same directions."""
    how = {"radius": radius, "key": key, "n_samples": DIRECTIONS}

    def one(x: Array) -> tuple[Array, Array, Array]:
        difference = flux(other, x, p=p, **how).value - flux(s, x, p=p, **how).value
        # b_2 = |ŝ − s|: the bound of order 2 is the mean error of the score itself.
        bound, gap = (score_error_bound(s, other, x, p=q, **how).value for q in (p, 2.0))
        return jnp.abs(difference), bound, gap

    return jax.vmap(one)(points)
