"""Part 3: which training points has a network memorized? Planted copies in mixtures of 2, 16 and 64 dimensions.

Points are ranked by κ_p on the ball of the noise shell: centre α x₀, radius σ√d, in directions common to all points.
Four scores see them: the network trained on the planted sample; the control, trained without the planted points; the
empirical score, which has memorized every training point (upper reference, with fewer directions, whose noise tends to
lower it); the true mixture's score, which knows none of them (lower reference). The noise level is chosen on the
validation half of the points, everything is reported on the other.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import Field

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import RunConfig, Section, Target
from experiments.core.tracker import Tracker
from experiments.shared.measuring import measure
from experiments.shared.networks import at_once, named_key, trained
from plap_jax import GaussianMixture
from plap_jax._flux import FluxEstimator
from plap_jax.bootstrap import bootstrap_interval
from plap_jax.data import Planted, plant, random_mixture
from plap_jax.diffusion import Diffusion
from plap_jax.metrics import Interval, auc, tpr_at_fpr
from plap_jax.parallel import map_points
from plap_jax.typing import ScoreFn

NETWORK, CONTROL, MEMORIZER, MIXTURE = SCORES = ("network", "control", "memorizer", "mixture")
ENDS = ("auc", "low", "high")
CACHED_NUMBERS = 2**21


class Sample(Section):
    """One mixture and the sample drawn from it."""

    dim: int = Field(ge=1, description="dimension")
    n_components: int = Field(ge=1, description="Gaussians of the mixture")
    spread: float = Field(ge=0, description="standard deviation of the means, per coordinate")
    variance: float = Field(gt=0, description="within a component, per coordinate")
    copies: int = Field(ge=2, description="how often a planted point stands in the training set")
    n_planted: int = Field(ge=4, description="points that are duplicated")
    n_single: int = Field(ge=4, description="points that occur once")
    n_heldout: int = Field(ge=4, description="points that training never sees")


class PlantedConfig(Section):
    """Part 3."""

    enabled: bool = Field(description="whether this part is run")
    sigmas: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, description="noise levels that are tried")
    model: Target = Field(description="of these networks: memorizing takes more room than the plane's needs")
    train: Target = Field(description="how its networks are trained")
    n_samples: int = Field(ge=2, description="directions per ball")
    memorizer_samples: int = Field(ge=2, description="directions per ball for the empirical score, the dearest of all")
    samples: dict[str, Sample] = Field(description="by name, what is planted")


def run(config: RunConfig, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Trains, scores and reports every sample of the config, by name (d2, d16, d64)."""
    summaries, rows = [], []
    own = config.model_copy(update={"model": config.planted.model, "train": config.planted.train})
    for name, sample in config.planted.samples.items():
        mixture, points = _draw(config, name, sample)
        common = {"report": report, "cache": cache, "tracker": tracker}
        samples = {NETWORK: (*points.distinct, "planted"), CONTROL: (points.control, None, "control")}
        with ThreadPoolExecutor(at_once(len(samples))) as pool:  # one of these networks does not fill two cores
            training = {
                score: pool.submit(trained, own, data, copies=copies, name=f"{name}/{stage}", **common)
                for score, (data, copies, stage) in samples.items()
            }
        networks = {score: network.result().network for score, network in training.items()}
        with report.stage(f"planted/{name}/scoring"):
            kappa, levels = _score_all(config, name, mixture, points, networks)
        levels_of_sample, chosen = _evaluate(report, config, name, points, kappa, levels)
        summaries += levels_of_sample
        rows += _point_rows(name, points, {score: values[chosen] for score, values in kappa.items()})
        report.arrays(
            f"planted_{name}",
            dim=sample.dim,
            copies=points.copies,
            validation=points.validation,
            sigma=levels["sigma"],
            chosen=chosen,
            validation_auc=[row["validation_auc"] for row in levels_of_sample],
            **{f"kappa_{score}": values for score, values in kappa.items()},
            **{
                f"auc_{score}": [[row[f"{score}_{end}"] for end in ENDS] for row in levels_of_sample]
                for score in SCORES
            },
        )
    report.table("planted_levels", summaries)
    report.table("planted_points", rows)


def _draw(config: RunConfig, name: str, sample: Sample) -> tuple[GaussianMixture, Planted]:
    key_mixture, key_points = jax.random.split(named_key(config.seed, f"planted/{name}/data"))
    sizes = {"dim": sample.dim, "n_components": sample.n_components}
    mixture = random_mixture(key_mixture, spread=sample.spread, variance=sample.variance, **sizes)
    points = mixture.sample(key_points, sample.n_planted + sample.n_single + sample.n_heldout)
    return mixture, plant(points, doses={sample.copies: sample.n_planted}, n_single=sample.n_single)


