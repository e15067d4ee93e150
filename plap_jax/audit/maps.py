"""Which pixels of a flagged image the model's density is peaked at: curvature maps, made once the verdict is known."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from plap_jax.audit.asking import Asked
from plap_jax.audit.evaluator import Columns, Evaluator, named_key
from plap_jax.audit.images import Pictures, Source, Subset, digests_of
from plap_jax.audit.settings import WITH_PROMPT, AuditSettings, Score
from plap_jax.audit.store import Surroundings
from plap_jax.audit.stream import DIGEST, INDEX, Scored, score_all
from plap_jax.audit.subject import Held
from plap_jax.audit.verdict import Verdict
from plap_jax.audit.words import listed
from plap_jax.curvature_map import map_of_units, map_units
from plap_jax.data.images import UnusableImage
from plap_jax.diffusion import Diffusion
from plap_jax.directions import sample_directions
from plap_jax.evidence import COST, Kind, field_at, times_of
from plap_jax.typing import Array, ArrayLike, PRNGKey

log = logging.getLogger(__name__)
MOST = 2000  # images, as many as a page has rows
NUMBERS = 2**27  # that are held of each model: 512 MiB
UNITS, VALUE, STDERR = "units", "value", "map_stderr"


@dataclass(frozen=True)
class CurvatureMaps:
    """Curvature maps of k flagged images (``plap_jax.curvature_map``), in directions that no score was made of.

    Attributes:
        rows: ``(k,)`` places of the images among the audited ones, ascending.
        value, stderr: ``(k, h, w)`` of the model's grid, all channels of a cell together; with a baseline the
            difference to its map.
        levels: noise levels of which it is the mean.
        n_directions: of each image, at all levels together.
        n_flagged: images that are flagged.
        nfe: evaluations of the model for an image, and as many of a baseline.
        spent: all evaluations, of both models, with those that only filled batches up.
        of_difference: a baseline's map is subtracted.
        of_latents: the grid is that of latents, not of pixels.
        image_shape: ``(H, W)`` of the images.
    """

    rows: np.ndarray
    value: np.ndarray
    stderr: np.ndarray
    levels: tuple[float, ...]
    n_directions: int
    n_flagged: int
    nfe: int
    spent: float
    of_difference: bool
    of_latents: bool
    image_shape: tuple[int, int]

    @cached_property
    def places(self) -> dict[int, int]:
        """Place among the audited images ↦ place here."""
        return {row: k for k, row in enumerate(self.rows.tolist())}

    @property
    def words(self) -> str:
        """What was made, for a reader."""
        n, grid = len(self.rows), "×".join(map(str, self.value.shape[1:]))
        of_all = f"all {n} flagged images" if n == self.n_flagged else f"{n} of {self.n_flagged} flagged images"
        told = f"{of_all}; {self.n_directions} further directions each, σ = {listed(self.levels)}"
        return f"{told}; {grid} {'latent cells' if self.of_latents else 'pixels'}; {self.spent:,.0f} evaluations"

    def arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """For a file: maps, their standard errors, and of which images, by place and by name."""
        found = {"curvature_map": self.value, "curvature_map_stderr": self.stderr, "curvature_map_index": self.rows}
        return found | {"curvature_map_names": np.asarray([names[i] for i in self.rows.tolist()], str)}

    def save(self, path: str | os.PathLike, names: Sequence[str]) -> None:
        """``arrays`` and the noise levels as an ``.npz``."""
        with Path(path).open("wb") as stream:
            np.savez_compressed(stream, **self.arrays(names), noise_levels=np.asarray(self.levels))


def maps_by_image(maps: CurvatureMaps | None, name: Literal["value", "stderr"], n: int) -> list[np.ndarray | None]:
    """Maps, or their standard errors, of n audited images; None for those without."""
    values = () if maps is None else getattr(maps, name)
    return [values[maps.places[i]] if maps is not None and i in maps.places else None for i in range(n)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TermsAt:
    """Image, and its prompt where there is one ↦ ``map_units`` at one noise level, ``(m, h, w)``; counts are static."""

    model: Diffusion
    t: ArrayLike
    key: PRNGKey
    kind: Kind = field(metadata={"static": True})
    n_samples: int = field(metadata={"static": True})

    def __call__(self, image: Array, prompt: Array | None = None) -> Array:
        """The terms alone: their weights are the same for all images."""
        centre, radius = self.model.ball(image, self.t)
        how = {"radius": radius, "key": self.key, "n_samples": self.n_samples, "channels": True}
        return map_units(field_at(self.model, self.t, self.kind, prompt), centre, **how)[0]


@dataclass(frozen=True)
class Mapper(Evaluator):
    """Asks one model for the maps of images, in directions that images and models share, anew at each noise level.

    Attributes:
        kind: κ₁ without a prompt, given it, or κ^Δ.
        levels: of the calibrated score.
        sigma: in their place, one level of the model.
        keeps: every direction is kept, for the difference to another model.
        n_images: batches are no larger than for so many, which may be few, and would be filled up.
    """

    kind: Kind
    levels: tuple[float, ...]
    sigma: float | None
    keeps: bool
    n_images: int

    @cached_property
    def times(self) -> dict[float, Array]:
        """Noise level ↦ time."""
        model = self.subject.model
        schedule = model.diffusion.schedule
        if self.sigma is not None:
            return {self.sigma: schedule.time_at(self.sigma)}
        return times_of(schedule, self.levels, model.unit)

    @property
    def n_samples(self) -> int:
        """Directions at each level: an equal share of all, at least two."""
        return max(2, self.settings.maps // max(1, len(self.times)))

    @property
    def how(self) -> Mapping[str, Any]:
        """All that the maps depend on beside images, prompts and code; JSON-able."""
        times = [float(t) for t in self.times.values()]
        return self.identity | {"n_samples": self.n_samples, "times": times, "kind": self.kind, "keeps": self.keeps}

    @property
    def _most(self) -> int:
        return max(1, min(super()._most, 2 * self.n_images))

    @property
    def cost(self) -> int:
        """All directions at one level."""
        return COST[self.kind] * self.n_samples

    def columns(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> Columns:
        """``units`` ``(n, L m, h, w)``, or of these ``value`` and ``map_stderr`` ``(n, h, w)``; ``nfe``, ``spent``."""
        rows = (points,) if numbers is None else (points, numbers)
        found, computed = [], 0.0
        for key, t in zip(self._keys, self.times.values(), strict=True):
            values, share = self.in_batches(TermsAt(model, t, key, self.kind, self.n_samples), *rows)
            found.append(values)
            computed += share
        n, units = len(points), np.concatenate(found, axis=1)
        told = {UNITS: units} if self.keeps else self.mapped(units)
        return told | {"nfe": np.full(n, self.cost * len(found)), "spent": np.full(n, self.cost * computed)}

    def mapped(self, units: np.ndarray) -> Columns:
        """``value`` and ``map_stderr`` of units of n images, ``(n, h, w)`` both."""
        shape = self.subject.model.shape
        drawn = np.concatenate([sample_directions(key, self.n_samples, shape) for key in self._keys])
        weight = np.sum(np.square(drawn).reshape(-1, 1, *shape), axis=-1)
        found = map_of_units(np.moveaxis(units, 1, 0), weight, strata=len(self.times))
        return {VALUE: np.asarray(found.value), STDERR: np.asarray(found.stderr)}

    @property
    def _keys(self) -> list[PRNGKey]:
        return [jax.random.fold_in(self.key, i) for i in range(len(self.times))]


def curvature_maps(
    held: Held,
    baseline: Held | None,
    settings: AuditSettings,
    score: Score,
    levels: Sequence[float],
    sigma: float | None,
    asked: Asked,
    scored: Scored,
    verdict: Verdict,
) -> CurvatureMaps | None:
    """Maps of the flagged images, those with the highest scores where memory does not hold all; None: there is none.

    The verdict stands by then: which images are flagged, and every score and p-value, is as without maps.

    Args:
        held, baseline: the models, asked one after the other in the same directions.
        settings: ``maps`` directions for each image.
        score: what images were ranked by; of a detector κ₁ is mapped, given the prompt where it was told one.
        levels: noise levels to take the mean of.
        sigma: in their place, one level of the model.
        asked: images, key and surroundings of the audit.
        scored: the audited images.
        verdict: of them.
    """
    if not settings.maps or verdict.flagged is None or not verdict.flagged.any():
        return None
    told = asked.audited.prompts is not None
    kind = score if score != "detector" else "kappa_given" if told else "kappa"
    how = {"settings": settings, "key": named_key(asked.key, "maps"), "kind": kind, "keeps": baseline is not None}
    of = partial(Mapper, **how, levels=tuple(levels), sigma=sigma, n_images=int(verdict.flagged.sum()))
    mapper = of(held.subject)
    if not mapper.times:
        log.warning("  no curvature maps: the schedule has none of the noise levels")
        return None
    rows = _chosen(mapper, scored, verdict, asked.audited.source)
    if not rows.size:
        return None
    pictures = _pictures(asked.audited if kind in WITH_PROMPT else asked.without_prompts().audited, scored, rows)
    columns = score_all(mapper, pictures, None, key="maps", around=asked.around).columns
    about = {"levels": tuple(mapper.times), "n_directions": len(mapper.times) * mapper.n_samples}
    about |= {"nfe": len(mapper.times) * mapper.cost, "of_latents": mapper.subject.model.kind == "latents"}
    about |= {"image_shape": tuple(mapper.subject.model.image_shape[:2])}
    if baseline is not None:
        del mapper  # nothing may hold the first model while the second one is loaded
        held.release()
        columns = _beyond(columns, of(baseline.subject), pictures, asked.around)
        baseline.release()
    found, n_flagged = _finished(columns, rows), int(verdict.flagged.sum())
    others = "" if len(found[0]) == n_flagged else "; of the others memory holds none, or they are not finite"
    log.info("  curvature maps of %d of %d flagged images%s", len(found[0]), n_flagged, others)
    spent = float(columns["spent"].sum())
    return CurvatureMaps(*found, **about, n_flagged=n_flagged, spent=spent, of_difference=baseline is not None)


def _chosen(mapper: Mapper, scored: Scored, verdict: Verdict, source: Source) -> np.ndarray:
    """Places of the highest flagged images, as many as memory holds, that are still what they were; ascending."""
    held = len(mapper.times) * mapper.n_samples if mapper.keeps else 2
    most = max(1, min(MOST, NUMBERS // (held * int(np.prod(mapper.subject.model.shape[:2])))))
    highest = np.sort(verdict.order[verdict.flagged[verdict.order]][:most])
    index, digests = scored.columns[INDEX], scored.digests
    return np.asarray([row for row in highest.tolist() if _is_there(source, index[row], digests[row])], int)


def _is_there(source: Source, index: int, digest: np.uint64) -> bool:
    try:
        return digests_of([source.read(int(index))])[0] == digest
    except UnusableImage:
        return False


def _pictures(audited: Pictures, scored: Scored, rows: np.ndarray) -> Pictures:
    kept = scored.columns[INDEX][rows].tolist()
    prompts = None if audited.prompts is None else [audited.prompts[index] for index in kept]
    return Pictures(Subset(audited.source, kept, []), prompts)


def _beyond(columns: Columns, mapper: Mapper, pictures: Pictures, around: Surroundings) -> Columns:
    """The difference to the maps of a second model, of the images that both have seen."""
    other = score_all(mapper, pictures, None, key="baseline/maps", around=around).columns
    _, mine, theirs = np.intersect1d(columns[INDEX], other[INDEX], return_indices=True)
    same = columns[DIGEST][mine] == other[DIGEST][theirs]
    mine, theirs = mine[same], theirs[same]
    found = mapper.mapped(columns[UNITS][mine] - other[UNITS][theirs])
    return found | {INDEX: columns[INDEX][mine], "spent": columns["spent"][mine] + other["spent"][theirs]}


def _finished(columns: Columns, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, maps and standard errors, without those that are not finite."""
    value, stderr = columns[VALUE], columns[STDERR]
    good = (np.isfinite(value) & np.isfinite(stderr)).all(axis=(1, 2))
    return rows[columns[INDEX]][good], value[good], stderr[good]
