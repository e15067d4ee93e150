"""A method of mitigation with the strengths that an experiment tries."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jax.tree_util import Partial
from pydantic import Field, model_validator

from experiments.core.schema import Section, Target, checked_as
from plap_jax.diffusion import Diffusion, Schedule
from plap_jax.mitigation import Band, Guard, Mitigation
from plap_jax.mitigation.base import require_sampler
from plap_jax.mitigation.walk import n_nodes_of
from plap_jax.sampling import Sampler
from plap_jax.typing import Array, require

OF_BAND = ("level", "release")  # strengths of the guard that its band takes
Family = Literal["none", "ours", "published", "naive"]


class BandSettings(Section):
    """What the guard watches."""

    level: float = Field(gt=0, lt=1, description="share of generations that are no copies which each check may catch")
    n_checks: int = Field(ge=1, description="checks of the guard")
    first: float = Field(gt=0, lt=1, description="where the first check is, as a share of the steps")
    sigma: float = Field(gt=0, lt=1, description="noise level of κ₁, of a variance-preserving schedule")
    n_directions: int = Field(ge=2, description="of κ₁ at each check")
    given: bool = Field(description="κ₁ given the prompt")
    release: float | None = Field(
        gt=0, lt=1, description="share of these that is above what a caught one must come below; null: level"
    )

    def watching(self, n_nodes: int, seed: int) -> Band:
        """The band without limits."""
        how = {name: getattr(self, name) for name in ("n_checks", "first", "sigma", "n_directions", "given")}
        return Band.watching(n_nodes=n_nodes, seed=seed, **how)


@dataclass(frozen=True)
class Strength:
    """One strength of a method: ``values``, argument → value."""

    values: dict[str, Any]

    @property
    def label(self) -> str:
        """``restart=2 after=0``; empty where there is nothing to choose."""
        return " ".join(f"{name}={_short(value)}" for name, value in self.values.items())

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the method itself."""
        return {name: value for name, value in self.values.items() if name not in OF_BAND}


class Swept(Section):
    """One method and the strengths that are tried on the validation captions."""

    family: Family = Field(description="none (nothing is done), ours, published, naive")
    method: Target = Field(description="whose strength is swept")
    grid: dict[str, list[float | int | None]] = Field(
        description="argument → values, all combinations; level, release: a band's"
    )
    band: BandSettings | None = Field(default=None, description="of the guard alone")

    @model_validator(mode="after")
    def _holds_values(self) -> "Swept":
        for name, values in self.grid.items():
            distinct = len(values) >= 1 and len(set(values)) == len(values)
            require(distinct, f"grid.{name}", values, "must hold at least one value, none twice")
        allowed = "must be given for guard, and for no other method"
        require((self.band is not None) == self.is_guard, "band", self.band, allowed)
        for name in OF_BAND:
            require(
                self.is_guard or name not in self.grid, f"grid.{name}", self.grid.get(name), "is a strength of guard"
            )
        return self

    @property
    def is_guard(self) -> bool:
        """Whether it needs a band."""
        return self.method.spec["_target_"] == "plap_jax.mitigation.Guard"

    @property
    def strengths(self) -> list[Strength]:
        """Every combination, in the order of the grid."""
        return [
            Strength(dict(zip(self.grid, values, strict=True))) for values in itertools.product(*self.grid.values())
        ]

    def shares(self, strength: Strength) -> dict[str, float | None]:
        """``level`` and ``release`` of the band."""
        return {name: strength.values.get(name, getattr(self.band, name)) for name in OF_BAND}

    def make(self, sampler: Sampler, strength: Strength, band: Band | None = None) -> Mitigation:
        """The method at this strength."""
        return self.method.make(sampler, *(() if band is None else (band,)), **strength.arguments)

    def watching(self, sampler: Sampler, seed: int) -> Band | None:
        """A guard's band without limits."""
        if self.band is None:
            return None
        return self.band.watching(n_nodes_of(sampler, self.method.spec.get("nodes", 25)), seed)

    def check(self, key: str, sampler: Target, schedule: Schedule) -> None:
        """Refuses strengths out of range, and a sampler that the method does not take, before anything is computed.

        Raises:
            ValueError: the first that does not fit, under ``key``.
        """
        target = self.method.spec["_target_"]
        allowed = "must be one of conf/mitigation: guard, late_guidance, none, …"
        require(target.startswith("plap_jax.mitigation."), f"{key}.method", target, allowed)
        try:
            made_sampler = sampler.make()
        except ValueError:
            return  # refused by name
        try:
            band = self.watching(made_sampler, 0)
        except ValueError as error:
            raise ValueError(f"{key}.band.{error}") from error
        for strength in self.strengths:
            if self.is_guard:
                level, release = self.shares(strength).values()
                require(0 < level < 1, f"{key}.grid.level", level, "must lie in (0, 1)")
                fits = release is None or level <= release < 1
                require(fits, f"{key}.grid.release", release, f"must lie in [level, 1), and level is {level}")
            made = checked_as(f"{key}.grid", strength.values, self.make, made_sampler, strength, band)
            try:
                require_sampler(made_sampler, schedule)
                if isinstance(made, Guard):
                    made.check(Diffusion(Partial(_nothing), schedule), prompted=True)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error


def _nothing(x: Array, level: Array, condition: Array | None = None) -> Array:
    return jnp.zeros_like(x)


def _short(value: Any) -> str:
    return "null" if value is None else f"{value:g}"