def _score_all(
    config: RunConfig, name: str, mixture: GaussianMixture, points: Planted, networks: Mapping[str, Diffusion]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """κ_p of the points by every score, ``(n levels, n points)`` each, and the levels that the schedule has.

    NaN where the two references were not asked: validation points and single ones.
    """
    part, schedule = config.planted, networks[NETWORK].schedule
    times = [schedule.time_at(sigma) for sigma in part.sigmas]
    memorizer = GaussianMixture.empirical(points.points[points.copies > 0], _weights(points))
    key = named_key(config.seed, f"planted/{name}/directions")
    kappa: dict[str, list[np.ndarray]] = {score: [] for score in SCORES}
    for t in times:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        score_fns = {score: networks[score].score_at(t) for score in (NETWORK, CONTROL)} | {
            MEMORIZER: Partial(GaussianMixture.score, memorizer.noised(alpha, sigma)),
            MIXTURE: Partial(GaussianMixture.score, mixture.noised(alpha, sigma)),
        }
        for score, score_fn in score_fns.items():
            n = part.memorizer_samples if score == MEMORIZER else part.n_samples
            # The references only where they are reported: the memorizer costs as much as the training set is large.
            scored = np.full(len(points.points), True) if score in networks else ~points.validation & ~points.is_single
            values = np.full(len(points.points), np.nan)
            # The memorizer looks at every training point: as many of those numbers as the processor's cache holds.
            batch = max(1, CACHED_NUMBERS // (n * memorizer.means.size)) if score == MEMORIZER else 64
            values[scored] = _kappa(config, score_fn, points.points[scored], alpha, sigma, key, n, batch)
            kappa[score].append(values)
    levels = {"t": np.asarray(times), "sigma": np.asarray([float(schedule.sigma(t)) for t in times])}
    return {score: np.stack(values) for score, values in kappa.items()}, levels


def _weights(points: Planted) -> np.ndarray:
    """The share of each training point in the training set."""
    copies = points.copies[points.copies > 0]
    return copies / copies.sum()


def _kappa(
    config: RunConfig,
    score_fn: ScoreFn,
    points: np.ndarray,
    alpha: Any,
    sigma: Any,
    key: jax.Array,
    n_samples: int,
    batch: int,
) -> np.ndarray:
    centres = np.asarray(alpha * points)
    radius = sigma * np.sqrt(np.prod(centres.shape[1:]))
    p = jnp.float32(config.flux.p)
    estimator = FluxEstimator(score_fn, radius, key, p, n_samples, config.flux.directions)
    return map_points(estimator, centres, batch_size=batch).value


def _evaluate(
    report: Report,
    config: RunConfig,
    name: str,
    points: Planted,
    kappa: Mapping[str, np.ndarray],
    levels: Mapping[str, np.ndarray],
) -> tuple[list[dict[str, Any]], int]:
    """Metrics at the level that separates best on validation points; a table row per level; that level's index."""
    test = ~points.validation

    def classes(score: str, level: int, half: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = kappa[score][level]
        return values[half & points.is_planted], values[half & negative]

    on_validation = [
        float(auc(*classes(NETWORK, level, points.validation, points.is_heldout)))
        for level in range(len(levels["sigma"]))
    ]
    chosen = int(np.argmax(on_validation))

    def interval(statistic: Any, score: str, level: int = chosen, negative: np.ndarray | None = None) -> Interval:
        negative = points.is_heldout if negative is None else negative
        return bootstrap_interval(statistic, *classes(score, level, test, negative), seed=config.seed)

    report.metric(f"planted/{name}/sigma", levels["sigma"][chosen])
    report.metric(f"planted/{name}/auc", interval(auc, NETWORK))
    of_network = classes(NETWORK, chosen, test, points.is_heldout)
    measure(report, f"planted/{name}/tpr_at_1pct_fpr", tpr_at_fpr, *of_network, config.seed)
    report.metric(f"planted/{name}/auc_vs_single", interval(auc, NETWORK, negative=points.is_single))
    report.metric(f"planted/{name}/memorizer_auc", interval(auc, MEMORIZER))
    report.metric(f"planted/{name}/mixture_auc", interval(auc, MIXTURE))
    report.metric(f"control/{name}/auc", interval(auc, CONTROL))
    rows = []
    for level, (t, sigma) in enumerate(zip(levels["t"], levels["sigma"], strict=True)):
        tested = {score: interval(auc, score, level) for score in SCORES}
        row = {
            "sample": name,
            "sigma": sigma,
            "t": t,
            "chosen": level == chosen,
            "validation_auc": on_validation[level],
        }
        for score, result in tested.items():
            row |= {f"{score}_auc": result.value, f"{score}_low": result.low, f"{score}_high": result.high}
        rows.append(row)
    return rows, chosen


def _point_rows(name: str, points: Planted, kappa: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every point with its κ at the chosen level, most memorized first."""
    order = np.argsort(-kappa[NETWORK], kind="stable")
    return [
        {
            "sample": name,
            "rank": rank,
            "point": int(i),
            "copies": int(points.copies[i]),
            "half": "validation" if points.validation[i] else "test",
            **{f"kappa_{s}": None if np.isnan(values[i]) else float(values[i]) for s, values in kappa.items()},
        }
        for rank, i in enumerate(order, 1)
    ]
