"""Error against the number of evaluations, and how often the intervals cover: every method, score and order."""

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import AfterValidator, Field
from scipy import stats

from experiments.core.report import Report
from experiments.core.schema import Section
from experiments.estimator_study.methods import (
    BOUNDARY,
    PLAIN,
    POINTWISE,
    VOLUME,
    StudiedEstimator,
    chosen,
    fits,
    pointwise_exact,
    references,
    repeated,
)
from experiments.estimator_study.scenes import AWAY, HELDOUT, Scene
from experiments.shared.networks import named_key
from plap_jax.bounds import sampling_bound
from plap_jax.metrics import proportion_interval
from plap_jax.typing import Estimate

# The bounds that are drawn may fail in a share DELTA of cases.
DELTA = 0.05
# An error below it is none of the estimator, but rounding.
ROUNDING = 1e-6


def _distinct(values: list[Any]) -> list[Any]:
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]  # as in those of metrics
    if len(set(names)) < len(names):
        raise ValueError("must not repeat a value")
    return values


T = TypeVar("T")
Distinct = Annotated[list[T], AfterValidator(_distinct)]


class Convergence(Section):
    """Numbers of directions, ball points and probes."""

    n_directions: Distinct[int] = Field(min_length=2, description="along which the error is followed")
    n_points: Distinct[Annotated[int, Field(ge=2)]] = Field(min_length=1, description="of the ball, for the volume")
    n_probes: Distinct[Annotated[int, Field(ge=2)]] = Field(min_length=1, description="of the trace")
    max_evaluations: int = Field(ge=1, description="per estimate; what costs more is left out")
    repeats: int = Field(ge=8, description="estimates for each error")
    p: Distinct[Annotated[float, Field(ge=1)]] = Field(min_length=1, description="orders")


