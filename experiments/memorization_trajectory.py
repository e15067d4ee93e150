"""Flux along generation: ``python -m experiments.run +exp=memorization_trajectory``.

A caption-conditioned network generates images step by step. At each step κ_1 without and with the prompt, and κ^Δ, are
taken around the image that the step foresees, at the step's own noise level (Brokman et al., NeurIPS 2025 workshop):
how early can one tell which images end as copies of training images? Nothing is chosen here, neither a noise level nor
a step, so that all captions are reported and none are set aside for validation.
"""

import math
import pkgutil
import sys
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import model_validator

import plap_jax
from experiments.cache import Cache, code_tag, target_modules
from experiments.captioned import CaptionedConfig, Study, prepare
from experiments.networks import named_key
from experiments.report import Report
from experiments.schema import checked_as
from experiments.tracker import Tracker
from plap_jax.bootstrap import cluster_weights, fewest_clusters, percentile_interval, weighted_auc
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions, unit_size
from plap_jax.metrics import Interval, auc, proportion_interval
from plap_jax.parallel import map_points
from plap_jax.sampling import DDIM, NonFiniteSampleError, guided, starting_points
from plap_jax.trajectories import flux_along
from plap_jax.typing import Array, ArrayLike, PRNGKey, require

STATISTICS = ("flux_p1", "flux_prompt_p1", "flux_gap_p1")  # no prompt, with the prompt, the gap between the two
SHARES = (10, 25, 50, 75, 100)  # per cent of the steps done
EARLY = 0.9
FEWEST = 2  # images, and captions, of each class
EVALUATIONS = 4096  # of the network at a time: bounds the memory


