"""Images in chunks, each kept when it is made, so that a run that was killed goes on."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

import plap_jax
from experiments.core.cache import Cache, code_tag
from experiments.core.report import Report
from experiments.shared.networks import named_key
from plap_jax.audit.denoising import Denoising, denoising
from plap_jax.audit.images import Memory, Pictures, read_all
from plap_jax.audit.prompts import is_file, listed_prompts, read_prompts
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.sources import open_source
from plap_jax.audit.store import Surroundings
from plap_jax.audit.subject import Subject
from plap_jax.data.duplicates import groups
from plap_jax.diffusion import Diffusion
from plap_jax.labels import Copies
from plap_jax.metrics import proportion_interval
from plap_jax.mitigation import Mitigation, generate
from plap_jax.sampling import guided
from plap_jax.typing import require

log = logging.getLogger(__name__)
NOTE = "note_"
MANY_LEFT = 0.1  # of the images
# The strength that a note is held against, and the steps that were taken for it.
CHANGES = {
    "mitigation.target": ("prompt_steps", "gap_before"),
    "mitigation.threshold": ("noise_steps", "loss_before"),
}


@dataclass(frozen=True)
class Made:
    """Images and what is known of each.

    Attributes:
        arrays: ``images``, ``points`` (what the model works on, where these are latents), ``nfe``, and a column
            ``note_…`` for each note of the method; leading axis n.
        prompts: one each, or None.
    """

    arrays: dict[str, np.ndarray]
    prompts: list[str] | list[int] | None

    @property
    def notes(self) -> dict[str, np.ndarray]:
        """Of the method."""
        return {name.removeprefix(NOTE): a for name, a in self.arrays.items() if name.startswith(NOTE)}

    def metrics(self, copied: Copies | None = None) -> dict[str, Any]:
        """Numbers over all images."""
        n, notes = len(self.arrays["images"]), self.notes
        found: dict[str, Any] = {"images": n, "nfe": float(self.arrays["nfe"].mean())}
        if copied is not None:
            found["copies"] = proportion_interval(int(copied.by_ratio.sum()), n)
            found["copies_by_distance"] = proportion_interval(int(copied.by_distance.sum()), n)
        if "renoised" in notes:
            found["renoised"] = proportion_interval(int((notes["renoised"] > 0).sum()), n)
            found["left_outside"] = proportion_interval(int(notes["outside"].sum()), n)
        return found

    def lines(self, copied: Copies | None = None) -> list[str]:
        """For the terminal."""
        n, notes = len(self.arrays["images"]), self.notes
        told = [f"{self.arrays['nfe'].mean():.1f} evaluations of the network for an image"]
        if copied is not None:
            by_ratio, by_distance = int(copied.by_ratio.sum()), int(copied.by_distance.sum())
            told.append(f"{by_ratio} of {n} are copies of training images by ratio, {by_distance} by distance")
        if "renoised" in notes:
            again, left = int((notes["renoised"] > 0).sum()), int(notes["outside"].sum())
            told.append(f"{again} of {n} were noised again, {left} are outside of the band even so")
            if left > MANY_LEFT * n:
                told.append("many are left outside: a larger mitigation.restart leads further (docs/mitigation.md)")
        for key, (steps, before) in CHANGES.items():
            if steps in notes and not notes[steps].any():
                middle = float(np.median(notes[before]))
                told.append(f"nothing was changed: the median of {before} is {middle:.2g}, and {key} is above that")
        return told


@dataclass(frozen=True)
class Maker:
    """Generates with the model of a config.

    Attributes:
        config: of the experiment.
        subject: the model.
        report, cache: of the run.
    """

    config: Any
    subject: Subject
    report: Report
    cache: Cache

    def prompts(self, given: str | int | None, n: int) -> list[str] | list[int] | None:
        """One for each of n images, or None."""
        if given is None:
            return None
        if is_file(given):
            return listed_prompts("prompts", str(given), n, self.subject)
        return read_prompts("prompts", given, [""] * n, set(), self.subject).prompts

    def diffusion(self, given: str | int | None) -> Diffusion:
        """The model as it is asked: with guidance where there are prompts."""
        diffusion, guidance = self.subject.model.diffusion, self.config.guidance
        return diffusion if given is None or guidance == 1 else guided(diffusion, guidance)

    @cached_property
    def key(self) -> str:
        """What tells the generations of this model, sampler and guidance from others, beside prompts and seed."""
        return self.subject.key

    @cached_property
    def training(self) -> np.ndarray | None:
        """The distinct training images of the config; None where none are given.

        Raises:
            ValueError: fewer than two that fit the model.
        """
        given, shape = self.config.band, self.subject.model.image_shape
        if given.training is None:
            return None
        found, _, skipped = read_all(open_source("band.training", given.training, shape, "center-crop", None))
        why = "".join(f" ({name}: {reason})" for name, reason in skipped[:1])
        require(len(found) >= 2, "band.training", given.training, f"must hold at least two images that fit{why}")
        return found[np.unique(groups(found, given.duplicate_distance))]

    @cached_property
    def denoising(self) -> Denoising | None:
        """Whether the model denoises the training images; None where none are given, or it takes prompts alone."""
        if self.training is None:
            return None
        pictures, key = Pictures(Memory(self.training)), named_key(self.config.seed, "denoising")
        return denoising(self.subject, pictures, AuditSettings(), key, Surroundings())

    def _warn(self) -> None:
        """Once, before anything is generated, where the model fails at the training images."""
        if self.config.band.training is not None and "denoising" not in vars(self):
            with self.report.stage("denoising"):
                found = self.denoising
            if found is not None and found.warning is not None:
                log.warning("  %s", found.warning.replace("audited", "training"))

    def copies(self, images: np.ndarray) -> Copies | None:
        """Which of these images are copies of training images; None where none are given."""
        return None if self.training is None else self.config.band.labels.find(images, self.training)

    def make(self, name: str, n: int, method: Mitigation, given: str | int | None) -> Made:
        """n images by a method, in chunks; with the name as the randomness."""
        self._warn()
        prompts = self.prompts(given, n)
        model, conditions = self.subject.model, None
        if prompts is not None and self.subject.takes_text:
            known = sorted(set(prompts))
            model, conditions = model.with_prompts(known), np.asarray([known.index(text) for text in prompts])
        elif prompts is not None:
            conditions = np.asarray(prompts, np.int32)
        guidance = self.config.guidance
        diffusion = model.diffusion if prompts is None or guidance == 1 else guided(model.diffusion, guidance)
        key = named_key(self.config.seed, f"generate/{name}")
        depends_on = {
            "model": self.key,
            "method": repr(method),
            "guidance": guidance if prompts is not None else None,
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "known": known if prompts is not None and self.subject.takes_text else None,
            "code": code_tag(sys.modules[__name__], plap_jax),
            "diffrax": version("diffrax"),
        }
        parts, chunk = [], self.config.chunk
        with self.report.stage(f"generate/{name}"):
            for first in range(0, n, chunk):
                size = min(chunk, n - first)
                part = None if conditions is None else conditions[first : first + size]

                def compute(first: int = first, size: int = size, part: Any = part) -> dict[str, np.ndarray]:
                    how = {"shape": model.shape, "method": method, "batch_size": self.config.batch_size}
                    found = generate(diffusion, key, size, conditions=part, first=first, progress=True, **how)
                    latent = {} if model.kind == "pixels" else {"points": found.image}
                    notes = {f"{NOTE}{note}": value for note, value in found.notes.items()}
                    return {"images": model.decode(found.image), "nfe": found.nfe} | latent | notes

                own = {"first": first, "n": size, "prompts": None if part is None else part.tolist()}
                parts.append(self.cache.arrays(f"generate/{name}", depends_on | own, compute))
        return Made({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, prompts)


def table_of(made: Made, copied: Copies | None = None) -> list[dict[str, Any]]:
    """A row for each image: its file, its prompt, evaluations, what was done, and whether it is a copy."""
    rows = []
    for i in range(len(made.arrays["images"])):
        row: dict[str, Any] = {"file": file_name(i)}
        if made.prompts is not None:
            row["prompt"] = made.prompts[i]
        row["nfe"] = int(made.arrays["nfe"][i])
        if copied is not None:
            row |= {"copy": int(copied.by_ratio[i]), "copy_ratio": _plain(copied.ratio[i])}
        for name, values in made.notes.items():
            value = values[i]
            if value.ndim:
                row |= {f"{name}_{k}": _plain(one) for k, one in enumerate(value)}
            else:
                row[name] = _plain(value)
        rows.append(row)
    return rows


def file_name(i: int) -> str:
    """Of the i-th image."""
    return f"{i:05d}.png"


def _plain(value: Any) -> Any:
    value = value.item()
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return int(value) if isinstance(value, bool) else value  # as in the table of an audit


@contextmanager
def prefixed(key: str, *, only: bool = True) -> Iterator[None]:
    """A complaint of the library is told under the key of the config.

    Args:
        key: of the config.
        only: the argument that it names stands right below this key.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}.{error}" if only else f"{key}: {error}") from error
