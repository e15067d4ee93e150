"""Images by every method at every strength, from the same noise, each set kept when it is made."""

import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

import plap_jax
from experiments.core.cache import Cache, code_tag
from experiments.core.report import Report
from experiments.mitigation.strengths import Strength, Swept
from experiments.shared.captions import CaptionedStudy
from experiments.shared.networks import named_key
from plap_jax.diffusion import Diffusion
from plap_jax.mitigation import Band, Guard, Mitigation, fewest_images, generate
from plap_jax.sampling import guided
from plap_jax.typing import require


@dataclass(frozen=True)
class Prompts:
    """The captions that images are generated for, ``(n,)`` int32 each.

    Attributes:
        memorized: of images that stand often enough in training, both halves.
        others: of the test half: shared captions, and those of images that stand once.
        band: of the validation half: all captions.
    """

    memorized: np.ndarray
    others: np.ndarray
    band: np.ndarray


def prompts_of(config: Any, study: CaptionedStudy) -> Prompts:
    """Which captions are which."""
    captions, everything = study.captions, study.prompts(config.samples.per_caption)
    memorized = np.flatnonzero(captions.copies >= config.memorized_from)
    others = everything[~captions.validation[everything] & (captions.copies[everything] <= 1)]
    often = np.repeat(memorized, config.n_memorized).astype(np.int32)
    return Prompts(often, others, everything[captions.validation[everything]])


def check_bands(methods: dict[str, Swept], prompts: Prompts) -> None:
    """Refuse a level that needs more generations than there are for validation captions, copies among them or not.

    Raises:
        ValueError: naming the method.
    """
    n = len(prompts.band)
    for name, swept in methods.items():
        for level in (
            () if swept.band is None else {swept.shares(strength)["level"]: None for strength in swept.strengths}
        ):
            allowed = f"needs {fewest_images(level)} generations that are no copies, and validation captions have {n}"
            require(n >= fewest_images(level), f"methods.{name}.band.level", level, allowed)


@dataclass(frozen=True)
class Trials:
    """Generates at one guidance scale.

    Attributes:
        config: of the experiment.
        study: images, captions and the network.
        prompts: what is generated.
        guidance: g.
        report, cache: of the run.
    """

    config: Any
    study: CaptionedStudy
    prompts: Prompts
    guidance: float
    report: Report
    cache: Cache

    @cached_property
    def model(self) -> Diffusion:
        """With guidance, where that is not 1."""
        network = self.study.network.network
        return network if self.guidance == 1 else guided(network, self.guidance)

    def made(self, role: str, name: str, strength: Strength) -> dict[str, np.ndarray]:
        """``images``, ``nfe`` and ``note_…`` of a method of the config for one of the sets of ``Prompts``."""
        swept: Swept = self.config.methods[name]
        band = None if swept.band is None else self.band(name, **swept.shares(strength))
        return self._generated(role, name, swept.make(self.config.samples.sampler.make(), strength, band))

    def band(self, name: str, level: float, release: float | None) -> Band:
        """The band of a guard, from generations for validation captions that are no copies by either label.

        Raises:
            ValueError: too few of these for the level.
        """
        swept, sampler = self.config.methods[name], self.config.samples.sampler.make()
        watching = swept.watching(sampler, self.config.seed)
        seen = self._generated("band", name, Guard(sampler, watching, restart=np.inf, nodes=watching.n_nodes))
        copies = self.config.labels.find(seen["images"], self.study.reference)
        kept = ~(copies.by_ratio | copies.by_distance)
        try:
            return watching.fitted(seen["note_kappa"][kept], level=level, release=release)
        except ValueError as error:
            raise ValueError(f"methods.{name}.band.{error}") from error

    def _generated(self, role: str, name: str, method: Mitigation) -> dict[str, np.ndarray]:
        prompts, how = getattr(self.prompts, role), {"batch_size": self.config.batch_size}
        depends_on = {
            "network": self.study.network.key,
            "method": repr(method),
            "guidance": self.guidance,
            "prompts": prompts.tolist(),
            "seed": self.config.seed,
            "code": code_tag(sys.modules[__name__], plap_jax),
            "diffrax": version("diffrax"),
        }

        def compute() -> dict[str, np.ndarray]:
            key, shape = named_key(self.config.seed, f"mitigation/{role}"), self.study.images.points.shape[1:]
            found = generate(self.model, key, len(prompts), shape=shape, method=method, conditions=prompts, **how)
            notes = {f"note_{note}": value for note, value in found.notes.items()}
            return {"images": found.image, "nfe": found.nfe} | notes

        with self.report.stage(f"generate/g{self.guidance:g}/{name}"):
            return self.cache.arrays(f"mitigation/{name}", depends_on | how, compute)
