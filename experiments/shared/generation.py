"""Generated images, from the cache when they are there, and what they are copies of."""

import sys
import time
from collections.abc import Mapping
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import Field

import plap_jax
from experiments.core.cache import Cache, code_tag, target_modules
from experiments.core.report import Report
from experiments.core.schema import Section, Target
from experiments.shared.networks import Trained, named_key
from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.labels import Copies, find_copies
from plap_jax.sampling import guided, sample, starting_points
from plap_jax.typing import Array


class Labels(Section):
    """What counts as a copy."""

    max_ratio: float = Field(gt=0, le=1, description="d₁/d₂ below it: a copy")
    max_distance: float = Field(gt=0, description="d₁/√d below it: a copy by absolute distance")

    def find(self, images: np.ndarray, reference: np.ndarray) -> Copies:
        """Which ``images`` are copies of training images, each of which stands once in ``reference``."""
        return find_copies(images, reference, max_ratio=self.max_ratio, max_distance=self.max_distance)


def check_sampler(sampler: Target, schedule: Schedule) -> None:
    """A sampler that this schedule does not have is refused now: traced, nothing is computed.

    Raises:
        ValueError: naming ``samples.sampler``.
    """
    try:
        made = sampler.make()
    except ValueError:
        return  # refused by name
    diffusion = Diffusion(Partial(_nothing), schedule)
    try:
        jax.eval_shape(made, diffusion, jax.random.key(0), jnp.zeros(2))
    except ValueError as error:
        raise ValueError(f"samples.sampler.{error}") from error


def _nothing(x: Array, level: Array, condition: Array | None = None) -> Array:
    return x


def generate(
    trained: Trained,
    n: int,
    *,
    shape: tuple[int, ...],
    sampler: Target,
    seed: int,
    name: str,
    report: Report,
    cache: Cache,
    conditions: np.ndarray | None = None,
    guidance: float = 1.0,
    noise: str | None = None,
) -> dict[str, np.ndarray]:
    """``n`` images and the noise they start from, ``(n, *shape)`` each, as "images" and "noise".

    Args:
        trained: the network.
        n, shape: how many images of which shape.
        sampler: how.
        seed: with ``noise`` the randomness.
        name: of the stage.
        report, cache: of the run.
        conditions: ``(n,)`` integers, or None.
        guidance: g; 1 is the network as it was trained.
        noise: names the randomness, where stages share it; None: the name of the stage.
    """
    depends_on: Mapping = {
        "network": trained.key,
        "sampler": sampler.spec,
        "n": n,
        "seed": seed,
        "noise": noise or name,
        "conditions": None if conditions is None else conditions.tolist(),
        "guidance": guidance,
        "code": code_tag(sys.modules[__name__], plap_jax, *target_modules(sampler.spec)),
        "diffrax": version("diffrax"),
    }

    def compute() -> dict[str, np.ndarray]:
        started = time.perf_counter()
        key = named_key(seed, f"samples/{noise or name}")
        network = trained.network if guidance == 1 else guided(trained.network, guidance)
        images = sample(network, key, n, shape=shape, sampler=sampler.make(), conditions=conditions, progress=True)
        report.rate(f"samples/{name}", n, time.perf_counter() - started)
        return {"images": images, "noise": starting_points(network, key, n, shape=shape)}

    with report.stage(f"sample/{name}"):
        return cache.arrays(f"samples/{name}", depends_on, compute)
