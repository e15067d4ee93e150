"""Images generated step by step, and the flux of every step; the states between are not kept."""

import math
import sys
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

import plap_jax
from experiments.core.cache import Cache, code_tag, target_modules
from experiments.core.report import Report
from experiments.shared.captions import CaptionedConfig, CaptionedStudy
from experiments.shared.networks import named_key
from plap_jax.difficulty import difficulty
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions
from plap_jax.memory import points_at_once
from plap_jax.parallel import map_points
from plap_jax.sampling import DDIM, NonFiniteSampleError, guided, starting_points
from plap_jax.trajectories import flux_along
from plap_jax.typing import Array, ArrayLike, PRNGKey

STATISTICS = ("flux_p1", "flux_prompt_p1", "flux_gap_p1")  # no prompt, with the prompt, the gap between the two
CALIBRATED = "flux_p1_calibrated"  # the first with difficulty taken out
LEVELS = ("times", "alphas", "sigmas")
PARTS = {"values": "value", "stderr": "stderr"}  # of an estimate, by the name of the array


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

    keeps_foreseen: bool = field(default=False, metadata={"static": True})

    def __call__(self, index: Array, start: Array, prompt: Array) -> dict[str, Array]:
        """The i-th image, from ``start``, levels ``(N,)``, values and standard errors ``(3, N)`` of the statistics.

        With ``keeps_foreseen`` also the image that each step foresees, ``(N, *shape)``.
        """
        key = jax.random.fold_in(self.path, index)
        way = self.sampler.trajectory(guided(self.network, self.guidance), key, start, prompt)
        how = {"n_samples": self.n_samples, "directions": self.directions}
        found = flux_along(self.network, way, prompt, key=self.directions_key, **how)
        three = (found.unconditional, found.conditional, found.gap)
        kept = {name: jnp.stack([getattr(one, part) for one in three]) for name, part in PARTS.items()}
        kept |= {"foreseen": way.denoised} if self.keeps_foreseen else {}
        return kept | {"images": way.states[-1]} | {name: getattr(way, name) for name in LEVELS}


def follow(
    config: CaptionedConfig,
    study: CaptionedStudy,
    guidance: float,
    prompts: np.ndarray,
    *,
    with_difficulty: bool = False,
    report: Report,
    cache: Cache,
) -> dict[str, np.ndarray]:
    """Images ``(n, *shape)``, levels ``(N,)``, "values" and "stderr" ``(3, N, n)``; the same noise at all scales.

    With ``with_difficulty`` also "difficulty" ``(N, n, k)``, of the image that each step foresees.
    """
    sampler, flux, model = config.samples.sampler, config.flux, study.network.network

    def compute() -> dict[str, np.ndarray]:
        n, shape = len(prompts), study.images.points.shape[1:]
        starts = starting_points(model, named_key(config.seed, "trajectory/starts"), n, shape=shape)
        keys = (named_key(config.seed, f"trajectory/{purpose}") for purpose in ("path", "directions"))
        how = (sampler.make(), flux.n_samples, flux.directions, with_difficulty)
        one = Follow(model, np.float32(guidance), *keys, *how)
        size = points_at_once(math.prod(shape), 2 * flux.n_samples)
        found = map_points(one, np.arange(n), starts, prompts, batch_size=size, progress=True)
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise NonFiniteSampleError(f"trajectory, guidance {guidance:g}: {name} hold values that are not finite")
        if with_difficulty:
            foreseen = np.moveaxis(found.pop("foreseen"), 1, 0)
            found["difficulty"] = np.stack([difficulty(images) for images in foreseen])
        levels = {name: found[name][0] for name in LEVELS}  # the same for all images
        return found | levels | {name: np.moveaxis(found[name], 0, -1) for name in PARTS}

    depends_on = {
        "network": study.network.key,
        "sampler": sampler.spec,
        "prompts": prompts.tolist(),
        "guidance": guidance,
        "flux": flux.model_dump(),
        "difficulty": with_difficulty,
        "seed": config.seed,
        "code": code_tag(sys.modules[__name__], plap_jax, *target_modules(sampler.spec)),
    }
    with report.stage(f"follow/g{guidance:g}"):
        return cache.arrays(f"trajectory/g{guidance:g}", depends_on, compute)
