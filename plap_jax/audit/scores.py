"""κ₁ without and with the prompt, κ^Δ, or any detector: every image with its standard error."""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from plap_jax._flux import flux_units
from plap_jax.audit.prompts import Prompts
from plap_jax.audit.settings import AuditSettings, Score
from plap_jax.audit.subject import Subject
from plap_jax.data import fingerprint
from plap_jax.detectors import Detector, Query
from plap_jax.detectors.base import gap_at
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions, unit_size
from plap_jax.memory import evaluations_at_once
from plap_jax.parallel import map_points
from plap_jax.typing import Array, ArrayLike, Estimate, PRNGKey, require, standard_error

log = logging.getLogger(__name__)
Columns = dict[str, np.ndarray]
ENCODED = 8  # images that a VAE is given at a time
NAMES: dict[Score, str] = {
    "kappa": "κ₁ without a prompt",
    "kappa_given": "κ₁ given the prompt",
    "kappa_gap": "κ^Δ, the flux of what the prompt adds",
}
COST: dict[Score, int] = {"kappa": 1, "kappa_given": 1, "kappa_gap": 2}  # evaluations for a direction


def named_key(key: PRNGKey, name: str) -> PRNGKey:
    """A key for one purpose, independent between names."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Round:
    """Image, and its prompt where there is one ↦ (mean, standard error) of one round, by score; counts are static."""

    model: Diffusion
    t: ArrayLike
    key: PRNGKey
    scores: tuple[Score, ...] = field(metadata={"static": True})
    n_samples: int = field(metadata={"static": True})
    directions: Directions = field(metadata={"static": True})

    def __call__(self, image: Array, prompt: Array | None = None) -> dict[str, tuple[Array, Array]]:
        """All scores in the same directions."""
        centre, radius = self.model.ball(image, self.t)
        score_fns = {"kappa": lambda: self.model.score_at(self.t)}
        score_fns["kappa_given"] = lambda: self.model.score_at(self.t, prompt)
        score_fns["kappa_gap"] = lambda: gap_at(self.model, self.t, prompt)
        how = {"radius": radius, "p": 1.0, "n_samples": self.n_samples, "directions": self.directions}
        units = {name: flux_units(score_fns[name](), centre, key=self.key, **how)[0] for name in self.scores}
        return {name: (one.mean(), standard_error(one)) for name, one in units.items()}


@dataclass(frozen=True)
class Merged:
    """Rounds of n images merged as one sample; in float64.

    Attributes:
        units: independent units so far ``(n,)``.
        mean: of them ``(n,)``.
        squares: Σ (unit − mean)² ``(n,)``.
    """

    units: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @staticmethod
    def nothing(n: int) -> Merged:
        """Before the first round."""
        return Merged(np.zeros(n, int), np.zeros(n), np.zeros(n))

    @property
    def stderr(self) -> np.ndarray:
        """(sample standard deviation)/√m over the m units."""
        return np.sqrt(self.squares / (self.units * (self.units - 1.0)))

    def add(self, rows: np.ndarray, mean: np.ndarray, stderr: np.ndarray, m: int) -> None:
        """One round of m units for ``rows`` (Chan et al. 1983)."""
        before, apart = self.units[rows], mean.astype(np.float64) - self.mean[rows]
        self.units[rows] += m
        share = m / self.units[rows]
        self.mean[rows] += share * apart
        self.squares[rows] += stderr.astype(np.float64) ** 2 * (m * (m - 1.0)) + before * share * apart**2


@dataclass(frozen=True)
class Scorer:
    """Scores images of one model at one noise level, all in the same directions.

    Attributes:
        subject, settings: of the audit.
        sigma: the noise level; None for a detector that takes none.
        key: of the directions.
        scores: those of κ to compute.
        detector: in their place.
    """

    subject: Subject
    settings: AuditSettings
    sigma: float | None
    key: PRNGKey
    scores: tuple[Score, ...] = ("kappa",)
    detector: Detector | None = None

    @property
    def block(self) -> int:
        """Images that are scored together, half a batch at most: always the same ones, wherever chunks end."""
        return max(1, self._most // 2)

    def at(self, sigma: float | None) -> Scorer:
        """The same at a level; a detector that looks at one level is given this one."""
        follows = self.detector is not None and sigma is not None
        return replace(self, sigma=sigma, detector=replace(self.detector, sigma=sigma) if follows else self.detector)

    @property
    def how(self) -> Mapping[str, Any]:
        """All that the scores depend on beside images, prompts and code; JSON-able."""
        chosen = self.settings
        numbers = {"n_samples": chosen.n_samples, "directions": chosen.directions, "max_samples": chosen.max_samples}
        numbers |= {"target_stderr": chosen.target_stderr, "repeats": chosen.repeats, "sigma": self.sigma}
        numbers |= {"scores": list(self.scores), "detector": described(self.detector), "block": self.block}
        return {"model": self.subject.key, "key": np.asarray(jax.random.key_data(self.key)).tolist(), **numbers}

    def __call__(self, images: np.ndarray, prompts: Prompts) -> Columns:
        """Columns of n numbers: for each score its name, ``…/stderr``, ``…/n_units``; ``nfe`` and ``spent``.

        nfe are evaluations of the network for the image; spent also counts what filled up its batches.

        Args:
            images: ``(n, *image_shape)``.
            prompts: n of them, or None.
        """
        n, unit = len(images), self._units[-1]
        # Filled up to whole batches, so that nothing is compiled again; what comes of the filling is dropped.
        rows = np.minimum(np.arange(-(-n // unit) * unit), n - 1)
        encode = self.subject.model.encode
        points = self._within_memory(lambda sizes: encode(images[rows], batch_size=min(ENCODED, sizes[-1])))
        model, numbers = self._told(prompts and [prompts[row] for row in rows])
        if self.detector is None:
            return self._kappa(model, points[:n], None if numbers is None else numbers[:n])
        found = self._of_detector(model, points, numbers)
        columns = {"detector": found.value, "detector/stderr": found.stderr, "detector/n_units": found.n_units}
        columns |= {"nfe": found.nfe, "spent": found.nfe * len(rows) / n}
        return {name: np.asarray(column)[:n] for name, column in columns.items()}

    def one_round(self, images: np.ndarray, prompts: Prompts, name: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Score ``name`` from one round of directions, or the detector's, its standard error, and what it cost."""
        once = replace(self.settings, max_samples=self.settings.n_samples)
        columns = replace(self, settings=once, scores=(name,))(images, prompts)
        return columns[name], columns[f"{name}/stderr"], float(columns["spent"].sum())

    @property
    def _most(self) -> int:
        """Images at a time that the memory has room for."""
        dim = int(np.prod(self.subject.model.shape))
        cost = self.settings.n_samples if self.detector is None else self.detector.nfe(dim)
        return max(1, (self.settings.evaluations or evaluations_at_once(dim)) // max(1, cost))

    @cached_property
    def _units(self) -> list[int]:
        """Sizes of a batch: whole ones, and small ones for the images that are left; halved where memory runs out."""
        whole = min(self._most, 1 << (self.block - 1).bit_length())
        return [whole, max(1, whole // 8)]

    def _within_memory(self, compute: Callable[[tuple[int, int]], Any]) -> Any:
        """``compute(sizes of batches)``, with half as many images at a time while the device runs out of memory.

        Raises:
            ValueError: one image at a time is too much.
        """
        while True:
            try:
                return compute(tuple(self._units))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                whole = self._units[0]
                allowed = "not enough memory for one image at a time; give evaluations= and n_samples= below that"
                require(whole > 1, "evaluations", self.settings.evaluations or self.settings.n_samples, allowed)
                self._units[:] = [whole // 2, max(1, min(self._units[1], whole // 4))]
                log.warning("not enough memory for %d images at a time: going on with %d", whole, whole // 2)

    def _told(self, prompts: Prompts) -> tuple[Diffusion, np.ndarray | None]:
        """The model that knows these prompts, and their numbers."""
        if prompts is None:
            return self.subject.model.diffusion, None
        if not self.subject.takes_text:
            return self.subject.model.diffusion, np.asarray(prompts, np.int32)
        known = sorted(set(prompts))
        numbers = np.asarray([known.index(prompt) for prompt in prompts], np.int32)
        # A table of one size: compiled once.
        return self.subject.model.with_prompts(known, size=max(self.block, len(known))).diffusion, numbers

    def _kappa(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> Columns:
        """Round by round, each time the images that need another one."""
        chosen, n = self.settings, len(points)
        units = chosen.n_samples // unit_size(chosen.directions, chosen.n_samples, points[0].size)
        cost = chosen.n_samples * sum(COST[name] for name in self.scores)
        merged = {name: Merged.nothing(n) for name in self.scores}
        nfe, spent, left = np.zeros(n, int), np.zeros(n), np.arange(n)
        time = model.schedule.time_at(self.sigma)
        first = Round(model, time, self.key, self.scores, chosen.n_samples, chosen.directions)
        for i in range(-(-chosen.max_samples // chosen.n_samples)):
            one = replace(first, key=jax.random.fold_in(named_key(self.key, "audit"), i))
            columns = (points,) if numbers is None else (points, numbers)
            rows = tuple(column[left] for column in columns)
            found, filled = self._within_memory(lambda sizes, one=one, rows=rows: _in_batches(one, rows, sizes))
            nfe[left] += cost
            spent[left] += cost * filled
            for name, (mean, stderr) in found.items():
                merged[name].add(left, mean, stderr, units)
            above = np.stack([merged[name].stderr[left] > chosen.target_stderr for name in self.scores])
            left = left[above.any(axis=0)]
            if not left.size:
                break
        columns = {"nfe": nfe, "spent": spent}
        for name, one in merged.items():
            values = {name: one.mean, f"{name}/stderr": one.stderr}
            columns |= {key: value.astype(np.float32) for key, value in values.items()} | {f"{name}/n_units": one.units}
        return columns

    def _of_detector(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> Estimate:
        """The mean over ``repeats`` draws of a detector's randomness, and its standard error; 0 where it has none."""
        n = self.settings.repeats
        keys = [named_key(self.key, f"audit/{i}") for i in range(n)]
        query = Query(points, numbers)
        values = self._within_memory(
            lambda sizes: np.stack([self.detector.scores(model, query, key=k, batch_size=sizes[0]) for k in keys])
        )
        stderr = values.std(axis=0, ddof=1) / n**0.5
        nfe = np.full(len(points), n * self.detector.nfe(points[0].size))
        return Estimate(values.mean(axis=0), stderr, nfe, np.full(len(points), n))


def _in_batches(
    fn: Callable[..., Any], columns: tuple[np.ndarray, ...], sizes: tuple[int, int]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float]:
    """``fn`` of every row, in batches of two sizes, whatever their number, so that few are compiled.

    Returns:
        The results, and how many rows were computed for each that was asked.
    """
    n, (whole, small) = len(columns[0]), sizes
    cut = n // whole * whole
    parts, computed = [], 0
    for start, end, size in ((0, cut, whole), (cut, n, small)):
        if end > start:
            rows = np.minimum(np.arange(start, start + -(-(end - start) // size) * size), n - 1)
            found = map_points(fn, *(column[rows] for column in columns), batch_size=size)
            parts.append(jax.tree.map(lambda a, m=end - start: a[:m], found))
            # map_points rounds a batch up to the number of devices.
            computed += len(rows) // size * math.ceil(size / jax.device_count()) * jax.device_count()
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts), computed / n


def described(detector: Detector | None) -> Any:
    """What tells one detector from another, JSON-able: its class, its source and the values of its fields."""
    if detector is None:
        return None
    values = {one.name: getattr(detector, one.name) for one in fields(detector)}
    plain = (bool, int, float, str, type(None))
    told = {
        name: value if isinstance(value, plain) else fingerprint(np.asarray(value)) for name, value in values.items()
    }
    return [f"{type(detector).__module__}.{type(detector).__qualname__}", _source(type(detector)), told]


def _source(kind: type) -> str:
    """A hash of the class's module; where there is none, such as in a terminal, nothing is ever the same."""
    try:
        return hashlib.sha256(inspect.getsource(inspect.getmodule(kind)).encode()).hexdigest()
    except (OSError, TypeError):
        return uuid.uuid4().hex
