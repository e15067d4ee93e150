"""Scores at one noise level: κ₁ without and with the prompt, κ^Δ, or any detector, each with its standard error."""

from __future__ import annotations

import hashlib
import inspect
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import numpy as np

from plap_jax._flux import flux_units
from plap_jax.audit.evaluator import Columns, Evaluator, named_key
from plap_jax.audit.settings import NAMES, Score
from plap_jax.data import fingerprint
from plap_jax.detectors import Detector, Query
from plap_jax.detectors.base import gap_at
from plap_jax.diffusion import Diffusion
from plap_jax.directions import Directions, unit_size
from plap_jax.evidence import COST
from plap_jax.typing import Array, ArrayLike, PRNGKey, standard_error


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
class Scorer(Evaluator):
    """Scores images of one model at one noise level, all in the same directions.

    Attributes:
        sigma: the noise level; None for a detector that keeps its own.
        scores: those of κ to compute.
        detector: in their place; one that looks at one noise level is given ``sigma``.
    """

    sigma: float | None
    scores: tuple[Score, ...] = ("kappa",)
    detector: Detector | None = None

    def __post_init__(self) -> None:
        if self.detector is not None and self.sigma is not None and takes_level(self.detector):
            object.__setattr__(self, "detector", replace(self.detector, sigma=self.sigma))

    @property
    def how(self) -> Mapping[str, Any]:
        """All that the scores depend on beside images, prompts and code; JSON-able."""
        chosen = self.settings
        numbers = {"n_samples": chosen.n_samples, "directions": chosen.directions, "max_samples": chosen.max_samples}
        numbers |= {"target_stderr": chosen.target_stderr, "repeats": chosen.repeats, "sigma": self.sigma}
        return self.identity | numbers | {"scores": list(self.scores), "detector": described(self.detector)}

    @property
    def words(self) -> str:
        """What the score is."""
        return NAMES[self.scores[0]] if self.detector is None else f"detector {type(self.detector).__name__}"

    @property
    def cost(self) -> int:
        """A round of directions, or the detector's."""
        dim = int(np.prod(self.subject.model.shape))
        return self.settings.n_samples if self.detector is None else self.detector.nfe(dim)

    def columns(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> Columns:
        """For each score its name, ``…/stderr``, ``…/n_units``; ``nfe`` and ``spent``."""
        return (self._kappa if self.detector is None else self._of_detector)(model, points, numbers)

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
            found, filled = self.in_batches(one, *rows)
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

    def _of_detector(self, model: Diffusion, points: np.ndarray, numbers: np.ndarray | None) -> Columns:
        """The mean over ``repeats`` draws of a detector's randomness, and its standard error; 0 where it has none."""
        n, repeats, unit = len(points), self.settings.repeats, self._units[-1]
        rows = np.minimum(np.arange(-(-n // unit) * unit), n - 1)  # whole batches: compiled once
        keys = [named_key(self.key, f"audit/{i}") for i in range(repeats)]
        query = Query(points[rows], None if numbers is None else numbers[rows])
        values = self._within_memory(
            lambda sizes: np.stack([self.detector.scores(model, query, key=k, batch_size=sizes[0]) for k in keys])
        )[:, :n]
        nfe = np.full(n, repeats * self.detector.nfe(points[0].size))
        columns = {"detector": values.mean(axis=0), "detector/stderr": values.std(axis=0, ddof=1) / repeats**0.5}
        return columns | {"detector/n_units": np.full(n, repeats), "nfe": nfe, "spent": nfe * len(rows) / n}


def takes_level(detector: Detector) -> bool:
    """Whether the detector looks at one noise level, which an audit may set."""
    return getattr(detector, "sigma", None) is not None


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
