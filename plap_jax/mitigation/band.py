"""What κ₁ of a generation that is no copy looks like at each check, and from where on it does not: for the guard."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path

import jax
import numpy as np

from plap_jax._flux import flux
from plap_jax.diffusion import Diffusion, Schedule, noise_to_signal
from plap_jax.typing import Array, ArrayLike, require

FORMAT = "plap-jax band 2"
# 190/40 · 1/95 equals 0.05 on paper but differs in the last digit in floating point.
_ROUNDING = 1e-9
CHECKS = 3
SIGMA = {
    False: 0.32,
    True: 0.58,
}  # without and given the prompt: what served best of what was tried on trained networks


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Band:
    """Upper limits of κ₁ of x̂₀ at some nodes of a generation, from generations that are no copies.

    At each check k the ⌈(1 − level)(n + 1)⌉-th smallest of n values κ₁(x̂₀) at the same node (Vovk et al. 2005): of a
    further generation that is exchangeable with these, κ₁ exceeds it with probability at most ``level``, and at any of
    K checks with probability at most K · level. Copies among the n raise the limits and cost power, not validity.

    A generation that was caught is probably a copy, and of the ways on from it the first that is below the limit would
    often lie just below, near the copy still. It is let go below the quantile ``release`` instead.

    ``watching`` gives a band without limits, which a ``Guard`` measures and never acts on; ``fitted`` gives it limits.

    Args:
        checks: numbers of the nodes at which κ₁ is taken, increasing, the last one n_nodes − 1.
        n_nodes: of the walk they are nodes of: the steps of DDIM, or ``Guard.nodes``.
        sigma: the noise level of κ₁, σ of a variance-preserving schedule at the same σ/α, in (0, 1).
        n_directions: of κ₁, one evaluation each, ≥ 2; the same for all images and checks.
        seed: their randomness.
        given: κ₁ of the score given the prompt, for models that know no image without one; else without.
        unit: ``Pretrained.unit`` of a model of pixels in other units.
        limits: one for each check; infinite: none.
        inner: of a generation that was caught, one for each check, never above ``limits``; None: ``limits``.
        level, release: of each check, those of ``limits`` and of ``inner``; NaN while there are no limits.
        n_images: how many generations stand behind the limits.
        about: of which model, and what else matters, for whoever finds the file.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> band = Band.watching(n_nodes=50)
        >>> band.checks
        (45, 47, 49)
        >>> fewest_images(0.02)
        49
    """

    checks: tuple[int, ...] = field(metadata={"static": True})
    n_nodes: int = field(metadata={"static": True})
    sigma: float = field(metadata={"static": True})
    n_directions: int = field(metadata={"static": True})
    seed: int = field(metadata={"static": True})
    given: bool = field(metadata={"static": True})
    unit: float = field(metadata={"static": True})
    limits: tuple[ArrayLike, ...]
    inner: tuple[ArrayLike, ...] | None = None
    level: ArrayLike = math.nan
    release: ArrayLike = math.nan
    n_images: ArrayLike = 0
    about: str = field(default="", metadata={"static": True})

    def __post_init__(self) -> None:
        require(0 < self.sigma < 1, "sigma", self.sigma, "must lie in (0, 1)")
        many = isinstance(self.n_directions, Integral) and self.n_directions >= 2
        require(many, "n_directions", self.n_directions, "must be an integer >= 2")
        rising = all(a < b for a, b in zip(self.checks, self.checks[1:], strict=False))
        ends = bool(self.checks) and self.checks[0] >= 0 and self.checks[-1] == self.n_nodes - 1
        allowed = f"must be increasing nodes from 0 to {self.n_nodes - 1}, the last of them among these"
        require(rising and ends, "checks", self.checks, allowed)
        if self.inner is None:  # so that all bands are of one structure, and a guard compiles once
            object.__setattr__(self, "inner", self.limits)
        allowed = f"must hold a limit for each of {len(self.checks)} checks"
        for name in ("limits", "inner"):
            given = getattr(self, name)
            require(len(given) == len(self.checks), name, given, allowed)
        if all(isinstance(value, int | float) for value in (*self.limits, *self.inner)):
            below = all(inner <= limit for inner, limit in zip(self.inner, self.limits, strict=True))
            require(below, "inner", self.inner, f"must not be above limits, {self.limits}")

    @classmethod
    def watching(
        cls,
        *,
        n_nodes: int,
        n_checks: int | None = None,
        first: float = 0.9,
        sigma: float | None = None,
        n_directions: int = 4,
        seed: int = 0,
        given: bool = False,
        unit: float = 1.0,
    ) -> Band:
        """A band without limits.

        Args:
            n_nodes: of the generation, ≥ 2: the steps of DDIM, or ``Guard.nodes`` for other samplers.
            n_checks: K ≥ 1, as far apart as possible from the first to the last node; None: 3, or as many as there are
                nodes for them.
            first: where the first check is, as a share of the nodes, in (0, 1); one check is at the last node.
            sigma: as for ``Band``; None: 0.32, or 0.58 given the prompt.
            n_directions, seed, given, unit: as for ``Band``.

        Raises:
            ValueError: an argument out of range, or more checks than nodes for them.
        """
        require(isinstance(n_nodes, Integral) and n_nodes >= 2, "n_nodes", n_nodes, "must be an integer >= 2")
        require(0 < first < 1, "first", first, "must lie in (0, 1)")
        there = n_nodes - int(first * n_nodes)
        n_checks = min(CHECKS, there) if n_checks is None else n_checks
        require(isinstance(n_checks, Integral) and n_checks >= 1, "n_checks", n_checks, "must be an integer >= 1")
        places = np.linspace(first * n_nodes, n_nodes - 1, n_checks) if n_checks > 1 else [n_nodes - 1]
        checks = tuple(sorted({int(place) for place in np.floor(places)}))
        allowed = f"must be at most {there}, the nodes from first={first} on"
        require(len(checks) == n_checks, "n_checks", n_checks, allowed)
        sigma = SIGMA[bool(given)] if sigma is None else sigma
        how = {"sigma": sigma, "n_directions": n_directions, "seed": seed, "given": given, "unit": unit}
        return cls(checks=checks, n_nodes=n_nodes, limits=(math.inf,) * n_checks, **how)

    def fitted(self, kappas: ArrayLike, *, level: float, release: float | None = None, about: str = "") -> Band:
        """The same band with limits.

        Args:
            kappas: ``(n, K)``, the note ``kappa`` of generations that are no copies, by a ``Guard`` of this band.
            level: in (0, 1), the share of such generations that each check may take for copies.
            release: from ``level`` to below 1, the share that is above what a caught generation must come below; .5:
                κ₁ no larger than is usual; None: ``level``.
            about: of which model they are.

        Raises:
            ValueError: fewer images than the level needs, ⌈1/level⌉ − 1, values that are not finite, or of another
                number of checks, a release below the level.
        """
        kappas = np.asarray(kappas, np.float64)
        fits = kappas.ndim == 2 and kappas.shape[1] == len(self.checks)
        require(fits, "kappas", kappas.shape, f"must have shape (n, {len(self.checks)}), one value for each check")
        require(bool(np.isfinite(kappas).all()), "kappas", kappas, "must be finite")
        n, needed = len(kappas), fewest_images(level)
        allowed = f"needs at least {needed} generations that are no copies, and there are {n}"
        require(n >= needed, "level", level, allowed)
        release = level if release is None else release
        require(level <= release < 1, "release", release, f"must lie in [level, 1), and level is {level}")
        limits, inner = (_quantile(kappas, share) for share in (level, release))
        shares = {"level": float(level), "release": float(release)}
        return replace(self, limits=limits, inner=inner, n_images=n, about=about, **shares)

    @property
    def false_alarms(self) -> float:
        """At most this share of the generations that are no copies lies outside at any check: min(1, K · level)."""
        return min(1.0, len(self.checks) * float(self.level))

    def check_schedule(self, schedule: Schedule) -> None:
        """Refuse a schedule that does not reach the noise level.

        Raises:
            ValueError: naming ``sigma``.
        """
        with jax.ensure_compile_time_eval():
            reached = schedule.reaches(self.unit * noise_to_signal(self.sigma))
        require(reached, "sigma", self.sigma, f"must be a noise level that {schedule.name} reaches")

    def kappa(self, plain: Diffusion, x0: Array, condition: ArrayLike | None) -> Array:
        """κ₁ of x̂₀, a scalar; ``n_directions`` evaluations. ``plain``: the model without guidance."""
        with jax.ensure_compile_time_eval():
            t = plain.schedule.time_at_ratio(self.unit * noise_to_signal(self.sigma))
            key = jax.random.key(self.seed)
        centre, radius = plain.ball(x0, t)
        told = condition if self.given else None
        return flux(plain.score_at(t, told), centre, radius=radius, key=key, n_samples=self.n_directions).value

    def arrays(self) -> dict[str, np.ndarray]:
        """What stands in the file that ``load_band`` reads."""
        values = {one.name: np.asarray(getattr(self, one.name)) for one in fields(self)}
        return {"format": np.asarray(FORMAT)} | values

    def save(self, path: str | Path) -> None:
        """Write the band to an .npz, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp.npz")
        np.savez(temporary, **self.arrays())
        temporary.replace(path)