def run(config: Any, scenes: list[Scene], *, report: Report) -> list[dict[str, Any]]:
    """Rows (score, kind of point, p, family, method, n, …), saved as ``arrays/convergence.npz`` and a table."""
    rows = []
    for scene in scenes:
        rows += _of_scene(config, scene, report)
        jax.clear_caches()  # hundreds of compiled programs would exhaust the memory maps of a process
    report.table("convergence", rows, kinds=("csv",))
    report.arrays("convergence", **columns(rows))
    for key, (value, reason) in sorted((_slopes(rows) | _tightness(rows)).items()):
        report.metric(key, value, reason)
    return rows


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of equal keys as one array per column."""
    return {key: np.asarray([row[key] for row in rows]) for key in rows[0]}


def _of_scene(config: Any, scene: Scene, report: Report) -> Iterator[dict[str, Any]]:
    part = config.convergence
    numbers = {"boundary": part.n_directions, "volume": part.n_points, "pointwise": part.n_probes}
    orders = tuple(part.p)
    kinds = list(dict.fromkeys(scene.kinds.tolist()))
    points = np.concatenate([scene.of_kind(kind, 1) for kind in kinds])
    with report.stage(f"convergence/{scene.name}"):
        truth, uncertain = references(scene, points, orders, named_key(config.seed, f"reference/{scene.name}"))
        exact = np.asarray(
            pointwise_exact(Partial(scene.score_fn), jnp.asarray(points, jnp.float32), jnp.asarray(orders))
        )
        for method in chosen(config.methods, (*BOUNDARY, *VOLUME, *POINTWISE)):
            of = exact if method.family == "pointwise" else truth
            for n in numbers[method.family]:
                cost = method.cost(n, scene.dim)
                if cost > part.max_evaluations or not fits(method, n):
                    continue
                # Equal names of directions, equal directions: methods differ by what they do with them.
                key = named_key(config.seed, f"convergence/{scene.name}/{method.family}/{n}")
                found = repeated(method, scene, points, orders, key, n, part.repeats)
                common = {"score": scene.name, "d": scene.dim, "family": method.family, "method": method.name, "n": n}
                for (i, p), (j, kind) in ((a, b) for a in enumerate(orders) for b in enumerate(kinds)):
                    one = jax.tree.map(lambda a, i=i, j=j, s=found.value.shape: np.broadcast_to(a, s)[:, i, j], found)
                    if method.family == "pointwise" and kind not in (AWAY, HELDOUT):
                        continue  # Δ_p u is singular at critical points for p < 2
                    yield (
                        common
                        | {"kind": kind, "p": p, "evaluations": cost}
                        | _row(method, one, of[i, j], uncertain[i, j] if of is truth else 0.0, p)
                    )


def _row(method: StudiedEstimator, found: Estimate, truth: float, uncertain: float, p: float) -> dict[str, Any]:
    """Errors of the repeats of one estimate; the interval of their root mean square is that of normal errors (χ²).

    It is too narrow where errors have heavy tails: for the volume about modes and between them.
    """
    errors = found.value - truth
    m = len(errors)
    rmse = float(np.sqrt(np.mean(errors**2)))
    low, high = (rmse * np.sqrt(m / stats.chi2.ppf(q, m)) for q in (0.975, 0.025))
    lower, upper = found.interval(0.95)
    covered = proportion_interval(int(np.sum((lower <= truth) & (truth <= upper))), m)
    # The theorem is about independent units in [−1, 1].
    bounded = method.family == "boundary" and p == 1
    bound = float(np.median(sampling_bound(found, DELTA))) if bounded else np.nan
    return {
        "truth": float(truth),
        "truth_stderr": float(uncertain),
        "rmse": rmse,
        "rmse_low": float(low),
        "rmse_high": float(high),
        "stderr": float(np.sqrt(np.mean(np.asarray(found.stderr, float) ** 2))),
        "n_units": int(found.n_units[0]),
        "coverage": covered.value,
        "coverage_low": covered.low,
        "coverage_high": covered.high,
        "quantile": float(np.quantile(np.abs(errors), 1 - DELTA)),
        "bound": bound,
    }


def _slopes(rows: list[dict[str, Any]]) -> dict[str, tuple[float | None, str | None]]:
    """d log(rmse)/d log(evaluations) of plain directions at points off the modes: −½ for Monte Carlo."""
    found = {}
    wanted = [row for row in rows if row["method"] == PLAIN and row["kind"] in (AWAY, HELDOUT)]
    for key in dict.fromkeys((row["score"], row["p"]) for row in wanted):
        line = [row for row in wanted if (row["score"], row["p"]) == key]
        found[f"slope/{slug(key[0])}/p{key[1]:g}"] = log_slope(line, "evaluations", "rmse")
    return found


def log_slope(rows: list[dict[str, Any]], x: str, y: str) -> tuple[float | None, str | None]:
    """d log(y)/d log(x) by least squares, over the rows whose y is more than rounding; or why there is none."""
    told = np.log([(row[x], row[y]) for row in rows if row[y] > ROUNDING]).reshape(-1, 2)
    if len(np.unique(told[:, 0])) < 2:
        return None, f"fewer than two {x} with an error but rounding"
    return float(np.polyfit(*told.T, 1)[0]), None


def _tightness(rows: list[dict[str, Any]]) -> dict[str, tuple[float | None, str | None]]:
    """Bound at δ = 5 % over the 95 % quantile of the error, plain directions, p = 1, the most directions."""
    found = {}
    wanted = [row for row in rows if row["method"] == PLAIN and row["p"] == 1]
    for row in wanted:
        if row["n"] == max(r["n"] for r in wanted):
            name = f"bound_over_error/{slug(row['score'])}/{slug(row['kind'])}"
            none = row["quantile"] <= ROUNDING
            ratio = None if none else row["bound"] / row["quantile"]
            found[name] = ratio, "the estimate has no error there but rounding" if none else None
    return found


def slug(text: str) -> str:
    """A name for a metric: lower case, words joined by _."""
    return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