class Config(CaptionedConfig):
    """The config of this experiment."""

    @model_validator(mode="after")
    def _can_be_followed(self) -> "Config":
        target = self.samples.sampler.spec["_target_"]
        require(pkgutil.resolve_name(target) is DDIM, "samples.sampler", target, "must be ddim, which keeps its steps")
        require(self.flux.p == 1, "flux.p", self.flux.p, "must be 1 here")
        require(self.flux.radius is None, "flux.radius", self.flux.radius, "must be null: it falls with the noise")
        n = self.flux.n_samples
        checked_as("flux.n_samples", n, unit_size, self.flux.directions, n, 2**30)
        return self


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Follow:
    """Generates one image and keeps the flux of every step; guidance and keys are data."""

    network: Diffusion
    guidance: ArrayLike
    path: PRNGKey
    directions_key: PRNGKey
    sampler: DDIM = field(metadata={"static": True})
    n_samples: int = field(metadata={"static": True})
    directions: Directions = field(metadata={"static": True})

    def __call__(self, index: Array, start: Array, prompt: Array) -> dict[str, Array]:
        """The i-th image from ``start``: the image, levels ``(N,)``, values and standard errors ``(3, N)``."""
        key = jax.random.fold_in(self.path, index)
        way = self.sampler.trajectory(guided(self.network, self.guidance), key, start, prompt)
        how = {"n_samples": self.n_samples, "directions": self.directions}
        found = flux_along(self.network, way, prompt, key=self.directions_key, **how)
        three = (found.without, found.given, found.gap)
        return {
            "images": way.states[-1],
            "times": way.times,
            "alphas": way.alphas,
            "sigmas": way.sigmas,
            "values": jnp.stack([one.value for one in three]),
            "stderr": jnp.stack([one.stderr for one in three]),
        }


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Train, generate and follow at every guidance scale, label the images that come out, measure step by step."""
    study = prepare(config, report=report, cache=cache, tracker=tracker)
    numbers = [config.samples.per_caption[kind] for kind in study.captions.kind.tolist()]
    prompts = np.repeat(np.arange(len(numbers)), numbers).astype(np.int32)
    rows, arrays = [], {"statistics": np.asarray(STATISTICS), "guidance": np.asarray(config.samples.guidance)}
    arrays |= {"prompts": prompts, "copies_of_caption": study.captions.copies[prompts]}
    for guidance in config.samples.guidance:
        name = f"g{guidance:g}"
        found = follow(config, study, guidance, prompts, report=report, cache=cache)
        with report.stage("label"):
            copies = config.labels.find(found["images"], study.reference)
        is_copy = copies.by_ratio
        report.metric(f"trajectory/{name}/copy_fraction", proportion_interval(int(is_copy.sum()), len(is_copy)))
        with report.stage("evaluate"):
            measured = measure(found["values"], is_copy, prompts, config.seed)
            summarize(name, measured, report)
            rows += table(guidance, found, measured, is_copy)
            kept = {"is_copy": is_copy, "ratio": copies.ratio, "distance": copies.distance} | found
            kept |= {"bands_copies": bands(found["values"], is_copy), "bands_others": bands(found["values"], ~is_copy)}
            if not isinstance(measured, str):
                kept["auc"] = np.asarray([[(one.value, one.low, one.high) for one in line] for line in measured])
            arrays |= {f"{name}/{key}": value for key, value in kept.items()}
    report.table("trajectory", rows, kinds=("csv", "md"))
    report.arrays("trajectory", **arrays)


def follow(
    config: Config, study: Study, guidance: float, prompts: np.ndarray, *, report: Report, cache: Cache
) -> dict[str, np.ndarray]:
    """Images ``(n, *shape)``, levels ``(N,)``, "values" and "stderr" ``(3, N, n)``; the same noise at all scales."""
    sampler, flux, model = config.samples.sampler, config.flux, study.network.network

    def compute() -> dict[str, np.ndarray]:
        n, shape = len(prompts), study.images.points.shape[1:]
        starts = starting_points(model, named_key(config.seed, "trajectory/starts"), n, shape=shape)
        keys = (named_key(config.seed, f"trajectory/{purpose}") for purpose in ("path", "directions"))
        one = Follow(model, np.float32(guidance), *keys, sampler.make(), flux.n_samples, flux.directions)
        size = max(1, EVALUATIONS // (2 * flux.n_samples))
        found = map_points(one, np.arange(n), starts, prompts, batch_size=size, progress=True)
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise NonFiniteSampleError(f"trajectory, guidance {guidance:g}: {name} hold values that are not finite")
        levels = {name: found[name][0] for name in ("times", "alphas", "sigmas")}  # the same for all images
        return found | levels | {name: np.moveaxis(found[name], 0, -1) for name in ("values", "stderr")}

    depends_on = {
        "network": study.network.key,
        "sampler": sampler.spec,
        "prompts": prompts.tolist(),
        "guidance": guidance,
        "flux": flux.model_dump(),
        "seed": config.seed,
        "code": code_tag(sys.modules[__name__], plap_jax, *target_modules(sampler.spec)),
    }
    with report.stage(f"follow/g{guidance:g}"):
        return cache.arrays(f"trajectory/g{guidance:g}", depends_on, compute)


def measure(values: np.ndarray, is_copy: np.ndarray, prompts: np.ndarray, seed: int) -> list[list[Interval]] | str:
    """AUC of each statistic at each step, ``(3, N)`` intervals over captions; or why there is nothing to measure."""
    for name, members in (("copies", is_copy), ("others", ~is_copy)):
        n, captions = int(members.sum()), len(np.unique(prompts[members]))
        if min(n, captions) < FEWEST:
            return f"{n} {name} of {captions} caption(s), at least {FEWEST} needed"
    weights = cluster_weights(prompts, is_copy, seed=seed)
    n, trials = len(np.unique(prompts)), fewest_clusters(prompts, is_copy)
    value, resampled = auc(values[..., is_copy], values[..., ~is_copy]), weighted_auc(values, is_copy, weights)
    return [
        [percentile_interval(*step, n, trials=trials) for step in zip(*line, strict=True)]
        for line in zip(value, resampled, strict=True)
    ]


def summarize(name: str, measured: list[list[Interval]] | str, report: Report) -> None:
    """The AUC when some share of the steps is done, and how many are done when it first exceeds ``EARLY``."""
    for i, statistic in enumerate(STATISTICS):
        prefix = f"trajectory/{name}/{statistic}"
        first = f"{prefix}/first_step_auc_above_{EARLY:g}"
        if isinstance(measured, str):
            for key in [*(f"{prefix}/auc_at_{share}pct" for share in SHARES), first]:
                report.metric(key, None, measured)
            continue
        n_steps = len(measured[i])
        for share in SHARES:
            report.metric(f"{prefix}/auc_at_{share}pct", measured[i][math.ceil(share * n_steps / 100) - 1])
        above = [step + 1 for step, one in enumerate(measured[i]) if one.value > EARLY]
        reason = None if above else f"the AUC is at most {max(one.value for one in measured[i]):.3f}"
        report.metric(first, above[0] / n_steps if above else None, reason)


def table(guidance: float, found: dict, measured: list[list[Interval]] | str, is_copy: np.ndarray) -> list[dict]:
    """A row for each statistic and step; empty cells where a class is empty."""
    rows = []
    for i, statistic in enumerate(STATISTICS):
        for step, values in enumerate(found["values"][i]):
            row = {"guidance": guidance, "statistic": statistic, "step": step + 1}
            row |= {"share": (step + 1) / len(found["times"]), "sigma": float(found["sigmas"][step])}
            one = None if isinstance(measured, str) else measured[i][step]
            row |= {"auc": one and one.value, "auc_low": one and one.low, "auc_high": one and one.high}
            for name, members in (("copies", is_copy), ("others", ~is_copy)):
                row[f"mean_{name}"] = float(values[members].mean()) if members.any() else None
            rows.append(row)
    return rows


def bands(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Mean, 10 % and 90 % quantile of the images of one class, ``(3, N, 3)``; NaN where there are none."""
    if not members.any():
        return np.full((*values.shape[:2], 3), np.nan)
    chosen = values[..., members]
    return np.stack([chosen.mean(axis=-1), *np.quantile(chosen, [0.1, 0.9], axis=-1)], axis=-1)