def _quantile(kappas: np.ndarray, share: float) -> tuple[float, ...]:
    """The ⌈(1 − share)(n + 1)⌉-th smallest of each column."""
    rank = math.ceil((1 - share) * (len(kappas) + 1) * (1 - _ROUNDING))
    return tuple(np.sort(kappas, axis=0)[rank - 1].tolist())


def fewest_images(level: float) -> int:
    """How many generations that are no copies a band of this level needs: ⌈1/level⌉ − 1.

    With fewer the quantile is above all of them, and no limit.

    Raises:
        ValueError: level outside (0, 1).
    """
    require(0 < level < 1, "level", level, "must lie in (0, 1)")
    return max(1, math.ceil(1 / level * (1 - _ROUNDING)) - 1)


def load_band(path: str | Path) -> Band:
    """Read what ``Band.save`` wrote.

    Raises:
        ValueError: no such file, or one that holds no band.
    """
    place = Path(path).expanduser()
    require(place.is_file(), "band", str(path), "must be an .npz that is there, as Band.save writes it")
    try:
        with np.load(place, allow_pickle=False) as stored:
            values = {name: stored[name].tolist() for name in stored.files}
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        tuples = {name: tuple(values.pop(name)) for name in ("checks", "limits", "inner")}
        return Band(**tuples, **values)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"band={str(path)!r}: must be an .npz as Band.save writes it, and is not ({error})") from error
